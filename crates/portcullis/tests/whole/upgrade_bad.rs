//! Hand-overs with bad input: messages and descriptors that nobody expects, too few descriptors, files that are
//! something else, and what runs at the same time.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use portcullis_listener::handover::machine::Event;
use portcullis_listener::handover::{Identity, Link, Message};
use portcullis_listener::{ListenerFacts, ListenerSpec};
use portcullis_sys::pass;
use portcullis_testkit::{Process, Signal, eventually, listening, private_network, wait_for};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::admin::say;
use super::clients::{ask, connect};
use super::harness::{Place, SOON, local, ours_only, portcullis};
use super::reload::{FRONT, ONE, TWO, with};
use super::servers::Server;
use super::upgrade::{Line, is_gone, signal, two_servers};

/// Who answers a new process in the place of an old one.
struct FakeOld {
    place: Place,
    socket: UnixListener,
    next: Process,
}

impl FakeOld {
    fn start() -> FakeOld {
        let place = Place::new();
        let path = place.path().join("old.sock");
        let file = place.write("test.cfg", &with("127.0.0.1:8000", &[ONE]));
        let socket = UnixListener::bind(&path).unwrap();
        let mut command = portcullis();
        command.arg("run").arg("-f").arg(&file).arg("-x").arg(&path);
        let next = Process::spawn(&mut command);
        FakeOld {
            place,
            socket,
            next,
        }
    }

    /// The conversation, after its `Hello`.
    fn link(&self) -> Link {
        let (mut stream, _) = self.socket.accept().unwrap();
        stream.read_exact(&mut [0; "_hand-over\n".len()]).unwrap();
        let (mut link, theirs) = Link::pair().unwrap();
        pass::send(&stream, b"+", &[theirs.as_fd()]).unwrap();
        let hello = link.listen(SOON);
        assert!(matches!(hello, Event::Heard(Message::Hello { .. }, 0)));
        link
    }

    /// What the new one said as it gave up.
    #[track_caller]
    fn refused(mut self, label: &str) -> String {
        let code = self.next.exit_code(SOON);
        let said = self.next.transcript();
        assert_eq!(code, 5, "{label}: {said}");
        assert!(!said.contains("panicked"), "{label}: {said}");
        assert!(self.place.path().exists());
        said
    }
}

fn facts() -> (Identity, TcpListener) {
    let spec = ListenerSpec::tcp(FRONT);
    let mut opened = portcullis_listener::open(&spec).unwrap().listeners;
    let (fd, facts): (_, ListenerFacts) = opened.remove(0).into_parts();
    (Identity { spec, facts }, fd.into())
}

#[test]
fn descriptors_that_are_too_many_too_few_or_of_another_kind_are_refused_and_told() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let (identity, listener) = facts();
        let file = tempfile::tempfile().unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(FRONT).unwrap();
        let good = listener.as_fd();
        let cases: [(&str, Vec<BorrowedFd<'_>>, usize, &str); 5] = [
            (
                "two for one",
                vec![good, good],
                1,
                "1 sockets were announced and 2 came",
            ),
            (
                "one for two",
                vec![good],
                2,
                "2 sockets were announced and 1 came",
            ),
            (
                "a file",
                vec![file.as_fd()],
                1,
                "a socket came that cannot listen",
            ),
            (
                "datagrams",
                vec![datagrams.as_fd()],
                1,
                "a socket came that cannot listen",
            ),
            (
                "connected",
                vec![connected.as_fd()],
                1,
                "a socket came that cannot listen",
            ),
        ];
        for (label, fds, announced, expected) in cases {
            let old = FakeOld::start();
            let mut link = old.link();
            let offer = Message::Offer {
                sockets: vec![identity.clone(); announced],
                state: "{}".to_owned(),
            };
            link.say(&offer, &fds).unwrap();
            let answer = link.listen(SOON);
            let told =
                matches!(&answer, Event::Heard(Message::Refused(why), 0) if why.contains(expected));
            assert!(told, "{label}: {answer:?}");
            let said = old.refused(label);
            assert!(said.contains(expected), "{label}: {said}");
        }
        // Nobody has touched it.
        drop(connected);
        assert!(listening(FRONT));
    });
}

