//! From a running HAProxy to Portcullis and back, under load: with the real HAProxy, by its own
//! protocol.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_inspect::snapshot::State;
use portcullis_testkit::{Process, Signal, private_network, private_network_as_root, wait_for};

use super::admin::say;
use super::clients::{ask, connect};
use super::harness::{Place, SOON, haproxy, local, ours_only, portcullis};
use super::reload::FRONT;
use super::reload_load::Crowd;
use super::servers::Server;

/// One file for both programs.
fn config(socket: &Path, bind: &str) -> String {
    format!(
        "global\n    nbthread 2\n    stats socket {} level admin expose-fd listeners\n\
         defaults\n    mode tcp\n    timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n\
         listen front\n    bind {bind}\n    server s1 127.0.0.1:9001\n",
        socket.display()
    )
}

/// Either program on a file; `None` is a visible skip.
fn program(which: Which, file: &Path) -> Option<Command> {
    match which {
        Which::Haproxy => haproxy(file),
        Which::Portcullis => {
            let mut command = portcullis();
            command.arg("run").arg("-f").arg(file);
            Some(command)
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Haproxy,
    Portcullis,
}

/// The one that serves, and its files.
struct Moving {
    _place: Place,
    file: PathBuf,
    socket: PathBuf,
    now: Process,
}

impl Moving {
    /// HAProxy serves `bind`.
    fn start(bind: &str) -> Option<Moving> {
        let place = Place::new();
        let socket = place.path().join("s");
        let file = place.write("both.cfg", &config(&socket, bind));
        let mut now = Process::spawn(&mut program(Which::Haproxy, &file)?);
        now.wait_port(FRONT, SOON);
        Some(Moving {
            _place: place,
            file,
            socket,
            now,
        })
    }

    /// The next one takes the sockets and lets this one finish; this happens meanwhile. The answer is all that
    /// this one said.
    #[track_caller]
    fn move_to(&mut self, which: Which, meanwhile: impl FnOnce()) -> String {
        let mut command = program(which, &self.file).expect("it was there before");
        command.arg("-x").arg(&self.socket);
        command.arg("-sf").arg(self.now.pid().to_string());
        let next = Process::spawn(&mut command);
        let mut before = std::mem::replace(&mut self.now, next);
        meanwhile();
        let code = before.exit_code(SOON);
        assert_eq!(
            code,
            0,
            "{}\n{}",
            before.transcript(),
            self.now.transcript()
        );
        assert!(self.now.running(), "{}", self.now.transcript());
        let said = before.transcript() + &self.now.transcript();
        assert!(!said.contains("panicked"), "{said}");
        before.transcript()
    }
}

/// The sockets that listen at the port, by inode.
fn listening_at(port: u16) -> Vec<u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/net/{name}")).unwrap();
    let table = read("tcp") + &read("tcp6");
    let wanted = format!(":{port:04X}");
    let lines = table
        .lines()
        .skip(1)
        .map(|line| -> Vec<&str> { line.split_whitespace().collect() });
    let found = lines.filter(|words| words[1].ends_with(&wanted) && words[3] == "0A");
    found.map(|words| words[9].parse().unwrap()).collect()
}

#[test]
fn twenty_moves_between_haproxy_and_portcullis_under_load_lose_nobody() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let Some(mut it) = Moving::start("127.0.0.1:8000") else {
            return;
        };
        let first = listening_at(8000);
        assert_eq!(first.len(), 1);
        let crowd = Crowd::start(6);
        for round in 0..20 {
            let next = match round % 2 {
                0 => Which::Portcullis,
                _ => Which::Haproxy,
            };
            let mut long = connect(FRONT);
            let said = it.move_to(next, || {
                // A session of the old one goes on while the new one serves.
                let before = crowd.served();
                wait_for("some to be served", SOON, || crowd.served() > before + 20);
                assert_eq!(ask(&mut long, "still"), "one still");
                drop(long);
            });
            // That would cost some clients a second.
            assert!(!said.contains("by a filter"), "round {round}: {said}");
            let before = crowd.served();
            wait_for("some more to be served", SOON, || {
                crowd.served() > before + 20
            });
            // The very socket that HAProxy began with.
            assert!(listening_at(8000).contains(&first[0]), "round {round}");
        }
        let served = crowd.served();
        assert_eq!(crowd.stop(), Vec::<String>::new(), "of {served} served");
        assert!(served > 500, "{served}");
        println!("{served} short connections over 20 moves, none lost");
        server.assert_well();
    });
}

