//! From what happens to the watched to the record and its findings. Pure: it is told, and looks at nothing.
//!
//! Decides:  which sockets are kept, when something is a finding, and that the same one is told once.
//! Not here: reading the watched (facts.rs, watch.rs), why a call was refused (explain.rs).

use std::collections::{BTreeMap, BTreeSet};

use crate::call::{Address, Call};
use crate::explain::{Explain, Reason, Refused, Wanted};
use crate::facts::{Caller, Image, Peek};
use crate::finding::{Finding, Holder, Kind, RuleText, Way};
use crate::record::{
    Ending, ErrorNumber, FORMAT, Found, Heir, Inheritance, Process, Record, Socket, Step, What,
};
use crate::words::{family, plain_text, protocol, unix_text, what};

/// Most sockets, processes and findings that are kept: a program may run for years.
const SOCKETS_MAX: usize = 10_000;
const PROCESSES_MAX: usize = 10_000;
const FINDINGS_MAX: usize = 1_000;

/// A call and its answer.
#[derive(Debug)]
pub struct Made<'a> {
    /// The process that made it.
    pub process: i32,
    /// Who it is.
    pub caller: Option<Caller>,
    /// The call.
    pub call: &'a Call,
    /// The socket before it.
    pub before: Option<Peek>,
    /// The socket behind it, where it succeeded.
    pub after: Option<Peek>,
    /// What the kernel answered: the error's number.
    pub result: Result<i64, i32>,
}

/// What is to be decided now of what had to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settling {
    /// What has waited since this was asked last.
    Old,
    /// All: nothing will come any more.
    All,
}

/// Keeps the record.
#[derive(Debug)]
pub struct Recorder {
    pub(crate) record: Record,
    by_cookie: BTreeMap<u64, u64>,
    pub(crate) order: u64,
    executions: u64,
    next_socket: u64,
    /// Findings that were not taken yet.
    fresh: BTreeSet<usize>,
    /// Listeners of which it is not known yet whether IPv4 is served too.
    pub(crate) undecided: BTreeSet<u64>,
    /// The same, of those that have been so for a while.
    pub(crate) overdue: BTreeSet<u64>,
    /// `no_new_privs` was there before the program was watched: nothing is lost by watching.
    already_limited: bool,
    /// A tracer with CAP_SYS_PTRACE: files give their privilege all the same.
    powerful: bool,
}

impl Recorder {
    /// For this command. `already_limited`: this process has `no_new_privs` itself; `powerful`: it has
    /// CAP_SYS_PTRACE.
    pub fn new(command: Vec<String>, already_limited: bool, powerful: bool) -> Recorder {
        Recorder {
            record: Record {
                format: FORMAT,
                command,
                ..Record::default()
            },
            by_cookie: BTreeMap::new(),
            order: 0,
            executions: 0,
            next_socket: 0,
            fresh: BTreeSet::new(),
            undecided: BTreeSet::new(),
            overdue: BTreeSet::new(),
            already_limited,
            powerful,
        }
    }

    /// The record so far.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The findings since they were taken last.
    pub fn take_findings(&mut self) -> Vec<Finding> {
        let fresh = std::mem::take(&mut self.fresh);
        fresh
            .into_iter()
            .filter_map(|at| self.record.findings.get(at).cloned())
            .collect()
    }

    /// A process begins: a fork of `parent`.
    pub fn began(&mut self, pid: i32, parent: Option<i32>) {
        if self.record.processes.len() >= PROCESSES_MAX {
            self.forget_processes();
        }
        let from = parent.and_then(|parent| self.record.process(parent));
        let process = match from {
            Some(from) => Process {
                pid,
                parent,
                ended: None,
                ..from.clone()
            },
            None => Process {
                pid,
                parent,
                program: String::new(),
                arguments: Vec::new(),
                lost: None,
                ended: None,
                execution: 0,
            },
        };
        self.record.processes.push(process);
    }