#[test]
fn messages_that_are_cut_short_or_mean_nothing_are_refused_by_the_new_process() {
    if ours_only() {
        return;
    }
    private_network(|| {
        // After the header: magic, version, number, offset, length of text, descriptors (opener/codec.rs).
        let header = |text: u32| {
            let mut bytes = b"PCOP".to_vec();
            bytes.extend(1_u16.to_le_bytes());
            bytes.extend(0_u16.to_le_bytes());
            for word in [1, 0, text, 0_u32] {
                bytes.extend(word.to_le_bytes());
            }
            bytes
        };
        let with_text = |text: &[u8]| [header(text.len() as u32), text.to_vec()].concat();
        for (label, packets) in [
            ("half a header", vec![header(0)[..10].to_vec()]),
            ("no magic", vec![vec![0; 40]]),
            ("no JSON", vec![with_text(b"{\"Offer\"")]),
            ("another message", vec![with_text(b"{\"Shutdown\":{}}")]),
            ("one of the end", vec![with_text(b"\"Yours\"")]),
            ("longer than it may be", vec![header(u32::MAX)]),
            ("cut short", vec![header(1000)]),
            ("nothing", vec![]),
        ] {
            let old = FakeOld::start();
            let (mut stream, _) = old.socket.accept().unwrap();
            stream.read_exact(&mut [0; "_hand-over\n".len()]).unwrap();
            let (link, theirs) = Link::pair().unwrap();
            pass::send(&stream, b"+", &[theirs.as_fd()]).unwrap();
            drop(theirs);
            let end = link.into_fd();
            for packet in packets {
                pass::send(&end, &packet, &[]).unwrap();
            }
            drop((end, stream));
            let said = old.refused(label);
            assert!(said.contains("the hand-over broke off"), "{label}: {said}");
            assert!(!listening(FRONT), "{label}");
        }
    });
}

#[test]
fn whatever_a_stranger_says_to_the_old_process_it_goes_on() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let line = Line::start(&with("127.0.0.1:8000", &[ONE]));
        let hello = || Message::Hello {
            version: 1,
            notes: true,
        };
        let file = tempfile::tempfile().unwrap();
        let mut failures = 0;
        let mut fails = |label: &str, words: &str, talk: &dyn Fn(&mut Link)| {
            let mut stream = UnixStream::connect(line.socket()).unwrap();
            stream.write_all(b"_hand-over\n").unwrap();
            let received = pass::receive(&stream, &mut [0]).unwrap();
            let mut link = Link::of(received.descriptors.into_iter().next().unwrap());
            talk(&mut link);
            drop(link);
            failures += 1;
            wait_for("the old one to go on", SOON, || {
                line.first.stderr().matches("nobody has taken over").count() == failures
            });
            let told = || line.first.stderr().contains(words);
            assert!(eventually(SOON, told), "{label}: {}", line.first.stderr());
            assert_eq!(ask(&mut connect(FRONT), "x"), "one x", "{label}");
        };
        fails(
            "a descriptor",
            "the new process sent descriptors",
            &|link| {
                link.say(&hello(), &[file.as_fd()]).unwrap();
            },
        );
        fails(
            "Hello twice",
            "`Hello` came where it means nothing",
            &|link| {
                link.say(&hello(), &[]).unwrap();
                link.say(&hello(), &[]).unwrap();
                let _ = link.listen(SOON);
            },
        );
        fails(
            "Keep at once",
            "`Keep` came where it means nothing",
            &|link| {
                link.say(&hello(), &[]).unwrap();
                link.say(&Message::Keep, &[]).unwrap();
                let _ = link.listen(SOON);
            },
        );
        fails("another version", "speaks version 7", &|link| {
            let version = 7;
            let notes = false;
            link.say(&Message::Hello { version, notes }, &[]).unwrap();
            let _ = link.listen(SOON);
        });
        fails(
            "process 1",
            "`Ready` came where it means nothing",
            &|link| {
                link.say(&hello(), &[]).unwrap();
                link.say(&Message::Ready { pid: 1 }, &[]).unwrap();
                let _ = link.listen(SOON);
            },
        );
        line.upgraded();
        line.stop();
    });
}

