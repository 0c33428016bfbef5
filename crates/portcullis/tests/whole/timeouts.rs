//! Servers that refuse or hang, clients that say nothing: each ends by policy, in time.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use portcullis_testkit::{eventually, private_network, wait_for};

use super::clients::{ask, connect, drain};
use super::harness::{Balancer, SOON, listen, local};
use super::servers::Server;

const FRONT: u16 = 8000;

/// A client that only waits for the end; how long that took.
#[track_caller]
fn waits_for_the_end() -> Duration {
    let begun = Instant::now();
    let mut client = connect(local(FRONT));
    assert_eq!(drain(&mut client).0, 0);
    begun.elapsed()
}

/// Not early; and not late, on a busy machine.
#[track_caller]
fn assert_about(took: Duration, expected_ms: u64) {
    let expected = Duration::from_millis(expected_ms);
    let early = expected.mul_f64(0.9);
    let late = expected + Duration::from_secs(5);
    assert!(
        (early..late).contains(&took),
        "{took:?}, expected about {expected:?}"
    );
}

#[test]
fn a_session_ends_with_its_lifetime_whatever_it_does() {
    if super::harness::ours_only() {
        return;
    }
    portcullis_testkit::private_network(|| {
        let _server = super::servers::Server::echo(super::harness::local(9001), "one");
        let config = super::harness::listen("127.0.0.1:8000", &[super::harness::local(9001)])
            .replace("nbthread 2", "nbthread 2\n    log stdout format raw local0")
            .replace(
                "mode tcp",
                "mode tcp\n    log global\n    option tcplog\n    timeout lifetime 600ms",
            );
        let front = super::harness::local(8000);
        let mut balancer = super::harness::Balancer::start(&config, &[front]);
        let mut client = super::clients::connect(front);
        let port = client.local_addr().unwrap().port();
        let began = std::time::Instant::now();
        // Busy all the time: no idle time-out could end it.
        while std::io::Write::write_all(&mut client, b"x\n").is_ok()
            && std::io::Read::read(&mut client, &mut [0; 64]).is_ok_and(|count| count > 0)
        {
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(began.elapsed() < super::harness::SOON, "it goes on");
        }
        assert!(began.elapsed() >= std::time::Duration::from_millis(550));
        let line = balancer
            .process
            .wait_line(&format!("127.0.0.1:{port} ["), super::harness::SOON);
        assert!(line.contains(" MD "), "{line}");
        balancer.stop();
    });
}

#[test]
fn a_client_of_a_refusing_server_is_let_go_after_the_retries() {
    private_network(|| {
        let config = listen("127.0.0.1:8000", &[local(9001)])
            .replace("timeout connect 5s", "timeout connect 200ms\n    retries 2");
        let mut balancer = Balancer::start(&config, &[local(FRONT)]);
        // The first attempt, then two more after a turn-around of 200 ms each.
        assert_about(waits_for_the_end(), 400);
        // The server comes, and the next client is served.
        let server = Server::echo(local(9001), "late");
        assert_eq!(ask(&mut connect(local(FRONT)), "x"), "late x");
        balancer.assert_well();
        drop(server);
        balancer.stop();
    });
}

#[test]
fn a_server_that_comes_between_two_attempts_is_found() {
    private_network(|| {
        let config = listen("127.0.0.1:8000", &[local(9001)]);
        let balancer = Balancer::start(&config, &[local(FRONT)]);
        let mut client = connect(local(FRONT));
        client.write_all(b"early\n").unwrap();
        // Refused once by now or not: three retries, a second apart, follow.
        std::thread::sleep(Duration::from_millis(300));
        let _server = Server::echo(local(9001), "came");
        assert_eq!(super::clients::read_line(&mut client), "came early");
        balancer.stop();
    });
}

#[test]
fn a_client_who_spoke_is_not_idle_while_his_server_is_sought() {
    private_network(|| {
        let config = listen("127.0.0.1:8000", &[local(9001)]).replace("client 60s", "client 400ms");
        let balancer = Balancer::start(&config, &[local(FRONT)]);
        // One said nothing: his time runs out between two attempts.
        let silent = std::thread::spawn(waits_for_the_end);
        let mut client = connect(local(FRONT));
        client.write_all(b"early\n").unwrap();
        std::thread::sleep(Duration::from_millis(700));
        let _server = Server::echo(local(9001), "came");
        assert_eq!(super::clients::read_line(&mut client), "came early");
        assert_about(silent.join().unwrap(), 400);
        balancer.stop();
    });
}