    /// A process executes a program.
    pub fn executed(&mut self, pid: i32, image: Image, caller: Option<Caller>) {
        self.executions += 1;
        let no_new_privs = caller.is_some_and(|caller| caller.no_new_privs);
        let by_us = !self.already_limited && (no_new_privs || !self.powerful);
        let lost = image.gift.filter(|gift| gift.is_any() && by_us);
        let execution = self.executions;
        let Some(process) = self.process_mut(pid) else {
            return;
        };
        process.program.clone_from(&image.path);
        process.arguments = image.arguments;
        process.lost = lost;
        process.execution = execution;
        if let Some(gift) = lost {
            let kind = Kind::PrivilegeLost {
                file: image.path,
                gift,
            };
            self.find(pid, None, kind, None);
        }
    }

    /// A process ended.
    pub fn ended(&mut self, pid: i32, ending: Ending) {
        if let Some(process) = self.process_mut(pid) {
            process.ended = Some(ending);
        }
    }

    /// The first process ended so.
    pub fn finish(&mut self, ending: Ending) {
        self.record.ended = Some(ending);
    }

    /// The sockets that a process has from another one, or has kept.
    pub fn inherited(&mut self, pid: i32, held: &[(u64, i32)], by: Inheritance) {
        for socket in &mut self.record.sockets {
            let at = held.iter().find(|(inode, _)| *inode == socket.inode);
            if by == Inheritance::Exec && socket.process != pid {
                socket.inherited.retain(|heir| heir.pid != pid);
            }
            let Some(&(_, fd)) = at.filter(|_| socket.closed.is_none()) else {
                continue;
            };
            // Through its own execution a process keeps what it opened: that is an inheritance too.
            if !socket.inherited.iter().any(|heir| heir.pid == pid) {
                socket.inherited.push(Heir { pid, fd, by });
            }
        }
    }

    /// Open sockets that may have to do with this call: those of its port, or all where it has none.
    pub fn rivals(&self, call: &Call, socket: Option<&Peek>) -> BTreeSet<u64> {
        let port = match call {
            Call::Bind {
                address: Address::Inet(address),
                ..
            } => address.port,
            Call::Listen { .. } => socket.map_or(0, Peek::port),
            _ => return BTreeSet::new(),
        };
        let own = socket.map_or(0, |socket| socket.cookie);
        let rivals = self.record.sockets.iter().filter(|rival| {
            rival.closed.is_none() && rival.cookie != own && port != 0 && rival.port() == port
        });
        rivals.map(|rival| rival.inode).collect()
    }

    /// Where a socket was seen, by its inode: process and descriptor.
    pub fn seen_at(&self, inode: u64) -> Vec<(i32, i32)> {
        let sockets = self
            .record
            .sockets
            .iter()
            .filter(|socket| socket.inode == inode);
        sockets
            .flat_map(|socket| {
                let heirs = socket.inherited.iter().map(|heir| (heir.pid, heir.fd));
                std::iter::once((socket.process, socket.fd)).chain(heirs)
            })
            .collect()
    }

    /// Nobody holds these any more.
    pub fn closed(&mut self, inodes: &BTreeSet<u64>) {
        let order = self.order;
        let open = self
            .record
            .sockets
            .iter_mut()
            .filter(|socket| socket.closed.is_none());
        for socket in open.filter(|socket| inodes.contains(&socket.inode)) {
            socket.closed = Some(order);
        }
    }

    /// A call was made.
    pub fn made(&mut self, made: &Made<'_>, explain: &mut dyn Explain) {
        self.order += 1;
        match made.call {
            Call::Socket { domain, .. } => self.made_socket(made, *domain, explain),
            Call::IoUring if made.result.is_ok() => {
                self.find(made.process, None, Kind::IoUring, None)
            }
            Call::Sandbox if made.result.is_ok() => {
                self.find(made.process, None, Kind::Sandbox, None)
            }
            Call::Ptrace if made.result.is_err() => {
                self.find(made.process, None, Kind::Debugger, None)
            }
            Call::Foreign(abi) => {
                self.find(made.process, None, Kind::ForeignCalls { abi: *abi }, None);
            }
            Call::IoUring | Call::Sandbox | Call::Ptrace => {}
            Call::SetOption { .. } | Call::Bind { .. } | Call::Listen { .. } => {
                self.made_on_socket(made, explain);
            }
        }
    }