/// The bytes of a message, and its descriptors.
type Sent<'a> = (&'a [u8], Vec<BorrowedFd<'a>>);

/// A HAProxy played by the test: it does not know our words, and then says this.
fn as_haproxy(old: &FakeOld, announced: i32, messages: &[Sent<'_>]) {
    let (mut stream, _) = old.socket.accept().unwrap();
    stream.read_exact(&mut [0; "_hand-over\n".len()]).unwrap();
    stream
        .write_all(b"Unknown command: `_hand-over`\n")
        .unwrap();
    drop(stream);
    let (mut stream, _) = old.socket.accept().unwrap();
    stream.read_exact(&mut [0; "_getsocks\n".len()]).unwrap();
    stream.write_all(&announced.to_ne_bytes()).unwrap();
    for (bytes, fds) in messages {
        // It may have gone already.
        if pass::send(&stream, bytes, fds).is_err() || stream.read_exact(&mut [0; 4]).is_err() {
            return;
        }
    }
}

#[test]
fn sockets_in_haproxys_way_that_break_its_protocol_refuse_the_start_and_other_kinds_are_told() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let (_, listener) = facts();
        let fd = listener.as_fd();
        let (one, two) = (vec![0; 6], vec![0; 12]);
        let cases: [(&str, i32, Vec<Sent<'_>>); 6] = [
            ("a negative number", -1, vec![]),
            ("more than there can be", 65_537, vec![]),
            ("more than announced", 1, vec![(&two, vec![fd, fd])]),
            ("fewer than announced", 3, vec![(&one, vec![fd])]),
            ("no descriptor", 1, vec![(&one, vec![])]),
            ("names cut short", 1, vec![(&[9, 9], vec![fd])]),
        ];
        for (label, announced, messages) in cases {
            let old = FakeOld::start();
            as_haproxy(&old, announced, &messages);
            let said = old.refused(label);
            assert!(said.contains("not HAProxy's protocol"), "{label}: {said}");
        }
        let file = tempfile::tempfile().unwrap();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut old = FakeOld::start();
        let names = vec![0; 18];
        let fds = vec![file.as_fd(), datagrams.as_fd(), fd];
        as_haproxy(&old, 3, &[(&names, fds)]);
        old.next.wait_line("serving 2 listening sockets", SOON);
        let said = old.next.transcript();
        assert_eq!(said.matches("warning: ").count(), 2, "{said}");
        drop(listener);
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        old.next.signal(Signal::TERM);
        assert_eq!(old.next.exit_code(SOON), 0);
    });
}

/// `O_NONBLOCK`: to open a pipe that nobody reads fails.
const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits() as i32;

fn command(what: &str, line: &Line) -> Command {
    let mut command = portcullis();
    command.arg(what).arg("-p").arg(pidfile(line));
    command
}

fn pidfile(line: &Line) -> PathBuf {
    line.socket().with_file_name("pid")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_upgrade_during_a_reload_is_refused_and_a_start_by_hand_waits_for_its_end() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let mut line = Line::start(&with("127.0.0.1:8000", &[ONE]));
        // A reload reads as long as nobody writes.
        std::fs::rename(&line.file, line.file.with_extension("old")).unwrap();
        let made = Command::new("mkfifo").arg(&line.file).status().unwrap();
        assert!(made.success());
        let mut reload = Process::spawn(&mut command("reload", &line));
        // Somebody is there who reads.
        let mut writer = None;
        wait_for("the reload to be under way", SOON, || {
            let mut options = std::fs::OpenOptions::new();
            options.write(true).custom_flags(NONBLOCK);
            writer = options.open(&line.file).ok();
            writer.is_some()
        });
        let refused = command("upgrade", &line).output().unwrap();
        let said = text(&refused);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("a reload is under way"), "{said}");
        let config = line.file.with_file_name("other.cfg");
        std::fs::write(&config, with("127.0.0.1:8000", &[TWO])).unwrap();
        let mut start = portcullis();
        start.arg("run").arg("-f").arg(&config).arg("-p");
        start.arg(pidfile(&line)).arg("-x").arg(line.socket());
        let next = Process::spawn(&mut start);
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        assert_eq!(line.pid(), line.first.pid());
        let both = with("127.0.0.1:8000", &[ONE, TWO]);
        writer.unwrap().write_all(both.as_bytes()).unwrap();
        assert_eq!(reload.exit_code(SOON), 0, "{}", reload.transcript());
        assert_eq!(line.first.exit_code(SOON), 0, "{}", line.first.transcript());
        assert_eq!(line.pid(), next.pid());
        assert_eq!(ask(&mut connect(FRONT), "x"), "two x");
        line.stop();
    });
}

