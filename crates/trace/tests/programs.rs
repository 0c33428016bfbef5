//! Real programs, watched: what they did is in the record, and what went wrong is found.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsString;
use std::sync::mpsc;
use std::time::Duration;

use portcullis_sys::process::SignalMask;
use portcullis_sys::testing::{Refusal, refuse};
use portcullis_sys::trace::Stage;
use portcullis_testkit::{
    Signal, add_address, need_program, private_network, set_sysctl, wait_for,
};
use portcullis_trace::record::{Ending, Inheritance, What};
use portcullis_trace::{Error, Finding, FromTrace, Kind, Observer, Outcome, Record, Watch};

/// What perl scripts here begin with.
const PERL: &str = r#"
use Socket qw(:all); $| = 1;
sub v4 { socket(my $s, AF_INET, SOCK_STREAM, 0) or die "socket: $!"; $s }
sub v6 { socket(my $s, AF_INET6, SOCK_STREAM, 0) or die "socket: $!"; $s }
sub set { my ($s, $level, $name, $value) = @_; setsockopt($s, $level, $name, $value // 1) }
sub at4 { my ($s, $ip, $port) = @_; bind($s, pack_sockaddr_in($port, inet_aton($ip))) }
sub at6 { my ($s, $ip, $port) = @_; bind($s, pack_sockaddr_in6($port, inet_pton(AF_INET6, $ip))) }
"#;

#[derive(Default)]
struct Heard(Vec<Finding>);

impl Observer for Heard {
    fn found(&mut self, finding: &Finding) {
        self.0.push(finding.clone());
    }
}

fn start(command: &[&str]) -> Watch {
    let command: Vec<OsString> = command.iter().map(OsString::from).collect();
    Watch::start(&command, &SignalMask::current().unwrap()).unwrap()
}

#[track_caller]
fn watch(command: &[&str]) -> (Outcome, Vec<Finding>) {
    let mut heard = Heard::default();
    let outcome = start(command).run(&mut FromTrace::here(), &mut heard);
    (outcome.unwrap(), heard.0)
}

/// Runs a perl script, which must end well.
#[track_caller]
fn perl(script: &str) -> (Record, Vec<Finding>) {
    let (outcome, findings) = watch(&["perl", "-e", &format!("{PERL}\n{script}")]);
    let told: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert_eq!(outcome.ended, Ending::Exited(0), "{told:#?}");
    (outcome.record, findings)
}

#[track_caller]
fn only(findings: &[Finding]) -> &Finding {
    let told: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert_eq!(findings.len(), 1, "{told:#?}");
    &findings[0]
}

#[test]
fn two_sockets_of_one_program_that_conflict_are_explained_from_the_trace_alone() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let script = "my $a = v4; at4($a, '127.0.0.1', 8080) or die; listen($a, 5) or die;
            my $b = v4; at4($b, '0.0.0.0', 8080) and die; at4($b, '0.0.0.0', 8080) and die;
            $! == 98 or die";
        let (record, findings) = perl(script);
        let finding = only(&findings);
        let text = finding.to_string();
        assert!(text.contains("cannot bind 0.0.0.0:8080: address already in use (EADDRINUSE)"));
        assert!(text.contains("rule:   port-held: "), "{text}");
        let holder = &finding.holders[0];
        assert_eq!(holder.process, Some(finding.process));
        assert_eq!(
            holder.what,
            "listening on 127.0.0.1:8080 without SO_REUSEPORT"
        );
        assert!(finding.ways.iter().any(|way| way.tried), "{text}");
        assert_eq!(
            record.findings[0].times, 2,
            "the second try is not told again"
        );
        assert_eq!(record.sockets.len(), 2);
    });
}

