//! `portcullis why` and `listeners` where little can be seen, where nonsense is asked, and where nothing can be
//! written.
//!
//! Decides:  that what could not be looked at is told beside the answer; that no input has to end for the
//!           program to do so; that an answer which nobody got is an error.
//! Not here: situations of ports (why_ask.rs), programs that are watched (why_holders.rs).

use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};

use portcullis_testkit::{
    Process, need_program, private_network, private_network_as_root, skip, wait_for,
};
use rustix::net::{AddressFamily, SocketType, ipproto, sockopt};
use rustix::process::Signal;

use super::harness::{Place, SOON, portcullis};

const NOBODY: &str = "65534";

#[track_caller]
fn ask(words: &[&str]) -> (i32, String, String) {
    let mut command = portcullis();
    told(command.args(words).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[test]
fn an_ipv4_address_on_an_ipv6_only_socket_is_refused_as_the_kernel_refuses_it() {
    private_network(|| {
        let at: SocketAddr = "[::ffff:127.0.0.1]:8080".parse().unwrap();
        for (only, words, error) in [
            (
                true,
                vec!["why", "[::ffff:127.0.0.1]:8080", "--v6only"],
                Some("EINVAL"),
            ),
            (false, vec!["why", "[::ffff:127.0.0.1]:8080"], None),
        ] {
            let socket = rustix::net::socket(AddressFamily::INET6, SocketType::STREAM, None);
            let socket = socket.unwrap();
            sockopt::set_ipv6_v6only(&socket, only).unwrap();
            let live = rustix::net::bind(&socket, &at).err();
            assert_eq!(live, error.map(|_| rustix::io::Errno::INVAL));
            drop(socket);
            let (code, said, stderr) = ask(&words);
            assert_eq!(code, i32::from(error.is_some()), "{said}{stderr}");
            assert!(said.contains(error.unwrap_or("ok: ")), "{said}");
        }
    });
}

#[test]
fn no_connection_is_asked_about_between_addresses_of_two_families() {
    private_network(|| {
        let _both = TcpListener::bind("[::]:8080").unwrap();
        for (to, from, code) in [
            ("[::1]:8080", "127.0.0.1", 2),
            ("127.0.0.1:8080", "::1", 2),
            ("*:8080", "::1", 2),
            ("[::]:8080", "127.0.0.1", 0),
            ("[::]:8080", "::1", 0),
            ("127.0.0.1:8080", "::ffff:127.0.0.1", 0),
        ] {
            let (got, said, stderr) = ask(&["why", "--no-traffic", to, "--from", from]);
            assert_eq!(got, code, "{to} from {from}: {said}{stderr}");
            assert_eq!(
                stderr.contains("are of two families"),
                code == 2,
                "{stderr}"
            );
        }
    });
}

#[test]
fn an_address_that_is_not_here_is_all_that_is_said_of_a_listener_on_the_wildcard() {
    private_network(|| {
        let _any = TcpListener::bind("0.0.0.0:8080").unwrap();
        let (code, said, stderr) = ask(&["why", "--no-traffic", "10.0.0.1:8080"]);
        assert_eq!(code, 1, "{said}{stderr}");
        assert!(said.contains("address-not-here"), "{said}");
        assert!(!said.contains("nobody-listens"), "{said}");
    });
}

#[test]
fn what_comes_from_this_host_needs_the_loopback_device_and_no_other() {
    let Some(ip) = need_program("ip") else {
        return;
    };
    private_network(|| {
        let set = |words: &str| {
            let done = Command::new(&ip).args(words.split(' ')).status().unwrap();
            assert!(done.success(), "{words}");
        };
        set("link add v0 type veth peer name v1");
        set("address add 10.7.0.1/24 dev v0");
        let _any = TcpListener::bind("0.0.0.0:8080").unwrap();
        let asked = || {
            let all: [&[&str]; 3] = [
                &["127.0.0.1:8080"],
                &["10.7.0.1:8080", "--from", "10.7.0.1"],
                &["10.7.0.1:8080", "--from", "10.7.0.9"],
            ];
            all.map(|words| ask(&[&["why", "--no-traffic"], words].concat()).0)
        };
        assert_eq!(asked(), [0, 0, 1], "v0 is down");
        set("link set v0 up");
        set("link set v1 up");
        assert_eq!(asked(), [0, 0, 0]);
        set("link set lo down");
        assert_eq!(asked(), [1, 1, 0]);
    });
}

#[test]
fn a_program_that_is_stopped_serves_nobody() {
    let Some(python) = need_program("python3") else {
        return;
    };
    private_network(|| {
        let program = "import socket, time\n\
             s = socket.socket(); s.bind(('127.0.0.1', 8080)); s.listen()\n\
             print('up', flush=True); time.sleep(60)\n";
        let mut server = Process::spawn(Command::new(&python).args(["-c", program]));
        server.wait_line("up", SOON);
        let asked = || ask(&["why", "--no-traffic", "127.0.0.1:8080"]);
        assert_eq!(asked().0, 0);
        server.signal(Signal::STOP);
        wait_for("the signal", SOON, || asked().0 == 1);
        let (_, said, _) = asked();
        assert!(said.contains("owner-stopped"), "{said}");
        assert!(said.contains("are not served"), "{said}");
        server.signal(Signal::CONT);
        wait_for("the other signal", SOON, || asked().0 == 0);
    });
}

#[test]
fn the_loopback_address_of_ipv6_is_given_to_no_other_interface() {
    let Some(ip) = need_program("ip") else {
        return;
    };
    private_network(|| {
        let set = |words: &str| {
            let done = Command::new(&ip).args(words.split(' ')).status().unwrap();
            assert!(done.success(), "{words}");
        };
        set("link add v0 type veth peer name v1");
        set("link set v0 up");
        set("link set v1 up");
        set("address del ::1/128 dev lo");
        let (code, said, stderr) = ask(&["why", "[::1]:8080"]);
        assert_eq!(code, 1, "{said}{stderr}");
        assert!(said.contains("give interface lo the address ::1"), "{said}");
        set("address add ::1/128 dev lo");
        assert_eq!(ask(&["why", "[::1]:8080"]).0, 0);
        // Nobody is told to give it an address that it has, and that is not ready.
        set("address add fd77::1/64 dev v0");
        let (_, said, _) = ask(&["why", "[fd77::1]:8080"]);
        assert!(!said.contains("the address fd77::1"), "{said}");
    });
}

/// Its first thread ends; another listens on a port, twice, and stays.
const HEADLESS: &str = "import ctypes, socket, sys, threading, time
def go():
    time.sleep(0.2)
    s = socket.socket(); s.bind(('127.0.0.1', 8080)); s.listen()
    try: socket.socket().bind(('127.0.0.1', 8080))
    except OSError as e: pass
    print('up', flush=True); time.sleep(float(sys.argv[1]))
    import os; os._exit(0)
threading.Thread(target=go).start()
ctypes.CDLL(None).pthread_exit(None)
";

#[test]
fn a_process_whose_first_thread_has_ended_holds_its_sockets() {
    let Some(python) = need_program("python3") else {
        return;
    };
    private_network(|| {
        let python = python.to_str().unwrap();
        let (_, _, said) = ask(&["why", "--", python, "-c", HEADLESS, "0"]);
        assert!(said.contains("fd 3, listening on 127.0.0.1:8080"), "{said}");
        assert!(
            said.contains("note: listened on 127.0.0.1:8080; 1 finding"),
            "{said}"
        );
        let mut server = Process::spawn(Command::new(python).args(["-c", HEADLESS, "60"]));
        server.wait_line("up", SOON);
        let holder = format!("pid {}, fd 3, listening on 127.0.0.1:8080", server.pid());
        let (code, said, _) = ask(&["why", "127.0.0.1:8080"]);
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(&holder), "{said}");
        let (_, said, _) = ask(&["listeners"]);
        assert!(!said.contains("ownerless"), "{said}");
        server.signal(Signal::KILL);
    });
}

#[test]
fn a_program_is_explained_without_proc_and_with_that_of_another_pid_namespace() {
    let (Some(python), Some(unshare)) = (need_program("python3"), need_program("unshare")) else {
        return;
    };
    private_network_as_root(|| {
        let place = Place::new();
        let program = "import socket\n\
             s = socket.socket(); s.bind(('127.0.0.1', 8080)); s.listen()\n\
             try: socket.socket().bind(('127.0.0.1', 8080))\n\
             except OSError: pass\n";
        let program = place.write("two.py", program);
        let us = env!("CARGO_BIN_EXE_portcullis");
        let watch = format!(
            "exec {us} why -- {} {}",
            python.display(),
            program.display()
        );
        for (how, before) in [
            ("-m", "mount -t tmpfs none /proc && "),
            ("-pf", ""),
            ("-n", "ip link set lo up; "),
        ] {
            let script = format!("{before}{watch}");
            let mut command = Command::new(&unshare);
            let (code, _, said) = told(command.args([how, "sh", "-c", &script]).output().unwrap());
            assert_eq!(code, 0, "{how}: {said}");
            assert!(
                said.contains("fd 3, listening on 127.0.0.1:8080"),
                "{how}: {said}"
            );
            assert_eq!(
                said.contains("note: /proc is not there"),
                how != "-n",
                "{how}: {said}"
            );
        }
    });
}

#[test]
fn who_watches_is_gone_when_the_reader_is() {
    let Some(shell) = need_program("sh") else {
        return;
    };
    private_network(|| {
        let us = env!("CARGO_BIN_EXE_portcullis");
        let script = format!("{us} listeners --watch=0.1 | head -n 1");
        let mut process = Process::spawn(Command::new(&shell).args(["-c", &script]));
        assert_eq!(process.exit_code(SOON), 0, "{}", process.transcript());
    });
}

#[test]
fn an_interface_that_is_not_there_is_no_number_of_an_address() {
    let (code, said, stderr) = ask(&["why", "[fe80::1%nope]:80"]);
    assert_eq!((code, said.as_str()), (2, ""), "{stderr}");
    assert!(
        stderr.contains("there is no interface \"nope\""),
        "{stderr}"
    );
    let (code, said, stderr) = ask(&["why", "[fe80::1%1]:80"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(said.contains("[fe80::1%1]:80"), "{said}");
}

#[test]
fn addresses_where_a_program_listened_are_told_once_and_not_without_end() {
    let Some(python) = need_program("python3") else {
        return;
    };
    private_network(|| {
        let program = "import socket, sys\n\
             for i in range(60):\n    \
             s = socket.socket()\n    \
             s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)\n    \
             s.bind(('127.0.0.1', 21000 + i % int(sys.argv[1]))); s.listen(); s.close()\n";
        for (ports, wanted) in [
            ("1", "listened on 127.0.0.1:21000; "),
            ("12", "listened on 12 addresses, 127.0.0.1:21000, "),
        ] {
            let python = python.to_str().unwrap();
            let (code, _, said) = ask(&["why", "--", python, "-c", program, ports]);
            assert_eq!(code, 0, "{said}");
            assert!(said.contains(wanted), "{said}");
            assert_eq!(said.matches("127.0.0.1:21000").count(), 1, "{said}");
        }
    });
}

#[test]
fn a_file_of_a_host_that_has_no_end_is_refused_before_it() {
    for words in [
        vec!["why", ":8080", "--host", "/dev/zero"],
        vec!["listeners", "--host", "/dev/zero"],
    ] {
        let mut process = Process::spawn(portcullis().args(&words));
        assert_eq!(process.exit_code(SOON), 2, "{words:?}");
        let said = process.stderr();
        assert!(said.contains("no JSON object"), "{words:?}: {said}");
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let Ok(full) = OpenOptions::new().write(true).open("/dev/full") else {
        return skip("there is no /dev/full");
    };
    private_network(|| {
        let place = Place::new();
        let config = place.path().join("valid.cfg");
        std::fs::write(&config, "listen l\n    mode tcp\n    bind 127.0.0.1:8080\n").unwrap();
        let config = config.to_str().unwrap();
        let scenario = place.path().join("one.bind");
        std::fs::write(&scenario, "socket a inet\n").unwrap();
        let scenario = scenario.to_str().unwrap();
        let tables: [(&[&str], i32); 10] = [
            (&["check", "--offline", "-f", config], 2),
            (&["check", "--offline", "--json", "-f", config], 2),
            (&["sim", scenario], 2),
            (&["sim", "-q", scenario], 2),
            (&["why", "*:8080"], 2),
            (&["why", "*:8080", "--json"], 2),
            (&["listeners"], 2),
            (&["listeners", "--json"], 2),
            (&["listeners", "--watch=0.1"], 5),
            (&["why", "--json", "--", "true"], 125),
        ];
        for (words, code) in tables {
            let mut command = portcullis();
            let stdout = full.try_clone().unwrap();
            let (got, _, stderr) = told(command.args(words).stdout(stdout).output().unwrap());
            assert_eq!(got, code, "{words:?}: {stderr}");
            assert!(
                stderr.to_lowercase().contains("no space left on device"),
                "{words:?}: {stderr}"
            );
        }
    });
}

#[test]
fn an_ordinary_user_is_told_which_refusers_and_networks_were_not_looked_at() {
    let Some(setpriv) = need_program("setpriv") else {
        return;
    };
    private_network_as_root(|| {
        let place = Place::new();
        let binary = place.path().join("portcullis");
        std::fs::copy(env!("CARGO_BIN_EXE_portcullis"), &binary).unwrap();
        let mut command = Command::new(&setpriv);
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
        command.arg(&binary).args(["why", "*:8080"]);
        let (code, said, stderr) = told(command.output().unwrap());
        assert_eq!(code, 0, "{said}{stderr}");
        for part in [
            "ok: 0.0.0.0:8080 can be bound",
            "BPF programs of control groups, which may refuse too: ",
            "whether the port is taken in another network namespace: network namespaces of processes that this user may not look at (",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // Who sees all of them is told nothing.
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let may = |path: std::path::PathBuf| match std::fs::metadata(path.join("ns/net")) {
            Err(error) => error.kind() != std::io::ErrorKind::PermissionDenied,
            Ok(_) => true,
        };
        let sees_all = all.map(|entry| entry.path()).all(may);
        let (_, said, _) = ask(&["why", "*:8080"]);
        let told = said.contains("another network namespace");
        assert!(!told || !sees_all, "{said}");
    });
}

#[test]
fn without_proc_the_counters_and_settings_are_told_to_be_unseen() {
    let Some(unshare) = need_program("unshare") else {
        return;
    };
    private_network_as_root(|| {
        let _listener = TcpListener::bind("127.0.0.1:8080").unwrap();
        let us = env!("CARGO_BIN_EXE_portcullis");
        let run = |mount: &str| {
            let script = format!("{mount} exec {us} why --no-traffic 127.0.0.1:8080");
            let mut command = Command::new(&unshare);
            told(command.args(["-m", "sh", "-c", &script]).output().unwrap())
        };
        let parts = [
            "  unseen: ",
            "how many connections were dropped: ",
            "settings (SYN cookies, limits): ",
            "who holds the sockets, and who accepts on them: ",
        ];
        let (code, said, stderr) = run("mount -t tmpfs none /proc &&");
        assert_eq!(code, 0, "{said}{stderr}");
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        let (code, said, stderr) = run("");
        assert_eq!(code, 0, "{said}{stderr}");
        assert!(parts[1..].iter().all(|part| !said.contains(part)), "{said}");
    });
}

#[test]
fn a_listener_of_mptcp_is_listed_and_holds_its_port() {
    private_network(|| {
        let mptcp = || {
            rustix::net::socket(
                AddressFamily::INET,
                SocketType::STREAM,
                Some(ipproto::MPTCP),
            )
        };
        let Ok(listener) = mptcp() else {
            return skip("this kernel has no MPTCP, or it is off (net.mptcp.enabled)");
        };
        let at: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        rustix::net::bind(&listener, &at).unwrap();
        rustix::net::listen(&listener, 7).unwrap();
        let (_, listed, _) = ask(&["listeners", "--json", "8080"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        let rows = listed["listeners"].as_array().unwrap();
        assert_eq!(
            rows.len(),
            1,
            "the TCP socket below it is no listener of its own: {listed}"
        );
        assert_eq!(rows[0]["protocol"], "mptcp", "{listed}");
        assert_eq!(rows[0]["limit"], 7, "{listed}");
        let own = format!(", pid {}, fd ", std::process::id());
        let table = ask(&["listeners", "8080"]).1;
        assert!(table.contains("127.0.0.1:8080"), "{table}");
        // TCP and MPTCP have their ports from one table.
        let verdicts = |words: &[&str]| {
            let (code, said, _) = ask(words);
            assert_eq!(code == 1, said.contains("EADDRINUSE"), "{said}");
            (code, said)
        };
        let (code, said) = verdicts(&["why", "127.0.0.1:8080"]);
        assert_eq!(code, 1, "{said}");
        let refused = TcpListener::bind(at).unwrap_err().kind();
        assert_eq!(refused, std::io::ErrorKind::AddrInUse);
        assert!(said.contains(&own), "the holder is this process: {said}");
        let (code, said) = verdicts(&["why", "127.0.0.2:8080"]);
        assert_eq!(code, 0, "{said}");
        let beside = TcpListener::bind("127.0.0.2:8080").unwrap();
        drop((beside, listener));
        assert_eq!(verdicts(&["why", "127.0.0.1:8080"]).0, 0);
        let again = mptcp().unwrap();
        rustix::net::bind(&again, &at).unwrap();
    });
}

/// The names of all keys of a value.
fn names(value: &serde_json::Value, into: &mut std::collections::BTreeSet<String>) {
    match value {
        serde_json::Value::Object(object) => {
            for (key, value) in object {
                into.insert(key.clone());
                names(value, into);
            }
        }
        serde_json::Value::Array(all) => all.iter().for_each(|value| names(value, into)),
        _ => {}
    }
}

/// Every key of these answers stands in the part of a page about JSON.
#[track_caller]
fn documented(page: &str, answers: &[String]) {
    let section = page.split_once("## `--json`\n").unwrap().1;
    let section = section.split_once("\n## ").map_or(section, |(own, _)| own);
    let mut told = std::collections::BTreeSet::new();
    for answer in answers {
        names(&serde_json::from_str(answer).unwrap(), &mut told);
    }
    assert!(told.len() > 30, "{told:?}");
    // `key`, `key[]`, `parent[].key`
    let has = |key: &String| {
        let ends = ["`", "[", "."].map(|end| format!("{key}{end}"));
        let begins = ["`", "."].map(|begin| ends.each_ref().map(|end| format!("{begin}{end}")));
        begins.iter().flatten().any(|text| section.contains(text))
    };
    told.retain(|key| !has(key));
    assert!(told.is_empty(), "the page lacks {told:?}");
}

#[test]
fn the_pages_have_every_key_of_the_json() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let _held = TcpListener::bind("127.0.0.1:8080").unwrap();
        let place = Place::new();
        let path = place.path().join("x.sock").display().to_string();
        let ask = |words: &[&str]| ask(&[&["why", "--json"], words].concat()).1;
        documented(
            include_str!("../../../../docs/why.md"),
            &[
                ask(&["127.0.0.1:8080"]),
                ask(&["127.0.0.2:8080"]),
                ask(&["*:0"]),
                ask(&["--no-traffic", "*:8080"]),
                ask(&["--no-traffic", "127.0.0.2:8080", "--from", "127.0.0.1"]),
                ask(&[&path]),
            ],
        );
        let bind = "use Socket; socket(S, 2, 1, 0); setsockopt(S, 1, 2, 1); bind(S, pack_sockaddr_in(8080, inet_aton('127.0.0.1')));
            socket(T, 2, 1, 0); bind(T, pack_sockaddr_in(8081, INADDR_ANY)); listen(T, 100000); fork";
        let record = place.path().join("record.json");
        let record = record.to_str().unwrap();
        super::why_edges::ask(&["why", "--json", "-o", record, "--", "perl", "-e", bind]);
        let record = std::fs::read_to_string(record).unwrap();
        documented(include_str!("../../../../docs/watching.md"), &[record]);
    });
}