#[test]
fn a_file_that_is_gone_refuses_the_upgrade_and_it_comes_back() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let line = Line::start(&with("127.0.0.1:8000", &[ONE]));
        let away = line.file.with_extension("away");
        std::fs::rename(&line.file, &away).unwrap();
        let refused = command("upgrade", &line).output().unwrap();
        let said = text(&refused);
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("test.cfg: no such file"), "{said}");
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        std::fs::rename(&away, &line.file).unwrap();
        line.upgraded();
        line.stop();
    });
}

#[test]
fn an_old_process_without_descriptors_refuses_and_goes_on() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let text_of = |config: String| {
            config.replace(
                "nbthread 2",
                "nbthread 2\n    no strict-limits\n    maxconn 50",
            )
        };
        let mut line = Line::start(&text_of(with("127.0.0.1:8000", &[ONE])));
        line.first.wait_line("serving 2 listening sockets", SOON);
        let pid = Pid::from_raw(line.pid() as i32);
        let before = getrlimit(Resource::Nofile);
        for spare in 0..6 {
            let open = portcullis_testkit::descriptors(line.pid()) as u64;
            let few = Rlimit {
                current: Some(open + spare),
                maximum: before.maximum,
            };
            let was = prlimit(pid, Resource::Nofile, few).unwrap();
            // With none left it cannot even be asked.
            let tried = UnixStream::connect(line.socket()).is_ok_and(|mut stream| {
                stream.set_read_timeout(Some(SOON)).unwrap();
                stream.write_all(b"_hand-over\n").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(20));
                true
            });
            assert!(tried);
            prlimit(pid, Resource::Nofile, was).unwrap();
            assert_eq!(ask(&mut connect(FRONT), "x"), "one x", "{spare}");
        }
        wait_for("an upgrade", SOON, || {
            command("upgrade", &line).output().unwrap().status.success()
        });
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        line.stop();
    });
}

/// Puts something at the path that is no socket.
type Thing = (&'static str, fn(&Path));

const THINGS: [Thing; 5] = [
    ("a file", |path| std::fs::write(path, "mine").unwrap()),
    ("a directory", |path| std::fs::create_dir(path).unwrap()),
    ("a fifo", |path| {
        let made = Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    }),
    ("a link to a file", |path| {
        let target = path.with_extension("target");
        std::fs::write(&target, "mine").unwrap();
        std::os::unix::fs::symlink(&target, path).unwrap();
    }),
    ("a link to nothing", |path| {
        std::os::unix::fs::symlink(path.with_extension("nowhere"), path).unwrap();
    }),
];

#[test]
fn something_else_at_the_place_of_the_socket_is_left_alone_at_the_start_and_at_an_upgrade() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        for (label, make) in THINGS {
            let place = Place::new();
            let file = place.write("test.cfg", &with("127.0.0.1:8000", &[ONE]));
            let (pid, socket) = (place.path().join("pid"), place.path().join("pid.sock"));
            let run = || {
                let mut command = portcullis();
                command.arg("run").arg("-f").arg(&file).arg("-p").arg(&pid);
                command
            };
            let kind = || std::fs::symlink_metadata(&socket).unwrap().file_type();
            // At the start.
            make(&socket);
            let made = kind();
            let mut first = Process::spawn(&mut run());
            let why = "something that is not a socket is there";
            first.wait_line(why, SOON);
            first.wait_port(FRONT, SOON);
            assert_eq!(ask(&mut connect(FRONT), "x"), "one x", "{label}");
            first.signal(Signal::TERM);
            assert_eq!(first.exit_code(SOON), 0, "{label}");
            assert_eq!(kind(), made, "{label}");
            match made.is_dir() {
                true => std::fs::remove_dir(&socket).unwrap(),
                false => std::fs::remove_file(&socket).unwrap(),
            }
            // In the middle: the old process is asked at the place to which its socket went.
            let mut first = Process::spawn(&mut run());
            wait_for("the socket", SOON, || socket.exists());
            first.wait_port(FRONT, SOON);
            let away = place.path().join("away.sock");
            std::fs::rename(&socket, &away).unwrap();
            let _ = std::fs::remove_file(socket.with_extension("target"));
            make(&socket);
            let mut command = run();
            let mut second = Process::spawn(command.arg("-x").arg(&away));
            assert_eq!(first.exit_code(SOON), 0, "{label}: {}", first.transcript());
            second.wait_line(why, SOON);
            assert_eq!(ask(&mut connect(FRONT), "x"), "one x", "{label}");
            assert_eq!(kind(), made, "{label}");
            let named = std::fs::read_to_string(&pid).unwrap();
            assert_eq!(named.trim(), second.pid().to_string(), "{label}");
            second.signal(Signal::TERM);
            assert_eq!(second.exit_code(SOON), 0, "{label}");
            assert_eq!(kind(), made, "{label}");
        }
    });
}

