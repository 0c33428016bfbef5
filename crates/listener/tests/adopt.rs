//! Sockets that were handed in are taken in place of new ones, with their queues.
//!
//! Decides:  nothing; which socket is taken is told by its identity, and by who is in its queue.
//! Not here: how they travel between processes (handover.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use portcullis_listener::adopt::Options;
use portcullis_listener::opener::{InProcess, Opener as _};
use portcullis_listener::spec::{AbstractForm, Ipv6Only};
use portcullis_listener::{
    Address, Known, Listener, ListenerSpec, OpenContext, Opened, Pool, open, open_set,
};
use portcullis_sys::fd::Identity;
use portcullis_sys::sockopt::{accept_queue, get_int};
use portcullis_testkit::private_network;

fn identity(fd: impl AsFd) -> Identity {
    Identity::of(fd).unwrap()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// As a process hands it on, and keeps its own.
fn give(pool: &Pool, spec: &ListenerSpec, listeners: &[Listener]) {
    for listener in listeners {
        let copy = listener.try_clone().unwrap();
        let (fd, facts) = copy.into_parts();
        let spec = spec.clone();
        let options = Options::AsSpecified;
        let known = Known {
            spec,
            facts,
            options,
        };
        pool.give(fd, Some(known)).unwrap();
    }
}

/// As HAProxy does: nothing but the descriptor.
fn give_bare(pool: &Pool, listeners: &[Listener]) {
    for listener in listeners {
        let (fd, _) = listener.try_clone().unwrap().into_parts();
        pool.give(fd, None).unwrap();
    }
}

fn open_from(pool: &Pool, specs: &[ListenerSpec]) -> Opened {
    let mut context = OpenContext::default();
    context.pool = pool.clone();
    open_set(specs, &context).unwrap()
}

fn identities(listeners: &[Listener]) -> Vec<Identity> {
    listeners.iter().map(identity).collect()
}

#[test]
fn a_socket_is_taken_with_its_queue_and_gets_the_options_of_the_new_specification() {
    private_network(|| {
        let mut before = ListenerSpec::tcp(local(80));
        before.backlog = Some(5);
        before.mss = Some(900);
        let old = open(&before).unwrap().listeners;
        let mut client = TcpStream::connect(local(80)).unwrap();
        client.write_all(b"x").unwrap();
        for bare in [false, true] {
            let pool = Pool::default();
            match bare {
                true => give_bare(&pool, &old),
                false => give(&pool, &before, &old),
            }
            let mut after = ListenerSpec::tcp(local(80));
            after.backlog = Some(7);
            after.congestion_control = Some("reno".to_owned());
            let new = open_from(&pool, &[after]);
            assert_eq!(identities(&new.listeners), identities(&old), "bare: {bare}");
            assert!(new.listeners[0].facts().adopted && pool.is_empty());
            assert_eq!(new.reports, []);
            let queue = accept_queue(&new.listeners[0]).unwrap().unwrap();
            assert_eq!((queue.waiting, queue.limit), (1, 7));
            let cc = portcullis_sys::sockopt::congestion(&new.listeners[0]).unwrap();
            assert_eq!(cc, "reno");
            let mss = &portcullis_sockopt::TCP_MAXSEG;
            let mss = get_int(&new.listeners[0], mss.level.number(), mss.number).unwrap();
            assert_ne!(mss, 900);
        }
        // What took it is closed again; who had it goes on.
        let server = TcpListener::try_from(old.into_iter().next().unwrap()).unwrap();
        assert!(server.accept().is_ok());
    });
}

type Edit = fn(&mut ListenerSpec);

#[test]
fn what_another_socket_must_have_is_not_taken_from_this_one() {
    private_network(|| {
        let plain: Edit = |_| {};
        let rows: [(&str, Edit, Edit, bool); 9] = [
            ("the same", plain, plain, true),
            (
                "another name",
                |it| it.name = "a".into(),
                |it| it.name = "b".into(),
                true,
            ),
            (
                "another port",
                plain,
                |it| it.address = Address::Tcp(local(81)),
                false,
            ),
            (
                "another address of the port",
                plain,
                |it| it.address = Address::Tcp("127.0.0.2:80".parse().unwrap()),
                false,
            ),
            (
                "a device",
                plain,
                |it| it.interface = Some("lo".to_owned()),
                false,
            ),
            (
                "the same device",
                |it| it.interface = Some("lo".to_owned()),
                |it| it.interface = Some("lo".to_owned()),
                true,
            ),
            (
                "free to bind",
                plain,
                |it| it.foreign = Some(portcullis_listener::spec::Foreign::Freebind),
                false,
            ),
            (
                "IPv4 too",
                |it| {
                    it.address = Address::Tcp("[::]:80".parse().unwrap());
                    it.ipv6_only = Some(Ipv6Only::On);
                },
                |it| {
                    it.address = Address::Tcp("[::]:80".parse().unwrap());
                    it.ipv6_only = Some(Ipv6Only::Off);
                },
                false,
            ),
            (
                "no difference on one address",
                |it| {
                    it.address = Address::Tcp("[::1]:80".parse().unwrap());
                    it.ipv6_only = Some(Ipv6Only::On);
                },
                |it| it.address = Address::Tcp("[::1]:80".parse().unwrap()),
                true,
            ),
        ];
        for (label, before, after, taken) in rows {
            let spec = |edit: Edit| {
                let mut spec = ListenerSpec::tcp(local(80));
                edit(&mut spec);
                spec
            };
            let old = open(&spec(before)).unwrap().listeners;
            let pool = Pool::default();
            give_bare(&pool, &old);
            let new = open_from(&pool, &[spec(after)]);
            let same = identities(&new.listeners) == identities(&old);
            assert_eq!(same, taken, "{label}");
            assert_eq!(pool.close_rest().len(), usize::from(!taken), "{label}");
        }
    });
}

#[test]
fn a_multipath_socket_is_not_a_plain_one() {
    private_network(|| {
        let Ok(opened) = open(&ListenerSpec::mptcp(local(80))) else {
            portcullis_testkit::skip("this kernel has no Multipath TCP");
            return;
        };
        let old = opened.listeners;
        let pool = Pool::default();
        give_bare(&pool, &old);
        let new = open_from(&pool, &[ListenerSpec::tcp(local(80))]);
        assert_ne!(identities(&new.listeners), identities(&old));
        let new = open_from(&pool, &[ListenerSpec::mptcp(local(80))]);
        assert_eq!(identities(&new.listeners), identities(&old));
        assert_eq!(new.reports, []);
    });
}

#[test]
fn fewer_shards_take_all_sockets_and_more_shards_open_beside_them() {
    private_network(|| {
        for (had, wants) in [(1, 1), (1, 3), (3, 1), (3, 2), (2, 3), (4, 4)] {
            let mut before = ListenerSpec::tcp(local(80));
            before.shards = had;
            // One alone that let nobody in beside it.
            before.reuse_port = had > 1;
            let old = open(&before).unwrap().listeners;
            let pool = Pool::default();
            give(&pool, &before, &old);
            let mut after = before.clone();
            after.reuse_port = true;
            after.shards = wants;
            let new = open_from(&pool, &[after]);
            let label = format!("{had} to {wants}");
            assert_eq!(
                new.listeners.len(),
                usize::from(had.max(wants)),
                "{label}: {:?}",
                new.reports
            );
            let taken = &new.listeners[..old.len()];
            assert_eq!(identities(taken), identities(&old), "{label}");
            for (shard, listener) in new.listeners.iter().enumerate() {
                let facts = listener.facts();
                assert_eq!(usize::from(facts.shard), shard);
                assert_eq!(usize::from(facts.shards), new.listeners.len());
                assert_eq!(facts.adopted, shard < old.len());
            }
        }
    });
}

#[test]
fn two_lines_at_one_address_find_their_own_by_name() {
    private_network(|| {
        let named = |name: &str| {
            let mut spec = ListenerSpec::tcp(local(80));
            spec.name = name.to_owned();
            spec
        };
        let (a, b) = (named("a"), named("b"));
        let of_a = open(&a).unwrap().listeners;
        let of_b = open(&b).unwrap().listeners;
        let pool = Pool::default();
        give(&pool, &a, &of_a);
        give(&pool, &b, &of_b);
        let new = open_from(&pool, &[b, a]);
        let expected = [identities(&of_b), identities(&of_a)].concat();
        assert_eq!(identities(&new.listeners), expected);
    });
}

#[test]
fn a_port_that_the_kernel_chose_is_found_by_the_name_of_its_listener() {
    private_network(|| {
        let mut spec = ListenerSpec::tcp(local(0));
        spec.name = "front".to_owned();
        let old = open(&spec).unwrap().listeners;
        let pool = Pool::default();
        give(&pool, &spec, &old);
        let mut other = spec.clone();
        other.name = "other".to_owned();
        let new = open_from(&pool, &[other, spec]);
        assert_ne!(identity(&new.listeners[0]), identity(&old[0]));
        assert_eq!(identity(&new.listeners[1]), identity(&old[0]));
    });
}

#[test]
fn unix_sockets_are_taken_while_the_path_is_theirs() {
    private_network(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("door");
        let spec = ListenerSpec::unix(&path);
        for bare in [false, true] {
            let old = open(&spec).unwrap().listeners;
            let client = UnixStream::connect(&path).unwrap();
            let pool = Pool::default();
            match bare {
                true => give_bare(&pool, &old),
                false => give(&pool, &spec, &old),
            }
            let new = open_from(&pool, std::slice::from_ref(&spec));
            assert_eq!(identities(&new.listeners), identities(&old));
            drop(old);
            let listener = new.listeners.into_iter().next().unwrap();
            // The file is known: it can be removed by who took the socket.
            let file = listener.facts().socket_file.clone().unwrap();
            assert_eq!(file.path, path);
            let copy = listener.try_clone().unwrap();
            assert!(UnixListener::try_from(copy).unwrap().accept().is_ok());
            drop(client);
            assert!(listener.remove_path().unwrap());
        }
        // Somebody else's socket has the path now.
        let old = open(&spec).unwrap().listeners;
        let pool = Pool::default();
        give(&pool, &spec, &old);
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        let new = open_from(&pool, std::slice::from_ref(&spec));
        assert_ne!(identities(&new.listeners), identities(&old));
        for form in [AbstractForm::Exact, AbstractForm::Padded] {
            let name = b"door".to_vec();
            let spec = ListenerSpec::new(Address::UnixAbstract { name, form });
            let old = open(&spec).unwrap().listeners;
            let pool = Pool::default();
            give_bare(&pool, &old);
            let new = open_from(&pool, &[spec]);
            assert_eq!(identities(&new.listeners), identities(&old));
        }
    });
}

