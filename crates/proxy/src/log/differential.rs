//! Are lines what a running HAProxy writes for the same sessions?
//!
//! Decides:  each shape of session is made through HAProxy, and its line must be ours for the
//!           facts of that session; then each frame around one line.
//! Source:   the `haproxy` that is installed (2.6.12 when written).
//! Not here: times, which are put to zero on both sides.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use portcullis_testkit::{Process, need_program, private_network};

use super::session::tests::{backend, ended, frontend, record, server};
use super::*;
use crate::record::{EndCause, EndPhase, PeerAddress, RecordKind, SessionRecord, Termination};

const PATIENT: Duration = Duration::from_secs(10);

/// What 3.x's `option tcplog clf` stands for, which 2.6 does not know by name.
const CLF: &str = r#"log-format "%{+Q}o %{-Q}ci - - [%T] \"TCP \" 000 %B \"\" \"\" %cp %ms %ft %b %s %Th %Tw %Tc %Tt %U %ts-- %ac %fc %bc %sc %rc %sq %bq \"\" \"\" ""#;

/// A running HAProxy and its log.
struct Bench {
    haproxy: Process,
    log: UdpSocket,
    _files: tempfile::TempDir,
}

/// An echoing server on port 20000: answers once it has read to the end.
fn echo() {
    let listener = TcpListener::bind("127.0.0.1:20000").unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut text = Vec::new();
            let _ = client.read_to_end(&mut text);
            let _ = client.write_all(&text);
        }
    });
}

fn bench(program: &std::path::Path, format: &str, sections: &str) -> Bench {
    let log = UdpSocket::bind("127.0.0.1:20514").unwrap();
    log.set_read_timeout(Some(PATIENT)).unwrap();
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("haproxy.cfg");
    let configuration = format!(
        "global\n nbthread 1\n log-tag peer\n log-send-hostname my.host\n \
         log 127.0.0.1:20514 format {format} local1\n\
         defaults\n mode tcp\n log global\n retries 1\n timeout connect 100ms\n \
         timeout client 300ms\n timeout server 10s\n{sections}"
    );
    std::fs::write(&path, configuration).unwrap();
    let mut command = Command::new(program);
    let mut haproxy = Process::spawn(command.args(["-db", "-f"]).arg(&path).env("TZ", "UTC"));
    haproxy.wait_port("127.0.0.1:21000".parse().unwrap(), PATIENT);
    Bench {
        haproxy,
        log,
        _files: files,
    }
}

impl Bench {
    /// The next line that names `frontend`, without its newline.
    fn line_of(&self, frontend: &str) -> String {
        let mut buffer = [0; 4_096];
        loop {
            let length = self.log.recv(&mut buffer).unwrap();
            let line = String::from_utf8(buffer[..length].to_vec()).unwrap();
            let line = line.strip_suffix('\n').unwrap().to_owned();
            if line.contains(frontend) && !line.contains("Proxy ") {
                return line;
            }
        }
    }
}

/// What the client does once it is connected.
#[derive(Clone, Copy, PartialEq)]
enum Client {
    /// Says five bytes, ends, and reads to the end.
    Talks,
    /// Ends at once, and reads to the end.
    SaysNothing,
    /// Waits for the other side to end.
    Waits,
}

/// Plays a client; returns its address.
fn play(client: Client, to: SocketAddr) -> SocketAddr {
    let mut stream = TcpStream::connect(to).unwrap();
    let address = stream.local_addr().unwrap();
    if client == Client::Talks {
        stream.write_all(b"hello").unwrap();
    }
    if client != Client::Waits {
        stream.shutdown(Shutdown::Write).unwrap();
    }
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut Vec::new());
    address
}

