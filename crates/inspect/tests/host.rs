//! Hosts that are set up here, and what is read of them.
//!
//! Decides:  each state, owner and setting is found where it was made; nothing that comes from outside
//!           panics.
//! Not here: what the kernel does then (agreement.rs).

#![allow(clippy::unwrap_used)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use portcullis_inspect::snapshot::{Holder, Known, Snapshot, Socket, State};
use portcullis_inspect::verdict::{self, Opening, ask};
use portcullis_inspect::{Caller, Focus, Means, Others, Outcome, Place, Wanted, Worlds, read};
use portcullis_kernel_model as model;
use portcullis_kernel_model::{Answer, Call, Errno, Family, Opt, SockAddr};
use portcullis_testkit::{
    Process, add_address, need_program, private_network, private_network_as_root, set_sysctl,
    wait_for,
};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};

fn stream(flags: SocketFlags) -> OwnedFd {
    socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn of_port(snapshot: &Snapshot, port: u16) -> Vec<&Socket> {
    let sockets = snapshot.namespaces[0].sockets.iter();
    sockets
        .filter(|socket| socket.local.port() == port)
        .collect()
}

fn worlds(snapshot: &Snapshot, port: u16) -> Worlds {
    let focus = Focus {
        port: Some(port),
        near: 0,
    };
    Worlds::of(snapshot, focus).unwrap()
}

/// What `bind` would say to the caller.
fn verdict(snapshot: &Snapshot, to: SocketAddr) -> Outcome<Answer> {
    let worlds = worlds(snapshot, to.port());
    worlds.ask(|possible| {
        let mut world = possible.world.clone();
        let family = if to.is_ipv6() {
            Family::Inet6
        } else {
            Family::Inet
        };
        let socket = world.socket(worlds.caller, family);
        world.call_as(
            worlds.caller,
            socket,
            Call::Bind(SockAddr::new(to.ip(), to.port())),
        )
    })
}

#[test]
fn a_listener_that_a_child_kept_open_has_two_holders() {
    private_network(|| {
        let listener = TcpListener::bind("127.0.0.1:443").unwrap();
        fcntl_setfd(&listener, FdFlags::empty()).unwrap();
        let child = Process::spawn(Command::new("sleep").arg("60"));
        let snapshot = read(&Wanted::default()).unwrap();
        let found = of_port(&snapshot, 443);
        assert_eq!(found.len(), 1);
        let fd = listener.as_raw_fd() as u32;
        let mut holders = found[0].holders.clone();
        holders.sort();
        let mut expected = [std::process::id(), child.pid()].map(|pid| Holder { pid, fd });
        expected.sort();
        assert_eq!(holders, expected);
        let heir = snapshot.process(child.pid()).unwrap();
        assert_eq!(
            (heir.name.as_str(), heir.parent),
            ("sleep", std::process::id())
        );
        assert_eq!(heir.command, ["sleep", "60"]);

        // The parent's copy goes: the child alone holds the port.
        drop(listener);
        let snapshot = read(&Wanted::default()).unwrap();
        assert_eq!(
            of_port(&snapshot, 443)[0].holders,
            [Holder {
                pid: child.pid(),
                fd
            }]
        );
        let refused = Answer::Err(Errno::EADDRINUSE);
        assert_eq!(
            verdict(&snapshot, at("0.0.0.0:443")),
            Outcome::Certain(refused)
        );
        let worlds = worlds(&snapshot, 443);
        let possible = &worlds.possible[0];
        let socket = possible.sockets[&(0, place_of(&snapshot, 443))];
        let holder = worlds.processes[&child.pid()];
        assert_eq!(possible.world.holders(socket), [holder]);
    });
}

fn place_of(snapshot: &Snapshot, port: u16) -> usize {
    let mut sockets = snapshot.namespaces[0].sockets.iter();
    sockets
        .position(|socket| socket.local.port() == port)
        .unwrap()
}

#[test]
fn every_state_of_a_server_is_listed() {
    private_network(|| {
        let bound = stream(SocketFlags::empty());
        bind(&bound, &at("127.0.0.1:80")).unwrap();

        let server = stream(SocketFlags::NONBLOCK);
        bind(&server, &at("127.0.0.1:443")).unwrap();
        listen(&server, 5).unwrap();
        let waiting = TcpStream::connect("127.0.0.1:443").unwrap();
        // TCP_DEFER_ACCEPT: who says nothing stays half open for that long.
        portcullis_sys::sockopt::set_int(&server, 6, 9, 60).unwrap();
        let silent: Vec<TcpStream> = (0..3)
            .map(|_| TcpStream::connect("127.0.0.1:443").unwrap())
            .collect();
        let accepts = TcpListener::bind("127.0.0.1:444").unwrap();
        let one = TcpStream::connect("127.0.0.1:444").unwrap();
        drop(accepts.accept().unwrap());
        let half = TcpStream::connect("127.0.0.1:444").unwrap();
        let (other, _) = accepts.accept().unwrap();
        half.shutdown(std::net::Shutdown::Write).unwrap();
        drop(one);
        wait_for("TIME_WAIT", Duration::from_secs(5), || {
            let snapshot = read(&Wanted::default()).unwrap();
            of_port(&snapshot, 444)
                .iter()
                .any(|socket| socket.state == State::TimeWait)
        });

        let snapshot = read(&Wanted::default()).unwrap();
        let states = |port| {
            let mut states: Vec<State> = of_port(&snapshot, port).iter().map(|s| s.state).collect();
            states.sort_by_key(|state| model::State::from(*state));
            states
        };
        assert_eq!(states(80), [State::Bound]);
        // One waits to be accepted.
        let of_server = states(443);
        assert_eq!(
            of_server[..2],
            [State::Established, State::Listen],
            "{of_server:?}"
        );
        assert!(
            of_server[2..].iter().all(|&state| state == State::HalfOpen),
            "{of_server:?}"
        );
        assert_eq!(of_server.len(), 5, "{of_server:?}");
        assert_eq!(
            states(444),
            [State::TimeWait, State::CloseWait, State::Listen]
        );
        let waits = of_port(&snapshot, 444);
        let waits = waits
            .iter()
            .find(|socket| socket.state == State::TimeWait)
            .unwrap();
        assert!((1..=60_000).contains(&waits.timer_ms.unwrap()), "{waits:?}");
        let child = of_port(&snapshot, 443);
        let child = child
            .iter()
            .find(|socket| socket.state == State::Established)
            .unwrap();
        assert!(child.inode == 0 && child.holders.is_empty());

        let worlds = worlds(&snapshot, 443);
        let possible = &worlds.possible[0];
        let listener = possible.sockets[&(0, place_of_state(&snapshot, 443, State::Listen))];
        assert_eq!(possible.world.queue_len(listener), 1);
        assert_eq!(possible.world.half_open_len(listener), of_server.len() - 2);
        drop((bound, waiting, silent, half, other));
    });
}

fn place_of_state(snapshot: &Snapshot, port: u16, state: State) -> usize {
    let mut sockets = snapshot.namespaces[0].sockets.iter();
    sockets
        .position(|socket| socket.local.port() == port && socket.state == state)
        .unwrap()
}

#[test]
fn settings_and_addresses_are_the_namespaces_own() {
    private_network(|| {
        add_address("192.0.2.7".parse().unwrap()).unwrap();
        set_sysctl("net.ipv4.ip_local_port_range", "40000 41000");
        set_sysctl("net.ipv4.ip_local_reserved_ports", "40000-40003,40100");
        set_sysctl("net.ipv4.ip_unprivileged_port_start", "0");
        set_sysctl("net.core.somaxconn", "77");
        let snapshot = read(&Wanted::default()).unwrap();
        let net = &snapshot.namespaces[0];
        assert_eq!(net.sysctls.ip_local_port_range, Some((40000, 41000)));
        assert_eq!(
            net.sysctls.ip_local_reserved_ports,
            [(40000, 40003), (40100, 40100)]
        );
        assert_eq!(net.sysctls.ip_unprivileged_port_start, Some(0));
        assert_eq!(net.sysctls.somaxconn, Some(77));
        let lo = net.interfaces.iter().find(|one| one.name == "lo").unwrap();
        assert!(lo.up && lo.index == 1);
        let own = lo
            .addresses
            .iter()
            .any(|own| own.ip.to_string() == "192.0.2.7");
        assert!(own, "{lo:?}");
        assert_eq!(
            verdict(&snapshot, at("192.0.2.7:443")),
            Outcome::Certain(Answer::Ok)
        );
        let refused = Answer::Err(Errno::EADDRNOTAVAIL);
        assert_eq!(
            verdict(&snapshot, at("192.0.2.8:443")),
            Outcome::Certain(refused)
        );
    });
}

#[test]
fn the_caller_may_be_another_process_or_a_user() {
    private_network_as_root(|| {
        let as_caller = |caller| {
            let wanted = Wanted {
                caller,
                ..Wanted::default()
            };
            read(&wanted)
        };
        let refused = Outcome::Certain(Answer::Err(Errno::EACCES));
        let nobody = as_caller(Caller::User("nobody".into())).unwrap();
        assert_eq!(verdict(&nobody, at("127.0.0.1:80")), refused);
        let number = as_caller(Caller::User("1000".into())).unwrap();
        assert_eq!(number.process(0).unwrap().uids, Some([1000; 4]));
        assert_eq!(verdict(&number, at("127.0.0.1:80")), refused);
        let own = as_caller(Caller::Own).unwrap();
        assert_eq!(
            verdict(&own, at("127.0.0.1:80")),
            Outcome::Certain(Answer::Ok)
        );

        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
            "sleep",
            "60",
        ]);
        let other = Process::spawn(&mut command);
        let seen = wait_for_uid(other.pid());
        assert_eq!(verdict(&seen, at("127.0.0.1:80")), refused);
        assert!(as_caller(Caller::Process(u32::MAX - 1)).is_err());
        assert!(as_caller(Caller::User("no such user".into())).is_err());
    });
}

