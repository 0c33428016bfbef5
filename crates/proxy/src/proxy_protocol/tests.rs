//! Headers there and back, cut short, and damaged.
//!
//! Decides:  the examples of the specification, then random ones.
//! Not here: what sessions do with them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn header(length: usize, from: &str, to: &str) -> Decoded {
    Decoded::Header(Header {
        length,
        addresses: Some(Addresses {
            source: from.parse().unwrap(),
            destination: to.parse().unwrap(),
        }),
    })
}

fn nothing(length: usize) -> Decoded {
    Decoded::Header(Header {
        length,
        addresses: None,
    })
}

#[test]
fn lines_of_version_1_are_read_as_the_specification_says() {
    let malformed = Decoded::Invalid(Fault::Malformed);
    let longest = format!(
        "PROXY TCP6 {ip} {ip} 65535 65535\r\n",
        ip = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    );
    let unknown = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    let too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    for (line, expected) in [
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET",
            header(47, "192.168.0.1:56324", "192.168.0.11:443"),
        ),
        (
            "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n",
            header(36, "[2001:db8::1]:1", "[::1]:65535"),
        ),
        (longest.as_str(), header(104, all, all)),
        ("PROXY UNKNOWN\r\n", nothing(15)),
        ("PROXY UNKNOWN whatever it says\r\nx", nothing(32)),
        (unknown.as_str(), nothing(107)),
        (too_long.as_str(), malformed),
        ("PROXY UNKNOWN\n", malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n", malformed),
        ("PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n", malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n", malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 +2\r\n", malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 02\r\n", malformed),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", malformed),
        ("PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n", malformed),
        ("PROXY TCP4 ::1 ::2 1 2\r\n", malformed),
        ("PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n", malformed),
        ("PROXY TCP4\r\n", malformed),
        (
            "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            Decoded::Invalid(Fault::Protocol),
        ),
        ("PROXY \r\n", Decoded::Invalid(Fault::Protocol)),
        ("GET / HTTP/1.1\r\n", Decoded::Invalid(Fault::NoHeader)),
        ("PROXYTCP4", Decoded::Invalid(Fault::NoHeader)),
        ("proxy TCP4", Decoded::Invalid(Fault::NoHeader)),
        ("", Decoded::Incomplete),
        ("PROX", Decoded::Incomplete),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r", Decoded::Incomplete),
        ("\r\n\r\n", Decoded::Incomplete),
        ("\r\nGET", Decoded::Invalid(Fault::NoHeader)),
    ] {
        assert_eq!(decode(line.as_bytes()), expected, "{line:?}");
    }
}

/// A header of version 2 of these parts.
fn binary(command: u8, family: u8, length: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(rest);
    bytes
}

#[test]
fn headers_of_version_2_are_read_as_the_specification_says() {
    let malformed = Decoded::Invalid(Fault::Malformed);
    let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0x1f, 0x90, 0, 80];
    let mut with_values = v4.to_vec();
    with_values.extend([0x04, 0, 3, 0, 0, 0, 0xea, 0, 1, 9]);
    let known = |length| header(length, "1.2.3.4:8080", "5.6.7.8:80");
    let mut overrun = v4.to_vec();
    overrun.extend([0x04, 0, 2, 0]);
    let mut odd = v4.to_vec();
    odd.extend([0x04, 0]);
    let mut wrong_sum = v4.to_vec();
    wrong_sum.extend([0x03, 0, 4, 1, 2, 3, 4]);
    let unix = [0_u8; 216];
    for (bytes, expected) in [
        (binary(0x21, 0x11, 12, &v4), known(28)),
        (binary(0x21, 0x11, 22, &with_values), known(38)),
        (binary(0x20, 0x00, 0, &[]), nothing(16)),
        (binary(0x20, 0x11, 12, &v4), nothing(28)),
        (binary(0x21, 0x31, 216, &unix), nothing(232)),
        (binary(0x21, 0x12, 12, &v4), nothing(28)),
        (binary(0x21, 0x11, 11, &v4), malformed),
        (binary(0x21, 0x21, 12, &v4), malformed),
        (binary(0x21, 0x11, 16, &overrun), malformed),
        (binary(0x21, 0x11, 14, &odd), malformed),
        (binary(0x21, 0x11, 19, &wrong_sum), malformed),
        (
            binary(0x11, 0x11, 12, &v4),
            Decoded::Invalid(Fault::NoHeader),
        ),
        (
            binary(0x31, 0x11, 12, &v4),
            Decoded::Invalid(Fault::NoHeader),
        ),
        (binary(0x22, 0x11, 12, &v4), malformed),
        (binary(0x21, 0x41, 12, &v4), malformed),
        (binary(0x21, 0x13, 12, &v4), malformed),
        (binary(0x20, 0x43, 12, &v4), nothing(28)),
        (
            binary(0x21, 0x11, 65_535, &v4),
            Decoded::Invalid(Fault::Truncated),
        ),
        (binary(0x21, 0x11, 13, &v4), Decoded::Incomplete),
    ] {
        assert_eq!(decode(&bytes), expected, "{bytes:?}");
    }
}

