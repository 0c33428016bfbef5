//! `portcullis why -- COMMAND`: programs in the foreground, their signals, their privileges, the report.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_testkit::{
    Process, Signal, need_program, private_network, private_network_as_root, set_sysctl, wait_for,
};

use super::harness::{Place, SOON, local, portcullis};

const NOBODY: &str = "65534";
/// Binds port 80 of 127.0.0.1 and says what came of it.
const BIND_80: &str = "use Socket; socket(S, 2, 1, 0); bind(S, pack_sockaddr_in(80, inet_aton('127.0.0.1'))) and print 'bound'";

fn why(arguments: &[&str]) -> Process {
    Process::spawn(portcullis().arg("why").args(arguments))
}

/// Runs it to the end: exit code, stdout, stderr.
#[track_caller]
fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut process = why(arguments);
    let code = process.exit_code(SOON);
    (code, process.stdout(), process.stderr())
}

#[test]
fn a_servers_port_that_another_holds_is_told_and_its_exit_code_passed_on() {
    if need_program("python3").is_none() {
        return;
    }
    private_network(|| {
        let _holder = std::net::TcpListener::bind(local(8080)).unwrap();
        let (code, _, stderr) = run(&["--", "python3", "-m", "http.server", "8080"]);
        assert_eq!(code, 1, "python's own");
        assert!(
            stderr.contains("cannot bind 0.0.0.0:8080: address already in use (EADDRINUSE)"),
            "{stderr}"
        );
        let holder = format!(", pid {}, fd ", std::process::id());
        assert!(
            stderr.contains("  holder: ") && stderr.contains(&holder),
            "{stderr}"
        );
        let at = "listening on 127.0.0.1:8080 without SO_REUSEPORT";
        assert!(stderr.contains(at), "{stderr}");
        assert!(
            stderr.contains("  rule:   reuseaddr-beside-listener: "),
            "{stderr}"
        );
        assert!(stderr.contains("use port 8081\n"), "{stderr}");
    });
}

#[test]
fn what_stands_in_the_way_outside_of_the_program_is_named_with_what_helps() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        // A connection that ended a moment ago, of a server without SO_REUSEADDR.
        let leave = "use Socket; my $at = pack_sockaddr_in(8090, inet_aton('127.0.0.1'));
            socket(S, 2, 1, 0); bind(S, $at) or die; listen(S, 5); socket(C, 2, 1, 0);
            connect(C, $at) or die; accept(A, S); close A; close C; close S;";
        assert_eq!(run(&["--", "perl", "-e", leave]).0, 0);
        let bind = |port: u16, ip: &str| {
            format!(
                "use Socket; socket(S, 2, 1, 0); bind(S, pack_sockaddr_in({port}, inet_aton('{ip}'))) and die"
            )
        };
        let (code, _, stderr) = run(&["--", "perl", "-e", &bind(8090, "127.0.0.1")]);
        assert_eq!(code, 0, "{stderr}");
        assert!(
            stderr.contains("127.0.0.1:8090 in TIME_WAIT after a connection with 127.0.0.1:"),
            "{stderr}"
        );
        assert!(stderr.contains("  rule:   time-wait-holds: "), "{stderr}");
        // No address of this network.
        let (_, _, stderr) = run(&["--", "perl", "-e", &bind(8090, "192.0.2.5")]);
        assert!(stderr.contains("  rule:   foreign-address: "), "{stderr}");
        assert!(stderr.contains("set IP_FREEBIND first\n"), "{stderr}");
        // The only port that could be chosen is held.
        set_sysctl("net.ipv4.ip_local_port_range", "40001 40001");
        let _holder = std::net::TcpListener::bind("0.0.0.0:40001").unwrap();
        let (_, _, stderr) = run(&["--", "perl", "-e", &bind(0, "127.0.0.1")]);
        assert!(stderr.contains("  rule:   no-port-left: "), "{stderr}");
    });
}

#[test]
fn another_server_outside_that_shares_the_port_is_told() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let listen = "use Socket; $| = 1; socket(S, 2, 1, 0); setsockopt(S, 1, 15, 1);
            bind(S, pack_sockaddr_in(8100, INADDR_ANY)) or die; listen(S, 5) or die; print qq(up\n);";
        let mut outside =
            Process::spawn(Command::new("perl").args(["-e", &format!("{listen} sleep 60")]));
        outside.wait_line("up", SOON);
        let (_, _, stderr) = run(&["--", "perl", "-e", listen]);
        assert!(
            stderr.contains("another program listens on 0.0.0.0:8100 too"),
            "{stderr}"
        );
        let holder = format!("  holder: perl, pid {}, fd ", outside.pid());
        assert!(stderr.contains(&holder), "{stderr}");
    });
}

