//! `portcullis listeners`: what it says of listeners that real processes hold.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_testkit::{
    Process, Signal, need_program, private_network, private_network_as_root, wait_for,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use serde_json::Value;

use super::harness::{SOON, listening_with, local, portcullis};

fn listeners(arguments: &[&str]) -> Process {
    Process::spawn(portcullis().arg("listeners").args(arguments))
}

/// Runs it to the end: stdout, stderr.
#[track_caller]
fn show(arguments: &[&str]) -> (String, String) {
    let mut process = listeners(arguments);
    assert_eq!(process.exit_code(SOON), 0, "{}", process.transcript());
    (process.stdout(), process.stderr())
}

#[track_caller]
fn rows(arguments: &[&str]) -> Vec<Value> {
    let mut all = vec!["--json"];
    all.extend(arguments);
    let (stdout, _) = show(&all);
    let report: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(report["format"], 1);
    report["listeners"].as_array().unwrap().clone()
}

#[track_caller]
fn only(arguments: &[&str]) -> Value {
    let mut all = rows(arguments);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn stream(family: AddressFamily) -> OwnedFd {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

fn words(row: &Value) -> Vec<&str> {
    let traps = row["traps"].as_array().unwrap();
    traps
        .iter()
        .map(|trap| trap["word"].as_str().unwrap())
        .collect()
}

/// Listens with SO_REUSEPORT, accepts for ever, and keeps what it accepts.
const SHARER: &str = "use Socket; $| = 1; socket(S, 2, 1, 0); setsockopt(S, 1, 15, 1);
    bind(S, pack_sockaddr_in(8100, INADDR_ANY)) or die; listen(S, 64) or die; print qq(up\n);
    while (accept(my $c, S)) { push @all, $c }";

#[test]
fn a_listener_is_shown_with_its_owner_its_queue_and_its_options() {
    private_network(|| {
        let listener = TcpListener::bind(local(8080)).unwrap();
        let waits = [(); 3].map(|()| TcpStream::connect(local(8080)).unwrap());
        let accepted = listener.accept().unwrap();
        let (stdout, stderr) = show(&[]);
        let head: Vec<&str> = stdout.lines().next().unwrap().split_whitespace().collect();
        assert_eq!(head[..3], ["ADDRESS", "OWNER", "USER"], "{stdout}");
        let line = stdout.lines().nth(1).unwrap();
        assert!(line.starts_with("127.0.0.1:8080  "), "{stdout}");
        assert!(
            line.contains(&format!(" {}  ", std::process::id())),
            "{stdout}"
        );
        assert!(line.contains(" reuseaddr "), "{stdout}");
        assert!(
            stdout.contains("\noverflows 0, drops 0\n1 listener\n"),
            "{stdout}"
        );
        assert!(!stderr.contains("owners"), "{stderr}");

        let row = only(&["8080"]);
        assert_eq!(
            (&row["queue"], &row["limit"]),
            (&Value::from(2), &Value::from(128))
        );
        assert_eq!(
            (&row["connections"], &row["drops"]),
            (&Value::from(1), &Value::from(0))
        );
        assert_eq!(row["owners"][0]["pid"], std::process::id());
        let options = &row["options"];
        assert_eq!(
            (&options["reuseaddr"], &options["reuseport"]),
            (&Value::from(true), &Value::from(false))
        );
        assert!(row["age_s"].as_u64().unwrap() < 600, "{row}");
        assert!(words(&row).is_empty(), "{row}");
        assert!(rows(&["8081"]).is_empty());
        assert!(rows(&["--traps"]).is_empty());
        drop((waits, accepted));
    });
}

#[test]
fn a_full_queue_is_told_with_what_was_lost() {
    private_network(|| {
        let full = listening_with(local(8080), 1);
        let _waits = [(); 2].map(|()| TcpStream::connect(local(8080)).unwrap());
        // One more than may: its SYN is dropped.
        let lost = stream(AddressFamily::INET);
        rustix::io::ioctl_fionbio(&lost, true).unwrap();
        let _ = rustix::net::connect(&lost, &local(8080));
        let row = only(&["queue-full"]);
        assert_eq!(row["queue"], 2);
        assert!(row["drops"].as_u64().unwrap() > 0, "{row}");
        assert_eq!(words(&row), ["queue-full", "drops"]);
        let (stdout, _) = show(&[]);
        assert!(
            stdout.contains("\n  ! queue-full: 2 wait, and 1 may\n"),
            "{stdout}"
        );
        assert!(!stdout.contains("overflows 0"), "{stdout}");
        drop(full);
    });
}

#[test]
fn every_word_that_is_shown_is_explained_by_why() {
    let why = |word: &str| {
        let mut process = Process::spawn(portcullis().args(["why", word]));
        (process.exit_code(SOON), process.stdout(), process.stderr())
    };
    let (code, stdout, _) = why("queue-full");
    assert_eq!(code, 0);
    assert!(
        stdout.starts_with("queue-full: As many connections wait"),
        "{stdout}"
    );
    assert!(stdout.contains("\n  hint:   "), "{stdout}");
    assert_ne!(why("no such word").0, 0);
}

#[test]
fn two_servers_that_share_a_port_unknowingly_are_told_and_their_loads_compared() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let sharers = [(); 2].map(|()| {
            let mut sharer = Process::spawn(Command::new("perl").args(["-e", SHARER]));
            sharer.wait_line("up", SOON);
            sharer
        });
        let clients: Vec<TcpStream> = (0..40)
            .map(|_| TcpStream::connect(local(8100)).unwrap())
            .collect();
        let mut row = Value::Null;
        wait_for("all to be accepted", SOON, || {
            row = only(&["8100"]);
            row["connections"] == 40
        });
        let shards = row["shards"].as_array().unwrap();
        assert_eq!(shards.len(), 2);
        let of = |shard: &Value| shard["connections"].as_u64().unwrap();
        assert_eq!(of(&shards[0]) + of(&shards[1]), 40);
        let most = of(&shards[0]).max(of(&shards[1]));
        assert_eq!(row["uneven"].as_f64().unwrap(), most as f64 / 20.0);
        assert!(words(&row).contains(&"shared-silently"), "{row}");
        let (stdout, _) = show(&[]);
        for sharer in &sharers {
            assert!(
                stdout.contains(&format!("perl (pid {})", sharer.pid())),
                "{stdout}"
            );
        }
        drop(clients);
    });
}

