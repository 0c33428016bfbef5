//! SIGKILL at every message of a hand-over, of either real process, with clients in the queue: none is lost.
//!
//! Between the two stands a relay of the test, which knows the packets and stops at the one that is wanted.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use portcullis_listener::ListenerSpec;
use portcullis_listener::handover::machine::Event;
use portcullis_listener::handover::{Identity, Link, Message};
use portcullis_sys::pass;
use portcullis_testkit::{Process, Signal, private_network, wait_for};
use rustix::event::{PollFd, PollFlags, poll};

use super::clients::{ask, connect};
use super::harness::{Place, SOON, local, ours_only, portcullis};
use super::reload::{FRONT, ONE, with};
use super::servers::Server;
use super::upgrade::{Line, is_gone, signal, stop_all_threads};

/// The header of a packet, and the longest packet: see `opener/codec.rs`.
const HEADER: usize = 24;
const LONGEST: usize = 32 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Old,
    New,
}

/// A packet that one side has sent, and the other one has not got.
struct Packet {
    from: Side,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Packet {
    /// The message's name: `"Yours"`, or the only key of an object. Messages here fit into one packet.
    fn name(&self) -> String {
        let text = std::str::from_utf8(&self.bytes[HEADER..]).unwrap();
        let name = text.trim_start_matches(['{', '"']).split('"').next();
        name.unwrap().to_owned()
    }
}

/// Stands between a new process and an old one, and keeps each packet until it is let through.
struct Relay {
    pub path: PathBuf,
    caught: Receiver<Packet>,
    let_through: Sender<Packet>,
    /// Ends with it.
    _stop: UnixStream,
}

fn receive(end: &OwnedFd) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; LONGEST];
    let received = pass::receive(end, &mut buffer).ok()?;
    buffer.truncate(received.length);
    (received.length > 0).then_some((buffer, received.descriptors))
}

impl Relay {
    fn start(line: &Line) -> Relay {
        let path = line.socket().with_file_name("relay.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let old = line.socket();
        let (caught, catches) = channel();
        let (let_through, lets) = channel();
        let (stop, stopped) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.read_exact(&mut [0; "_hand-over\n".len()]).unwrap();
            let mut server = UnixStream::connect(old).unwrap();
            server.write_all(b"_hand-over\n").unwrap();
            let mut answer = [0];
            let to_old = pass::receive(&server, &mut answer).unwrap().descriptors;
            let to_old = to_old.into_iter().next().unwrap();
            // As the old one made its own; what our end of it would say is not needed.
            let (to_new, theirs) = ends();
            pass::send(&client, &answer, &[theirs.as_fd()]).unwrap();
            drop((theirs, client));
            relay(to_old, to_new, &stopped, &caught, &lets);
        });
        Relay {
            path,
            caught: catches,
            let_through,
            _stop: stop,
        }
    }

    /// Lets everything through until this message has been sent, which is kept.
    #[track_caller]
    fn catch(&self, name: &str) -> Packet {
        loop {
            let packet = self.caught.recv_timeout(SOON);
            let packet = packet.unwrap_or_else(|why| panic!("no `{name}`: {why}"));
            if packet.name() == name {
                return packet;
            }
            self.let_through.send(packet).unwrap();
        }
    }

    /// All that comes.
    fn let_all_through(self) {
        std::thread::spawn(move || {
            let relay = self;
            while let Ok(packet) = relay.caught.recv() {
                let _ = relay.let_through.send(packet);
            }
        });
    }
}

fn ends() -> (OwnedFd, OwnedFd) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let flags = SocketFlags::CLOEXEC;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

/// Until one side has ended and all that it said is through, or nobody lets anything through any more.
fn relay(
    to_old: OwnedFd,
    to_new: OwnedFd,
    stop: &UnixStream,
    caught: &Sender<Packet>,
    lets: &Receiver<Packet>,
) {
    loop {
        let mut waited = [
            PollFd::new(&to_old, PollFlags::IN),
            PollFd::new(&to_new, PollFlags::IN),
            PollFd::new(stop, PollFlags::IN),
        ];
        poll(&mut waited, None).unwrap();
        let [old, new, stopped] = waited.map(|it| !it.revents().is_empty());
        let (from, end) = match (old, new) {
            (true, _) => (Side::Old, &to_old),
            (_, true) => (Side::New, &to_new),
            _ if stopped => return,
            _ => continue,
        };
        let Some((bytes, descriptors)) = receive(end) else {
            return;
        };
        let packet = Packet {
            from,
            bytes,
            descriptors,
        };
        if caught.send(packet).is_err() {
            return;
        }
        let Ok(packet) = lets.recv() else { return };
        let to = match packet.from {
            Side::Old => &to_new,
            Side::New => &to_old,
        };
        let fds: Vec<_> = packet.descriptors.iter().map(OwnedFd::as_fd).collect();
        // Whoever is dead does not get it.
        let _ = pass::send(to, &packet.bytes, &fds);
    }
}