/// The other program serves it, so nobody waits for the moment at which it is empty.
#[test]
fn a_queue_that_is_never_empty_does_not_keep_who_gave_it_away() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let Some(mut it) = Moving::start("127.0.0.1:8000 backlog 100\n    maxconn 1") else {
            return;
        };
        let crowd = Crowd::start(12);
        for _ in 0..4 {
            it.move_to(Which::Portcullis, || {});
            let before = crowd.served();
            wait_for("some to be served", SOON, || crowd.served() > before + 20);
            let said = it.move_to(Which::Haproxy, || {});
            let took = said.lines().filter_map(|line| {
                let (_, rest) = line.split_once(" retired in ")?;
                rest.split(' ').next()?.parse::<u64>().ok()
            });
            let took: Vec<u64> = took.collect();
            assert!(
                !took.is_empty() && took.iter().all(|&ms| ms < 3000),
                "{said}"
            );
        }
        assert_eq!(crowd.stop(), Vec::<String>::new());
    });
}

#[test]
fn the_walk_through_is_true() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let root = place.path().to_owned();
        for directory in ["etc/haproxy", "run/haproxy"] {
            std::fs::create_dir_all(root.join(directory)).unwrap();
        }
        let socket = root.join("run/haproxy/admin.sock");
        let text = config(&socket, "127.0.0.1:8000");
        let file = place.write("etc/haproxy/haproxy.cfg", &text);
        let Some(mut first) = haproxy(&file) else {
            return;
        };
        let mut first = Process::spawn(&mut first);
        first.wait_port(FRONT, SOON);
        place.write("run/haproxy.pid", &format!("{}\n", first.pid()));
        let blocks = commands();
        let expected = ["portcullis check", "portcullis run", "haproxy -f"];
        assert_eq!(blocks.len(), expected.len());
        let crowd = Crowd::start(4);
        let name = || {
            say(&socket, "show info\n")
                .lines()
                .next()
                .map(str::to_owned)
        };
        let mut pids = Vec::new();
        for (block, begins) in blocks.iter().zip(expected) {
            assert!(block.starts_with(begins), "{block}");
            let block = block
                .replace("/etc/", &format!("{}/etc/", root.display()))
                .replace("/run/", &format!("{}/run/", root.display()));
            run_as_written(&block);
            let (who, pidfile) = match begins {
                "portcullis run" => ("Name: Portcullis", "run/portcullis.pid"),
                "haproxy -f" => ("Name: HAProxy", "run/haproxy.pid"),
                _ => continue,
            };
            // The old one may answer too until it has heard that it is to finish.
            wait_for("the new one to answer", SOON, || {
                (0..5).all(|_| name().as_deref() == Some(who))
            });
            let pid = std::fs::read_to_string(root.join(pidfile)).unwrap();
            pids.push(Daemon(pid.trim().parse().unwrap()));
            let before = crowd.served();
            wait_for("some to be served", SOON, || crowd.served() > before + 20);
        }
        assert_eq!(first.exit_code(SOON), 0, "{}", first.transcript());
        let served = crowd.served();
        assert_eq!(crowd.stop(), Vec::<String>::new(), "of {served} served");
        let portcullis = &pids[0];
        wait_for("Portcullis to end", SOON, || !portcullis.is_there());
        drop(pids);
    });
}

/// HAProxy without SO_REUSEPORT has one address, and the file has the wildcard beside it.
#[test]
fn a_refused_start_leaves_the_listener_of_haproxy_as_it_was_and_is_explained() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let place = Place::new();
        let socket = place.path().join("hap.sock");
        let text =
            config(&socket, "127.0.0.1:8000").replacen("global\n", "global\n    noreuseport\n", 1);
        let file = place.write("hap.cfg", &text);
        let Some(mut command) = haproxy(&file) else {
            return;
        };
        let mut first = Process::spawn(&mut command);
        first.wait_port(FRONT, SOON);
        let state = || {
            let wanted = portcullis_inspect::Wanted::default();
            let snapshot = portcullis_inspect::read(&wanted).unwrap();
            let all = &snapshot.namespaces[0].sockets;
            let one = all
                .iter()
                .find(|one| one.local == FRONT && one.state == State::Listen);
            let one = one.unwrap();
            (one.options.reuseport, one.send_queue, one.uid)
        };
        let was = state();
        let text = text
            .replace("    bind", "    bind *:8000\n    bind")
            .replace("hap.sock", "our.sock");
        let file = place.write("our.cfg", &text.replace("    noreuseport\n", ""));
        for _ in 0..2 {
            let mut next = Process::spawn(
                portcullis()
                    .args(["run", "-x"])
                    .arg(&socket)
                    .arg("-f")
                    .arg(&file),
            );
            assert_eq!(next.exit_code(SOON), 3, "{}", next.transcript());
            let said = next.stderr();
            for part in ["  holder: haproxy, pid ", "  rule:   ", "  try:    "] {
                assert!(said.contains(part), "{said}");
            }
            assert_eq!(state(), was, "{said}");
        }
        assert!(first.running());
    });
}

