//! A socket that listens gets another specification's options, and keeps its queue.
//!
//! Decides:  nothing; an adjusted socket must read back as one that was opened so.
//! Not here: what each option does (options.rs, md5.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use portcullis_listener::spec::{FastOpenQueue, Foreign, Ipv6Only};
use portcullis_listener::{Change, Listener, ListenerSpec, Step, adjust, compare, open};
use portcullis_sockopt::{self as sockopt, SockOpt};
use portcullis_sys::sockopt as sys;

type Edit = fn(&mut ListenerSpec);

const OPTIONS: [(&str, Edit); 12] = [
    ("nothing", |_| {}),
    ("backlog", |spec| spec.backlog = Some(77)),
    ("maxconn", |spec| spec.maxconn = 55),
    ("mss", |spec| spec.mss = Some(900)),
    ("defer-accept", |spec| {
        spec.defer_accept = Some(Duration::from_secs(1));
    }),
    ("tfo", |spec| {
        spec.fast_open = Some(FastOpenQueue::Length(9))
    }),
    ("nolinger", |spec| spec.no_linger = true),
    ("tcp-smart-accept", |spec| spec.no_quick_ack = true),
    ("tcp-ut", |spec| {
        spec.user_timeout = Some(Duration::from_millis(7_000));
    }),
    ("cc", |spec| {
        spec.congestion_control = Some("reno".to_owned())
    }),
    ("nodelay", |spec| spec.no_delay = true),
    ("incoming-cpu", |spec| spec.incoming_cpus = vec![0]),
];

fn spec(edit: Edit) -> ListenerSpec {
    let mut spec = ListenerSpec::tcp("127.0.0.1:0".parse().unwrap());
    edit(&mut spec);
    spec
}

fn opened(spec: &ListenerSpec) -> Listener {
    open(spec).unwrap().listeners.remove(0)
}

/// Every option that can be adjusted, as the kernel tells it.
fn told(socket: impl AsFd) -> Vec<(String, i32)> {
    let int = |option: &SockOpt| {
        let value = sys::get_int(&socket, option.level.number(), option.number);
        (option.name.to_owned(), value.unwrap())
    };
    let mut told: Vec<(String, i32)> = [
        &sockopt::TCP_MAXSEG,
        &sockopt::TCP_DEFER_ACCEPT,
        &sockopt::TCP_FASTOPEN,
        &sockopt::TCP_QUICKACK,
        &sockopt::TCP_USER_TIMEOUT,
        &sockopt::TCP_NODELAY,
        &sockopt::SO_INCOMING_CPU,
    ]
    .map(int)
    .into();
    let linger = sys::linger(&socket).unwrap().unwrap_or(-1);
    told.push(("linger".to_owned(), linger));
    let limit = sys::accept_queue(&socket).unwrap().unwrap().limit;
    told.push(("backlog".to_owned(), limit as i32));
    told.push((format!("cc {}", sys::congestion(&socket).unwrap()), 0));
    told
}

#[test]
fn from_any_option_to_any_other_a_socket_becomes_as_if_opened_so() {
    for (from, before) in OPTIONS {
        for (to, after) in OPTIONS {
            let (old, new) = (spec(before), spec(after));
            let expected = match from == to {
                true => Change::None,
                false => Change::Options,
            };
            assert_eq!(compare(&old, &new), expected, "{from} to {to}");
            let living = opened(&old);
            let reports = adjust(&living, 0, &old, &new, 0).unwrap();
            assert_eq!(reports, [], "{from} to {to}");
            assert_eq!(told(&living), told(opened(&new)), "{from} to {to}");
        }
    }
}

#[test]
fn what_waits_in_the_queue_is_still_there() {
    let old = spec(|_| {});
    let new = spec(|spec| {
        for (_, edit) in OPTIONS {
            edit(spec);
        }
    });
    let living = opened(&old);
    let address = living.facts().local.inet().unwrap();
    let clients: Vec<TcpStream> = (0..3)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    adjust(&living, 0, &old, &new, 0).unwrap();
    let listener = TcpListener::try_from(living).unwrap();
    for client in clients {
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from, client.local_addr().unwrap());
    }
}

#[test]
fn an_option_that_is_refused_is_reported_and_where_that_is_an_error_nothing_stays_changed() {
    let old = spec(|spec| spec.mss = Some(900));
    let mut new = spec(|spec| {
        spec.mss = Some(1_000);
        spec.user_timeout = Some(Duration::from_secs(9));
        spec.congestion_control = Some("no-such-algorithm".to_owned());
    });
    let living = opened(&old);
    let before = told(&living);
    new.strict = true;
    let error = adjust(&living, 3, &old, &new, 5).unwrap_err();
    assert_eq!((error.step(), error.spec()), (Step::Congestion, 5));
    assert_eq!(told(&living), before);
    new.strict = false;
    let reports = adjust(&living, 3, &old, &new, 5).unwrap();
    let refused: Vec<_> = reports.iter().map(|it| (it.step, it.shard)).collect();
    assert_eq!(refused, [(Step::Congestion, 3)]);
    let user_timeout = told(&living).remove(4);
    assert_eq!(user_timeout, ("TCP_USER_TIMEOUT".to_owned(), 9_000));
}

#[test]
fn what_only_another_socket_can_have_is_named() {
    let others: [(&str, Edit); 6] = [
        ("address", |spec| {
            spec.address = ListenerSpec::mptcp("127.0.0.1:0".parse().unwrap()).address;
        }),
        ("namespace", |spec| {
            spec.network_namespace = Some("x".to_owned());
        }),
        ("interface", |spec| spec.interface = Some("lo".to_owned())),
        ("v6only", |spec| spec.ipv6_only = Some(Ipv6Only::On)),
        ("transparent", |spec| spec.foreign = Some(Foreign::Freebind)),
        ("mode, user or group", |spec| {
            spec.unix_permissions.mode = Some(0o600);
        }),
    ];
    for (what, edit) in others {
        let (plain, other) = (spec(|_| {}), spec(edit));
        assert_eq!(compare(&plain, &other), Change::Socket(what));
        assert_eq!(compare(&other, &plain), Change::Socket(what));
    }
    let mut shards = spec(|_| {});
    shards.shards = 9;
    shards.name = "other".to_owned();
    shards.reuse_port = false;
    assert_eq!(compare(&spec(|_| {}), &shards), Change::None);
}

#[test]
fn a_unix_socket_takes_another_backlog() {
    let directory = tempfile::tempdir().unwrap();
    let mut old = ListenerSpec::unix(directory.path().join("s"));
    old.backlog = Some(1);
    let living = opened(&old);
    let mut new = old.clone();
    new.backlog = Some(50);
    new.no_linger = true;
    assert_eq!(compare(&old, &new), Change::Options);
    assert_eq!(adjust(&living, 0, &old, &new, 0).unwrap(), []);
    let path = directory.path().join("s");
    // With the old backlog the third would be told to try again.
    let clients = (0..10).map(|_| {
        let client = std::os::unix::net::UnixStream::connect(&path);
        client.unwrap()
    });
    assert_eq!(clients.collect::<Vec<_>>().len(), 10);
}
