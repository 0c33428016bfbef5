//! Descriptors that a process was started with: trusted, refused, kept as they are.
//!
//! Decides:  nothing.
//! Not here: refused system calls (refusals.rs), a process that really is started with a socket
//!           (activated.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use portcullis_listener::inherited::{InheritedFault, release};
use portcullis_listener::spec::Ipv6Only;
use portcullis_listener::{
    Activation, Cause, Flags, Listener, ListenerSpec, LocalAddress, OpenContext, Step, open,
    open_with,
};
use portcullis_sys::sockopt as sys;
use portcullis_testkit::private_network;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, bind, connect, listen, socket};

fn fault_of(number: i32) -> InheritedFault {
    let error = open(&ListenerSpec::inherited(number)).unwrap_err();
    assert_eq!(error.step(), Step::Inherited);
    assert_eq!(error.flags(), Flags::FATAL | Flags::ALERT);
    assert!(
        error
            .to_string()
            .starts_with("cannot use inherited descriptor ["),
        "{error}"
    );
    match error.cause() {
        Cause::Inherited(fault) => fault.clone(),
        other => panic!("{other:?}"),
    }
}

fn unbound(family: AddressFamily) -> OwnedFd {
    socket(family, SocketType::STREAM, None).unwrap()
}

#[test]
fn what_is_not_a_bound_stream_socket_is_refused_with_the_reason() {
    assert_eq!(fault_of(-1), InheritedFault::NotOpen);
    assert_eq!(fault_of(987_654), InheritedFault::NotOpen);
    let file = std::fs::File::open("/dev/null").unwrap();
    assert_eq!(fault_of(file.as_raw_fd()), InheritedFault::NotASocket);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let datagram = InheritedFault::NotAStream { socket_type: 2 };
    assert_eq!(fault_of(udp.as_raw_fd()), datagram);
    for family in [
        AddressFamily::INET,
        AddressFamily::INET6,
        AddressFamily::UNIX,
    ] {
        assert_eq!(
            fault_of(unbound(family).as_raw_fd()),
            InheritedFault::NotBound
        );
    }
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    assert_eq!(fault_of(client.as_raw_fd()), InheritedFault::Connected);
    let (end, _other) = UnixStream::pair().unwrap();
    assert_eq!(fault_of(end.as_raw_fd()), InheritedFault::Connected);
}

#[test]
fn a_refused_descriptor_is_left_exactly_as_it_was() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    fcntl_setfd(&udp, FdFlags::empty()).unwrap();
    let before = fcntl_getfl(&udp).unwrap();
    fault_of(udp.as_raw_fd());
    assert_eq!(fcntl_getfl(&udp).unwrap(), before);
    assert_eq!(fcntl_getfd(&udp).unwrap(), FdFlags::empty());
}

#[test]
fn a_connection_that_is_still_being_made_is_refused_and_left_as_it_was() {
    private_network(|| {
        // The queue of one is full, so the next SYN gets no answer.
        let server = unbound(AddressFamily::INET);
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        bind(&server, &any).unwrap();
        listen(&server, 0).unwrap();
        let server = TcpListener::from(server);
        let to = server.local_addr().unwrap();
        let _in_the_queue = TcpStream::connect(to).unwrap();
        let pending = unbound(AddressFamily::INET);
        bind(&pending, &any).unwrap();
        fcntl_setfl(&pending, OFlags::NONBLOCK).unwrap();
        assert_eq!(connect(&pending, &to), Err(Errno::INPROGRESS));
        fcntl_setfl(&pending, OFlags::empty()).unwrap();
        let before = fcntl_getfl(&pending).unwrap();
        assert_eq!(fault_of(pending.as_raw_fd()), InheritedFault::Connected);
        assert_eq!(fcntl_getfl(&pending).unwrap(), before);
    });
}

#[test]
fn the_flags_of_an_inherited_descriptor_are_kept() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let before = fcntl_getfl(&server).unwrap();
    fcntl_setfl(&server, before | OFlags::APPEND).unwrap();
    fcntl_setfd(&server, FdFlags::empty()).unwrap();
    let opened = open(&ListenerSpec::inherited(server.as_raw_fd())).unwrap();
    assert_eq!(opened.reports, []);
    let listener = &opened.listeners[0];
    let after = fcntl_getfl(listener).unwrap();
    assert_eq!(after, before | OFlags::APPEND | OFlags::NONBLOCK);
    assert!(fcntl_getfd(listener).unwrap().contains(FdFlags::CLOEXEC));
    assert!(fcntl_getfd(&server).unwrap().contains(FdFlags::CLOEXEC));
    let local = server.local_addr().unwrap();
    assert_eq!(*listener.local(), LocalAddress::Inet(local));
    assert_eq!(listener.facts().inherited, Some(server.as_raw_fd()));
}

#[test]
fn a_bound_socket_begins_to_listen_and_a_listening_one_keeps_its_backlog() {
    let bound = unbound(AddressFamily::INET);
    let loopback: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    bind(&bound, &loopback).unwrap();
    let limit = |opened: &Listener| sys::accept_queue(opened).unwrap().unwrap().limit;
    let mut spec = ListenerSpec::inherited(bound.as_raw_fd());
    spec.backlog = Some(7);
    assert_eq!(limit(&open(&spec).unwrap().listeners[0]), 7);
    spec.backlog = Some(9);
    assert_eq!(limit(&open(&spec).unwrap().listeners[0]), 7);
}