fn wait_for_uid(pid: u32) -> Snapshot {
    let wanted = Wanted {
        caller: Caller::Process(pid),
        ..Wanted::default()
    };
    wait_for("the other user", Duration::from_secs(5), || {
        let seen = read(&wanted).unwrap();
        let uids = seen.process(pid).and_then(|process| process.uids);
        uids == Some([65534; 4])
    });
    read(&wanted).unwrap()
}

#[test]
fn a_listener_of_another_namespace_is_found_with_its_owner() {
    let Some(nc) = need_program("nc") else { return };
    private_network(|| {
        let nc = portcullis_testkit::need_program("nc").unwrap();
        let mut command = Command::new("unshare");
        command.arg("-n").arg(nc).args(["-l", "0.0.0.0", "443"]);
        let other = Process::spawn(&mut command);
        let wanted = Wanted {
            others: Others::Yes,
            ..Wanted::default()
        };
        let listens = |snapshot: &Snapshot| {
            let mut others = snapshot.namespaces.iter().skip(1);
            others.any(|net| {
                net.sockets
                    .iter()
                    .any(|s| s.holders.iter().any(|h| h.pid == other.pid()))
            })
        };
        wait_for("the other listener", Duration::from_secs(10), || {
            listens(&read(&wanted).unwrap())
        });
        let snapshot = read(&wanted).unwrap();
        assert!(of_port(&snapshot, 443).is_empty(), "it is free here");
        assert_eq!(
            verdict(&snapshot, at("0.0.0.0:443")),
            Outcome::Certain(Answer::Ok)
        );

        let there = Wanted {
            place: Place::Named(format!("/proc/{}/ns/net", other.pid())),
            ..Wanted::default()
        };
        let there = read(&there).unwrap();
        assert_eq!(of_port(&there, 443)[0].holders[0].pid, other.pid());
        let refused = Answer::Err(Errno::EADDRINUSE);
        assert_eq!(
            verdict(&there, at("0.0.0.0:443")),
            Outcome::Certain(refused)
        );
        let of_process = Wanted {
            place: Place::OfProcess(other.pid()),
            ..Wanted::default()
        };
        assert_eq!(
            read(&of_process).unwrap().namespaces[0].inode,
            there.namespaces[0].inode
        );
    });
    drop(nc);
}

