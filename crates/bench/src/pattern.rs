//! The bytes that travel: different for each request, and for each place in a stream.
//!
//! Decides:  a request is its number, mixed anew for each word; a stream repeats after a megabyte,
//!           less one word, so that pieces of a round size that change places are noticed.
//! Not here: who compares (rig).

/// Bytes of a request, and of its answer.
pub const REQUEST: usize = 128;
/// Bytes after which a stream repeats.
const PERIOD: usize = (1 << 20) - 8;
/// The most that is sent at once.
pub const PIECE: usize = 256 * 1024;

fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The request of this number.
pub fn request(sequence: u64) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    let seed = mix(sequence);
    for (place, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = seed.rotate_left(place as u32 * 3) ^ place as u64;
        word.copy_from_slice(&value.to_ne_bytes());
    }
    bytes
}

/// A stream's bytes.
#[derive(Debug)]
pub struct Pattern {
    /// One period, and enough of the next for one piece.
    bytes: Vec<u8>,
}

impl Pattern {
    /// Makes them.
    pub fn new() -> Pattern {
        let mut bytes: Vec<u8> = (0..PERIOD as u64 / 8)
            .flat_map(|place| mix(place).to_ne_bytes())
            .collect();
        bytes.extend_from_within(..PIECE);
        Pattern { bytes }
    }

    /// What stands at `offset` of a stream: up to `length` bytes of it, and up to a piece.
    pub fn at(&self, offset: u64, length: u64) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        let length = length.min(PIECE as u64) as usize;
        &self.bytes[start..start + length]
    }

    /// Is this what stands at `offset`?
    pub fn agrees(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut offset = offset;
        bytes.chunks(PIECE).all(|piece| {
            let same = self.at(offset, piece.len() as u64) == piece;
            offset += piece.len() as u64;
            same
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_differ_by_their_number() {
        assert_ne!(request(1), request(2));
        assert_eq!(request(7), request(7));
    }

    #[test]
    fn a_stream_agrees_with_itself_and_with_nothing_shifted_or_spoilt() {
        let pattern = Pattern::new();
        let offset = PERIOD as u64 - 1000;
        let mut bytes = pattern.at(offset, 5000).to_vec();
        assert!(pattern.agrees(offset, &bytes));
        for shift in [1, 8, 4096, 65_536, 1 << 20] {
            assert!(!pattern.agrees(offset + shift, &bytes), "{shift}");
        }
        bytes[4999] ^= 1;
        assert!(!pattern.agrees(offset, &bytes));
    }

    #[test]
    fn more_than_a_piece_is_compared_piece_by_piece() {
        let pattern = Pattern::new();
        let mut bytes = Vec::new();
        while bytes.len() < 3 * PIECE {
            let piece = pattern.at(77 + bytes.len() as u64, 100_001);
            bytes.extend_from_slice(piece);
        }
        assert!(pattern.agrees(77, &bytes));
        bytes[2 * PIECE + 5] ^= 0x80;
        assert!(!pattern.agrees(77, &bytes));
    }
}