#[test]
fn traps_of_families_addresses_and_heirs_are_told() {
    private_network(|| {
        let six = stream(AddressFamily::INET6);
        sockopt::set_ipv6_v6only(&six, true).unwrap();
        bind(&six, &"[::]:8081".parse::<SocketAddr>().unwrap()).unwrap();
        listen(&six, 5).unwrap();
        assert_eq!(words(&only(&["8081"])), ["ipv6-only"]);
        let both = TcpListener::bind("0.0.0.0:8081").unwrap();
        assert!(rows(&["8081", "--traps"]).is_empty(), "IPv4 is served now");

        // Another program inherits a socket.
        let left = TcpListener::bind(local(8082)).unwrap();
        rustix::io::fcntl_setfd(&left, rustix::io::FdFlags::empty()).unwrap();
        let heir = Process::spawn(Command::new("sleep").arg("60"));
        let row = only(&["8082"]);
        assert_eq!(words(&row), ["kept-open"]);
        let pids: Vec<_> = row["owners"]
            .as_array()
            .unwrap()
            .iter()
            .map(|owner| owner["pid"].clone())
            .collect();
        assert_eq!(
            pids,
            [std::process::id(), heir.pid()],
            "the parent comes first"
        );

        // Nobody has the address.
        let gone = stream(AddressFamily::INET);
        sockopt::set_ip_freebind(&gone, true).unwrap();
        bind(
            &gone,
            &SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 8083)),
        )
        .unwrap();
        listen(&gone, 5).unwrap();
        assert!(
            rows(&["8083", "--traps"]).is_empty(),
            "IP_FREEBIND says that it is meant"
        );
        sockopt::set_ip_freebind(&gone, false).unwrap();
        assert_eq!(words(&only(&["8083"])), ["address-gone"]);
        drop(both);
    });
}