#[test]
fn a_socket_that_was_closed_is_no_holder() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let script =
            "my $a = v4; at4($a, '127.0.0.1', 8080) or die; listen($a, 5) or die; close($a);
            my $b = v4; at4($b, '0.0.0.0', 8080) or die; listen($b, 5) or die;
            my $c = v4; at4($c, '127.0.0.1', 8080) and die; 1";
        let (record, findings) = perl(script);
        assert!(record.sockets[0].closed.is_some());
        assert_eq!(
            only(&findings).holders[0].what,
            "listening on 0.0.0.0:8080 without SO_REUSEPORT"
        );
    });
}

#[test]
fn options_binds_and_listens_stand_in_the_record_in_order_and_with_their_results() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let script = "my $s = v6; set($s, SOL_SOCKET, SO_REUSEADDR) or die;
            set($s, 41, 26, 0) or die; at6($s, '::1', 8443) or die; listen($s, 7) or die;
            set($s, 41, 26) and die; set($s, SOL_SOCKET, SO_KEEPALIVE) or die; 1";
        let (record, findings) = perl(script);
        let socket = &record.sockets[0];
        let told: Vec<String> = socket
            .calls
            .iter()
            .map(|step| match &step.what {
                What::SetOption(set) => format!("{} {:?} {:?}", set.option, set.value, step.error),
                What::Bind { address, .. } => format!("bind {address} {:?}", step.error),
                What::Listen { backlog, limit, .. } => format!("listen {backlog} {limit:?}"),
            })
            .collect();
        let expected = [
            "SO_REUSEADDR Some(Int(1)) None",
            "IPV6_V6ONLY Some(Int(0)) None",
            "bind [::1]:8443 None",
            "listen 7 Some(7)",
            "IPV6_V6ONLY Some(Int(1)) Some(ErrorNumber(22))",
        ];
        assert_eq!(
            told, expected,
            "SO_KEEPALIVE is a connection's, and is not watched"
        );
        assert_eq!(only(&findings).rule.as_ref().unwrap().id, "v6only-too-late");
    });
}

#[test]
fn traps_that_succeed_are_found() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        set_sysctl("net.core.somaxconn", "9");
        add_address("2001:db8::1".parse().unwrap()).unwrap();
        let traps: [(&str, &[&str]); 9] = [
            (
                "my $s = v4; at4($s, '127.0.0.1', 7010) or die; listen($s, 65535) or die",
                &["127.0.0.1:7010 listens with a backlog of 9, not 65535"],
            ),
            (
                "my $s = v4; at4($s, '127.0.0.1', 7001) or die; listen($s, 100) or die",
                &["127.0.0.1:7001 listens with a backlog of 9, not 100"],
            ),
            (
                "my $s = v4; at4($s, '127.0.0.1', 7001) or die; listen($s, -1) or die",
                &[],
            ),
            (
                "my $s = v4; set($s, 1, 25, 'nodev0') and die; at4($s, '0.0.0.0', 7002) or die; listen($s, 1)",
                &[
                    "cannot set SO_BINDTODEVICE: no such device (ENODEV)",
                    "0.0.0.0:7002 listens on every device, since SO_BINDTODEVICE failed",
                ],
            ),
            (
                "my $s = v6; set($s, 41, 26) or die; at6($s, '::', 7003) or die; listen($s, 1)",
                &["[::]:7003 listens on IPv6 only"],
            ),
            (
                "my $s = v6; set($s, 41, 26) or die; at6($s, '::', 7003) or die; listen($s, 1);
                 my $t = v4; at4($t, '0.0.0.0', 7003) or die; listen($t, 1)",
                &[],
            ),
            (
                "my $s = v4; at4($s, '127.0.0.1', 7004) or die; set($s, 1, 15) or die; listen($s, 1)",
                &["SO_REUSEPORT is set after 127.0.0.1:7004 was bound"],
            ),
            (
                "my $s = v4; set($s, 1, 15); at4($s, '127.0.0.1', 7004) or die; set($s, 1, 15) or die; listen($s, 1)",
                &[],
            ),
            (
                "my $s = v4; at4($s, '192.0.2.77', 7005) and die; 1",
                &["cannot bind 192.0.2.77:7005: cannot assign requested address (EADDRNOTAVAIL)"],
            ),
        ];
        for (script, expected) in traps {
            let (_, findings) = perl(script);
            let told: Vec<String> = findings.iter().map(|f| f.kind.to_string()).collect();
            assert_eq!(told, expected, "{script}");
        }
    });
}

