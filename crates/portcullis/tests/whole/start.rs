//! Starts that must fail, each with a message and a documented exit code.

use std::process::Command;

use portcullis_testkit::{Process, listening, need_program, private_network};

use super::clients::{ask, connect};
use super::harness::{Balancer, Place, SOON, listen, local, ours_only, portcullis};
use super::servers::Server;

/// The configuration is refused.
const REFUSED: i32 = 1;
/// A listener cannot be opened.
const NOT_OPENED: i32 = 3;

/// Runs a configuration that must not start; its exit code and what it said.
#[track_caller]
fn fails(config: &str) -> (i32, String) {
    let place = Place::new();
    let file = place.write("test.cfg", config);
    fails_with(portcullis().arg("run").arg("-f").arg(file))
}

#[track_caller]
fn fails_with(command: &mut Command) -> (i32, String) {
    let mut process = Process::spawn(command);
    let code = process.exit_code(SOON);
    let said = process.stderr();
    assert!(!said.contains("panicked"), "{said}");
    (code, said)
}

#[track_caller]
fn assert_says(said: &str, texts: &[&str]) {
    for text in texts {
        assert!(said.contains(text), "does not say {text:?}:\n{said}");
    }
}

#[test]
fn a_port_that_is_held_is_named_and_nothing_stays_open() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let held = std::net::TcpListener::bind(local(8001)).unwrap();
        let config = listen("127.0.0.1:8000", &[local(9001)])
            .replace("    server", "    bind 127.0.0.1:8001\n    server");
        let (code, said) = fails(&config);
        assert_eq!(code, NOT_OPENED, "{said}");
        assert_says(
            &said,
            &[
                "127.0.0.1:8001",
                "EADDRINUSE",
                "address already in use",
                "test.cfg",
                // As `why` tells it.
                "  holder: ",
                &format!(", pid {}, ", std::process::id()),
                "listening on 127.0.0.1:8001 without SO_REUSEPORT",
                "  rule:   reuseaddr-beside-listener: ",
                "  try:    ",
                "use port 8002",
            ],
        );
        assert!(!listening(local(8000)), "all or nothing");
        assert!(listening(local(8001)), "the holder is not disturbed");
        drop(held);
        // The same file starts once the port is free.
        Balancer::start(&config, &[local(8000), local(8001)]).stop();
    });
}

#[test]
fn a_privileged_port_without_the_capability_is_refused_with_its_errno() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let Some(setpriv) = need_program("setpriv") else {
            return;
        };
        let place = Place::new();
        let file = place.write("test.cfg", &listen("127.0.0.1:80", &[local(9001)]));
        let mut command = Command::new(setpriv);
        command.args([
            "--bounding-set",
            "-net_bind_service",
            "--inh-caps",
            "-net_bind_service",
        ]);
        command
            .arg(env!("CARGO_BIN_EXE_portcullis"))
            .arg("run")
            .arg("-f")
            .arg(&file);
        let (code, said) = fails_with(&mut command);
        assert_eq!(code, NOT_OPENED, "{said}");
        assert_says(&said, &["127.0.0.1:80", "EACCES"]);
    });
}

#[test]
fn an_address_that_is_not_ours_is_refused_with_its_errno() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let (code, said) = fails(&listen("192.0.2.99:8000", &[local(9001)]));
        assert_eq!(code, NOT_OPENED, "{said}");
        assert_says(&said, &["192.0.2.99:8000", "EADDRNOTAVAIL"]);
    });
}

#[test]
fn a_name_that_does_not_resolve_is_refused_at_its_word() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let config = listen("127.0.0.1:8000", &[]) + "    server gone no-such-host.invalid:9001\n";
        let (code, said) = fails(&config);
        assert_eq!(code, REFUSED, "{said}");
        assert_says(&said, &["no-such-host.invalid", "test.cfg:12:17"]);
        assert!(!listening(local(8000)));
    });
}

#[test]
fn two_listeners_on_one_address_are_refused_naming_both_places() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let config = listen("127.0.0.1:8000", &[local(9001)])
            + "\nlisten again\n    bind 127.0.0.1:8000\n    server s1 127.0.0.1:9002\n";
        let (code, said) = fails(&config);
        assert_eq!(code, REFUSED, "{said}");
        assert_says(&said, &["127.0.0.1:8000", "test.cfg:11:", "test.cfg:15:"]);
    });
}

#[test]
fn a_file_that_is_not_there_is_named() {
    if ours_only() {
        return;
    }
    let (code, said) = fails_with(portcullis().args(["run", "-f", "/nonexistent/haproxy.cfg"]));
    assert_eq!(code, REFUSED, "{said}");
    assert_says(&said, &["/nonexistent/haproxy.cfg"]);
    let (code, _) = fails_with(portcullis().args(["run"]));
    assert_eq!(code, 2, "a command line without a file is wrong");
}

#[test]
fn a_wildcard_and_both_families_start_and_serve() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = listen(":8000", &[local(9001)]).replace(
            "    server",
            "    bind :::8001 v6only\n    bind [::1]:8002\n    server",
        );
        let any = "0.0.0.0:8000".parse().unwrap();
        let any_v6 = "[::]:8001".parse().unwrap();
        let one_v6 = "[::1]:8002".parse().unwrap();
        let balancer = Balancer::start(&config, &[any, any_v6, one_v6]);
        assert_eq!(ask(&mut connect(local(8000)), "4"), "one 4");
        assert_eq!(
            ask(&mut connect("[::1]:8001".parse().unwrap()), "6"),
            "one 6"
        );
        assert_eq!(ask(&mut connect(one_v6), "6"), "one 6");
        balancer.stop();
    });
}

#[test]
fn a_unix_socket_listens_and_a_unix_server_serves() {
    private_network(|| {
        use std::io::{Read as _, Write as _};
        use std::os::unix::net::{UnixListener, UnixStream};
        let place = Place::new();
        let (front, back) = (
            place.path().join("front.sock"),
            place.path().join("back.sock"),
        );
        let server = UnixListener::bind(&back).unwrap();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut word = [0; 4];
            stream.read_exact(&mut word).unwrap();
            stream.write_all(b"pong").unwrap();
        });
        let config = listen(&format!("{} mode 600", front.display()), &[])
            + &format!(
                "    bind 127.0.0.1:8000\n    server s1 {}\n",
                back.display()
            );
        let balancer = Balancer::start(&config, &[local(8000)]);
        let mode = std::os::unix::fs::MetadataExt::mode(&front.metadata().unwrap());
        assert_eq!(mode & 0o777, 0o600);
        let mut client = UnixStream::connect(&front).unwrap();
        client.set_read_timeout(Some(SOON)).unwrap();
        client.write_all(b"ping").unwrap();
        let mut word = [0; 4];
        client.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"pong");
        serving.join().unwrap();
        drop(client);
        balancer.stop();
    });
}
