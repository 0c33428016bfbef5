//! How bad a refusal is, and what may be done about it.
//!
//! Decides:  the meaning of the five flags, which add up over the listeners of a set.
//! Source:   HAProxy's `ERR_*` (include/haproxy/errors.h); the seed document on `tcp_bind_listener`.
//! Not here: which step raises which flag (step.rs).

use bitflags::bitflags;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

bitflags! {
    /// What a step that failed says about the listener and about the others of its set.
    ///
    /// The flags of several listeners are joined with `|`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Flags: u8 {
        /// Trying again in a moment can help.
        const RETRYABLE = 1;
        /// This listener cannot work as it is specified.
        const FATAL = 2;
        /// Stop trying the other listeners of the set.
        const ABORT = 4;
        /// There is a message, to be reported as a warning.
        const WARN = 8;
        /// There is a message, to be reported as an error.
        const ALERT = 16;
    }
}

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.bits().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Flags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u8::deserialize(deserializer).map(Flags::from_bits_truncate)
    }
}
