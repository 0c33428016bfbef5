//! Sockets that were handed in, and which of them a specification takes in place of a new one.
//!
//! Decides:  what makes a socket the one that a specification would open: family, protocol, address,
//!           network namespace, device, `IPV6_V6ONLY` where it matters, transparency; all of them,
//!           since one that closes here may be the last descriptor of a queue. What its last holder
//!           says of it is only used for what a socket cannot tell: its name, its options, its file.
//! Source:   HAProxy 3.5-dev5, src/sock.c, sock_find_compatible_fd(), which takes one for each address
//!           and leaves the old options.
//! Kernel:   net/core/sock.c, sk_getsockopt(), `SO_NETNS_COOKIE`, 5.14 to 6.18; net/unix/af_unix.c:
//!           getsockname() tells the name that was bound, whatever it was renamed to
//! Not here: how a socket gets here (handover.rs), the options (adjust.rs), the rest (set.rs).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_sockopt::{self as sockopt, SockOpt};
use portcullis_sys::sockopt::{device, get_int, netns_cookie, set_int};
use rustix::fs::fchown;
use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{AddressFamily, SocketFlags, SocketType, listen, socket_with};

use crate::address::{LocalAddress, abstract_address};
use crate::error::{Cause, OpenError, Report};
use crate::inherited::{self, InheritedFault};
use crate::listener::{Listener, ListenerFacts, SocketFile};
use crate::open::{OpenSocket, Source, Which};
use crate::options::{self, Kind};
use crate::restore::Touched;
use crate::spec::{Address, Foreign, Ipv6Only, ListenerSpec};
use crate::step::{Step, Strict};
use crate::{adjust, netns, unix};

const IPPROTO_MPTCP: i32 = 262;

/// What the last holder of a socket says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The specification that it was opened by.
    pub spec: ListenerSpec,
    /// What else is known.
    pub facts: ListenerFacts,
    /// Are its options those of `spec` still?
    pub options: Options,
}

/// What is known of the options of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Options {
    /// They are those of its specification.
    AsSpecified,
    /// Somebody may have changed them: every one is set or taken back.
    Unknown,
}

/// Sockets that may be taken in place of new ones. Clones share them.
///
/// Whoever opens with a pool ([`crate::OpenContext::pool`]) gets the sockets of it that fit, with the options of
/// the specification; [`Pool::close_rest`] lets go of the others. Nothing here is ever shut down: other
/// processes may hold the same sockets, and go on.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    candidates: Arc<Mutex<Vec<Candidate>>>,
}

#[derive(Debug)]
struct Candidate {
    fd: OwnedFd,
    found: Found,
    known: Option<Known>,
}

/// What a socket tells about itself.
#[derive(Debug)]
struct Found {
    kind: Kind,
    mptcp: bool,
    local: LocalAddress,
    namespace: u64,
    device: String,
    v6_only: bool,
    transparent: bool,
    freebind: bool,
}

impl Found {
    fn of(fd: BorrowedFd<'_>) -> Result<Found, InheritedFault> {
        let checked = inherited::check(fd)?;
        let fault = |errno: Errno| InheritedFault::Errno(errno.raw_os_error());
        let read = |option: &SockOpt| get_int(fd, option.level.number(), option.number);
        let is_on = |option| read(option).is_ok_and(|value| value != 0);
        let inet = checked.kind != Kind::Unix;
        Ok(Found {
            mptcp: inet && read(&sockopt::SO_PROTOCOL).map_err(fault)? == IPPROTO_MPTCP,
            namespace: netns_cookie(fd).map_err(fault)?,
            device: match inet {
                true => device(fd).map_err(fault)?,
                false => String::new(),
            },
            v6_only: checked.kind == Kind::V6 && is_on(&sockopt::IPV6_V6ONLY),
            // Those of IPv6 are the same bits.
            transparent: inet && is_on(&sockopt::IP_TRANSPARENT),
            freebind: inet && is_on(&sockopt::IP_FREEBIND),
            kind: checked.kind,
            local: checked.local,
        })
    }
}