#[test]
fn a_number_and_a_name_of_systemd_are_what_the_last_holder_said() {
    private_network(|| {
        let number: OwnedFd = TcpListener::bind(local(80)).unwrap().into();
        let raw = std::os::fd::AsRawFd::as_raw_fd(&number);
        let spec = ListenerSpec::inherited(raw);
        let old = open(&spec).unwrap().listeners;
        let pool = Pool::default();
        give(&pool, &spec, &old);
        // In another process the number is nothing, or another file.
        drop(number);
        let new = open_from(&pool, &[spec]);
        assert_eq!(identities(&new.listeners), identities(&old));
        assert_eq!(new.listeners[0].facts().inherited, Some(raw));

        let systemd = ListenerSpec::activated("web");
        let pool = Pool::default();
        give(&pool, &systemd, &old);
        give(&pool, &systemd, &old);
        let new = open_from(&pool, &[systemd]);
        assert_eq!(new.listeners.len(), 2);
    });
}

#[test]
fn what_is_not_taken_is_closed_after_the_first_set_and_its_holder_goes_on() {
    private_network(|| {
        let old = open(&ListenerSpec::tcp(local(80))).unwrap().listeners;
        let pool = Pool::default();
        give_bare(&pool, &old);
        let mut context = OpenContext::default();
        context.pool = pool.clone();
        let mut opener = InProcess::new().with_context(context);
        let occupied = TcpListener::bind(local(81)).unwrap();
        let refused = opener.open(&[ListenerSpec::tcp(local(81))]);
        assert!(refused.is_err() && pool.len() == 1);
        drop(occupied);
        opener.open(&[ListenerSpec::tcp(local(81))]).unwrap();
        assert!(pool.is_empty());
        let _client = TcpStream::connect(local(80)).unwrap();
        let server = TcpListener::try_from(old.into_iter().next().unwrap()).unwrap();
        assert!(server.accept().is_ok());
    });
}

