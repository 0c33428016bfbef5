//! What an event's 64 bits say: whose descriptor, and which tenant of its slot.
//!
//! Decides:  a stale event, of a descriptor that was closed earlier in the same batch, finds nobody.
//! Not here: the slots (slab.rs).

use crate::slab::Key;

/// Whose descriptor an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A session's client.
    Client(Key),
    /// A session's server.
    Server(Key),
    /// A listener, by its place in the worker's list, and which list.
    Listener(Key),
    /// The worker's bell.
    Bell,
}

/// Slots that a token can name.
pub const MOST_SLOTS: u32 = 1 << 30;

impl Token {
    /// As the kernel keeps it.
    pub fn pack(self) -> u64 {
        let (kind, key) = match self {
            Token::Client(key) => (0, key),
            Token::Server(key) => (1, key),
            Token::Listener(key) => (2, key),
            Token::Bell => {
                return 3;
            }
        };
        debug_assert!(key.index < MOST_SLOTS);
        u64::from(key.generation) << 32 | u64::from(key.index) << 2 | kind
    }

    /// From what the kernel kept.
    pub fn unpack(bits: u64) -> Token {
        let key = Key {
            index: (bits as u32) >> 2,
            generation: (bits >> 32) as u32,
        };
        match bits & 3 {
            0 => Token::Client(key),
            1 => Token::Server(key),
            2 => Token::Listener(key),
            _ => Token::Bell,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_as_it_was() {
        for index in [0, 1, 77, MOST_SLOTS - 1] {
            for generation in [0, 1, u32::MAX] {
                let key = Key { index, generation };
                for token in [Token::Client(key), Token::Server(key), Token::Listener(key)] {
                    assert_eq!(Token::unpack(token.pack()), token);
                }
            }
        }
        assert_eq!(Token::unpack(Token::Bell.pack()), Token::Bell);
    }
}
