//! `portcullis check` against the host: what it foresees is what `run` then meets.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use portcullis_testkit::{
    Process, add_address, need_program, private_network, private_network_as_root, set_sysctl,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use serde_json::Value;

use super::harness::{Balancer, DEFAULTS, Place, SOON, local, ours_only, portcullis};

/// A configuration with these `bind` lines and lines of `global`.
fn config(global: &str, binds: &[&str]) -> String {
    let lines: String = binds
        .iter()
        .map(|bind| format!("    bind {bind}\n"))
        .collect();
    let defaults = DEFAULTS.replacen("global\n", &format!("global\n{global}"), 1);
    format!("{defaults}\nlisten front\n{lines}    server s 127.0.0.1:9001\n")
}

/// The exit code, and the findings by code.
#[track_caller]
fn check_file(file: &Path, before: &[&str], options: &[&str]) -> (i32, Vec<Value>) {
    let mut command = match before.split_first() {
        None => portcullis(),
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command
                .args(arguments)
                .arg(env!("CARGO_BIN_EXE_portcullis"));
            command
        }
    };
    let mut process = Process::spawn(
        command
            .args(["check", "--json", "-f"])
            .arg(file)
            .args(options),
    );
    let code = process.exit_code(SOON);
    let read: Value = serde_json::from_str(&process.stdout())
        .unwrap_or_else(|_| panic!("{}", process.transcript()));
    assert_eq!(read["valid"] == true, code == 0, "{read}");
    // Where these tests run in a container, say, with a filter of system calls.
    let mut found = read["diagnostics"].as_array().unwrap().clone();
    found.retain(|one| one["code"] != "may-refuse");
    (code, found)
}

#[track_caller]
fn check(text: &str, options: &[&str]) -> (i32, Vec<Value>) {
    let place = Place::new();
    check_file(&place.write("test.cfg", text), &[], options)
}

fn codes(found: &[Value]) -> Vec<&str> {
    found
        .iter()
        .map(|one| one["code"].as_str().unwrap())
        .collect()
}

fn notes(finding: &Value) -> String {
    let all = finding["notes"].as_array().unwrap();
    let all = all.iter().map(|note| note["message"].as_str().unwrap());
    all.collect::<Vec<_>>().join("\n")
}

/// Does `run` open all of it? 0 where it did.
#[track_caller]
fn run(text: &str, ready: SocketAddr) -> i32 {
    let place = Place::new();
    let file = place.write("test.cfg", text);
    let mut process = Process::spawn(portcullis().args(["run", "-f"]).arg(&file));
    let mut ended = None;
    let done = portcullis_testkit::eventually(SOON, || {
        if !process.running() {
            ended = Some(process.exit_code(SOON));
        }
        ended.is_some() || holds(process.pid(), ready)
    });
    assert!(done, "{}", process.transcript());
    ended.unwrap_or(0)
}

/// Whether the process itself listens there: others may, too.
fn holds(pid: u32, at: SocketAddr) -> bool {
    let wanted = portcullis_inspect::Wanted {
        port: Some(at.port()),
        ..portcullis_inspect::Wanted::default()
    };
    let snapshot = portcullis_inspect::read(&wanted).unwrap();
    let sockets = &snapshot.namespaces[0].sockets;
    sockets.iter().any(|one| {
        one.state == portcullis_inspect::snapshot::State::Listen
            && one.holders.iter().any(|holder| holder.pid == pid)
    })
}

/// By BPF all is seen, and every answer certain; `None` is a visible skip.
fn nothing_is_unseen() -> Option<()> {
    let snapshot = portcullis_inspect::read(&portcullis_inspect::Wanted::default()).unwrap();
    if let portcullis_inspect::snapshot::Known::No(why) = snapshot.sources.bpf {
        portcullis_testkit::skip(&format!("what ports remember cannot be seen: {why}"));
        return None;
    }
    Some(())
}

fn stream(family: AddressFamily) -> OwnedFd {
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap()
}

/// A listener with SO_REUSEPORT.
fn sharing(at: SocketAddr) -> OwnedFd {
    let one = stream(AddressFamily::INET);
    sockopt::set_socket_reuseport(&one, true).unwrap();
    bind(&one, &at).unwrap();
    listen(&one, 5).unwrap();
    one
}