#[test]
fn a_disabled_frontend_stays_disabled_over_upgrades_and_no_other_is() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let other = "\nfrontend other\n    bind 127.0.0.1:8001\n    default_backend front\n";
        let line = Line::start(&(with("127.0.0.1:8000", &[ONE]) + other));
        let connects = |port| {
            let soon = std::time::Duration::from_millis(200);
            TcpStream::connect_timeout(&local(port), soon).is_ok()
        };
        let socket = line.socket();
        assert_eq!(say(&socket, "disable frontend other\n"), "\n");
        for _ in 0..2 {
            line.upgraded();
            assert_eq!([8000, 8001].map(connects), [true, false]);
        }
        // One that comes to nothing does not end the pause.
        std::fs::rename(&line.file, line.file.with_extension("away")).unwrap();
        assert!(!command("upgrade", &line).output().unwrap().status.success());
        std::fs::rename(line.file.with_extension("away"), &line.file).unwrap();
        assert_eq!([8000, 8001].map(connects), [true, false]);
        assert_eq!(say(&socket, "enable frontend other\n"), "\n");
        assert_eq!([8000, 8001].map(connects), [true, true]);
        line.upgraded();
        assert_eq!([8000, 8001].map(connects), [true, true]);
        line.stop();
    });
}

#[test]
fn a_daemon_is_upgraded_and_so_is_the_next_one() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let file = place.write("test.cfg", &with("127.0.0.1:8000", &[ONE]));
        let pidfile = place.path().join("pid");
        let mut run = portcullis();
        run.arg("run")
            .arg("-D")
            .arg("-f")
            .arg(&file)
            .arg("-p")
            .arg(&pidfile);
        let mut launcher = Process::spawn(&mut run);
        assert_eq!(launcher.exit_code(SOON), 0, "{}", launcher.transcript());
        let pid = || -> u32 {
            let text = std::fs::read_to_string(&pidfile).unwrap();
            text.trim().parse().unwrap()
        };
        let mut session = connect(FRONT);
        assert_eq!(ask(&mut session, "a"), "one a");
        for _ in 0..3 {
            let before = pid();
            let mut upgrade = portcullis();
            let done = upgrade.arg("upgrade").arg("-p").arg(&pidfile).output();
            let done = done.unwrap();
            assert!(done.status.success(), "{}", text(&done));
            assert_ne!(pid(), before);
            assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
            assert_eq!(ask(&mut session, "b"), "one b");
        }
        std::fs::write(&file, "nonsense\n").unwrap();
        let mut upgrade = portcullis();
        let refused = upgrade.arg("upgrade").arg("-p").arg(&pidfile).output();
        let said = text(&refused.unwrap());
        assert!(said.contains("test.cfg:1"), "{said}");
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        let last = pid();
        signal(last, Signal::TERM);
        wait_for("its end", SOON, || is_gone(last));
    });
}
