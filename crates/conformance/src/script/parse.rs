//! Reading a script.
//!
//! Decides:  the grammar of every line (docs/scenarios.md has it whole); that names are made before they
//!           are used, and host set-up comes before the first socket.
//! Not here: words and `repeat` (words.rs), option words (options.rs), addresses and expectations
//!           (address.rs, expect.rs).

use std::collections::BTreeMap;

use portcullis_kernel_model::{Call, Family, Host, Kernel, Opt, ProcessId, Program, Uid};

use super::amounts::{cpu, length, port_range, shutdown_how, wait};
use super::cursor::Cursor;
use super::options::{self, Value};
use super::problem::{Problem, did_you_mean};
use super::program::{Action, Expect, Script, Slot, Step, Verb};
use super::words::{self, Line};

/// What may be changed from outside a script.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The kernel of the model where the script names none.
    pub kernel: Kernel,
    /// The number of the first port by name; the next ones follow.
    pub first_port: u16,
    /// A script that waits longer, all in all, is skipped on a live kernel, and says so.
    pub patience_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            kernel: Kernel::V6_18,
            first_port: 20001,
            patience_ms: 3000,
        }
    }
}

/// Reads a script whole: every mistake is told, not only the first.
pub fn parse(text: &str, settings: Settings) -> Result<Script, Vec<Problem>> {
    let mut reader = Reader::new(settings);
    let mut problems = Vec::new();
    for line in words::unroll(&words::lines(text))? {
        match reader.line(&line) {
            Ok(Some(step)) => reader.script.steps.push(step),
            Ok(None) => {}
            // A line of a `repeat` is wrong once.
            Err(problem) if problems.contains(&problem) => {}
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() {
        Ok(reader.script)
    } else {
        Err(problems)
    }
}

/// Reads line by line: for a prompt.
#[derive(Debug)]
pub struct Reader {
    pub(super) script: Script,
    /// The last socket of each label.
    slots: BTreeMap<String, Slot>,
    /// Whether the label's socket is closed, so that its name can be given again.
    closed: Vec<bool>,
    /// Whether a label is of an `accept` that may have failed: another may take it.
    doubtful: Vec<bool>,
    /// Who made each socket.
    makers: Vec<ProcessId>,
    /// What each caller is.
    pub(super) callers: Vec<Caller>,
    pub(super) next_port: u16,
    pub(super) begun: bool,
}

/// What a name of `users` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// An identity.
    User,
    /// A process with descriptors of its own.
    Process {
        /// It is in a user namespace that was made, and cannot leave its network.
        confined: bool,
    },
    /// A process that has ended.
    Gone,
}

/// A device index that no host has: the name of an interface that does not exist.
pub(crate) const NO_DEVICE: u32 = 0x00ff_fffe;

pub(super) const CALLS: &[&str] = &[
    "set",
    "get",
    "bind",
    "listen",
    "connect",
    "accept",
    "shutdown",
    "close",
    "dup",
    "pass",
    "fchown",
    "nonblocking",
    "getsockname",
    "getpeername",
];
pub(super) const ITEMS: &[&str] = &[
    "from",
    "kernel",
    "sysctl",
    "interface",
    "user",
    "namespace",
    "user-namespace",
    "process",
    "port",
    "socket",
    "wait",
    "cpu",
    "repeat",
    "end",
];

/// Words that stand where a label can.
const RESERVED: &[&str] = &["one", "nobody"];

impl Reader {
    /// A reader before the first line.
    #[must_use]
    pub fn new(settings: Settings) -> Reader {
        let script = Script {
            from: Vec::new(),
            kernel: None,
            beside: None,
            host: Host::new(settings.kernel),
            set: Vec::new(),
            users: vec!["root".to_owned()],
            namespaces: vec!["host".to_owned()],
            user_namespaces: vec!["host".to_owned()],
            labels: Vec::new(),
            ports: Vec::new(),
            steps: Vec::new(),
            patience_ms: settings.patience_ms,
        };
        let next_port = settings.first_port;
        Reader {
            script,
            slots: BTreeMap::new(),
            closed: Vec::new(),
            doubtful: Vec::new(),
            makers: Vec::new(),
            callers: vec![Caller::User],
            next_port,
            begun: false,
        }
    }

    /// A reader of [`Reader::one_call`] on this host.
    pub(super) fn of_calls(host: Host) -> Reader {
        let mut reader = Reader::new(Settings::default());
        reader.script.host = host;
        reader
    }

    /// A call without its socket's label, ports by number.
    pub(super) fn one_call(&self, text: &str) -> Result<Call, Problem> {
        let line = words::split(1, text);
        let mut at = Cursor { line: &line, at: 0 };
        let verb = at.next().unwrap_or("");
        let call = self.verb(&mut at, verb)?.call(&[]);
        at.end()?;
        Ok(call)
    }

    /// What was read so far.
    #[must_use]
    pub fn script(&self) -> &Script {
        &self.script
    }

    /// One line of text: a step, or nothing where it sets the host up or is empty. `repeat` is for
    /// whole scripts.
    pub fn read(&mut self, number: usize, text: &str) -> Result<Option<Step>, Problem> {
        let line = words::split(number, text);
        if line.words.is_empty() {
            Ok(None)
        } else {
            self.line(&line)
        }
    }

    pub(super) fn line(&mut self, line: &Line) -> Result<Option<Step>, Problem> {
        let mut at = Cursor { line, at: 1 };
        let first = line.text(0).unwrap_or("");
        let action = match first {
            "from" => {
                let text = words::join(&line.words[1..]);
                self.script.from.push(text);
                return Ok(None);
            }
            "kernel" => self.kernel(&mut at).map(|()| None),
            "interface" => self.interface(&mut at).map(|()| None),
            "user" => self.user(&mut at).map(|()| None),
            "namespace" => self.namespace(&mut at).map(|()| None),
            "user-namespace" => self.user_namespace(&mut at).map(|()| None),
            "process" => self.process(&mut at).map(|()| None),
            "port" => self.port(&mut at),
            "sysctl" => self.sysctl(&mut at),
            "socket" => self.socket(&mut at).map(Some),
            "wait" => wait(&mut at).map(Some),
            "cpu" => cpu(&mut at).map(Some),
            "repeat" | "end" => Err(line.problem(0, "a block cannot be read line by line", "")),
            _ if self.is_of_process(line) => self.process_step(&mut at).map(Some),
            _ => self.call(&mut at).map(Some),
        }?;
        let Some(action) = action else {
            at.end()?;
            return Ok(None);
        };
        let expect = self.expectation(&mut at)?;
        self.begun = true;
        self.note(&action, expect.as_ref());
        Ok(Some(Step {
            line: line.number,
            said: line.said(),
            action,
            expect,
        }))
    }

    /// Remembers which labels are free again.
    fn note(&mut self, action: &Action, expect: Option<&Expect>) {
        let fails = expect
            .is_some_and(|e| !e.answers.is_empty() && e.answers.iter().all(super::expect::fails));
        if let Action::Call {
            slot,
            call: Verb::Plain(Call::Close),
            ..
        } = action
            && !fails
        {
            self.closed[*slot] = true;
        }
        if let Action::Accept { into, .. } = action {
            self.closed[*into] = fails;
            self.doubtful[*into] = expect.is_some_and(|e| {
                e.answers.is_empty() || e.answers.iter().any(super::expect::fails)
            });
        }
        if let Action::Exit { process } = action {
            for (closed, maker) in self.closed.iter_mut().zip(&self.makers) {
                *closed |= maker == process;
            }
        }
    }

    /// `socket LABEL inet|inet6 [by USER] [with OPTION, …]`.
    fn socket(&mut self, at: &mut Cursor<'_>) -> Result<Action, Problem> {
        let slot = self.new_label(at)?;
        let here = at.at;
        let family = match at.next() {
            Some("inet") => Family::Inet,
            Some("inet6") => Family::Inet6,
            _ => {
                return Err(at
                    .line
                    .problem(here, "the family is missing", "`inet` or `inet6`"));
            }
        };
        let user = if at.take("by") {
            self.named_user(at)?
        } else {
            ProcessId(0)
        };
        let mut all = Vec::new();
        if at.take("with") {
            loop {
                all.push(self.option(at)?);
                if !at.take(",") {
                    break;
                }
            }
        }
        self.makers[slot] = user;
        Ok(Action::Socket {
            slot,
            family,
            user,
            options: all,
        })
    }

    /// A label that does not name an open socket.
    fn new_label(&mut self, at: &mut Cursor<'_>) -> Result<Slot, Problem> {
        let here = at.at;
        let name = at.name("a label")?;
        if ITEMS.contains(&name.as_str()) || RESERVED.contains(&name.as_str()) {
            return Err(at.line.problem(
                here,
                format!("`{name}` is a word of the language"),
                "take another",
            ));
        }
        if let Some(slot) = self.slot(&name)
            && !self.closed[slot]
        {
            return Err(at.line.problem(
                here,
                format!("socket `{name}` is open"),
                "close it or take another label",
            ));
        }
        let slot = self.script.labels.len();
        self.slots.insert(name.clone(), slot);
        self.script.labels.push(name);
        self.closed.push(false);
        self.doubtful.push(false);
        self.makers.push(ProcessId(0));
        Ok(slot)
    }

    pub(super) fn slot(&self, name: &str) -> Option<Slot> {
        self.slots.get(name).copied()
    }

    pub(super) fn label(&self, at: &mut Cursor<'_>) -> Result<Slot, Problem> {
        let here = at.at;
        let Some(name) = at.next() else {
            return Err(at.line.problem(here, "a socket's label is missing", ""));
        };
        self.slot(name).ok_or_else(|| {
            let near = did_you_mean(name, self.script.labels.iter().map(String::as_str));
            at.line
                .problem(here, format!("no socket is called `{name}`"), near)
        })
    }

    pub(super) fn named_user(&self, at: &mut Cursor<'_>) -> Result<ProcessId, Problem> {
        let here = at.at;
        let name = at.next().unwrap_or("");
        let at_line = at.line;
        match self.script.users.iter().rposition(|user| user == name) {
            Some(at) if self.callers[at] == Caller::Gone => {
                Err(at_line.problem(here, format!("process `{name}` has ended"), ""))
            }
            Some(at) => Ok(ProcessId(at as u16)),
            None => {
                let near = did_you_mean(name, self.script.users.iter().map(String::as_str));
                Err(at
                    .line
                    .problem(here, format!("no user or process is called `{name}`"), near))
            }
        }
    }

    /// `LABEL CALL … [as USER]`.
    fn call(&mut self, at: &mut Cursor<'_>) -> Result<Action, Problem> {
        at.at = 0;
        let here = at.line.text(1).is_some_and(|word| CALLS.contains(&word));
        let slot = match self.label(at) {
            Ok(slot) => slot,
            Err(problem) if here => return Err(problem),
            Err(_) => return Err(self.unknown_item(at.line)),
        };
        let verb = at.next().unwrap_or("");
        if verb == "accept" {
            if let Some(earlier) = at.peek().and_then(|name| self.slot(name)) {
                self.closed[earlier] |= self.doubtful[earlier];
            }
            let into = self.new_label(at)?;
            let user = self.caller(at, slot)?;
            self.makers[into] = user;
            return Ok(Action::Accept { slot, user, into });
        }
        if verb == "pass" {
            let to = at.take("to").then(|| self.named_user(at)).transpose()?;
            let user = self.caller(at, slot)?;
            let call = Verb::Pass(to.unwrap_or(user));
            return Ok(Action::Call { slot, user, call });
        }
        let call = self.verb(at, verb)?;
        let user = self.caller(at, slot)?;
        Ok(Action::Call { slot, user, call })
    }

    /// A call but `accept` and `pass`, whose word was read.
    fn verb(&self, at: &mut Cursor<'_>, verb: &str) -> Result<Verb, Problem> {
        let verb_at = at.at.saturating_sub(1);
        let call = match verb {
            "set" => {
                let option = self.option(at)?;
                if at.take("length") {
                    Verb::SetLen(option, length(at)?)
                } else {
                    Verb::Set(option)
                }
            }
            "get" => {
                let name = options::read_name(at)?;
                if at.take("length") {
                    Verb::GetLen(name, length(at)?)
                } else {
                    Verb::Get(name)
                }
            }
            "bind" => Verb::Bind(self.address(at)?),
            "connect" => Verb::Connect(self.address(at)?),
            "listen" => Verb::Plain(Call::Listen(at.number()?.unwrap_or(128))),
            "shutdown" => Verb::Plain(Call::Shutdown(shutdown_how(at)?)),
            "close" => Verb::Plain(Call::Close),
            "dup" => Verb::Plain(Call::Dup),
            "fchown" => Verb::Plain(Call::Fchown(self.uid(at)?)),
            "nonblocking" => Verb::Plain(Call::SetNonblocking(at.switch())),
            "getsockname" => Verb::Plain(Call::GetSockName),
            "getpeername" => Verb::Plain(Call::GetPeerName),
            "" => {
                let label = "a call follows: bind, listen, connect, accept, close, …";
                return Err(at.line.problem(verb_at, "what is done with it?", label));
            }
            _ => {
                let near = did_you_mean(verb, CALLS.iter().copied());
                return Err(at
                    .line
                    .problem(verb_at, format!("unknown call `{verb}`"), near));
            }
        };
        Ok(call)
    }

    /// `as USER`, else the one who made the socket.
    fn caller(&self, at: &mut Cursor<'_>, slot: Slot) -> Result<ProcessId, Problem> {
        if at.take("as") {
            self.named_user(at)
        } else {
            Ok(self.makers[slot])
        }
    }

    fn uid(&self, at: &mut Cursor<'_>) -> Result<Uid, Problem> {
        if at.peek().is_some_and(words::is_digits) {
            let example = "4294967295, which is -1, leaves the owner as it is";
            return at.user_id(u32::MAX, example).map(Uid);
        }
        let user = self.named_user(at)?;
        Ok(self.script.host.processes[usize::from(user.0)].uid)
    }

    /// An option's word and its value.
    fn option(&self, at: &mut Cursor<'_>) -> Result<Opt, Problem> {
        let here = at.at;
        let word = at.next().unwrap_or("");
        let Some(entry) = options::settable(word) else {
            let known = options::SETTABLE
                .iter()
                .flat_map(|entry| [entry.word, entry.c_name]);
            let near = did_you_mean(word, known);
            return Err(at
                .line
                .problem(here, format!("unknown option `{word}`"), near));
        };
        let value_at = at.at;
        let missing = |what: &str| {
            at.line
                .problem(value_at, format!("`{word}` takes {what}"), "")
        };
        let option = match entry.value {
            Value::Switch(make) => make(at.switch()),
            Value::Number(make) => make(at.number()?.ok_or_else(|| missing("a number"))?),
            Value::Nothing(option) => option,
            Value::Repair if at.take("no-window-probe") => Opt::Repair(-1),
            Value::Repair => match at.number()? {
                Some(value) => Opt::Repair(value),
                None => Opt::Repair(i32::from(at.switch())),
            },
            Value::Linger if at.take("off") => Opt::Linger(None),
            Value::Linger => {
                let seconds = at.number()?.and_then(|n| u16::try_from(n).ok());
                Opt::Linger(Some(
                    seconds.ok_or_else(|| missing("seconds from 0 to 65535, or `off`"))?,
                ))
            }
            Value::Ports => {
                let range = at.next().and_then(port_range);
                Opt::LocalPortRange(range.ok_or_else(|| missing("LOW..HIGH"))?)
            }
            Value::Device => {
                let name = at
                    .next()
                    .ok_or_else(|| missing("an interface's name or `none`"))?;
                Opt::BindToDevice(if name == "none" { 0 } else { self.device(name) })
            }
            Value::Program => {
                let kind = at.next();
                let number = at.number()?.and_then(|n| u32::try_from(n).ok());
                match (kind, number) {
                    (Some("index"), Some(n)) => Opt::ReuseportCbpf(Program::Index(n)),
                    (Some("cpu"), Some(n)) => Opt::ReuseportCbpf(Program::CpuModulo(n)),
                    _ => return Err(missing("`index N` or `cpu N`")),
                }
            }
        };
        Ok(option)
    }

    /// A first word that is neither an item nor a socket.
    fn unknown_item(&self, line: &Line) -> Problem {
        let first = line.text(0).unwrap_or("");
        if self.script.users.iter().any(|user| user == first) {
            let label = "`forks CHILD`, `exits` or `enters NAMESPACE`";
            return line.problem(1, format!("what does `{first}` do?"), label);
        }
        let mut label = did_you_mean(first, ITEMS.iter().copied());
        if label.is_empty() {
            label =
                "a line begins with a socket's label, or with `socket`, `port`, `user`, `sysctl`, …"
                    .to_owned();
        }
        line.problem(
            0,
            format!("`{first}` is neither a socket nor a word of the language"),
            label,
        )
    }

    pub(super) fn device(&self, name: &str) -> u32 {
        // Every interface of a script has a name and a number of its own, but the loopbacks.
        let mut interfaces = self.script.host.namespaces.iter();
        interfaces
            .find_map(|net| {
                net.interfaces
                    .iter()
                    .find(|interface| interface.name == name)
            })
            .map_or(NO_DEVICE, |i| i.index)
    }
}
