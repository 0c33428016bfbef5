//! Any specification opens or gives an error: it never panics, and never keeps a descriptor or file.
//!
//! Decides:  nothing; random specifications of everything at once, in a process and a network of
//!           their own, with every descriptor counted. A failure prints its seed; PORTCULLIS_SEED
//!           runs it again.
//! Not here: what a specification should do (the other tests).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_listener::spec::{
    AbstractForm, Address, FastOpenQueue, Foreign, Ipv6Only, Md5Key, UnixPermissions,
};
use portcullis_listener::{ListenerSpec, OpenContext, open_set};
use portcullis_sys::testing::{Refusal, refuse};
use portcullis_testkit::private_network;
use proptest::collection::vec;
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

const CASES: u32 = 400;

/// Inherited numbers: a listener, a bound socket, a file, one that is not open.
#[derive(Clone)]
struct Numbers(Vec<i32>);

fn address(directory: PathBuf, numbers: Numbers) -> impl Strategy<Value = Address> {
    let ip = select(vec![
        "127.0.0.1",
        "0.0.0.0",
        "192.0.2.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "2001:db8::1",
        "ff02::1",
        "fe80::1",
    ]);
    let inet = (ip, select(vec![0u16, 80, 443, 8080, 65_535]))
        .prop_map(|(ip, port)| std::net::SocketAddr::new(ip.parse().unwrap(), port));
    let path = select(vec!["a", "b", "folder", "file", "missing/x", "", "a\0b"]);
    let form = select(vec![AbstractForm::Padded, AbstractForm::Exact]);
    prop_oneof![
        6 => inet.clone().prop_map(Address::Tcp),
        2 => inet.prop_map(Address::Mptcp),
        2 => path.prop_map(move |name| Address::UnixPath(directory.join(name))),
        1 => (vec(any::<u8>(), 0..120), form)
            .prop_map(|(name, form)| Address::UnixAbstract { name, form }),
        2 => select(numbers.0).prop_map(Address::Inherited),
        1 => Just(Address::Activated("web".to_owned())),
    ]
}

fn with_queues(spec: impl Strategy<Value = ListenerSpec>) -> impl Strategy<Value = ListenerSpec> {
    let length = || select(vec![0u32, 1, 100, 5_000, u32::MAX]);
    let queues = (0u16..4, of(length()), length(), of(length()));
    let strict = proptest::bool::weighted(0.1);
    (spec, queues, any::<[bool; 5]>(), strict).prop_map(|(mut spec, queues, flags, strict)| {
        spec.strict = strict;
        (spec.shards, spec.backlog, spec.maxconn) = (queues.0, queues.1, queues.2);
        spec.fast_open = queues.3.map(FastOpenQueue::Length);
        [
            spec.reuse_addr,
            spec.reuse_port,
            spec.no_linger,
            spec.no_quick_ack,
            spec.no_delay,
        ] = flags;
        spec
    })
}

fn with_options(spec: impl Strategy<Value = ListenerSpec>) -> impl Strategy<Value = ListenerSpec> {
    let foreign = vec![
        Foreign::TransparentOrFreebind,
        Foreign::Transparent,
        Foreign::Freebind,
    ];
    let time = || {
        of(select(vec![
            Duration::ZERO,
            Duration::from_millis(1),
            Duration::MAX,
        ]))
    };
    let word = select(vec!["lo", "reno", "nosuch", "", "a\0b", "0123456789abcdef"]);
    let only = of(select(vec![Ipv6Only::On, Ipv6Only::Off]));
    let options = (
        of(select(foreign)),
        of(word.clone()),
        of(any::<i32>()),
        time(),
        time(),
        only,
    );
    // Where they are refused nothing opens, so most specifications have neither.
    let closing = (weighted(0.2, word), weighted(0.2, md5_key()));
    (spec, options, closing).prop_map(|(mut spec, options, (interface, key))| {
        spec.foreign = options.0;
        spec.congestion_control = options.1.map(str::to_owned);
        spec.mss = options.2;
        (spec.defer_accept, spec.user_timeout) = (options.3, options.4);
        spec.ipv6_only = options.5;
        spec.interface = interface.map(str::to_owned);
        spec.md5_keys = key.into_iter().collect();
        spec
    })
}