#[test]
fn a_port_that_is_held_is_found_with_its_holder_and_run_agrees() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        if nothing_is_unseen().is_none() {
            return;
        }
        let text = config("", &["127.0.0.1:8000", "127.0.0.1:8001"]);
        assert_eq!(check(&text, &[]), (0, Vec::new()));
        let held = TcpListener::bind("0.0.0.0:8001").unwrap();
        let (code, found) = check(&text, &[]);
        assert_eq!(
            (code, codes(&found)),
            (3, vec!["host-refuses"]),
            "{found:?}"
        );
        let one = &found[0];
        assert_eq!(
            one["message"],
            "this host would refuse it: cannot bind 127.0.0.1:8001: address already in use (EADDRINUSE)"
        );
        assert_eq!(one["severity"], "error");
        let notes = notes(one);
        assert!(
            notes.contains(&format!(", pid {}, ", std::process::id())),
            "{notes}"
        );
        assert!(
            notes.contains("\nrule: reuseaddr-beside-listener: "),
            "{notes}"
        );
        assert!(notes.contains("\ntry: use port 8002"), "{notes}");
        assert_eq!(run(&text, local(8000)), 3);
        assert_eq!(check(&text, &["--offline"]), (0, Vec::new()));
        drop(held);
        assert_eq!(check(&text, &[]), (0, Vec::new()));
        assert_eq!(run(&text, local(8000)), 0);
    });
}

#[test]
fn where_not_all_can_be_seen_both_answers_are_told_and_nothing_is_refused() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _held = TcpListener::bind(local(8000)).unwrap();
        let (code, found) = check(&config("", &["127.0.0.1:8000"]), &[]);
        if code == 3 {
            // This user may use BPF.
            return assert_eq!(codes(&found), ["host-refuses"]);
        }
        assert_eq!((code, codes(&found)), (0, vec!["host-unsure"]), "{found:?}");
        let notes = notes(&found[0]);
        assert!(
            notes.contains("then: cannot bind 127.0.0.1:8000: address already in use"),
            "{notes}"
        );
        assert!(
            notes.contains("then: 127.0.0.1:8000 can be bound and listened on"),
            "{notes}"
        );
        // Without SO_REUSEPORT nothing that is remembered helps.
        let (code, found) = check(&config("    noreuseport\n", &["127.0.0.1:8000"]), &[]);
        assert_eq!(
            (code, codes(&found)),
            (3, vec!["host-refuses"]),
            "{found:?}"
        );
    });
}

#[test]
fn what_check_foresees_is_what_run_then_meets() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        if nothing_is_unseen().is_none() {
            return;
        }
        add_address("192.0.2.7".parse().unwrap()).unwrap();
        // Who holds the port `@`, the second line, and the exit code of both.
        let table = [
            ("", "192.0.2.7:@", 0),
            ("", "192.0.2.8:@", 3),
            ("", "192.0.2.8:@ transparent", 0),
            ("", "127.0.0.1:@ interface lo", 0),
            ("", "127.0.0.1:80", 0),
            ("", "[::]:8000 v6only", 0),
            ("", "0.0.0.0:8000", 0),
            ("0.0.0.0:@", "127.0.0.1:@", 3),
            ("0.0.0.0:@", "192.0.2.7:@", 3),
            ("0.0.0.0:@", "[::1]:@", 0),
            ("0.0.0.0:@", "[::]:@ v6only", 0),
            ("0.0.0.0:@", "[::]:@ v4v6", 3),
            ("[::1]:@", "127.0.0.1:@", 0),
            ("[::1]:@", "[::]:@", 3),
            ("[::1]:@", "0.0.0.0:@", 0),
            ("[::]:@", "0.0.0.0:@", 3),
            ("shared 127.0.0.1:@", "127.0.0.1:@", 0),
            ("shared 127.0.0.1:@", "0.0.0.0:@", 0),
            ("bound 127.0.0.1:@", "127.0.0.1:@", 3),
            ("bound 127.0.0.1:@", "192.0.2.7:@", 0),
        ];
        for (row, (holder, line, expected)) in table.into_iter().enumerate() {
            let port = (8100 + row).to_string();
            let _held = hold(&holder.replace('@', &port));
            let text = config("", &["127.0.0.1:8000", &line.replace('@', &port)]);
            let (code, found) = check(&text, &[]);
            assert_eq!(
                code, expected,
                "check of {line} beside {holder:?}: {found:?}"
            );
            assert_eq!(
                run(&text, local(8000)),
                expected,
                "run of {line} beside {holder:?}"
            );
        }
        // What a port remembers of sockets that are gone changes the answer, in both.
        let _held = TcpListener::bind("0.0.0.0:8200").unwrap();
        let dual = config("", &["127.0.0.1:8000", "[::]:8200 v4v6"]);
        assert_eq!((check(&dual, &[]).0, run(&dual, local(8000))), (3, 3));
        let six = config("", &["127.0.0.1:8000", "[::]:8200 v6only"]);
        assert_eq!((check(&six, &[]).0, run(&six, local(8000))), (0, 0));
        let (code, found) = check(&dual, &[]);
        assert_eq!(code, run(&dual, local(8000)), "{found:?}");
    });
}

