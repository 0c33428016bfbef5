//! What is expected of the roles.
//!
//! Decides:  the tests of this target; their names are sentences.
//! Not here: what the roles do (roles.rs).

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use portcullis_testkit::{Process, Signal, need_program, need_root, wait_for};
use rustix::process::{Pid, kill_process};

use crate::ROLE;

/// Long enough for a loaded machine.
const SOON: Duration = Duration::from_secs(30);

macro_rules! scenarios {
    ($($(#[$attribute:meta])* fn $name:ident() $body:block)*) => {
        $($(#[$attribute])* fn $name() $body)*

        /// Every scenario, by name.
        pub const ALL: &[(&str, fn())] = &[$((stringify!($name), $name)),*];
    };
}

/// Which namespaces a role gets: a network of its own; as ordinary user a user namespace too.
fn namespaces() -> &'static str {
    if rustix::process::geteuid().is_root() {
        "-n"
    } else {
        "-Urn"
    }
}

/// Can roles have their own network here?
pub fn isolation_works() -> bool {
    let status = Command::new("unshare")
        .args([namespaces(), "true"])
        .status();
    status.is_ok_and(|status| status.success())
}

/// A role in namespaces of its own.
fn role(arguments: &[&str]) -> Process {
    let mut command = Command::new("unshare");
    command
        .arg(namespaces())
        .arg(std::env::current_exe().unwrap())
        .arg(ROLE)
        .args(arguments)
        .stdin(Stdio::null());
    Process::spawn(&mut command)
}

fn pid(number: &str) -> Pid {
    Pid::from_raw(number.parse().unwrap()).unwrap()
}

/// The worker's process id, as the opener says it.
fn worker_of(process: &mut Process) -> Pid {
    let line = process.wait_line("worker ", SOON);
    pid(line.rsplit_once(' ').unwrap().1)
}

#[track_caller]
fn output_of(arguments: &[&str]) -> String {
    let mut process = role(arguments);
    let code = process.exit_code(SOON);
    assert_eq!(code, 0, "{arguments:?}:\n{}", process.transcript());
    process.stdout()
}

#[track_caller]
fn says(output: &str, line: &str) {
    assert!(
        output.lines().any(|one| one == line),
        "no line {line:?} in:\n{output}"
    );
}

scenarios! {
    fn a_process_of_one_thread_forks() {
        assert_eq!(role(&["fork"]).exit_code(SOON), 7);
    }

    fn a_process_of_two_threads_is_neither_split_nor_launched() {
        let output = output_of(&["fork-with-threads"]);
        says(&output, "split: Resource deadlock avoided (os error 35)");
        says(&output, "launch: Resource deadlock avoided (os error 35)");
    }

    fn the_opener_exits_with_its_workers_code() {
        for code in ["0", "3", "255"] {
            let mut process = role(&["split-exit", code]);
            assert_eq!(process.exit_code(SOON).to_string(), code, "{}", process.transcript());
        }
    }

    fn a_worker_that_is_killed_makes_the_opener_exit_with_the_signal() {
        assert_eq!(role(&["split-killed"]).exit_code(SOON), 137);
    }

    fn every_signal_reaches_the_worker_through_the_opener() {
        let mut process = role(&["split-signals"]);
        process.wait_line("ready", SOON);
        for (signal, name) in [
            (Signal::INT, "INT"),
            (Signal::QUIT, "QUIT"),
            (Signal::HUP, "HUP"),
            (Signal::USR1, "USR1"),
            (Signal::USR2, "USR2"),
            (Signal::TTIN, "TTIN"),
            (Signal::TTOU, "TTOU"),
            (Signal::TERM, "TERM"),
        ] {
            process.signal(signal);
            let line = process.wait_line(name, SOON);
            assert!(line.starts_with("got "), "{line}");
        }
        assert_eq!(process.exit_code(SOON), 5);
        let got = process.stdout().lines().filter(|line| line.starts_with("got")).count();
        assert_eq!(got, 8, "{}", process.transcript());
    }

    fn ctrl_c_at_the_terminal_reaches_the_worker_once() {
        let Some(script) = need_program("script") else {
            return;
        };
        let program = std::env::current_exe().unwrap();
        // The terminal's foreground group is the opener and the worker: both get its signals.
        let line = format!(
            "exec unshare {} {} {ROLE} split-signals",
            namespaces(),
            program.display()
        );
        let mut terminal = Process::spawn_with_stdin(
            Command::new(script)
                .args(["-qec", &line, "/dev/null"])
                .stdin(Stdio::piped()),
        );
        let worker = worker_of(&mut terminal);
        terminal.wait_line("ready", SOON);
        let mut keys = terminal.child_mut().stdin.take().unwrap();
        keys.write_all(b"\x03").unwrap();
        terminal.wait_line("INT", SOON);
        // What the opener would pass on has come before this, which it passes on later.
        let opener = parent_of(worker);
        kill_process(opener, Signal::USR1).unwrap();
        terminal.wait_line("USR1", SOON);
        kill_process(opener, Signal::TERM).unwrap();
        assert_eq!(terminal.exit_code(SOON), 5, "{}", terminal.transcript());
        let count = terminal.stdout().lines().filter(|line| line.contains("INT")).count();
        assert_eq!(count, 1, "{}", terminal.transcript());
    }

    fn a_worker_whose_opener_is_killed_serves_on_and_a_later_open_says_why_not() {
        let mut process = role(&["split-orphan"]);
        let worker = worker_of(&mut process);
        process.wait_line("serving", SOON);
        process.signal(Signal::KILL);
        process.wait_line("still serving", SOON);
        process.wait_line(
            "the opener process is gone: what is open stays open, and nothing new can be opened \
             until a restart",
            SOON,
        );
        wait_for("the worker's end", SOON, || !is_alive(worker));
    }

    fn two_thousand_listeners_come_through_the_opener_and_none_stays_there() {
        // An ordinary user may not have the descriptors for that.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let count = if limit.is_none_or(|limit| limit >= 6000) { 2000 } else { 300 };
        let output = output_of(&["split-many", &count.to_string()]);
        says(&output, &format!("{count} listeners on {count} ports"));
        // Its end of the socket pair.
        says(&output, "opener holds 1 sockets");
        assert!(output.contains("EADDRINUSE"), "{output}");
        says(&output, "left over: 0 here, 1 there");
    }

    fn a_worker_without_room_for_the_descriptors_loses_none_and_can_ask_again() {
        let output = output_of(&["split-short"]);
        says(&output, "cannot receive descriptors from the other process: Too many open files (os error 24)");
        says(&output, "then 10");
        // Its end of the socket pair.
        says(&output, "sockets 1");
        says(&output, "all 600");
    }

    fn a_shard_and_a_privileged_port_are_added_after_root_became_nobody() {
        if !need_root() {
            return;
        }
        let output = output_of(&["shard-after-drop"]);
        says(&output, "2 shards");
        let here = output.lines().find(|line| line.starts_with("here: ")).unwrap();
        assert!(here.contains("EACCES"), "{here}");
        says(&output, "5 listeners");
        // One SO_REUSEPORT group: the two first, the opener's later one, and our own.
        says(&output, "4 shards have connections");
    }

    fn without_fchown_the_kernel_refuses_a_sibling_of_another_user() {
        if !need_root() {
            return;
        }
        let output = output_of(&["shard-without-fchown"]);
        for start in ["nobody beside root: ", "root beside nobody: "] {
            let line = output.lines().find(|line| line.starts_with(start)).unwrap();
            assert!(line.contains("EADDRINUSE"), "{line}");
        }
        says(&output, "given beside nobody: 1");
    }

    fn root_becomes_nobody_in_an_empty_root_with_one_capability() {
        if !need_root() {
            return;
        }
        let output = output_of(&["drop"]);
        says(&output, "root has 0 names");
        says(&output, "list: Permission denied (os error 13)");
        says(&output, "write: Permission denied (os error 13)");
        says(&output, "root again: Operation not permitted (os error 1)");
        says(&output, "group again: Operation not permitted (os error 1)");
        says(&output, "groups 0");
        says(&output, "Uid: 65534 65534 65534 65534");
        says(&output, "Gid: 65534 65534 65534 65534");
        // Bit 10 is CAP_NET_BIND_SERVICE.
        says(&output, "CapPrm: 0000000000000400");
        says(&output, "CapEff: 0000000000000400");
        says(&output, "CapInh: 0000000000000000");
        says(&output, "CapAmb: 0000000000000000");
        says(&output, "NoNewPrivs: 1");
        says(&output, "port 80 from a later thread: true");
        says(&output, "raw socket: Operation not permitted (os error 1)");
        says(&output, "early thread: 65534 true");
        let role = output.lines().find_map(|line| line.strip_prefix("pid ")).unwrap();
        let jail = format!("/tmp/.portcullis-jail.{role}.0");
        assert!(!std::path::Path::new(&jail).exists(), "{jail} is left behind");
    }

    fn who_is_already_the_wanted_user_stays_so() {
        if !need_root() {
            return;
        }
        says(&output_of(&["drop-twice"]), "nobody twice");
    }

    fn an_ordinary_user_is_told_which_step_is_refused() {
        if !need_root() {
            return;
        }
        let output = output_of(&["drop-refused"]);
        says(&output, "user: cannot become user 1: Operation not permitted (os error 1)");
        says(&output, "group: cannot become group 1: Operation not permitted (os error 1)");
    }

    fn an_ordinary_user_is_locked_up_where_user_namespaces_are_allowed() {
        if !need_root() {
            return;
        }
        let output = output_of(&["chroot-as-ordinary-user"]);
        if output.contains("user namespaces: true") {
            says(&output, "jail: 0 warnings");
            says(&output, "root has 0 names");
        } else {
            assert!(output.contains("jail: cannot chroot to an empty directory"), "{output}");
        }
        says(&output, "Ids { real: 65534, effective: 65534, saved: 65534 }");
        says(&output, "capabilities: false");
        says(&output, "listeners: 2");
        says(&output, "again: cannot chroot to .: Operation not permitted (os error 1)");
    }

    fn the_launcher_ends_with_0_when_the_ports_are_open_and_lets_the_terminal_go() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("portcullis.pid");
        let mut launcher = role(&["daemon-ready", path.to_str().unwrap()]);
        let launcher_pid = launcher.pid().to_string();
        let code = launcher.exit_code(SOON);
        let daemon = std::fs::read_to_string(&path).unwrap();
        let daemon = daemon.trim();
        assert_eq!(code, 0, "{}", launcher.transcript());
        assert_ne!(daemon, launcher_pid);
        // The daemon leads its session; what was said before it was ready was heard, nothing after.
        let line = launcher.wait_line("session ", SOON);
        let worker = pid(line.rsplit_once(' ').unwrap().1);
        assert!(line.starts_with(&format!("session {daemon} of {daemon} ")), "{line}");
        assert_eq!(launcher.stderr(), "a last word\n");
        assert!(!launcher.stdout().contains("lost"), "{}", launcher.transcript());
        for process in [pid(daemon), worker] {
            for standard in 0..3 {
                let link = format!("/proc/{}/fd/{standard}", process.as_raw_nonzero());
                assert_eq!(std::fs::read_link(link).unwrap().to_str(), Some("/dev/null"));
            }
        }
        // The pid file names whom to signal, and goes with the process.
        kill_process(pid(daemon), Signal::TERM).unwrap();
        wait_for("the pid file's end", SOON, || !path.exists());
        wait_for("the worker's end", SOON, || !is_alive(worker));
    }

    fn a_daemon_that_fails_hands_its_text_and_code_to_the_launcher() {
        let mut launcher = role(&["daemon-failed"]);
        assert_eq!(launcher.exit_code(SOON), 3, "{}", launcher.transcript());
        assert_eq!(launcher.stderr(), "cannot bind 0.0.0.0:443\n");
    }

    fn a_daemon_that_ends_without_a_word_hands_its_code_to_the_launcher() {
        let mut launcher = role(&["daemon-silent"]);
        assert_eq!(launcher.exit_code(SOON), 4, "{}", launcher.transcript());
        assert!(launcher.stderr().starts_with("its own words\n"));
        assert!(launcher.stderr().contains("exited with code 4 before its ports were open"));
    }

    fn a_daemon_that_is_killed_hands_the_signal_to_the_launcher() {
        let mut launcher = role(&["daemon-killed"]);
        assert_eq!(launcher.exit_code(SOON), 137);
        assert!(launcher.stderr().contains("was killed by signal 9 before its ports were open"));
    }

    fn an_ordinary_process_raises_its_soft_limit_and_no_more() {
        // The root of a user namespace may not raise the hard limit either.
        let user = if rustix::process::geteuid().is_root() { "nobody" } else { "self" };
        // 1 listener, 1 worker, fixed: 37; and two a connection.
        says(&output_of(&["limits", user, "1000", "strict"]), "maxconn 1000 soft 2037 hard 4096");
        says(&output_of(&["limits", user, "0", "strict"]), "maxconn 2029 soft 4095 hard 4096");
        let lenient = output_of(&["limits", user, "10000", "lenient"]);
        says(&lenient, "maxconn 2029 soft 4096 hard 4096");
        assert!(lenient.contains("\nwarning: cannot raise the descriptor limit to 20037: Operation not permitted"), "{lenient}");
        let strict = output_of(&["limits", user, "10000", "strict"]);
        assert!(strict.contains("\nerror: cannot raise the descriptor limit to 20037: Operation not permitted"), "{strict}");
        assert!(strict.contains("set `maxconn 2000`"), "{strict}");
    }

    fn root_raises_the_hard_limit_too_where_it_has_the_capability() {
        if !need_root() {
            return;
        }
        let output = output_of(&["limits", "root", "10000", "strict"]);
        // Root in a container often has not got CAP_SYS_RESOURCE.
        if output.contains("may raise the hard limit: true") {
            says(&output, "maxconn 10000 soft 20037 hard 20037");
        } else {
            assert!(output.contains("error: cannot raise the descriptor limit to 20037: Operation not permitted"), "{output}");
        }
    }
}

/// A process's parent.
fn parent_of(child: Pid) -> Pid {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero())).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    pid(rest.split(' ').nth(1).unwrap())
}

/// Does a process run (a zombie does not)?
fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| {
        !stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('Z'))
    })
}