#[test]
fn unix_listeners_have_names_and_owners() {
    private_network(|| {
        let directory = std::env::temp_dir().join(format!("inspect-{}", std::process::id()));
        let listener = std::os::unix::net::UnixListener::bind(&directory).unwrap();
        let abstract_one = socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::empty(),
            None,
        )
        .unwrap();
        let name = rustix::net::SocketAddrUnix::new_abstract_name(b"inspect test").unwrap();
        bind(&abstract_one, &name).unwrap();
        listen(&abstract_one, 3).unwrap();
        let snapshot = read(&Wanted::default()).unwrap();
        let unix = &snapshot.namespaces[0].unix;
        let path = directory.to_str().unwrap();
        let named = unix.iter().find(|socket| socket.name == path).unwrap();
        assert_eq!(named.holders[0].pid, std::process::id());
        let other = unix
            .iter()
            .find(|socket| socket.name == "@inspect test")
            .unwrap();
        assert_eq!((other.backlog, other.queue), (3, 0));
        std::fs::remove_file(&directory).unwrap();
        drop(listener);
    });
}

#[test]
fn a_key_that_a_socket_signs_with_is_in_no_snapshot() {
    private_network_as_root(|| {
        let listener = TcpListener::bind("127.0.0.1:443").unwrap();
        let peer = "127.0.0.1".parse().unwrap();
        let key = b"a key of a BGP peer";
        if portcullis_sys::sockopt::set_md5_peer(listener.as_fd(), peer, key).is_err() {
            return portcullis_testkit::skip("this kernel has no TCP MD5 signatures");
        }
        let text = read(&Wanted::default()).unwrap().render().unwrap();
        assert!(text.contains("127.0.0.1:443"));
        assert!(!text.contains("a key of") && !text.contains("BGP peer"));
        let mut without = Snapshot::parse(text.as_bytes()).unwrap();
        without.without_arguments();
        assert!(
            without
                .processes
                .iter()
                .all(|process| process.command.len() <= 1)
        );
    });
}

