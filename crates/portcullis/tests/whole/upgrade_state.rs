//! What a process knows goes over to the one that takes its place.

use portcullis_testkit::{private_network, wait_for};

use super::admin::say;
use super::clients::{ask, connect};
use super::harness::{Place, SOON, local, ours_only};
use super::reload::{FRONT, ONE, with};
use super::reload_load::Crowd;
use super::retire::listeners;
use super::servers::Server;
use super::upgrade::Line;

/// Logs to the standard output, which the processes of a line share.
fn logged(config: &str) -> String {
    config
        .replace(
            "nbthread 2",
            "nbthread 2\n    log stdout format raw local0\n    stats socket STATS level admin",
        )
        .replace("mode tcp", "mode tcp\n    log global")
}

#[test]
fn a_server_that_is_down_gets_no_session_and_no_check_after_an_upgrade() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _one = Server::echo(local(9001), "one");
        let two = Server::echo(local(9002), "two");
        let servers = [
            ONE,
            "two 127.0.0.1:9002 check inter 100ms downinter 600s rise 3 fall 2",
        ];
        let place = Place::new();
        let stats = place.path().join("stats").display().to_string();
        let config = logged(&with("127.0.0.1:8000", &servers)).replace("STATS", &stats);
        let mut line = Line::start(&config);
        two.stop_listening();
        line.first.wait_line("front/two is DOWN", SOON);
        // It is there again, and is not to know that before it is checked.
        let two = Server::echo(local(9002), "two");
        for round in 1..=3 {
            line.upgraded();
            for _ in 0..20 {
                assert_eq!(ask(&mut connect(FRONT), "x"), "one x", "upgrade {round}");
            }
        }
        assert_eq!(two.connections(), 0, "{}", line.first.transcript());
        let knew = "as the process before this one knew, 1 of 1 checked servers are down";
        wait_for("the log of the last one", SOON, || {
            line.first.transcript().matches(knew).count() == 3
        });
        let said = line.first.transcript();
        // It went down once.
        assert_eq!(said.matches("is DOWN").count(), 1, "{said}");
        line.stop();
    });
}

#[test]
fn a_server_that_warms_up_goes_on_warming_up_after_an_upgrade() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _one = Server::echo(local(9001), "one");
        let servers = [
            ONE,
            "two 127.0.0.1:9002 check inter 50ms rise 1 fall 1 slowstart 8s",
        ];
        let place = Place::new();
        let stats = place.path().join("stats").display().to_string();
        let config = logged(&with("127.0.0.1:8000", &servers)).replace("STATS", &stats);
        let mut line = Line::start(&config);
        line.first.wait_line("front/two is DOWN", SOON);
        let _two = Server::echo(local(9002), "two");
        line.first.wait_line("front/two is UP, reason", SOON);
        line.upgraded();
        assert_eq!(line.first.exit_code(SOON), 0);
        let warm = || {
            line.first
                .transcript()
                .matches("front/two is UP. 2")
                .count()
        };
        assert_eq!(warm(), 0, "{}", line.first.transcript());
        // The first one has ended: the second one tells it.
        wait_for("the server to be warm", SOON, || warm() == 1);
        line.stop();
    });
}

#[test]
fn counters_go_on_over_upgrades() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _one = Server::echo(local(9001), "one");
        let place = Place::new();
        let stats = place.path().join("stats");
        let config = logged(&with("127.0.0.1:8000", &[ONE]));
        let line = Line::start(&config.replace("STATS", &stats.display().to_string()));
        let figure = |name: &str| -> u64 {
            let answer = say(&stats, "show info\n");
            let mut values = answer.lines().filter_map(|line| line.strip_prefix(name));
            let value = values.next().and_then(|it| it.strip_prefix(": "));
            value.unwrap_or_else(|| panic!("{answer}")).parse().unwrap()
        };
        let mut expected = (figure("CumConns"), figure("TotalBytesOut"));
        for round in 0..3 {
            for _ in 0..7 {
                assert_eq!(ask(&mut connect(FRONT), "12345"), "one 12345");
            }
            expected = (expected.0 + 7, expected.1 + 70);
            // What a session read is counted when it ends at the latest.
            wait_for("the sessions' ends", SOON, || figure("CurrConns") == 0);
            let now = (figure("CumConns"), figure("TotalBytesOut"));
            assert_eq!(now, expected, "before upgrade {round}");
            line.upgraded();
            let now = (figure("CumConns"), figure("TotalBytesOut"));
            assert_eq!(now, expected, "after upgrade {round}");
        }
        line.stop();
    });
}

#[test]
fn shards_that_were_handed_over_are_retired_by_steering() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _one = Server::echo(local(9001), "one");
        let config = |workers: usize| {
            let config = with("127.0.0.1:8000 defer-accept", &[ONE]);
            config.replace("nbthread 2", &format!("nbthread {workers}"))
        };
        let line = Line::start(&config(3));
        let crowd = Crowd::start(6);
        line.upgraded();
        // One more beside those that came, and then some go.
        for workers in [4, 2, 3, 1] {
            std::fs::write(&line.file, config(workers)).unwrap();
            match workers {
                4 => line.upgraded(),
                _ => line.reloaded(),
            }
            let before = crowd.served();
            wait_for("some more to be served", SOON, || {
                crowd.served() > before + 50
            });
            wait_for("a socket for each worker", SOON, || {
                listeners(8000) == workers
            });
        }
        assert_eq!(crowd.stop(), Vec::<String>::new());
        wait_for("the log of both retirements", SOON, || {
            let said = line.first.transcript();
            said.matches("listening sockets retired in").count() == 2
        });
        let said = line.first.transcript();
        assert!(!said.contains("filter"), "{said}");
        line.stop();
    });
}
