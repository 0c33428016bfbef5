//! Every step refused by the kernel: what is reported, how loudly, and does the listener open?
//!
//! Decides:  nothing; a seccomp filter on the test's own thread returns the errno.
//! Not here: options that are accepted (options.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::time::Duration;

use portcullis_listener::spec::{FastOpenQueue, Foreign, Ipv6Only, Md5Key};
use portcullis_listener::step::{OnFailure, STEPS};
use portcullis_listener::{Flags, ListenerSpec, Opened, Step, open};
use portcullis_sockopt as sockopt;
use portcullis_sys::testing::{Refusal, refuse};

const WARN: Flags = Flags::WARN;
const ALERT: Flags = Flags::ALERT;
const TRY_AGAIN: Flags = Flags::RETRYABLE.union(Flags::ALERT);
const FATAL: Flags = Flags::FATAL.union(Flags::ALERT);

/// Does the listener open, without and with `strict`?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opens {
    /// Only without.
    UnlessStrict,
    /// Never.
    Never,
}
use Opens::{Never, UnlessStrict};

struct Row {
    label: &'static str,
    spec: ListenerSpec,
    refused: Vec<Refusal>,
    step: Step,
    flags: Flags,
    opens: Opens,
    line: &'static str,
}

fn v4(change: impl FnOnce(&mut ListenerSpec)) -> ListenerSpec {
    changed("127.0.0.1:0", change)
}

fn v6(change: impl FnOnce(&mut ListenerSpec)) -> ListenerSpec {
    changed("[::1]:0", change)
}

fn changed(address: &str, change: impl FnOnce(&mut ListenerSpec)) -> ListenerSpec {
    let mut spec = ListenerSpec::tcp(address.parse().unwrap());
    change(&mut spec);
    spec
}

fn option(option: &sockopt::SockOpt) -> Refusal {
    Refusal::of_option(option.level.number(), option.number, libc::EDOM)
}

fn call(number: libc::c_long) -> Refusal {
    Refusal::of(number, libc::EDOM)
}

