//! What went wrong, what may surprise, and what could not be seen: one entry each.
//!
//! Decides:  the kinds of findings, how severe each is, and its words.
//! Not here: when one is made (recorder.rs), which rule refused a call (explain.rs).

use std::fmt;

use serde::Serialize;

use crate::call::Abi;
use crate::privilege::Gift;
use crate::record::{ErrorNumber, Family};

/// A backlog from here on asks for as much as there may be: that it is less is a note.
const AS_MUCH_AS_THERE_IS: i32 = 65_535;

/// Something to tell of a watched program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How severe it is.
    pub severity: Severity,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
    /// The process that it is about.
    pub process: i32,
    /// What that is called.
    pub program: String,
    /// The socket, by its number in the record.
    pub socket: Option<u64>,
    /// Other sockets that have to do with it.
    pub holders: Vec<Holder>,
    /// Why it is so.
    pub rule: Option<RuleText>,
    /// What would help.
    pub ways: Vec<Way>,
    /// How often it happened.
    pub times: u64,
}

/// How severe a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Something was not or not fully seen.
    Note,
    /// It worked, perhaps not as was meant.
    Warning,
    /// A call that opens a listener failed.
    Error,
}

/// What a finding is, with its facts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Kind {
    /// `socket` failed.
    SocketRefused {
        /// Of this family.
        family: Family,
        /// Why.
        error: ErrorNumber,
    },
    /// `setsockopt` failed.
    OptionRefused {
        /// The option's C name.
        option: String,
        /// Why.
        error: ErrorNumber,
    },
    /// `bind` failed.
    BindRefused {
        /// Where to.
        address: String,
        /// Why.
        error: ErrorNumber,
    },
    /// `listen` failed.
    ListenRefused {
        /// The socket's address.
        address: String,
        /// Why.
        error: ErrorNumber,
    },
    /// It listens on every device, since it could not be bound to one.
    EveryDevice {
        /// The socket's address.
        address: String,
        /// The option that failed.
        option: String,
        /// Why.
        error: ErrorNumber,
    },
    /// Fewer connections may wait than was asked for.
    BacklogCut {
        /// The socket's address.
        address: String,
        /// The backlog that was asked for.
        asked: i32,
        /// The backlog that it has.
        limit: u32,
    },
    /// It listens on the IPv6 wildcard alone, and nothing of the program on IPv4.
    OnlyIpv6 {
        /// The socket's address.
        address: String,
    },
    /// An option was set when `bind` had been decided without it.
    OptionTooLate {
        /// The socket's address.
        address: String,
        /// The option.
        option: String,
    },
    /// Another program listens on the same port, and both get connections.
    SharedSilently {
        /// The socket's address.
        address: String,
    },
    /// `listen` without `bind`: the kernel chose the port.
    ListenUnbound {
        /// The socket's address.
        address: String,
    },
    /// `bind` to port 0: the kernel chose the port.
    RandomPort {
        /// The socket's address.
        address: String,
    },
    /// A program file gives privilege, and does not while it is watched.
    PrivilegeLost {
        /// The file.
        file: String,
        /// What it would give.
        gift: Gift,
    },
    /// Sockets may be made and bound by io_uring.
    IoUring,
    /// The program refuses some of its own calls.
    Sandbox,
    /// A debugger among the watched could not do its work.
    Debugger,
    /// Calls of a 32-bit or x32 program.
    ForeignCalls {
        /// Which.
        abi: Abi,
    },
    /// What a call was given could not be read.
    Unreadable,
}

/// A socket that has to do with a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// What the process is called.
    pub program: String,
    /// Its id; `None` for a socket that no process holds.
    pub process: Option<i32>,
    /// The descriptor.
    pub fd: Option<i32>,
    /// What it is: `listening on 10.0.0.5:443 without SO_REUSEPORT`, and whose.
    pub what: String,
    /// What else is known of it, a line each: the command line, and who holds the socket too.
    pub more: Vec<String>,
}

/// The rule behind a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleText {
    /// Its stable name, as in docs/bind-rules.md; empty for what is no rule of bind and listen.
    pub id: String,
    /// What it says.
    pub text: String,
}

/// What would help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Way {
    /// In words.
    pub text: String,
    /// It was tried on the model, and the call succeeded there.
    pub tried: bool,
}

