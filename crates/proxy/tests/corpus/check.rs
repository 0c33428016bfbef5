//! What must hold of any bytes taken as a PROXY header.
//!
//! Decides:  a decision stands whatever comes after; nothing before it is one; a header lies within
//!           its bounds; what a header told is told again by a header of ours.
//! Not here: which bytes are tried.

use portcullis_proxy::proxy_protocol::{Decoded, LONGEST, Version, decode, encode};

/// Fails by a panic.
pub fn header(bytes: &[u8]) {
    let whole = decode(bytes);
    let mut decided = None;
    // Every beginning up to a bound, then some: a fuzzer's input may be long.
    let lengths = (0..=bytes.len().min(600)).chain([bytes.len()]);
    for length in lengths {
        let now = decode(&bytes[..length]);
        if let Some(before) = decided {
            assert_eq!(now, before, "more bytes changed the decision at {length}");
        } else if now != Decoded::Incomplete {
            decided = Some(now);
        }
    }
    let Decoded::Header(header) = whole else {
        return;
    };
    assert!(header.length <= bytes.len() && header.length <= LONGEST);
    let Some(told) = header.addresses else {
        return;
    };
    assert_eq!(told.source.is_ipv4(), told.destination.is_ipv4());
    for version in [
        Version::V1,
        Version::V2 { checksum: false },
        Version::V2 { checksum: true },
    ] {
        let written = encode(version, Some(told));
        let Decoded::Header(again) = decode(written.as_bytes()) else {
            panic!("{written:?} is no header");
        };
        assert_eq!(again.length, written.as_bytes().len());
        assert_eq!(again.addresses, Some(told), "{version:?}");
    }
}
