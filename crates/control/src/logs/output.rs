//! Writing lines to each kind of target without ever waiting long.
//!
//! Decides:  a descriptor gets whole lines, up to a pipe's worth at once; a target that is busy is
//!           waited for briefly once, then lines are kept (a descriptor's, up to a limit) or
//!           dropped until it takes some again; what an operator's descriptor does not take is told
//!           on standard error; a syslog socket that went away is connected
//!           again when it is back.
//! Kernel:   fs/pipe.c, pipe_poll() and pipe_write(): a pipe that polls writable takes PIPE_BUF
//!           bytes; net/unix/af_unix.c, unix_dgram_poll(), 6.1 to 6.18.
//! Not here: what a line says.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portcullis_proxy::log::{Format, Frame, Level, Moment, Zone};
use portcullis_proxy::record::{RecordKind, SessionRecord};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::Audience;
use super::plan::{Destination, LogPlan, Notices, Route, SessionLog};
use super::ring::Ring;

/// Bytes kept for a descriptor that does not take them.
const KEPT: usize = 64 * 1024;
/// Bytes written at once: what a pipe that polls writable takes without blocking.
const AT_ONCE: usize = 4_096;
/// How long a busy target is waited for, once.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often a lost syslog socket is looked for.
const RECONNECT: Duration = Duration::from_secs(1);
/// Standard error's number.
const STDERR: i32 = 2;

/// Every target of a plan, open.
#[derive(Debug)]
pub(super) struct Outputs {
    plan: LogPlan,
    pen: Pen,
    /// Lines lost by writers that are gone.
    dropped_before: u64,
}

/// What a line says.
#[derive(Clone, Copy)]
struct Said<'a> {
    text: &'a str,
    /// The session that it is about, for formats with fields.
    record: Option<&'a SessionRecord>,
}

/// Open targets; a handful, looked through in order.
type Writers = Vec<(Destination, Writer)>;

/// What writes lines, apart from the plan, which says where.
#[derive(Debug)]
struct Pen {
    writers: Writers,
    zone: Zone,
    pid: u32,
    line: Vec<u8>,
}

impl Outputs {
    /// Opens all; what cannot be reached yet is in the warnings.
    pub(super) fn open(plan: LogPlan, zone: Zone) -> io::Result<(Self, Vec<String>)> {
        let mut pen = Pen {
            writers: Vec::new(),
            zone,
            pid: std::process::id(),
            line: Vec::new(),
        };
        let (writers, warnings) = pen.writers_for(&plan)?;
        pen.writers = writers;
        let outputs = Self {
            plan,
            pen,
            dropped_before: 0,
        };
        Ok((outputs, warnings))
    }

    pub(super) fn replace(&mut self, plan: LogPlan) -> io::Result<Vec<String>> {
        self.flush();
        let (mut writers, warnings) = self.pen.writers_for(&plan)?;
        let wanted = wanted(&plan);
        for (to, writer) in std::mem::take(&mut self.pen.writers) {
            match wanted.contains(&to) {
                true => writers.push((to, writer)),
                false => self.dropped_before += writer.dropped() + writer.kept_lines(),
            }
        }
        (self.pen.writers, self.plan) = (writers, plan);
        Ok(warnings)
    }

    /// Writes a session's line, which `line` makes, to its frontend's targets; that it found no
    /// address towards its server goes to its backend's.
    pub(super) fn session(
        &mut self,
        record: &SessionRecord,
        at: Moment,
        line: impl FnOnce(&SessionLog, &Zone) -> (Level, String),
    ) {
        let Some(log) = self.plan.sessions.get_mut(&*record.frontend.name) else {
            return;
        };
        let (level, text) = line(log, &self.pen.zone);
        let said = Said {
            text: &text,
            record: Some(record),
        };
        let of_backend = match (&record.kind, &record.backend) {
            (RecordKind::NoAddress(_), Some(backend)) => self.plan.backends.get_mut(&*backend.name),
            _ => None,
        };
        let route = of_backend.unwrap_or(&mut log.route);
        self.pen.send(route, level, said, at);
    }