/// A holder of a row: nobody, who listens, who shares, or who has bound and no more.
fn hold(what: &str) -> Option<OwnedFd> {
    if what.is_empty() {
        return None;
    }
    let (kind, at) = what.split_once(' ').unwrap_or(("", what));
    let at: SocketAddr = at.parse().unwrap();
    if kind == "shared" {
        return Some(sharing(at));
    }
    let one = stream(if at.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    });
    bind(&one, &at).unwrap();
    if kind.is_empty() {
        listen(&one, 5).unwrap();
    }
    Some(one)
}

#[test]
fn listeners_are_asked_about_as_the_user_that_they_will_be_of() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let _shared = sharing(local(8000));
        let nobody = config("    user nobody\n    group nogroup\n", &["127.0.0.1:8000"]);
        let nobody = if has_group("nogroup") {
            nobody
        } else {
            nobody.replace("nogroup", "nobody")
        };
        // Root's own would share it, and another user's may not.
        let (code, found) = check(&config("", &["127.0.0.1:8000"]), &[]);
        assert_eq!((code, codes(&found)), (0, vec!["host-shares"]), "{found:?}");
        assert_eq!(found[0]["severity"], "warning");
        let (code, found) = check(&nobody, &[]);
        assert_eq!(
            (code, codes(&found)),
            (3, vec!["host-refuses"]),
            "{found:?}"
        );
        assert!(notes(&found[0]).contains("rule: reuseport-"), "{found:?}");
        assert_eq!(run(&nobody, local(8000)), 3);
        // Who checks may be another than who runs: root must start what becomes somebody else.
        let ordinary = [
            "setpriv",
            "--reuid",
            "65534",
            "--clear-groups",
            "--inh-caps=-all",
        ];
        let place = Place::new();
        let low = nobody.replace(":8000", ":80");
        let file = place.write("low.cfg", &low);
        assert_eq!(check_file(&file, &ordinary, &[]).0, 0);
        let own = place.write("own.cfg", &config("", &["127.0.0.1:80"]));
        let (code, found) = check_file(&own, &ordinary, &[]);
        assert_eq!(
            (code, codes(&found)),
            (3, vec!["host-refuses"]),
            "{found:?}"
        );
        assert!(
            notes(&found[0]).contains("rule: privileged-port"),
            "{found:?}"
        );
    });
}

fn has_group(name: &str) -> bool {
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    groups
        .lines()
        .any(|line| line.starts_with(&format!("{name}:")))
}

#[test]
fn a_balancer_that_runs_already_is_no_obstacle() {
    if ours_only() {
        return;
    }
    private_network(|| {
        for (global, finding) in [
            ("", "host-shares"),
            ("    noreuseport\n", "held-by-balancer"),
        ] {
            let text = config(global, &["127.0.0.1:8000"]);
            let running = Balancer::start(&text, &[local(8000)]);
            let (code, found) = check(&text, &[]);
            assert_eq!((code, codes(&found)), (0, vec![finding]), "{found:?}");
            assert_eq!(found[0]["severity"], "notice");
            let name = format!("portcullis (pid {})", running.pid());
            assert!(
                found[0]["message"].as_str().unwrap().contains(&name),
                "{found:?}"
            );
            running.stop();
        }
    });
}

