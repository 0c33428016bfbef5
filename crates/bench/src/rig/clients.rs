//! The clients: short connections, round trips, bulk receivers.
//!
//! Decides:  each client does one thing after the other, until told to stop; an operation counts only
//!           if every byte was right; bulk is counted whole and looked at now and then, since a
//!           receiver that copied everything would measure itself; who receives bulk asks for more
//!           while some is still on its way, so that one stream never runs dry.
//! Kernel:   tcp(7), MSG_TRUNC: what is received is thrown away without being copied.
//! Not here: the loop (rig.rs), how a workload is made of these (measure.rs).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
    sockopt,
};

use super::{Connection, Rig, Role, Service, now_ns};
use crate::pattern::{REQUEST, request};

/// One in so many reads of bulk is looked at.
const LOOK_EVERY: u32 = 64;
/// How long a client may take for what he began, after all should stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// With more mistakes than this nothing new is begun.
const MOST_ERRORS: u64 = 100;

/// A client.
#[derive(Debug)]
pub struct Client {
    service: Service,
    /// In the middle of an operation.
    pub(super) busy: bool,
    /// The request is written.
    asked: bool,
    sequence: u64,
    started_ns: u64,
    got: u64,
    /// Bytes of bulk that were asked for and did not come yet.
    owed: u64,
    /// Bytes of bulk received over all demands.
    offset: u64,
    reads: u32,
}

/// Until when what is begun anew.
#[derive(Debug, Clone, Copy, Default)]
pub struct Goal {
    /// Short connections: where to.
    short: Option<SocketAddr>,
    until_ns: u64,
    /// Bytes of one bulk demand.
    demand: u64,
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Wait for events.
    Wait,
    /// The operation is done, and the connection stays.
    Idle,
    /// The operation is done, and the connection is too.
    Close,
    /// Something was wrong.
    Wrong(&'static str),
}

impl Rig {
    /// Short connections, `at_once` at a time, for so long; all that begin come to an end.
    pub fn short(
        &mut self,
        to: SocketAddr,
        at_once: usize,
        duration: Duration,
    ) -> Result<(), Errno> {
        self.goal = Goal {
            short: Some(to),
            until_ns: now_ns() + duration.as_nanos() as u64,
            demand: 0,
        };
        for _ in 0..at_once {
            self.connect(to, Service::Short)?;
        }
        self.run_until(duration + PATIENCE, |rig| rig.busy == 0)
    }

    /// So many short connections, `at_once` at a time.
    pub fn short_count(&mut self, to: SocketAddr, at_once: usize, count: u64) -> Result<(), Errno> {
        self.goal = Goal::default();
        let mut begun = 0;
        while begun < count && self.mistakes() < MOST_ERRORS {
            while self.busy < at_once && begun < count {
                self.connect(to, Service::Short)?;
                begun += 1;
            }
            let busy = self.busy;
            self.run_until(PATIENCE, |rig| busy == 0 || rig.busy < busy)?;
        }
        self.run_until(PATIENCE, |rig| rig.busy == 0)
    }

    /// Opens connections, on each of which one round trip is made.
    pub fn open(&mut self, to: SocketAddr, service: Service, count: usize) -> Result<(), Errno> {
        const AT_ONCE: usize = 256;
        self.goal = Goal {
            demand: 1,
            ..Goal::default()
        };
        let all = self.clients + count;
        while self.clients < all && self.mistakes() < MOST_ERRORS {
            for _ in 0..AT_ONCE.min(all - self.clients) {
                self.connect(to, service)?;
            }
            self.run_until(PATIENCE, |rig| rig.busy == 0)?;
        }
        Ok(())
    }

    /// All open clients do what they do, one thing after the other, for so long. A bulk client's
    /// thing is `demand` bytes.
    pub fn run(&mut self, duration: Duration, demand: u64) -> Result<(), Errno> {
        self.goal = Goal {
            short: None,
            until_ns: now_ns() + duration.as_nanos() as u64,
            demand,
        };
        for index in 0..self.slots.len() as u32 {
            self.begin(index);
        }
        self.run_until(duration + PATIENCE, |rig| rig.busy == 0)
    }

    /// Closes all clients, and waits for the backend's side of them to end.
    pub fn close(&mut self) -> Result<(), Errno> {
        self.goal = Goal::default();
        for index in 0..self.slots.len() as u32 {
            let slot = &self.slots[index as usize];
            if matches!(
                &slot.connection,
                Some(Connection {
                    role: Role::Client(_),
                    ..
                })
            ) {
                self.remove(index);
            }
        }
        self.run_until(PATIENCE, |rig| rig.serving == 0)
    }

