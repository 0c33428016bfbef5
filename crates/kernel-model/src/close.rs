//! The ends of a socket: `close`, `shutdown`, disconnecting.
//!
//! Decides:  who keeps the port; what a listener's queue becomes; which end goes into TIME_WAIT.
//! Kernel:   net/ipv4/tcp.c, __tcp_close(), tcp_set_state(), tcp_disconnect(), tcp_shutdown();
//!           net/ipv4/af_inet.c, inet_shutdown(); net/ipv4/inet_connection_sock.c,
//!           inet_csk_listen_stop(), inet_csk_destroy_sock(), 3.9 to 6.18
//! Not here: what the segments do at the other end (wire.rs).

use crate::bind::refuse;
use crate::call::State;
use crate::errno::Errno;
use crate::explain::{NoTrace, Trace};
use crate::rules::Rule;
use crate::socket::{ADDR_LOCK, Hashed, PORT_LOCK, Progress, RCV_SHUTDOWN, SEND_SHUTDOWN, SockIx};
use crate::version::Change;
use crate::world::World;

impl World {
    /// One descriptor less, which is out of its table already; the last one releases the socket.
    pub(crate) fn close<T: Trace>(&mut self, ix: SockIx, trace: &mut T) {
        self.socks[ix].holders -= 1;
        if self.socks[ix].holders > 0 {
            trace.rule(Rule::LastHolder);
            return;
        }
        self.socks[ix].shutdown = RCV_SHUTDOWN | SEND_SHUTDOWN;
        match self.socks[ix].state {
            State::Listen => {
                self.set_closed(ix);
                self.stop_listening(ix, trace);
            }
            State::Close => {}
            _ if self.socks[ix].repair || self.lingers_not(ix) => self.disconnect(ix, trace),
            _ => {
                if self.step_to_closing(ix) {
                    self.send_fin(ix, trace);
                }
            }
        }
        self.socks[ix].dead = true;
        match self.socks[ix].state {
            State::Close => self.destroy(ix),
            State::FinWait2 => self.time_wait(ix, State::FinWait2),
            _ => {}
        }
    }

    fn lingers_not(&self, ix: SockIx) -> bool {
        self.socks[ix].linger_on && self.socks[ix].linger_s == 0
    }

    /// The state after this side has said that it sends no more; true where a FIN tells the peer.
    pub(crate) fn step_to_closing(&mut self, ix: SockIx) -> bool {
        match self.socks[ix].state {
            State::Established | State::SynRecv => {
                self.socks[ix].state = State::FinWait1;
                true
            }
            State::CloseWait => {
                self.socks[ix].state = State::LastAck;
                true
            }
            State::SynSent | State::Close | State::Listen => {
                self.set_closed(ix);
                false
            }
            _ => false,
        }
    }

    /// CLOSE: out of the tables, and without the port unless the user bound it.
    pub(crate) fn set_closed(&mut self, ix: SockIx) {
        match self.socks[ix].hashed {
            Hashed::Listening => self.unhash_listener(ix),
            Hashed::Established => self.unhash_connection(ix),
            Hashed::No => {}
        }
        if self.socks[ix].bucket.is_some() && !self.socks[ix].locked(PORT_LOCK) {
            self.put_port(ix);
        }
        self.clear_timer(ix);
        self.socks[ix].ack_held = false;
        self.socks[ix].state = State::Close;
    }

    /// The protocol's half goes: nothing names it any more.
    pub(crate) fn destroy(&mut self, ix: SockIx) {
        if self.socks[ix].bucket.is_some() {
            self.put_port(ix);
        }
        // A connection that waits in a queue is not dead, and stays there when it ends.
        debug_assert!(self.socks[ix].parent == crate::socket::NONE);
        if self.socks[ix].requests > 0 {
            // Its half-open connections still refer to it.
            self.socks[ix].awaited = true;
            return;
        }
        self.leave_group(ix);
        self.free_sock(ix);
    }

