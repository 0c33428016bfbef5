//! Several listeners: all or nothing, in order, tried again only when asked to.
//!
//! Decides:  nothing.
//! Not here: Unix paths that go back (unix_paths.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use portcullis_listener::{
    Flags, ListenerSpec, OpenContext, OpenSet, RetryPolicy, SetError, Step, open, open_set,
};
use portcullis_testkit::private_network;

fn tcp(address: &str) -> ListenerSpec {
    ListenerSpec::tcp(address.parse().unwrap())
}

fn retry(errno: i32, times: u32, delay_ms: u64) -> OpenContext {
    let mut context = OpenContext::default();
    context.retry = RetryPolicy {
        errors: vec![errno],
        times,
        delay: Duration::from_millis(delay_ms),
    };
    context
}

fn failed(error: &SetError) -> Vec<(usize, Step)> {
    error.errors.iter().map(|e| (e.spec(), e.step())).collect()
}

#[test]
fn a_set_opens_in_the_order_of_its_specifications() {
    let set: Vec<ListenerSpec> = (0..4)
        .map(|index| {
            let mut spec = tcp("127.0.0.1:0");
            spec.name = format!("front-{index}");
            spec.shards = 1 + index % 2;
            spec
        })
        .collect();
    let opened = open_set(&set, &OpenContext::default()).unwrap();
    let order: Vec<(usize, u16)> = opened
        .listeners
        .iter()
        .map(|l| (l.spec(), l.facts().shard))
        .collect();
    assert_eq!(order, [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0), (3, 1)]);
    assert_eq!(opened.listeners[5].facts().name, "front-3");
}

#[test]
fn a_wildcard_and_a_specific_address_of_one_port_open_in_either_order() {
    private_network(|| {
        for order in [
            ["0.0.0.0:80", "127.0.0.1:80"],
            ["127.0.0.1:80", "0.0.0.0:80"],
        ] {
            let opened = open_set(&order.map(tcp), &OpenContext::default()).unwrap();
            let locals = opened.listeners.iter().map(|l| l.local().to_string());
            assert_eq!(locals.collect::<Vec<_>>(), order);
        }
        let both = ["[::]:80", "0.0.0.0:80", "[::1]:80"].map(tcp);
        assert_eq!(
            open_set(&both, &OpenContext::default())
                .unwrap()
                .listeners
                .len(),
            3
        );
    });
}

#[test]
fn every_failure_is_told_and_nothing_stays_open() {
    private_network(|| {
        let held = TcpListener::bind("127.0.0.1:81").unwrap();
        let set = [
            "127.0.0.1:80",
            "127.0.0.1:81",
            "192.0.2.1:82",
            "127.0.0.1:83",
        ]
        .map(tcp);
        let error = open_set(&set, &OpenContext::default()).unwrap_err();
        assert_eq!(failed(&error), [(1, Step::Bind), (2, Step::Bind)]);
        assert_eq!(error.flags, Flags::RETRYABLE | Flags::ALERT);
        assert_eq!(error.tries, 1);
        assert_eq!(
            error.to_string(),
            "cannot bind socket [127.0.0.1:81]: address already in use (EADDRINUSE); \
             cannot bind socket [192.0.2.1:82]: cannot assign requested address (EADDRNOTAVAIL)"
        );
        for port in [80, 83] {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            TcpStream::connect(address).unwrap_err();
        }
        // The one who held the port did not notice.
        let _client = TcpStream::connect("127.0.0.1:81").unwrap();
        held.accept().unwrap();
    });
}

#[test]
fn abort_stops_at_once_and_the_others_are_not_tried() {
    let mut context = OpenContext::default();
    context.max_descriptor = Some(3);
    let set = ["127.0.0.1:0", "127.0.0.1:0"].map(tcp);
    let error = open_set(&set, &context).unwrap_err();
    assert_eq!(failed(&error), [(0, Step::DescriptorLimit)]);
    assert!(error.flags.contains(Flags::ABORT));
}

#[test]
fn flags_of_refusals_and_errors_add_up() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut warned = tcp("127.0.0.1:0");
    warned.mss = Some(1);
    let set = [warned, ListenerSpec::tcp(held.local_addr().unwrap())];
    let error = open_set(&set, &OpenContext::default()).unwrap_err();
    assert_eq!(error.reports.len(), 1);
    assert_eq!(error.flags, Flags::WARN | Flags::RETRYABLE | Flags::ALERT);
}

#[test]
fn a_second_open_does_nothing_and_a_later_member_is_opened_alone() {
    let mut set = OpenSet::new(vec![tcp("127.0.0.1:0")]);
    let context = OpenContext::default();
    set.open(&context).unwrap();
    let first = set.listeners(0)[0].local().clone();
    assert_eq!(set.open(&context), Ok(Vec::new()));
    let index = set.push(tcp("127.0.0.1:0"));
    set.open(&context).unwrap();
    assert_eq!(*set.listeners(0)[0].local(), first);
    assert_eq!(set.listeners(index).len(), 1);
    assert_eq!(set.specs().len(), 2);
}

