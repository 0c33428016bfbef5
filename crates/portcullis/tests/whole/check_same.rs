//! `check`, `run` and `why` say the same of what stands in the way; and what `check` says of the process that has
//! a port is what becomes of `run`.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use portcullis_testkit::{Process, need_program, private_network, private_network_as_root};
use serde_json::Value;

use super::harness::{DEFAULTS, Place, SOON, haproxy, local, ours_only, portcullis};

/// A configuration with these lines of `global` and these `bind` lines.
fn config(global: &str, binds: &[&str]) -> String {
    let defaults = DEFAULTS.replacen("global\n", &format!("global\n{global}"), 1);
    let lines: String = binds.iter().map(|it| format!("    bind {it}\n")).collect();
    format!("{defaults}\nlisten front\n{lines}    server s 127.0.0.1:9001\n")
}

/// The exit code of `check`, and its findings but those about filters of system calls.
#[track_caller]
fn check(command: &mut Command, file: &Path, options: &[&str]) -> (i32, Vec<Value>) {
    let command = command.args(["check", "--json", "-f"]).arg(file);
    let mut process = Process::spawn(command.args(options));
    let code = process.exit_code(SOON);
    let read: Value = serde_json::from_str(&process.stdout())
        .unwrap_or_else(|_| panic!("{}", process.transcript()));
    let found = read["diagnostics"].as_array().unwrap();
    let found = found.iter().filter(|one| one["code"] != "may-refuse");
    (code, found.cloned().collect())
}

fn codes(found: &[Value]) -> Vec<&str> {
    found
        .iter()
        .map(|it| it["code"].as_str().unwrap())
        .collect()
}

/// Everything that is said of it, in one line a piece.
fn said(finding: &Value) -> String {
    let notes = finding["notes"].as_array().unwrap().iter();
    let notes = notes.map(|note| note["message"].as_str().unwrap().to_owned());
    let all = std::iter::once(finding["message"].as_str().unwrap().to_owned()).chain(notes);
    all.collect::<Vec<_>>().join("\n")
}

/// The exit code and the standard error of a `run` that is refused.
#[track_caller]
fn refused(command: &mut Command, file: &Path, options: &[&str]) -> (i32, String) {
    let mut process = Process::spawn(command.arg("run").args(options).arg("-f").arg(file));
    (process.exit_code(SOON), process.stderr())
}

/// The words behind `rule:`, `hint:`, `try:` and `holder:`, whatever stands before them.
fn facts(text: &str) -> Vec<String> {
    const WORDS: [&str; 4] = ["rule:", "hint:", "try:", "holder:"];
    let lines = text
        .lines()
        .map(|line| line.trim().trim_start_matches("= note: "));
    let known = lines.filter(|line| WORDS.iter().any(|word| line.starts_with(word)));
    known
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn what_is_wrong_with_a_unix_socket_is_said_in_the_same_words_by_check_run_and_why() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let place = Place::new();
        place.write("a-file", "");
        let none = place.path().join("none/x.sock").display().to_string();
        let below = place.path().join("a-file/x.sock").display().to_string();
        let plain = place.path().join("a-file").display().to_string();
        let name = "portcullis-check-same";
        let address = {
            use std::os::linux::net::SocketAddrExt as _;
            std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap()
        };
        let _held = UnixListener::bind_addr(&address).unwrap();
        for (word, part) in [
            (none.as_str(), "no such file or directory (ENOENT)"),
            (&below, "not a directory (ENOTDIR)"),
            (&plain, ""),
            ("/proc/x.sock", "no such file or directory (ENOENT)"),
            (
                &format!("abnsz@{name}"),
                "address already in use (EADDRINUSE)",
            ),
        ] {
            let stats = format!("    stats socket {word}\n");
            for text in [
                config("", &["127.0.0.1:8000 backlog 9", word]),
                config(&stats, &["127.0.0.1:8000 backlog 9"]),
            ] {
                let file = place.write("test.cfg", &text);
                let (code, found) = check(&mut portcullis(), &file, &[]);
                assert_eq!(
                    (code, codes(&found)),
                    (3, vec!["host-refuses"]),
                    "{word}: {found:?}"
                );
                let checked = said(&found[0]);
                assert!(checked.contains(part), "{checked}");
                let (code, ran) = refused(&mut portcullis(), &file, &[]);
                assert_eq!(code, 3, "{ran}");
                assert!(ran.contains(part), "{ran}");
                let asked = portcullis().args(["why", word]).output().unwrap();
                let asked = String::from_utf8(asked.stdout).unwrap();
                assert!(!facts(&asked).is_empty(), "{asked}");
                assert_eq!(facts(&checked), facts(&asked), "{checked}\n{asked}");
                assert_eq!(facts(&ran), facts(&asked), "{ran}\n{asked}");
            }
        }
    });
}