    /// Writes a message to its audience's targets, and to standard error where that is wanted.
    pub(super) fn message(&mut self, to: &Audience, level: Level, text: &str, at: Moment) {
        let plan = &mut self.plan;
        let own = match to {
            Audience::Global => None,
            Audience::Frontend(name) => plan.sessions.get_mut(name).map(|log| &mut log.route),
            Audience::Backend(name) => plan.backends.get_mut(name),
        };
        let route = own.unwrap_or(&mut plan.global);
        let said = Said { text, record: None };
        self.pen.send(route, level, said, at);
        if plan.notices == Notices::Stderr && level <= Level::Notice {
            let mut targets = route.targets.iter();
            if !targets.any(|target| self.pen.is_seen(&target.to)) {
                self.pen.notice(level, text);
            }
        }
    }

    /// Tells standard error alone, where messages go there.
    pub(super) fn last_words(&mut self, level: Level, text: &str) {
        if self.plan.notices == Notices::Stderr {
            self.pen.notice(level, text);
            self.flush();
        }
    }

    /// Shows what rings keep on standard error, where messages go there.
    pub(super) fn show_rings(&mut self) {
        if self.plan.notices != Notices::Stderr {
            return;
        }
        let mut shown = Vec::new();
        for (to, writer) in &self.pen.writers {
            if let (Destination::Ring(name), Writer::Ring(ring)) = (to, writer) {
                shown.push(format!("ring {name}: {}", ring.summary()));
                shown.extend(ring.lines().map(|line| format!("ring {name}: | {line}")));
            }
        }
        for line in shown {
            self.pen.notice(Level::Notice, &line);
        }
    }

    /// Gives descriptors what was gathered for them.
    pub(super) fn flush(&mut self) {
        for (_, writer) in &mut self.pen.writers {
            if let Writer::Stream(stream) = writer {
                stream.flush();
            }
        }
    }

    /// Flushes for the last time; what is not taken now is dropped.
    pub(super) fn close(&mut self) {
        for (_, writer) in &mut self.pen.writers {
            if let Writer::Stream(stream) = writer {
                stream.busy = false;
                stream.flush();
                stream.dropped += lines_in(&stream.kept);
                stream.kept.clear();
            }
        }
    }

    /// What a ring keeps.
    #[cfg(test)]
    pub(super) fn ring_lines(&self, name: &str) -> Vec<String> {
        let mut writers = self.pen.writers.iter();
        writers
            .find_map(|(to, writer)| match (to, writer) {
                (Destination::Ring(ring), Writer::Ring(lines)) if ring == name => {
                    Some(lines.lines().collect())
                }
                _ => None,
            })
            .unwrap_or_default()
    }

    /// Is a descriptor still to take lines?
    pub(super) fn unflushed(&self) -> bool {
        self.pen
            .writers
            .iter()
            .any(|(_, writer)| writer.kept_lines() > 0)
    }

    /// Lines that targets could not take.
    pub(super) fn dropped(&self) -> u64 {
        let writers = self.pen.writers.iter();
        self.dropped_before + writers.map(|(_, writer)| writer.dropped()).sum::<u64>()
    }
}

/// Every destination of a plan, once.
fn wanted(plan: &LogPlan) -> Vec<Destination> {
    let mut all: Vec<Destination> = plan
        .routes()
        .flat_map(|route| route.targets.iter().map(|target| target.to.clone()))
        .collect();
    if plan.notices == Notices::Stderr {
        all.push(Destination::Descriptor(STDERR));
    }
    all.sort();
    all.dedup();
    all
}

impl Pen {
    /// Writers for what `plan` names and is not open yet.
    fn writers_for(&self, plan: &LogPlan) -> io::Result<(Writers, Vec<String>)> {
        let mut writers = Vec::new();
        let mut warnings = Vec::new();
        for to in wanted(plan) {
            if self.writers.iter().any(|(open, _)| *open == to) {
                continue;
            }
            let writer = match &to {
                Destination::Ring(name) => {
                    let size = plan.rings.get(name).copied().unwrap_or_default();
                    Writer::Ring(Ring::new(size))
                }
                _ => Writer::open(&to, &mut warnings)?,
            };
            writers.push((to, writer));
        }
        Ok((writers, warnings))
    }