#[test]
fn other_network_namespaces_and_their_listeners_are_shown_when_asked_for() {
    if need_program("nc").is_none() {
        return;
    }
    private_network(|| {
        let other =
            Process::spawn(Command::new("unshare").args(["-n", "nc", "-l", "0.0.0.0", "443"]));
        wait_for("the other listener", SOON, || {
            rows(&["--all-netns", "443"])
                .iter()
                .any(|row| row["owners"][0]["pid"] == other.pid())
        });
        assert!(rows(&["443"]).is_empty(), "it is not here");
        let name = format!("/proc/{}/ns/net", other.pid());
        let row = only(&["--netns", &name]);
        assert_eq!(row["owners"][0]["program"], "nc");
        let (stdout, _) = show(&["--all-netns"]);
        assert!(stdout.starts_with("NETNS "), "{stdout}");
    });
}

#[test]
fn unix_sockets_are_shown_when_asked_for() {
    private_network(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let text = path.to_str().unwrap();
        assert!(rows(&[text]).is_empty());
        let row = only(&["--unix", text]);
        assert_eq!(
            (&row["protocol"], &row["address"]),
            (&Value::from("unix"), &Value::from(text))
        );
        assert_eq!(row["owners"][0]["pid"], std::process::id());
    });
}

#[test]
fn watched_without_a_terminal_it_writes_table_after_table_and_ends_by_a_signal() {
    private_network(|| {
        let _one = TcpListener::bind(local(8080)).unwrap();
        let mut watched = listeners(&["--watch=0.1"]);
        watched.wait_line("127.0.0.1:8080", SOON);
        let _two = TcpListener::bind(local(8081)).unwrap();
        watched.wait_line("127.0.0.1:8081", SOON);
        watched.signal(Signal::INT);
        assert_eq!(watched.exit_code(SOON), 0, "{}", watched.transcript());
        let stdout = watched.stdout();
        assert!(!stdout.contains('\x1b'), "{stdout:?}");
        assert!(
            stdout.contains("1 listener, every 100ms; Ctrl-C ends\n"),
            "{stdout}"
        );

        let mut stream = listeners(&["--watch=0.1", "--json"]);
        let line = stream.wait_line("8081", SOON);
        assert!(
            serde_json::from_str::<Value>(&line).is_ok(),
            "a line is a whole object: {line}"
        );
        stream.signal(Signal::TERM);
        assert_eq!(stream.exit_code(SOON), 0);
    });
}

#[test]
fn watched_on_a_terminal_the_screen_is_given_back_by_ctrl_c() {
    if need_program("script").is_none() {
        return;
    }
    private_network(|| {
        let _one = TcpListener::bind(local(8080)).unwrap();
        // The trap keeps a shell that would end with its child's Ctrl-C, as
        // dash does and bash does not.
        let line = format!(
            "trap : INT; stty cols 50 rows 12; {} listeners --watch=0.1; echo ended $?",
            env!("CARGO_BIN_EXE_portcullis")
        );
        let mut command = Command::new("script");
        command
            .args(["-qfec", &line, "/dev/null"])
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh");
        let mut script = Process::spawn_with_stdin(command.stdin(Stdio::piped()));
        script.wait_line("127.0.0.1:8080", SOON);
        let keys = script.child_mut().stdin.as_mut().unwrap();
        keys.write_all(b"\x03").unwrap();
        script.wait_line("ended 0", SOON);
        let shown = script.stdout();
        let (enter, leave) = ("\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l");
        assert!(shown.contains(enter), "{shown:?}");
        let (_, after) = shown.split_once(leave).unwrap();
        assert!(after.contains("ended 0"), "{shown:?}");
        // Two columns go at this width, and no line is longer.
        let frame = shown.split("\x1b[H").nth(1).unwrap();
        assert!(
            frame.contains("ADDRESS") && !frame.contains("OPTIONS"),
            "{frame:?}"
        );
    });
}

