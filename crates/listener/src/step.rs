//! The steps of opening a listening socket, in order, and what a failure of each means.
//!
//! Decides:  the order, the message, the flags, and whether the listener still opens.
//! Source:   HAProxy's tcp_bind_listener() and sock_inet_bind_receiver() (the steps, their flags
//!           and words); our own steps lie between theirs.
//! Not here: doing the steps (open.rs), writing a message out (error.rs).

use serde::{Deserialize, Serialize};

use crate::Flags;

/// What a failed step does to the listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// Nothing can fail here.
    Never,
    /// The listener opens without it, and the failure is reported. An error under `strict`.
    GoOn,
    /// The socket is closed: the listener does not open.
    Close,
}

/// What is known about a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepInfo {
    /// The step.
    pub step: Step,
    /// Its number in HAProxy's sequence; `None` for a step of our own.
    pub number: Option<u8>,
    /// The words of a report, lower case, without the address.
    pub message: &'static str,
    /// The flags that a failure raises.
    pub flags: Flags,
    /// What a failure does to the listener.
    pub on_failure: OnFailure,
    /// Is it done for an inherited socket too?
    pub inherited: Inherited,
}

/// Is a step done for an inherited socket?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherited {
    /// Yes, as for any other.
    Same,
    /// No: whoever made the socket has decided.
    Skipped,
    /// What the socket has is compared with what is asked for.
    Compared,
}