    fn made_socket(&mut self, made: &Made<'_>, domain: i32, explain: &mut dyn Explain) {
        let Err(error) = made.result else {
            return;
        };
        let family = family(domain);
        let kind = Kind::SocketRefused {
            family,
            error: ErrorNumber(error),
        };
        let reason = explain.beyond_rules(&Refused {
            process: made.process,
            wanted: Wanted::Socket,
            errno: error,
        });
        self.find(made.process, None, kind, reason);
    }

    fn made_on_socket(&mut self, made: &Made<'_>, explain: &mut dyn Explain) {
        let inet = made.before.as_ref().is_some_and(Peek::is_inet);
        let what = what(made);
        let Some(number) = inet.then(|| self.socket_of(made)).flatten() else {
            return self.made_elsewhere(made, what, explain);
        };
        let error = made.result.err();
        let reason = error.and_then(|errno| self.reason(number, made, errno, explain));
        let step = Step {
            order: self.order,
            process: made.process,
            what,
            error: error.map(ErrorNumber),
        };
        let Some(socket) = self.socket_mut(number) else {
            return;
        };
        socket.calls.push(step.clone());
        if let Some(after) = &made.after {
            socket.address = after
                .name
                .filter(|name| name.port() != 0)
                .map(|name| name.to_string());
            socket.backlog_limit = after.limit;
            socket.uid = after.uid;
        }
        match error {
            Some(_) => self.refused(number, made, &step, reason),
            None => self.succeeded(number, made, &step, explain),
        }
    }

    /// On something that is no IP socket: only a failure is of interest.
    fn made_elsewhere(&mut self, made: &Made<'_>, what: What, explain: &mut dyn Explain) {
        let Err(errno) = made.result else {
            return;
        };
        let error = ErrorNumber(errno);
        let address = match made.call {
            Call::Bind { address, .. } => Some(address),
            _ => None,
        };
        let (kind, reason) = match (what, address) {
            (What::SetOption(_), _) | (_, Some(Address::Other(_))) => return,
            (What::Bind { address, .. }, Some(Address::Unix(name))) => {
                let known = explain.beyond_rules(&Refused {
                    process: made.process,
                    wanted: Wanted::Name(name),
                    errno,
                });
                let plain = || unix_text(name, errno).map(Reason::of);
                (Kind::BindRefused { address, error }, known.or_else(plain))
            }
            (What::Bind { address, .. }, _) => (Kind::BindRefused { address, error }, None),
            (What::Listen { .. }, _) => {
                let address = "a socket that was not seen".to_owned();
                (Kind::ListenRefused { address, error }, None)
            }
        };
        let reason = reason.or_else(|| plain_text(errno).map(Reason::of));
        self.find(made.process, None, kind, reason);
    }

    /// The number of the socket that a call is about; a new one where it was not known. `None` beyond the
    /// limit.
    fn socket_of(&mut self, made: &Made<'_>) -> Option<u64> {
        let peek = made.before.as_ref()?;
        if let Some(&number) = self.by_cookie.get(&peek.cookie) {
            return Some(number);
        }
        if self.record.sockets.len() >= SOCKETS_MAX {
            self.forget_sockets();
        }
        if self.record.sockets.len() >= SOCKETS_MAX {
            self.record.left_out += 1;
            return None;
        }
        self.next_socket += 1;
        let number = self.next_socket;
        self.by_cookie.insert(peek.cookie, number);
        self.record.sockets.push(Socket {
            number,
            process: made.process,
            fd: made.call.fd().unwrap_or(-1),
            family: family(peek.domain),
            protocol: protocol(peek),
            uid: peek.uid,
            found: Found {
                address: peek.name.filter(|name| name.port() != 0),
                listening: peek.limit.is_some(),
                reuseaddr: peek.reuseaddr,
                reuseport: peek.reuseport,
                v6only: peek.v6only,
                device: peek.device,
            },
            calls: Vec::new(),
            address: peek
                .name
                .filter(|name| name.port() != 0)
                .map(|name| name.to_string()),
            backlog_limit: peek.limit,
            inherited: Vec::new(),
            closed: None,
            cookie: peek.cookie,
            inode: peek.inode,
            namespace: peek.namespace,
        });
        Some(number)
    }