    /// What waited in a listener's queue: it moves to another member of the group, or is reset.
    pub(crate) fn stop_listening<T: Trace>(&mut self, ix: SockIx, trace: &mut T) {
        self.forget_requests(ix, trace);
        while let Some(child) = self.socks[ix].queue.pop_front() {
            if let Some(other) = self.migrate_to(ix) {
                trace.blame(Rule::Migrated, self.handle(other));
                self.socks[child].parent = other;
                self.socks[other].queue.push_back(child);
                continue;
            }
            trace.rule(Rule::QueueReset);
            self.forget_child(child);
        }
    }

    /// `inet_child_forget`: nobody will accept the connection, and it is reset.
    pub(crate) fn forget_child(&mut self, child: SockIx) {
        self.forget_parent(child);
        self.disconnect(child, &mut NoTrace);
        self.destroy(child);
    }

    /// Who takes over, while `tcp_migrate_req` is on and the group has a listener left.
    pub(crate) fn migrate_to(&mut self, ix: SockIx) -> Option<SockIx> {
        let group = self.socks[ix].group?;
        let on = self.host.net(self.socks[ix].net).sysctls.tcp_migrate_req;
        let any = !self.groups[group.0].members.is_empty();
        (on && any && self.host.kernel.has(Change::MigrateReq)).then(|| self.choose_by_hash(group))
    }

    /// `tcp_disconnect`: back to a socket that can be used again, with what the user bound.
    pub(crate) fn disconnect<T: Trace>(&mut self, ix: SockIx, trace: &mut T) {
        let old = self.socks[ix].state;
        if old != State::Close {
            self.set_closed(ix);
            trace.rule(if self.socks[ix].bucket.is_some() {
                Rule::PortKept
            } else {
                Rule::Disconnected
            });
        }
        match old {
            State::Listen => self.stop_listening(ix, trace),
            // Under TCP_REPAIR nobody is told, and even a closed socket gets the error.
            _ if self.socks[ix].repair => self.socks[ix].error = Some(Errno::ECONNABORTED),
            State::Established
            | State::SynRecv
            | State::CloseWait
            | State::FinWait1
            | State::FinWait2 => {
                self.send_reset(ix, trace);
                self.socks[ix].error = Some(Errno::ECONNRESET);
            }
            // LAST_ACK and CLOSING need a reset only while their FIN could not be sent; but what brings a
            // socket there opens its window.
            State::SynSent => self.socks[ix].error = Some(Errno::ECONNRESET),
            _ => {}
        }
        self.next_number(ix);
        // The moment stands among what the peer's options said, which tcp_disconnect() clears.
        self.socks[ix].cookies_given = false;
        self.socks[ix].routed_any = false;
        self.socks[ix].dport = 0;
        if !self.socks[ix].locked(ADDR_LOCK) {
            self.readdress(ix, |sock| sock.reset_addr());
        }
        self.socks[ix].shutdown = 0;
    }

    /// A later connection of the same socket begins behind everything that this one could have sent.
    fn next_number(&mut self, ix: SockIx) {
        let sock = &mut self.socks[ix];
        let next = sock.snd_nxt.wrapping_add(sock.max_window).wrapping_add(2);
        sock.snd_nxt = next.max(1);
        sock.acked_len = 0;
        sock.complained = 0;
    }

