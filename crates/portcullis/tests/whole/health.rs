//! What a server's state does to its sessions, and what its sessions do to its state.
//!
//! Source:   HAProxy's manual, `on-marked-down`, `on-marked-up`, `observe`, `slowstart`.

use std::time::Duration;

use portcullis_testkit::private_network;

use super::clients::{ask, connect, drain};
use super::harness::{Balancer, DEFAULTS, SOON, local};
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
                     last one was: L4 unsuccessful connection\"";
        assert!(line.contains(words), "{line}");
        assert_eq!(ask(&mut connect(local(FRONT)), "x"), "spare x");
        assert_eq!(spare.connections(), 1);
        std::thread::sleep(Duration::from_millis(50));
        balancer.stop();
    });
}