    fn refused(&mut self, number: u64, made: &Made<'_>, step: &Step, reason: Option<Reason>) {
        let Some(error) = step.error else {
            return;
        };
        let socket = self.record.socket(number);
        let at = socket.and_then(|socket| socket.address.clone());
        let address = at.unwrap_or_else(|| "a socket without a port".to_owned());
        let kind = match &step.what {
            What::Bind { address, .. } => Kind::BindRefused {
                address: address.clone(),
                error,
            },
            What::Listen { .. } => Kind::ListenRefused { address, error },
            What::SetOption(set) => Kind::OptionRefused {
                option: set.option.clone(),
                error,
            },
        };
        self.find(made.process, Some(number), kind, reason);
    }

    fn succeeded(&mut self, number: u64, made: &Made<'_>, step: &Step, explain: &mut dyn Explain) {
        match &step.what {
            What::SetOption(set) => self.option_set(number, made, set),
            What::Bind { .. } => {}
            What::Listen {
                backlog,
                limit,
                chosen,
            } => {
                self.listens(number, made, *backlog, *limit, *chosen, explain);
            }
        }
    }

    /// What a process was given cannot be read.
    pub fn unreadable(&mut self, process: i32) {
        self.find(process, None, Kind::Unreadable, None);
    }

    pub(crate) fn find(
        &mut self,
        process: i32,
        socket: Option<u64>,
        kind: Kind,
        reason: Option<Reason>,
    ) {
        self.find_with(process, socket, kind, reason, Vec::new());
    }

    pub(crate) fn find_with(
        &mut self,
        process: i32,
        socket: Option<u64>,
        kind: Kind,
        reason: Option<Reason>,
        mut holders: Vec<Holder>,
    ) {
        let mut known = self.record.findings.iter_mut();
        if let Some(same) = known.find(|f| f.process == process && f.kind == kind) {
            same.times += 1;
            return;
        }
        if self.record.findings.len() >= FINDINGS_MAX {
            self.record.left_out += 1;
            return;
        }
        let (mut rule, mut ways) = (None, Vec::new());
        if let Some(reason) = reason {
            rule = Some(reason.rule);
            ways = reason.ways;
            holders.extend(reason.holders);
        }
        let why = kind.why().map(|text| RuleText {
            id: String::new(),
            text: text.to_owned(),
        });
        ways.extend(kind.advice().map(Way::advice));
        self.fresh.insert(self.record.findings.len());
        self.record.findings.push(Finding {
            severity: kind.severity(),
            program: self.record.name(process),
            kind,
            process,
            socket,
            holders,
            rule: rule.or(why),
            ways,
            times: 1,
        });
    }

    fn process_mut(&mut self, pid: i32) -> Option<&mut Process> {
        let processes = self.record.processes.iter_mut().rev();
        processes.into_iter().find(|process| process.pid == pid)
    }

    fn socket_mut(&mut self, number: u64) -> Option<&mut Socket> {
        let at = self
            .record
            .sockets
            .binary_search_by_key(&number, |socket| socket.number);
        at.ok().and_then(|at| self.record.sockets.get_mut(at))
    }