/// Replaces the times of a line: between brackets, and timers that are not -1.
fn without_times(style: Style, line: &str) -> String {
    let mut out = line.to_owned();
    if let (Some(from), Some(to)) = (line.find('['), line.find(']'))
        && style != Style::Connect
    {
        out.replace_range(from + 1..to, "date");
    }
    let zero = |time: &str| if time == "-1" { "-1" } else { "0" }.to_owned();
    let mut words: Vec<String> = out.split(' ').map(str::to_owned).collect();
    match style {
        Style::Connect => {}
        Style::Tcplog => {
            let timers: Vec<String> = words[4].split('/').map(zero).collect();
            words[4] = timers.join("/");
        }
        // %ms, then %Tw %Tc %Tt; the date's zone is one word with it by now.
        Style::TcplogClf => {
            for timer in [11, 16, 17, 18] {
                words[timer] = zero(&words[timer]);
            }
        }
    }
    words.join(" ")
}

fn ours(style: Style, record: &SessionRecord) -> String {
    let mut out = String::new();
    session_line(style, record, &Zone::utc(), &mut out);
    out
}

/// The facts of a session through `name` to the echoing server.
fn through(name: &str, bytes: u64) -> SessionRecord {
    SessionRecord {
        frontend: frontend(name),
        backend: Some(backend(name)),
        server: Some(server("s0")),
        bytes_in: bytes,
        bytes_out: bytes,
        ..record()
    }
}

fn failed(record: SessionRecord, cause: EndCause, phase: EndPhase) -> SessionRecord {
    SessionRecord {
        connect_ms: None,
        termination: ended(cause, phase),
        ..record
    }
}

#[test]
fn lines_are_those_of_a_running_haproxy() {
    private_network(|| {
        let Some(program) = need_program("haproxy") else {
            return;
        };
        echo();
        let sections = format!(
            "listen plain\n bind 127.0.0.1:21000\n server s0 127.0.0.1:20000\n\
             listen tcplog\n option tcplog\n bind 127.0.0.1:21001\n bind [::1]:21001\n \
             server s0 127.0.0.1:20000\n\
             listen refused\n option tcplog\n bind 127.0.0.1:21002\n server s0 127.0.0.1:19999\n\
             listen none\n option tcplog\n bind 127.0.0.1:21003\n \
             server s0 127.0.0.1:20000 disabled\n\
             frontend lonely\n option tcplog\n bind 127.0.0.1:21004\n\
             frontend front\n {CLF}\n bind 127.0.0.1:21005\n default_backend back\n\
             backend back\n server s0 127.0.0.1:20000\n"
        );
        let bench = bench(&program, "raw", &sections);
        let nobody = |name| SessionRecord {
            server: None,
            queue_ms: None,
            ..failed(through(name, 0), EndCause::ServerAbort, EndPhase::Connect)
        };
        let rows = [
            (
                Style::Connect,
                Client::Talks,
                "127.0.0.1:21000",
                through("plain", 5),
            ),
            (
                Style::Tcplog,
                Client::Talks,
                "127.0.0.1:21001",
                through("tcplog", 5),
            ),
            (
                Style::Tcplog,
                Client::Talks,
                "[::1]:21001",
                through("tcplog", 5),
            ),
            (
                Style::Tcplog,
                Client::SaysNothing,
                "127.0.0.1:21001",
                through("tcplog", 0),
            ),
            (
                Style::Tcplog,
                Client::Waits,
                "127.0.0.1:21001",
                SessionRecord {
                    termination: ended(EndCause::ClientTimeout, EndPhase::Data),
                    ..through("tcplog", 0)
                },
            ),
            (
                Style::Tcplog,
                Client::Waits,
                "127.0.0.1:21002",
                SessionRecord {
                    retries: 1,
                    ..failed(
                        through("refused", 0),
                        EndCause::ServerAbort,
                        EndPhase::Connect,
                    )
                },
            ),
            (
                Style::Tcplog,
                Client::Waits,
                "127.0.0.1:21003",
                nobody("none"),
            ),
            (
                Style::Tcplog,
                Client::Waits,
                "127.0.0.1:21004",
                SessionRecord {
                    backend: None,
                    ..nobody("lonely")
                },
            ),
            (
                Style::TcplogClf,
                Client::Talks,
                "127.0.0.1:21005",
                SessionRecord {
                    backend: Some(backend("back")),
                    ..through("front", 5)
                },
            ),
        ];
        for (style, client, to, facts) in rows {
            let to: SocketAddr = to.parse().unwrap();
            // HAProxy logs a session before it counts it off: on a busy machine the next one may
            // still be its second.
            let pairs = (0..5).map(|_| {
                let facts = SessionRecord {
                    kind: match style {
                        Style::Connect => RecordKind::Accepted,
                        _ => RecordKind::Ended,
                    },
                    client: PeerAddress::Ip(play(client, to)),
                    local: Some(PeerAddress::Ip(to)),
                    ..facts.clone()
                };
                let peer = bench.line_of(&facts.frontend.name);
                let mine = ours(style, &facts);
                (without_times(style, &mine), without_times(style, &peer))
            });
            let pairs: Vec<_> = pairs.scan(false, until_equal).collect();
            let (mine, peer) = pairs.last().unwrap();
            assert_eq!(mine, peer);
        }
        assert_eq!(Termination::NORMAL.to_string(), "--");
    });
}

