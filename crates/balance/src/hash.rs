//! From a client's address to the number by which `balance source` and `balance hash` choose.
//!
//! Decides:  which bytes are hashed, by which function, and whether the result is mixed again.
//! Source:   HAProxy's manual, `balance source`, `balance hash`, `hash-type`, `ipmask`; src/backend.c,
//!           get_server_sh() and gen_hash(), src/hash.c, 2.6 to 3.5. CRC-32: ITU-T V.42.
//!           The mixer is Bob Jenkins' 6-shift integer hash (burtleburtle.net/bob/hash/integer.html).
//! Not here: from the number to a server (map: static_rr.rs, ring.rs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `hash-type … FUNCTION`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashFunction {
    /// `sdbm`
    #[default]
    Sdbm,
    /// `djb2`
    Djb2,
    /// `wt6`
    Wt6,
    /// `crc32`
    Crc32,
    /// `none`: the number that the text begins with.
    None,
}

/// What of a client is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashInput {
    /// `balance source`: the words of the address, folded; no function applies.
    #[default]
    Source,
    /// `balance hash src,ipmask(v4,v6)`: the bytes of the address, masked.
    Masked {
        /// Bits that count of an IPv4 address.
        v4: u8,
        /// Bits that count of an IPv6 address.
        v6: u8,
    },
}

/// How an address becomes a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AddressHash {
    /// What is hashed.
    pub input: HashInput,
    /// By which function.
    pub function: HashFunction,
    /// `avalanche`: mixed again.
    pub avalanche: bool,
}

impl AddressHash {
    /// The number of a client.
    #[must_use]
    pub fn of(&self, client: IpAddr) -> u32 {
        let hash = match self.input {
            HashInput::Source => fold(client),
            HashInput::Masked { v4, v6 } => match masked(client, v4, v6) {
                IpAddr::V4(address) => self.of_bytes(&address.octets(), client),
                IpAddr::V6(address) => self.of_bytes(&address.octets(), client),
            },
        };
        match self.avalanche {
            true => mix(hash),
            false => hash,
        }
    }

    fn of_bytes(&self, bytes: &[u8], client: IpAddr) -> u32 {
        match self.function {
            HashFunction::Sdbm => sdbm(bytes),
            HashFunction::Djb2 => djb2(bytes),
            HashFunction::Wt6 => wt6(bytes),
            HashFunction::Crc32 => crc32(bytes),
            HashFunction::None => leading_number(self.masked_of(client)),
        }
    }

    fn masked_of(&self, client: IpAddr) -> IpAddr {
        match self.input {
            HashInput::Source => client,
            HashInput::Masked { v4, v6 } => masked(client, v4, v6),
        }
    }
}

fn fold(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let all = address.to_bits();
            (0..4).fold(0, |hash, word| hash ^ (all >> (32 * word)) as u32)
        }
    }
}

fn masked(address: IpAddr, v4: u8, v6: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX
                .checked_shl(32 - u32::from(v4.min(32)))
                .unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(v6.min(128)))
                .unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
    }
}

/// Mixes all bits into all bits.
#[must_use]
pub(crate) fn mix(number: u32) -> u32 {
    let mut a = number;
    a = a.wrapping_add(0x7ed5_5d16).wrapping_add(a << 12);
    a = (a ^ 0xc761_c23c) ^ (a >> 19);
    a = a.wrapping_add(0x1656_67b1).wrapping_add(a << 5);
    a = a.wrapping_add(0xd3a2_646c) ^ (a << 9);
    a = a.wrapping_add(0xfd70_46c5).wrapping_add(a << 3);
    a = (a ^ 0xb55a_4f09) ^ (a >> 16);
    // HAProxy's last step; an odd factor (3 × 2^30 + 1) keeps it a bijection.
    a.wrapping_mul(3_221_225_473)
}

/// hash = byte + hash × 65599
fn sdbm(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |hash: u32, &byte| {
        hash.wrapping_mul(65_599).wrapping_add(byte.into())
    })
}

/// hash = byte + hash × 33, from 5381
fn djb2(bytes: &[u8]) -> u32 {
    bytes.iter().fold(5381, |hash: u32, &byte| {
        hash.wrapping_mul(33).wrapping_add(byte.into())
    })
}

/// Two words that swap and turn by amounts that they themselves give.
fn wt6(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (0xa53c_965a_u32, 0x5ca6_953a_u32);
    let (mut turn_low, mut turn_high) = (6, 18);
    for &byte in bytes {
        let byte = u32::from(byte);
        let (a, b) = (!(low ^ byte), !high.wrapping_add(byte));
        (low, high) = (b.rotate_left(turn_low), a.rotate_left(turn_high));
        let turns = ((low >> 16) ^ high) & 0xffff;
        (turn_low, turn_high) = (turns & 31, turns >> 11);
    }
    low ^ high
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |hash, &byte| {
        (0..8).fold(hash ^ u32::from(byte), |hash, _| {
            let polynomial = if hash & 1 == 1 { 0xedb8_8320 } else { 0 };
            (hash >> 1) ^ polynomial
        })
    })
}

/// Of the address as text: all of its decimal digits up to the first other sign.
fn leading_number(address: IpAddr) -> u32 {
    let text = address.to_string();
    text.bytes()
        .take_while(u8::is_ascii_digit)
        .fold(0, |number: u32, digit| {
            number
                .wrapping_mul(10)
                .wrapping_add(u32::from(digit - b'0'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_give_their_published_values() {
        // CRC-32's check value; djb2 and sdbm by hand; `mix` and `wt6` are
        // compared with HAProxy's by tests/haproxy_sequences.rs.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(djb2(b"a"), 5381 * 33 + 97);
        assert_eq!(sdbm(b"ab"), 97 * 65_599 + 98);
        assert_eq!(sdbm(b""), 0);
    }

    #[test]
    fn a_mask_forgets_the_bits_behind_it() {
        let hash = |v4, v6| AddressHash {
            input: HashInput::Masked { v4, v6 },
            function: HashFunction::Crc32,
            avalanche: true,
        };
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(
            hash(24, 64).of(ip("10.1.2.3")),
            hash(24, 64).of(ip("10.1.2.250"))
        );
        assert_ne!(
            hash(24, 64).of(ip("10.1.2.3")),
            hash(24, 64).of(ip("10.1.3.3"))
        );
        assert_ne!(
            hash(32, 64).of(ip("10.1.2.3")),
            hash(32, 64).of(ip("10.1.2.250"))
        );
        assert_eq!(hash(0, 0).of(ip("10.1.2.3")), hash(0, 0).of(ip("9.9.9.9")));
        assert_eq!(
            hash(24, 64).of(ip("2001:db8::1")),
            hash(24, 64).of(ip("2001:db8::2"))
        );
        assert_ne!(
            hash(24, 128).of(ip("2001:db8::1")),
            hash(24, 128).of(ip("2001:db8::2"))
        );
    }

    #[test]
    fn source_folds_an_address_to_its_words() {
        let plain = AddressHash::default();
        assert_eq!(plain.of("1.2.3.4".parse().unwrap()), 0x0102_0304);
        assert_eq!(
            plain.of("2001:db8::1".parse().unwrap()),
            0x2001_0db8 ^ 0x0000_0001
        );
    }
}