#[test]
fn what_a_retirement_left_behind_is_taken_off() {
    private_network(|| {
        let spec = ListenerSpec::tcp(local(80));
        let old = open(&spec).unwrap().listeners;
        portcullis_listener::pause::pause(&old[0]).unwrap();
        let pool = Pool::default();
        give(&pool, &spec, &old);
        let _new = open_from(&pool, &[spec]);
        let soon = std::time::Duration::from_millis(500);
        assert!(TcpStream::connect_timeout(&local(80), soon).is_ok());
    });
}

#[test]
fn what_could_never_listen_is_refused() {
    let pool = Pool::default();
    let file = std::fs::File::open("/dev/null").unwrap();
    pool.give(file.into(), None).unwrap_err();
    let (one, _other) = UnixStream::pair().unwrap();
    pool.give(one.into(), None).unwrap_err();
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    pool.give(datagrams.into(), None).unwrap_err();
    assert!(pool.is_empty());
}

/// What an opening may change of a socket that it takes.
fn state(socket: impl AsFd) -> (Vec<i32>, u32, String, Option<i32>, u32) {
    let fd = socket.as_fd();
    let numbers = [
        &portcullis_sockopt::SO_REUSEPORT,
        &portcullis_sockopt::TCP_MAXSEG,
        &portcullis_sockopt::TCP_DEFER_ACCEPT,
        &portcullis_sockopt::TCP_FASTOPEN,
        &portcullis_sockopt::TCP_USER_TIMEOUT,
        &portcullis_sockopt::TCP_NODELAY,
        &portcullis_sockopt::SO_INCOMING_CPU,
        &portcullis_sockopt::TCP_QUICKACK,
    ];
    let numbers = numbers.map(|it| get_int(fd, it.level.number(), it.number).unwrap());
    let queue = accept_queue(fd).unwrap().unwrap();
    (
        numbers.to_vec(),
        queue.limit,
        portcullis_sys::sockopt::congestion(fd).unwrap(),
        portcullis_sys::sockopt::linger(fd).unwrap(),
        rustix::fs::fstat(fd).unwrap().st_uid,
    )
}