#[test]
fn limits_of_the_host_are_foreseen() {
    if ours_only() {
        return;
    }
    private_network(|| {
        set_sysctl("net.core.somaxconn", "100");
        let (code, found) = check(&config("", &["127.0.0.1:8000 backlog 101"]), &[]);
        assert_eq!((code, codes(&found)), (0, vec!["backlog-cut"]), "{found:?}");
        assert_eq!(
            found[0]["message"],
            "the backlog of 101 is cut to net.core.somaxconn, 100"
        );
        let (code, _) = check(&config("", &["127.0.0.1:8000 backlog 100"]), &[]);
        assert_eq!(code, 0);

        let place = Place::new();
        let file = place.write(
            "test.cfg",
            &config("    maxconn 5000\n", &["127.0.0.1:8000 backlog 9"]),
        );
        let few = [
            "prlimit",
            "--nofile=200:200",
            "setpriv",
            "--bounding-set=-sys_resource",
            "--inh-caps=-all",
        ];
        if need_program("prlimit").is_none() || need_program("setpriv").is_none() {
            return;
        }
        let (code, found) = check_file(&file, &few, &[]);
        assert_eq!(
            (code, codes(&found)),
            (4, vec!["too-few-descriptors"]),
            "{found:?}"
        );
        let mut command = Command::new(few[0]);
        command
            .args(&few[1..])
            .arg(env!("CARGO_BIN_EXE_portcullis"))
            .args(["run", "-f"])
            .arg(&file);
        let mut process = Process::spawn(&mut command);
        assert_eq!(process.exit_code(SOON), 4, "{}", process.transcript());
        let said = found[0]["message"].as_str().unwrap();
        assert!(
            process.stderr().contains(said),
            "{said}\n{}",
            process.transcript()
        );
    });
}

/// As root, who may raise the hard limit, but not beyond fs.nr_open.
#[test]
fn what_fs_nr_open_forbids_to_root_is_foreseen() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let text = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap();
        let most: u64 = text.trim().parse().unwrap();
        let global = format!("    ulimit-n {}\n", most + 1);
        let place = Place::new();
        let file = place.write("test.cfg", &config(&global, &["127.0.0.1:8000 backlog 9"]));
        let (code, found) = check_file(&file, &[], &[]);
        assert_eq!(
            (code, codes(&found)),
            (4, vec!["too-few-descriptors"]),
            "{found:?}"
        );
        let mut process = Process::spawn(portcullis().args(["run", "-f"]).arg(&file));
        assert_eq!(process.exit_code(SOON), 4, "{}", process.transcript());
        let said = found[0]["message"].as_str().unwrap();
        assert!(
            process.stderr().contains(said),
            "{said}\n{}",
            process.transcript()
        );
        if !may_raise_limits() {
            return;
        }
        assert!(
            notes(&found[0]).contains(&format!("fs.nr_open is {most}")),
            "{found:?}"
        );
    });
}

/// Whether this process has CAP_SYS_RESOURCE over the host.
fn may_raise_limits() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() >> 24 & 1 == 1
}