macro_rules! steps {
    ($($(#[$doc:meta])* $step:ident: $number:expr, $message:literal, $flags:expr, $failure:ident, $inherited:ident;)*) => {
        /// A step of opening a listening socket, in the order of doing.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[non_exhaustive]
        pub enum Step {
            $($(#[$doc])* $step,)*
        }

        /// Every step, in order.
        pub const STEPS: &[StepInfo] = &[
            $(StepInfo {
                step: Step::$step,
                number: $number,
                message: $message,
                flags: $flags,
                on_failure: OnFailure::$failure,
                inherited: Inherited::$inherited,
            },)*
        ];
    };
}

const NONE: Flags = Flags::empty();
const WARN: Flags = Flags::WARN;
const ALERT: Flags = Flags::ALERT;
const TRY_AGAIN: Flags = Flags::RETRYABLE.union(Flags::ALERT);
const FATAL: Flags = Flags::FATAL.union(Flags::ALERT);
const ABORT: Flags = FATAL.union(Flags::ABORT);

steps! {
    /// Only a listener that is assigned and not open yet is opened; a second call does nothing.
    Assigned: Some(1), "", NONE, Never, Same;
    /// The address must not be in the set twice where the second would take the first one's place.
    Distinct: None, "cannot use one path twice", FATAL, Close, Same;
    /// The descriptors that systemd passed under a name.
    Activation: None, "cannot find activated socket", FATAL, Close, Same;
    /// Enter the network namespace, for creating the socket only.
    Namespace: None, "cannot enter network namespace", FATAL, Close, Compared;
    /// `socket`, or a duplicate of the inherited descriptor.
    Create: Some(2), "cannot create listening socket", TRY_AGAIN, Close, Same;
    /// An inherited descriptor must be a bound, unconnected stream socket of a known family.
    Inherited: None, "cannot use inherited descriptor", FATAL, Close, Compared;
    /// The inherited number itself must not reach the programs that are executed later.
    CloseOnExec: None, "cannot make inherited descriptor close-on-exec", WARN, GoOn, Same;
    /// The descriptor must fit the process's limit.
    DescriptorLimit: Some(3), "not enough free sockets", ABORT, Close, Same;
    /// `O_NONBLOCK`, all other flags kept.
    NonBlocking: Some(4), "cannot make socket non-blocking", FATAL, Close, Same;
    /// `SO_REUSEADDR`
    ReuseAddr: Some(5), "cannot do so_reuseaddr", ALERT, GoOn, Skipped;
    /// `SO_LINGER` on with zero seconds.
    NoLinger: Some(6), "cannot set SO_LINGER", WARN, GoOn, Same;
    /// `SO_REUSEPORT`
    ReusePort: Some(7), "cannot set SO_REUSEPORT", WARN, GoOn, Skipped;
    /// `IP_TRANSPARENT`, `IP_FREEBIND` and the IPv6 forms.
    Foreign: Some(8), "cannot make listening socket transparent", ALERT, GoOn, Skipped;
    /// `SO_BINDTODEVICE`. HAProxy goes on, and is then open on every device; we do not.
    Interface: Some(9), "cannot bind listener to device", FATAL, Close, Compared;
    /// `TCP_MAXSEG`
    Mss: Some(10), "cannot set MSS", WARN, GoOn, Same;
    /// `TCP_DEFER_ACCEPT`
    DeferAccept: Some(11), "cannot enable DEFER_ACCEPT", WARN, GoOn, Same;
    /// `TCP_FASTOPEN`
    FastOpen: Some(12), "cannot enable TCP_FASTOPEN", WARN, GoOn, Same;
    /// `IPV6_V6ONLY`
    Ipv6Only: Some(13), "cannot set IPV6_V6ONLY", WARN, GoOn, Compared;
    /// `TCP_USER_TIMEOUT`
    UserTimeout: None, "cannot set user timeout", WARN, GoOn, Same;
    /// `TCP_CONGESTION`
    Congestion: None, "cannot set congestion control algorithm", WARN, GoOn, Same;
    /// `TCP_MD5SIG_EXT`: refused, the listener would take unsigned connections, so it is closed.
    Md5: None, "cannot set TCP MD5 signature", FATAL, Close, Same;
    /// `TCP_NODELAY`
    NoDelay: None, "cannot set TCP_NODELAY", WARN, GoOn, Same;
    /// `SO_INCOMING_CPU`
    IncomingCpu: None, "cannot set SO_INCOMING_CPU", WARN, GoOn, Same;
    /// `fchown` to the user that will run.
    Owner: None, "cannot give socket to its user", WARN, GoOn, Skipped;
    /// What is at a Unix socket's path, and a place beside it.
    UnixPath: None, "cannot prepare socket path", FATAL, Close, Skipped;
    /// `bind`
    Bind: Some(14), "cannot bind socket", TRY_AGAIN, Close, Skipped;
    /// Owner and mode of a Unix socket's file.
    UnixPermissions: None, "cannot set owner or mode of socket file", FATAL, Close, Skipped;
    /// `listen`, unless an inherited socket listens already.
    Listen: Some(15), "cannot listen to socket", TRY_AGAIN, Close, Compared;
    /// `TCP_QUICKACK` off.
    NoQuickAck: Some(16), "cannot disable TCP_QUICKACK", WARN, GoOn, Same;
    /// The socket is LISTEN and nobody polls it.
    Listening: Some(17), "", NONE, Never, Same;
    /// One specification, several sockets: where that cannot be, one socket serves all.
    Shards: None, "listening with one shared socket", NONE, GoOn, Same;
    /// A Unix socket takes its path, in place of an old one.
    UnixReplace: None, "cannot put socket in its place", FATAL, Close, Skipped;
}

impl Step {
    /// What is known about the step.
    pub fn info(self) -> &'static StepInfo {
        // The table is made from the same list as the enum, in its order.
        &STEPS[self as usize]
    }

    /// Does the listener not open when this step fails?
    pub fn closes(self, strict: Strict) -> bool {
        match self.info().on_failure {
            OnFailure::Never => false,
            OnFailure::GoOn => strict == Strict::Yes,
            OnFailure::Close => true,
        }
    }

    /// The flags of a failure of this step: a refusal that `strict` turns into an error is fatal
    /// for the listener.
    pub fn flags(self, strict: Strict) -> Flags {
        let info = self.info();
        if info.on_failure == OnFailure::GoOn && strict == Strict::Yes {
            info.flags.difference(WARN) | FATAL
        } else {
            info.flags
        }
    }
}

/// Is a refused option an error?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strict {
    /// A refusal is an error.
    Yes,
    /// A refusal is reported, and the listener opens without the option.
    No,
}

impl From<bool> for Strict {
    fn from(strict: bool) -> Self {
        if strict { Strict::Yes } else { Strict::No }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HAProxy's rows as the seed document has them: number, message, flags, does it go on?
    const SEED: &[(u8, &str, Flags, bool)] = &[
        (2, "cannot create listening socket", TRY_AGAIN, false),
        (3, "not enough free sockets", ABORT, false),
        (4, "cannot make socket non-blocking", FATAL, false),
        (5, "cannot do so_reuseaddr", ALERT, true),
        (8, "cannot make listening socket transparent", ALERT, true),
        (10, "cannot set MSS", WARN, true),
        (11, "cannot enable DEFER_ACCEPT", WARN, true),
        (12, "cannot enable TCP_FASTOPEN", WARN, true),
        (14, "cannot bind socket", TRY_AGAIN, false),
        (15, "cannot listen to socket", TRY_AGAIN, false),
    ];

    #[test]
    fn the_table_says_what_the_seed_document_says() {
        for (number, message, flags, goes_on) in SEED {
            let info = STEPS.iter().find(|s| s.number == Some(*number)).unwrap();
            assert_eq!(info.message, *message, "row {number}");
            assert_eq!(info.flags, *flags, "row {number}");
            assert_eq!(info.on_failure == OnFailure::GoOn, *goes_on, "row {number}");
        }
    }

    #[test]
    fn a_refused_device_closes_where_the_seed_goes_on_open_to_every_device() {
        let info = Step::Interface.info();
        assert_eq!(info.message, "cannot bind listener to device");
        assert_eq!(info.on_failure, OnFailure::Close);
        assert_eq!(info.flags, FATAL);
    }

    #[test]
    fn rows_that_the_seed_passes_over_in_silence_are_reported() {
        for number in [6, 7, 13, 16] {
            let info = STEPS.iter().find(|s| s.number == Some(number)).unwrap();
            assert_eq!(info.flags, WARN, "row {number}");
        }
    }

    #[test]
    fn steps_stand_in_the_order_of_the_seed_with_each_number_once() {
        let numbers: Vec<u8> = STEPS.iter().filter_map(|s| s.number).collect();
        assert_eq!(numbers, (1..=17).collect::<Vec<u8>>());
        for (index, info) in STEPS.iter().enumerate() {
            assert_eq!(info.step as usize, index);
        }
    }

    #[test]
    fn strict_makes_a_refusal_fatal_and_changes_nothing_else() {
        assert_eq!(Step::Mss.flags(Strict::Yes), FATAL);
        assert!(Step::Mss.closes(Strict::Yes) && !Step::Mss.closes(Strict::No));
        assert_eq!(Step::Bind.flags(Strict::Yes), TRY_AGAIN);
        assert!(Step::Bind.closes(Strict::No));
    }
}
