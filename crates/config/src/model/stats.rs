//! The runtime sockets: where they are and what they allow.
//!
//! Decides:  the words for the levels, and their order.
//! Source:   HAProxy's manual, chapter 3.1 `stats socket`, chapter 5.1 `level`, `expose-fd`,
//!           `severity-output`; src/cli.c, 3.5-dev5.
//! Not here: the commands and their levels (the control plane).

use std::time::Duration;

use super::Bind;

/// Everything that `global` says of its runtime sockets.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// `stats socket` lines.
    pub sockets: Vec<StatsSocket>,
    /// `stats timeout`: how long a client may be silent. `None`: 10 s.
    pub timeout: Option<Duration>,
    /// `stats maxconn`: clients at once. `None`: 10.
    pub maxconn: Option<u32>,
}

/// One `stats socket` line.
#[derive(Debug, Clone)]
pub struct StatsSocket {
    /// Its addresses, and what else it has in common with a `bind` line.
    pub bind: Bind,
    /// What its clients may do.
    pub options: StatsOptions,
}

/// The parameters that only a runtime socket has a use for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatsOptions {
    /// `level`
    pub level: StatsLevel,
    /// `severity-output`
    pub severity: SeverityOutput,
    /// `expose-fd listeners`: another process may take the listeners.
    pub exposes_listeners: bool,
}

/// What a client of a runtime socket may do; the greater may all that the lesser may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum StatsLevel {
    /// `user`: look at what is no secret.
    User,
    /// `operator`: look at everything, and change what does no harm.
    #[default]
    Operator,
    /// `admin`: everything.
    Admin,
}

impl StatsLevel {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            StatsLevel::User => "user",
            StatsLevel::Operator => "operator",
            StatsLevel::Admin => "admin",
        }
    }
}

/// How the severity of a message is shown before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SeverityOutput {
    /// Not at all.
    #[default]
    None,
    /// As syslog's number.
    Number,
    /// As syslog's word.
    String,
}
