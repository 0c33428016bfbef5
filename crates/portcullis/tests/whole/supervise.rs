//! A worker process that crashes under a supervisor: another one is there at once, with its queues.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use portcullis_testkit::{Signal, private_network, private_network_as_root, wait_for};

use super::clients::{ask, connect};
use super::harness::{Place, SOON, ours_only};
use super::reload::{FRONT, ONE, TWO, with};
use super::reload_load::Crowd;
use super::upgrade::{Line, is_gone, signal, stop_all_threads, two_servers};

fn supervised(config: &str) -> Line {
    let mut line = Line::start_with(config, |command| {
        command.arg("-W");
    });
    line.first.wait_line("serving 2 listening sockets", SOON);
    line
}

/// The worker of this supervisor; it is waited for.
#[track_caller]
fn worker(supervisor: u32) -> u32 {
    let children = || {
        let path = format!("/proc/{supervisor}/task/{supervisor}/children");
        std::fs::read_to_string(path).unwrap()
    };
    wait_for("a worker", SOON, || {
        let children = children();
        let mut pids = children.split_whitespace().filter_map(|it| it.parse().ok());
        pids.next().is_some_and(|pid: u32| !is_gone(pid))
    });
    let children = children();
    children.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_killed_worker_ends_its_own_sessions_and_nobody_is_refused() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let line = supervised(&with("127.0.0.1:8000", &[ONE, TWO]));
        let supervisor = line.pid();
        assert_eq!(supervisor, line.first.pid());
        let crowd = Crowd::start(8);
        let mut longest = Duration::ZERO;
        for _ in 0..3 {
            let before = crowd.served();
            wait_for("some more to be served", SOON, || {
                crowd.served() > before + 20
            });
            let killed = worker(supervisor);
            let began = Instant::now();
            signal(killed, Signal::KILL);
            wait_for("another worker", SOON, || worker(supervisor) != killed);
            let mut client = connect(FRONT);
            assert!(ask(&mut client, "x").ends_with(" x"));
            longest = longest.max(began.elapsed());
        }
        let before = crowd.served();
        wait_for("some more to be served", SOON, || {
            crowd.served() > before + 20
        });
        let served = crowd.served();
        let wrong = crowd.stop();
        eprintln!(
            "served {served}, ended {}, longest gap {longest:?}",
            wrong.len()
        );
        assert!(wrong.len() <= 3 * 8, "{wrong:?}");
        // Theirs were cut; nobody was turned away.
        assert!(
            wrong.iter().all(|why| !why.starts_with("connect")),
            "{wrong:?}"
        );
        assert_eq!(line.pid(), supervisor);
        line.stop();
    });
}

#[test]
fn what_waits_in_the_queue_of_a_worker_that_dies_is_served_by_the_next() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let line = supervised(&with("127.0.0.1:8000", &[ONE]));
        let killed = worker(line.pid());
        stop_all_threads(killed);
        let mut clients: Vec<_> = (0..20).map(|_| connect(FRONT)).collect();
        for client in &mut clients {
            client.write_all(b"waiting\n").unwrap();
        }
        signal(killed, Signal::KILL);
        for client in &mut clients {
            let mut said = [0; 12];
            client.read_exact(&mut said).unwrap();
            assert_eq!(&said, b"one waiting\n");
        }
        line.stop();
    });
}

#[test]
fn a_worker_that_dies_in_the_middle_of_a_retirement_leaves_nobody_behind() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let config = with("127.0.0.1:8000 defer-accept", &[ONE]);
        let config = |workers: usize| config.replace("nbthread 2", &format!("nbthread {workers}"));
        let mut line = Line::start_with(&config(4), |command| {
            command.arg("-W");
        });
        line.first.wait_line("serving 4 listening sockets", SOON);
        // Their handshake is not over as long as they are silent, and three of four sockets wait for that.
        let mut clients: Vec<_> = (0..40).map(|_| connect(FRONT)).collect();
        std::fs::write(&line.file, config(1)).unwrap();
        line.reloaded();
        let killed = worker(line.pid());
        signal(killed, Signal::KILL);
        wait_for("another worker", SOON, || worker(line.pid()) != killed);
        let said = line.first.transcript();
        assert!(!said.contains("retired in"), "it was over too soon: {said}");
        for client in &mut clients {
            assert_eq!(ask(client, "late"), "one late");
        }
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        line.stop();
    });
}