/// The process that is to take over, through the relay.
fn newcomer(line: &Line, relay: &Relay) -> Process {
    let mut command: Command = portcullis();
    command.arg("run").arg("-f").arg(&line.file);
    command.arg("-p").arg(line.socket().with_file_name("pid"));
    command.arg("-x").arg(&relay.path);
    Process::spawn(&mut command)
}

/// Clients that have connected and asked while both processes stood still.
fn in_the_queue() -> Vec<TcpStream> {
    let mut clients: Vec<TcpStream> = (0..20).map(|_| connect(FRONT)).collect();
    for client in &mut clients {
        client.write_all(b"waiting\n").unwrap();
    }
    clients
}

#[track_caller]
fn all_are_served(clients: Vec<TcpStream>, story: &str) {
    for mut client in clients {
        let mut said = [0; 12];
        let read = client.read_exact(&mut said);
        assert!(
            read.is_ok() && &said == b"one waiting\n",
            "{story}: {read:?}"
        );
    }
    assert_eq!(ask(&mut connect(FRONT), "x"), "one x", "{story}");
}

/// One of both is killed when this message is on its way, and the other one serves.
fn killed_at(message: &str, victim: Side) {
    let story = format!("{victim:?} is killed at {message}");
    let mut line = Line::start(&with("127.0.0.1:8000", &[ONE]));
    let relay = Relay::start(&line);
    let mut next = newcomer(&line, &relay);
    let packet = relay.catch(message);
    let (old, new) = (line.first.pid(), next.pid());
    // A process that does not run yet accepts nothing.
    stop_all_threads(old);
    stop_all_threads(new);
    let clients = in_the_queue();
    let (dead, survivor) = match victim {
        Side::Old => (&mut line.first, new),
        Side::New => (&mut next, old),
    };
    let dead_pid = dead.pid();
    dead.signal(Signal::KILL);
    wait_for("its end", SOON, || is_gone(dead_pid));
    relay.let_through.send(packet).unwrap();
    relay.let_all_through();
    signal(survivor, Signal::CONT);
    all_are_served(clients, &story);
    let said = line.first.transcript() + &next.transcript();
    assert!(!said.contains("panicked"), "{story}: {said}");
    wait_for("the survivor's name in the pid file", SOON, || {
        line.pid() == survivor
    });
    let rest = match victim {
        Side::Old => &mut next,
        Side::New => &mut line.first,
    };
    rest.signal(Signal::TERM);
    assert_eq!(rest.exit_code(SOON), 0, "{story}: {}", rest.transcript());
}

#[test]
fn a_new_process_that_is_killed_at_any_message_leaves_every_client_to_the_old_one() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        for message in ["Hello", "Offer", "Ready", "Told", "Yours"] {
            killed_at(message, Side::New);
        }
    });
}

#[test]
fn an_old_process_that_is_killed_at_any_message_leaves_every_client_to_the_new_one() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        // Before the offer nobody else has the sockets.
        for message in ["Offer", "Ready", "Told", "Yours", "Keep"] {
            killed_at(message, Side::Old);
        }
    });
}

#[test]
fn a_soft_stop_during_a_hand_over_that_fails_serves_the_queue_before_the_end() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        for message in ["Offer", "Ready", "Yours"] {
            let story = format!("USR1, then the new one is killed at {message}");
            let mut line = Line::start(&with("127.0.0.1:8000", &[ONE]));
            let relay = Relay::start(&line);
            let mut next = newcomer(&line, &relay);
            let packet = relay.catch(message);
            line.first.signal(Signal::USR1);
            line.first.wait_line("soft stop: when it is known", SOON);
            stop_all_threads(line.first.pid());
            stop_all_threads(next.pid());
            let mut clients = in_the_queue();
            next.signal(Signal::KILL);
            let new = next.pid();
            wait_for("its end", SOON, || is_gone(new));
            drop((packet, relay));
            signal(line.first.pid(), Signal::CONT);
            for client in &mut clients {
                let mut said = [0; 12];
                let read = client.read_exact(&mut said);
                assert!(
                    read.is_ok() && &said == b"one waiting\n",
                    "{story}: {read:?}"
                );
            }
            drop(clients);
            let said = line.first.transcript();
            assert_eq!(line.first.exit_code(SOON), 0, "{story}: {said}");
        }
    });
}

