//! PROXY headers from clients and to servers, and our own end of connections to servers.
//!
//! Source:   HAProxy's doc/proxy-protocol.txt; HAProxy 2.6 is the other end in both directions.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use portcullis_testkit::{private_network, wait_for};

use super::clients::{ask, connect, connect_from, drain, read_line};
use super::harness::{Balancer, DEFAULTS, Peer, Place, SOON, haproxy, local, ours_only, peer};
use super::servers::Server;

const FRONT: u16 = 8000;
const SECOND: u16 = 8001;

fn config(bind: &str, port: u16, server: &str) -> String {
    let defaults = DEFAULTS
        .replace("nbthread 2", "nbthread 2\n    log stdout format raw local0")
        .replace("mode tcp", "mode tcp\n    log global\n    option tcplog");
    format!(
        "{defaults}\nlisten front\n    bind 127.0.0.1:{port} {bind}\n    server s1 127.0.0.1:9001 {server}\n"
    )
}

/// Says the address that each connection comes from.
fn mirror(port: u16) -> Server {
    Server::start(local(port), |mut stream| {
        let from = stream.peer_addr().unwrap();
        let _ = stream.write_all(format!("{from}\n").as_bytes());
        let _ = stream.read(&mut [0; 64]);
    })
}

/// Sends everything back that comes before the end.
fn echo_bytes(port: u16) -> Server {
    Server::start(local(port), |mut stream| {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    })
}

#[track_caller]
fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

/// Version 2 with a value that nobody knows, and no checksum.
fn binary(source: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x11".to_vec();
    bytes.extend(source);
    bytes.extend([192, 0, 2, 1]);
    bytes.extend(port.to_be_bytes());
    bytes.extend(443_u16.to_be_bytes());
    bytes.extend([0xea, 0, 2, 1, 2]);
    bytes
}

#[test]
fn what_a_header_tells_is_logged_and_told_to_the_server() {
    private_network(|| {
        let _server = echo_bytes(9001);
        let mut balancer = Balancer::start(
            &config("accept-proxy", FRONT, "send-proxy"),
            &[local(FRONT)],
        );
        for (sent, told) in [
            (
                b"PROXY TCP4 203.0.113.7 192.0.2.1 4567 443\r\n".to_vec(),
                "PROXY TCP4 203.0.113.7 192.0.2.1 4567 443\r\n",
            ),
            (
                b"PROXY TCP6 2001:db8::7 2001:db8::1 4568 443\r\n".to_vec(),
                "PROXY TCP6 2001:db8::7 2001:db8::1 4568 443\r\n",
            ),
            (
                binary([203, 0, 113, 8], 4569),
                "PROXY TCP4 203.0.113.8 192.0.2.1 4569 443\r\n",
            ),
        ] {
            let mut client = connect(local(FRONT));
            // In two parts: the rest of the header comes with the first data.
            let (first, rest) = sent.split_at(sent.len() / 2);
            if peer() == Peer::Portcullis {
                client.write_all(first).unwrap();
                std::thread::sleep(Duration::from_millis(50));
                client.write_all(&[rest, b"hello"].concat()).unwrap();
            } else {
                // HAProxy wants all of it at once.
                client.write_all(&[first, rest, b"hello"].concat()).unwrap();
            }
            let expected = format!("{told}hello");
            let read = read_exactly(&mut client, expected.len());
            assert_eq!(String::from_utf8_lossy(&read), expected);
            drop(client);
            let port = told.split(' ').nth(4).unwrap();
            let line = balancer.process.wait_line(&format!(":{port} ["), SOON);
            let from = told.split(' ').nth(2).unwrap();
            assert!(line.starts_with(&format!("{from}:{port} [")), "{line}");
        }
        // What tells nothing leaves the connection's own addresses.
        let mut client = connect(local(FRONT));
        let port = client.local_addr().unwrap().port();
        let unknown: &[u8] = match peer() {
            Peer::Portcullis => b"PROXY UNKNOWN whatever\r\nx",
            // HAProxy knows it alone.
            Peer::Haproxy => b"PROXY UNKNOWN\r\nx",
        };
        client.write_all(unknown).unwrap();
        let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} 8000\r\nx");
        let read = read_exactly(&mut client, expected.len());
        assert_eq!(String::from_utf8_lossy(&read), expected);
        balancer.stop();
    });
}

