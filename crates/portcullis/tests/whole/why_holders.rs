//! `portcullis why -- COMMAND`: who stands in the way of a watched program, and that what is said to help does.
//!
//! Decides:  that holders of Unix names and UDP ports, heirs of a fork and owners that cannot be seen are named
//!           as they are; that no line of `try` is one that leaves the port refused.
//! Not here: what an address is told without a program (why_ask.rs); the library of scenarios
//!           (tests/agreement.rs).

use std::process::Command;

use portcullis_testkit::{
    Process, Signal, need_program, private_network, private_network_as_root, set_sysctl,
};

use super::harness::{Place, SOON, portcullis};

const NOBODY: &str = "65534";

/// Runs perl while it is watched; what it says, and what is said of it.
#[track_caller]
fn watch(script: &str) -> (String, String) {
    let mut command = portcullis();
    let output = command.args(["why", "--", "perl", "-e", script]).output();
    let output = output.unwrap();
    (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A program that runs outside, once it has said `up`.
#[track_caller]
fn outside(script: &str) -> (Process, String) {
    let mut process = Process::spawn(Command::new("perl").args(["-e", script]));
    let line = process.wait_line("up", SOON);
    (process, line)
}

/// Binds and listens, and says what came of it.
fn listen(port: u16) -> String {
    format!(
        "use Socket; socket(S, 2, 1, 0); print bind(S, pack_sockaddr_in({port}, inet_aton('127.0.0.1'))) \
         && listen(S, 5) ? 'ok' : 'refused'"
    )
}

/// The lines behind `try`.
fn tried(told: &str) -> Vec<&str> {
    let lines = told.lines().skip_while(|line| !line.starts_with("  try:"));
    let ours = lines
        .enumerate()
        .take_while(|(at, line)| *at == 0 || line.starts_with("          "));
    ours.map(|(_, line)| line[10..].trim()).collect()
}

#[test]
fn a_socket_that_a_child_has_too_is_free_when_both_have_ended() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let fork = "use Socket; $| = 1; socket(S, 2, 1, 0);
            bind(S, pack_sockaddr_in(8080, inet_aton('127.0.0.1'))) or die; listen(S, 5);
            $c = fork; if (!$c) { sleep 60; exit } print qq(up $c\n); sleep 60";
        let (mut parent, line) = outside(fork);
        let child: i32 = line.trim_start_matches("up ").trim().parse().unwrap();
        let (said, told) = watch(&listen(8080));
        assert_eq!(said, "refused");
        let heir = format!(
            "held also by perl, pid {child}, fd 3, from pid {}",
            parent.pid()
        );
        assert!(told.contains(&heir), "{told}");
        assert_eq!(told.matches("holder: ").count(), 1, "{told}");
        assert!(
            told.contains("          perl -e use Socket; $| = 1;"),
            "{told}"
        );
        let both = format!(
            "stop perl (pid {}) and all that hold the socket too",
            parent.pid()
        );
        assert!(tried(&told).contains(&both.as_str()), "{told}");
        for way in tried(&told).iter().filter(|way| way.contains("perl")) {
            assert!(way.contains("all that hold the socket too"), "{way}");
        }
        // So it is: one alone frees nothing.
        parent.signal(Signal::KILL);
        parent.exit_code(SOON);
        assert_eq!(watch(&listen(8080)).0, "refused");
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(child).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        portcullis_testkit::wait_for("the port", SOON, || watch(&listen(8080)).0 == "ok");
    });
}

#[test]
fn what_lets_bind_succeed_and_listen_fail_is_no_way_out() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        set_sysctl("net.ipv4.ip_local_port_range", "40000 40001");
        let _held =
            [40000, 40001].map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
        let (said, told) = watch(&listen(0));
        assert_eq!(said, "refused");
        assert!(told.contains("  rule:   no-port-left: "), "{told}");
        assert!(
            !tried(&told).is_empty() && !told.contains("NO_PORT"),
            "{told}"
        );
        // With the option bind succeeds, and listen is the one that finds no port.
        let late = listen(0).replace("print bind", "setsockopt(S, 0, 24, 1); print bind(S, pack_sockaddr_in(0, inet_aton('127.0.0.1'))) ? 'bound ' : ''; socket(S, 2, 1, 0); setsockopt(S, 0, 24, 1); print bind");
        assert_eq!(watch(&late).0, "bound refused");
    });
}

#[test]
fn a_listen_that_another_one_refuses_is_not_told_to_take_a_new_socket() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let double = "use Socket; $at = pack_sockaddr_in(8080, inet_aton('127.0.0.1'));
            for $s ('A', 'B') { socket($s, 2, 1, 0); setsockopt($s, 1, 2, 1); bind($s, $at) or die }
            listen(A, 5) or die; print listen(B, 5) ? 'ok' : 'refused';";
        let (said, told) = watch(double);
        assert_eq!(said, "refused");
        assert!(told.contains("cannot listen on 127.0.0.1:8080"), "{told}");
        assert!(!told.contains("new IPv4 socket"), "{told}");
        let own = |way: &&str| way.starts_with("close fd 3 of perl (pid ");
        assert!(tried(&told).iter().any(own), "{told}");
        // So it does.
        let closed = double.replace("print listen", "close A; print listen");
        assert_eq!(watch(&closed).0, "ok");
    });
}