#[test]
fn a_soft_stop_during_a_hand_over_that_succeeds_changes_nothing() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let mut line = Line::start(&with("127.0.0.1:8000", &[ONE]));
        let relay = Relay::start(&line);
        let next = newcomer(&line, &relay);
        let packet = relay.catch("Ready");
        line.first.signal(Signal::USR1);
        line.first.wait_line("soft stop: when it is known", SOON);
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        relay.let_through.send(packet).unwrap();
        relay.let_all_through();
        assert_eq!(line.first.exit_code(SOON), 0, "{}", line.first.transcript());
        assert_eq!(line.pid(), next.pid());
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        line.stop();
    });
}

/// The old process's side, played by the test: it has offered its socket, and the new process serves.
struct OldSide {
    listener: std::net::TcpListener,
    link: Link,
    next: Process,
    pidfile: PathBuf,
    _place: Place,
}

impl OldSide {
    fn offers() -> OldSide {
        let place = Place::new();
        let path = place.path().join("old.sock");
        let file = place.write("test.cfg", &with("127.0.0.1:8000", &[ONE]));
        let pidfile = place.path().join("pid");
        let socket = UnixListener::bind(&path).unwrap();
        let spec = ListenerSpec::tcp(FRONT);
        let mut opened = portcullis_listener::open(&spec).unwrap().listeners;
        let (fd, facts) = opened.remove(0).into_parts();
        let listener: std::net::TcpListener = fd.into();
        let mut command = portcullis();
        command.arg("run").arg("-f").arg(&file).arg("-x").arg(&path);
        command.arg("-p").arg(&pidfile);
        let next = Process::spawn(&mut command);
        let (mut stream, _) = socket.accept().unwrap();
        stream.read_exact(&mut [0; "_hand-over\n".len()]).unwrap();
        let (mut link, theirs) = Link::pair().unwrap();
        pass::send(&stream, b"+", &[theirs.as_fd()]).unwrap();
        drop((theirs, stream));
        let hello = link.listen(SOON);
        assert!(
            matches!(hello, Event::Heard(Message::Hello { .. }, 0)),
            "{hello:?}"
        );
        let offer = Message::Offer {
            sockets: vec![Identity { spec, facts }],
            state: "{}".to_owned(),
        };
        link.say(&offer, &[listener.as_fd()]).unwrap();
        let ready = link.listen(SOON);
        assert!(
            matches!(ready, Event::Heard(Message::Ready { .. }, 0)),
            "{ready:?}"
        );
        OldSide {
            listener,
            link,
            next,
            pidfile,
            _place: place,
        }
    }
}

#[test]
fn a_new_process_that_is_refused_after_it_served_ends_with_its_sessions_and_harms_no_socket() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        for yours_first in [false, true] {
            let mut old = OldSide::offers();
            // It is the only one that accepts.
            let mut session = connect(FRONT);
            assert_eq!(ask(&mut session, "a"), "one a");
            if yours_first {
                // And it is silent after that, until the old one hears nothing any more.
                stop_all_threads(old.next.pid());
                old.link.say(&Message::Yours, &[]).unwrap();
            }
            old.link
                .say(&Message::Refused("it took too long".to_owned()), &[])
                .unwrap();
            drop(old.link);
            signal(old.next.pid(), Signal::CONT);
            let said = old.next.wait_line("handed over: sessions go on here", SOON);
            assert_eq!(ask(&mut session, "b"), "one b", "{said}");
            assert!(old.next.running());
            drop(session);
            assert_eq!(old.next.exit_code(SOON), 5);
            let said = old.next.transcript();
            let why = "the process before this one goes on: it took too long";
            assert!(said.contains(why), "{said}");
            assert!(!old.pidfile.exists());
            // The socket is as it was.
            let mut client = connect(FRONT);
            let (mut served, _) = old.listener.accept().unwrap();
            served.write_all(b"here\n").unwrap();
            assert_eq!(super::clients::read_line(&mut client), "here");
        }
    });
}