/// The paths of Unix sockets: what check says beside what run then does.
#[test]
fn paths_of_unix_sockets_are_asked_about() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let place = Place::new();
        let at = |name: &str| place.path().join(name);
        let first = |text: &str| {
            let (code, found) = check(text, &[]);
            (
                code,
                found
                    .first()
                    .map(|one| one["code"].as_str().unwrap().to_owned()),
                found,
            )
        };
        let of = |path: &Path| {
            config(
                "",
                &["127.0.0.1:8000 backlog 9", &path.display().to_string()],
            )
        };
        place.write("a-file", "");
        let refused = [
            at("a-file"),
            place.path().to_owned(),
            at("none/x"),
            at("a-file/x"),
        ];
        for path in &refused {
            let (code, name, found) = first(&of(path));
            assert_eq!(
                (code, name.as_deref()),
                (3, Some("host-refuses")),
                "{found:?}"
            );
            assert_eq!(run(&of(path), local(8000)), 3, "{}", path.display());
        }
        // What is left of a server that has ended, and a path that is free.
        drop(std::os::unix::net::UnixListener::bind(at("stale")).unwrap());
        for path in [at("free"), at("stale")] {
            let (code, _, found) = first(&of(&path));
            assert_eq!((code, found.len()), (0, 0), "{found:?}");
            assert_eq!(run(&of(&path), local(8000)), 0);
        }
        let _other = std::os::unix::net::UnixListener::bind(at("theirs")).unwrap();
        let (code, name, found) = first(&of(&at("theirs")));
        assert_eq!(
            (code, name.as_deref()),
            (0, Some("path-taken-over")),
            "{found:?}"
        );
        assert!(
            found[0]["message"]
                .as_str()
                .unwrap()
                .contains(&format!("(pid {})", std::process::id()))
        );
        // A socket of ours was bound beside its path and renamed: it is known by its file.
        let mut ours = Process::spawn(
            portcullis()
                .args(["run", "-f"])
                .arg(place.write("ours.cfg", &of(&at("ours")))),
        );
        let pid = ours.pid();
        portcullis_testkit::wait_for("the socket", SOON, || {
            at("ours").exists() && holds(pid, local(8000))
        });
        let (code, _, found) = first(&config("", &[&at("ours").display().to_string()]));
        assert_eq!(
            (code, codes(&found)),
            (0, vec!["held-by-balancer"]),
            "{found:?}"
        );
        assert!(ours.running());
        let said = portcullis().arg("why").arg(at("ours")).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.contains(&format!("portcullis, pid {pid}, ")), "{said}");
    });
}

#[test]
fn abstract_names_that_somebody_has_are_foreseen_whether_padded_or_not() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener};
    if ours_only() {
        return;
    }
    private_network(|| {
        let mut padded = [0; 107];
        padded[..3].copy_from_slice(b"abc");
        for (name, word, port) in [
            (&b"portcullis-check"[..], "abnsz@portcullis-check", 8001),
            (&padded[..], "abns@abc", 8002),
        ] {
            let first = format!("127.0.0.1:{port} backlog 9");
            let text = config("", &[&first, word]);
            assert_eq!(check(&text, &[]), (0, Vec::new()), "{word}");
            let address = UnixAddress::from_abstract_name(name).unwrap();
            let held = UnixListener::bind_addr(&address).unwrap();
            let (code, found) = check(&text, &[]);
            assert_eq!(
                (code, codes(&found)),
                (3, vec!["host-refuses"]),
                "{found:?}"
            );
            assert_eq!(run(&text, local(port)), 3, "{word}");
            drop(held);
        }
    });
}

#[test]
fn a_path_where_the_kernel_alone_makes_files_is_foreseen() {
    if ours_only() {
        return;
    }
    private_network(|| {
        for (port, directory) in [(8000, "/proc"), (8001, "/proc/sys"), (8002, "/sys/kernel")] {
            let first = format!("127.0.0.1:{port} backlog 9");
            let path = format!("{directory}/portcullis.sock");
            let text = config("", &[&first, &path]);
            let (code, found) = check(&text, &[]);
            assert_eq!(
                (code, codes(&found)),
                (3, vec!["host-refuses"]),
                "{found:?}"
            );
            assert_eq!(run(&text, local(port)), 3, "{directory}");
        }
    });
}