#[test]
fn a_port_that_the_kernel_chose_is_told_with_its_number() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        set_sysctl("net.ipv4.ip_local_port_range", "40001 40002");
        let (_, findings) =
            perl("my $s = v4; at4($s, '127.0.0.1', 0) or die; listen($s, 1) or die");
        let address = match &only(&findings).kind {
            Kind::RandomPort { address } => address,
            other => panic!("{other:?}"),
        };
        assert!(
            ["127.0.0.1:40001", "127.0.0.1:40002"].contains(&address.as_str()),
            "{address}"
        );
        let (record, findings) = perl("my $s = v4; listen($s, 1) or die");
        let unbound = only(&findings).kind.to_string();
        assert!(unbound.starts_with("listens without having bound: the kernel chose 0.0.0.0:4000"));
        assert!(
            record.sockets[0]
                .address
                .as_ref()
                .is_some_and(|a| unbound.ends_with(a.as_str()))
        );
        // Chosen ports take part in later explanations.
        let script = "my $s = v4; at4($s, '127.0.0.1', 0) or die; my ($port) = unpack_sockaddr_in(getsockname($s));
            my $t = v4; at4($t, '127.0.0.1', $port) and die; 1";
        let (_, findings) = perl(script);
        assert_eq!(only(&findings).rule.as_ref().unwrap().id, "port-held");
    });
}

#[test]
fn children_are_followed_and_heirs_of_a_socket_are_told() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        // The parent listens and ends; a child that knows nothing of the socket keeps it open, and a
        // grandchild meets it.
        let script = "$^F = 100; my $s = v4; at4($s, '127.0.0.1', 7010) or die; listen($s, 5) or die;
            pipe(my $r, my $w);
            if (fork == 0) { close $w; sysread $r, my $x, 1;
                system('perl', '-MSocket', '-e',
                    'socket(S, AF_INET, SOCK_STREAM, 0); bind(S, pack_sockaddr_in(7010, inet_aton(\"127.0.0.1\"))) and die; exit 0');
                exit 0 }
            exit 0";
        let (record, findings) = perl(script);
        let finding = only(&findings);
        let holder = &finding.holders[0];
        let first = record.sockets[0].process;
        assert_ne!(holder.process, Some(first), "that one has ended: {finding}");
        let heirs = &record.sockets[0].inherited;
        assert!(
            heirs
                .iter()
                .any(|heir| Some(heir.pid) == holder.process && heir.by == Inheritance::Fork)
        );
        assert!(
            heirs.iter().any(|heir| heir.by == Inheritance::Exec),
            "{heirs:?}"
        );
        assert!(record.processes.len() >= 3);
        let started_by = record.process(finding.process).unwrap().parent;
        assert_eq!(started_by, holder.process);
    });
}

#[test]
fn another_program_of_the_tree_on_the_same_port_is_told_and_a_fork_is_not() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let listen = "my $s = v4; set($s, 1, 15) or die; at4($s, '127.0.0.1', 7020) or die; listen($s, 5) or die;";
        let shards = format!("{listen} if (fork == 0) {{ {listen} exit 0 }} wait; exit $?");
        assert_eq!(perl(&shards).1, []);
        let other = format!("{PERL}{listen}");
        let script = format!(
            "{listen} my $code = <<'END';\n{other}\nEND\n system('perl', '-e', $code) == 0 or die"
        );
        let (_, findings) = perl(&script);
        let finding = only(&findings);
        assert_eq!(
            finding.kind.to_string(),
            "another program listens on 127.0.0.1:7020 too"
        );
        assert_eq!(finding.holders.len(), 1);
    });
}