#[test]
fn a_server_works_while_it_is_watched_and_ends_by_the_signal_that_we_get() {
    if need_program("python3").is_none() {
        return;
    }
    private_network(|| {
        for (signal, code) in [(Signal::TERM, 128 + 15), (Signal::HUP, 128 + 1)] {
            let mut process = why(&[
                "--",
                "python3",
                "-m",
                "http.server",
                "8081",
                "--bind",
                "127.0.0.1",
            ]);
            process.wait_port(local(8081), SOON);
            std::net::TcpStream::connect(local(8081)).unwrap();
            process.signal(signal);
            assert_eq!(process.exit_code(SOON), code);
            let stderr = process.stderr();
            assert!(
                stderr.contains("note: listened on 127.0.0.1:8081; "),
                "{stderr}"
            );
        }
    });
}

#[test]
fn our_own_demo_listens_while_it_is_watched() {
    private_network(|| {
        let demo = env!("CARGO_BIN_EXE_portcullis");
        let (code, _, stderr) = run(&["--", demo, "demo", "--for", "1"]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("note: listened on 127.0.0.1:"), "{stderr}");
        assert!(!stderr.contains("error: "), "{stderr}");
    });
}

#[test]
fn what_a_daemon_leaves_behind_is_watched_to_its_end() {
    private_network(|| {
        let script = "setsid sh -c 'trap \"exit 0\" TERM; while :; do sleep 0.05; done' & exit 5";
        let mut process = why(&["--", "sh", "-c", script]);
        process.wait_line("note: the program ended with 5; ", SOON);
        assert!(process.running());
        process.signal(Signal::INT);
        assert_eq!(process.exit_code(SOON), 5);
    });
}