impl Way {
    /// Advice that was not tried.
    pub fn advice(text: impl Into<String>) -> Way {
        Way {
            text: text.into(),
            tried: false,
        }
    }
}

impl Kind {
    /// How severe it is.
    pub fn severity(&self) -> Severity {
        match self {
            Kind::BacklogCut { asked, .. } if *asked < AS_MUCH_AS_THERE_IS => Severity::Warning,
            Kind::BindRefused { .. } | Kind::ListenRefused { .. } => Severity::Error,
            // An option of another protocol or a newer kernel: programs try, and live without.
            Kind::OptionRefused { error, .. } if error.0 == libc::ENOPROTOOPT => Severity::Note,
            Kind::SocketRefused { .. }
            | Kind::OptionRefused { .. }
            | Kind::EveryDevice { .. }
            | Kind::OnlyIpv6 { .. }
            | Kind::OptionTooLate { .. }
            | Kind::SharedSilently { .. }
            | Kind::ListenUnbound { .. }
            | Kind::PrivilegeLost { .. } => Severity::Warning,
            Kind::BacklogCut { .. }
            | Kind::RandomPort { .. }
            | Kind::IoUring
            | Kind::Sandbox
            | Kind::Debugger
            | Kind::ForeignCalls { .. }
            | Kind::Unreadable => Severity::Note,
        }
    }

