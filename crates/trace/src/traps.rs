//! What succeeded and may surprise all the same.
//!
//! Decides:  when a backlog, a device, an address family, a late option or a shared port is a trap.
//! Kernel:   net/socket.c, __sys_listen_socket(); net/core/sock_reuseport.c, reuseport_add_sock(), 5.6 to
//!           6.18
//! Not here: calls that failed (recorder.rs).

use crate::explain::Explain;
use crate::facts::Peek;
use crate::finding::{Holder, Kind};
use crate::record::{Family, OptionSet, Setting, Socket, What};
use crate::recorder::{Made, Recorder, Settling};
use crate::words::DEVICE_OPTIONS;

/// What bind compares, set too late without an error.
const BIND_OPTIONS: [&str; 2] = ["SO_REUSEADDR", "SO_REUSEPORT"];

impl Recorder {
    pub(crate) fn option_set(&mut self, number: u64, made: &Made<'_>, set: &OptionSet) {
        let on = set.value != Some(Setting::Int(0));
        let Some(socket) = self.record.socket(number) else {
            return;
        };
        let had = socket.has_before(&set.option, self.order);
        let Some(address) = socket.address.clone().filter(|_| on && !had) else {
            return;
        };
        if BIND_OPTIONS.contains(&set.option.as_str()) {
            let option = set.option.clone();
            self.find(
                made.process,
                Some(number),
                Kind::OptionTooLate { address, option },
                None,
            );
        }
    }

    /// A socket listens, for the first time or again.
    pub(crate) fn listens(
        &mut self,
        number: u64,
        made: &Made<'_>,
        asked: i32,
        limit: Option<u32>,
        chosen: Option<u16>,
        explain: &mut dyn Explain,
    ) {
        let Some(socket) = self.record.socket(number).cloned() else {
            return;
        };
        let Some(address) = socket.address.clone() else {
            return;
        };
        let first = !socket
            .calls
            .iter()
            .rev()
            .skip(1)
            .any(|step| matches!(step.what, What::Listen { .. }) && step.error.is_none());
        let mut found = Vec::new();
        // A negative one asks for all there is, and gets it.
        let wanted = u32::try_from(asked).unwrap_or(0);
        if let Some(limit) = limit.filter(|&limit| limit < wanted) {
            found.push(Kind::BacklogCut {
                address: address.clone(),
                asked,
                limit,
            });
        }
        if first {
            found.extend(every_device(&socket, &address, made.after.as_ref()));
            found.extend(random_port(&socket, &address, chosen));
        }
        for kind in found {
            self.find(made.process, Some(number), kind, None);
        }
        if !first {
            return;
        }
        let v6only = made.after.as_ref().is_some_and(|after| after.v6only);
        if v6only && address.starts_with("[::]:") {
            self.undecided.insert(number);
        }
        let mut sharers = self.sharers(&socket, made.process);
        if socket.has_before("SO_REUSEPORT", u64::MAX) {
            sharers.extend(explain.others(&self.record, &socket));
        }
        if !sharers.is_empty() {
            let kind = Kind::SharedSilently { address };
            self.find_with(made.process, Some(number), kind, None, sharers);
        }
    }

    /// Other programs of the tree, not forks of this one, that listen on the same address.
    fn sharers(&self, socket: &Socket, process: i32) -> Vec<Holder> {
        let execution = |pid| self.record.process(pid).map(|process| process.execution);
        let mine = execution(process);
        let others = self.record.sockets.iter().filter(|other| {
            other.number != socket.number
                && other.listens()
                && other.namespace == socket.namespace
                && other.address == socket.address
                && other.process != process
                && execution(other.process) != mine
        });
        others
            .map(|other| crate::explain::holder(&self.record, other))
            .collect()
    }

    /// Findings that had to wait for what the program does next: IPv6 without IPv4.
    pub fn settle(&mut self, what: Settling) {
        let mut due = std::mem::take(&mut self.overdue);
        let waiting = std::mem::take(&mut self.undecided);
        match what {
            Settling::Old => self.overdue = waiting,
            Settling::All => due.extend(waiting),
        }
        for number in due {
            let Some(socket) = self.record.socket(number) else {
                continue;
            };
            let port = socket.port();
            let serves_v4 = self.record.sockets.iter().any(|other| {
                other.listens()
                    && other.namespace == socket.namespace
                    && other.port() == port
                    && (other.family == Family::Inet || !other.has_before("IPV6_V6ONLY", u64::MAX))
            });
            let address = socket
                .address
                .clone()
                .filter(|_| socket.listens() && !serves_v4);
            let process = socket.process;
            if let Some(address) = address {
                self.find(process, Some(number), Kind::OnlyIpv6 { address }, None);
            }
        }
    }
}

/// The socket was to be bound to a device, that failed, and it is bound to none.
fn every_device(socket: &Socket, address: &str, after: Option<&Peek>) -> Option<Kind> {
    if after.is_none_or(|after| after.device != 0) {
        return None;
    }
    socket
        .calls
        .iter()
        .find_map(|step| match (&step.what, step.error) {
            (What::SetOption(set), Some(error))
                if DEVICE_OPTIONS.contains(&set.option.as_str()) =>
            {
                Some(Kind::EveryDevice {
                    address: address.to_owned(),
                    option: set.option.clone(),
                    error,
                })
            }
            _ => None,
        })
}

/// The kernel chose the port, at `bind` or at `listen`.
fn random_port(socket: &Socket, address: &str, chosen: Option<u16>) -> Option<Kind> {
    let address = address.to_owned();
    if chosen.is_some() {
        return Some(Kind::ListenUnbound { address });
    }
    let asked = socket.calls.iter().any(|step| {
        step.error.is_none()
            && matches!(
                &step.what,
                What::Bind {
                    chosen: Some(_),
                    ..
                }
            )
    });
    asked.then_some(Kind::RandomPort { address })
}
