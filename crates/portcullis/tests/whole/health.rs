//! What a server's state does to its sessions, and what its sessions do to its state.
//!
//! Source:   HAProxy's manual, `on-marked-down`, `on-marked-up`, `observe`, `slowstart`.

use std::time::Duration;

use portcullis_testkit::private_network;

use super::clients::{ask, connect, drain};
use super::harness::{Balancer, DEFAULTS, SOON, local, ours_only};
use super::servers::Server;

const FRONT: u16 = 8000;

fn config(servers: &str) -> String {
    let defaults = DEFAULTS
        .replace("nbthread 2", "nbthread 2\n    log stdout format raw local0")
        .replace("mode tcp", "mode tcp\n    log global\n    option tcplog");
    format!(
        "{defaults}\nlisten front\n    bind 127.0.0.1:8000\n    balance roundrobin\n    retries 0\n{servers}\n"
    )
}

#[test]
fn sessions_end_with_a_server_that_goes_down_and_backups_with_one_that_comes_up() {
    private_network(|| {
        let main = Server::echo(local(9001), "main");
        let _spare = Server::echo(local(9002), "spare");
        let text = config(
            "    default-server check inter 100ms rise 1 fall 1
    server main 127.0.0.1:9001 on-marked-down shutdown-sessions on-marked-up shutdown-backup-sessions
    server spare 127.0.0.1:9002 backup",
        );
        let mut balancer = Balancer::start(&text, &[local(FRONT)]);
        let mut held: Vec<_> = (0..6).map(|_| connect(local(FRONT))).collect();
        for client in &mut held {
            assert_eq!(ask(client, "x"), "main x");
        }
        main.stop_listening();
        for client in &mut held {
            drain(client);
            let port = client.local_addr().unwrap().port();
            let line = balancer
                .process
                .wait_line(&format!("127.0.0.1:{port} ["), SOON);
            assert!(line.contains(" D- "), "{line}");
        }
        let mut on_spare = connect(local(FRONT));
        assert_eq!(ask(&mut on_spare, "x"), "spare x");
        let _main = Server::echo(local(9001), "main");
        drain(&mut on_spare);
        let port = on_spare.local_addr().unwrap().port();
        let line = balancer
            .process
            .wait_line(&format!("127.0.0.1:{port} ["), SOON);
        assert!(line.contains(" U- "), "{line}");
        assert_eq!(ask(&mut connect(local(FRONT)), "x"), "main x");
        balancer.stop();
    });
}

#[test]
fn errors_of_traffic_bring_a_server_down_before_its_next_check() {
    private_network(|| {
        // The check looks elsewhere, and finds everything well.
        let _health = Server::echo(local(9100), "health");
        let spare = Server::echo(local(9002), "spare");
        let text = config(
            "    server main 127.0.0.1:9001 check port 9100 inter 60s observe layer4 error-limit 3 on-error mark-down
    server spare 127.0.0.1:9002 backup",
        );
        let mut balancer = Balancer::start(&text, &[local(FRONT)]);
        for _ in 0..3 {
            assert_eq!(drain(&mut connect(local(FRONT))).0, 0);
        }
        let line = balancer.process.wait_line("front/main is DOWN", SOON);
        let words = "reason: Health analyze, info: \"Detected 3 consecutive errors, \
                     last one was: L4 unsuccessful connection\". 0 active";
        assert!(line.contains(words), "{line}");
        assert_eq!(ask(&mut connect(local(FRONT)), "x"), "spare x");
        assert_eq!(spare.connections(), 1);
        std::thread::sleep(Duration::from_millis(50));
        balancer.stop();
    });
}

#[test]
fn a_server_is_said_to_be_up_when_it_comes_and_again_when_it_is_warm() {
    private_network(|| {
        let main = Server::echo(local(9001), "main");
        let _spare = Server::echo(local(9002), "spare");
        let text = config(
            "    server main 127.0.0.1:9001 check inter 100ms rise 1 fall 1 slowstart 2s
    server spare 127.0.0.1:9002",
        );
        let mut balancer = Balancer::start(&text, &[local(FRONT)]);
        std::thread::sleep(Duration::from_millis(300));
        main.stop_listening();
        balancer.process.wait_line("front/main is DOWN", SOON);
        let _main = Server::echo(local(9001), "main");
        balancer
            .process
            .wait_line("front/main is UP, reason: Layer4 check passed", SOON);
        let warm = "front/main is UP. 2 active and 0 backup servers online. 0 sessions requeued, \
                    0 total in queue.";
        balancer.process.wait_line(warm, SOON);
        balancer.stop();
    });
}

/// How a client fares: who answers, or nobody.
fn answer() -> Option<String> {
    use std::io::{BufRead as _, Write as _};
    let mut client = connect(local(FRONT));
    let _ = client.write_all(b"x\n");
    let mut line = String::new();
    let read = std::io::BufReader::new(client).read_line(&mut line);
    (read.is_ok_and(|count| count > 0)).then(|| line.trim_end().to_owned())
}

#[test]
fn a_server_begins_as_init_state_says() {
    // HAProxy 2.6 does not know the word.
    if ours_only() {
        return;
    }
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let text = |server: &str| config(&format!("    server s1 127.0.0.1:{server}"));
        for (state, at_once, good_checks) in [
            ("none", Some(true), 0),
            ("up", Some(true), 0),
            ("fully-up", Some(true), 0),
            // The first check comes at once.
            ("down", None, 1),
            ("fully-down", Some(false), 3),
        ] {
            let line = format!("9001 check inter 500ms rise 3 init-state {state}");
            let text = text(&line).replace("retries 0", "retries 0\n    option log-health-checks");
            let mut balancer = Balancer::start(&text, &[local(FRONT)]);
            if let Some(served) = at_once {
                assert_eq!(answer().is_some(), served, "{state}");
            }
            if good_checks > 0 {
                balancer.process.wait_line("Server front/s1 is UP", SOON);
                let said = balancer.process.stdout();
                let good = said.matches("Health check for server front/s1 succeeded");
                assert_eq!(good.count(), good_checks, "{state}: {said}");
            }
            assert_eq!(answer().as_deref(), Some("one x"), "{state}");
            balancer.stop();
        }
        // Without a check it stays as it begins.
        for (state, served) in [("fully-up", true), ("down", false)] {
            let balancer =
                Balancer::start(&text(&format!("9001 init-state {state}")), &[local(FRONT)]);
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(answer().is_some(), served, "{state}");
            balancer.stop();
        }
        server.stop_listening();
        for (state, bad_checks) in [("up", 1), ("fully-up", 3)] {
            let line = format!("9001 check inter 300ms fall 3 init-state {state}");
            let text = text(&line).replace("retries 0", "retries 0\n    option log-health-checks");
            let mut balancer = Balancer::start(&text, &[local(FRONT)]);
            balancer.process.wait_line("Server front/s1 is DOWN", SOON);
            let said = balancer.process.stdout();
            let bad = said.matches("Health check for server front/s1 failed");
            assert_eq!(bad.count(), bad_checks, "{state}: {said}");
            balancer.stop();
        }
    });
}
