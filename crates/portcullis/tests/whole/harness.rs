//! Starts the balancer under test.
//!
//! Decides:  which program that is (`PORTCULLIS_PEER`), how it is started, and when it is ready: when
//!           it listens, never after a fixed time.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use portcullis_testkit::{Process, Signal, need_program, skip};

/// For what should happen at once, on a machine that is busy with other tests.
pub const SOON: Duration = Duration::from_secs(20);

/// The program under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Portcullis,
    Haproxy,
}

/// As `PORTCULLIS_PEER` says.
pub fn peer() -> Peer {
    match std::env::var("PORTCULLIS_PEER").as_deref() {
        Ok("haproxy") => Peer::Haproxy,
        Ok("portcullis") | Err(_) => Peer::Portcullis,
        Ok(other) => panic!("PORTCULLIS_PEER is `portcullis` or `haproxy`, not `{other}`"),
    }
}

/// For tests of what HAProxy does not promise: `if ours_only() { return }`.
pub fn ours_only() -> bool {
    let is_other = peer() != Peer::Portcullis;
    if is_other {
        skip("holds for Portcullis only");
    }
    is_other
}

/// What every configuration of these tests begins with.
pub const DEFAULTS: &str = "
global
    nbthread 2
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
";

/// A configuration that sends one port to some servers.
pub fn listen(bind: &str, servers: &[SocketAddr]) -> String {
    let lines = servers
        .iter()
        .enumerate()
        .map(|(index, address)| format!("    server s{} {address}\n", index + 1));
    format!(
        "{DEFAULTS}\nlisten front\n    bind {bind}\n{}",
        lines.collect::<String>()
    )
}

/// A place for a test's files, readable by whoever the balancer becomes.
pub struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::Builder::new()
            .prefix("portcullis-")
            .tempdir()
            .unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        Place { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

/// The command that runs the program under test on a file.
pub fn command(file: &Path) -> Command {
    match peer() {
        Peer::Portcullis => {
            let mut command = portcullis();
            command.arg("run").arg("-f").arg(file);
            command
        }
        Peer::Haproxy => haproxy(file).expect("PORTCULLIS_PEER=haproxy needs haproxy"),
    }
}

/// Our binary.
pub fn portcullis() -> Command {
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
}

/// HAProxy in the foreground; `None` is a visible skip.
pub fn haproxy(file: &Path) -> Option<Command> {
    let mut command = Command::new(need_program("haproxy")?);
    command.arg("-db").arg("-f").arg(file);
    Some(command)
}

/// A running balancer.
pub struct Balancer {
    pub process: Process,
    _place: Place,
}

impl Balancer {
    /// Runs `config`, and waits until all of `ports` listen.
    #[track_caller]
    pub fn start(config: &str, ports: &[SocketAddr]) -> Balancer {
        let place = Place::new();
        let file = place.write("test.cfg", config);
        Balancer::spawn(&mut command(&file), place, ports)
    }

    /// The same with another command.
    #[track_caller]
    pub fn spawn(command: &mut Command, place: Place, ports: &[SocketAddr]) -> Balancer {
        let mut process = Process::spawn(command);
        for port in ports {
            process.wait_port(*port, SOON);
        }
        Balancer {
            process,
            _place: place,
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    /// It is still there, and said nothing that sounds like a fault of ours.
    #[track_caller]
    pub fn assert_well(&mut self) {
        assert!(
            self.process.running(),
            "it ended:\n{}",
            self.process.transcript()
        );
        let said = self.process.transcript();
        assert!(!said.contains("panicked"), "{said}");
    }

    /// Ends it with TERM, and expects a clean end.
    #[track_caller]
    pub fn stop(mut self) {
        self.assert_well();
        self.signal(Signal::TERM);
        let code = self.process.exit_code(SOON);
        let expected = match peer() {
            Peer::Portcullis => 0,
            Peer::Haproxy => 128 + 15,
        };
        assert_eq!(code, expected, "{}", self.process.transcript());
    }
}

/// `127.0.0.1:port`
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A listener with a backlog of its own.
pub fn listening_with(at: SocketAddr, backlog: i32) -> TcpListener {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
    let flags = SocketFlags::CLOEXEC;
    let one = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    bind(&one, &at).unwrap();
    listen(&one, backlog).unwrap();
    TcpListener::from(one)
}
