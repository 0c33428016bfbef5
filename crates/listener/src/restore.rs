//! What a socket was before an opening touched it, so that a refused one leaves it as it was.
//!
//! Decides:  what is remembered of a socket that another process may still serve from, and that it is put back
//!           unless the whole set opened.
//! Kernel:   net/core/sock.c and net/ipv4/tcp.c: what getsockopt tells in LISTEN; tcp_get_info(): there
//!           `tcpi_sacked` is the backlog; net/ipv4/af_inet.c, inet_shutdown(): a listener that is shut
//!           down for reading is bound as before `listen`; 6.1 to 6.18
//! Not here: which options are touched (adopt.rs, adjust.rs); the group's program, which is taken off last of all
//!           (set.rs).

use std::os::fd::{AsFd, OwnedFd};

use portcullis_sockopt::{self as sockopt, SockOpt};
use portcullis_sys::sockopt::{
    accept_queue, congestion, get_int, linger, set_congestion, set_int, set_linger,
};
use rustix::fs::{OFlags, fchown, fcntl_getfl, fcntl_setfl, fstat};
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{Shutdown, listen, shutdown};

use crate::{options, unix};

/// Those that are one number, and that an opening sets on a socket that it takes.
const NUMBERS: [&SockOpt; 8] = [
    &sockopt::SO_REUSEPORT,
    &sockopt::TCP_MAXSEG,
    &sockopt::TCP_DEFER_ACCEPT,
    &sockopt::TCP_FASTOPEN,
    &sockopt::TCP_USER_TIMEOUT,
    &sockopt::TCP_NODELAY,
    &sockopt::SO_INCOMING_CPU,
    &sockopt::TCP_QUICKACK,
];
/// What `TCP_MAXSEG` tells of a listener on which it was never set (`TCP_MSS_DEFAULT`); 0 takes it back.
const NO_MSS: i32 = 536;

/// A socket that somebody else may hold too, and how it was. Dropped without [`Touched::keep`], it is so again.
#[derive(Debug)]
pub(crate) struct Touched {
    fd: Option<OwnedFd>,
    flags: OFlags,
    owner: u32,
    listens: bool,
    /// Of TCP; a Unix socket tells none.
    backlog: Option<u32>,
    numbers: Vec<(&'static SockOpt, i32)>,
    /// Seconds, where there is one.
    linger: Option<u16>,
    congestion: Option<String>,
}

impl Touched {
    /// Remembers. It costs a descriptor until it is dropped or kept.
    pub(crate) fn of(socket: impl AsFd) -> rustix::io::Result<Touched> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&socket, 0)?;
        let listens = socket_acceptconn(&fd)?;
        let queue = accept_queue(&fd).ok().flatten();
        let number = |option: &'static SockOpt| {
            let value = get_int(&fd, option.level.number(), option.number).ok()?;
            let unset = option.name == sockopt::TCP_MAXSEG.name && value == NO_MSS;
            Some((option, if unset { 0 } else { value }))
        };
        let seconds = linger(&fd).ok().flatten();
        Ok(Touched {
            flags: fcntl_getfl(&fd)?,
            owner: fstat(&fd)?.st_uid,
            listens,
            backlog: queue.map(|queue| queue.limit),
            numbers: NUMBERS.into_iter().filter_map(number).collect(),
            linger: seconds.and_then(|seconds| u16::try_from(seconds).ok()),
            congestion: congestion(&fd).ok(),
            fd: Some(fd),
        })
    }

    /// The opening has succeeded.
    pub(crate) fn keep(mut self) {
        self.fd = None;
    }

    /// What was not changed is left alone. What is refused now is the least of what went wrong.
    fn put_back(&self, fd: &OwnedFd) {
        if !self.listens && socket_acceptconn(fd).unwrap_or(false) {
            let _ = shutdown(fd, Shutdown::Read);
        }
        for &(option, value) in &self.numbers {
            let (level, number) = (option.level.number(), option.number);
            let now = get_int(fd, level, number).ok();
            if now != Some(value) {
                let _ = set_int(fd, level, number, value);
            }
        }
        let seconds = linger(fd).ok().flatten();
        if seconds != self.linger.map(i32::from) {
            let _ = set_linger(fd, self.linger);
        }
        if let Some(name) = &self.congestion
            && congestion(fd).ok().as_ref() != Some(name)
        {
            let _ = set_congestion(fd, name);
        }
        let now = accept_queue(fd).ok().flatten().map(|queue| queue.limit);
        if let Some(backlog) = self.backlog.filter(|_| now != self.backlog) {
            let _ = listen(fd, options::to_int(backlog));
        }
        if fstat(fd).is_ok_and(|now| now.st_uid != self.owner)
            && let Ok(user) = unix::user(self.owner)
        {
            let _ = fchown(fd, Some(user), None);
        }
        if fcntl_getfl(fd).is_ok_and(|now| now != self.flags) {
            let _ = fcntl_setfl(fd, self.flags);
        }
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        if let Some(fd) = self.fd.take() {
            self.put_back(&fd);
        }
    }
}