/// A process in the background; it ends with the test.
struct Daemon(i32);

impl Daemon {
    fn is_there(&self) -> bool {
        Path::new(&format!("/proc/{}/stat", self.0)).exists()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
    }
}

/// The commands of the document.
fn commands() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/moving-from-haproxy.md");
    let text = std::fs::read_to_string(path).unwrap();
    let blocks = text.split("\n```sh\n").skip(1);
    blocks
        .map(|rest| rest.split("\n```\n").next().unwrap().to_owned())
        .collect()
}

fn run_as_written(block: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_portcullis"));
    let path = format!(
        "{}:{}:/usr/sbin",
        program.parent().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new("sh")
        .arg("-ec")
        .arg(block)
        .env("PATH", path)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{block}\n{said}");
}

#[test]
fn what_gives_nothing_is_told_and_nothing_is_lost() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let socket = place.path().join("s");
        let plain = config(&socket, "127.0.0.1:8000").replace(" expose-fd listeners", "");
        let file = place.write("plain.cfg", &plain);
        let Some(mut old) = haproxy(&file) else {
            return;
        };
        let mut old = Process::spawn(&mut old);
        old.wait_port(FRONT, SOON);
        let mode = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&socket, mode).unwrap();
        let nobody = place.path().join("nobody");
        let long = place.path().join("x".repeat(120));
        for (path, expected) in [
            (&socket, "needs `expose-fd listeners`"),
            (&nobody, "(ENOENT)"),
            (&file, "(ECONNREFUSED)"),
            (&long, "cannot connect to"),
        ] {
            let mut command = portcullis();
            command.args(["run", "-sf"]).arg(old.pid().to_string());
            command.arg("-f").arg(&file).arg("-x").arg(path);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{said}");
            assert!(said.contains(expected), "{expected}: {said}");
        }
        let said = as_nobody(&file, &socket);
        assert!(said.contains("(EACCES)"), "{said}");
        assert!(old.running());
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
    });
}

/// What a start by an ordinary user says that may not use the socket.
fn as_nobody(file: &Path, socket: &Path) -> String {
    use std::os::unix::process::CommandExt as _;
    let mut command = portcullis();
    command.uid(65_534).gid(65_534);
    command.arg("run").arg("-f").arg(file).arg("-x").arg(socket);
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_haproxy_that_is_given_nothing_does_not_start_and_portcullis_goes_on() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let socket = place.path().join("s");
        let plain = config(&socket, "127.0.0.1:8000").replace(" expose-fd listeners", "");
        let file = place.write("plain.cfg", &plain);
        let mut ours = portcullis();
        ours.arg("run").arg("-f").arg(&file);
        let mut ours = Process::spawn(&mut ours);
        ours.wait_port(FRONT, SOON);
        let Some(mut theirs) = haproxy(&file) else {
            return;
        };
        theirs.arg("-x").arg(&socket);
        theirs.arg("-sf").arg(ours.pid().to_string());
        let output = theirs.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("Failed to get the sockets"), "{said}");
        assert_eq!(output.status.code(), Some(1));
        assert!(ours.running());
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        // Half of the question, and none of the answers.
        use std::io::Write as _;
        for text in ["_getsoc", "_getsocks", "_getsocks\n_getsocks\n"] {
            let mut cut = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            cut.write_all(text.as_bytes()).unwrap();
        }
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
    });
}