fn md5_key() -> impl Strategy<Value = Md5Key> {
    let peer = select(vec![
        ("10.0.0.0", 8u8),
        ("::", 0),
        ("fd00::", 129),
        ("1.2.3.4", 33),
    ]);
    let secret = select(vec![String::new(), "s".to_owned(), "s".repeat(81)]);
    (of(peer), secret).prop_map(|(peer, secret)| Md5Key {
        peers: peer.map(|(ip, len)| (ip.parse().unwrap(), len)),
        secret,
    })
}

fn with_surroundings(
    spec: impl Strategy<Value = ListenerSpec>,
) -> impl Strategy<Value = ListenerSpec> {
    let namespace = select(vec!["nosuch", "/proc/self/ns/net", "/dev/null", ""]);
    let id = || weighted(0.3, select(vec![0u32, 65_534, u32::MAX]));
    let cpus = vec(select(vec![0u32, 1, 5_000, u32::MAX]), 0..3);
    let ids = (id(), id(), of(any::<u32>()), id());
    (spec, weighted(0.1, namespace), ids, cpus).prop_map(|(mut spec, namespace, ids, cpus)| {
        spec.network_namespace = namespace.map(str::to_owned);
        spec.unix_permissions = UnixPermissions {
            uid: ids.0,
            gid: ids.1,
            mode: ids.2,
        };
        spec.owner_uid = ids.3;
        spec.incoming_cpus = cpus;
        spec
    })
}

fn specs(directory: &Path, numbers: &Numbers) -> impl Strategy<Value = Vec<ListenerSpec>> + use<> {
    let plain = address(directory.to_owned(), numbers.clone()).prop_map(ListenerSpec::new);
    vec(with_surroundings(with_options(with_queues(plain))), 0..4)
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Numbers from PORTCULLIS_SEED, or from the clock; the seed is printed.
fn random() -> TestRng {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let given = std::env::var("PORTCULLIS_SEED").ok();
    let seed: u64 = given.map_or(now, |seed| seed.parse().unwrap());
    eprintln!("PORTCULLIS_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

/// Opens the set; whatever comes of it, descriptors and files are as before in the end.
fn open_and_close(directory: &Path, set: &[ListenerSpec]) -> Result<bool, TestCaseError> {
    let before = (descriptors(), files(directory));
    let opened = open_set(set, &OpenContext::default());
    let is_open = match &opened {
        Ok(opened) => {
            prop_assert!(opened.listeners.len() >= set.len());
            for report in &opened.reports {
                prop_assert!(!report.to_string().contains('\n'));
            }
            prop_assert_eq!(descriptors(), before.0 + opened.listeners.len());
            portcullis_listener::set::remove_paths(&opened.listeners);
            true
        }
        Err(error) => {
            prop_assert!(!error.errors.is_empty());
            prop_assert!(!error.to_string().contains('\n'));
            false
        }
    };
    drop(opened);
    prop_assert_eq!((descriptors(), files(directory)), before);
    Ok(is_open)
}

fn run(refusals: &[Refusal], must_open: bool) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("folder")).unwrap();
    std::fs::write(directory.path().join("file"), "").unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let numbers = Numbers(vec![server.as_raw_fd(), udp.as_raw_fd(), -1, 900]);
    refuse(refusals).unwrap();
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let opened = std::cell::Cell::new(0u32);
    let strategy = specs(directory.path(), &numbers);
    TestRunner::new_with_rng(config, random())
        .run(&strategy, |set| {
            let is_open = open_and_close(directory.path(), &set)?;
            opened.set(opened.get() + u32::from(is_open && !set.is_empty()));
            Ok(())
        })
        .unwrap();
    assert!(
        opened.get() > CASES / 40 || !must_open,
        "only {} sets opened: the test shows little",
        opened.get()
    );
}

#[test]
fn random_sets_open_or_fail_and_leave_nothing_behind() {
    private_network(|| run(&[], true));
}

#[test]
fn random_sets_leave_nothing_behind_where_listen_is_refused() {
    private_network(|| run(&[Refusal::of(libc::SYS_listen, libc::EADDRINUSE)], false));
}

#[test]
fn random_sets_leave_nothing_behind_where_paths_cannot_be_taken() {
    private_network(|| run(&[Refusal::of(libc::SYS_renameat2, libc::EINVAL)], false));
}