#[test]
fn headers_are_written_as_haproxy_writes_them() {
    let of = |from: &str, to: &str| {
        Some(Addresses {
            source: from.parse().unwrap(),
            destination: to.parse().unwrap(),
        })
    };
    let text = |addresses| {
        let header = encode(Version::V1, addresses);
        String::from_utf8(header.as_bytes().to_vec()).unwrap()
    };
    assert_eq!(
        text(of("1.2.3.4:5", "6.7.8.9:10")),
        "PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n"
    );
    assert_eq!(
        text(of("[::1]:5", "[2001:db8::2]:10")),
        "PROXY TCP6 ::1 2001:db8::2 5 10\r\n"
    );
    assert_eq!(text(of("[::1]:5", "1.2.3.4:10")), "PROXY UNKNOWN\r\n");
    assert_eq!(text(None), "PROXY UNKNOWN\r\n");
    let plain = Version::V2 { checksum: false };
    assert_eq!(
        encode(plain, of("1.2.3.4:8080", "5.6.7.8:80")).as_bytes(),
        binary(0x21, 0x11, 12, &[1, 2, 3, 4, 5, 6, 7, 8, 0x1f, 0x90, 0, 80])
    );
    assert_eq!(encode(plain, None).as_bytes(), binary(0x20, 0, 0, &[]));
    let mixed = encode(plain, of("1.2.3.4:8080", "[::1]:80"));
    assert_eq!(
        decode(mixed.as_bytes()),
        header(52, "[::ffff:1.2.3.4]:8080", "[::1]:80")
    );
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits))),
    ]
}

fn addresses() -> impl Strategy<Value = Addresses> {
    (ip(), ip(), any::<u16>(), any::<u16>()).prop_map(|(from, to, from_port, to_port)| Addresses {
        source: SocketAddr::new(from, from_port),
        destination: SocketAddr::new(to, to_port),
    })
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![
        Just(Version::V1),
        any::<bool>().prop_map(|checksum| Version::V2 { checksum }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, .. ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again_and_no_beginning_of_it_is_a_header(
        version in version(),
        told in prop::option::of(addresses()),
        after in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let written = encode(version, told);
        let mut bytes = written.as_bytes().to_vec();
        for length in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..length]), Decoded::Incomplete);
        }
        let length = bytes.len();
        bytes.extend(after);
        let Decoded::Header(read) = decode(&bytes) else {
            return Err(TestCaseError::fail(format!("{written:?} is no header")));
        };
        prop_assert_eq!(read.length, length);
        let same_family = |it: &Addresses| it.source.is_ipv4() == it.destination.is_ipv4();
        match (version, told) {
            (_, Some(told)) if same_family(&told) => prop_assert_eq!(read.addresses, Some(told)),
            (Version::V2 { .. }, Some(told)) => {
                let read = read.addresses.unwrap();
                prop_assert_eq!(read.source.ip().to_canonical(), told.source.ip().to_canonical());
                prop_assert_eq!(read.destination.port(), told.destination.port());
            }
            _ => prop_assert_eq!(read.addresses, None),
        }
    }

    #[test]
    fn a_checksum_finds_every_damaged_bit(
        told in addresses(),
        bit in 0..(59 * 8_usize),
    ) {
        let written = encode(Version::V2 { checksum: true }, Some(told));
        let mut bytes = written.as_bytes().to_vec();
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        match decode(&bytes) {
            // A damaged length may ask for more; a damaged family may hide the addresses; and of
            // a value that is no checksum any more nobody knows what it should be.
            Decoded::Invalid(_) | Decoded::Incomplete => {}
            Decoded::Header(_) if bit / 8 == bytes.len() - 7 => {}
            Decoded::Header(read) => prop_assert_eq!(read.addresses, None),
        }
    }

    #[test]
    fn any_bytes_are_decided_and_more_of_them_change_nothing(
        begin in prop_oneof![
            Just(Vec::new()),
            Just(b"PROXY TCP4 ".to_vec()),
            Just(binary(0x21, 0x11, 20, &[])),
            Just(b"\r\n\r\n\0\r\nQUIT\n".to_vec()),
        ],
        rest in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = begin;
        bytes.extend(rest);
        let mut before = Decoded::Incomplete;
        for length in 0..=bytes.len() {
            let now = decode(&bytes[..length]);
            if before != Decoded::Incomplete {
                prop_assert_eq!(now, before, "at {} of {:?}", length, bytes);
            }
            if let Decoded::Header(header) = now {
                prop_assert!(header.length <= length && header.length <= LONGEST);
            }
            before = now;
        }
    }
}
