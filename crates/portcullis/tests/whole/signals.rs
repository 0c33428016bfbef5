//! What signals do to a running balancer.

use std::io::Read as _;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use portcullis_testkit::{Signal, eventually, listening, private_network, wait_for};

use super::clients::{ask, connect, drain, with_deadlines};
use super::harness::{Balancer, SOON, listen, local, ours_only};
use super::servers::Server;

const FRONT: u16 = 8000;

fn one_server() -> (Server, Balancer) {
    let server = Server::echo(local(9001), "one");
    let balancer = Balancer::start(
        &listen("127.0.0.1:8000", &[server.address]),
        &[local(FRONT)],
    );
    (server, balancer)
}

#[test]
fn usr1_closes_the_ports_and_lets_sessions_end() {
    private_network(|| {
        let (_server, mut balancer) = one_server();
        let mut client = connect(local(FRONT));
        assert_eq!(ask(&mut client, "before"), "one before");
        balancer.signal(Signal::USR1);
        wait_for("the port to close", SOON, || !listening(local(FRONT)));
        assert!(TcpStream::connect(local(FRONT)).is_err());
        std::thread::sleep(Duration::from_millis(300));
        balancer.assert_well();
        assert_eq!(ask(&mut client, "after"), "one after");
        client.shutdown(Shutdown::Write).unwrap();
        drain(&mut client);
        drop(client);
        assert_eq!(
            balancer.process.exit_code(SOON),
            0,
            "{}",
            balancer.process.transcript()
        );
    });
}

#[test]
fn usr1_without_sessions_ends_at_once() {
    private_network(|| {
        let (_server, mut balancer) = one_server();
        balancer.signal(Signal::USR1);
        assert_eq!(
            balancer.process.exit_code(SOON),
            0,
            "{}",
            balancer.process.transcript()
        );
    });
}

#[test]
fn term_and_int_end_at_once_with_sessions_open() {
    private_network(|| {
        for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2)] {
            let server = Server::echo(local(9001 + number), "one");
            let config = listen("127.0.0.1:8000", &[server.address]);
            let mut balancer = Balancer::start(&config, &[local(FRONT)]);
            let mut client = connect(local(FRONT));
            assert_eq!(ask(&mut client, "before"), "one before");
            balancer.signal(signal);
            let code = balancer.process.exit_code(SOON);
            let expected = if super::harness::peer() == super::harness::Peer::Haproxy {
                128 + i32::from(number)
            } else {
                0
            };
            assert_eq!(code, expected, "{}", balancer.process.transcript());
            drain(&mut client);
            wait_for("the server's side to end", SOON, || server.now() == 0);
        }
    });
}

#[test]
fn hard_stop_after_ends_sessions_that_stay() {
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let config = listen("127.0.0.1:8000", &[server.address])
            .replace("nbthread 2", "nbthread 2\n    hard-stop-after 700ms");
        let mut balancer = Balancer::start(&config, &[local(FRONT)]);
        let mut client = connect(local(FRONT));
        assert_eq!(ask(&mut client, "before"), "one before");
        let begun = std::time::Instant::now();
        balancer.signal(Signal::USR1);
        drain(&mut client);
        assert!(
            begun.elapsed() >= Duration::from_millis(600),
            "{:?}",
            begun.elapsed()
        );
        balancer.process.wait_exit(SOON);
    });
}

#[test]
fn ttou_pauses_and_ttin_resumes_with_nobody_lost() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let (_server, mut balancer) = one_server();
        let mut old = connect(local(FRONT));
        assert_eq!(ask(&mut old, "before"), "one before");
        balancer.signal(Signal::TTOU);
        // The signal has come through when a new client finds nobody who accepts.
        let unheard = || {
            let mut client = connect(local(FRONT));
            client
                .set_read_timeout(Some(Duration::from_millis(300)))
                .unwrap();
            std::io::Write::write_all(&mut client, b"x\n").unwrap();
            match client.read_exact(&mut [0]) {
                Err(_) => Some(client),
                Ok(()) => None,
            }
        };
        let mut waiting = None;
        assert!(eventually(SOON, || {
            waiting = unheard();
            waiting.is_some()
        }));
        let state = std::fs::read_to_string(format!("/proc/{}/stat", balancer.pid())).unwrap();
        assert!(!state.contains(") T "), "it must not be stopped");
        assert_eq!(
            ask(&mut old, "meanwhile"),
            "one meanwhile",
            "sessions go on"
        );
        balancer.signal(Signal::TTIN);
        let mut waiting = with_deadlines(waiting.unwrap());
        assert_eq!(super::clients::read_line(&mut waiting), "one x");
        assert_eq!(ask(&mut connect(local(FRONT)), "new"), "one new");
        balancer.stop();
    });
}

#[test]
fn hup_usr2_and_pipe_do_no_harm() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let (_server, mut balancer) = one_server();
        for signal in [Signal::HUP, Signal::USR2, Signal::PIPE, Signal::QUIT] {
            balancer.signal(signal);
            for _ in 0..5 {
                assert_eq!(
                    ask(&mut connect(local(FRONT)), "x"),
                    "one x",
                    "after {signal:?}"
                );
            }
        }
        std::thread::sleep(Duration::from_millis(200));
        balancer.stop();
    });
}
