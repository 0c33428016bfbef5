//! `portcullis demo`: shows itself, serves, and ends when asked.

use portcullis_testkit::{Process, Signal, private_network};

use super::clients::{ask, connect};
use super::harness::{SOON, local, ours_only, portcullis};

/// The port after `127.0.0.1` in the line that says what to try.
fn port(line: &str) -> Option<u16> {
    let (_, rest) = line.split_once("127.0.0.1")?;
    let digits: String = rest
        .chars()
        .skip(1)
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

#[test]
fn the_demo_says_what_to_try_serves_it_and_ends_on_interrupt() {
    if ours_only() {
        return;
    }
    private_network(|| {
        // HUP: the terminal was closed.
        for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
            let mut demo = Process::spawn(portcullis().arg("demo"));
            let line = demo.wait_line("nc 127.0.0.1", SOON);
            let port = port(&line).unwrap_or_else(|| panic!("no port in {line:?}"));
            demo.wait_port(local(port), SOON);
            let mut answers: Vec<_> = (0..3)
                .map(|_| ask(&mut connect(local(port)), "hello"))
                .collect();
            assert!(
                answers.iter().all(|answer| answer.contains("hello")),
                "{answers:?}"
            );
            answers.sort();
            answers.dedup();
            assert_eq!(
                answers.len(),
                3,
                "each of the three servers says who it is: {answers:?}"
            );
            demo.signal(signal);
            assert_eq!(demo.exit_code(SOON), 0, "{}", demo.transcript());
            assert!(!demo.stderr().contains("panicked"), "{}", demo.transcript());
        }
    });
}

#[test]
fn the_demo_answers_http() {
    if ours_only() {
        return;
    }
    private_network(|| {
        use std::io::{Read as _, Write as _};
        let mut demo = Process::spawn(portcullis().args(["demo", "--for", "60"]));
        let line = demo.wait_line("nc 127.0.0.1", SOON);
        let mut client = connect(local(port(&line).unwrap()));
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") || answer.starts_with("HTTP/1.0 200 "),
            "{answer}"
        );
    });
}
