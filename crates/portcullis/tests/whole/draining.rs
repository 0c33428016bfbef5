//! How sessions end once no new ones are taken: by themselves, by age, by `hard-stop-after`.

use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use portcullis_testkit::{Signal, listening, private_network, wait_for};

use super::clients::{ask, connect, drain};
use super::harness::{Balancer, SOON, listen, local, ours_only};
use super::servers::Server;

const FRONT: u16 = 8000;

/// Logs to standard output, with more lines of `global` and of `defaults`.
fn config(global: &str, defaults: &str) -> String {
    listen("127.0.0.1:8000", &[local(9001)])
        .replace(
            "nbthread 2",
            &format!("nbthread 2\n    log stdout format raw local0\n    {global}"),
        )
        .replace(
            "mode tcp",
            &format!("mode tcp\n    log global\n    option tcplog\n    {defaults}"),
        )
}

fn open_session() -> (TcpStream, String) {
    let mut client = connect(local(FRONT));
    assert_eq!(ask(&mut client, "before"), "one before");
    let from = format!(":{} [", client.local_addr().unwrap().port());
    (client, from)
}

#[test]
fn hard_stop_after_ends_what_stays_with_k_and_the_process_with_it() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let mut balancer = Balancer::start(&config("hard-stop-after 600ms", ""), &[local(FRONT)]);
        let (mut client, from) = open_session();
        let begun = Instant::now();
        balancer.signal(Signal::USR1);
        drain(&mut client);
        assert!(begun.elapsed() >= Duration::from_millis(550));
        let line = balancer.process.wait_line(&from, SOON);
        assert!(line.contains(" K- "), "{line}");
        balancer.process.wait_exit(SOON);
    });
}

#[test]
fn grace_goes_on_accepting_for_its_time() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let mut balancer = Balancer::start(&config("grace 700ms", ""), &[local(FRONT)]);
        let begun = Instant::now();
        balancer.signal(Signal::USR1);
        std::thread::sleep(Duration::from_millis(200));
        let (client, _) = open_session();
        wait_for("the port to close", SOON, || !listening(local(FRONT)));
        assert!(begun.elapsed() >= Duration::from_millis(600));
        client.shutdown(Shutdown::Write).unwrap();
        drop(client);
        assert_eq!(balancer.process.exit_code(SOON), 0);
    });
}

#[test]
fn drain_age_ends_old_sessions_at_once_and_young_ones_when_they_are_old() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = config("", "timeout drain-age 1500ms");
        let mut balancer = Balancer::start(&config, &[local(FRONT)]);
        let (mut old, old_from) = open_session();
        std::thread::sleep(Duration::from_millis(1_700));
        assert_eq!(ask(&mut old, "old"), "one old", "it is not drained yet");
        let (mut young, young_from) = open_session();
        let begun = Instant::now();
        balancer.signal(Signal::USR1);
        drain(&mut old);
        assert!(begun.elapsed() < Duration::from_millis(1_200), "at once");
        assert_eq!(
            ask(&mut young, "young"),
            "one young",
            "its time is not over"
        );
        drain(&mut young);
        assert!(begun.elapsed() >= Duration::from_millis(1_300));
        for (from, least) in [(old_from, 1_700), (young_from, 1_500)] {
            let line = balancer.process.wait_line(&from, SOON);
            assert!(line.contains(" AD "), "{line}");
            let times = line.split(' ').nth(4).unwrap();
            let total: u64 = times.rsplit('/').next().unwrap().parse().unwrap();
            assert!(total >= least, "{line}");
        }
        assert_eq!(balancer.process.exit_code(SOON), 0);
    });
}

#[test]
fn a_session_that_ends_by_itself_while_drained_says_so() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = config("hard-stop-after 1m", "timeout drain-age 1m");
        let mut balancer = Balancer::start(&config, &[local(FRONT)]);
        let (mut client, from) = open_session();
        balancer.signal(Signal::USR1);
        wait_for("the port to close", SOON, || !listening(local(FRONT)));
        assert_eq!(ask(&mut client, "still"), "one still");
        client.shutdown(Shutdown::Write).unwrap();
        drain(&mut client);
        let line = balancer.process.wait_line(&from, SOON);
        assert!(line.contains(" -- "), "{line}");
        assert_eq!(balancer.process.exit_code(SOON), 0);
    });
}
