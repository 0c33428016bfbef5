//! The backend: three services on three ports.
//!
//! Decides:  a connection is accepted and read at once, since its first bytes are mostly there; a
//!           source sends so much in one turn and then lets others have theirs.
//! Not here: the loop (rig.rs), what a client makes of the answers (clients.rs).

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};

use super::{Connection, PACE_NS, Rig, Role, Service, now_ns};
use crate::pattern::{PIECE, REQUEST};

/// Connections accepted in one turn.
const ACCEPTS: usize = 64;
/// Bytes that a source sends in one turn.
const SOURCE_QUOTA: u64 = 1 << 20;
/// A paced source that could not send saves up no more than so many shares.
const SAVED_SHARES: u64 = 8;

/// A connection of the backend.
#[derive(Debug)]
pub struct Serving {
    service: Service,
    /// Bytes sent back, of a short service; 0 to 8 bytes of the demand, of a source.
    got: usize,
    demand: [u8; 8],
    /// Bytes that a source still owes.
    owed: u64,
    /// Bytes that it sent.
    offset: u64,
    /// Bytes that it may send now, if it is paced.
    allowance: u64,
    /// The socket took less than it was offered.
    full: bool,
    queued: bool,
}

impl Serving {
    fn new(service: Service) -> Serving {
        Serving {
            service,
            got: 0,
            demand: [0; 8],
            owed: 0,
            offset: 0,
            allowance: 0,
            full: false,
            queued: false,
        }
    }
}

impl Rig {
    /// Takes what waits at a listener.
    pub(super) fn accept(&mut self, listener: usize) -> Result<(), Errno> {
        for _ in 0..ACCEPTS {
            let (service, socket) = &self.listeners[listener];
            let service = *service;
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let fd = match accept_with(socket, flags) {
                Ok(fd) => fd,
                Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => return Ok(()),
                Err(error) => return Err(error),
            };
            // A short connection is mostly served whole at once, and never watched.
            let mut serving = Serving::new(service);
            if service == Service::Short && self.answer(&fd, &mut serving) == Outcome::Over {
                continue;
            }
            self.insert(fd, Role::Server(serving))?;
        }
        Ok(())
    }

    pub(super) fn server_event(&mut self, index: u32, flags: EventFlags) {
        let Some(connection) = self.slots[index as usize].connection.take() else {
            return;
        };
        let Connection { fd, role } = connection;
        let Role::Server(mut serving) = role else {
            return;
        };
        let outcome = match serving.service {
            Service::Short | Service::Echo => self.answer(&fd, &mut serving),
            Service::Bulk => self.source(index, &fd, &mut serving, flags),
        };
        let role = Role::Server(serving);
        self.slots[index as usize].connection = Some(Connection { fd, role });
        if outcome == Outcome::Over {
            self.remove(index);
        }
    }

    /// Sends back what came.
    fn answer(&mut self, fd: &rustix::fd::OwnedFd, serving: &mut Serving) -> Outcome {
        loop {
            let read = match recv(fd, &mut self.scratch[..4096], RecvFlags::empty()) {
                Ok((_, 0)) => return Outcome::Over,
                Ok((_, read)) => read,
                Err(Errno::AGAIN) => return Outcome::Open,
                // A client's reset, passed on; he counts it if it was not his own doing.
                Err(_) => return Outcome::Over,
            };
            match send(fd, &self.scratch[..read], SendFlags::NOSIGNAL) {
                Ok(written) if written == read => {}
                Ok(_) => self.wrong("backend: a short write of an answer"),
                Err(_) => return Outcome::Over,
            }
            serving.got += read;
            if serving.service == Service::Short && serving.got >= REQUEST {
                return Outcome::Over;
            }
            if read < 4096 {
                // Drained, unless an end follows; that is another event.
                return Outcome::Open;
            }
        }
    }

    /// Reads demands, sends what is owed.
    fn source(
        &mut self,
        index: u32,
        fd: &rustix::fd::OwnedFd,
        serving: &mut Serving,
        flags: EventFlags,
    ) -> Outcome {
        if flags.contains(EventFlags::OUT) {
            serving.full = false;
        }
        serving.queued = false;
        if flags.contains(EventFlags::IN) && self.demand(fd, serving) == Outcome::Over {
            return Outcome::Over;
        }
        let mut quota = SOURCE_QUOTA;
        while serving.owed > 0 && quota > 0 && !serving.full {
            let most = if self.pace > 0 {
                serving.allowance
            } else {
                quota
            };
            if most == 0 {
                return Outcome::Open;
            }
            let piece = self.pattern.at(serving.offset, serving.owed.min(most));
            let length = piece.len();
            match send(fd, piece, SendFlags::NOSIGNAL) {
                Ok(written) => {
                    let sent = written as u64;
                    serving.owed -= sent;
                    serving.offset += sent;
                    serving.allowance = serving.allowance.saturating_sub(sent);
                    quota = quota.saturating_sub(sent);
                    serving.full = written < length;
                }
                Err(Errno::AGAIN) => serving.full = true,
                Err(_) => return Outcome::Over,
            }
        }
        if serving.owed > 0 && !serving.full && !serving.queued {
            serving.queued = true;
            self.ready.push(index);
        }
        Outcome::Open
    }

    fn demand(&mut self, fd: &rustix::fd::OwnedFd, serving: &mut Serving) -> Outcome {
        loop {
            let got = serving.got;
            match recv(fd, &mut serving.demand[got..], RecvFlags::empty()) {
                Ok((_, 0)) => return Outcome::Over,
                Ok((_, read)) => serving.got += read,
                Err(Errno::AGAIN) => return Outcome::Open,
                Err(_) => return Outcome::Over,
            }
            if serving.got == serving.demand.len() {
                serving.got = 0;
                serving.owed += u64::from_ne_bytes(serving.demand);
            }
        }
    }

    /// Gives paced sources their share of each millisecond that passed.
    pub(super) fn hand_out_pace(&mut self) {
        if self.pace == 0 {
            return;
        }
        let shares = now_ns().saturating_sub(self.paced_at_ns) / PACE_NS;
        if shares == 0 {
            return;
        }
        self.paced_at_ns += shares * PACE_NS;
        let (pace, most) = (self.pace, self.pace * SAVED_SHARES);
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let Some(Connection {
                role: Role::Server(serving),
                ..
            }) = &mut slot.connection
            else {
                continue;
            };
            if serving.service != Service::Bulk {
                continue;
            }
            serving.allowance = (serving.allowance + shares * pace).min(most.max(PIECE as u64));
            if serving.owed > 0 && !serving.full && !serving.queued {
                serving.queued = true;
                self.ready.push(index as u32);
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Open,
    Over,
}
