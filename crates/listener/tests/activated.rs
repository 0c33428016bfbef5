//! A process that is started with a socket, as systemd or another supervisor does.
//!
//! Decides:  nothing. It has no test harness, so that the process under test has one thread: it
//!           starts itself again by a shell, which puts a socket at descriptor 3 and sets the
//!           variables.
//! Not here: what is wrong with descriptors and variables (inherited.rs, activation.rs).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use portcullis_listener::{Activation, Listener, ListenerSpec, open};

/// What the started process checks, and the variables that it is started with.
const CASES: &[(&str, &str, fn())] = &[
    (
        "sockets_of_systemd_are_found_by_name_and_the_variables_are_gone",
        "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=front",
        sockets_are_found_by_name,
    ),
    (
        "sockets_without_names_are_called_unknown",
        "LISTEN_PID=$$ LISTEN_FDS=1",
        sockets_without_names,
    ),
    (
        "variables_for_another_process_mean_nothing_and_the_number_serves",
        "LISTEN_PID=1 LISTEN_FDS=1",
        variables_for_another_process,
    ),
    (
        "a_process_with_threads_keeps_the_variables_and_finds_the_sockets",
        "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=front",
        with_threads,
    ),
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("started") {
        let name = arguments.next().unwrap();
        let (_, _, check) = CASES.iter().find(|(case, ..)| *case == name).unwrap();
        return check();
    }
    for (name, variables, _) in CASES {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        start(server.into(), name, variables);
        println!("test {name} ... ok");
    }
}

fn start(socket: OwnedFd, name: &str, variables: &str) {
    let script = format!("exec 3<&0 </dev/null; {variables} exec \"$0\" started \"$1\"");
    let status = Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .stdin(Stdio::from(socket))
        .status()
        .unwrap();
    assert!(status.success(), "{name}: {status}");
}

fn accept(listener: Listener) {
    // The client connected before the process was started.
    TcpListener::try_from(listener).unwrap().accept().unwrap();
}

fn variables_left() -> usize {
    let names = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
    names
        .iter()
        .filter(|name| std::env::var_os(name).is_some())
        .count()
}

fn sockets_are_found_by_name() {
    let first = open(&ListenerSpec::activated("front"))
        .unwrap()
        .listeners
        .remove(0);
    assert_eq!(variables_left(), 0);
    // What was found once is found again, as a reload does.
    let again = open(&ListenerSpec::activated("front")).unwrap();
    assert_eq!(again.listeners.len(), 1);
    accept(first);
}

fn sockets_without_names() {
    let opened = open(&ListenerSpec::activated("unknown")).unwrap();
    accept(opened.listeners.into_iter().next().unwrap());
}

fn variables_for_another_process() {
    let error = open(&ListenerSpec::activated("unknown")).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("systemd passed no sockets to this process"),
        "{error}"
    );
    accept(
        open(&ListenerSpec::inherited(3))
            .unwrap()
            .listeners
            .remove(0),
    );
}

fn with_threads() {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    let activation = Activation::from_environment().unwrap();
    assert_eq!(activation.sockets, [("front".to_owned(), 3)]);
    assert_eq!(variables_left(), 3);
    drop(stop);
    let _ = thread.join();
}