    fn mistakes(&self) -> u64 {
        self.tally.errors.values().sum()
    }

    fn connect(&mut self, to: SocketAddr, service: Service) -> Result<(), Errno> {
        let started_ns = now_ns();
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        if service != Service::Short {
            sockopt::set_tcp_nodelay(&fd, true)?;
        }
        match connect(&fd, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => {
                self.wrong(kind_of(error));
                return Ok(());
            }
        }
        self.sequence += 1;
        let mut client = Client {
            service,
            busy: true,
            asked: false,
            sequence: self.sequence,
            started_ns,
            got: 0,
            owed: 0,
            offset: 0,
            reads: 0,
        };
        // Over loopback the handshake is over already, unless the queue was full.
        let next = self.ask(&fd, &mut client);
        self.busy += 1;
        let index = self.insert(fd, Role::Client(client))?;
        self.follow(index, next);
        Ok(())
    }

    pub(super) fn client_event(&mut self, index: u32, flags: EventFlags) {
        let next = self.with_client(index, |rig, fd, client| {
            if !client.busy {
                let over = EventFlags::IN | EventFlags::RDHUP | EventFlags::ERR;
                return match flags.intersects(over) {
                    true => Next::Wrong("something came to an idle client"),
                    false => Next::Wait,
                };
            }
            if !client.asked {
                match rig.ask(fd, client) {
                    Next::Wait => {}
                    other => return other,
                }
            }
            match client.service {
                Service::Short => rig.short_answer(fd, client, flags),
                Service::Echo => rig.echo_answer(fd, client),
                Service::Bulk => rig.receive(fd, client),
            }
        });
        self.follow(index, next);
    }

    fn with_client(
        &mut self,
        index: u32,
        act: impl FnOnce(&mut Rig, &OwnedFd, &mut Client) -> Next,
    ) -> Next {
        let Some(Connection { fd, role }) = self.slots[index as usize].connection.take() else {
            return Next::Wait;
        };
        let (next, role) = match role {
            Role::Client(mut client) => (act(self, &fd, &mut client), Role::Client(client)),
            role => (Next::Wait, role),
        };
        self.slots[index as usize].connection = Some(Connection { fd, role });
        next
    }

    fn follow(&mut self, index: u32, next: Next) {
        match next {
            Next::Wait => {}
            Next::Idle => {
                self.set_idle(index);
                self.begin(index);
            }
            Next::Close => {
                self.remove(index);
                self.replace();
            }
            Next::Wrong(kind) => {
                self.wrong(kind);
                self.remove(index);
                self.replace();
            }
        }
    }

    /// The next short connection, in the place of one that ended.
    fn replace(&mut self) {
        let Some(to) = self.goal.short else {
            return;
        };
        if now_ns() < self.goal.until_ns
            && self.mistakes() < MOST_ERRORS
            && let Err(error) = self.connect(to, Service::Short)
        {
            self.wrong(kind_of(error));
        }
    }

    fn set_idle(&mut self, index: u32) {
        if let Some(Connection {
            role: Role::Client(client),
            ..
        }) = &mut self.slots[index as usize].connection
            && client.busy
        {
            client.busy = false;
            self.busy -= 1;
        }
    }

    /// The next round trip or demand of a client that has nothing to do.
    fn begin(&mut self, index: u32) {
        let now = now_ns();
        if now >= self.goal.until_ns {
            return;
        }
        let next = self.with_client(index, |rig, fd, client| {
            if client.busy {
                return Next::Wait;
            }
            rig.busy += 1;
            rig.sequence += 1;
            client.busy = true;
            client.asked = false;
            client.sequence = rig.sequence;
            client.started_ns = now;
            client.got = 0;
            rig.ask(fd, client)
        });
        self.follow(index, next);
    }