#[test]
fn a_taker_that_dies_with_the_sockets_costs_nobody_anything() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let place = Place::new();
        let socket = place.path().join("s");
        let file = place.write("both.cfg", &config(&socket, "127.0.0.1:8000 shards 2"));
        let mut ours = portcullis();
        ours.arg("run").arg("-f").arg(&file);
        let mut ours = Process::spawn(&mut ours);
        ours.wait_port(FRONT, SOON);
        assert_eq!(listening_at(8000).len(), 2);
        let crowd = Crowd::start(4);
        for _ in 0..10 {
            // The listener and the runtime socket, and the end in the middle of it.
            let pool = portcullis_listener::Pool::default();
            let (count, refused) = portcullis_control::admin::take::fill(&socket, &pool).unwrap();
            assert_eq!((count, refused.len()), (2, 0));
            let mut cut = std::os::unix::net::UnixStream::connect(&socket).unwrap();
            use std::io::{Read as _, Write as _};
            cut.write_all(b"_getsocks\n").unwrap();
            let mut count = [0; 4];
            cut.read_exact(&mut count).unwrap();
            assert_eq!(count, 2i32.to_ne_bytes());
            drop((cut, pool));
        }
        // One shard is left, and the other was closed without a loss.
        wait_for("one shard to be left", SOON, || {
            listening_at(8000).len() == 1
        });
        let before = crowd.served();
        wait_for("some to be served", SOON, || crowd.served() > before + 100);
        let served = crowd.served();
        assert_eq!(crowd.stop(), Vec::<String>::new(), "of {served} served");
        ours.signal(Signal::USR1);
        assert_eq!(ours.exit_code(SOON), 0, "{}", ours.transcript());
        server.assert_well();
    });
}

#[test]
fn every_kind_of_listener_moves_there_and_back() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let at = |name: &str| place.path().join(name);
        let (socket, door) = (at("s"), at("door"));
        let binds = format!(
            "127.0.0.1:8000 shards 2,:::8001 v6only,127.0.0.1:8002 interface lo,127.0.0.1:8003 transparent,\
             127.0.0.1:8004 backlog 77 tcp-ut 9s,{} mode 666,abns@gate",
            door.display()
        )
        .split(',')
        .collect::<Vec<_>>()
        .join("\n    bind ");
        let file = place.write("both.cfg", &config(&socket, &binds));
        let Some(mut command) = haproxy(&file) else {
            return;
        };
        let mut now = Process::spawn(&mut command);
        let ports = [8000, 8001, 8002, 8003, 8004];
        now.wait_port(FRONT, SOON);
        wait_for("all to listen", SOON, || {
            door.exists() && listening_at(8000).len() == 2
        });
        let before: Vec<u64> = ports.iter().flat_map(|port| listening_at(*port)).collect();
        for which in [Which::Portcullis, Which::Haproxy, Which::Portcullis] {
            let mut command = program(which, &file).unwrap();
            command.arg("-x").arg(&socket);
            command.arg("-sf").arg(now.pid().to_string());
            let next = Process::spawn(&mut command);
            let mut old = std::mem::replace(&mut now, next);
            assert_eq!(
                old.exit_code(SOON),
                0,
                "{}{}",
                old.transcript(),
                now.transcript()
            );
            for port in ports {
                let address = match port {
                    8001 => std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
                    _ => local(port),
                };
                assert_eq!(ask(&mut connect(address), "x"), "one x", "{port} {which:?}");
            }
            for address in [door.display().to_string(), "\0gate".to_owned()] {
                assert_eq!(ask_unix(&address), "one x\n", "{address:?} {which:?}");
            }
            let after: Vec<u64> = ports.iter().flat_map(|port| listening_at(*port)).collect();
            let kept = before.iter().filter(|inode| after.contains(inode)).count();
            // Of 8000 one of two was handed to us and back.
            assert!(kept >= ports.len(), "{which:?}: {before:?} {after:?}");
            assert!(now.running(), "{}", now.transcript());
        }
    });
}

/// One line and its answer, through a Unix socket.
fn ask_unix(address: &str) -> String {
    use std::io::{Read as _, Write as _};
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixStream};
    let mut stream = match address.strip_prefix('\0') {
        // HAProxy's `abns@` fills the name up to its full length.
        Some(name) => {
            let mut padded = name.as_bytes().to_vec();
            padded.resize(107, 0);
            let address = SocketAddr::from_abstract_name(padded).unwrap();
            UnixStream::connect_addr(&address).unwrap()
        }
        None => UnixStream::connect(address).unwrap(),
    };
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(b"x\n").unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