#[test]
fn without_bpf_and_descriptors_the_answer_names_what_it_depends_on() {
    private_network(|| {
        let listener = TcpListener::bind("127.0.0.1:443").unwrap();
        let wanted = Wanted {
            means: Means::SockDiag,
            ..Wanted::default()
        };
        let snapshot = read(&wanted).unwrap();
        let worlds = worlds(&snapshot, 443);
        let answer = worlds.ask(|possible| {
            let mut world = possible.world.clone();
            let socket = world.socket(worlds.caller, Family::Inet);
            world.call_as(
                worlds.caller,
                socket,
                Call::Set(model::Opt::ReusePort(true)),
            );
            let to = SockAddr::new("127.0.0.1".parse().unwrap(), 443);
            world.call_as(worlds.caller, socket, Call::Bind(to))
        });
        let Outcome::Depends(answers) = answer else {
            panic!("{answer:?}");
        };
        let known: Vec<Answer> = answers.iter().map(|(answer, _)| *answer).collect();
        assert_eq!(known, [Answer::Err(Errno::EADDRINUSE), Answer::Ok]);
        // A plain newcomer is refused whatever the holder has set: it listens.
        let refused = Answer::Err(Errno::EADDRINUSE);
        assert_eq!(
            verdict(&snapshot, at("127.0.0.1:443")),
            Outcome::Certain(refused)
        );
        drop(listener);
    });
}

