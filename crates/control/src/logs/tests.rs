//! The log writer on real pipes and sockets.
//!
//! Decides:  lines arrive whole and framed; nothing blocks, and losses are counted.
//! Not here: the text of lines (the proxy crate).

use std::io::Read as _;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use portcullis_proxy::log::session::Style;
use portcullis_proxy::log::{Facility, Format};
use portcullis_proxy::record::{LogSink, PeerAddress, RecordKind, Termination, bounded};
use portcullis_proxy::snapshot::Frontend;

use super::*;

fn target(to: Destination) -> Target {
    Target {
        to,
        format: Format::Raw,
        facility: Facility(16),
        max_level: Level::Debug,
        min_level: Level::Emergency,
        max_length: 1024,
        tag: "t".to_owned(),
        hostname: None,
        sample: None,
        came: 0,
    }
}

fn plan(targets: Vec<Target>) -> LogPlan {
    let route = Route { targets };
    let log = SessionLog {
        style: Style::Tcplog,
        separate_errors: false,
        route: route.clone(),
    };
    LogPlan {
        sessions: [("fe".to_owned(), log)].into(),
        backends: [("be".to_owned(), route.clone())].into(),
        global: route,
        notices: Notices::Nowhere,
        rings: [("kept".to_owned(), 4_096)].into(),
    }
}

fn record(total_ms: u64) -> SessionRecord {
    SessionRecord {
        kind: RecordKind::Ended,
        frontend: Arc::new(Frontend {
            name: "fe".into(),
            backend: None,
            maxconn: 10,
            session_rate: 0,
            lifetime_ms: 0,
            drain_age_ms: 0,
            greeting_timeout_ms: 0,
            client_timeout_ms: 0,
            client_fin_timeout_ms: 0,
            log: None,
            keepalive: None,
            no_linger: false,
            independent: false,
            splice: true,
            state: Arc::default(),
        }),
        backend: None,
        server: None,
        client: PeerAddress::Ip("127.0.0.1:1".parse().unwrap()),
        listener: 1,
        listener_name: None,
        local: None,
        accepted_ms: 0,
        queue_ms: None,
        connect_ms: None,
        total_ms,
        bytes_in: 0,
        bytes_out: 0,
        termination: Termination::NORMAL,
        process_connections: 1,
        frontend_connections: 1,
        backend_connections: 0,
        server_connections: 0,
        retries: 0,
        redispatched: false,
        server_queue: 0,
        backend_queue: 0,
    }
}

const LINE_END: &str = " fe fe/<NOSRV> -1/-1/";

fn start(plan: LogPlan, capacity: usize) -> (LogWriter, LogSink, Vec<String>) {
    let (sink, source) = bounded(capacity);
    let (writer, warnings) = LogWriter::start(plan, Zone::utc(), source).unwrap();
    (writer, sink, warnings)
}

/// A pipe's reading end, and a plan that writes to the other.
fn piped() -> (std::fs::File, OwnedFd, LogPlan) {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let plan = plan(vec![target(Destination::Descriptor(writer.as_raw_fd()))]);
    (reader.into(), writer, plan)
}

fn all_of(mut reader: std::fs::File) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn sessions_and_messages_arrive_whole_on_a_descriptor() {
    let (reader, end, plan) = piped();
    let (writer, sink, warnings) = start(plan, 64);
    drop(end);
    assert!(warnings.is_empty());
    for n in 0..20 {
        sink.send(record(n));
    }
    let handle = writer.handle();
    handle.say(Audience::Backend("be".to_owned()), Level::Alert, "b\nb");
    handle.say(Audience::Backend("gone".to_owned()), Level::Alert, "global");
    drop((sink, handle));
    assert_eq!(writer.finish(), Dropped::default());
    let text = all_of(reader);
    for n in 0..20 {
        let end = format!("{LINE_END}{n} 0 -- 1/1/0/0/0 0/0");
        assert_eq!(
            text.lines().filter(|line| line.ends_with(&end)).count(),
            1,
            "{text}"
        );
    }
    assert_eq!(text.lines().filter(|line| *line == "b#0Ab").count(), 1);
    assert_eq!(text.lines().filter(|line| *line == "global").count(), 1);
    assert_eq!(text.lines().count(), 22);
}

#[test]
fn a_reader_that_does_not_read_stops_nobody_and_losses_are_counted() {
    let (reader, end, plan) = piped();
    let (writer, sink, _) = start(plan, 64);
    drop(end);
    let began = Instant::now();
    const SENT: u64 = 20_000;
    for n in 0..SENT {
        sink.send(record(n));
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "a worker was held up"
    );
    // The reader comes back: what was kept is written, whole lines only.
    let reading = std::thread::spawn(move || all_of(reader));
    drop(sink);
    let dropped = writer.finish();
    let text = reading.join().unwrap();
    let sessions = text.lines().filter(|line| line.contains(LINE_END)).count() as u64;
    let reports = text
        .lines()
        .filter(|line| line.contains("were dropped"))
        .count();
    assert_eq!(
        text.lines().count() as u64,
        sessions + reports as u64,
        "{text}"
    );
    assert!(
        sessions < SENT,
        "a pipe does not hold all: the test tests nothing"
    );
    assert_eq!(sessions + dropped.total(), SENT, "{dropped:?}");
    assert!(reports >= 1, "losses are told");
}