    fn send(&mut self, route: &mut Route, level: Level, said: Said<'_>, at: Moment) {
        for target in &mut route.targets {
            if level > target.max_level || !target.is_in_sample() {
                continue;
            }
            let frame = Frame {
                format: target.format,
                facility: target.facility,
                tag: &target.tag,
                pid: self.pid,
                hostname: target.hostname.as_deref(),
                max_length: target.max_length,
            };
            self.line.clear();
            let level = level.max(target.min_level);
            match said.record.filter(|_| target.format == Format::Json) {
                Some(record) => {
                    frame.write_json_session(level, at, &self.zone, record, &mut self.line);
                }
                None => frame.write_line(level, at, &self.zone, said.text, &mut self.line),
            }
            if let Some((_, writer)) = self.writers.iter_mut().find(|(open, _)| *open == target.to)
            {
                writer.write(&self.line);
            }
        }
    }

    /// Does the operator read what was just written there?
    fn is_seen(&mut self, to: &Destination) -> bool {
        if !matches!(to, Destination::Descriptor(1 | STDERR)) {
            return false;
        }
        let mut writers = self.writers.iter_mut();
        writers.any(|(open, writer)| match writer {
            Writer::Stream(stream) if open == to => stream.takes_lines(),
            _ => false,
        })
    }

    /// Tells standard error, as HAProxy's ha_alert() and ha_warning() do.
    fn notice(&mut self, level: Level, text: &str) {
        let word = match level {
            Level::Emergency => "[ALERT]",
            _ => "[WARNING]",
        };
        let line = format!("{word:<10} ({}) : {text}\n", self.pid);
        let stderr = Destination::Descriptor(STDERR);
        if let Some((_, writer)) = self.writers.iter_mut().find(|(open, _)| *open == stderr) {
            writer.write(line.as_bytes());
        }
    }
}

/// An open target.
#[derive(Debug)]
enum Writer {
    Stream(Stream),
    Udp(Udp),
    Unix(Unix),
    Ring(Ring),
}

impl Writer {
    fn open(to: &Destination, warnings: &mut Vec<String>) -> io::Result<Self> {
        match to {
            Destination::Descriptor(number) => {
                let descriptor = duplicate(*number).map_err(|error| {
                    let text = format!("cannot log to descriptor {number}: {error}");
                    io::Error::new(error.kind(), text)
                })?;
                Ok(Self::Stream(Stream::new(descriptor)))
            }
            Destination::Udp(address) => Udp::open(*address).map(Self::Udp),
            Destination::Unix(path) => {
                let mut unix = Unix::new(path.clone());
                if let Err(error) = unix.connect() {
                    let path = path.display();
                    warnings.push(format!("cannot log to {path} yet: {error}"));
                }
                Ok(Self::Unix(unix))
            }
            Destination::Ring(_) => Ok(Self::Ring(Ring::new(0))),
        }
    }

    fn write(&mut self, line: &[u8]) {
        match self {
            Self::Stream(stream) => stream.write(line),
            Self::Udp(udp) => udp.write(line),
            Self::Unix(unix) => unix.write(line),
            Self::Ring(ring) => ring.write(line),
        }
    }

    fn dropped(&self) -> u64 {
        match self {
            Self::Stream(it) => it.dropped,
            Self::Udp(it) => it.dropped,
            Self::Unix(it) => it.dropped,
            // What a ring overwrites was kept as long as it promised.
            Self::Ring(_) => 0,
        }
    }

    fn kept_lines(&self) -> u64 {
        match self {
            Self::Stream(it) => lines_in(&it.kept),
            Self::Udp(_) | Self::Unix(_) | Self::Ring(_) => 0,
        }
    }
}

fn lines_in(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}

/// A descriptor of our own for one that this process was given.
fn duplicate(number: i32) -> io::Result<OwnedFd> {
    let duplicate = match number {
        1 => rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?,
        STDERR => rustix::io::fcntl_dupfd_cloexec(io::stderr(), 3)?,
        _ => portcullis_sys::fd::duplicate_inherited(number)?.0,
    };
    Ok(duplicate)
}

/// Waits until `descriptor` can be written to.
fn writable_within(descriptor: BorrowedFd<'_>, time: Duration) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(descriptor, PollFlags::OUT)];
    let Ok(time) = Timespec::try_from(time) else {
        return false;
    };
    // An interrupted wait counts as a busy target; lines are kept or dropped as for any other.
    matches!(rustix::event::poll(&mut polled, Some(&time)), Ok(1..))
}