#[test]
fn who_is_not_root_sees_their_own_and_is_told_that_there_is_more() {
    private_network_as_root(|| {
        let _roots = TcpListener::bind(local(8080)).unwrap();
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
        ]);
        let mut asks = Process::spawn(
            command
                .arg(env!("CARGO_BIN_EXE_portcullis"))
                .arg("listeners"),
        );
        assert_eq!(asks.exit_code(SOON), 0, "{}", asks.transcript());
        let (stdout, stderr) = (asks.stdout(), asks.stderr());
        let line = stdout.lines().nth(1).unwrap();
        assert!(line.starts_with("127.0.0.1:8080  -  "), "{stdout}");
        assert!(!stdout.contains("ownerless"), "nobody knows: {stdout}");
        assert!(stdout.contains("reuseport?"), "{stdout}");
        assert!(
            stderr.contains("note: not all owners are shown: "),
            "{stderr}"
        );
        assert!(
            stderr.contains("note: not all options are known (`?`): "),
            "{stderr}"
        );
    });
}

#[test]
fn a_host_that_was_written_down_is_shown_like_this_one_and_a_wrong_file_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("host.json");
    let mut snapshot = portcullis_inspect::read(&portcullis_inspect::Wanted::default()).unwrap();
    snapshot.namespaces[0].sockets.clear();
    std::fs::write(&file, snapshot.render().unwrap()).unwrap();
    let name = file.to_str().unwrap();
    let (stdout, _) = show(&["--host", name]);
    assert!(stdout.ends_with("0 listeners\n"), "{stdout}");
    std::fs::write(&file, "{}").unwrap();
    let mut wrong = listeners(&["--host", name]);
    assert_eq!(wrong.exit_code(Duration::from_secs(20)), 2);
    assert!(
        wrong
            .stderr()
            .starts_with("error: cannot list the listeners: not a host's description"),
        "{}",
        wrong.stderr()
    );
}

#[test]
fn shards_of_threads_of_one_process_are_told_apart() {
    private_network_as_root(|| {
        let place = super::harness::Place::new();
        let text = "global\n nbthread 2\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n \
            timeout server 60s\nlisten a\n bind 127.0.0.1:8100 shards 2\n server s 127.0.0.1:8101\n";
        let file = place.write("a.cfg", text);
        let backend = TcpListener::bind(local(8101)).unwrap();
        let mut process = Process::spawn(portcullis().args(["run", "-f"]).arg(&file));
        let up = portcullis_testkit::eventually(SOON, || !rows(&["8100"]).is_empty());
        assert!(up, "{}", process.transcript());
        let clients: Vec<TcpStream> = (0..40)
            .map(|_| TcpStream::connect(local(8100)).unwrap())
            .collect();
        let servers: Vec<TcpStream> = clients
            .iter()
            .map(|_| backend.accept().unwrap().0)
            .collect();
        let row = only(&["8100"]);
        let shards = row["shards"].as_array().unwrap();
        let each: Vec<u64> = shards
            .iter()
            .map(|shard| {
                shard["connections"]
                    .as_u64()
                    .unwrap_or_else(|| panic!("{row}"))
            })
            .collect();
        assert_eq!((each.len(), each.iter().sum::<u64>()), (2, 40), "{row}");
        // By chance all are on one side once in 2 to the 39th.
        assert!(each.iter().all(|&its| its > 0), "{row}");
        assert!(row["uneven"].as_f64().unwrap() >= 1.0, "{row}");
        let (table, _) = show(&["8100"]);
        assert!(table.contains("2 even") || table.contains("2 x"), "{table}");
        drop((clients, servers));
        process.signal(Signal::TERM);
    });
}

