//! The rig against its own backend, and against what it must notice.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::{Rig, Service};
use crate::pattern::REQUEST;

const A_WHILE: Duration = Duration::from_millis(50);

#[test]
fn the_rig_without_anything_between_makes_no_mistakes() {
    let mut rig = Rig::new(0).unwrap();
    rig.short(rig.address(Service::Short).unwrap(), 20, A_WHILE)
        .unwrap();
    let tally = rig.take_tally();
    assert!(tally.errors.is_empty(), "{:?}", tally.errors);
    assert!(tally.operations >= 20);
    assert_eq!(tally.latency.count(), tally.operations);

    rig.short_count(rig.address(Service::Short).unwrap(), 7, 100)
        .unwrap();
    assert_eq!(rig.take_tally().operations, 100);

    rig.open(rig.address(Service::Echo).unwrap(), Service::Echo, 300)
        .unwrap();
    assert_eq!(rig.take_tally().operations, 300);
    rig.run(A_WHILE, 0).unwrap();
    let tally = rig.take_tally();
    assert!(tally.errors.is_empty(), "{:?}", tally.errors);
    assert!(tally.operations >= 300);
    rig.close().unwrap();
    assert_eq!((rig.clients, rig.serving, rig.busy), (0, 0, 0));
}

#[test]
fn bulk_comes_whole_and_right() {
    let mut rig = Rig::new(0).unwrap();
    rig.open(rig.address(Service::Bulk).unwrap(), Service::Bulk, 3)
        .unwrap();
    rig.take_tally();
    rig.run(A_WHILE, 3_000_001).unwrap();
    let tally = rig.take_tally();
    assert!(tally.errors.is_empty(), "{:?}", tally.errors);
    assert!(
        tally.bytes > 0 && tally.bytes.is_multiple_of(3_000_001),
        "{}",
        tally.bytes
    );
    rig.close().unwrap();
}

#[test]
fn a_paced_source_keeps_its_pace() {
    let mut rig = Rig::new(0).unwrap();
    rig.open(rig.address(Service::Bulk).unwrap(), Service::Bulk, 1)
        .unwrap();
    rig.take_tally();
    rig.set_pace(10_000);
    let begun = super::now_ns();
    rig.run(Duration::from_millis(200), 500_000).unwrap();
    let took_ms = (super::now_ns() - begun) / 1_000_000;
    let tally = rig.take_tally();
    assert!(tally.errors.is_empty(), "{:?}", tally.errors);
    // What a source saves up while it owes nothing is the first piece.
    let most = took_ms * 10_000 + 600_000;
    assert!(
        tally.bytes >= 500_000 && tally.bytes <= most,
        "{} in {took_ms} ms",
        tally.bytes
    );
}

/// A server that answers each connection by `answer`, in a thread for each.
fn server(answer: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

fn request_of(stream: &mut TcpStream) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_a_contender_does_wrong_is_noticed_by_kind() {
    type Answer = fn(TcpStream);
    let one_bit: Answer = |mut stream| {
        let mut bytes = request_of(&mut stream);
        bytes[100] ^= 1;
        stream.write_all(&bytes).unwrap();
    };
    let too_little: Answer = |mut stream| {
        let bytes = request_of(&mut stream);
        stream.write_all(&bytes[1..]).unwrap();
    };
    let cut_short: Answer = |mut stream| {
        let bytes = request_of(&mut stream);
        stream.write_all(&bytes[..REQUEST - 1]).unwrap();
    };
    let too_much: Answer = |mut stream| {
        let bytes = request_of(&mut stream);
        stream.write_all(&bytes).unwrap();
        stream.write_all(&[0]).unwrap();
    };
    let reset: Answer = drop;
    let table: [(&str, Answer, &[&str]); 5] = [
        ("a bit is wrong", one_bit, &["wrong bytes"]),
        ("the first byte is missing", too_little, &["wrong bytes"]),
        (
            "the last byte is missing",
            cut_short,
            &["the end before the answer"],
        ),
        ("a byte too many", too_much, &["wrong bytes"]),
        (
            "closed with the request unread",
            reset,
            &[
                "connection reset",
                "connection closed",
                "the end before the answer",
            ],
        ),
    ];
    for (label, answer, expected) in table {
        let mut rig = Rig::new(0).unwrap();
        rig.short_count(server(answer), 1, 3).unwrap();
        let tally = rig.take_tally();
        assert_eq!(tally.operations, 0, "{label}");
        assert_eq!(
            tally.errors.values().sum::<u64>(),
            3,
            "{label}: {:?}",
            tally.errors
        );
        let known = tally.errors.keys().all(|kind| expected.contains(kind));
        assert!(known, "{label}: {:?}", tally.errors);
    }
}

#[test]
fn a_refused_connection_is_a_mistake() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut rig = Rig::new(0).unwrap();
    rig.short_count(nobody, 1, 1).unwrap();
    let tally = rig.take_tally();
    assert_eq!(
        tally.errors.get("connection refused"),
        Some(&1),
        "{:?}",
        tally.errors
    );
}