#[test]
fn several_users_of_one_number_have_a_descriptor_each_and_one_queue() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = ListenerSpec::inherited(server.as_raw_fd());
    let mut one = open(&spec).unwrap().listeners;
    let two = open(&spec).unwrap().listeners;
    assert_ne!(one[0].as_raw_fd(), two[0].as_raw_fd());
    drop(two);
    let _client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    TcpListener::try_from(one.remove(0))
        .unwrap()
        .accept()
        .unwrap();
}

#[test]
fn a_unix_socket_can_be_inherited_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("door");
    let server = UnixListener::bind(&path).unwrap();
    let opened = open(&ListenerSpec::inherited(server.as_raw_fd())).unwrap();
    assert_eq!(*opened.listeners[0].local(), LocalAddress::UnixPath(path));
    // Its file belongs to whoever made it.
    assert!(!opened.listeners[0].remove_path().unwrap());
}

#[test]
fn v6only_of_an_inherited_socket_is_compared_before_it_is_set() {
    let server = open(&ListenerSpec::tcp("[::]:0".parse().unwrap())).unwrap();
    let mut spec = ListenerSpec::inherited(server.listeners[0].as_raw_fd());
    spec.ipv6_only = Some(Ipv6Only::Off);
    assert_eq!(open(&spec).unwrap().reports, []);
    spec.ipv6_only = Some(Ipv6Only::On);
    let opened = open(&spec).unwrap();
    let [report] = opened.reports.as_slice() else {
        panic!("{:?}", opened.reports);
    };
    assert_eq!((report.step, report.flags), (Step::Ipv6Only, Flags::WARN));
    assert_eq!(report.cause, Cause::Errno(libc::EINVAL));
    spec.strict = true;
    assert_eq!(open(&spec).unwrap_err().step(), Step::Ipv6Only);
}

#[test]
fn v6only_means_nothing_to_an_inherited_socket_of_one_address() {
    // The kernel turns the option on by itself when it binds to one IPv6 address.
    let server = TcpListener::bind("[::1]:0").unwrap();
    let mut spec = ListenerSpec::inherited(server.as_raw_fd());
    spec.ipv6_only = Some(Ipv6Only::Off);
    spec.strict = true;
    let opened = open(&spec).unwrap();
    assert_eq!(opened.reports.len(), 1);
    assert!(opened.flags().is_empty());
}

#[test]
fn an_inherited_socket_must_have_the_interface_asked_for() {
    private_network(|| {
        let mut made = ListenerSpec::tcp("0.0.0.0:80".parse().unwrap());
        made.interface = Some("lo".to_owned());
        let on_lo = open(&made).unwrap().listeners;
        let everywhere = TcpListener::bind("0.0.0.0:81").unwrap();
        let mut spec = ListenerSpec::inherited(on_lo[0].as_raw_fd());
        spec.interface = Some("lo".to_owned());
        assert_eq!(open(&spec).unwrap().reports, []);
        spec.interface = Some("eth0".to_owned());
        let error = open(&spec).unwrap_err();
        assert_eq!(error.step(), Step::Interface);
        assert!(
            error.to_string().contains("bound to lo, not to eth0"),
            "{error}"
        );
        let mut spec = ListenerSpec::inherited(everywhere.as_raw_fd());
        spec.interface = Some("lo".to_owned());
        let error = open(&spec).unwrap_err();
        assert!(error.to_string().contains("on every device"), "{error}");
    });
}

#[test]
fn an_inherited_socket_cannot_change_its_namespace() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut spec = ListenerSpec::inherited(server.as_raw_fd());
    spec.network_namespace = Some("blue".to_owned());
    assert_eq!(open(&spec).unwrap_err().step(), Step::Namespace);
}

#[test]
fn a_released_number_is_closed_and_only_that() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = std::os::fd::IntoRawFd::into_raw_fd(server);
    let listener = open(&ListenerSpec::inherited(number))
        .unwrap()
        .listeners
        .remove(0);
    assert!(release(&listener).unwrap());
    assert!(
        !release(&listener).unwrap(),
        "it is closed, or another file has the number"
    );
    let created = open(&ListenerSpec::tcp("127.0.0.1:0".parse().unwrap())).unwrap();
    assert!(!release(&created.listeners[0]).unwrap());
    TcpStream::connect(listener.local().inet().unwrap()).unwrap();
}

#[test]
fn sockets_of_one_activation_name_are_as_many_listeners() {
    let sockets: Vec<TcpListener> = (0..3)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let names = ["web", "admin", "web"].map(str::to_owned);
    let numbers = sockets.iter().map(AsRawFd::as_raw_fd);
    let mut context = OpenContext::default();
    context.activation = Some(Activation {
        sockets: names.into_iter().zip(numbers).collect(),
    });
    let opened = open_with(&ListenerSpec::activated("web"), &context).unwrap();
    let ports: Vec<u16> = opened
        .listeners
        .iter()
        .map(|l| l.local().inet().unwrap().port())
        .collect();
    let port = |index: usize| sockets[index].local_addr().unwrap().port();
    assert_eq!(ports, [port(0), port(2)]);
    // The error for one of several says which.
    let file = std::fs::File::open("/dev/null").unwrap();
    let activation = context.activation.as_mut().unwrap();
    activation
        .sockets
        .push(("web".to_owned(), file.as_raw_fd()));
    let error = open_with(&ListenerSpec::activated("web"), &context).unwrap_err();
    assert_eq!(error.report().inherited, Some(file.as_raw_fd()));
    let place = format!("[LISTEN_FDNAMES=web, fd@{}]", file.as_raw_fd());
    assert!(error.to_string().contains(&place), "{error}");
    let error = open_with(&ListenerSpec::activated("mail"), &context).unwrap_err();
    assert_eq!(error.step(), Step::Activation);
    assert!(
        error.to_string().contains("there are: admin, web"),
        "{error}"
    );
}