#[test]
fn a_refused_reload_under_a_supervisor_leaves_no_port_open() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let place = Place::new();
        let file = place.write("no-socket", "a file");
        let line = supervised(&with("127.0.0.1:8000", &[ONE]));
        let bind = format!("127.0.0.1:8000,127.0.0.1:8001,{}", file.display());
        std::fs::write(&line.file, with(&bind, &[ONE])).unwrap();
        let mut command = super::harness::portcullis();
        command.arg("reload").arg("-p");
        command.arg(line.socket().with_file_name("pid"));
        assert_eq!(command.output().unwrap().status.code(), Some(1));
        // The supervisor has a copy of what was opened.
        assert!(!portcullis_testkit::listening(super::harness::local(8001)));
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        line.stop();
    });
}

#[test]
fn the_next_worker_serves_what_the_last_one_did_whatever_the_files_say_now() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let line = supervised(&with("127.0.0.1:8000", &[ONE]));
        let reload = || {
            let mut command = super::harness::portcullis();
            command
                .arg("reload")
                .arg("-p")
                .arg(line.socket().with_file_name("pid"));
            command.output().unwrap().status.success()
        };
        std::fs::write(&line.file, with("127.0.0.1:8000,127.0.0.1:8001", &[TWO])).unwrap();
        assert!(reload());
        std::fs::write(&line.file, "nonsense\n").unwrap();
        assert!(!reload());
        let killed = worker(line.pid());
        signal(killed, Signal::KILL);
        wait_for("another worker", SOON, || worker(line.pid()) != killed);
        assert_eq!(ask(&mut connect(FRONT), "x"), "two x");
        let second = super::harness::local(8001);
        assert_eq!(ask(&mut connect(second), "x"), "two x");
        line.stop();
    });
}

#[test]
fn workers_that_crash_again_and_again_end_the_supervisor_with_its_own_code() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let mut line = supervised(&with("127.0.0.1:8000", &[ONE]));
        let supervisor = line.pid();
        let mut killed = 0;
        let mut last = 0;
        let began = Instant::now();
        while line.first.running() && began.elapsed() < 3 * SOON {
            let path = format!("/proc/{supervisor}/task/{supervisor}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            let pid = children.split_whitespace().next();
            if let Some(pid) = pid
                .and_then(|it| it.parse().ok())
                .filter(|pid| *pid != last)
            {
                // It serves before it dies; what does not even start is no other case.
                std::thread::sleep(Duration::from_millis(50));
                signal(pid, Signal::KILL);
                (killed, last) = (killed + 1, pid);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let code = line.first.exit_code(SOON);
        let said = line.first.transcript();
        assert_eq!((code, killed), (6, 11), "{said}");
        assert!(
            said.contains("was killed by signal 9, and 11 in a row did: giving up"),
            "{said}"
        );
        assert!(!line.socket().exists());
    });
}

#[test]
fn a_supervisor_that_is_told_to_stop_starts_no_other_worker() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        for how in [Signal::TERM, Signal::USR1] {
            let mut line = supervised(&with("127.0.0.1:8000", &[ONE]));
            let mut session = connect(FRONT);
            assert_eq!(ask(&mut session, "x"), "one x");
            let last = worker(line.pid());
            line.first.signal(how);
            if how == Signal::USR1 {
                assert_eq!(ask(&mut session, "y"), "one y");
                // It drains, and dies of something else.
                std::thread::sleep(Duration::from_millis(300));
                signal(last, Signal::KILL);
            }
            let code = line.first.exit_code(SOON);
            let expected = if how == Signal::USR1 { 128 + 9 } else { 0 };
            assert_eq!(code, expected, "{}", line.first.transcript());
        }
    });
}

fn is_replaced(config: &str) {
    let _servers = two_servers();
    let mut line = supervised(config);
    let crowd = Crowd::start(4);
    line.upgraded();
    line.upgraded();
    assert_eq!(line.first.exit_code(SOON), 0, "{}", line.first.transcript());
    let served = crowd.served();
    assert_eq!(crowd.stop(), Vec::<String>::new(), "of {served}");
    let killed = worker(line.pid());
    signal(killed, Signal::KILL);
    wait_for("another worker", SOON, || worker(line.pid()) != killed);
    assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
    line.stop();
}

#[test]
fn a_supervisor_is_replaced_with_its_sockets() {
    if ours_only() {
        return;
    }
    private_network(|| is_replaced(&with("127.0.0.1:8000", &[ONE])));
}

#[test]
fn a_supervisor_whose_worker_dropped_its_privileges_is_replaced_too() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let drop_them = "nbthread 2\n    user nobody\n    group nogroup";
        is_replaced(&with("127.0.0.1:8000", &[ONE]).replace("nbthread 2", drop_them));
    });
}