#[test]
fn a_runtime_socket_and_a_device_and_a_namespace_that_cannot_be_are_foreseen_as_run_meets_them() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let _held = TcpListener::bind(local(9001)).unwrap();
        for (global, line, rule) in [
            (
                "    stats socket 127.0.0.1:9001\n",
                "127.0.0.1:8000 backlog 9",
                "reuseaddr-beside-listener",
            ),
            ("", "*:8000 backlog 9 interface nope0", "no-such-device"),
            (
                "",
                "127.0.0.1:8000 backlog 9 namespace portcullis-nosuch",
                "",
            ),
        ] {
            let place = Place::new();
            let file = place.write("test.cfg", &config(global, &[line]));
            let (code, found) = check(&mut portcullis(), &file, &[]);
            assert_eq!(
                (code, codes(&found)),
                (3, vec!["host-refuses"]),
                "{found:?}"
            );
            let (code, ran) = refused(&mut portcullis(), &file, &[]);
            assert_eq!(code, 3, "{ran}");
            let rule = format!("rule: {rule}");
            assert!(said(&found[0]).contains(&rule), "{found:?}");
            if rule != "rule: " {
                assert!(facts(&ran).iter().any(|it| it.starts_with(&rule)), "{ran}");
                assert!(facts(&ran).iter().any(|it| it.starts_with("try:")), "{ran}");
                assert!(!ran.contains("  help:"), "{ran}");
            }
        }
    });
}

#[test]
fn the_group_that_one_has_makes_nobody_root() {
    if ours_only() || need_program("setpriv").is_none() {
        return;
    }
    private_network_as_root(|| {
        let place = Place::new();
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let program = place.path().join("portcullis");
        std::fs::copy(env!("CARGO_BIN_EXE_portcullis"), &program).unwrap();
        let ordinary = || {
            let mut command = Command::new("setpriv");
            let ids = [
                "--reuid",
                "65534",
                "--regid",
                "65534",
                "--clear-groups",
                "--inh-caps=-all",
            ];
            command.args(ids).arg(&program);
            command
        };
        let binds = ["127.0.0.1:443 backlog 9"];
        let own = place.write("own.cfg", &config("    gid 65534\n", &binds));
        let (code, found) = check(&mut ordinary(), &own, &[]);
        assert_eq!(
            (code, codes(&found)),
            (3, vec!["host-refuses"]),
            "{found:?}"
        );
        assert_eq!(refused(&mut ordinary(), &own, &[]).0, 3);
        // Another one only root can become, and root may.
        let roots = place.write("roots.cfg", &config("    gid 0\n", &binds));
        assert_eq!(check(&mut ordinary(), &roots, &[]).0, 0);
    });
}

/// Listens with SO_REUSEPORT, or without, until it is ended.
const LISTENER: &str = "
import socket, sys, time
open('/proc/self/comm', 'w').write(sys.argv[1])
s = socket.socket()
if sys.argv[4:]: s.setsockopt(1, 15, 1)
s.bind((sys.argv[2], int(sys.argv[3]))); s.listen(5); time.sleep(600)
";

/// A program of this name that listens there.
fn called(name: &str, at: SocketAddr, shares: &[&str]) -> Option<Process> {
    let mut command = Command::new(need_program("python3")?);
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    command.args(["-c", LISTENER, name, &ip, &port]);
    let mut process = Process::spawn(command.args(shares));
    process.wait_port(at, SOON);
    Some(process)
}

#[test]
fn a_name_makes_no_balancer_and_this_program_is_known_under_any() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let place = Place::new();
        let text = config("    noreuseport\n", &["127.0.0.1:8000 backlog 9"]);
        let file = place.write("test.cfg", &text);
        for name in ["haproxy", "portcullis"] {
            let Some(_running) = called(name, local(8000), &[]) else {
                return;
            };
            let (code, found) = check(&mut portcullis(), &file, &[]);
            assert_eq!(
                (code, codes(&found)),
                (3, vec!["host-refuses"]),
                "{found:?}"
            );
            assert!(
                said(&found[0]).contains("does not hand it over"),
                "{found:?}"
            );
            assert_eq!(refused(&mut portcullis(), &file, &[]).0, 3);
        }
        let program = place.path().join("p");
        std::fs::hard_link(env!("CARGO_BIN_EXE_portcullis"), &program)
            .or_else(|_| std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_portcullis"), &program))
            .unwrap();
        let mut running = Process::spawn(Command::new(&program).args(["run", "-f"]).arg(&file));
        running.wait_port(local(8000), SOON);
        let (code, found) = check(&mut portcullis(), &file, &[]);
        assert_eq!(
            (code, codes(&found)),
            (0, vec!["held-by-balancer"]),
            "{found:?}"
        );
    });
}