#[test]
fn redispatch_finds_the_server_that_answers() {
    private_network(|| {
        let server = Server::echo(local(9002), "second");
        let config = listen("127.0.0.1:8000", &[local(9001), local(9002)]).replace(
            "timeout connect 5s",
            "timeout connect 100ms\n    retries 2\n    option redispatch\n    balance roundrobin",
        );
        let balancer = Balancer::start(&config, &[local(FRONT)]);
        for turn in 0..6 {
            let line = turn.to_string();
            assert_eq!(
                ask(&mut connect(local(FRONT)), &line),
                format!("second {turn}")
            );
        }
        assert_eq!(server.connections(), 6);
        balancer.stop();
    });
}

#[test]
fn a_server_that_does_not_answer_the_handshake_is_given_up() {
    private_network(|| {
        // A queue for one, filled: the kernel drops every further SYN.
        let full = TcpListener::bind(local(9001)).unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let held = fill(local(9001));
        let config = listen("127.0.0.1:8000", &[local(9001)])
            .replace("timeout connect 5s", "timeout connect 400ms\n    retries 0");
        let balancer = Balancer::start(&config, &[local(FRONT)]);
        assert_about(waits_for_the_end(), 400);
        drop(held);
        balancer.stop();
    });
}

/// Connects until a connection hangs.
fn fill(address: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        held.push(stream);
        assert!(held.len() < 10, "the queue never fills");
    }
    held
}

#[test]
fn a_server_that_accepts_and_never_answers_is_ended_by_timeout_server() {
    private_network(|| {
        let server = Server::start(local(9001), |mut stream| {
            drain(&mut stream);
        });
        let config =
            listen("127.0.0.1:8000", &[server.address]).replace("server 60s", "server 500ms");
        let balancer = Balancer::start(&config, &[local(FRONT)]);
        let begun = Instant::now();
        let mut client = connect(local(FRONT));
        client.write_all(b"anybody there?\n").unwrap();
        drain(&mut client);
        assert_about(begun.elapsed(), 500);
        // HAProxy keeps the other direction open until the client goes, too.
        drop(client);
        wait_for("the server's side to end", SOON, || server.now() == 0);
        balancer.stop();
    });
}

#[test]
fn a_client_that_sends_nothing_is_ended_by_timeout_client() {
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let config =
            listen("127.0.0.1:8000", &[server.address]).replace("client 60s", "client 500ms");
        let balancer = Balancer::start(&config, &[local(FRONT)]);
        assert_about(waits_for_the_end(), 500);
        wait_for("the server's side to end", SOON, || server.now() == 0);
        balancer.stop();
    });
}

#[test]
fn a_client_that_says_something_now_and_then_is_not_ended() {
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let config = listen("127.0.0.1:8000", &[server.address])
            .replace("client 60s", "client 1s")
            .replace("server 60s", "server 1s");
        let balancer = Balancer::start(&config, &[local(FRONT)]);
        let mut client = connect(local(FRONT));
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(2500) {
            assert_eq!(ask(&mut client, "still here"), "one still here");
            std::thread::sleep(Duration::from_millis(250));
        }
        assert_eq!(drain(&mut client).0, 0, "and then it is");
        balancer.stop();
    });
}

#[test]
fn a_checked_server_that_goes_away_gets_no_more_clients_and_comes_back() {
    private_network(|| {
        let one = Server::echo(local(9001), "one");
        let _two = Server::echo(local(9002), "two");
        let config = listen("127.0.0.1:8000", &[])
            + "    balance roundrobin
    default-server check inter 100ms fall 2 rise 2
    server one 127.0.0.1:9001
    server two 127.0.0.1:9002
";
        let balancer = Balancer::start(&config, &[local(FRONT)]);
        let answers = |count: usize| -> Vec<String> {
            (0..count)
                .map(|_| ask(&mut connect(local(FRONT)), "x"))
                .collect()
        };
        assert!(eventually(SOON, || answers(2).contains(&"one x".into())));
        one.stop_listening();
        let only_two = || answers(4).iter().all(|answer| answer == "two x");
        assert!(
            eventually(SOON, only_two),
            "`one` is down, and still gets clients"
        );
        let _again = Server::echo(local(9001), "again");
        let both = || answers(2).contains(&"again x".into());
        assert!(
            eventually(SOON, both),
            "`one` is up again, and gets no clients"
        );
        balancer.stop();
    });
}