#[test]
fn a_directory_that_may_not_be_written_is_foreseen() {
    if ours_only() || need_program("setpriv").is_none() {
        return;
    }
    private_network_as_root(|| {
        use std::os::unix::fs::PermissionsExt as _;
        let place = Place::new();
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        open(place.path(), 0o755);
        let program = place.path().join("portcullis");
        std::fs::copy(env!("CARGO_BIN_EXE_portcullis"), &program).unwrap();
        for name in ["closed", "sticky"] {
            std::fs::create_dir(place.path().join(name)).unwrap();
        }
        let sticky = place.path().join("sticky");
        open(&sticky, 0o1777);
        drop(std::os::unix::net::UnixListener::bind(sticky.join("roots")).unwrap());
        let ask = |command: &str, path: &str| {
            let path = place.path().join(path).display().to_string();
            let file = place.write(
                "test.cfg",
                &config("", &["127.0.0.1:8000 backlog 9", &path]),
            );
            let mut command_line = Command::new("setpriv");
            command_line
                .args(["--reuid", "65534", "--clear-groups"])
                .arg(&program);
            command_line.args([command, "-f"]).arg(file);
            Process::spawn(&mut command_line)
        };
        for (path, error) in [("closed/x", "EACCES"), ("sticky/roots", "EPERM")] {
            let mut checks = ask("check", path);
            assert_eq!(checks.exit_code(SOON), 3, "{}", checks.transcript());
            assert!(checks.stderr().contains(error), "{}", checks.transcript());
            let mut runs = ask("run", path);
            assert_eq!(runs.exit_code(SOON), 3, "{}", runs.transcript());
        }
        let mut checks = ask("check", "sticky/own");
        assert_eq!(checks.exit_code(SOON), 0, "{}", checks.transcript());
    });
}

#[test]
fn inherited_descriptors_are_looked_at() {
    if ours_only() || need_program("python3").is_none() {
        return;
    }
    private_network(|| {
        let place = Place::new();
        let file = place.write("test.cfg", &config("", &["fd@7"]));
        let script = place.write(
            "pass.py",
            r#"
import os, socket, sys
what, rest = sys.argv[1], sys.argv[2:]
s = socket.socket(type=socket.SOCK_DGRAM if what == 'datagram' else socket.SOCK_STREAM)
if what in ('listener', 'datagram', 'connected'): s.bind(('127.0.0.1', 8000))
if what in ('listener', 'connected'): s.listen(9)
if what == 'connected':
    kept, s = s, socket.create_connection(('127.0.0.1', 8000)); kept.set_inheritable(True)
fd = os.open('/dev/null', os.O_RDONLY) if what == 'file' else s.fileno()
if what != 'nothing': os.dup2(fd, 7)
os.execv(rest[0], rest)
"#,
        );
        let python = need_program("python3").unwrap();
        let script = script.display().to_string();
        let python = python.display().to_string();
        for (what, code, finding, part) in [
            (
                "nothing",
                0,
                Some("descriptor-not-here"),
                "fd@7 is not open here",
            ),
            (
                "file",
                3,
                Some("host-refuses"),
                "it is not a socket (ENOTSOCK)",
            ),
            (
                "datagram",
                3,
                Some("host-refuses"),
                "it is not a stream socket",
            ),
            (
                "unbound",
                3,
                Some("host-refuses"),
                "it is not bound to an address",
            ),
            ("connected", 3, Some("host-refuses"), "it is a connection"),
            ("listener", 0, None, ""),
        ] {
            let (said, found) = check_file(&file, &[&python, &script, what], &[]);
            let name = found.first().map(|one| one["code"].as_str().unwrap());
            assert_eq!((said, name), (code, finding), "{what}: {found:?}");
            let text = found
                .first()
                .map_or("", |one| one["message"].as_str().unwrap());
            assert!(text.contains(part), "{what}: {text}");
        }
    });
}

#[test]
fn sources_of_connections_are_asked_about() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _held = TcpListener::bind(local(9103)).unwrap();
        let with = |source: &str| {
            let text = config("", &["127.0.0.1:8000"]);
            let (code, found) = check(&text.replace("9001\n", &format!("9001 {source}\n")), &[]);
            assert_eq!(
                code, 0,
                "a server that cannot be reached stops nobody: {found:?}"
            );
            codes(&found)
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert!(with("source 127.0.0.1").is_empty());
        assert!(with("source 127.0.0.1:9101-9102 maxconn 2").is_empty());
        assert_eq!(with("source 192.0.2.8"), ["source-refused"]);
        assert_eq!(with("source 192.0.2.8:9101-9102"), ["source-refused"]);
        assert_eq!(with("source 127.0.0.1:9101-9103"), ["source-ports-taken"]);
        assert_eq!(
            with("source 127.0.0.1:9101-9102 maxconn 3"),
            ["too-few-source-ports"]
        );
    });
}