impl Pool {
    /// One more socket. Its place in the order of a `SO_REUSEPORT` group is kept: those that were given first
    /// become the first shards.
    ///
    /// # Errors
    ///
    /// Where it is none that could listen; it is closed, which ends nothing that somebody else holds.
    pub fn give(&self, fd: OwnedFd, known: Option<Known>) -> Result<(), InheritedFault> {
        let found = Found::of(fd.as_fd())?;
        self.lock().push(Candidate { fd, found, known });
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Closes what nobody took, and tells the addresses.
    pub fn close_rest(&self) -> Vec<LocalAddress> {
        let rest = std::mem::take(&mut *self.lock());
        rest.into_iter().map(|one| one.found.local).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Candidate>> {
        self.candidates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what fits: that of the same name, where there is one, else all.
    fn take(&self, name: &str, fits: impl Fn(&Candidate) -> bool) -> Vec<Candidate> {
        let mut all = self.lock();
        let of_name = |one: &Candidate| one.known.as_ref().is_some_and(|it| it.spec.name == name);
        let named = all.iter().any(|one| of_name(one) && fits(one));
        all.extract_if(.., |one| fits(one) && (!named || of_name(one)))
            .collect()
    }
}

/// What a socket must be to stand for a specification.
#[derive(Debug)]
struct Wanted<'a> {
    spec: &'a ListenerSpec,
    place: Place<'a>,
    namespace: u64,
    /// What `IPV6_V6ONLY` is to be; `None` where it makes no difference.
    v6_only: Option<bool>,
}

#[derive(Debug)]
enum Place<'a> {
    Inet { mptcp: bool, local: LocalAddress },
    Path(&'a Path),
    Abstract(LocalAddress),
}

impl<'a> Wanted<'a> {
    /// `None` where nothing can fit, or cannot be told: then a new socket is opened, or says why not.
    fn of(spec: &'a ListenerSpec, source: &Source<'a>) -> Option<Wanted<'a>> {
        let (place, family) = match source {
            Source::Tcp(address) | Source::Mptcp(address) => {
                let place = Place::Inet {
                    mptcp: matches!(source, Source::Mptcp(_)),
                    local: LocalAddress::Inet(*address),
                };
                let family = match address.is_ipv4() {
                    true => AddressFamily::INET,
                    false => AddressFamily::INET6,
                };
                (place, family)
            }
            Source::UnixPath(path) => (Place::Path(path), AddressFamily::UNIX),
            Source::UnixAbstract(_) => {
                let Address::UnixAbstract { name, form } = &spec.address else {
                    return None;
                };
                let address = abstract_address(name, *form).ok()?;
                let name = address.abstract_name()?.to_vec();
                let place = Place::Abstract(LocalAddress::UnixAbstract(name));
                (place, AddressFamily::UNIX)
            }
            Source::Inherited(_) => return None,
        };
        let (namespace, default_only) = in_namespace(spec, family)?;
        let matters = match &place {
            Place::Inet { local, .. } => local
                .inet()
                .is_some_and(|it| it.is_ipv6() && it.ip().is_unspecified()),
            _ => false,
        };
        let only = match spec.ipv6_only {
            Some(wanted) => wanted == Ipv6Only::On,
            None => default_only,
        };
        Some(Wanted {
            spec,
            place,
            namespace,
            v6_only: matters.then_some(only),
        })
    }

    fn fits(&self, one: &Candidate) -> bool {
        let found = &one.found;
        let here = match &self.place {
            Place::Inet { mptcp, local } => {
                found.mptcp == *mptcp
                    && self.is_at(local, one)
                    && found.device == self.spec.interface.as_deref().unwrap_or_default()
                    && self.v6_only.is_none_or(|only| only == found.v6_only)
                    && self.is_as_foreign(found)
            }
            Place::Path(path) => self.has_file(path, one).is_some(),
            Place::Abstract(local) => found.local == *local,
        };
        here && found.namespace == self.namespace
    }

    /// Port 0 is any port, of the listener of the same name.
    fn is_at(&self, local: &LocalAddress, one: &Candidate) -> bool {
        if local.inet().is_some_and(|wanted| wanted.port() != 0) {
            return one.found.local == *local;
        }
        let known = one.known.as_ref().map(|known| &known.spec);
        known.is_some_and(|it| it.address == self.spec.address && it.name == self.spec.name)
    }

    fn is_as_foreign(&self, found: &Found) -> bool {
        match self.spec.foreign {
            None => !found.transparent && !found.freebind,
            Some(Foreign::Transparent) => found.transparent,
            Some(Foreign::Freebind) => found.freebind,
            Some(Foreign::TransparentOrFreebind) => found.transparent || found.freebind,
        }
    }

    /// The file at the path, where it leads to this socket as far as anybody can tell.
    fn has_file(&self, path: &Path, one: &Candidate) -> Option<SocketFile> {
        let file = unix::file_at(path)?;
        match &one.known {
            Some(known) => {
                let same = known.facts.socket_file.as_ref() == Some(&file);
                (same && known.spec.unix_permissions == self.spec.unix_permissions).then_some(file)
            }
            // The name that it was bound to before it was renamed, as HAProxy and we make it.
            None => match &one.found.local {
                LocalAddress::UnixPath(bound) if without_suffix(bound) == path => Some(file),
                _ => None,
            },
        }
    }
}

/// The namespace in which a socket of the specification would be, by its cookie, and what `IPV6_V6ONLY` would be
/// there.
fn in_namespace(spec: &ListenerSpec, family: AddressFamily) -> Option<(u64, bool)> {
    let make = move || {
        let probe = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()?;
        let option = &sockopt::IPV6_V6ONLY;
        let only = family == AddressFamily::INET6
            && get_int(&probe, option.level.number(), option.number).ok()? != 0;
        Some((netns_cookie(&probe).ok()?, only))
    };
    match &spec.network_namespace {
        None => make(),
        Some(name) => netns::inside(name, make).ok()?,
    }
}

/// `path.PID.tmp` as `path`; anything else as it is.
fn without_suffix(bound: &Path) -> PathBuf {
    let stripped = || {
        let rest = bound.as_os_str().as_bytes().strip_suffix(b".tmp")?;
        let dot = rest.iter().rposition(|&byte| byte == b'.')?;
        let number = &rest[dot + 1..];
        let is_pid = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
        is_pid.then(|| PathBuf::from(std::ffi::OsStr::from_bytes(&rest[..dot])))
    };
    stripped().unwrap_or_else(|| bound.to_owned())
}

/// The sockets of the pool that the specification takes, opened as far as they have to be.
pub(crate) fn adopt(
    spec: &ListenerSpec,
    index: usize,
    source: &Source<'_>,
    pool: &Pool,
) -> Result<Vec<OpenSocket>, OpenError> {
    if pool.is_empty() {
        return Ok(Vec::new());
    }
    let Some(wanted) = Wanted::of(spec, source) else {
        return Ok(Vec::new());
    };
    let taken = pool.take(&spec.name, |one| wanted.fits(one));
    let files = taken.iter().map(|one| match &wanted.place {
        Place::Path(path) => wanted.has_file(path, one),
        _ => None,
    });
    let files: Vec<Option<SocketFile>> = files.collect();
    all(spec, index, taken.into_iter().zip(files))
}

/// Those that the last holder had as this very `fd@N`, or by this name from systemd.
pub(crate) fn adopt_declared(
    spec: &ListenerSpec,
    index: usize,
    pool: &Pool,
) -> Result<Vec<OpenSocket>, OpenError> {
    let same = |one: &Candidate| {
        let known = one.known.as_ref();
        known.is_some_and(|known| known.spec.address == spec.address)
    };
    let taken = pool.take(&spec.name, same);
    all(spec, index, taken.into_iter().map(|one| (one, None)))
}

fn all(
    spec: &ListenerSpec,
    index: usize,
    taken: impl Iterator<Item = (Candidate, Option<SocketFile>)>,
) -> Result<Vec<OpenSocket>, OpenError> {
    let numbered = taken.enumerate().map(|(shard, (one, file))| {
        let shard = u16::try_from(shard).unwrap_or(u16::MAX);
        one.becomes(Which { spec, index, shard }, file)
    });
    numbered.collect()
}

impl Candidate {
    /// The listener that the specification means.
    fn becomes(self, which: Which<'_>, file: Option<SocketFile>) -> Result<OpenSocket, OpenError> {
        let Which { spec, index, shard } = which;
        let Candidate { fd, found, known } = self;
        let mut reports = Vec::new();
        let fail = |step, cause: Cause, reports| {
            let mut report = Report::new(spec, index, step, cause);
            report.local = Some(found.local.clone());
            report.shard = shard;
            OpenError::new(report, reports)
        };
        let touched = Touched::of(&fd);
        let touched = touched.map_err(|errno| fail(Step::Create, errno.into(), Vec::new()))?;
        let steps = [
            (
                Step::NonBlocking,
                inherited::add_non_blocking(fd.as_fd()).map_err(Cause::from),
            ),
            (Step::Owner, give_to_owner(&fd, spec, found.kind)),
            (Step::ReusePort, shares(&fd, spec, found.kind)),
            (Step::Listen, listens(&fd, spec)),
        ];
        for (step, done) in steps {
            let Err(cause) = done else { continue };
            if step.closes(Strict::from(spec.strict)) {
                return Err(fail(step, cause, reports));
            }
            reports.push(Report::new(spec, index, step, cause));
        }
        let adjusted = match &known {
            Some(known) if known.options == Options::AsSpecified => {
                adjust::adjust(&fd, shard, &known.spec, spec, index)
            }
            _ => adjust::enforce(&fd, shard, spec, index),
        };
        reports.extend(adjusted?);
        let local = match &file {
            Some(file) => LocalAddress::UnixPath(file.path.clone()),
            None => found.local,
        };
        let facts = ListenerFacts {
            listens: true,
            spec: index,
            name: spec.name.clone(),
            local,
            shard,
            shards: 1,
            inherited: known.as_ref().and_then(|known| known.facts.inherited),
            socket_file: file,
            adopted: true,
            place: known.as_ref().and_then(|known| known.facts.place),
            in_order: known.is_some_and(|known| known.facts.in_order),
        };
        Ok(OpenSocket {
            listener: Listener::new(fd, facts),
            beside: None,
            touched: Some(touched),
            reports,
        })
    }
}

fn give_to_owner(fd: &OwnedFd, spec: &ListenerSpec, kind: Kind) -> Result<(), Cause> {
    let Some(uid) = spec.owner_uid.filter(|_| kind != Kind::Unix) else {
        return Ok(());
    };
    // Whose it is shows in its inode; the one who gives may be another user than the one who has it.
    if rustix::fs::fstat(fd).map_err(Cause::from)?.st_uid == uid {
        return Ok(());
    }
    let given = unix::user(uid).and_then(|user| fchown(fd, Some(user), None));
    given.map_err(Cause::from)
}

/// One that was opened without it lets no sibling in beside it.
fn shares(fd: &OwnedFd, spec: &ListenerSpec, kind: Kind) -> Result<(), Cause> {
    let by_us = !matches!(spec.address, Address::Inherited(_) | Address::Activated(_));
    if kind == Kind::Unix || !spec.reuse_port || !by_us {
        return Ok(());
    }
    let option = &sockopt::SO_REUSEPORT;
    set_int(fd, option.level.number(), option.number, 1).map_err(Cause::from)
}

fn listens(fd: &OwnedFd, spec: &ListenerSpec) -> Result<(), Cause> {
    match socket_acceptconn(fd) {
        Ok(true) => Ok(()),
        _ => listen(fd, options::to_int(options::backlog(spec))).map_err(Cause::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_beside_a_path_leads_to_the_path() {
        for (bound, path) in [
            ("/run/x.sock.123.tmp", "/run/x.sock"),
            ("/run/x.sock", "/run/x.sock"),
            ("/run/x.tmp", "/run/x.tmp"),
            ("/run/x.a.tmp", "/run/x.a.tmp"),
            ("/run/x..tmp", "/run/x..tmp"),
        ] {
            assert_eq!(without_suffix(Path::new(bound)), Path::new(path), "{bound}");
        }
    }
}