#[test]
fn a_reader_that_is_gone_costs_lines_and_nothing_else() {
    let (reader, end, plan) = piped();
    let (writer, sink, _) = start(plan, 64);
    drop((end, reader));
    for n in 0..10 {
        sink.send(record(n));
    }
    drop(sink);
    // Ten sessions, and the report that says so.
    assert_eq!(writer.finish().by_targets, 11);
}

#[test]
fn udp_gets_framed_lines_within_its_levels() {
    let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
    receiver
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let to = Destination::Udp(receiver.local_addr().unwrap());
    let mut severe = target(to);
    severe.format = Format::Priority;
    severe.max_level = Level::Info;
    severe.min_level = Level::Warning;
    let (writer, sink, _) = start(plan(vec![severe]), 64);
    let handle = writer.handle();
    for (level, text) in [
        (Level::Debug, "not sent"),
        (Level::Info, "as it is"),
        (Level::Emergency, "at most a warning"),
    ] {
        handle.say(Audience::Global, level, text);
    }
    let mut buffer = [0; 2_048];
    for expected in ["<134>as it is\n", "<132>at most a warning\n"] {
        let length = receiver.recv(&mut buffer).unwrap();
        assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), expected);
    }
    drop((handle, sink));
    assert_eq!(writer.finish(), Dropped::default());
}

#[test]
fn a_syslog_socket_may_come_late_and_come_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (writer, sink, warnings) = start(plan(vec![target(Destination::Unix(path.clone()))]), 64);
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains("cannot log to"), "{warnings:?}");
    let handle = writer.handle();
    let mut heard = 0;
    for round in 0..2 {
        // The second time the first socket is gone, as when the daemon starts again.
        let _ = std::fs::remove_file(&path);
        let receiver = UnixDatagram::bind(&path).unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut buffer = [0; 256];
        loop {
            assert!(
                Instant::now() < deadline,
                "round {round}: never found again"
            );
            handle.say(Audience::Global, Level::Notice, format!("round {round}"));
            if let Ok(length) = receiver.recv(&mut buffer) {
                assert_eq!(buffer[..length], *format!("round {round}\n").as_bytes());
                heard += 1;
                break;
            }
        }
    }
    assert_eq!(heard, 2);
    drop((handle, sink));
    writer.finish();
}

#[test]
fn a_busy_syslog_socket_costs_lines_and_not_time() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let _never_read = UnixDatagram::bind(&path).unwrap();
    let (writer, sink, _) = start(plan(vec![target(Destination::Unix(path))]), 100_000);
    let began = Instant::now();
    for n in 0..3_000 {
        sink.send(record(n));
    }
    drop(sink);
    let dropped = writer.finish();
    assert!(dropped.by_targets > 2_000, "{dropped:?}");
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn a_new_plan_keeps_what_stays_and_counts_what_went() {
    let (first, first_end, first_plan) = piped();
    let (second, second_end, second_plan) = piped();
    let (writer, sink, _) = start(first_plan, 64);
    let handle = writer.handle();
    sink.send(record(1));
    // Wait until the line is through, since a record and a plan come by different ways.
    let mut first = std::io::BufReader::new(first);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut first, &mut line).unwrap();
    assert!(line.contains(LINE_END));
    handle.targets().replace(second_plan).unwrap();
    let broken = plan(vec![target(Destination::Descriptor(99_999))]);
    assert!(
        handle.targets().replace(broken).is_err(),
        "and the plan before it stays"
    );
    sink.send(record(2));
    drop((first_end, second_end, sink, handle));
    assert_eq!(writer.finish(), Dropped::default());
    assert_eq!(all_of(first.into_inner()), "");
    assert!(all_of(second).ends_with(&format!("{LINE_END}2 0 -- 1/1/0/0/0 0/0\n")));
}

#[test]
fn a_ring_takes_lines_and_a_sample_thins_them_out() {
    let mut thinned = target(Destination::Ring("kept".to_owned()));
    thinned.sample = Some(portcullis_config::model::Sample {
        ranges: vec![(1, 1), (3, 4)],
        size: 5,
    });
    let (mut outputs, warnings) = Outputs::open(plan(vec![thinned]), Zone::utc()).unwrap();
    assert!(warnings.is_empty());
    for n in 0..12 {
        let text = format!("line {n}");
        outputs.message(&Audience::Global, Level::Info, &text, Moment(0));
    }
    let lines = outputs.ring_lines("kept");
    let expected = [0, 2, 3, 5, 7, 8, 10].map(|n| format!("line {n}"));
    assert_eq!(lines, expected);
    assert_eq!(outputs.dropped(), 0);
}

#[test]
fn a_json_target_gets_objects_beside_one_that_gets_text() {
    let (reader, end, _) = piped();
    let plain = target(Destination::Descriptor(end.as_raw_fd()));
    let json = Target {
        format: Format::Json,
        ..plain.clone()
    };
    let (writer, sink, _) = start(plan(vec![plain, json]), 64);
    drop(end);
    sink.send(record(5));
    drop(sink);
    assert_eq!(writer.finish(), Dropped::default());
    let text = all_of(reader);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].ends_with(" fe fe/<NOSRV> -1/-1/5 0 -- 1/1/0/0/0 0/0"),
        "{text}"
    );
    assert!(
        lines[1].starts_with("{\"time\":\"") && lines[1].contains("\"total_ms\":5,"),
        "{text}"
    );
}