#[test]
fn sources_are_asked_about_as_the_user_who_runs_and_the_family_of_the_server() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let with = |global: &str, source: &str| {
            let text = config(global, &["127.0.0.1:8000"]);
            let (code, found) = check(&text.replace("9001\n", &format!("9001 {source}\n")), &[]);
            assert_eq!(code, 0, "{found:?}");
            let refused = found.iter().find(|one| one["code"] == "source-refused");
            refused.map(|one| one["message"].as_str().unwrap().to_owned())
        };
        let nobody = "    uid 65534\n";
        let keeps = "    uid 65534\n    setcap cap_net_bind_service\n";
        assert_eq!(with("", "source 127.0.0.1:100-200"), None, "root's");
        assert_eq!(with(keeps, "source 127.0.0.1:100-200"), None);
        assert_eq!(with(nobody, "source 127.0.0.1:2000-2100"), None);
        for source in ["source 127.0.0.1:100", "source 127.0.0.1:100-200"] {
            let said = with(nobody, source).unwrap();
            assert!(said.contains("refuse its `source`"), "{said}");
            assert!(said.contains("EACCES"), "{said}");
        }
        let said = with(nobody, "source 127.0.0.1:1000-1100").unwrap();
        assert!(said.contains("refuse some ports of its `source`"), "{said}");
        let said = with("", "source [::1]:50000").unwrap();
        assert!(said.contains("of the other family"), "{said}");
    });
}

#[test]
fn a_directory_of_chroot_that_is_not_there_is_found_before_run_ends_for_it() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let place = Place::new();
        let here = place.path().display();
        let with = |path: String| {
            let text = config(&format!("    chroot {path}\n"), &["127.0.0.1:8000"]);
            let (code, found) = check(&text, &[]);
            (code, codes(&found).contains(&"chroot-refused"))
        };
        assert_eq!(with(here.to_string()), (0, false));
        assert_eq!(with(format!("{here}/missing")), (4, true));
        place.write("file", "");
        assert_eq!(with(format!("{here}/file")), (4, true));
    });
}

#[test]
fn a_holder_without_reuseport_on_the_very_address_shares_nothing() {
    if ours_only() {
        return;
    }
    let Some(python) = need_program("python3") else {
        return;
    };
    private_network_as_root(|| {
        // The wildcard of IPv4 opens a bucket that remembers SO_REUSEPORT, and [::] is asked against it alone.
        let text = config("", &[":8300", "[::]:8300"]);
        let program = "import socket, time\n\
             s = socket.socket(socket.AF_INET6)\n\
             s.setsockopt(41, 26, 1); s.bind(('::', 8300)); s.listen()\n\
             print('up', flush=True); time.sleep(60)\n";
        let mut other = Process::spawn(Command::new(&python).args(["-c", program]));
        other.wait_line("up", SOON);
        let (code, found) = check(&text, &[]);
        let said = found.iter().find(|one| one["code"] == "host-shares");
        let said = said.map(|one| one["message"].as_str().unwrap());
        assert_eq!(code, 0, "{found:?}");
        assert!(
            said.is_some_and(|said| said.contains("one of the two would get every connection")),
            "{found:?}"
        );
    });
}

#[test]
fn another_hosts_file_is_asked_in_place_of_this_host() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        if nothing_is_unseen().is_none() {
            return;
        }
        let place = Place::new();
        let file = place.path().join("host.json");
        let host = file.to_str().unwrap();
        let text = config("", &["127.0.0.1:8000"]);
        let held = TcpListener::bind(local(8000)).unwrap();
        let mut save = Process::spawn(portcullis().args(["why", "--save", host]));
        assert_eq!(save.exit_code(SOON), 0, "{}", save.transcript());
        drop(held);
        assert_eq!(check(&text, &[]).0, 0);
        let (code, found) = check(&text, &["--host", host]);
        assert_eq!(
            (code, codes(&found)),
            (3, vec!["host-refuses"]),
            "{found:?}"
        );
        std::fs::write(&file, "{}").unwrap();
        let config = place.write("test.cfg", &text);
        let mut wrong = Process::spawn(
            portcullis()
                .args(["check", "--host", host, "-f"])
                .arg(config),
        );
        assert_eq!(wrong.exit_code(SOON), 2, "{}", wrong.transcript());
        assert!(
            wrong.stderr().contains("not a host's description"),
            "{}",
            wrong.stderr()
        );
    });
}

