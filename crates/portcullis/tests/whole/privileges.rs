//! Privileges dropped, daemons, pidfiles.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use portcullis_testkit::{
    Process, Signal, eventually, listening, private_network, private_network_as_root, wait_for,
};
use rustix::process::{Pid, kill_process};

use super::clients::{ask, connect};
use super::harness::{Balancer, DEFAULTS, Place, SOON, command, local, ours_only};
use super::servers::Server;

const NOBODY: u32 = 65534;

/// All living processes that descend from `pid`, itself included.
fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut next = 0;
    while next < family.len() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", family[next]));
        next += 1;
        for task in tasks.into_iter().flatten().flatten() {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            family.extend(
                children
                    .split_whitespace()
                    .map(|pid| pid.parse::<u32>().unwrap()),
            );
        }
    }
    family
}

/// A line of /proc/PID/status, without its name.
fn status(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

fn config(global: &str, bind: &str) -> String {
    let defaults = DEFAULTS.replace("    nbthread 2\n", &format!("    nbthread 2\n{global}"));
    format!("{defaults}\nlisten front\n    bind {bind}\n    server s1 127.0.0.1:9001\n")
}

#[test]
fn user_chroot_and_a_low_port_go_together() {
    private_network_as_root(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let cell = place.path().join("empty");
        std::fs::create_dir(&cell).unwrap();
        let global = format!(
            "    user nobody\n    group nogroup\n    chroot {}\n",
            cell.display()
        );
        let file = place.write("test.cfg", &config(&global, "127.0.0.1:80"));
        let mut balancer = Balancer::spawn(&mut command(&file), place, &[local(80)]);
        assert_eq!(ask(&mut connect(local(80)), "x"), "one x");
        // HAProxy drops after it listens: look until it has.
        let mut workers = Vec::new();
        let dropped = eventually(SOON, || {
            workers = family(balancer.pid());
            workers.retain(|pid| status(*pid, "Uid").starts_with(&NOBODY.to_string()));
            !workers.is_empty()
        });
        assert!(
            dropped,
            "nobody of {:?} serves as nobody",
            family(balancer.pid())
        );
        for &worker in &workers {
            let four = [NOBODY.to_string().as_str(); 4].join(" ");
            assert_eq!(
                status(worker, "Uid"),
                four,
                "real, effective, saved and file system"
            );
            assert_eq!(
                status(worker, "Gid")
                    .split(' ')
                    .collect::<BTreeSet<_>>()
                    .len(),
                1
            );
            assert_eq!(
                status(worker, "Groups"),
                "",
                "no supplementary group of root's"
            );
            assert_eq!(status(worker, "CapEff"), "0000000000000000");
            assert_eq!(status(worker, "CapPrm"), "0000000000000000");
            let root = std::fs::read_link(format!("/proc/{worker}/root")).unwrap();
            assert_eq!(root, cell);
        }
        let all = family(balancer.pid());
        for turn in 0..20 {
            assert_eq!(
                ask(&mut connect(local(80)), &turn.to_string()),
                format!("one {turn}")
            );
        }
        balancer.assert_well();
        balancer.stop();
        wait_for("all its processes to end", SOON, || {
            all.iter().all(|pid| status(*pid, "State").is_empty())
        });
        assert!(!listening(local(80)));
    });
}

use std::collections::BTreeSet;

#[test]
fn signals_reach_the_unprivileged_process() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let _server = Server::echo(local(9001), "one");
        let config = config("    user nobody\n    group nogroup\n", "127.0.0.1:80");
        let mut balancer = Balancer::start(&config, &[local(80)]);
        let mut client = connect(local(80));
        assert_eq!(ask(&mut client, "before"), "one before");
        balancer.signal(Signal::USR1);
        wait_for("the port to close", SOON, || !listening(local(80)));
        assert_eq!(ask(&mut client, "after"), "one after");
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
fn a_user_that_does_not_exist_is_refused() {
    if ours_only() {
        return;
    }
    let place = Place::new();
    let file = place.write(
        "test.cfg",
        &config("    user nobody-of-this-name\n", "127.0.0.1:8000"),
    );
    let mut process = Process::spawn(&mut command(&file));
    assert_eq!(process.exit_code(SOON), 1, "{}", process.transcript());
    assert!(
        process.stderr().contains("nobody-of-this-name"),
        "{}",
        process.transcript()
    );
}

/// Ends a daemon by the pid in its file, also when the test fails.
struct Daemon(u32);

impl Drop for Daemon {
    fn drop(&mut self) {
        for pid in family(self.0) {
            signal(pid, Signal::KILL);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(i32::try_from(pid).unwrap()) {
        let _ = kill_process(pid, signal);
    }
}

fn read_pid(file: &Path) -> Option<u32> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[test]
fn a_daemon_is_ready_when_its_launcher_ends_and_its_pidfile_names_it() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let front: SocketAddr = local(8000);
        let place = Place::new();
        let pidfile = place.path().join("daemon.pid");
        let global = format!("    daemon\n    pidfile {}\n", pidfile.display());
        let file = place.write("test.cfg", &config(&global, "127.0.0.1:8000"));
        let mut launching = command(&file);
        if super::harness::peer() == super::harness::Peer::Haproxy {
            // `-db` would keep it in the foreground.
            launching = std::process::Command::new(launching.get_program());
            launching.arg("-D").arg("-f").arg(&file);
        }
        let mut launcher = Process::spawn(&mut launching);
        assert_eq!(launcher.exit_code(SOON), 0, "{}", launcher.transcript());
        assert!(listening(front), "open when the launcher says that it is");
        let pid = read_pid(&pidfile).expect("a pid in the pidfile");
        let _daemon = Daemon(pid);
        assert_ne!(pid, launcher.pid());
        assert_eq!(ask(&mut connect(front), "x"), "one x");
        let session = status(pid, "NSsid");
        assert_ne!(
            session,
            status(std::process::id(), "NSsid"),
            "a session of its own"
        );
        signal(pid, Signal::TERM);
        let gone = || status(pid, "State").is_empty() || status(pid, "State").starts_with('Z');
        assert!(eventually(SOON, gone), "{}", status(pid, "State"));
        // The first thread may be gone while another still lets go of the port.
        assert!(eventually(SOON, || !listening(front)), "still listening");
    });
}

#[test]
fn a_daemon_that_cannot_open_its_port_fails_in_the_launcher() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _held = std::net::TcpListener::bind(local(8000)).unwrap();
        let place = Place::new();
        let pidfile = place.path().join("daemon.pid");
        let global = format!("    daemon\n    pidfile {}\n", pidfile.display());
        let file = place.write("test.cfg", &config(&global, "127.0.0.1:8000"));
        let mut launcher = Process::spawn(&mut command(&file));
        assert_eq!(launcher.exit_code(SOON), 3, "{}", launcher.transcript());
        assert!(
            launcher.stderr().contains("127.0.0.1:8000"),
            "{}",
            launcher.transcript()
        );
        std::thread::sleep(Duration::from_millis(100));
        assert!(
            !pidfile.exists(),
            "no pidfile of a daemon that is not there"
        );
    });
}