#[test]
fn a_host_that_changes_while_it_is_read_is_read_all_the_same() {
    private_network(|| {
        let done = std::sync::atomic::AtomicBool::new(false);
        let goes_on = || !done.load(std::sync::atomic::Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while goes_on() {
                    let listeners: Vec<_> = (1000..1040)
                        .filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
                        .collect();
                    let streams: Vec<_> = (1000..1020)
                        .filter_map(|port| TcpStream::connect(("127.0.0.1", port)).ok())
                        .collect();
                    drop((listeners, streams));
                }
            });
            scope.spawn(|| {
                while goes_on() {
                    let _ = Command::new("true").status();
                }
            });
            for _ in 0..15 {
                let snapshot = read(&Wanted::default()).unwrap();
                let focus = Focus {
                    port: Some(1010),
                    near: 100,
                };
                Worlds::of(&snapshot, focus).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

#[test]
fn a_snapshot_that_somebody_edited_is_refused_or_answers_and_never_panics() {
    private_network(|| {
        let listener = TcpListener::bind("[::]:443").unwrap();
        let stream = TcpStream::connect("127.0.0.1:443").unwrap();
        let text = read(&Wanted::default()).unwrap().render().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let values = [
            "0",
            "-1",
            "65535",
            "4294967295",
            "\"listen\"",
            "\"half_open\"",
            "null",
            "true",
            "\"[::1]:443\"",
            "\"1.2.3.4:0\"",
            "[]",
            "{}",
            "18446744073709551615",
            "\"time_wait\"",
        ];
        let (mut parsed, mut answered) = (0, 0);
        for at in 0..lines.len() {
            let Some((field, rest)) = lines[at].split_once(": ") else {
                continue;
            };
            let comma = if rest.ends_with(',') { "," } else { "" };
            for value in values {
                let mut changed = lines.clone();
                let line = format!("{field}: {value}{comma}");
                changed[at] = &line;
                let Ok(snapshot) = Snapshot::parse(changed.join("\n").as_bytes()) else {
                    continue;
                };
                parsed += 1;
                for port in [Some(443), None] {
                    let Ok(worlds) = Worlds::of(&snapshot, Focus { port, near: 10 }) else {
                        continue;
                    };
                    let answer = worlds.ask(|possible| {
                        let mut world = possible.world.clone();
                        let socket = world.socket(worlds.caller, Family::Inet);
                        let to = SockAddr::new("0.0.0.0".parse().unwrap(), port.unwrap_or(0));
                        world.call_as(worlds.caller, socket, Call::Bind(to))
                    });
                    answered += 1;
                    drop(answer);
                }
            }
        }
        assert!(parsed > 300 && answered > 300, "{parsed} {answered}");
        drop((listener, stream));
    });
}

#[test]
fn what_could_not_be_read_is_said() {
    private_network(|| {
        let snapshot = read(&Wanted::default()).unwrap();
        // In a user namespace of its own a process may not use BPF, whoever it is there.
        let outer = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        let own: Vec<&str> = outer.split_ascii_whitespace().collect();
        if own != ["0", "0", "4294967295"] {
            assert!(
                matches!(snapshot.sources.bpf, Known::No(_)),
                "{:?}",
                snapshot.sources
            );
        }
        assert_eq!(snapshot.sources.notes, Vec::<String>::new());
    });
}

#[test]
fn without_proc_sockets_are_read_and_nobody_is_named() {
    private_network(|| {
        const INNER: &str = "INSPECT_TEST_WITHOUT_PROC";
        if std::env::var_os(INNER).is_none() {
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c"]);
            let name = "without_proc_sockets_are_read_and_nobody_is_named";
            command.arg(format!(
                "mount -t tmpfs none /proc && exec \"$0\" {name} --exact"
            ));
            command
                .arg(std::env::current_exe().unwrap())
                .env(INNER, "1");
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && text.contains("1 passed"),
                "{text}"
            );
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:4430").unwrap();
        let snapshot = read(&Wanted::default()).unwrap();
        assert!(matches!(snapshot.sources.processes, Known::No(_)));
        assert_eq!(snapshot.sources.notes.len(), 1, "{:?}", snapshot.sources);
        assert!(of_port(&snapshot, 4430)[0].holders.is_empty());
        let refused = Answer::Err(Errno::EADDRINUSE);
        assert_eq!(
            verdict(&snapshot, at("0.0.0.0:4430")),
            Outcome::Certain(refused)
        );
        let worlds = worlds(&snapshot, 4430);
        assert_eq!(worlds.unseen.len(), 1, "{:?}", worlds.unseen);
        drop(listener);
        // What a sysctl may permit is no certain refusal, nor what it may forbid a certain success.
        let mut snapshot = read(&Wanted::default()).unwrap();
        let me = &mut snapshot.processes[0];
        me.capabilities = Some(0);
        let errors = |asked: &str| {
            let told = ask(&snapshot, &Opening::new(at(asked))).unwrap();
            let errors: Vec<_> = told.answers.iter().map(|answer| answer.error).collect();
            (told.outcome, errors, told.to_string())
        };
        for (asked, first, other, sysctl) in [
            (
                "127.0.0.1:80",
                Some("EACCES"),
                None,
                "ip_unprivileged_port_start is 0",
            ),
            (
                "127.0.0.1:8080",
                None,
                Some("EACCES"),
                "ip_unprivileged_port_start is 65535",
            ),
            (
                "192.0.2.1:8080",
                Some("EADDRNOTAVAIL"),
                None,
                "ipv4.ip_nonlocal_bind is 1",
            ),
            (
                "[2001:db8::1]:8080",
                Some("EADDRNOTAVAIL"),
                None,
                "ipv6.ip_nonlocal_bind is 1",
            ),
        ] {
            let (outcome, errors, text) = errors(asked);
            assert_eq!(outcome, verdict::Outcome::Unknown, "{text}");
            assert!(errors.starts_with(&[first]), "{text}");
            assert!(errors.contains(&other), "{text}");
            assert!(text.contains(sysctl), "{text}");
            assert!(
                !text.contains("bindv6only"),
                "nothing depends on it: {text}"
            );
        }
    });
}

/// A control group of this test, with a program that refuses binds.
struct Refusing {
    path: PathBuf,
    _program: OwnedFd,
}

impl Refusing {
    /// `None` is a visible skip.
    fn new() -> Option<Refusing> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let Some(line) = mounts.lines().find(|line| line.contains(" - cgroup2 ")) else {
            portcullis_testkit::skip("no unified control groups are mounted");
            return None;
        };
        let mount = line.split(' ').nth(4).unwrap();
        let path = Path::new(mount).join(format!("portcullis-test-{}", std::process::id()));
        if let Err(error) = std::fs::create_dir(&path) {
            portcullis_testkit::skip(&format!("{}: {error}", path.display()));
            return None;
        }
        let directory = std::fs::File::open(&path).unwrap();
        match portcullis_sys::bpf::refuse_ipv4_binds(&directory) {
            Ok(_program) => Some(Refusing { path, _program }),
            Err(error) => {
                std::fs::remove_dir(&path).unwrap();
                portcullis_testkit::skip(&format!("a program on a control group: {error}"));
                None
            }
        }
    }
}

impl Drop for Refusing {
    fn drop(&mut self) {
        // Its last process may take a moment to be gone.
        let gone = || std::fs::remove_dir(&self.path).is_ok();
        let _ = portcullis_testkit::eventually(Duration::from_secs(5), gone);
    }
}

#[test]
fn a_bpf_program_on_the_callers_control_group_is_named_as_a_refuser() {
    private_network_as_root(|| {
        let Some(refusing) = Refusing::new() else {
            return;
        };
        let join = format!("echo $$ > {}/cgroup.procs", refusing.path.display());
        let bind = "use Socket; $| = 1; socket(S, 2, 1, 0); bind(S, pack_sockaddr_in(8000, INADDR_ANY)) or print qq(refused: $!\n); sleep 60";
        let mut inside = Process::spawn(
            Command::new("sh").args(["-c", &format!("{join}; exec perl -e '{bind}'")]),
        );
        inside.wait_line("refused: Operation not permitted", Duration::from_secs(10));
        let wanted = Wanted {
            caller: Caller::Process(inside.pid()),
            ..Wanted::default()
        };
        let snapshot = read(&wanted).unwrap();
        let programs = &snapshot.refusers.cgroup_programs;
        let group = format!("/{}", refusing.path.file_name().unwrap().to_str().unwrap());
        assert!(
            programs
                .iter()
                .any(|one| one.hook == "bind4" && one.cgroup == group && one.program > 0),
            "{programs:?}"
        );
        // No rule of the kernel's says no: the program is named beside the verdict.
        let opening = Opening::new(at("0.0.0.0:8000"));
        let verdict = portcullis_inspect::verdict::ask(&snapshot, &opening).unwrap();
        let named = verdict
            .refusers
            .iter()
            .find(|one| one.name == "a BPF program")
            .unwrap();
        assert!(named.likely && named.what.contains(&group), "{named:?}");
        assert!(verdict.to_string().contains("a BPF program"), "{verdict}");
        // Whether it refuses, it alone knows; it is never asked about IPv6.
        let asked = |ip: &str| {
            let opening = Opening::new(at(ip));
            portcullis_inspect::verdict::ask_from_socket(&snapshot, &opening).unwrap()
        };
        let verdict = asked("0.0.0.0:8000");
        assert_eq!(verdict.outcome, verdict::Outcome::Unknown, "{verdict}");
        let answers = verdict.answers.iter().map(|answer| answer.error);
        assert_eq!(
            answers.collect::<Vec<_>>(),
            [None, Some("EPERM")],
            "{verdict}"
        );
        let verdict = asked("[::1]:8000");
        assert_eq!(verdict.outcome, verdict::Outcome::Works, "{verdict}");
        assert!(!verdict.to_string().contains("a BPF program"), "{verdict}");
        // Who is not in the group is not refused by it.
        let own = read(&Wanted::default()).unwrap();
        assert!(
            own.refusers
                .cgroup_programs
                .iter()
                .all(|one| one.cgroup != group)
        );
        drop(inside);
    });
}

#[test]
fn with_hidepid_sockets_are_read_and_the_owners_of_others_are_said_to_be_hidden() {
    private_network_as_root(|| {
        let _listener = TcpListener::bind("127.0.0.1:8000").unwrap();
        // A mount namespace with a /proc that hides what is others', and an ordinary user in it.
        let helper = Copied::of(&std::env::current_exe().unwrap());
        let script = format!(
            "mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all {} --exact --nocapture --ignored tells_what_it_reads",
            helper.0.display()
        );
        let mut command = Command::new("unshare");
        let mut told =
            Process::spawn(command.args(["-m", "--propagation", "private", "sh", "-c", &script]));
        let code = told.exit_code(Duration::from_secs(20));
        if told.stderr().contains("mount:") {
            return portcullis_testkit::skip(&told.stderr());
        }
        assert_eq!(code, 0, "{}", told.transcript());
        let line = told.stdout();
        let line = line
            .lines()
            .find_map(|line| line.split_once("snapshot: "))
            .unwrap()
            .1
            .to_owned();
        let snapshot = Snapshot::parse(line.as_bytes()).unwrap();
        let found = of_port(&snapshot, 8000);
        assert_eq!(found.len(), 1);
        assert!(found[0].holders.is_empty());
        assert!(found[0].options.reuseport.is_none(), "nobody could tell");
        // Those that are hidden are not even seen to be there; the own one is.
        let own = snapshot.process(snapshot.caller).unwrap();
        assert_eq!(own.uids.unwrap()[1], 65534);
        assert!(
            matches!(&snapshot.sources.processes, Known::Partly(why) if why.contains("hidepid")),
            "{:?}",
            snapshot.sources.processes
        );
        let refused = Answer::Err(Errno::EADDRINUSE);
        assert_eq!(
            verdict(&snapshot, at("127.0.0.1:8000")),
            Outcome::Certain(refused)
        );
    });
}

/// A program where every user may run it.
struct Copied(PathBuf);

impl Copied {
    fn of(program: &Path) -> Copied {
        let path = std::env::temp_dir().join(format!("portcullis-helper-{}", std::process::id()));
        std::fs::copy(program, &path).unwrap();
        Copied(path)
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Run by the test above, as another user.
#[test]
#[ignore = "a helper of the test of hidepid"]
fn tells_what_it_reads() {
    let text = read(&Wanted::default()).unwrap().render().unwrap();
    let line: String = text.lines().map(str::trim).collect();
    println!("snapshot: {line}");
}

#[test]
fn a_program_that_calls_itself_anything_is_an_owner_like_others() {
    private_network(|| {
        let listener = TcpListener::bind("127.0.0.1:443").unwrap();
        fcntl_setfd(&listener, FdFlags::empty()).unwrap();
        let script = "printf 'a\\377\\nb' > /proc/$$/comm; echo up; read x";
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .stdin(std::process::Stdio::piped());
        let mut child = Process::spawn_with_stdin(&mut command);
        child.wait_line("up", Duration::from_secs(10));
        let snapshot = read(&Wanted::default()).unwrap();
        let heir = snapshot.process(child.pid()).unwrap();
        assert!(heir.name.starts_with("a\u{fffd}"), "{:?}", heir.name);
        assert_eq!(heir.parent, std::process::id());
        assert!(heir.started.is_some() && heir.uids.is_some());
    });
}

/// In a user namespace of its own, which does not own the network; says what this test's process is told, and
/// what the kernel then does.
#[test]
fn capabilities_of_a_user_namespace_that_does_not_own_the_network_do_not_count() {
    const INNER: &str = "INSPECT_TEST_INSIDE";
    const NAME: &str =
        "capabilities_of_a_user_namespace_that_does_not_own_the_network_do_not_count";
    if std::env::var_os(INNER).is_none() {
        private_network(|| {
            let mut command = Command::new("unshare");
            command.arg("-Ur").arg(std::env::current_exe().unwrap());
            command
                .args([NAME, "--exact", "--nocapture"])
                .env(INNER, "1");
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && text.contains("1 passed"),
                "{text}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        });
        return;
    }
    let mut snapshot = read(&Wanted::default()).unwrap();
    let net = &snapshot.namespaces[0];
    assert_eq!((net.user_namespace, net.owner_outside), (None, Some(true)));
    assert_ne!(snapshot.processes[0].capabilities, Some(0));
    let told = |snapshot: &Snapshot| ask(snapshot, &Opening::new(at("127.0.0.1:80"))).unwrap();
    let now = told(&snapshot);
    assert_eq!(now.outcome, verdict::Outcome::Refused, "{now}");
    assert_eq!(now.answers[0].error, Some("EACCES"), "{now}");
    let live = TcpListener::bind("127.0.0.1:80").unwrap_err();
    assert_eq!(live.kind(), std::io::ErrorKind::PermissionDenied);
    let mut opening = Opening::new(at("127.0.0.1:8080"));
    opening.options.push(Opt::Transparent(true));
    let now = ask(&snapshot, &opening).unwrap();
    assert_eq!(now.answers[0].error, Some("EPERM"), "{now}");
    // A file that was written before the owner was told: both answers.
    snapshot.namespaces[0].owner_outside = None;
    let old = told(&snapshot);
    let errors: Vec<_> = old.answers.iter().map(|answer| answer.error).collect();
    assert_eq!(old.outcome, verdict::Outcome::Unknown, "{old}");
    assert_eq!(errors, [Some("EACCES"), None], "{old}");
    assert!(
        old.to_string()
            .contains("  if:     the caller's capabilities count"),
        "{old}"
    );
}

#[test]
fn local_routes_tell_which_addresses_may_be_bound() {
    if need_program("ip").is_none() {
        return;
    }
    private_network(|| {
        let ip = |words: &str| {
            let done = Command::new("ip").args(words.split(' ')).status().unwrap();
            assert!(done.success(), "ip {words}");
        };
        ip("route add local 10.50.0.0/16 dev lo");
        ip("route add local 10.60.0.7 dev lo");
        ip("addr add 10.70.0.1/32 dev lo");
        ip("route del local 10.70.0.1 dev lo table local");
        ip("addr add 10.80.0.1/24 broadcast 10.80.0.77 dev lo");
        ip("link add there type veth peer name over");
        ip("link set over up");
        ip("link set there up");
        ip("addr add 10.90.0.1/24 broadcast 10.90.0.200 dev there");
        ip("route add local 10.91.0.0/24 dev there");
        ip("route add 10.91.0.128/25 dev there");
        ip("route add broadcast 10.92.0.9 dev there table local");
        ip("route add local 10.90.0.16/28 dev there");
        ip("route add 10.50.7.0/24 dev there");
        let snapshot = read(&Wanted::default()).unwrap();
        let text = snapshot.render().unwrap();
        assert_eq!(Snapshot::parse(text.as_bytes()).unwrap(), snapshot);
        for (asked, works) in [
            ("10.50.3.4:8080", true),
            ("10.50.0.0:8080", true),
            ("10.51.0.0:8080", false),
            ("10.60.0.7:8080", true),
            ("10.60.0.8:8080", false),
            ("10.70.0.1:8080", false),
            ("127.9.9.9:8080", true),
            ("10.80.0.1:8080", true),
            ("10.80.0.77:8080", true),
            ("10.80.0.78:8080", true),
            ("10.90.0.200:8080", true),
            ("10.90.0.255:8080", true),
            ("10.90.0.0:8080", false),
            ("10.90.0.254:8080", false),
            ("10.90.0.17:8080", true),
            ("10.90.0.32:8080", false),
            ("10.91.0.5:8080", true),
            ("10.91.0.255:8080", false),
            ("10.92.0.9:8080", true),
            ("10.92.0.8:8080", false),
            ("10.50.7.8:8080", false),
        ] {
            let told = ask(&snapshot, &Opening::new(at(asked))).unwrap();
            let expected = match works {
                true => verdict::Outcome::Works,
                false => verdict::Outcome::Refused,
            };
            assert_eq!(told.outcome, expected, "{told}");
            let live = TcpListener::bind(asked);
            assert_eq!(live.is_ok(), works, "{asked}: {live:?}");
        }
        // With a rule of somebody's own the local table is asked alone.
        ip("rule add from 192.0.2.1 lookup 7");
        let snapshot = read(&Wanted::default()).unwrap();
        for asked in ["10.91.0.200:8080", "10.50.7.8:8080"] {
            let told = ask(&snapshot, &Opening::new(at(asked))).unwrap();
            assert_eq!(told.outcome, verdict::Outcome::Works, "{told}");
            TcpListener::bind(asked).unwrap();
        }
    });
}

#[test]
fn in_a_network_that_never_had_an_address_every_ipv4_one_can_be_bound() {
    const INNER: &str = "INSPECT_TEST_FRESH";
    const NAME: &str = "in_a_network_that_never_had_an_address_every_ipv4_one_can_be_bound";
    if std::env::var_os(INNER).is_none() {
        private_network(|| {
            let mut command = Command::new("unshare");
            command.arg("-n").arg(std::env::current_exe().unwrap());
            command
                .args([NAME, "--exact", "--nocapture"])
                .env(INNER, "1");
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() && text.contains("1 passed"),
                "{text}{errors}"
            );
        });
        return;
    }
    let compare = |expected: &[(&str, bool)]| {
        let snapshot = read(&Wanted::default()).unwrap();
        for &(asked, works) in expected {
            let told = ask(&snapshot, &Opening::new(at(asked))).unwrap();
            let ok = told.outcome == verdict::Outcome::Works;
            let live = TcpListener::bind(asked);
            assert_eq!((ok, live.is_ok()), (works, works), "{told}{live:?}");
        }
    };
    compare(&[
        ("127.0.0.1:8001", true),
        ("192.0.2.1:8001", true),
        ("[::1]:8001", false),
    ]);
    // The table comes with the first address.
    add_address("10.0.0.1".parse().unwrap()).unwrap();
    compare(&[("10.0.0.1:8001", true), ("192.0.2.1:8001", false)]);
}