    /// Sockets that never were bound nor listened, and are in no finding: clients.
    fn forget_sockets(&mut self) {
        let told: BTreeSet<u64> = self
            .record
            .findings
            .iter()
            .filter_map(|f| f.socket)
            .collect();
        let before = self.record.sockets.len();
        self.record.sockets.retain(|socket| {
            (socket.address.is_some() && socket.closed.is_none()) || told.contains(&socket.number)
        });
        let left: BTreeSet<u64> = self
            .record
            .sockets
            .iter()
            .map(|socket| socket.number)
            .collect();
        self.by_cookie.retain(|_, number| left.contains(number));
        self.record.left_out += (before - left.len()) as u64;
    }

    /// Processes that have ended and made nothing that is in the record.
    fn forget_processes(&mut self) {
        let sockets = self.record.sockets.iter().map(|socket| socket.process);
        let findings = self.record.findings.iter().map(|finding| finding.process);
        let needed: BTreeSet<i32> = sockets.chain(findings).collect();
        let processes = &mut self.record.processes;
        processes.retain(|process| process.ended.is_none() || needed.contains(&process.pid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::FromTrace;
    use portcullis_kernel_model::Kernel;

    const ME: i32 = 100;

    fn recorder() -> Recorder {
        let mut recorder = Recorder::new(vec!["x".into()], false, false);
        recorder.began(ME, None);
        recorder
    }

    fn peek(cookie: u64) -> Peek {
        Peek {
            cookie,
            inode: cookie,
            uid: 0,
            domain: libc::AF_INET,
            kind: libc::SOCK_STREAM,
            protocol: libc::IPPROTO_TCP,
            name: None,
            limit: None,
            reuseaddr: false,
            reuseport: false,
            v6only: false,
            device: 0,
            namespace: 1,
        }
    }

    fn set(recorder: &mut Recorder, cookie: u64, number: i32, result: Result<i64, i32>) {
        let call = Call::SetOption {
            fd: 3,
            level: libc::SOL_SOCKET,
            number,
            value: Some(vec![1, 0, 0, 0]),
        };
        let made = Made {
            process: ME,
            caller: None,
            call: &call,
            before: Some(peek(cookie)),
            after: result.is_ok().then(|| peek(cookie)),
            result,
        };
        recorder.made(&made, &mut FromTrace::on(Kernel::V6_18));
    }

    #[test]
    fn clients_without_end_do_not_fill_the_record() {
        let mut recorder = recorder();
        for cookie in 1..=2 * SOCKETS_MAX as u64 {
            set(&mut recorder, cookie, libc::SO_REUSEADDR, Ok(0));
        }
        let record = recorder.record();
        assert!(record.sockets.len() <= SOCKETS_MAX);
        let all = record.sockets.len() as u64 + record.left_out;
        assert_eq!(all, 2 * SOCKETS_MAX as u64, "what is missing is counted");
        assert!(record.sockets.is_sorted_by_key(|socket| socket.number));
    }

    #[test]
    fn findings_without_end_are_counted_and_the_same_one_is_told_once() {
        let mut recorder = recorder();
        let many = FINDINGS_MAX as i32 + 50;
        for number in 1000..1000 + many {
            set(&mut recorder, 1, number, Err(libc::EPERM));
            set(&mut recorder, 1, number, Err(libc::EPERM));
        }
        assert_eq!(recorder.take_findings().len(), FINDINGS_MAX);
        assert_eq!(recorder.take_findings(), []);
        assert_eq!(recorder.record().findings[7].times, 2);
        assert_eq!(recorder.record().left_out, 100);
    }

    #[test]
    fn processes_without_end_are_forgotten_once_they_have_ended() {
        let mut recorder = recorder();
        for pid in 1000..1000 + 2 * PROCESSES_MAX as i32 {
            recorder.began(pid, Some(ME));
            recorder.ended(pid, Ending::Exited(0));
        }
        assert!(recorder.record().processes.len() <= PROCESSES_MAX);
        assert!(recorder.record().process(ME).is_some());
    }
}
