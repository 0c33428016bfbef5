//! The `listen` and `accept` calls.
//!
//! Decides:  who may listen; that the port is checked again; what a second `listen` changes; the
//!           length of the queue; which connection `accept` takes.
//! Kernel:   net/socket.c, __sys_listen_socket(); net/ipv4/af_inet.c, __inet_listen_sk();
//!           net/ipv4/inet_connection_sock.c, inet_csk_listen_start(), inet_csk_accept(), 3.9 to 6.18
//! Not here: the reuseport group (reuseport.rs); how a connection comes into the queue (wire.rs).

use crate::addr::Family;
use crate::bind::refuse;
use crate::call::{Answer, State};
use crate::chain::End;
use crate::errno::Errno;
use crate::explain::Trace;
use crate::host::ProcessId;
use crate::rules::Rule;
use crate::socket::{Hashed, NONE, Progress, SockIx};
use crate::version::Change;
use crate::world::World;

/// Bits of `net.ipv4.tcp_fastopen`: servers may, and without the socket option too.
const TFO_SERVER: u32 = 2;
const TFO_SERVER_WITHOUT_OPTION: u32 = 0x400;
/// The same, with a queue as long as the upper half of the sysctl says.
const TFO_SERVER_BY_UPPER_HALF: u32 = 0x800;

/// The length of the fast-open queue that the sysctl gives a listener on which TCP_FASTOPEN was not set;
/// `halves` where the kernel knows the bit that takes it from the upper half.
fn fastopen_without_option(sysctl: u32, backlog: u32, halves: bool) -> Option<u32> {
    if sysctl & TFO_SERVER == 0 {
        return None;
    }
    if sysctl & TFO_SERVER_WITHOUT_OPTION != 0 {
        return Some(backlog);
    }
    (halves && sysctl & TFO_SERVER_BY_UPPER_HALF != 0).then_some(sysctl >> 16)
}

impl World {
    pub(crate) fn listen<T: Trace>(
        &mut self,
        ix: SockIx,
        backlog: i32,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let sysctls = &self.host.net(self.socks[ix].net).sysctls;
        let (limit, fastopen) = (sysctls.somaxconn, sysctls.tcp_fastopen);
        let mut backlog = backlog as u32;
        if backlog > limit {
            trace.rule(Rule::BacklogCut);
            backlog = limit;
        }
        let limit_of_queue = match self.host.kernel.has(Change::WideBacklog) {
            true => backlog,
            false => u32::from(backlog as u16),
        };
        let sock = &mut self.socks[ix];
        let state = sock.state;
        if sock.progress != Progress::Unconnected || !matches!(state, State::Close | State::Listen)
        {
            return refuse(trace, Rule::ListenState, Errno::EINVAL);
        }
        sock.backlog = limit_of_queue;
        if state == State::Listen {
            trace.rule(Rule::ListenAgain);
            return Ok(());
        }
        let halves = !self.host.kernel.has(Change::FastopenUpperHalf);
        if sock.fastopen_queue == 0
            && let Some(length) = fastopen_without_option(fastopen, backlog, halves)
        {
            sock.fastopen_queue = length.min(limit);
            trace.rule(Rule::FastopenQueue);
        }
        trace.rule(Rule::ListenChecksPort);
        let (state, port) = (State::Listen, sock.num);
        sock.state = state;
        let started = self.get_port(ix, port, trace).and_then(|()| {
            let sock = &mut self.socks[ix];
            sock.sport = sock.num;
            self.hash_listener(ix, trace)
        });
        if started.is_err() {
            self.socks[ix].state = State::Close;
        }
        started
    }

    /// Enters the listener where a SYN is looked up: at the head of its chain, but an IPv6
    /// SO_REUSEPORT one at the tail.
    fn hash_listener<T: Trace>(&mut self, ix: SockIx, trace: &mut T) -> Result<(), Errno> {
        let sock = &self.socks[ix];
        let groups = self.host.kernel.has(Change::ReuseportGroups);
        let tail = groups && sock.reuseport && sock.family == Family::Inet6;
        if sock.reuseport && groups {
            self.join_group(ix, trace)?;
        }
        self.chain_insert(ix, if tail { End::Tail } else { End::Head });
        self.socks[ix].hashed = Hashed::Listening;
        Ok(())
    }

    /// Takes the listener out again; the port may have been given back already, not the number.
    pub(crate) fn unhash_listener(&mut self, ix: SockIx) {
        self.socks[ix].hashed = Hashed::No;
        if self.socks[ix].group.is_some() {
            self.leave_group_on_stop(ix);
        }
        self.chain_remove(ix);
    }

    pub(crate) fn accept<T: Trace>(
        &mut self,
        process: ProcessId,
        ix: SockIx,
        trace: &mut T,
    ) -> Answer {
        if self.socks[ix].state != State::Listen {
            trace.rule(Rule::AcceptState);
            return Answer::Err(Errno::EINVAL);
        }
        let Some(child) = self.socks[ix].queue.pop_front() else {
            trace.rule(Rule::AcceptEmpty);
            return if self.socks[ix].nonblocking {
                Answer::Err(Errno::EAGAIN)
            } else {
                Answer::Blocks
            };
        };
        trace.rule(Rule::AcceptOldest);
        let caller = self.host.processes[process.0 as usize];
        let sock = &mut self.socks[child];
        sock.parent = NONE;
        sock.nonblocking = false;
        sock.uid = caller.uid;
        self.hold(caller.files, child);
        Answer::Accepted(self.handle(child))
    }
}
