//! The clock on the wall steps, days back and forth, while sessions, queues and checks wait.
//!
//! Decides:  only the dates of log lines follow it: no time runs out early or late, nothing spins.
//! Source:   CLOCK_REALTIME is the host's alone and no test may set it: a library that is loaded into
//!           the program adds to what the C library reads. That nothing of ours reads it elsewhere is
//!           `cargo xtask tidy`'s rule `clock`; the engine under a stepping clock: the simulation.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use portcullis_testkit::{cpu_time, need_program, private_network};

use super::clients::{ask, connect, drain};
use super::harness::{Balancer, DEFAULTS, Peer, Place, SOON, command, local, peer};
use super::servers::Server;

const FRONT: u16 = 8000;
const DAY: i64 = 86_400;

/// Adds the number in the file of `STEP_FILE` to the seconds of the clock on the wall. The balancers
/// read theirs by one of these three.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long step(void) {
    char text[32] = {0};
    const char *path = getenv("STEP_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
    close(file);
    return atol(text);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int done = syscall(SYS_clock_gettime, clock, now);
    if (done == 0 && clock == CLOCK_REALTIME) now->tv_sec += step();
    return done;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &exact) != 0) return -1;
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds) *seconds = now.tv_sec;
    return now.tv_sec;
}
"#;

/// The wall clock of one program.
struct Wall {
    file: PathBuf,
}

impl Wall {
    /// All at once: a reader sees the old number or the new one.
    fn step(&self, seconds: i64) {
        let next = self.file.with_extension("next");
        std::fs::write(&next, seconds.to_string()).unwrap();
        std::fs::rename(next, &self.file).unwrap();
    }
}

/// `None` is a visible skip.
fn shim(place: &Path) -> Option<PathBuf> {
    let compiler = need_program("cc")?;
    let (source, library) = (place.join("step.c"), place.join("step.so"));
    std::fs::write(&source, SHIM).unwrap();
    let built = Command::new(compiler)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{said}");
    Some(library)
}

fn start(config: &str) -> Option<(Balancer, Wall)> {
    let place = Place::new();
    let library = shim(place.path())?;
    let wall = Wall {
        file: place.path().join("step"),
    };
    wall.step(0);
    let file = place.write("test.cfg", config);
    let mut command = command(&file);
    command
        .env("LD_PRELOAD", library)
        .env("STEP_FILE", &wall.file)
        .env("TZ", "UTC");
    let balancer = Balancer::spawn(&mut command, place, &[local(FRONT)]);
    Some((balancer, wall))
}

fn config() -> String {
    let head = DEFAULTS
        .replace("nbthread 2", "nbthread 2\n    log stdout format raw local0")
        .replace("mode tcp", "mode tcp\n    log global\n    option tcplog")
        .replace("client 60s", "client 4s");
    format!(
        "{head}\nlisten front\n    bind 127.0.0.1:{FRONT}\n    timeout queue 3s\n    \
         server s1 127.0.0.1:9001 maxconn 2 check inter 300ms fall 1 rise 1\n"
    )
}

/// The day of a session's line, `[22/Nov/2026:…`, in seconds; only differences matter.
fn date_of(line: &str) -> i64 {
    let (_, rest) = line.split_once('[').unwrap();
    let (date, _) = rest.split_once(']').unwrap();
    let parts: Vec<&str> = date.split(['/', ':', '.']).collect();
    let number = |at: usize| parts[at].parse::<i64>().unwrap();
    let months = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let month = 1 + months.iter().position(|name| *name == parts[1]).unwrap() as i64;
    days(number(2), month, number(0)) * DAY + number(3) * 3600 + number(4) * 60 + number(5)
}

/// Days since 1 March of the year 0, in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = match month {
        1 | 2 => (year - 1, month + 9),
        _ => (year, month - 3),
    };
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1
}

#[test]
fn nothing_but_the_dates_of_the_log_follows_a_clock_that_steps() {
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let Some((mut balancer, wall)) = start(&config()) else {
            return;
        };
        for step in [3 * DAY, -400 * DAY, 0] {
            let begun = Instant::now();
            // Two have the server's places; one of them falls silent, a third one waits.
            let mut busy = connect(local(FRONT));
            assert_eq!(ask(&mut busy, "x"), "one x");
            let mut silent = connect(local(FRONT));
            assert_eq!(ask(&mut silent, "x"), "one x");
            let mut queued = connect(local(FRONT));
            queued.write_all(b"x\n").unwrap();
            let cpu = cpu_time(balancer.pid());
            wall.step(step);
            // The third one's wait: 3 s, by whatever clock.
            assert_eq!(drain(&mut queued).0, 0);
            let waited = begun.elapsed();
            assert_eq!(ask(&mut busy, "y"), "one y");
            drain(&mut silent);
            let fell_silent = begun.elapsed();
            for (what, took, due) in [("queue", waited, 3), ("client", fell_silent, 4)] {
                let early = Duration::from_millis(due * 1000 - 100);
                let late = Duration::from_secs(due) + Duration::from_secs(3);
                assert!(took > early && took < late, "step {step}: {what} {took:?}");
            }
            let used = cpu_time(balancer.pid()) - cpu;
            assert!(used < fell_silent / 3, "step {step}: {used:?} of processor");
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap();
            let about = format!("127.0.0.1:{} [", silent.local_addr().unwrap().port());
            let line = balancer.process.wait_line(&about, SOON);
            assert!(line.contains(" cD "), "{line}");
            let logged = date_of(&line) - days(1970, 1, 1) * DAY;
            let stepped = logged - now.as_secs() as i64;
            let expected = match peer() {
                Peer::Portcullis => step,
                // The accept's date, from before the step, and HAProxy's own corrections of it.
                Peer::Haproxy => stepped,
            };
            assert!((stepped - expected).abs() < 60, "step {step}: {line}");
            drop(busy);
            portcullis_testkit::wait_for("all to be gone", SOON, || server.now() == 0);
        }
        // Checks went on at their pace.
        server.stop_listening();
        balancer.process.wait_line("front/s1 is DOWN", SOON);
        balancer.stop();
    });
}
