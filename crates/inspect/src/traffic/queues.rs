//! The queues of those who get the connections.
//!
//! Decides:  when an accept queue is full, a SYN queue is, when one shard of a group is not served, and when nobody
//!           is there who could accept.
//! Kernel:   include/net/sock.h, sk_acceptq_is_full(): more wait than the backlog says;
//!           include/net/inet_connection_sock.h, inet_csk_reqsk_queue_is_full()
//! Not here: who gets them (the parent).

use super::{FULL, STOPPED, Search};
use crate::snapshot::{Socket, State};

const ACCEPT_HINT: &str = "the program does not accept fast enough, or not at all: look what it does (stopped? busy? out of descriptors?); a longer backlog only delays it";

impl Search<'_> {
    pub(super) fn queues(&mut self, receiving: &[usize]) {
        let mut counted = false;
        for &at in receiving {
            let one = &self.net.sockets[at];
            let (waiting, limit) = (one.receive_queue, one.send_queue);
            let called = self.holder(at).called();
            if is_full(one) {
                counted = true;
                let text = format!(
                    "the accept queue of {called} is full: {waiting} connections wait, and it has room for {}; a further SYN is dropped{}",
                    u64::from(limit) + 1,
                    self.overflows()
                );
                self.find_of(true, FULL, text, ACCEPT_HINT, Some(at));
            } else if waiting > 0 {
                let text = format!(
                    "{waiting} connections wait to be accepted by {called}, of {} that may",
                    u64::from(limit) + 1
                );
                self.find_of(false, "connections-wait", text, ACCEPT_HINT, Some(at));
            }
            self.stopped(at, &called);
            self.syn_queue(at, &called);
        }
        self.shards(receiving);
        let drops = self.net.drops;
        if !counted && drops.listen_overflows.is_some_and(|count| count > 0) {
            let text = format!(
                "accept queues of this network namespace have been full before{}",
                self.overflows()
            );
            let hint =
                "watch whether it still grows: nstat -az TcpExtListenOverflows TcpExtListenDrops";
            self.find(false, "overflows", text, hint);
        }
    }

    /// Nobody accepts, since all who hold it stand still.
    fn stopped(&mut self, at: usize, called: &str) {
        let holders = &self.net.sockets[at].holders;
        let stands = |pid| self.snapshot.process(pid).is_some_and(|one| one.stopped);
        if !holders.is_empty() && holders.iter().all(|holder| stands(holder.pid)) {
            let text = format!(
                "{called} is stopped, by a signal or from a terminal: connections wait in the queue, and nobody accepts them"
            );
            let hint = "let it go on: kill -CONT PID, or fg";
            self.find_of(true, STOPPED, text, hint, Some(at));
        }
    }

    fn overflows(&self) -> String {
        let drops = self.net.drops;
        match (drops.listen_overflows, drops.listen_drops) {
            (Some(overflows), Some(drops)) => {
                format!(" (ListenOverflows {overflows}, ListenDrops {drops})")
            }
            _ => String::new(),
        }
    }

    /// Connections that are half open, and what becomes of more.
    fn syn_queue(&mut self, at: usize, called: &str) {
        let one = &self.net.sockets[at];
        let half_open = self.net.sockets.iter().filter(|other| {
            other.state == State::HalfOpen && other.local.port() == one.local.port()
        });
        let (half_open, limit) = (half_open.count() as u64, u64::from(one.send_queue));
        let cookies = self.net.sysctls.tcp_syncookies.unwrap_or(1);
        let drops = self.net.drops;
        if cookies != 2 && half_open >= limit.max(1) {
            let fault = cookies == 0;
            let what = if fault {
                format!(
                    "a further SYN is dropped, since net.ipv4.tcp_syncookies is 0 (TCPReqQFullDrop {})",
                    drops.syn_queue_drops.unwrap_or(0)
                )
            } else {
                "a further SYN is answered by a cookie".to_owned()
            };
            let text = format!("{half_open} half-open connections are at {called}: {what}");
            let hint = "a flood of SYNs, or answers that do not reach their clients: look at their addresses (ss -tn state syn-recv)";
            self.find_of(fault, "syn-queue-full", text, hint, Some(at));
        }
        let sent = drops.syncookies_sent.unwrap_or(0);
        if cookies == 2 || sent > 0 {
            let text = format!(
                "SYN cookies have been sent {sent} times (SyncookiesSent; net.ipv4.tcp_syncookies is {cookies}): such connections lose options of TCP"
            );
            self.find(
                false,
                "syn-cookies",
                text,
                "with 1 they are sent only while a SYN queue is full",
            );
        }
    }

    /// Members of one group, some of whom do not accept.
    fn shards(&mut self, receiving: &[usize]) {
        for &at in receiving {
            let one = &self.net.sockets[at];
            let group: Vec<usize> = receiving
                .iter()
                .copied()
                .filter(|&other| are_shards(one, &self.net.sockets[other]))
                .collect();
            let idle = |&other: &usize| self.net.sockets[other].receive_queue == 0;
            let stuck = one.receive_queue > 0 && group.iter().any(idle);
            if group.len() < 2 || !stuck {
                continue;
            }
            let known = self.holder(at);
            let text = format!(
                "{} connections wait at one of {} shards, that of {} (cookie {}), while others are empty: about one connection in {} goes there{}",
                one.receive_queue,
                group.len(),
                known.called(),
                known.cookie,
                group.len(),
                if is_full(one) {
                    " and is dropped"
                } else {
                    " and waits"
                }
            );
            let hint = "every socket of the group must be accepted on; close the one that is not (its waiting connections are reset unless net.ipv4.tcp_migrate_req is on)";
            self.find_of(true, "shard-not-accepting", text, hint, Some(at));
        }
    }
}

fn is_full(one: &Socket) -> bool {
    one.receive_queue > one.send_queue
}

fn are_shards(one: &Socket, other: &Socket) -> bool {
    one.local == other.local
        && one.device == other.device
        && one.options.reuseport != Some(false)
        && other.options.reuseport != Some(false)
}