#[test]
fn lines_without_an_error_of_their_own_are_asked_about_beside_those_that_have_one() {
    private_network_as_root(|| {
        if ours_only() || nothing_is_unseen().is_none() {
            return;
        }
        let _held = TcpListener::bind("0.0.0.0:8001").unwrap();
        let binds = [
            "127.0.0.1:8001",
            "127.0.0.1:8002 shard 4",
            "192.0.2.77:8003",
        ];
        let (code, found) = check(&config("", &binds), &[]);
        let told = codes(&found);
        let refuses = |one: &&&str| **one == "host-refuses";
        assert_eq!(
            (code, told.iter().filter(refuses).count()),
            (1, 2),
            "{found:?}"
        );
        assert!(told.len() > 2, "{found:?}");
        // What a name means is not known: the rest is asked all the same.
        let names = ["127.0.0.1:8001", "no-such-host.invalid:8002"];
        let (code, found) = check(&config("", &names), &[]);
        assert_eq!(code, 1, "{found:?}");
        assert!(codes(&found).contains(&"host-refuses"), "{found:?}");
        let (code, found) = check(&config("", &names), &["--offline"]);
        assert_eq!(code, 1, "{found:?}");
        assert!(!codes(&found).contains(&"host-refuses"), "{found:?}");
        // Two lines with one port are told once each, by the file.
        let (_, found) = check(&config("", &["127.0.0.1:8004", "127.0.0.1:8004"]), &[]);
        assert_eq!(found.len(), 1, "{found:?}");
    });
}

#[test]
fn an_ipv6_address_is_written_with_its_brackets() {
    private_network_as_root(|| {
        if ours_only() || nothing_is_unseen().is_none() {
            return;
        }
        let share = |fd: &OwnedFd| sockopt::set_socket_reuseport(fd, true).unwrap();
        let held = stream(AddressFamily::INET6);
        share(&held);
        let at: SocketAddr = "[::]:9021".parse().unwrap();
        bind(&held, &at).unwrap();
        listen(&held, 5).unwrap();
        let (code, found) = check(&config("", &["[::]:9021"]), &[]);
        assert_eq!((code, codes(&found)), (0, vec!["host-shares"]), "{found:?}");
        let said = found[0]["message"].as_str().unwrap();
        assert!(said.contains("listens on [::]:9021 too"), "{said}");
    });
}

#[test]
fn sockets_that_systemd_passes_are_looked_at() {
    if ours_only() {
        return;
    }
    let place = Place::new();
    let file = place.write("test.cfg", &config("", &["sd@web"]));
    let (code, found) = check_file(&file, &[], &[]);
    assert_eq!(
        (code, codes(&found)),
        (0, vec!["descriptor-not-here"]),
        "{found:?}"
    );
    let said = found[0]["message"].as_str().unwrap();
    assert!(
        said.contains("sd@web") && said.contains("socket unit"),
        "{said}"
    );
    if need_program("python3").is_none() {
        return;
    }
    const PASSES: &str = "import os, socket, sys
s = socket.socket(type=getattr(socket, sys.argv[1])); s.bind(('127.0.0.1', 0))
if sys.argv[1] == 'SOCK_STREAM': s.listen(5)
os.dup2(s.fileno(), 3); os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='web')
os.execv(sys.argv[2], sys.argv[2:])";
    let (code, found) = check_file(&file, &["python3", "-c", PASSES, "SOCK_STREAM"], &[]);
    assert_eq!((code, codes(&found)), (0, vec![]), "{found:?}");
    let (code, found) = check_file(&file, &["python3", "-c", PASSES, "SOCK_DGRAM"], &[]);
    assert_eq!(
        (code, codes(&found)),
        (3, vec!["host-refuses"]),
        "{found:?}"
    );
}
