//! Targets of logs that stop taking lines, go away and come back: sessions never notice.
//!
//! Decides:  no session waits for a line; what is lost is counted and told; a target that is back gets
//!           lines again.
//! Not here: what the lines say (logs.rs), a Unix socket that is full or gone (logs.rs).

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::net::UdpSocket;
use std::os::unix::fs::OpenOptionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use portcullis_testkit::{cpu_time, eventually, private_network};

use super::clients::{ask, connect};
use super::harness::{Balancer, Place, SOON, command, listen, local, ours_only};
use super::servers::Server;

const FRONT: u16 = 8000;

fn config(target: &str) -> String {
    listen("127.0.0.1:8000", &[local(9001)])
        .replace("nbthread 2", &format!("nbthread 2\n    {target}"))
        .replace("mode tcp", "mode tcp\n    log global\n    option tcplog")
}

/// A session, and the port of its client.
#[track_caller]
fn session() -> u16 {
    let mut client = connect(local(FRONT));
    let port = client.local_addr().unwrap().port();
    assert_eq!(ask(&mut client, "x"), "one x");
    port
}

/// The slowest of so many sessions.
#[track_caller]
fn slowest_of(count: usize) -> Duration {
    let one = |_| {
        let begun = Instant::now();
        session();
        begun.elapsed()
    };
    (0..count).map(one).max().unwrap_or_default()
}

/// A pipe with a name, and its reading end, which nobody reads yet.
fn pipe(place: &Place) -> File {
    let path = place.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        0o666.into(),
        0,
    )
    .unwrap();
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .unwrap()
}

/// Reads what is there.
fn read_all(pipe: &mut File) -> String {
    let mut text = Vec::new();
    match pipe.read_to_end(&mut text) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => panic!("cannot read the pipe: {error}"),
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_standard_output_that_nobody_reads_blocks_nobody_and_its_losses_are_told() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let mut reader = pipe(&place);
        let text = config("log stdout format raw local0\n    log stderr format raw local0 warning");
        let file = place.write("test.cfg", &text);
        let started = command(&file);
        // The shell becomes the program, with its standard output in the pipe.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "out=$1; shift; exec \"$@\" > \"$out\"", "sh"])
            .arg(place.path().join("pipe"))
            .arg(started.get_program())
            .args(started.get_args());
        let mut balancer = Balancer::spawn(&mut shell, place, &[local(FRONT)]);
        // 64 KiB in the pipe, some 700 lines, and as much in the writer's keep.
        let slowest = slowest_of(2_500);
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        let said = balancer.process.wait_line("log lines were dropped", SOON);
        assert!(said.contains("by targets"), "{said}");
        let cpu = cpu_time(balancer.pid());
        std::thread::sleep(Duration::from_secs(1));
        let used = cpu_time(balancer.pid()) - cpu;
        assert!(used < Duration::from_millis(300), "{used:?} while it waits");
        // Somebody reads: whole lines, and new ones again.
        let mut text = String::new();
        let back = eventually(SOON, || {
            let about = format!("127.0.0.1:{} [", session());
            eventually(Duration::from_millis(500), || {
                text += &read_all(&mut reader);
                text.contains(&about)
            })
        });
        assert!(back, "no new line: {}", text.len());
        let whole = |line: &str| line.starts_with("127.0.0.1:") && line.ends_with(" 0/0");
        let sessions = text.lines().filter(|line| line.contains(" front/s1 "));
        let broken: Vec<&str> = sessions.filter(|line| !whole(line)).collect();
        // The last one may be on its way.
        assert!(broken.len() <= 1, "{broken:?}");
        let written = text.lines().filter(|line| whole(line)).count();
        // The pipe's 64 KiB at least; what the writer kept may have gone to standard error by now.
        assert!((500..2_400).contains(&written), "{written} lines");
        balancer.stop();
    });
}

#[test]
fn lines_lost_on_standard_output_are_told_on_standard_error() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let file = place.write("test.cfg", &config("log stdout format raw local0"));
        let started = command(&file);
        // The shell becomes the program, with a full device for its standard output.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "exec \"$@\" > /dev/full", "sh"])
            .arg(started.get_program())
            .args(started.get_args());
        let mut balancer = Balancer::spawn(&mut shell, place, &[local(FRONT)]);
        let told = |balancer: &mut Balancer, words: &str| {
            let found = eventually(SOON, || balancer.process.stderr().contains(words));
            assert!(found, "{words:?}: {}", balancer.process.stderr());
        };
        session();
        told(&mut balancer, "log lines were dropped");
        balancer.signal(portcullis_testkit::Signal::QUIT);
        told(&mut balancer, "log lines lost: 0 by full queues, ");
        balancer.signal(portcullis_testkit::Signal::TERM);
        told(&mut balancer, "stopping now");
        balancer.process.wait_exit(SOON);
    });
}

#[test]
fn a_syslog_server_over_udp_may_go_and_come_back() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let bind = || {
            let syslog = UdpSocket::bind(local(5140)).unwrap();
            let patience = Duration::from_millis(300);
            syslog.set_read_timeout(Some(patience)).unwrap();
            syslog
        };
        // Sessions' lines come, until the one that is asked for.
        let comes = |syslog: &UdpSocket| {
            eventually(SOON, || {
                let about = format!("127.0.0.1:{} [", session());
                let mut buffer = [0; 4096];
                while let Ok(count) = syslog.recv(&mut buffer) {
                    if String::from_utf8_lossy(&buffer[..count]).contains(&about) {
                        return true;
                    }
                }
                false
            })
        };
        let syslog = bind();
        let balancer = Balancer::start(&config("log 127.0.0.1:5140 local3"), &[local(FRONT)]);
        assert!(comes(&syslog));
        drop(syslog);
        // Each line is answered by "port unreachable" now.
        let slowest = slowest_of(200);
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
        assert!(comes(&bind()), "no line after it came back");
        balancer.stop();
    });
}