#[test]
fn a_refused_set_leaves_the_sockets_that_it_took_as_they_were() {
    private_network(|| {
        let mut plain = ListenerSpec::tcp(local(80));
        plain.reuse_port = false;
        plain.backlog = Some(5);
        let second = std::time::Duration::from_secs(1);
        let mut dressed = plain.clone();
        dressed.mss = Some(900);
        dressed.defer_accept = Some(3 * second);
        dressed.user_timeout = Some(9 * second);
        dressed.no_linger = true;
        dressed.no_delay = true;
        dressed.no_quick_ack = true;
        dressed.incoming_cpus = vec![0];
        dressed.fast_open = Some(portcullis_listener::spec::FastOpenQueue::Length(9));
        dressed.congestion_control = Some("reno".to_owned());
        let mut wanted = dressed.clone();
        wanted.reuse_port = true;
        wanted.backlog = Some(7);
        for (label, before, after) in [
            ("options are set", &plain, &wanted),
            (
                "options are taken back",
                &dressed,
                &ListenerSpec::tcp(local(80)),
            ),
        ] {
            let old = open(before).unwrap().listeners;
            let was = state(&old[0]);
            let pool = Pool::default();
            give_bare(&pool, &old);
            let in_the_way = TcpListener::bind(local(81)).unwrap();
            let mut context = OpenContext::default();
            context.pool = pool;
            let set = [after.clone(), ListenerSpec::tcp(local(81))];
            open_set(&set, &context).unwrap_err();
            assert_eq!(state(&old[0]), was, "{label}");

            // The same where nothing refuses does change it: the comparison sees something.
            drop(in_the_way);
            give_bare(&context.pool, &old);
            let opened = open_set(&set, &context).unwrap();
            assert_eq!(identities(&opened.listeners[..1]), identities(&old));
            assert_ne!(state(&old[0]), was, "{label}");
        }
    });
}