#[test]
fn the_programs_end_is_passed_on_and_a_missing_one_is_an_error() {
    let table = [
        (["sh", "-c", "exit 7"], Ending::Exited(7)),
        (["sh", "-c", "kill -TERM $$"], Ending::Killed(15)),
        (["sh", "-c", "kill -KILL $$"], Ending::Killed(9)),
        (["sh", "-c", "sleep 0.2 & exit 3"], Ending::Exited(3)),
    ];
    for (command, expected) in table {
        let (outcome, findings) = watch(&command);
        assert_eq!((outcome.ended, findings), (expected, vec![]), "{command:?}");
    }
    let mask = SignalMask::current().unwrap();
    let missing = |name: &str| Watch::start(&[name.into()], &mask).unwrap_err();
    let name = "no-such-program".to_owned();
    assert_eq!(missing("no-such-program"), Error::NotFound { name });
    assert!(matches!(missing("/no/such"), Error::NotFound { .. }));
    assert!(matches!(missing(""), Error::NotFound { .. }));
    // A file that only the kernel finds out about.
    let text = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(text.path(), "no program").unwrap();
    let path = text.into_temp_path();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&path, mode).unwrap();
    let started = Watch::start(&[path.as_os_str().to_owned()], &mask).unwrap();
    let error = started
        .run(&mut FromTrace::here(), &mut Heard::default())
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::NotExecutable {
                errno: libc::ENOEXEC,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn signals_stop_continue_and_end_a_watched_program_as_they_do_otherwise() {
    // Dies of nothing but the last: TERM is handled, STOP stops and CONT goes on.
    let script = "trap 'echo term' TERM; kill -TERM $$; (sleep 0.1; kill -CONT $$) & kill -STOP $$; kill -KILL $$";
    let (outcome, _) = watch(&["sh", "-c", script]);
    assert_eq!(outcome.ended, Ending::Killed(9));
}

#[test]
fn a_tree_that_is_killed_at_any_moment_is_waited_for_to_its_end() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        // Two processes that bind without end, killed from outside at moments that vary.
        let script = "$SIG{CHLD} = 'IGNORE'; fork; while (1) { my $s = v4; at4($s, '127.0.0.1', 0); listen($s, 1) }";
        for round in 0..12_u64 {
            let (tell, handle) = mpsc::channel();
            let command = format!("{PERL}\n{script}");
            let watching = std::thread::spawn(move || {
                let watch = start(&["perl", "-e", &command]);
                tell.send(watch.handle()).unwrap();
                watch.run(&mut FromTrace::here(), &mut Heard::default())
            });
            let handle = handle.recv().unwrap();
            std::thread::sleep(Duration::from_millis(3 + 11 * round));
            // The first goes; then the rest is told.
            wait_for("the tree's end", Duration::from_secs(60), || {
                handle.send(Signal::KILL);
                watching.is_finished()
            });
            let outcome = watching.join().unwrap().unwrap();
            assert_eq!(outcome.ended, Ending::Killed(9));
            let record = outcome.record;
            assert!(
                record
                    .processes
                    .iter()
                    .all(|process| process.ended.is_some())
            );
        }
    });
}

#[test]
fn a_program_of_many_threads_that_all_bind_is_seen_whole() {
    if need_program("python3").is_none() {
        return;
    }
    private_network(|| {
        let script = "
import socket, threading
def work(port):
    s = socket.socket(); s.bind(('127.0.0.1', port)); s.listen(3); kept.append(s)
kept = []
threads = [threading.Thread(target=work, args=(9000 + n,)) for n in range(40)]
[t.start() for t in threads]; [t.join() for t in threads]
";
        let (outcome, findings) = watch(&["python3", "-c", script]);
        assert_eq!((outcome.ended, findings), (Ending::Exited(0), vec![]));
        let mut ports: Vec<u16> = outcome.record.sockets.iter().map(|s| s.port()).collect();
        ports.sort_unstable();
        assert_eq!(ports, (9000..9040).collect::<Vec<u16>>());
    });
}