fn row(
    label: &'static str,
    spec: ListenerSpec,
    refused: Vec<Refusal>,
    expected: (Step, Flags, Opens, &'static str),
) -> Row {
    let (step, flags, opens, line) = expected;
    Row {
        label,
        spec,
        refused,
        step,
        flags,
        opens,
        line,
    }
}

/// Rows for the options of a TCP socket.
fn option_rows() -> Vec<Row> {
    let one = |label, spec, name: &sockopt::SockOpt, expected| {
        row(label, spec, vec![option(name)], expected)
    };
    let secret = || Md5Key {
        peers: None,
        secret: "s".to_owned(),
    };
    vec![
        one(
            "row 5",
            v4(|_| ()),
            &sockopt::SO_REUSEADDR,
            (
                Step::ReuseAddr,
                ALERT,
                UnlessStrict,
                "cannot do so_reuseaddr",
            ),
        ),
        one(
            "row 6",
            v4(|s| s.no_linger = true),
            &sockopt::SO_LINGER,
            (Step::NoLinger, WARN, UnlessStrict, "cannot set SO_LINGER"),
        ),
        one(
            "row 7",
            v4(|_| ()),
            &sockopt::SO_REUSEPORT,
            (
                Step::ReusePort,
                WARN,
                UnlessStrict,
                "cannot set SO_REUSEPORT",
            ),
        ),
        row(
            "row 8, IPv4",
            v4(|s| s.foreign = Some(Foreign::TransparentOrFreebind)),
            vec![
                option(&sockopt::IP_TRANSPARENT),
                option(&sockopt::IP_FREEBIND),
            ],
            (
                Step::Foreign,
                ALERT,
                UnlessStrict,
                "cannot make listening socket transparent",
            ),
        ),
        row(
            "row 8, IPv6",
            v6(|s| s.foreign = Some(Foreign::TransparentOrFreebind)),
            vec![
                option(&sockopt::IPV6_TRANSPARENT),
                option(&sockopt::IPV6_FREEBIND),
                option(&sockopt::IP_FREEBIND),
            ],
            (
                Step::Foreign,
                ALERT,
                UnlessStrict,
                "cannot make listening socket transparent",
            ),
        ),
        one(
            "row 8, freebind alone",
            v4(|s| s.foreign = Some(Foreign::Freebind)),
            &sockopt::IP_FREEBIND,
            (
                Step::Foreign,
                ALERT,
                UnlessStrict,
                "cannot make listening socket transparent",
            ),
        ),
        one(
            "row 8, transparent alone",
            v4(|s| s.foreign = Some(Foreign::Transparent)),
            &sockopt::IP_TRANSPARENT,
            (
                Step::Foreign,
                ALERT,
                UnlessStrict,
                "cannot make listening socket transparent",
            ),
        ),
        one(
            "row 9",
            v4(|s| s.interface = Some("lo".to_owned())),
            &sockopt::SO_BINDTODEVICE,
            (
                Step::Interface,
                FATAL,
                Never,
                "cannot bind listener to device",
            ),
        ),
        one(
            "row 10",
            v4(|s| s.mss = Some(1000)),
            &sockopt::TCP_MAXSEG,
            (Step::Mss, WARN, UnlessStrict, "cannot set MSS"),
        ),
        one(
            "row 11",
            v4(|s| s.defer_accept = Some(Duration::from_secs(1))),
            &sockopt::TCP_DEFER_ACCEPT,
            (
                Step::DeferAccept,
                WARN,
                UnlessStrict,
                "cannot enable DEFER_ACCEPT",
            ),
        ),
        one(
            "row 12",
            v4(|s| s.fast_open = Some(FastOpenQueue::Backlog)),
            &sockopt::TCP_FASTOPEN,
            (
                Step::FastOpen,
                WARN,
                UnlessStrict,
                "cannot enable TCP_FASTOPEN",
            ),
        ),
        one(
            "row 13, on",
            v6(|s| s.ipv6_only = Some(Ipv6Only::On)),
            &sockopt::IPV6_V6ONLY,
            (Step::Ipv6Only, WARN, UnlessStrict, "cannot set IPV6_V6ONLY"),
        ),
        one(
            "row 13, off",
            v6(|s| s.ipv6_only = Some(Ipv6Only::Off)),
            &sockopt::IPV6_V6ONLY,
            (Step::Ipv6Only, WARN, UnlessStrict, "cannot set IPV6_V6ONLY"),
        ),
        one(
            "user timeout",
            v4(|s| s.user_timeout = Some(Duration::from_secs(9))),
            &sockopt::TCP_USER_TIMEOUT,
            (
                Step::UserTimeout,
                WARN,
                UnlessStrict,
                "cannot set user timeout",
            ),
        ),
        one(
            "congestion control",
            v4(|s| s.congestion_control = Some("reno".to_owned())),
            &sockopt::TCP_CONGESTION,
            (
                Step::Congestion,
                WARN,
                UnlessStrict,
                "cannot set congestion control algorithm",
            ),
        ),
        one(
            "MD5 key",
            v4(|s| s.md5_keys = vec![secret()]),
            &sockopt::TCP_MD5SIG_EXT,
            (Step::Md5, FATAL, Never, "cannot set TCP MD5 signature"),
        ),
        one(
            "nodelay",
            v4(|s| s.no_delay = true),
            &sockopt::TCP_NODELAY,
            (Step::NoDelay, WARN, UnlessStrict, "cannot set TCP_NODELAY"),
        ),
        one(
            "incoming cpu",
            v4(|s| s.incoming_cpus = vec![0]),
            &sockopt::SO_INCOMING_CPU,
            (
                Step::IncomingCpu,
                WARN,
                UnlessStrict,
                "cannot set SO_INCOMING_CPU",
            ),
        ),
        one(
            "row 16",
            v4(|s| s.no_quick_ack = true),
            &sockopt::TCP_QUICKACK,
            (
                Step::NoQuickAck,
                WARN,
                UnlessStrict,
                "cannot disable TCP_QUICKACK",
            ),
        ),
    ]
}

/// Rows for the other system calls. `inherited` is the number of a blocking socket that listens,
/// `directory` is where Unix sockets may be.
fn call_rows(inherited: i32, directory: &std::path::Path) -> Vec<Row> {
    let unix = |name: &str| ListenerSpec::unix(directory.join(name));
    let one = |label, spec, refused, expected| row(label, spec, vec![refused], expected);
    let mut owned_file = unix("mode");
    owned_file.unix_permissions.mode = Some(0o600);
    vec![
        one(
            "row 2",
            v4(|_| ()),
            call(libc::SYS_socket),
            (
                Step::Create,
                TRY_AGAIN,
                Never,
                "cannot create listening socket",
            ),
        ),
        one(
            "row 2, inherited",
            ListenerSpec::inherited(inherited),
            Refusal::of_fcntl(libc::F_DUPFD_CLOEXEC, libc::EDOM),
            (
                Step::Create,
                TRY_AGAIN,
                Never,
                "cannot create listening socket",
            ),
        ),
        one(
            "close-on-exec, inherited",
            ListenerSpec::inherited(inherited),
            Refusal::of_fcntl(libc::F_SETFD, libc::EDOM),
            (
                Step::CloseOnExec,
                WARN,
                UnlessStrict,
                "cannot make inherited descriptor close-on-exec",
            ),
        ),
        one(
            "row 4, inherited, reading",
            ListenerSpec::inherited(inherited),
            Refusal::of_fcntl(libc::F_GETFL, libc::EDOM),
            (
                Step::NonBlocking,
                FATAL,
                Never,
                "cannot make socket non-blocking",
            ),
        ),
        one(
            "row 4, inherited, writing",
            ListenerSpec::inherited(inherited),
            Refusal::of_fcntl(libc::F_SETFL, libc::EDOM),
            (
                Step::NonBlocking,
                FATAL,
                Never,
                "cannot make socket non-blocking",
            ),
        ),
        one(
            "owner",
            v4(|s| s.owner_uid = Some(65_533)),
            call(libc::SYS_fchown),
            (
                Step::Owner,
                WARN,
                UnlessStrict,
                "cannot give socket to its user",
            ),
        ),
        one(
            "row 14",
            v4(|_| ()),
            call(libc::SYS_bind),
            (Step::Bind, TRY_AGAIN, Never, "cannot bind socket"),
        ),
        one(
            "row 14, Unix",
            unix("bind"),
            call(libc::SYS_bind),
            (Step::Bind, TRY_AGAIN, Never, "cannot bind socket"),
        ),
        one(
            "row 15",
            v4(|_| ()),
            call(libc::SYS_listen),
            (Step::Listen, TRY_AGAIN, Never, "cannot listen to socket"),
        ),
        one(
            "row 15, Unix",
            unix("listen"),
            call(libc::SYS_listen),
            (Step::Listen, TRY_AGAIN, Never, "cannot listen to socket"),
        ),
        one(
            "mode of a Unix socket",
            owned_file,
            call(libc::SYS_fchmodat),
            (
                Step::UnixPermissions,
                FATAL,
                Never,
                "cannot set owner or mode of socket file",
            ),
        ),
        one(
            "path of a Unix socket",
            unix("replace"),
            call(libc::SYS_renameat2),
            (
                Step::UnixReplace,
                FATAL,
                Never,
                "cannot put socket in its place",
            ),
        ),
        one(
            "namespace",
            v4(|s| s.network_namespace = Some("/proc/self/ns/net".to_owned())),
            call(libc::SYS_setns),
            (
                Step::Namespace,
                FATAL,
                Never,
                "cannot enter network namespace",
            ),
        ),
    ]
}

/// Opens with the refusals in force, on a thread that ends afterwards.
fn opened(row: &Row, strict: bool) -> Result<Opened, portcullis_listener::OpenError> {
    let mut spec = row.spec.clone();
    spec.strict = strict;
    let refused = row.refused.clone();
    std::thread::spawn(move || {
        refuse(&refused).unwrap();
        open(&spec)
    })
    .join()
    .unwrap()
}

fn check(row: &Row) {
    let label = row.label;
    let line_of = |local: &str| format!("{} [{local}]: ", row.line);
    match (opened(row, false), row.opens) {
        (Ok(opened), UnlessStrict) => {
            assert_eq!(opened.listeners.len(), 1, "{label}");
            let [report] = opened.reports.as_slice() else {
                panic!("{label}: one report, not {:?}", opened.reports);
            };
            assert_eq!(
                (report.step, report.flags),
                (row.step, row.flags),
                "{label}"
            );
            let text = report.to_string();
            assert!(
                text.starts_with(&format!("{} [", row.line)),
                "{label}: {text}"
            );
            assert!(text.ends_with("(EDOM)"), "{label}: {text}");
            assert_eq!(opened.flags(), row.flags, "{label}");
        }
        (Err(error), Never) => {
            assert_eq!(
                (error.step(), error.flags()),
                (row.step, row.flags),
                "{label}"
            );
            assert_eq!(error.errno(), Some(libc::EDOM), "{label}");
            let shown = match &error.report().local {
                Some(local) => line_of(&local.to_string()),
                None => line_of(&error.address().to_string()),
            };
            assert!(error.to_string().starts_with(&shown), "{label}: {error}");
        }
        (other, opens) => panic!("{label}: {other:?}, where {opens:?} was expected"),
    }
    let error = opened(row, true).expect_err(label);
    assert_eq!(error.step(), row.step, "{label}, strict");
    let fatal_too = if row.opens == UnlessStrict {
        FATAL
    } else {
        row.flags
    };
    assert_eq!(error.flags(), fatal_too, "{label}, strict");
}

#[test]
fn every_refusal_is_reported_as_the_table_of_steps_says() {
    let directory = tempfile::tempdir().unwrap();
    let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut rows = option_rows();
    rows.extend(call_rows(inherited.as_raw_fd(), directory.path()));
    let mut seen = BTreeSet::new();
    for row in &rows {
        // Every row begins with a number that is blocking and not close-on-exec.
        inherited.set_nonblocking(false).unwrap();
        rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
        check(row);
        seen.insert(row.step);
    }
    // Those that no refused system call can stop have their tests elsewhere.
    let elsewhere = [
        Step::Distinct,
        Step::Activation,
        Step::Inherited,
        Step::DescriptorLimit,
        Step::UnixPath,
        Step::Shards,
    ];
    for info in STEPS
        .iter()
        .filter(|info| info.on_failure != OnFailure::Never)
    {
        assert!(
            seen.contains(&info.step) || elsewhere.contains(&info.step),
            "no row for {:?}",
            info.step
        );
    }
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 0, "a failed Unix socket leaves no file");
}

