//! Checks against real sockets, and what follows from them.
//!
//! Decides:  each result from the server that causes it; a server going down and coming back
//!           reaches the group and the log; nothing is left behind.
//! Not here: thresholds (the proxy crate).

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use portcullis_balance::{Algorithm, AllBackups, Member};
use portcullis_proxy::log::{Facility, Format, Level, Zone};
use portcullis_proxy::record::bounded;
use portcullis_testkit::wait_for;

use super::*;
use crate::logs::{Destination, LogPlan, LogWriter, Notices, Route, Target};

const PATIENT: Duration = Duration::from_secs(10);

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// A runtime that runs in a thread until it is dropped.
struct Background {
    handle: Handle,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Background {
    fn new() -> Self {
        let runtime = runtime();
        let handle = runtime.handle().clone();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let _ = runtime.block_on(stopped);
        });
        Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

fn checked(target: &ServerAddress, timeout: Duration) -> (CheckStatus, String) {
    runtime().block_on(check(target, &Opening::default(), timeout))
}

fn tcp(address: SocketAddr) -> ServerAddress {
    ServerAddress::Tcp {
        address,
        mptcp: false,
    }
}

/// A port that refuses: bound, so that nobody else gets it, and not listening.
fn refusing() -> (rustix::fd::OwnedFd, SocketAddr) {
    use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

#[test]
fn each_result_has_its_cause() {
    let listening = TcpListener::bind("127.0.0.1:0").unwrap();
    let six = TcpListener::bind("[::1]:0").unwrap();
    let (_held, refusing) = refusing();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let _unix = UnixListener::bind(&path).unwrap();
    let unix = |path: &std::path::Path| {
        use std::os::unix::ffi::OsStrExt as _;
        ServerAddress::Unix(path.as_os_str().as_bytes().to_vec())
    };
    for (target, status, info) in [
        (tcp(listening.local_addr().unwrap()), CheckStatus::L4Ok, ""),
        (tcp(six.local_addr().unwrap()), CheckStatus::L4Ok, ""),
        (
            tcp(refusing),
            CheckStatus::L4Connection,
            "Connection refused",
        ),
        (unix(&path), CheckStatus::L4Ok, ""),
        (
            unix(&directory.path().join("none")),
            CheckStatus::L4Connection,
            "No such file or directory",
        ),
        (
            ServerAddress::OriginalDestination {
                port: None,
                offset: 0,
            },
            CheckStatus::SocketError,
            "the server has no fixed address",
        ),
    ] {
        let found = checked(&target, PATIENT);
        assert_eq!(found, (status, info.to_owned()), "{target:?}");
    }
}

#[test]
fn abstract_names_are_checked_in_both_forms() {
    let name = format!("portcullis-check-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    let mut exact = vec![0];
    exact.extend_from_slice(name.as_bytes());
    let mut padded = exact.clone();
    padded.resize(108, 0);
    let (status, _) = checked(&ServerAddress::Unix(exact), PATIENT);
    assert_eq!(status, CheckStatus::L4Ok);
    // The padded form is another name, which nobody listens on.
    let (status, info) = checked(&ServerAddress::Unix(padded), PATIENT);
    assert_eq!(status, CheckStatus::L4Connection);
    assert_eq!(info, "Connection refused");
}

#[test]
fn a_server_that_does_not_answer_times_out() {
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let address = full.local_addr().unwrap();
    // With a backlog of 0 the queue takes one; what comes then is not answered.
    let _queued = std::net::TcpStream::connect(address).unwrap();
    let began = Instant::now();
    let (status, info) = checked(&tcp(address), Duration::from_millis(120));
    assert_eq!((status, info.as_str()), (CheckStatus::L4Timeout, ""));
    assert!(began.elapsed() >= Duration::from_millis(120));
}

#[test]
fn a_server_mostly_never_sees_a_check() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let target = tcp(listener.local_addr().unwrap());
    for _ in 0..20 {
        assert_eq!(checked(&target, PATIENT).0, CheckStatus::L4Ok);
    }
    // A busy host may be slower than the acknowledgement's delay (40 ms) now and then.
    let seen = std::iter::from_fn(|| listener.accept().ok()).count();
    assert!(seen <= 5, "{seen} of 20 checks were accepted");
}

/// Lines of /proc/net/tcp with this port, but for the listener's.
fn connections_of(port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let port = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let of_port =
        |line: &&str| line.contains(&port) && line.split_whitespace().nth(3) != Some(LISTEN);
    table.lines().filter(of_port).map(str::to_owned).collect()
}

#[test]
fn checks_leave_no_connection_in_any_state() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..20 {
        assert_eq!(checked(&tcp(address), PATIENT).0, CheckStatus::L4Ok);
    }
    wait_for("every check's connection to be gone", PATIENT, || {
        connections_of(address.port()).is_empty()
    });
    // The deliberate contrary: an ordinary close is seen by the same look.
    drop(std::net::TcpStream::connect(address).unwrap());
    assert!(!connections_of(address.port()).is_empty());
}

/// A group of servers `s0`, `s1`, …, their check plan, and a log that is read from a pipe.
struct Bench {
    group: Arc<Group>,
    plan: HealthPlan,
    background: Background,
    writer: LogWriter,
    log: std::fs::File,
}

fn bench(targets: &[SocketAddr], log_each: bool) -> Bench {
    let members: Vec<Member> = (0..targets.len())
        .map(|n| Member {
            name: format!("s{n}"),
            weight: 1,
            tier: if n == 0 { Tier::Active } else { Tier::Backup },
            usable: true,
            ..Member::default()
        })
        .collect();
    let group = Arc::new(Group::new(Algorithm::RoundRobin, AllBackups::No, &members));
    let checks = members
        .iter()
        .zip(targets)
        .zip(0..)
        .map(|((member, &address), slot)| Check {
            backend: "be".to_owned(),
            section: Section::Backend,
            server: member.name.clone(),
            tier: member.tier,
            group: Arc::clone(&group),
            slot: MemberId(slot),
            target: tcp(address),
            opening: Opening::default(),
            settings: HealthSettings {
                inter_ms: 20,
                fast_inter_ms: None,
                down_inter_ms: None,
                rise: 2,
                fall: 2,
            },
            start: Start::Up,
            slow_start_s: 0,
            timeout: PATIENT,
            log_each,
            observed: None,
            ends_when_down: Vec::new(),
            ends_when_up: Vec::new(),
        })
        .collect();
    let (reader, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let route = Route {
        targets: vec![Target {
            to: Destination::Descriptor(end.as_raw_fd()),
            format: Format::Short,
            facility: Facility(0),
            max_level: Level::Debug,
            min_level: Level::Emergency,
            max_length: 1024,
            tag: String::new(),
            hostname: None,
            sample: None,
            came: 0,
        }],
    };
    let log_plan = LogPlan {
        sessions: BTreeMap::new(),
        backends: [("be".to_owned(), route)].into(),
        global: Route::default(),
        rings: Default::default(),
        notices: Notices::Nowhere,
    };
    let (_, source) = bounded(1);
    let (writer, _) = LogWriter::start(log_plan, Zone::utc(), source).unwrap();
    Bench {
        group,
        plan: HealthPlan { checks, spread: 50 },
        background: Background::new(),
        writer,
        log: reader.into(),
    }
}

impl Bench {
    fn start(&self) -> Checker {
        let mut checker = Checker::new(
            self.background.handle.clone(),
            self.writer.handle(),
            Vec::new(),
        );
        checker.apply(&self.plan);
        checker
    }

    /// Ends everything and returns the log, with durations replaced.
    fn log(mut self, checker: Checker) -> Vec<String> {
        drop((checker, self.background));
        self.writer.finish();
        let mut text = String::new();
        self.log.read_to_string(&mut text).unwrap();
        text.lines().map(without_duration).collect()
    }

    fn wait(&self, active: u32, backup: u32) {
        let expected = portcullis_balance::Usable { active, backup };
        let what = format!("{active} active and {backup} backup servers");
        wait_for(&what, PATIENT, || self.group.usable() == expected);
    }
}

fn without_duration(line: &str) -> String {
    match (line.find("check duration: "), line.find("ms")) {
        (Some(from), Some(to)) => format!("{}N{}", &line[..from + 16], &line[to..]),
        _ => line.to_owned(),
    }
}

#[test]
fn servers_go_down_and_come_back_in_the_group_and_in_the_log() {
    let (held, first) = refusing();
    let second = TcpListener::bind("127.0.0.1:0").unwrap();
    let bench = bench(&[first, second.local_addr().unwrap()], false);
    let checker = bench.start();
    // The first failure of all is enough; the backup stays.
    bench.wait(0, 1);
    drop(second);
    bench.wait(0, 0);
    rustix::net::listen(&held, 16).unwrap();
    bench.wait(1, 0);
    let states = checker.states();
    assert_eq!(states.len(), 2);
    assert!(states[0].standing.up && !states[1].standing.up);
    assert_eq!(states[1].status, CheckStatus::L4Connection);
    assert_eq!(
        bench.log(checker),
        [
            "<1>Server be/s0 is DOWN, reason: Layer4 connection problem, info: \"Connection \
             refused\", check duration: Nms. 0 active and 1 backup servers left. Running on \
             backup. 0 sessions active, 0 requeued, 0 remaining in queue.",
            "<1>Backup Server be/s1 is DOWN, reason: Layer4 connection problem, info: \
             \"Connection refused\", check duration: Nms. 0 active and 0 backup servers left. \
             0 sessions active, 0 requeued, 0 remaining in queue.",
            "<0>backend be has no server available!",
            "<5>Server be/s0 is UP, reason: Layer4 check passed, check duration: Nms. 1 active \
             and 0 backup servers online. 0 sessions requeued, 0 total in queue.",
        ]
    );
}

#[test]
fn each_step_is_logged_where_asked() {
    let (held, address) = refusing();
    let bench = bench(&[address], true);
    let checker = bench.start();
    bench.wait(0, 0);
    rustix::net::listen(&held, 16).unwrap();
    bench.wait(1, 0);
    let log = bench.log(checker);
    let down = "reason: Layer4 connection problem, info: \"Connection refused\", \
                check duration: Nms";
    let up = "reason: Layer4 check passed, check duration: Nms";
    assert_eq!(
        log,
        [
            format!("<5>Health check for server be/s0 failed, {down}, status: 0/2 DOWN."),
            "<1>Server be/s0 is DOWN. 0 active and 0 backup servers left. 0 sessions active, \
             0 requeued, 0 remaining in queue."
                .to_owned(),
            "<0>backend be has no server available!".to_owned(),
            format!("<5>Health check for server be/s0 succeeded, {up}, status: 1/2 DOWN."),
            format!("<5>Health check for server be/s0 succeeded, {up}, status: 2/2 UP."),
            "<5>Server be/s0 is UP. 1 active and 0 backup servers online. 0 sessions requeued, \
             0 total in queue."
                .to_owned(),
        ]
    );
}

#[test]
fn a_new_plan_keeps_health_and_ends_what_it_has_not() {
    let (_held, refusing) = refusing();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut bench = bench(&[refusing, listener.local_addr().unwrap()], false);
    let mut checker = bench.start();
    bench.wait(0, 1);
    // What applying a configuration does to the group: all are usable again.
    bench.group.set_usable(MemberId(0), true);
    bench.plan.checks.truncate(1);
    bench.plan.checks[0].settings.inter_ms = 60_000;
    checker.apply(&bench.plan);
    bench.wait(0, 1);
    let states = checker.states();
    assert_eq!(states.len(), 1);
    assert_eq!(states[0].server, "s0");
    assert!(!states[0].standing.up, "no check has been made since");
    drop(checker);
}