#[test]
fn nobody_is_left_when_we_are_killed() {
    private_network(|| {
        let mut process = why(&["--", "sh", "-c", "echo $$; sleep 60 & wait"]);
        let pid = process.wait_line("", SOON);
        let program = PathBuf::from(format!("/proc/{}", pid.trim()));
        assert!(program.exists());
        process.signal(Signal::KILL);
        assert_eq!(process.exit_code(SOON), 128 + 9);
        // Killed by the kernel, and reaped by whoever adopts it; until then a zombie.
        wait_for("the program's end", SOON, || {
            let stat = std::fs::read_to_string(program.join("stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    });
}

#[test]
fn json_is_the_whole_record_and_goes_where_it_is_told() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        set_sysctl("net.core.somaxconn", "4");
        let place = Place::new();
        let file = place.path().join("report.json");
        let script = "use Socket; socket(S, 2, 1, 0); bind(S, pack_sockaddr_in(90, INADDR_ANY)); listen(S, 9); print 'x'";
        let path = file.display().to_string();
        let with_file = run(&["--json", "-o", &path, "--", "perl", "-e", script]);
        assert_eq!(with_file, (0, "x".to_owned(), String::new()));
        let (_, stdout, _) = run(&["--json", "--", "perl", "-e", script]);
        let direct = stdout.strip_prefix('x').unwrap().to_owned();
        for text in [std::fs::read_to_string(&file).unwrap(), direct] {
            let record: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(record["format"], 1);
            assert_eq!(record["ended"]["exited"], 0);
            assert_eq!(record["sockets"][0]["address"], "0.0.0.0:90");
            assert_eq!(record["sockets"][0]["calls"][1]["limit"], 4);
            assert_eq!(record["findings"][0]["kind"], "backlog_cut");
            assert_eq!(record["findings"][0]["asked"], 9);
        }
        let (code, _, stderr) = run(&["-o", "/no/such/file", "--", "true"]);
        assert_eq!(code, 125);
        assert!(stderr.contains("cannot write /no/such/file"), "{stderr}");
    });
}

#[test]
fn programs_that_cannot_be_run_or_watched_have_codes_of_their_own() {
    let us = env!("CARGO_BIN_EXE_portcullis");
    let table: [(&[&str], i32, &str); 4] = [
        (&["--", "no-such-program"], 127, "there is no such program"),
        (
            &["--", "/etc/passwd"],
            126,
            "cannot run /etc/passwd: permission denied",
        ),
        (
            &["--", us, "why", "--", "true"],
            125,
            "is this one's\n  hint:   run it outside of that debugger",
        ),
        (&[], 2, "what is to be explained?"),
    ];
    for (arguments, expected, text) in table {
        let (code, _, stderr) = run(arguments);
        assert_eq!(code, expected, "{arguments:?}: {stderr}");
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
    }
}

/// A copy of a program that everybody may execute.
fn copy(place: &Place, program: &Path, name: &str) -> PathBuf {
    let to = place.path().join(name);
    std::fs::copy(program, &to).unwrap();
    std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755)).unwrap();
    to
}

/// As user nobody: exit code, stdout, stderr.
#[track_caller]
fn as_nobody(portcullis: &Path, arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    command.arg(portcullis).arg("why").args(arguments);
    let mut process = Process::spawn(&mut command);
    let code = process.exit_code(SOON);
    (code, process.stdout(), process.stderr())
}

#[test]
fn a_file_that_gives_privilege_and_cannot_while_it_is_watched_is_not_misdiagnosed() {
    if need_program("perl").is_none() {
        return;
    }
    private_network_as_root(|| {
        let place = Place::new();
        let us = copy(
            &place,
            Path::new(env!("CARGO_BIN_EXE_portcullis")),
            "portcullis",
        );
        let perl = need_program("perl").unwrap();
        let plain = copy(&place, &perl, "plain");
        let owned = copy(&place, &perl, "owned");
        let capable = copy(&place, &perl, "capable");
        std::fs::set_permissions(&owned, std::fs::Permissions::from_mode(0o4755)).unwrap();
        // cap_net_bind_service=ep
        let bind_service = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let flags = rustix::fs::XattrFlags::empty();
        let set = rustix::fs::setxattr(&capable, "security.capability", &bind_service, flags);
        set.unwrap();
        let table = [
            (&plain, "", "  rule:   privileged-port: "),
            (
                &owned,
                "/owned runs without user 0 (set-user-ID)",
                "/owned would have user 0 (set-user-ID), and has not because it is watched",
            ),
            (
                &capable,
                "/capable runs without CAP_NET_BIND_SERVICE (file capabilities)",
                "and has not because it is watched: the refusal may be due to that alone",
            ),
        ];
        for (program, lost, rule) in table {
            let program = program.display().to_string();
            let (_, stdout, stderr) = as_nobody(&us, &["--", &program, "-e", BIND_80]);
            assert_eq!(stdout, "", "nobody may not");
            assert!(
                stderr.contains("cannot bind 127.0.0.1:80: permission denied (EACCES)"),
                "{stderr}"
            );
            assert_eq!(
                stderr.contains(" runs without "),
                !lost.is_empty(),
                "{stderr}"
            );
            assert!(stderr.contains(lost) && stderr.contains(rule), "{stderr}");
            // Root watches without taking anything away.
            let (_, stdout, stderr) = run(&["--", &program, "-e", BIND_80]);
            assert_eq!(
                (stdout.as_str(), stderr.contains(" runs without ")),
                ("bound", false)
            );
        }
    });
}

#[test]
fn ctrl_c_and_ctrl_z_act_on_the_program_of_a_terminal() {
    if need_program("python3").is_none() {
        return;
    }
    private_network(|| {
        let place = Place::new();
        let script = place.write("keys.py", KEYS);
        let us = env!("CARGO_BIN_EXE_portcullis");
        let mut process = Process::spawn(Command::new("python3").arg(script).arg(us));
        let code = process.exit_code(SOON * 5);
        assert_eq!(
            (code, process.stdout().trim()),
            (0, "done"),
            "{}",
            process.transcript()
        );
    });
}

/// A terminal with a foreground job, as a shell makes it: what its keys do.
const KEYS: &str = r#"
import os, pty, signal, sys, time
us = sys.argv[1]
def job(program):
    pid, fd = pty.fork()
    if pid == 0:
        # The session's leader plays the shell: its job is a group of its own, in the foreground.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0); os.tcsetpgrp(0, os.getpgrp())
            # A test that a script has put into the background was given SIGINT ignored.
            for each in signal.SIGTTOU, signal.SIGINT, signal.SIGTSTP: signal.signal(each, signal.SIG_DFL)
            os.execv(us, [us, 'why', '--', 'sh', '-c', program])
        try: os.setpgid(child, child)
        except OSError: pass
        while True:
            _, status = os.waitpid(child, os.WUNTRACED)
            if not os.WIFSTOPPED(status): break
            os.write(1, b'[stopped]\n')
            os.tcsetpgrp(0, os.getpgrp())
            time.sleep(0.2)
            os.tcsetpgrp(0, child)
            os.kill(-child, signal.SIGCONT)
        os.write(1, b'[code %d]\n' % os.waitstatus_to_exitcode(status))
        os._exit(0)
    return fd
def until(fd, text, seen=b''):
    while text not in seen:
        try: more = os.read(fd, 4096)
        except OSError: more = b''
        if not more: sys.exit('no %r in %r' % (text, seen))
        seen += more
    return seen.split(text, 1)[1]
signal.alarm(90)
fd = job("trap 'echo got-int; exit 3' INT; echo ready; while :; do sleep 0.05; done")
rest = until(fd, b'ready')
os.write(fd, b'\x03')
rest = until(fd, b'got-int', rest)
rest = until(fd, b'[code 3]', rest)
assert b'got-int' not in rest
fd = job("trap 'echo again; again=1' CONT; echo ready; while [ -z \"$again\" ]; do sleep 0.05; done; echo end; exit 4")
rest = until(fd, b'ready')
os.write(fd, b'\x1a')
rest = until(fd, b'[stopped]', rest)
rest = until(fd, b'again', rest)
rest = until(fd, b'end', rest)
until(fd, b'[code 4]', rest)
print('done')
"#;

#[test]
fn without_a_question_the_usual_ones_are_told() {
    let (code, stdout, stderr) = run(&[]);
    assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
    for form in ["why *:443", "why -- ", "--no-traffic", "--save"] {
        assert!(stderr.contains(form), "{form}: {stderr}");
    }
}