#[test]
fn what_is_no_header_ends_the_connection_with_haproxys_words() {
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let text = config("accept-proxy name door", FRONT, "")
            .replace("timeout client 60s", "timeout client 400ms");
        let mut balancer = Balancer::start(&text, &[local(FRONT)]);
        let mut damaged = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x13".to_vec();
        damaged.extend([1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2, 3, 0, 4, 9, 9, 9, 9]);
        for (sent, said) in [
            (
                &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
                "Received something which does not look like a PROXY protocol header",
            ),
            (
                b"PROXY TCP4 1.2.3.4 5.6.7.8 1 nonsense\r\n",
                "Received an invalid PROXY protocol header",
            ),
            (&damaged, "Received an invalid PROXY protocol header"),
            (b"", "Timeout while waiting for PROXY protocol header"),
        ] {
            let mut client = connect(local(FRONT));
            let port = client.local_addr().unwrap().port();
            client.write_all(sent).unwrap();
            assert_eq!(drain(&mut client).0, 0);
            // HAProxy believes what stands before a wrong checksum, and logs it.
            let from = match (peer(), sent == damaged) {
                (Peer::Haproxy, true) => "1.2.3.4:1 [".to_owned(),
                _ => format!("127.0.0.1:{port} ["),
            };
            let line = balancer.process.wait_line(&from, SOON);
            let (_, after) = line.split_once("] ").unwrap();
            assert_eq!(after, format!("front/door: {said}"), "{line}");
        }
        let client = connect(local(FRONT));
        let port = client.local_addr().unwrap().port();
        drop(client);
        let line = balancer
            .process
            .wait_line(&format!("127.0.0.1:{port} ["), SOON);
        assert!(
            line.ends_with("Connection closed while waiting for PROXY protocol header"),
            "{line}"
        );
        assert_eq!(server.connections(), 0);
        balancer.stop();
    });
}

#[test]
fn half_a_header_is_waited_for_no_longer_than_it_may_take() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let text = config("accept-proxy", FRONT, "").replace(
            "timeout client 60s",
            "timeout client 60s\n    timeout client-hs 300ms",
        );
        let mut balancer = Balancer::start(&text, &[local(FRONT)]);
        let mut client = connect(local(FRONT));
        client.write_all(b"PROXY TCP4 1.2.3.4").unwrap();
        let began = Instant::now();
        assert_eq!(drain(&mut client).0, 0);
        let took = began.elapsed();
        assert!(
            took > Duration::from_millis(250) && took < Duration::from_secs(5),
            "{took:?}"
        );
        balancer
            .process
            .wait_line("Timeout while waiting for", SOON);
        let client = connect(local(FRONT));
        (&client).write_all(b"PROXY TCP4 1.2.3.4").unwrap();
        drop(client);
        balancer
            .process
            .wait_line("Truncated PROXY protocol header received", SOON);
        // One that trickles in is a header all the same, and the session has its own time.
        let mut slow = connect(local(FRONT));
        for byte in b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n" {
            slow.write_all(&[*byte]).unwrap();
        }
        std::thread::sleep(Duration::from_millis(400));
        assert_eq!(ask(&mut slow, "x"), "one x");
        balancer.stop();
    });
}

/// `client → first (SECOND) → second (FRONT) → server`, with a header between the two.
fn chain(header: &str, ours_first: bool) {
    let receiving = config("accept-proxy", FRONT, "");
    let sending =
        config("", SECOND, "").replace("127.0.0.1:9001", &format!("127.0.0.1:8000 {header}"));
    let (place, other) = (Place::new(), Place::new());
    let (first, second) = match ours_first {
        true => (sending, receiving),
        false => (receiving, sending),
    };
    // `first` is ours, `second` is HAProxy's.
    let file = other.write("peer.cfg", &second);
    let Some(mut command) = haproxy(&file) else {
        return;
    };
    let (our_port, their_port) = match ours_first {
        true => (local(SECOND), local(FRONT)),
        false => (local(FRONT), local(SECOND)),
    };
    let mut theirs = Balancer::spawn(&mut command, other, &[their_port]);
    let file = place.write("test.cfg", &first);
    let mut command = super::harness::portcullis();
    command.arg("run").arg("-f").arg(&file);
    let mut ours = Balancer::spawn(&mut command, place, &[our_port]);
    let mut client = connect_from(Ipv4Addr::new(127, 9, 8, 7), local(SECOND));
    assert_eq!(ask(&mut client, "x"), "one x", "{header}");
    let port = client.local_addr().unwrap().port();
    drop(client);
    let receiver = match ours_first {
        true => &mut theirs,
        false => &mut ours,
    };
    receiver
        .process
        .wait_line(&format!("127.9.8.7:{port} ["), SOON);
    ours.stop();
    drop(theirs);
}

#[test]
fn headers_are_understood_by_haproxy_and_haproxys_by_us() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        for header in [
            "send-proxy",
            "send-proxy-v2",
            "send-proxy-v2 proxy-v2-options crc32c",
        ] {
            chain(header, true);
            chain(header, false);
        }
    });
}

