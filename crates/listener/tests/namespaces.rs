//! A socket in another network namespace: is it there, and did the caller stay here?
//!
//! Decides:  nothing.
//! Not here: a namespace that is not there (src/netns.rs), a refused setns (refusals.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use portcullis_listener::pending::Looker;
use portcullis_listener::{ListenerSpec, Step, open};
use portcullis_sys::sockopt::netns_cookie;
use portcullis_testkit::private_network;

/// A process that holds a network namespace until its input ends.
struct Namespace(Child);

impl Namespace {
    fn new() -> Namespace {
        let mut child = Command::new("unshare")
            .args(["-n", "sh", "-c", "echo ready; read end"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let output = child.stdout.take().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Namespace(child)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn own() -> std::path::PathBuf {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap()
}

#[test]
fn the_socket_is_in_the_namespace_and_the_caller_is_not() {
    private_network(|| {
        let there = Namespace::new();
        let here = own();
        let held_here = TcpListener::bind("127.0.0.1:80").unwrap();
        let mut spec = ListenerSpec::tcp("127.0.0.1:80".parse().unwrap());
        // Loopback is down there and has no address yet.
        spec.foreign = Some(portcullis_listener::spec::Foreign::Freebind);
        spec.network_namespace = Some(there.path());
        let opened = open(&spec).unwrap();
        assert_eq!(opened.reports, []);
        assert_eq!(own(), here);
        let cookie_here = netns_cookie(&held_here).unwrap();
        assert_ne!(netns_cookie(&opened.listeners[0]).unwrap(), cookie_here);
        // The port is free here as far as the listener there is concerned.
        drop(held_here);
        TcpListener::bind("127.0.0.1:80").unwrap();
        TcpStream::connect("127.0.0.1:80").unwrap_err();
    });
}

#[test]
fn a_limit_of_the_other_namespace_is_the_one_that_counts() {
    private_network(|| {
        let there = Namespace::new();
        portcullis_testkit::set_sysctl("net.core.somaxconn", "16");
        let mut spec = ListenerSpec::tcp("0.0.0.0:80".parse().unwrap());
        spec.network_namespace = Some(there.path());
        spec.backlog = Some(100);
        let opened = open(&spec).unwrap();
        assert_eq!(opened.reports, [], "somaxconn is larger there");
        spec.network_namespace = None;
        assert_eq!(open(&spec).unwrap().reports[0].step, Step::Listen);
    });
}

#[test]
fn a_looker_sees_the_listeners_of_its_namespace_alone() {
    private_network(|| {
        let there = Namespace::new();
        let mut spec = ListenerSpec::tcp("0.0.0.0:80".parse().unwrap());
        spec.network_namespace = Some(there.path());
        let listener = open(&spec).unwrap().listeners.remove(0);
        let mut looker = Looker::open_in(&there.path()).unwrap();
        assert_eq!(looker.pending(&listener).unwrap(), Some(0));
        assert!(!looker.migrates());
        let mut here = Looker::open().unwrap();
        portcullis_testkit::set_sysctl("net.ipv4.tcp_migrate_req", "1");
        assert_eq!(here.pending(&listener).unwrap(), None);
        assert!(here.migrates() && !looker.migrates());
        Looker::open_in("/nonexistent").unwrap_err();
    });
}