#[test]
fn who_listens_on_a_unix_sockets_name_is_named() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let place = Place::new();
        let path = place.path().join("x.sock");
        let at = path.to_str().unwrap();
        let serve = |name: &str| {
            format!(
                "use Socket; $| = 1; socket(S, 1, 1, 0); print bind(S, pack_sockaddr_un(\"{name}\")) ? qq(up\n) : qq(refused\n); listen(S, 5);"
            )
        };
        let abstract_name = format!("\\0portcullis-{}", std::process::id());
        for name in [at, abstract_name.as_str()] {
            let (mut server, _) = outside(&format!("{} sleep 60", serve(name)));
            let (said, told) = watch(&serve(name));
            assert_eq!(said, "refused\n");
            let holder = format!("  holder: perl, pid {}, fd 3, listening on ", server.pid());
            assert!(told.contains(&holder), "{told}");
            assert!(!told.contains("remove the file"), "{told}");
            server.signal(Signal::KILL);
            server.exit_code(SOON);
        }
        // The file is left, and nobody listens: another answer, also where the name is a relative one.
        let (_, told) = watch(&serve(at));
        assert!(told.contains("nobody has this one"), "{told}");
        assert!(
            told.contains("  hint:   remove the file before bind"),
            "{told}"
        );
        let datagrams = place.path().join("datagrams");
        let _bound = std::os::unix::net::UnixDatagram::bind(&datagrams).unwrap();
        let (_, told) = watch(&serve(datagrams.to_str().unwrap()));
        let holder = format!(", pid {}, fd ", std::process::id());
        assert!(
            told.contains(&holder) && told.contains(", not listening"),
            "{told}"
        );
        assert!(!told.contains("remove the file"), "{told}");
        let (server, _) = outside(&format!("unlink '{at}'; {} sleep 60", serve(at)));
        let mut command = portcullis();
        command.args(["why", "--", "perl", "-e", &serve("x.sock")]);
        let output = command.current_dir(place.path()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        let holder = format!("  holder: perl, pid {}, fd 3, ", server.pid());
        assert!(told.contains(&holder), "{told}");
    });
}

#[test]
fn who_has_a_udp_port_is_named() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:8053").unwrap();
        let bind = "use Socket; socket(S, 2, 2, 0); print bind(S, pack_sockaddr_in(8053, inet_aton('127.0.0.1'))) ? 'ok' : 'refused'";
        let (said, told) = watch(bind);
        assert_eq!(said, "refused");
        let holder = format!(", pid {}, fd ", std::process::id());
        assert!(told.contains(&holder), "{told}");
        assert!(told.contains(", bound to 0.0.0.0:8053"), "{told}");
        drop(socket);
        assert_eq!(watch(bind).0, "ok");
    });
}

#[test]
fn a_program_without_a_descriptor_left_is_told_the_limit_and_what_raises_it() {
    if need_program("perl").is_none() {
        return;
    }
    private_network(|| {
        let script = "ulimit -n 10; exec perl -e 'socket($s[$_], 2, 1, 0) or die for 1..20'";
        let mut command = portcullis();
        let output = command.args(["why", "--", "sh", "-c", script]).output();
        let told = String::from_utf8(output.unwrap().stderr).unwrap();
        for part in [
            "cannot make an IPv4 socket: too many open files (EMFILE)",
            "  rule:   descriptor-limit: ",
            "Here 10 of 10 descriptors are open (RLIMIT_NOFILE, soft and hard).",
            "  hint:   start it with a higher limit: ulimit -n 20",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
    });
}

#[test]
fn an_owner_who_cannot_be_seen_is_one_with_a_user() {
    if need_program("perl").is_none() || need_program("setpriv").is_none() {
        return;
    }
    private_network_as_root(|| {
        let _held = std::net::TcpListener::bind("127.0.0.1:8080").unwrap();
        let place = Place::new();
        let binary = place.path().join("portcullis");
        std::fs::copy(env!("CARGO_BIN_EXE_portcullis"), &binary).unwrap();
        for (words, listens) in [
            (vec!["127.0.0.1:8080".to_owned()], true),
            (
                vec!["--".into(), "perl".into(), "-e".into(), listen(8080)],
                false,
            ),
        ] {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
            let output = command
                .arg(&binary)
                .arg("why")
                .args(&words)
                .output()
                .unwrap();
            let text = if listens {
                output.stdout
            } else {
                output.stderr
            };
            let told = String::from_utf8(text).unwrap();
            let holder =
                "  holder: a process that cannot be seen, listening on 127.0.0.1:8080, user root\n";
            assert!(told.contains(holder), "{told}");
            let ways = tried(&told);
            assert!(
                ways.contains(&"stop the holder of 127.0.0.1:8080"),
                "{told}"
            );
        }
    });
}

#[test]
fn a_device_that_another_one_stands_for_is_called_by_its_name() {
    if need_program("perl").is_none() {
        return;
    }
    private_network_as_root(|| {
        let bind = "use Socket; socket(S, 2, 1, 0); setsockopt(S, 1, 25, pack('a16', 'DEVICE')) or print qq(refused)";
        let (said, told) = watch(&bind.replace("DEVICE", "nope0"));
        assert_eq!(said, "refused");
        assert!(
            told.contains("cannot set SO_BINDTODEVICE: no such device"),
            "{told}"
        );
        assert!(
            tried(&told).contains(&"set SO_BINDTODEVICE to lo instead"),
            "{told}"
        );
        assert_eq!(watch(&bind.replace("DEVICE", "lo")).0, "");
    });
}