    /// Why a finding that no rule of the kernel's model explains is what it is.
    pub(crate) fn why(&self) -> Option<&'static str> {
        Some(match self {
            Kind::EveryDevice { .. } => {
                "a socket that is bound to no device takes connections from all of them"
            }
            Kind::BacklogCut { .. } => "the kernel cuts the backlog to net.core.somaxconn",
            Kind::OnlyIpv6 { .. } => {
                "a socket with IPV6_V6ONLY gets no IPv4 connection, and nothing else of this program does"
            }
            Kind::OptionTooLate { .. } => {
                "bind compares options when it is called; one that is set later had no part in it"
            }
            Kind::SharedSilently { .. } => {
                "with SO_REUSEPORT all sockets of one user listen side by side, and the kernel gives each a share of the connections"
            }
            Kind::ListenUnbound { .. } => {
                "listen on a socket without a port takes one of net.ipv4.ip_local_port_range, on every address"
            }
            Kind::PrivilegeLost { .. } => {
                "a watched program gets nothing from its file's mode or capabilities, unless the one who watches could have it too"
            }
            Kind::IoUring => {
                "a ring can make, bind and listen on sockets without a system call; what it does is not seen here"
            }
            Kind::Sandbox => {
                "calls that the program's own seccomp filter refuses end before they are seen here"
            }
            Kind::Debugger => "a process has one tracer, and this one is it",
            Kind::ForeignCalls { .. } => {
                "its socket calls are noticed, not read: sockets of it are missing here"
            }
            Kind::Unreadable => "the process does not let this user read its memory or descriptors",
            _ => return None,
        })
    }

    /// What would help, where it does not depend on anything else.
    pub(crate) fn advice(&self) -> Option<String> {
        Some(match self {
            Kind::BacklogCut { asked, limit, .. } if *asked >= AS_MUCH_AS_THERE_IS => format!(
                "where {limit} waiting connections are too few, set net.core.somaxconn higher and start the program again"
            ),
            Kind::BacklogCut { asked, .. } => format!(
                "set net.core.somaxconn = {asked}, or ask for less; then start the program again"
            ),
            Kind::EveryDevice { option, .. } => {
                format!("treat a failure of {option} as fatal, or bind the device's address")
            }
            Kind::OnlyIpv6 { .. } => {
                "clear IPV6_V6ONLY before bind, or open a second socket on 0.0.0.0".to_owned()
            }
            Kind::OptionTooLate { option, .. } => format!("set {option} before bind"),
            Kind::SharedSilently { .. } => {
                "stop the other one, or bind without SO_REUSEPORT where one server is meant"
                    .to_owned()
            }
            Kind::ListenUnbound { .. } => "call bind first".to_owned(),
            Kind::PrivilegeLost { .. } => {
                "watch it as root: sudo portcullis why -- COMMAND".to_owned()
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::SocketRefused { family, error } => {
                let family = match family {
                    Family::Inet => "IPv4",
                    Family::Inet6 => "IPv6",
                };
                write!(f, "cannot make an {family} socket: {error}")
            }
            Kind::OptionRefused { option, error } => write!(f, "cannot set {option}: {error}"),
            Kind::BindRefused { address, error } => write!(f, "cannot bind {address}: {error}"),
            Kind::ListenRefused { address, error } => {
                write!(f, "cannot listen on {address}: {error}")
            }
            Kind::EveryDevice {
                address, option, ..
            } => {
                write!(
                    f,
                    "{address} listens on every device, since {option} failed"
                )
            }
            Kind::BacklogCut {
                address,
                asked,
                limit,
            } => {
                write!(
                    f,
                    "{address} listens with a backlog of {limit}, not {asked}"
                )
            }
            Kind::OnlyIpv6 { address } => write!(f, "{address} listens on IPv6 only"),
            Kind::OptionTooLate { address, option } => {
                write!(f, "{option} is set after {address} was bound")
            }
            Kind::SharedSilently { address } => {
                write!(f, "another program listens on {address} too")
            }
            Kind::ListenUnbound { address } => {
                write!(
                    f,
                    "listens without having bound: the kernel chose {address}"
                )
            }
            Kind::RandomPort { address } => {
                write!(f, "bound to port 0: the kernel chose {address}")
            }
            Kind::PrivilegeLost { file, gift } => {
                write!(f, "{file} runs without {}", gift.words())
            }
            Kind::IoUring => f.write_str("uses io_uring"),
            Kind::Sandbox => f.write_str("filters its own system calls"),
            Kind::Debugger => f.write_str("cannot trace a process"),
            Kind::ForeignCalls { abi: Abi::Compat } => {
                f.write_str("makes calls as a 32-bit program")
            }
            Kind::ForeignCalls { abi: Abi::X32 } => f.write_str("makes calls as an x32 program"),
            Kind::Unreadable => f.write_str("cannot be looked into"),
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program)?;
        if let Some(process) = self.process {
            write!(f, ", pid {process}")?;
        }
        if let Some(fd) = self.fd {
            write!(f, ", fd {fd}")?;
        }
        write!(f, ", {}", self.what)?;
        for line in &self.more {
            write!(f, "\n          {line}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    /// One line, and below it holder, rule and ways out where there are any; no line end behind the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} (pid {}): {}",
            self.severity, self.program, self.process, self.kind
        )?;
        if self.times > 1 {
            write!(f, " ({} times)", self.times)?;
        }
        for holder in &self.holders {
            write!(f, "\n  holder: {holder}")?;
        }
        if let Some(RuleText { id, text }) = &self.rule {
            let colon = if id.is_empty() { "" } else { ": " };
            write!(f, "\n  rule:   {id}{colon}{text}")?;
        }
        // Whoever follows a line behind `try` finds that it works.
        for (head, tried) in [("  try:    ", true), ("  hint:   ", false)] {
            let ways = self.ways.iter().filter(|way| way.tried == tried);
            for (at, way) in ways.enumerate() {
                let head = if at == 0 { head } else { "          " };
                write!(f, "\n{head}{}", way.text)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_bind_reads_as_an_error_with_its_holder_rule_and_ways_out() {
        let kind = Kind::BindRefused {
            address: "0.0.0.0:443".into(),
            error: ErrorNumber(libc::EADDRINUSE),
        };
        let finding = Finding {
            severity: kind.severity(),
            kind,
            process: 812,
            program: "web".into(),
            socket: Some(2),
            holders: vec![Holder {
                program: "api".into(),
                process: Some(811),
                fd: Some(3),
                what: "listening on 10.0.0.5:443 without SO_REUSEPORT".into(),
                more: vec!["held also by api, pid 815, fd 3, from pid 811".into()],
            }],
            rule: Some(RuleText {
                id: "port-held".into(),
                text: "It is held.".into(),
            }),
            ways: vec![
                Way::advice("look"),
                Way {
                    text: "one".into(),
                    tried: true,
                },
                Way {
                    text: "two".into(),
                    tried: true,
                },
            ],
            times: 3,
        };
        let expected = "\
error: web (pid 812): cannot bind 0.0.0.0:443: address already in use (EADDRINUSE) (3 times)
  holder: api, pid 811, fd 3, listening on 10.0.0.5:443 without SO_REUSEPORT
          held also by api, pid 815, fd 3, from pid 811
  rule:   port-held: It is held.
  try:    one
          two
  hint:   look";
        assert_eq!(finding.to_string(), expected);
    }
}