#[test]
fn checks_of_servers_that_await_a_header_send_one() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let peer = config("accept-proxy", FRONT, "");
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let file = place.write("peer.cfg", &peer);
        let Some(mut command) = haproxy(&file) else {
            return;
        };
        let theirs = Balancer::spawn(&mut command, place, &[local(FRONT)]);
        let text = config("", SECOND, "").replace(
            "127.0.0.1:9001",
            "127.0.0.1:8000 send-proxy-v2 check inter 100ms",
        );
        let mut ours = Balancer::start(&text, &[local(SECOND)]);
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!(ask(&mut connect(local(SECOND)), "x"), "one x");
        ours.assert_well();
        let said = theirs.process.transcript();
        let complaints = said.matches("PROXY protocol header").count();
        assert_eq!(complaints, 0, "the checks had headers:\n{said}");
        ours.stop();
        drop(theirs);
    });
}

#[test]
fn a_check_tells_its_own_addresses_in_a_header_of_version_one() {
    private_network(|| {
        let (sender, received) = std::sync::mpsc::channel();
        let sender = std::sync::Mutex::new(sender);
        let _server = Server::start(local(9001), move |mut stream| {
            let line = read_line(&mut stream);
            let from = stream.peer_addr().unwrap().port();
            let _ = sender.lock().unwrap().send((line, from));
        });
        let text = config("", FRONT, "check inter 100ms check-send-proxy send-proxy");
        let balancer = Balancer::start(&text, &[local(FRONT)]);
        let (line, from) = received.recv_timeout(SOON).unwrap();
        let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} 9001");
        assert_eq!(line.trim_end(), expected);
        balancer.stop();
    });
}

#[test]
fn connections_come_from_the_source_that_is_said() {
    private_network(|| {
        let _server = mirror(9001);
        let balancer = Balancer::start(
            &config("", FRONT, "source 127.0.0.77:7000-7003"),
            &[local(FRONT)],
        );
        let mut held = Vec::new();
        let mut seen = Vec::new();
        for _ in 0..4 {
            let mut client = connect(local(FRONT));
            seen.push(read_line(&mut client).parse::<SocketAddr>().unwrap());
            held.push(client);
        }
        seen.sort();
        let expected: Vec<SocketAddr> = (7000..=7003)
            .map(|port| SocketAddr::from(([127, 0, 0, 77], port)))
            .collect();
        assert_eq!(seen, expected, "each port once");
        // All are lent: the fifth finds none, and that is nobody's fault but ours.
        let mut fifth = connect(local(FRONT));
        assert_eq!(drain(&mut fifth).0, 0);
        held.pop();
        wait_for("the port to be free again", SOON, || {
            !read_line(&mut connect(local(FRONT))).is_empty()
        });
        balancer.stop();
    });
}