#[test]
fn what_cannot_be_seen_is_said() {
    if need_program("perl").is_none() {
        return;
    }
    let x32 = cfg!(target_arch = "x86_64");
    let seccomp = libc::SYS_seccomp;
    let allow = format!(
        "my $f = pack('SCCL', 6, 0, 0, 0x7fff0000); my $p = pack('Sx![P]P', 1, $f);
         syscall({}, 38, 1, 0, 0, 0); exit(syscall({seccomp}, 1, 0, $p) < 0)",
        libc::SYS_prctl
    );
    let calls = [
        (
            "io_uring_setup",
            "my $p = \"\\0\" x 120; exit(syscall(425, 4, $p) < 0)",
            Some("uses io_uring"),
        ),
        (
            "an x32 listen",
            "syscall(0x40000000 | 50, 3, 5); exit 0",
            x32.then_some("makes calls as an x32 program"),
        ),
        ("seccomp", &allow, Some("filters its own system calls")),
    ];
    for (label, script, expected) in calls {
        let (outcome, findings) = watch(&["perl", "-e", script]);
        let told: Vec<String> = findings.iter().map(|f| f.kind.to_string()).collect();
        if outcome.ended == Ending::Exited(0) {
            assert_eq!(told, Vec::from_iter(expected), "{label}");
        } else {
            assert_eq!(
                label, "io_uring_setup",
                "only that may be refused by a host"
            );
            assert_eq!(told, Vec::<String>::new(), "{label} is refused here");
        }
    }
}

#[test]
fn unix_sockets_that_cannot_be_bound_are_explained_by_their_file() {
    if need_program("perl").is_none() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.sock").display().to_string();
    let script = format!(
        "for (1, 2) {{ socket(my $s, AF_UNIX, SOCK_STREAM, 0); push @k, $s; bind($s, pack_sockaddr_un('{path}')) }}"
    );
    let (_, findings) = perl(&script);
    let finding = only(&findings);
    let expected = format!("cannot bind unix:{path}: address already in use (EADDRINUSE)");
    assert_eq!(finding.kind.to_string(), expected);
    assert!(
        finding
            .rule
            .as_ref()
            .unwrap()
            .text
            .contains("a file of this name exists")
    );
}

/// `int 0x80` from a 64-bit program: a call as 32-bit programs make it.
const INT_80: &str = r#"
import ctypes, mmap
code = mmap.mmap(-1, 4096, prot=7)
# push rbx; mov eax, edi; mov ebx, esi; mov ecx, edx; xor edx, edx; int 0x80; pop rbx; ret
code.write(b'\x53\x89\xf8\x89\xf3\x89\xd1\x31\xd2\xcd\x80\x5b\xc3')
call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int)
call = call(ctypes.addressof(ctypes.c_char.from_buffer(code)))
import os
fd = call(359, 2, 1)
os._exit(0 if fd >= 0 and call(363, fd, 5) == 0 else 9)
"#;

#[test]
fn a_32_bit_caller_is_seen_and_not_misread() {
    if !cfg!(target_arch = "x86_64") || need_program("python3").is_none() {
        return;
    }
    private_network(|| {
        let (outcome, findings) = watch(&["python3", "-c", INT_80]);
        if outcome.ended != Ending::Exited(0) {
            portcullis_testkit::skip("this kernel has no 32-bit calls");
            return;
        }
        let finding = only(&findings);
        assert_eq!(finding.kind.to_string(), "makes calls as a 32-bit program");
        assert_eq!(outcome.record.sockets, [], "nothing is made up");
        assert_eq!(outcome.record.findings[0].times, 2);
    });
}

