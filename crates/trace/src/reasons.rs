//! Why a call was refused: by the watching itself, by a rule, or as the error alone says.
//!
//! Decides:  in which order they are asked; a refusal that the watching may have caused is called nothing
//!           else.
//! Not here: the rules (explain.rs), what an error says by itself (words.rs).

use portcullis_kernel_model::{self as model, Opt};

use crate::call::{Address, Call};
use crate::explain::{Explain, Question, Reason, Refused, Wanted, option};
use crate::recorder::{Made, Recorder};
use crate::words::{plain_text, setting};

impl Recorder {
    /// The reason of a call that was refused; `None` where there is nothing to tell.
    pub(crate) fn reason(
        &self,
        number: u64,
        made: &Made<'_>,
        errno: i32,
        explain: &mut dyn Explain,
    ) -> Option<Reason> {
        let socket = self.record.socket(number)?;
        if let Some(reason) = self.lost_privilege(made, errno) {
            return Some(reason);
        }
        let question = |caller, call| Question {
            record: &self.record,
            socket,
            process: made.process,
            caller,
            call,
            errno,
        };
        if !["tcp", "mptcp"].contains(&socket.protocol.as_str()) {
            let known = match made.call {
                Call::Bind {
                    address: Address::Inet(at),
                    ..
                } => explain.beyond_rules(&Refused {
                    process: made.process,
                    wanted: Wanted::Port(&socket.protocol, *at),
                    errno,
                }),
                _ => None,
            };
            return known.or_else(|| no_rules(&socket.protocol, errno));
        }
        let asked = made.caller.zip(in_the_models_words(made.call));
        let told = asked.and_then(|(caller, call)| explain.explain(&question(caller, call)));
        let plain = || plain_text(errno).map(|(text, advice)| Reason::plain(text, advice));
        told.or_else(plain)
    }

    /// A refusal that is there only because the program is watched must not be called anything else.
    fn lost_privilege(&self, made: &Made<'_>, errno: i32) -> Option<Reason> {
        let process = self.record.process(made.process)?;
        let gift = process.lost?;
        let low_port = matches!(made.call, Call::Bind { .. }) && errno == libc::EACCES;
        if !(low_port && gift.lets_bind_low_ports()) && errno != libc::EPERM {
            return None;
        }
        let text = format!(
            "{} would have {}, and has not because it is watched: the refusal may be due to that alone",
            process.program,
            gift.words()
        );
        let advice = "watch it as root: sudo portcullis why -- COMMAND";
        Some(Reason::plain(text, advice))
    }
}

/// The model knows TCP alone; other protocols have ports of their own.
fn no_rules(protocol: &str, errno: i32) -> Option<Reason> {
    if errno == libc::EADDRINUSE {
        let text =
            format!("another {protocol} socket holds the port on an address that this one covers");
        return Some(Reason::plain(text, "see who: ss -anpe"));
    }
    plain_text(errno).map(|(text, advice)| Reason::plain(text, advice))
}

/// A refused call as the model knows it; `None` for an option that has no part in its rules.
fn in_the_models_words(call: &Call) -> Option<model::Call> {
    /// A name that no device has, or that may not be asked for.
    const NO_DEVICE: u32 = u32::MAX;
    Some(match call {
        Call::Bind {
            address: Address::Inet(address),
            ..
        } => model::Call::Bind(*address),
        Call::Listen { backlog, .. } => model::Call::Listen(*backlog),
        Call::SetOption {
            level: libc::SOL_SOCKET,
            number: libc::SO_BINDTODEVICE,
            ..
        } => model::Call::Set(Opt::BindToDevice(NO_DEVICE)),
        Call::SetOption {
            level,
            number,
            value,
            ..
        } => {
            let value = value.as_deref();
            let value = value.and_then(|bytes| setting(*level, *number, bytes));
            model::Call::Set(option(*level, *number, value.as_ref(), None)?)
        }
        _ => return None,
    })
}