#[test]
fn a_refused_transparent_falls_back_to_freebind_without_a_word() {
    for (address, refused, fallback) in [
        (
            "127.0.0.1:0",
            vec![&sockopt::IP_TRANSPARENT],
            &sockopt::IP_FREEBIND,
        ),
        (
            "[::1]:0",
            vec![&sockopt::IPV6_TRANSPARENT],
            &sockopt::IPV6_FREEBIND,
        ),
        (
            "[::1]:0",
            vec![&sockopt::IPV6_TRANSPARENT, &sockopt::IPV6_FREEBIND],
            &sockopt::IP_FREEBIND,
        ),
    ] {
        let row = row(
            "fallback",
            changed(address, |s| {
                s.foreign = Some(Foreign::TransparentOrFreebind)
            }),
            refused.into_iter().map(option).collect(),
            (Step::Foreign, ALERT, UnlessStrict, ""),
        );
        let opened = opened(&row, false).unwrap();
        assert_eq!(opened.reports, []);
        let set = portcullis_sys::sockopt::get_int(
            &opened.listeners[0],
            fallback.level.number(),
            fallback.number,
        );
        assert_eq!(set, Ok(1), "{}", fallback.name);
    }
}

#[test]
fn a_bind_to_a_foreign_address_says_that_transparent_was_refused() {
    let row = row(
        "foreign",
        changed("192.0.2.1:0", |s| {
            s.foreign = Some(Foreign::TransparentOrFreebind)
        }),
        vec![
            option(&sockopt::IP_TRANSPARENT),
            option(&sockopt::IP_FREEBIND),
        ],
        (Step::Bind, TRY_AGAIN, Never, ""),
    );
    let error = opened(&row, false).unwrap_err();
    assert_eq!(error.step(), Step::Bind);
    assert_eq!(error.earlier()[0].step, Step::Foreign);
    assert_eq!(
        error.hints(),
        [portcullis_listener::Hint::ForeignWasRefused]
    );
}

#[test]
fn a_refused_reuseport_makes_one_shared_socket_of_many_shards() {
    let mut spec = v4(|s| s.shards = 3);
    spec.name = "web".to_owned();
    let row = row(
        "shards",
        spec,
        vec![option(&sockopt::SO_REUSEPORT)],
        (Step::ReusePort, WARN, UnlessStrict, ""),
    );
    let opened = opened(&row, false).unwrap();
    assert_eq!(opened.listeners.len(), 1);
    assert_eq!(opened.listeners[0].facts().shards, 1);
    let steps: Vec<Step> = opened.reports.iter().map(|r| r.step).collect();
    assert_eq!(steps, [Step::ReusePort, Step::Shards]);
    assert!(opened.reports[1].flags.is_empty());
}