/// A descriptor: a terminal, a pipe, a file.
#[derive(Debug)]
struct Stream {
    descriptor: OwnedFd,
    /// Lines to write; the first may have been written in part.
    kept: Vec<u8>,
    /// The last write found it busy: do not wait again until it takes some.
    busy: bool,
    /// The last write failed.
    failed: bool,
    dropped: u64,
}

impl Stream {
    fn new(descriptor: OwnedFd) -> Self {
        Self {
            descriptor,
            kept: Vec::new(),
            busy: false,
            failed: false,
            dropped: 0,
        }
    }

    /// Was all written that it was given?
    fn takes_lines(&mut self) -> bool {
        self.flush();
        self.kept.is_empty() && !self.failed
    }

    fn write(&mut self, line: &[u8]) {
        if self.kept.len() + line.len() > AT_ONCE && !self.kept.is_empty() {
            self.flush();
        }
        if self.kept.len() + line.len() > KEPT {
            self.dropped += 1;
            return;
        }
        self.kept.extend_from_slice(line);
    }

    fn flush(&mut self) {
        while !self.kept.is_empty() {
            let patience = match self.busy {
                true => Duration::ZERO,
                false => PATIENCE,
            };
            if !writable_within(self.descriptor.as_fd(), patience) {
                self.busy = true;
                return;
            }
            let piece = &self.kept[..self.kept.len().min(AT_ONCE)];
            match rustix::io::write(&self.descriptor, piece) {
                Ok(written) => {
                    (self.busy, self.failed) = (false, false);
                    self.kept.drain(..written);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.busy = true;
                    return;
                }
                // A pipe without a reader, a full disk: this is lost, what comes later may not be.
                Err(_) => {
                    self.failed = true;
                    self.dropped += lines_in(&self.kept);
                    self.kept.clear();
                }
            }
        }
    }
}

/// Syslog over UDP.
#[derive(Debug)]
struct Udp {
    socket: UdpSocket,
    to: SocketAddr,
    dropped: u64,
}

impl Udp {
    fn open(to: SocketAddr) -> io::Result<Self> {
        let any = match to {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            to,
            dropped: 0,
        })
    }

    /// Not connected, so an unreachable receiver is no error of the next line.
    fn write(&mut self, line: &[u8]) {
        let mut sent = self.socket.send_to(line, self.to);
        if matches!(&sent, Err(error) if error.kind() == ErrorKind::WouldBlock)
            && writable_within(self.socket.as_fd(), PATIENCE)
        {
            sent = self.socket.send_to(line, self.to);
        }
        if sent.is_err() {
            self.dropped += 1;
        }
    }
}

/// A Unix datagram socket, like /dev/log.
#[derive(Debug)]
struct Unix {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// When it was last looked for.
    looked: Option<Instant>,
    /// The last line found its queue full: do not wait again until it takes one.
    busy: bool,
    dropped: u64,
}

impl Unix {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            socket: None,
            looked: None,
            busy: false,
            dropped: 0,
        }
    }

    fn connect(&mut self) -> io::Result<()> {
        self.looked = Some(Instant::now());
        self.socket = None;
        self.socket = Some(connected(&self.path)?);
        self.busy = false;
        Ok(())
    }

    fn write(&mut self, line: &[u8]) {
        if self.try_write(line).is_err() {
            self.dropped += 1;
        }
    }

    fn try_write(&mut self, line: &[u8]) -> io::Result<()> {
        let Some(socket) = &self.socket else {
            return self.write_after_connecting(line);
        };
        match socket.send(line) {
            Ok(_) => {
                self.busy = false;
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if self.busy || !writable_within(socket.as_fd(), PATIENCE) {
                    self.busy = true;
                    return Err(error);
                }
                socket.send(line).map(drop)
            }
            // Too long a line is the line's fault; anything else is the other end's.
            Err(error) if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => Err(error),
            Err(_) => {
                self.looked = None;
                self.write_after_connecting(line)
            }
        }
    }

    fn write_after_connecting(&mut self, line: &[u8]) -> io::Result<()> {
        if self.looked.is_some_and(|at| at.elapsed() < RECONNECT) {
            return Err(ErrorKind::NotConnected.into());
        }
        self.connect()?;
        match &self.socket {
            Some(socket) => socket.send(line).map(drop),
            None => Err(ErrorKind::NotConnected.into()),
        }
    }
}

fn connected(path: &Path) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect(path)?;
    Ok(socket)
}