    pub(crate) fn shutdown<T: Trace>(
        &mut self,
        ix: SockIx,
        how: i32,
        trace: &mut T,
    ) -> Result<(), Errno> {
        if !(0..=2).contains(&how) {
            return refuse(trace, Rule::ShutdownHow, Errno::EINVAL);
        }
        let bits = (how + 1) as u8;
        if self.socks[ix].progress == Progress::Connecting {
            self.socks[ix].progress = match self.socks[ix].state {
                State::SynSent | State::SynRecv | State::Close => Progress::Disconnecting,
                _ => Progress::Connected,
            };
        }
        match self.socks[ix].state {
            State::Close => {
                self.socks[ix].shutdown |= bits;
                return refuse(trace, Rule::ShutdownUnconnected, Errno::ENOTCONN);
            }
            State::Listen if bits & RCV_SHUTDOWN == 0 => {}
            State::Listen | State::SynSent => {
                trace.rule(Rule::ShutdownListener);
                self.disconnect(ix, trace);
                self.socks[ix].progress = Progress::Unconnected;
            }
            state => {
                self.socks[ix].shutdown |= bits;
                let sends = matches!(state, State::Established | State::CloseWait);
                if bits & SEND_SHUTDOWN != 0 && sends {
                    self.step_to_closing(ix);
                    self.send_fin(ix, trace);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Family, SockAddr};
    use crate::call::{Answer, Call, Opt};
    use crate::host::{Host, ProcessId};
    use crate::version::Kernel;
    use crate::world::SocketId;

    const WEB: u16 = 20_001;

    fn here() -> SockAddr {
        SockAddr::new("127.0.0.1".parse().unwrap(), WEB)
    }

    fn does(world: &mut World, socket: SocketId, call: Call) {
        assert_eq!(world.call(socket, call), Answer::Ok, "{call:?}");
    }

    fn socket(world: &mut World) -> SocketId {
        world.socket(ProcessId(0), Family::Inet)
    }

    fn listener(world: &mut World, backlog: i32) -> SocketId {
        let listener = socket(world);
        does(world, listener, Call::Set(Opt::ReusePort(true)));
        does(world, listener, Call::Bind(here()));
        does(world, listener, Call::Listen(backlog));
        listener
    }

    #[test]
    fn a_socket_that_disconnects_keeps_nothing_of_its_connection() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        listener(&mut world, 5);
        let client = socket(&mut world);
        does(&mut world, client, Call::Set(Opt::DeferAccept(30)));
        does(&mut world, client, Call::Set(Opt::Transparent(true)));
        does(&mut world, client, Call::Connect(here()));
        let ix = world.existing(client).unwrap();
        assert!(world.may_complain(ix));
        let sock = &world.socks[ix];
        assert!(sock.ack_held && sock.routed_any && sock.acked_len == 1 && sock.complained != 0);
        world.disconnect(ix, &mut NoTrace);
        let sock = &world.socks[ix];
        assert!(!sock.ack_held, "an acknowledgement that is held");
        assert!(!sock.routed_any, "the route");
        assert_eq!(sock.acked_len, 0, "how much was acknowledged");
        assert_eq!(sock.complained, 0, "when it complained");
        assert!(world.deadlines.is_empty());
    }

    #[test]
    fn a_waiting_connection_that_moved_belongs_to_who_took_it() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        world.host.namespaces[0].sysctls.tcp_migrate_req = true;
        let first = listener(&mut world, 5);
        let client = socket(&mut world);
        does(&mut world, client, Call::Connect(here()));
        let (first, second) = (first, listener(&mut world, 5));
        let child = world.socks[first.index].queue[0];
        assert_eq!(world.socks[child].parent, first.index);
        does(&mut world, first, Call::Close);
        assert_eq!(world.socks[child].parent, second.index);
        assert_eq!(world.socks[second.index].queue, [child]);
        does(&mut world, second, Call::Close);
        assert!(!world.socks[child].alive);
    }

    #[test]
    fn an_accepted_connection_is_no_listeners_any_more() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        let (listener, client) = (listener(&mut world, 5), socket(&mut world));
        does(&mut world, client, Call::Connect(here()));
        let Answer::Accepted(child) = world.call(listener, Call::Accept) else {
            panic!("a connection waits");
        };
        assert_eq!(world.socks[child.index].parent, crate::socket::NONE);
    }

    #[test]
    fn a_listener_that_closed_goes_with_its_last_half_open_connection() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        let listener = listener(&mut world, 5);
        does(&mut world, listener, Call::Set(Opt::DeferAccept(1)));
        let client = socket(&mut world);
        does(&mut world, client, Call::Connect(here()));
        assert_eq!(world.socks[listener.index].requests, 1);
        does(&mut world, listener, Call::Close);
        assert!(world.socks[listener.index].alive);
        world.pass_time(200_000);
        assert!(!world.socks[listener.index].alive);
        assert!(world.socks[listener.index].group.is_none());
    }
}