#[test]
fn a_file_that_why_cannot_ask_about_is_not_shown_either() {
    private_network(|| {
        let _listener = TcpListener::bind(local(8080)).unwrap();
        let place = super::harness::Place::new();
        let path = place.path().join("host.json");
        let file = path.to_str().unwrap();
        let saved = portcullis().args(["why", "--save", file]).status();
        assert!(saved.unwrap().success());
        let whole: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let code = |words: &[&str]| {
            let mut process = Process::spawn(portcullis().args(words).args(["--host", file]));
            (process.exit_code(SOON), process.stderr())
        };
        let both = || (code(&["listeners"]), code(&["why", "*:8080"]));
        assert_eq!(both().0.0, 0);
        let table: [(&str, &str, Value); 3] = [
            ("/kernel/release", "no kernel release", Value::from("soft")),
            (
                "/namespaces",
                "no network namespace",
                Value::from(Vec::<Value>::new()),
            ),
            ("/caller", "not in the snapshot", Value::from(4_000_000)),
        ];
        for (field, words, wrong) in table {
            let mut edited = whole.clone();
            *edited.pointer_mut(field).unwrap() = wrong;
            std::fs::write(&path, edited.to_string()).unwrap();
            let (listed, asked) = both();
            assert_eq!((listed.0, asked.0), (2, 2), "{field}: {listed:?} {asked:?}");
            assert!(
                listed.1.contains(words) && asked.1.contains(words),
                "{listed:?} {asked:?}"
            );
        }
    });
}

/// Every key of a value, as `a[].b`; what `sources` has stands on another page.
fn keys(value: &serde_json::Value, at: &str, into: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(object) if at != "sources" => {
            for (key, value) in object {
                let at = match at {
                    "" => key.clone(),
                    at => format!("{at}.{key}"),
                };
                keys(value, &at, into);
                into.insert(at);
            }
        }
        serde_json::Value::Array(all) => {
            for value in all {
                keys(value, &format!("{at}[]"), into);
            }
        }
        _ => {}
    }
}

#[test]
fn the_page_has_every_key_of_the_json_and_no_other() {
    private_network(|| {
        let listen = |v6only: bool| {
            let family = match v6only {
                true => rustix::net::AddressFamily::INET6,
                false => rustix::net::AddressFamily::INET,
            };
            let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None);
            let socket = socket.unwrap();
            rustix::net::sockopt::set_socket_reuseport(&socket, true).unwrap();
            let at: std::net::SocketAddr = match v6only {
                true => "[::]:8081".parse().unwrap(),
                false => "127.0.0.1:8080".parse().unwrap(),
            };
            if v6only {
                rustix::net::sockopt::set_ipv6_v6only(&socket, true).unwrap();
            }
            rustix::net::bind(&socket, &at).unwrap();
            rustix::net::listen(&socket, 5).unwrap();
            socket
        };
        // Two shards, and one that has a trap.
        let _open = [listen(false), listen(false), listen(true)];
        let output = portcullis().args(["listeners", "--json"]).output().unwrap();
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut told = std::collections::BTreeSet::new();
        keys(&report, "", &mut told);
        let page = include_str!("../../../../docs/listeners.md");
        let section = page.split_once("## `--json`\n").unwrap().1;
        let section = section.split_once("\n## ").unwrap().0;
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented = rows.map(|row| row.split_once('`').unwrap().0.to_owned());
        let documented: std::collections::BTreeSet<String> = documented.collect();
        assert_eq!(documented, told);
        assert!(told.contains("listeners[].shards[].pids") && told.len() > 40);
    });
}