/// Version 2: what follows its signature, and how much it says that there is.
fn second(version_command: u8, family: u8, said: usize, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([version_command, family]);
    bytes.extend(u16::try_from(said).unwrap().to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// Headers that are half there, forged or too long, each in one piece and followed by data.
fn bad_headers() -> Vec<(&'static str, Vec<u8>)> {
    let four: &[u8] = &[203, 0, 113, 7, 192, 0, 2, 1, 17, 92, 1, 187];
    let line = |text: &str| format!("{text}\r\n").into_bytes();
    let long = [four, &[0xea, 0x3e, 0x80], &[b'z'; 16_000]].concat();
    let beyond = [four, &[0xea, 0x4e, 0x20], &[b'z'; 20_000]].concat();
    vec![
        (
            "an ordinary one",
            line("PROXY TCP4 203.0.113.7 192.0.2.1 4567 443"),
        ),
        (
            "an address that is none",
            line("PROXY TCP4 999.0.113.7 192.0.2.1 4567 443"),
        ),
        (
            "an address of IPv4 for TCP6",
            line("PROXY TCP6 203.0.113.7 192.0.2.1 4567 443"),
        ),
        (
            "an address of IPv6 for TCP4",
            line("PROXY TCP4 2001:db8::7 2001:db8::1 4567 443"),
        ),
        (
            "a word for a port",
            line("PROXY TCP4 203.0.113.7 192.0.2.1 many 443"),
        ),
        (
            "too few words",
            line("PROXY TCP4 203.0.113.7 192.0.2.1 4567"),
        ),
        (
            "too many words",
            line("PROXY TCP4 203.0.113.7 192.0.2.1 4567 443 5"),
        ),
        (
            "a protocol that is none",
            line("PROXY UDP4 203.0.113.7 192.0.2.1 4567 443"),
        ),
        (
            "small letters",
            line("proxy tcp4 203.0.113.7 192.0.2.1 4567 443"),
        ),
        (
            "two spaces",
            line("PROXY TCP4  203.0.113.7 192.0.2.1 4567 443"),
        ),
        (
            "a line feed alone",
            b"PROXY TCP4 203.0.113.7 192.0.2.1 4567 443\n".to_vec(),
        ),
        (
            "an oversized line",
            format!("PROXY TCP4 {}\r\n", "1".repeat(2_000)).into_bytes(),
        ),
        (
            "a null byte",
            b"PROXY TCP4 203.0.113.7\0 192.0.2.1 4567 443\r\n".to_vec(),
        ),
        ("v2, ordinary", second(0x21, 0x11, 12, four)),
        ("v2, local", second(0x20, 0x00, 0, &[])),
        ("v2, local with an address", second(0x20, 0x11, 12, four)),
        ("v2, of version 1", second(0x11, 0x11, 12, four)),
        ("v2, of version 3", second(0x31, 0x11, 12, four)),
        ("v2, a command that is none", second(0x22, 0x11, 12, four)),
        (
            "v2, too short for its family",
            second(0x21, 0x11, 11, &four[..11]),
        ),
        (
            "v2, of IPv6 with addresses of IPv4",
            second(0x21, 0x21, 12, four),
        ),
        ("v2, UDP over IPv4", second(0x21, 0x12, 12, four)),
        ("v2, of Unix", second(0x21, 0x31, 216, &[b'u'; 216])),
        ("v2, of a family that is none", second(0x21, 0x41, 12, four)),
        (
            "v2, a value beyond its end",
            second(0x21, 0x11, 15, &[four, &[0xea, 0, 9]].concat()),
        ),
        (
            "v2, half of a value's head",
            second(0x21, 0x11, 14, &[four, &[0xea, 0]].concat()),
        ),
        ("v2, long but whole", second(0x21, 0x11, 16_015, &long)),
        (
            "v2, longer than a buffer",
            second(0x21, 0x11, 20_015, &beyond),
        ),
        (
            "v2, a wrong checksum",
            second(0x21, 0x11, 19, &[four, &[3, 0, 4, 9, 9, 9, 9]].concat()),
        ),
    ]
}

/// What became of it: served with which address, or the words of the log.
fn fate(balancer: &mut Balancer, port: u16, header: &[u8]) -> String {
    let mut client = connect(local(port));
    // A header as long as this may meet a reset half-way.
    let _ = client.write_all(&[header, b"x\n"].concat());
    let mut reply = [0; 5];
    if client.read_exact(&mut reply).is_ok() {
        drop(client);
        let told = balancer.process.wait_line_of(&["[", " 5 --"], SOON);
        // HAProxy makes some address of one that is none.
        let address = match told.starts_with("203.0.113.7:") {
            true => "the told",
            false => "its own",
        };
        return format!("served with {address} address");
    }
    // HAProxy logs the address that even a bad one told, and we the connection's own: it is the only
    // one of its balancer.
    let line = balancer.process.wait_line("] front/1: ", SOON);
    line.split_once("front/1: ").unwrap().1.to_owned()
}

#[test]
fn bad_headers_have_the_same_fate_before_haproxy_and_us() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::start(local(9001), |mut stream| {
            let _ = stream.read(&mut [0; 64]);
            let _ = stream.write_all(b"hello");
        });
        let text = |port| {
            config("accept-proxy", port, "").replace("timeout client 60s", "timeout client 500ms")
        };
        let mut different = Vec::new();
        let mut refused = 0;
        for (what, header) in bad_headers() {
            let place = Place::new();
            let file = place.write("peer.cfg", &text(SECOND));
            let Some(mut command) = haproxy(&file) else {
                return;
            };
            let mut theirs = Balancer::spawn(&mut command, place, &[local(SECOND)]);
            let mut ours = Balancer::start(&text(FRONT), &[local(FRONT)]);
            let here = fate(&mut ours, FRONT, &header);
            let there = fate(&mut theirs, SECOND, &header);
            println!("{what}: {here}");
            refused += usize::from(!here.starts_with("served"));
            if here != there {
                different.push(format!("{what}: {here:?}, HAProxy {there:?}"));
            }
            ours.stop();
        }
        // Each of these is in docs/differences.md.
        let known = [
            "an address that is none: \"Received an invalid PROXY protocol header\", HAProxy \"served with its own address\"",
            "v2, UDP over IPv4: \"served with its own address\", HAProxy \"Received an invalid PROXY protocol header\"",
            "v2, of Unix: \"served with its own address\", HAProxy \"Received an invalid PROXY protocol header\"",
        ];
        assert_eq!(different, known);
        assert!(refused > 10, "{refused}");
    });
}