#[test]
fn a_member_that_cannot_be_added_leaves_the_open_ones_open() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut set = OpenSet::new(vec![tcp("127.0.0.1:0")]);
    let context = OpenContext::default();
    set.open(&context).unwrap();
    set.push(tcp("127.0.0.1:0"));
    set.push(ListenerSpec::tcp(held.local_addr().unwrap()));
    let error = set.open(&context).unwrap_err();
    assert_eq!(failed(&error), [(2, Step::Bind)]);
    assert_eq!(set.listeners(1).len(), 0);
    let open = set.listeners(0)[0].local().inet().unwrap();
    TcpStream::connect(open).unwrap();
}

#[test]
fn nothing_is_tried_again_unless_asked_for() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = ListenerSpec::tcp(held.local_addr().unwrap());
    let other_error = retry(libc::EADDRNOTAVAIL, 50, 1_000);
    for context in [OpenContext::default(), other_error] {
        let begin = Instant::now();
        let error = open_set(std::slice::from_ref(&spec), &context).unwrap_err();
        assert_eq!(error.tries, 1);
        assert!(begin.elapsed() < Duration::from_millis(900));
    }
}

#[test]
fn tries_end_after_as_many_as_asked_for() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = ListenerSpec::tcp(held.local_addr().unwrap());
    let begin = Instant::now();
    let error = open_set(&[spec], &retry(libc::EADDRINUSE, 3, 10)).unwrap_err();
    assert_eq!(error.tries, 4);
    assert!(begin.elapsed() >= Duration::from_millis(30));
}

#[test]
fn a_port_that_becomes_free_is_taken_and_what_opened_before_stays_open_meanwhile() {
    private_network(|| {
        let held = TcpListener::bind("127.0.0.1:81").unwrap();
        let set = ["127.0.0.1:80", "127.0.0.1:81"].map(tcp);
        let opening = std::thread::spawn(move || open_set(&set, &retry(libc::EADDRINUSE, 500, 10)));
        // The first is open while the second is waited for, and keeps this client.
        let mut early = None;
        portcullis_testkit::wait_for("port 80", Duration::from_secs(5), || {
            early = TcpStream::connect("127.0.0.1:80").ok();
            early.is_some()
        });
        drop(held);
        let opened = opening.join().unwrap().unwrap();
        let mut listeners = opened.listeners.into_iter();
        let first = TcpListener::try_from(listeners.next().unwrap()).unwrap();
        let (_, peer) = first.accept().unwrap();
        assert_eq!(peer, early.unwrap().local_addr().unwrap());
    });
}

#[test]
fn a_listener_that_waits_holds_back_later_ones_of_its_port() {
    private_network(|| {
        // Held without SO_REUSEPORT: the wildcard is refused, the other address is not.
        let held = TcpListener::bind("127.0.0.2:80").unwrap();
        let set = ["0.0.0.0:80", "127.0.0.1:80"].map(tcp);
        let opening = std::thread::spawn(move || open_set(&set, &retry(libc::EADDRINUSE, 500, 10)));
        std::thread::sleep(Duration::from_millis(50));
        TcpStream::connect("127.0.0.1:80").unwrap_err();
        drop(held);
        assert_eq!(opening.join().unwrap().unwrap().listeners.len(), 2);
    });
}

#[test]
fn a_fatal_error_beside_a_retryable_one_ends_the_trying() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let set = [
        ListenerSpec::tcp(held.local_addr().unwrap()),
        ListenerSpec::inherited(-1),
    ];
    let error = open_set(&set, &retry(libc::EADDRINUSE, 50, 1_000)).unwrap_err();
    assert_eq!(error.tries, 1);
    assert_eq!(failed(&error), [(0, Step::Bind), (1, Step::Inherited)]);
}

#[test]
fn an_empty_set_is_open() {
    let opened = open_set(&[], &OpenContext::default()).unwrap();
    assert!(opened.listeners.is_empty() && opened.reports.is_empty());
}

#[test]
fn facts_and_errors_cross_to_another_process() {
    let opened = open(&tcp("127.0.0.1:0")).unwrap();
    let (fd, facts) = opened.listeners.into_iter().next().unwrap().into_parts();
    let sent = serde_json::to_string(&facts).unwrap();
    let back = portcullis_listener::Listener::from_parts(fd, serde_json::from_str(&sent).unwrap());
    assert_eq!(*back.unwrap().facts(), facts);

    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let error = open_set(
        &[ListenerSpec::tcp(held.local_addr().unwrap())],
        &OpenContext::default(),
    )
    .unwrap_err();
    let sent = serde_json::to_string(&error).unwrap();
    assert_eq!(serde_json::from_str::<SetError>(&sent).unwrap(), error);
}

#[test]
fn a_socket_that_does_not_listen_is_no_listener() {
    let opened = open(&tcp("127.0.0.1:0")).unwrap();
    let (_, facts) = opened.listeners.into_iter().next().unwrap().into_parts();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(portcullis_listener::Listener::from_parts(udp.into(), facts).is_err());
}

#[test]
fn as_many_tries_as_a_number_can_say_are_tries_too() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = ListenerSpec::tcp(held.local_addr().unwrap());
    let free = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(held);
    });
    let opened = open_set(&[spec], &retry(libc::EADDRINUSE, u32::MAX, 5)).unwrap();
    assert_eq!(opened.listeners.len(), 1);
    free.join().unwrap();
}