    /// Sends the request, or the demand.
    fn ask(&mut self, fd: &OwnedFd, client: &mut Client) -> Next {
        let sent = match client.service {
            Service::Short | Service::Echo => {
                send(fd, &request(client.sequence), SendFlags::NOSIGNAL).map(|n| n == REQUEST)
            }
            Service::Bulk => {
                send(fd, &self.goal.demand.to_ne_bytes(), SendFlags::NOSIGNAL).map(|n| n == 8)
            }
        };
        match sent {
            Ok(true) => {
                client.asked = true;
                client.owed += self.goal.demand;
                Next::Wait
            }
            Ok(false) => Next::Wrong("a short write of a request"),
            Err(Errno::AGAIN | Errno::NOTCONN) => Next::Wait,
            Err(error) => Next::Wrong(kind_of(error)),
        }
    }

    fn short_answer(&mut self, fd: &OwnedFd, client: &mut Client, flags: EventFlags) -> Next {
        loop {
            match recv(fd, &mut self.scratch[..4096], RecvFlags::empty()) {
                Ok((_, 0)) if client.got == REQUEST as u64 => return self.done(client),
                Ok((_, 0)) => return Next::Wrong("the end before the answer"),
                Ok((_, read)) => {
                    if !answers(client, &self.scratch[..read]) {
                        return Next::Wrong("wrong bytes");
                    }
                    // Nothing can follow what was read with the end known to be there.
                    if flags.contains(EventFlags::RDHUP) && client.got == REQUEST as u64 {
                        return self.done(client);
                    }
                    if read < 4096 && !flags.contains(EventFlags::RDHUP) {
                        return Next::Wait;
                    }
                }
                Err(Errno::AGAIN) => return Next::Wait,
                Err(error) => return Next::Wrong(kind_of(error)),
            }
        }
    }

    /// A short connection is over as it should be.
    fn done(&mut self, client: &Client) -> Next {
        self.count(client);
        Next::Close
    }

    fn count(&mut self, client: &Client) {
        self.tally.operations += 1;
        self.tally
            .latency
            .add(now_ns().saturating_sub(client.started_ns));
    }

    fn echo_answer(&mut self, fd: &OwnedFd, client: &mut Client) -> Next {
        match recv(fd, &mut self.scratch[..4096], RecvFlags::empty()) {
            Ok((_, 0)) => Next::Wrong("the end before the answer"),
            Ok((_, read)) => {
                if !answers(client, &self.scratch[..read]) {
                    return Next::Wrong("wrong bytes");
                }
                if client.got < REQUEST as u64 {
                    return Next::Wait;
                }
                self.count(client);
                Next::Idle
            }
            Err(Errno::AGAIN) => Next::Wait,
            Err(error) => Next::Wrong(kind_of(error)),
        }
    }

    fn receive(&mut self, fd: &OwnedFd, client: &mut Client) -> Next {
        loop {
            client.reads = client.reads.wrapping_add(1);
            let look = client.reads.is_multiple_of(LOOK_EVERY);
            let flags = if look {
                RecvFlags::empty()
            } else {
                RecvFlags::TRUNC
            };
            let wanted = self.scratch.len().min(client.owed as usize);
            let read = match recv(fd, &mut self.scratch[..wanted], flags) {
                Ok((_, 0)) => return Next::Wrong("the end before all was sent"),
                Ok((_, read)) => read,
                Err(Errno::AGAIN) => return Next::Wait,
                Err(error) => return Next::Wrong(kind_of(error)),
            };
            if look && !self.pattern.agrees(client.offset, &self.scratch[..read]) {
                return Next::Wrong("wrong bytes");
            }
            client.offset += read as u64;
            client.owed -= read as u64;
            self.tally.bytes += read as u64;
            let runs_dry = client.owed <= self.goal.demand / 2;
            if runs_dry
                && now_ns() < self.goal.until_ns
                && let wrong @ Next::Wrong(_) = self.ask(fd, client)
            {
                return wrong;
            }
            if client.owed == 0 {
                return Next::Idle;
            }
        }
    }
}

/// Are these the next bytes of the answer?
fn answers(client: &mut Client, bytes: &[u8]) -> bool {
    let got = client.got as usize;
    let expected = request(client.sequence);
    client.got += bytes.len() as u64;
    expected.get(got..got + bytes.len()) == Some(bytes)
}

fn kind_of(error: Errno) -> &'static str {
    match error {
        Errno::CONNREFUSED => "connection refused",
        Errno::CONNRESET => "connection reset",
        Errno::PIPE => "connection closed",
        Errno::TIMEDOUT => "connection timed out",
        Errno::ADDRNOTAVAIL => "no free port",
        Errno::MFILE | Errno::NFILE => "no free descriptor",
        _ => "another error",
    }
}