/// Goes on up to the first pair of two equal lines.
fn until_equal(found: &mut bool, pair: (String, String)) -> Option<(String, String)> {
    let go_on = !std::mem::replace(found, pair.0 == pair.1);
    go_on.then_some(pair)
}

/// Replaces digits by 0 and the month's name, so that only the shape of a time is left.
fn shape(header: &str) -> String {
    let mut out: String = header
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    if let Some(end) = out.find('>')
        && out[end + 1..].starts_with(|c: char| c.is_ascii_uppercase())
    {
        out.replace_range(end + 1..end + 4, "Mon");
    }
    // A day below ten has a space.
    out.replace("Mon  0 ", "Mon 00 ")
}

/// `<142>`, if the line begins with one.
fn priority(line: &str) -> &str {
    match (line.starts_with('<'), line.find('>')) {
        (true, Some(end)) => &line[..=end],
        _ => "",
    }
}

#[test]
fn frames_are_those_of_a_running_haproxy() {
    private_network(|| {
        let Some(program) = need_program("haproxy") else {
            return;
        };
        echo();
        let section = "listen plain\n bind 127.0.0.1:21000\n server s0 127.0.0.1:20000\n";
        for (name, format) in [
            ("local", Format::Local),
            ("rfc3164", Format::Rfc3164),
            ("rfc5424", Format::Rfc5424),
            ("priority", Format::Priority),
            ("short", Format::Short),
            ("timed", Format::Timed),
            ("iso", Format::Iso),
            ("raw", Format::Raw),
        ] {
            let mut bench = bench(&program, name, section);
            play(Client::Talks, "127.0.0.1:21000".parse().unwrap());
            let peer = bench.line_of("plain");
            let message = peer[peer.find("Connect from").unwrap()..].to_owned();
            let frame = Frame {
                format,
                facility: Facility(17),
                tag: "peer",
                pid: bench.haproxy.pid(),
                hostname: Some("my.host"),
                max_length: 1024,
            };
            let mut mine = Vec::new();
            let now = Moment(1_795_321_862_993_615);
            frame.write_line(Level::Info, now, &Zone::utc(), &message, &mut mine);
            let mine = String::from_utf8(mine).unwrap();
            let mine = mine.strip_suffix('\n').unwrap();
            assert_eq!(shape(mine), shape(&peer), "{name}");
            assert_eq!(priority(mine), priority(&peer), "{name}");
            let pid = bench.haproxy.pid().to_string();
            assert_eq!(mine.contains(&pid), peer.contains(&pid), "{name}");
            bench.haproxy.signal(portcullis_testkit::Signal::TERM);
            bench.haproxy.wait_exit(PATIENT);
        }
    });
}