#[test]
fn a_host_that_forbids_tracing_or_filters_is_told_so() {
    let table = [
        (
            libc::SYS_seccomp,
            libc::ENOSYS,
            Stage::Filter,
            "install a system call filter (seccomp)",
        ),
        (
            libc::SYS_ptrace,
            libc::EPERM,
            Stage::Seize,
            "trace the program (ptrace)",
        ),
    ];
    for (number, errno, stage, words) in table {
        let error = std::thread::spawn(move || {
            refuse(&[Refusal::of(number, errno)]).unwrap();
            let mask = SignalMask::current().unwrap();
            let watch = match Watch::start(&["true".into()], &mask) {
                Ok(watch) => watch,
                Err(error) => return error,
            };
            watch
                .run(&mut FromTrace::here(), &mut Heard::default())
                .unwrap_err()
        });
        let error = error.join().unwrap();
        assert!(
            matches!(error, Error::Refused { stage: s, errno: e, .. } if (s, e) == (stage, errno)),
            "{error:?}"
        );
        assert!(
            error.to_string().starts_with(&format!("cannot {words}: ")),
            "{error}"
        );
    }
}

#[test]
fn programs_in_namespaces_of_their_own_are_followed() {
    if need_program("perl").is_none() || need_program("unshare").is_none() {
        return;
    }
    private_network(|| {
        // A port that is held outside is free inside; numbers of processes are those out here.
        let listen = format!(
            "{PERL} my $s = v4; at4($s, '0.0.0.0', 7030) or die; listen($s, 5) or die; my $t = v4; at4($t, '0.0.0.0', 7030) and die; exit 0"
        );
        let script = format!(
            "my $s = v4; at4($s, '0.0.0.0', 7030) or die; listen($s, 5) or die; my $c = <<'END';\n{listen}\nEND\n system('unshare', '-pnf', 'perl', '-e', $c) == 0 or die"
        );
        let (record, findings) = perl(&script);
        let finding = only(&findings);
        assert_eq!(
            finding.holders[0].process,
            Some(finding.process),
            "{finding}"
        );
        assert!(finding.process > 2, "not its number in there");
        assert_ne!(record.sockets[0].namespace, record.sockets[1].namespace);
    });
}

#[test]
fn other_protocols_have_no_rules_of_tcp() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let script = "my $t = v4; at4($t, '127.0.0.1', 7040) or die; listen($t, 5) or die;
            sub udp { socket(my $s, AF_INET, SOCK_DGRAM, 0) or die; push @kept, $s; $s }
            at4(udp, '127.0.0.1', 7040) or die; at4(udp, '127.0.0.1', 7040) and die; exit 0";
        let (record, findings) = perl(script);
        let rule = only(&findings).rule.as_ref().unwrap();
        let text = "another udp socket holds the port on an address that this one covers";
        assert_eq!((rule.id.as_str(), rule.text.as_str()), ("", text));
        assert_eq!(record.sockets[1].protocol, "udp");
    });
}

#[test]
fn a_watch_that_is_dropped_leaves_nobody() {
    let before = start(&["sleep", "60"]);
    drop(before);
    // Begun, with a child: an observer that panics ends the run in the middle.
    struct Panics;
    impl Observer for Panics {
        fn found(&mut self, _: &Finding) {
            panic!("in the middle");
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pids");
    let script = format!(
        "sleep 60 & echo $! $$ > {}; perl -e 'syscall(0x40000000 | 50, 3, 5)'; wait",
        path.display()
    );
    if need_program("perl").is_none() || !cfg!(target_arch = "x86_64") {
        return;
    }
    let running = std::thread::spawn(move || {
        start(&["sh", "-c", &script]).run(&mut FromTrace::here(), &mut Panics)
    });
    assert!(running.join().is_err());
    let pids = std::fs::read_to_string(&path).unwrap();
    for pid in pids.split_ascii_whitespace() {
        // An orphan's last trace is its new parent's to take away.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(
            stat.is_empty() || stat.contains(") Z "),
            "{pid} is left: {stat}"
        );
    }
}