#[test]
fn haproxy_is_no_obstacle_where_it_gives_the_very_socket() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        for expose in ["", " expose-fd listeners"] {
            let place = Place::new();
            let socket = place.path().join("hap.sock").display().to_string();
            let stats = format!("    noreuseport\n    stats socket {socket} level admin{expose}\n");
            let theirs = place.write("hap.cfg", &config(&stats, &["127.0.0.1:8000"]));
            let Some(mut command) = haproxy(&theirs) else {
                return;
            };
            let mut running = Process::spawn(&mut command);
            running.wait_port(local(8000), SOON);
            let ours = config("    noreuseport\n", &["127.0.0.1:8000 backlog 9"]);
            let same = place.write("same.cfg", &ours);
            let wide = place.write("wide.cfg", &ours.replace("127.0.0.1:8000", "*:8000"));
            let gives = !expose.is_empty();
            let held = match gives {
                true => (0, "held-by-balancer"),
                false => (3, "host-refuses"),
            };
            for (file, options, (code, finding)) in [
                (&same, &["-x", &socket][..], held),
                // Nobody said where to ask.
                (&same, &[], (3, "host-refuses")),
                // It has another address, and no such socket to give.
                (&wide, &["-x", &socket], (3, "host-refuses")),
            ] {
                let (said, found) = check(&mut portcullis(), file, options);
                assert_eq!(
                    (said, codes(&found)),
                    (code, vec![finding]),
                    "{options:?} {found:?}"
                );
                if code == 3 && (gives || options.is_empty()) {
                    assert_eq!(refused(&mut portcullis(), file, options).0, 3);
                }
            }
            // Its own file names the socket.
            let (_, found) = check(&mut portcullis(), &theirs, &[]);
            let front = found
                .iter()
                .find(|one| said(one).contains("127.0.0.1:8000"));
            assert_eq!(front.unwrap()["code"], held.1, "{found:?}");
            assert!(running.running(), "it was only asked");
        }
    });
}

#[test]
fn a_listener_on_a_part_of_the_address_is_told_by_check_too() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let place = Place::new();
        let part = local(8000);
        for (theirs, line, words) in [
            (part, "*:8000", Some("a part of 0.0.0.0:8000")),
            (
                "0.0.0.0:8000".parse().unwrap(),
                "127.0.0.1:8000",
                Some("of which 127.0.0.1:8000 is a part"),
            ),
            (part, "[::]:8000 v4v6", Some("a part of [::]:8000")),
            (part, "[::]:8000 v6only", None),
            (part, "127.0.0.2:8000", None),
        ] {
            let Some(_running) = called("other", theirs, &["shares"]) else {
                return;
            };
            let file = place.write("test.cfg", &config("", &[&format!("{line} backlog 9")]));
            let (code, found) = check(&mut portcullis(), &file, &[]);
            let expected: Vec<&str> = words.iter().map(|_| "host-shares").collect();
            assert_eq!((code, codes(&found)), (0, expected), "{line}: {found:?}");
            if let Some(words) = words {
                assert_eq!(found[0]["severity"], "warning");
                assert!(said(&found[0]).contains(words), "{found:?}");
            }
        }
    });
}

/// Forbids itself `bind` by a filter of system calls, and becomes another program.
const FILTERED: &str = "
import ctypes, errno, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
number = {'x86_64': 49, 'aarch64': 200}[os.uname().machine]
one = lambda code, yes, no, k: struct.pack('HBBI', code, yes, no, k)
code = one(0x20, 0, 0, 0) + one(0x15, 0, 1, number) + one(0x06, 0, 0, 0x50000 | errno.EPERM)
code += one(0x06, 0, 0, 0x7fff0000)
text = ctypes.create_string_buffer(code, len(code))
program = struct.pack('HxxxxxxQ', len(code) // 8, ctypes.addressof(text))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
";

#[test]
fn who_else_may_refuse_is_named_before_run_meets_it() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let Some(python) = need_program("python3") else {
            return;
        };
        let place = Place::new();
        let file = place.write(
            "test.cfg",
            &config("", &["127.0.0.1:8000 backlog 9", "*:8001 backlog 9"]),
        );
        let filtered = || {
            let mut command = Command::new(&python);
            command.args(["-c", FILTERED, env!("CARGO_BIN_EXE_portcullis")]);
            command
        };
        let seccomp = |command: &mut Command| {
            let output = command
                .args(["check", "--json", "-f"])
                .arg(&file)
                .output()
                .unwrap();
            let read: Value = serde_json::from_slice(&output.stdout).unwrap();
            let all = read["diagnostics"].as_array().unwrap().clone();
            let ours = |one: &Value| {
                one["code"] == "may-refuse" && said(one).starts_with("seccomp may refuse")
            };
            all.into_iter().filter(ours).collect::<Vec<Value>>()
        };
        let found = seccomp(&mut filtered());
        assert_eq!(found.len(), 1, "once for all lines: {found:?}");
        assert_eq!(found[0]["severity"], "notice");
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        if status.contains("Seccomp:\t0") {
            assert_eq!(seccomp(&mut portcullis()), Vec::<Value>::new());
        }
        let (code, ran) = refused(&mut filtered(), &file, &[]);
        assert_eq!(code, 3);
        assert!(ran.contains("  may refuse: seccomp: "), "{ran}");
    });
}
