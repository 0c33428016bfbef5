//! Bytes that can be made twice and compared: a stream from a seed.

use std::io::{Read, Write};

/// An endless stream of bytes that depends on the seed only (xorshift64*).
pub struct Stream {
    state: u64,
}

impl Stream {
    pub fn new(seed: u64) -> Stream {
        Stream {
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// The next bytes of the stream; lengths are multiples of 8, but for the last piece.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

const PIECE: usize = 32 * 1024;

/// Writes the first `length` bytes of the stream.
pub fn send(mut to: impl Write, seed: u64, length: usize) -> std::io::Result<()> {
    let mut stream = Stream::new(seed);
    let mut piece = vec![0; PIECE];
    let mut left = length;
    while left > 0 {
        let now = left.min(PIECE);
        stream.fill(&mut piece[..now]);
        to.write_all(&piece[..now])?;
        left -= now;
    }
    Ok(())
}

/// Reads to the end, comparing with the stream; the number of bytes, all of them right.
///
/// # Panics
///
/// At the first byte that differs, naming its place.
#[track_caller]
pub fn expect(mut from: impl Read, seed: u64) -> std::io::Result<usize> {
    let mut stream = Stream::new(seed);
    let (mut wanted, mut got) = (vec![0; PIECE], vec![0; PIECE]);
    let mut total = 0;
    loop {
        // Whole pieces, so that both sides cut the stream in the same places.
        let mut filled = 0;
        while filled < PIECE {
            match from.read(&mut got[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        stream.fill(&mut wanted[..filled]);
        if let Some(place) = (0..filled).find(|&place| wanted[place] != got[place]) {
            panic!(
                "byte {} is {:#x}, not {:#x}",
                total + place,
                got[place],
                wanted[place]
            );
        }
        total += filled;
        if filled < PIECE {
            return Ok(total);
        }
    }
}

#[test]
fn a_stream_is_the_same_however_it_is_cut_and_a_wrong_byte_is_found() {
    let mut sent = Vec::new();
    send(&mut sent, 7, 100_003).unwrap();
    assert_eq!(expect(&sent[..], 7).unwrap(), 100_003);
    sent[70_001] ^= 1;
    let found = std::panic::catch_unwind(|| expect(&sent[..], 7)).unwrap_err();
    assert!(
        found
            .downcast_ref::<String>()
            .unwrap()
            .starts_with("byte 70001 is")
    );
}
