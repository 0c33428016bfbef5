//! What supported keywords mean, as values of the model.
//!
//! Decides:  nothing.
//! Source:   HAProxy's configuration manual, chapters 3 to 5, newest version.
//! Not here: mistakes (diagnostics.rs).

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use portcullis_config::diagnostic::Severity;
use portcullis_config::model::*;
use portcullis_config::{Config, Environment, Features, MemoryFiles, Outcome, load};

fn outcome(text: &str) -> Outcome {
    let files = MemoryFiles::default().with("t.cfg", text.as_bytes().to_vec());
    let paths = [PathBuf::from("t.cfg")];
    load(
        &paths,
        &files,
        &mut Environment::default(),
        &Features::default(),
    )
}

fn config(text: &str) -> Config {
    let outcome = outcome(text);
    let said = &outcome.diagnostics;
    outcome
        .config
        .unwrap_or_else(|| panic!("refused: {said:#?}\n{text}"))
}

/// Warnings and notices, by code.
fn codes(text: &str) -> Vec<&'static str> {
    outcome(text).diagnostics.iter().map(|d| d.code).collect()
}

fn ms(ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(ms))
}

const TIMES: &str = "defaults\n timeout client 1s\n timeout server 2s\n timeout connect 3s\n";

fn frontend(lines: &str) -> Frontend {
    let text = format!(
        "{TIMES}frontend f\n bind :80\n default_backend b\n{lines}\nbackend b\n server a 10.0.0.1:80\n"
    );
    config(&text).frontends.remove(0)
}

fn backend(lines: &str) -> Backend {
    config(&format!("{TIMES}backend b\n{lines}\n"))
        .backends
        .remove(0)
}

fn bind(parameters: &str) -> BindOptions {
    let text = format!(
        "{TIMES}frontend f\n bind :80 {parameters}\n default_backend b\nbackend b\n server a 10.0.0.1:80\n"
    );
    config(&text).frontends.remove(0).binds.remove(0).options
}

fn server(parameters: &str) -> Server {
    backend(&format!(" server s 10.0.0.1:80 {parameters}"))
        .servers
        .remove(0)
}

fn global(lines: &str) -> Global {
    config(&format!("global\n{lines}\n")).global
}

#[test]
fn global_keywords_fill_the_model() {
    let g = global(
        " nbthread 4\n maxconn 1000\n ulimit-n 5000\n fd-hard-limit 6000\n daemon\n pidfile /run/p.pid\n \
         user nobody\n gid 65534\n chroot /var/empty\n setcap cap_net_raw,cap_net_admin\n \
         log-tag x\n log-send-hostname h\n hard-stop-after 30s\n grace 500\n noreuseport\n nosplice\n \
         tune.listener.default-shards by-thread\n tune.pipesize 512k\n maxpipes 10\n tune.bufsize 32k\n \
         tune.maxaccept 64\n tune.rcvbuf.client 1m\n tune.sndbuf.server 65536\n spread-checks 5\n \
         node n1\n description a b  c\n no strict-limits\n thread-hard-limit 8\n",
    );
    assert_eq!(g.nbthread, Some(4));
    assert_eq!(g.maxconn, Some(1000));
    assert_eq!((g.ulimit_n, g.fd_hard_limit), (Some(5000), Some(6000)));
    assert!(g.daemon && g.no_reuse_port && g.no_splice && !g.strict_limits);
    assert_eq!(g.pidfile.unwrap().value, PathBuf::from("/run/p.pid"));
    assert_eq!(g.user.unwrap().value, Id::Name("nobody".into()));
    assert_eq!(g.group.unwrap().value, Id::Number(65534));
    assert_eq!(
        g.chroot.unwrap().value,
        Chroot::Directory("/var/empty".into())
    );
    let caps: Vec<Capability> = g.setcap.iter().map(|c| c.value).collect();
    assert_eq!(caps, [Capability::NetRaw, Capability::NetAdmin]);
    assert_eq!(g.log_tag.as_deref(), Some("x"));
    assert_eq!(g.log_send_hostname, Some(Some("h".into())));
    assert_eq!((g.hard_stop_after, g.grace), (ms(30_000), ms(500)));
    assert_eq!(g.default_shards, Some(Shards::ByThread));
    assert_eq!((g.pipe_size, g.max_pipes), (Some(512 << 10), Some(10)));
    assert_eq!((g.buffer_size, g.max_accept), (Some(32 << 10), Some(64)));
    assert_eq!(g.socket_buffers.client_receive, Some(1 << 20));
    assert_eq!(g.socket_buffers.server_send, Some(65536));
    assert_eq!(g.socket_buffers.server_receive, None);
    assert_eq!(g.spread_checks, 5);
    assert_eq!(g.thread_hard_limit, Some(8));
}

#[test]
fn an_empty_global_has_the_defaults_of_the_manual() {
    let g = global("");
    assert!(g.strict_limits && !g.daemon && !g.quiet && !g.zero_warning);
    assert_eq!((g.nbthread, g.maxconn, g.max_accept), (None, None, None));
    assert_eq!(g.log_send_hostname, None);
    assert_eq!(g.spread_checks, 0);
}

#[test]
fn the_first_of_maxconn_and_user_holds() {
    let g = global(" maxconn 10\n maxconn 20\n uid 5\n user x\n");
    assert_eq!(g.maxconn, Some(10));
    assert_eq!(g.user.unwrap().value, Id::Number(5));
}

#[test]
fn several_global_sections_are_one() {
    let c = config("global\n maxconn 5\nglobal\n nbthread 2\n");
    assert_eq!((c.global.maxconn, c.global.nbthread), (Some(5), Some(2)));
}

#[test]
fn a_log_line_has_haproxys_defaults() {
    let g = global(
        " log /dev/log local0\n log 127.0.0.1 daemon notice err\n log stdout len 2000 format rfc5424 kern info\n",
    );
    let [unix, udp, stdout] = g.logs.as_slice() else {
        panic!("three targets")
    };
    assert_eq!(unix.to, LogDestination::Unix("/dev/log".into()));
    assert_eq!((unix.facility, unix.max_level, unix.min_level), (16, 7, 0));
    assert_eq!((unix.max_length, unix.format), (1024, None));
    let LogDestination::Udp(to) = &udp.to else {
        panic!("udp")
    };
    assert_eq!(to.port, 514);
    assert_eq!((udp.facility, udp.max_level, udp.min_level), (3, 5, 3));
    assert_eq!(stdout.to, LogDestination::Stdout);
    assert_eq!(
        (stdout.max_length, stdout.format),
        (2000, Some(LogFormat::Rfc5424))
    );
    assert_eq!((stdout.facility, stdout.max_level), (0, 6));
}

#[test]
fn no_log_forgets_the_lines_before_it() {
    assert_eq!(
        global(" log /dev/log local0\n no log\n log stderr local1\n")
            .logs
            .len(),
        1
    );
    let text = format!(
        "global\n log /dev/log local0\n{TIMES} log global\nfrontend f\n bind :1\n no log\n default_backend b\nfrontend g\n bind :2\n default_backend b\nbackend b\n no log\n server a 10.0.0.1:1\n"
    );
    let c = config(&text);
    assert!(c.frontends[0].log.targets.is_empty());
    assert_eq!(c.frontends[1].log.targets.len(), 1);
    assert!(c.backends[0].log.targets.is_empty());
}

#[test]
fn log_global_stands_for_the_global_lines_once() {
    let text = "defaults\n log global\n log stderr local7\nfrontend f\n bind :1\n log global\n log stdout local3\nglobal\n log /dev/log local0\n log /dev/log local1\n";
    let c = config(text);
    let facilities: Vec<u8> = c.frontends[0]
        .log
        .targets
        .iter()
        .map(|t| t.facility)
        .collect();
    assert_eq!(facilities, [16, 17, 23, 19]);
}

#[test]
fn log_options_shape_the_log() {
    assert_eq!(frontend("").log.style, LogStyle::Connect);
    assert_eq!(frontend(" option tcplog").log.style, LogStyle::Tcplog);
    assert_eq!(
        frontend(" option tcplog clf").log.style,
        LogStyle::TcplogClf
    );
    assert_eq!(frontend(" option httplog").log.style, LogStyle::Tcplog);
    let f = frontend(
        " option dontlognull\n option dontlog-normal\n option logasap\n option log-separate-errors\n log-tag q",
    );
    assert!(f.log.skip_null && f.log.skip_normal);
    assert!(f.log.as_soon_as_possible && f.log.separate_errors);
    assert_eq!(f.log.tag.as_deref(), Some("q"));
}

#[test]
fn frontend_keywords_fill_the_model() {
    let f = frontend(
        " maxconn 7\n backlog 9\n timeout client-fin 4s\n option clitcpka\n clitcpka-cnt 3\n \
         clitcpka-idle 10\n clitcpka-intvl 500ms\n option tcp-smart-accept\n option nolinger\n \
         option independent-streams\n id 12\n description x y",
    );
    assert_eq!((f.maxconn, f.backlog), (Some(7), Some(9)));
    assert_eq!(
        (f.timeout_client, f.timeout_client_fin),
        (ms(1000), ms(4000))
    );
    let keepalive = f.keepalive.unwrap();
    assert_eq!(keepalive.count, Some(3));
    assert_eq!(keepalive.idle, ms(10_000), "a bare number is seconds");
    assert_eq!(keepalive.interval, ms(1000), "rounded up to a second");
    assert!(f.smart_accept && f.flow.no_linger && f.flow.independent_streams);
    assert_eq!(f.id, Some(12));
    assert!(!f.disabled);
}

#[test]
fn keepalive_settings_need_the_option() {
    assert_eq!(frontend(" clitcpka-cnt 3").keepalive, None);
    assert!(frontend(" option tcpka").keepalive.is_some());
    let b = backend(" option srvtcpka\n srvtcpka-cnt 5\n server s 10.0.0.1:80");
    assert_eq!(b.keepalive.unwrap().count, Some(5));
    assert_eq!(
        backend(" option clitcpka\n server s 10.0.0.1:80").keepalive,
        None
    );
}

#[test]
fn options_are_turned_off_by_no_and_forgotten_by_default() {
    let with = |lines: &str| {
        let text = format!(
            "{TIMES} option dontlognull\n no option nolinger\nfrontend f\n bind :1\n default_backend b\n{lines}\nbackend b\n server s 10.0.0.1:1\n"
        );
        config(&text).frontends.remove(0)
    };
    assert!(with("").log.skip_null);
    assert!(!with(" no option dontlognull").log.skip_null);
    assert!(!with(" default option dontlognull").log.skip_null);
    assert!(with(" option nolinger").flow.no_linger);
}

#[test]
fn splice_is_the_workers_choice_unless_it_is_forbidden() {
    assert_eq!(frontend("").flow.splice, Splice::Auto);
    assert_eq!(frontend(" option splice-auto").flow.splice, Splice::Auto);
    assert_eq!(
        frontend(" no option splice-auto").flow.splice,
        Splice::Never
    );
    assert_eq!(
        frontend(" no option splice-request\n option splice-response")
            .flow
            .splice,
        Splice::Auto
    );
}

#[test]
fn a_backend_has_the_defaults_of_the_newest_haproxy() {
    let b = backend(" server s 10.0.0.1:80");
    assert_eq!(b.balance, Balance::Random { draws: 2 });
    assert_eq!((b.retries, b.redispatch), (3, None));
    assert_eq!((b.timeout_connect, b.timeout_server), (ms(3000), ms(2000)));
    assert_eq!(
        (b.timeout_tunnel, b.timeout_check, b.timeout_server_fin),
        (None, None, None)
    );
    assert!(!b.all_backups && !b.log_health_checks && !b.abort_on_close && !b.smart_connect);
    let s = &b.servers[0];
    assert_eq!(
        (s.weight, s.backup, s.disabled, s.id),
        (1, false, false, None)
    );
    assert!(s.check.is_none() && s.init_addr.is_empty());
}

#[test]
fn backend_keywords_fill_the_model() {
    let b = backend(
        " balance leastconn\n retries 5\n option redispatch 2\n option allbackups\n timeout tunnel 1h\n \
         timeout check 700\n timeout server-fin 8s\n option log-health-checks\n option abortonclose\n \
         option tcp-smart-connect\n server s 10.0.0.1:80",
    );
    assert_eq!(b.balance, Balance::LeastConn);
    assert_eq!((b.retries, b.redispatch), (5, Some(2)));
    assert!(b.all_backups && b.log_health_checks && b.abort_on_close && b.smart_connect);
    assert_eq!(b.timeout_tunnel, ms(3_600_000));
    assert_eq!((b.timeout_check, b.timeout_server_fin), (ms(700), ms(8000)));
}

#[test]
fn every_algorithm_that_is_served_is_read() {
    let table = [
        ("roundrobin", Balance::RoundRobin),
        ("static-rr", Balance::StaticRoundRobin),
        ("leastconn", Balance::LeastConn),
        ("random", Balance::Random { draws: 2 }),
        ("random(1)", Balance::Random { draws: 1 }),
        ("random(30)", Balance::Random { draws: 30 }),
    ];
    for (word, expected) in table {
        let b = backend(&format!(" balance {word}\n server s 10.0.0.1:80"));
        assert_eq!(b.balance, expected, "{word}");
    }
}

#[test]
fn redispatch_without_a_number_is_for_the_last_attempt() {
    assert_eq!(
        backend(" option redispatch\n server s 10.0.0.1:80").redispatch,
        Some(-1)
    );
    assert_eq!(
        backend(" option redispatch 0\n server s 10.0.0.1:80").redispatch,
        None
    );
    assert_eq!(
        backend(" option redispatch\n no option redispatch\n server s 10.0.0.1:80").redispatch,
        None
    );
}

#[test]
fn a_timeout_of_zero_is_none_and_is_warned_of() {
    let text = "frontend f\n bind :1\n default_backend b\n timeout client 0\nbackend b\n timeout connect 0\n timeout server 1s\n server s 10.0.0.1:1\n";
    let c = config(text);
    assert_eq!(
        (c.frontends[0].timeout_client, c.backends[0].timeout_connect),
        (None, None)
    );
    assert_eq!(codes(text), ["missing-timeout", "missing-timeout"]);
}

#[test]
fn bind_parameters_fill_the_model() {
    let o = bind(
        "name n id 3 maxconn 5 backlog 6 shards 7 interface eth0 transparent mss 1200 defer-accept tfo tcp-ut 5s cc bbr namespace blue strict incoming-cpu",
    );
    assert_eq!((o.name.as_deref(), o.id), (Some("n"), Some(3)));
    assert_eq!(
        (o.maxconn, o.backlog, o.shards),
        (Some(5), Some(6), Some(Shards::Number(7)))
    );
    assert_eq!(o.interface.unwrap().value, "eth0");
    assert_eq!(o.foreign, Some(ForeignBind::Transparent));
    assert_eq!(o.mss, Some(1200));
    assert!(o.defer_accept && o.fast_open && o.strict && o.incoming_cpu);
    assert_eq!(o.user_timeout, ms(5000));
    assert_eq!(o.congestion_control.unwrap().value, "bbr");
    assert_eq!(o.namespace.unwrap().value, "blue");
    assert_eq!(bind("mss -40").mss, None);
    assert_eq!(bind("shards by-thread").shards, Some(Shards::ByThread));
    assert_eq!(bind("freebind").foreign, Some(ForeignBind::Freebind));
    assert_eq!(
        bind("freebind transparent").foreign,
        Some(ForeignBind::Transparent)
    );
    assert_eq!(
        bind("transparent freebind").foreign,
        Some(ForeignBind::Transparent)
    );
    assert_eq!(bind("proto none").name, None);
}

#[test]
fn v6only_wins_over_v4v6() {
    assert_eq!(bind("").ipv6, None);
    assert_eq!(bind("v4v6").ipv6, Some(Ipv6Bind::V4V6));
    for both in ["v4v6 v6only", "v6only v4v6", "v6only"] {
        assert_eq!(bind(both).ipv6, Some(Ipv6Bind::V6Only), "{both}");
    }
}

#[test]
fn md5_peers_are_prefixes() {
    let o = bind("tcp-md5sig secret tcp-md5sig-peers 10.0.0.0/8,2001:db8::1");
    let v4: IpAddr = "10.0.0.0".parse().unwrap();
    let v6: IpAddr = "2001:db8::1".parse().unwrap();
    assert_eq!(o.md5_secret.unwrap().value, "secret");
    assert_eq!(o.md5_peers, [(v4, 8), (v6, 128)]);
    assert!(bind("tcp-md5sig secret").md5_peers.is_empty(), "every peer");
}

#[test]
fn a_bind_line_has_all_its_addresses_in_order() {
    let text = format!(
        "{TIMES}frontend f\n bind 10.0.0.1:80-82,[::1]:90,/run/x.sock\n bind :100\n default_backend b\nbackend b\n server s 10.0.0.1:1\n"
    );
    let f = config(&text).frontends.remove(0);
    assert_eq!(f.binds.len(), 2);
    let ports: Vec<String> = f.binds[0]
        .addresses
        .iter()
        .map(|at| match &at.value {
            BindAddress::Tcp { address, mptcp } => {
                assert!(!mptcp);
                address.to_string()
            }
            BindAddress::UnixPath(path) => path.display().to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        ports,
        [
            "10.0.0.1:80",
            "10.0.0.1:81",
            "10.0.0.1:82",
            "[::1]:90",
            "/run/x.sock"
        ]
    );
    let any: SocketAddr = "0.0.0.0:100".parse().unwrap();
    assert_eq!(
        f.binds[1].addresses[0].value,
        BindAddress::Tcp {
            address: any,
            mptcp: false
        }
    );
}

#[test]
fn unix_bind_holds_for_every_line() {
    let text = format!(
        "global\n unix-bind prefix /run/p mode 600 user u gid 5\n{TIMES}frontend f\n bind /a.sock\n bind /b.sock mode 666 user v\n default_backend b\nbackend b\n server s 10.0.0.1:1\n"
    );
    let f = config(&text).frontends.remove(0);
    let [a, b] = f.binds.as_slice() else {
        panic!("two lines")
    };
    assert_eq!(
        a.addresses[0].value,
        BindAddress::UnixPath("/run/p/a.sock".into())
    );
    assert_eq!(a.options.mode, Some(0o600));
    assert_eq!(a.options.user.as_ref().unwrap().value, Id::Name("u".into()));
    assert_eq!(b.options.mode, Some(0o666));
    assert_eq!(b.options.user.as_ref().unwrap().value, Id::Name("v".into()));
    assert_eq!(b.options.group.as_ref().unwrap().value, Id::Number(5));
}

#[test]
fn server_parameters_fill_the_model() {
    let s = server(
        "weight 100 backup disabled id 9 check inter 1s fastinter 100 downinter 3s rise 4 fall 5 port 8080 addr 10.0.0.9 init-addr last,libc,none,10.0.0.7 tcp-ut 4s cc cubic",
    );
    assert_eq!(
        (s.weight, s.backup, s.disabled, s.id),
        (100, true, true, Some(9))
    );
    let c = s.check.unwrap();
    assert_eq!(
        (Some(c.inter), c.fast_inter, c.down_inter),
        (ms(1000), ms(100), ms(3000))
    );
    assert_eq!((c.rise, c.fall, c.port), (4, 5, Some(8080)));
    assert_eq!(c.addr, Some(Host::Address("10.0.0.9".parse().unwrap())));
    let steps = [
        InitAddr::Last,
        InitAddr::Libc,
        InitAddr::None,
        InitAddr::Address("10.0.0.7".parse().unwrap()),
    ];
    assert_eq!(s.init_addr, steps);
    assert_eq!(s.user_timeout, ms(4000));
    assert_eq!(s.congestion_control.unwrap().value, "cubic");
    let c = server("check").check.unwrap();
    assert_eq!((Some(c.inter), c.rise, c.fall), (ms(2000), 2, 3));
    assert_eq!(server("inter 5s").check, None);
    assert_eq!(server("weight 0").weight, 0);
    assert_eq!(server("weight 256").weight, 256);
}

#[test]
fn default_server_adds_up_and_holds_for_the_lines_after_it() {
    let text = format!(
        "{TIMES} default-server check inter 7s\nbackend b\n server a 10.0.0.1:1\n default-server weight 5 backup\n \
         server b 10.0.0.1:2\n server c 10.0.0.1:3 no-backup no-check weight 6\n default-server no-backup\n server d 10.0.0.1:4\n"
    );
    let servers = config(&text).backends.remove(0).servers;
    let seen: Vec<(u16, bool, bool)> = servers
        .iter()
        .map(|s| (s.weight, s.backup, s.check.is_some()))
        .collect();
    assert_eq!(
        seen,
        [
            (1, false, true),
            (5, true, true),
            (6, false, false),
            (5, false, true)
        ]
    );
    assert_eq!(Some(servers[3].check.as_ref().unwrap().inter), ms(7000));
}

#[test]
fn a_server_template_makes_servers_of_one_address() {
    let names = |range: &str| -> Vec<String> {
        let b = backend(&format!(
            " server-template s {range} db.example.com:5432 weight 2"
        ));
        for s in &b.servers {
            assert_eq!(s.address.value, b.servers[0].address.value);
            assert_eq!(s.weight, 2);
        }
        b.servers.into_iter().map(|s| s.name).collect()
    };
    assert_eq!(names("3"), ["s1", "s2", "s3"]);
    assert_eq!(names("4-5"), ["s4", "s5"]);
}

#[test]
fn listen_is_a_frontend_and_a_backend() {
    let c = config(&format!(
        "{TIMES}backend other\n server o 10.0.0.1:1\nlisten l\n bind :1\n server s 10.0.0.1:2\nlisten m\n bind :2\n default_backend other\n"
    ));
    assert_eq!(c.frontends.len(), 2);
    assert_eq!(c.backends.len(), 3);
    let target = |n: usize| c.frontends[n].default_backend.as_ref().map(|at| at.value);
    assert_eq!(c.backends[target(0).unwrap()].name, "l");
    assert_eq!(c.backends[target(1).unwrap()].name, "other");
}

#[test]
fn a_frontend_may_stand_before_its_backend() {
    let c = config(&format!(
        "{TIMES}frontend f\n bind :1\n default_backend z\nbackend a\n server s 10.0.0.1:1\nbackend z\n server s 10.0.0.1:1\n"
    ));
    assert_eq!(c.frontends[0].default_backend.as_ref().unwrap().value, 1);
}

#[test]
fn a_proxy_takes_over_the_defaults_before_it_or_those_it_names() {
    let text = "defaults one\n timeout client 1s\ndefaults two from one\n maxconn 5\ndefaults\n timeout client 3s\n\
                frontend a\n bind :1\nfrontend b from one\n bind :2\nfrontend c from two\n bind :3\n\
                defaults\nfrontend d\n bind :4\n";
    let c = config(text);
    let seen: Vec<(Option<Duration>, Option<u32>)> = c
        .frontends
        .iter()
        .map(|f| (f.timeout_client, f.maxconn))
        .collect();
    assert_eq!(
        seen,
        [
            (ms(3000), None),
            (ms(1000), None),
            (ms(1000), Some(5)),
            (None, None)
        ]
    );
}

#[test]
fn what_a_proxy_says_does_not_reach_the_next_one() {
    let c = config(&format!(
        "{TIMES}frontend a\n bind :1\n maxconn 3\n option nolinger\nfrontend b\n bind :2\n"
    ));
    assert_eq!(c.frontends[1].maxconn, None);
    assert!(!c.frontends[1].flow.no_linger);
    assert_eq!(c.frontends[1].binds.len(), 1);
}

#[test]
fn disabled_proxies_are_there_and_say_so() {
    let c = config("defaults\n disabled\nfrontend a\n bind :1\nfrontend b\n bind :2\n enabled\n");
    assert!(c.frontends[0].disabled && !c.frontends[1].disabled);
}

#[test]
fn a_disabled_http_proxy_is_left_out_in_silence() {
    let text = format!(
        "{TIMES}frontend w\n mode http\n disabled\n bind :1\n http-request deny\nlisten l\n bind :2\n server s 10.0.0.1:1\n"
    );
    let outcome = outcome(&text);
    assert!(outcome.diagnostics.is_empty(), "{:?}", outcome.diagnostics);
    assert_eq!(outcome.config.unwrap().frontends.len(), 1);
}

#[test]
fn mode_http_in_defaults_alone_refuses_nothing() {
    let text = "defaults\n mode http\n timeout client 1s\n timeout connect 1s\n timeout server 1s\n option forwardfor\n balance uri\n option httpchk\nlisten l\n mode tcp\n balance leastconn\n bind :2\n server s 10.0.0.1:1\n";
    // `option httpchk` would decide which servers get traffic, in a TCP proxy too.
    assert_eq!(codes(text), ["not-supported"]);
    let text = text.replace(" option httpchk\n", "");
    assert_eq!(codes(&text), [""; 0]);
    assert_eq!(config(&text).backends[0].balance, Balance::LeastConn);
}

#[test]
fn what_deserves_no_word_gets_none() {
    let text = format!("{TIMES}listen l\n bind :2\n server s 10.0.0.1:1\n");
    assert_eq!(codes(&text), [""; 0]);
}

/// The keywords of the file that Debian installs, in its order, with a TCP section after them.
const LIKE_DEBIAN: &str = "\
global
\tlog /dev/log\tlocal0
\tlog /dev/log\tlocal1 notice
\tchroot /var/empty
\tstats socket /run/admin.sock mode 660 level admin
\tstats timeout 30s
\tuser haproxy
\tgroup haproxy
\tdaemon

\tca-base /etc/ssl/certs
\tcrt-base /etc/ssl/private
        ssl-default-bind-ciphers ECDHE-ECDSA-AES128-GCM-SHA256
        ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
        ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets

defaults
\tlog\tglobal
\tmode\thttp
\toption\thttplog
\toption\tdontlognull
        timeout connect 5000
        timeout client  50000
        timeout server  50000
\terrorfile 400 /etc/haproxy/errors/400.http

listen db
\tmode tcp
\tbind 127.0.0.1:5432
\tserver one 10.0.0.1:5432 check
\tserver two 10.0.0.2:5432 check backup
";

#[test]
fn a_file_like_debians_with_a_tcp_section_loads() {
    let outcome = outcome(LIKE_DEBIAN);
    let worst = outcome.diagnostics.iter().map(|d| d.severity).max();
    assert_eq!(worst, Some(Severity::Warning), "{:#?}", outcome.diagnostics);
    let mut codes: Vec<&str> = outcome.diagnostics.iter().map(|d| d.code).collect();
    codes.sort_unstable();
    assert_eq!(codes, ["http-only"]);
    let config = outcome.config.unwrap();
    assert_eq!(config.global.logs.len(), 2);
    assert!(config.global.daemon);
    let frontend = &config.frontends[0];
    assert_eq!(frontend.log.style, LogStyle::Tcplog);
    assert_eq!(frontend.log.targets.len(), 2);
    assert_eq!(frontend.timeout_client, ms(50_000));
    assert_eq!(config.backends[0].servers.len(), 2);
}

#[test]
fn debians_own_file_here_is_the_one_we_test_with() {
    let Ok(here) = std::fs::read_to_string("/etc/haproxy/haproxy.cfg") else {
        return portcullis_testkit::skip("needs /etc/haproxy/haproxy.cfg (Debian's haproxy)");
    };
    let outcome = outcome(&format!(
        "{here}\nlisten db\n mode tcp\n bind :5432\n server a 10.0.0.1:1\n"
    ));
    assert!(!outcome.has_errors(), "{:#?}", outcome.diagnostics);
}

#[test]
fn a_short_file_cannot_ask_for_more_listeners_or_servers_than_there_is_room_for() {
    let binds = |count: usize| {
        let binds: String = (1..=count)
            .map(|n| format!(" bind 127.0.0.{n}:1-65535\n"))
            .collect();
        format!("frontend f\n{binds}")
    };
    let servers = |count: usize| {
        let lines: String = (0..count)
            .map(|n| format!(" server-template s{n}x 10000 127.0.0.1:80\n"))
            .collect();
        format!("backend b\n{lines}")
    };
    for (text, refused) in [
        (binds(4), None),
        (binds(6), Some("more than 262144 addresses in all")),
        (servers(26), None),
        (servers(28), Some("more than 262144 servers in all")),
    ] {
        let outcome = outcome(&text);
        let errors: Vec<&str> = outcome
            .diagnostics
            .iter()
            .filter(|d| d.severity == Severity::Error)
            .map(|d| d.message.as_str())
            .collect();
        // Each line that finds no room says so.
        assert_eq!(errors.first().copied(), refused, "{errors:?}");
        assert_eq!(errors.len(), if refused.is_some() { 2 } else { 0 });
    }
}

#[test]
fn what_could_not_be_read_is_not_said_to_be_missing() {
    let unread =
        "frontend f\n bind \":80\n default_backend b\nbackend b\n server \"a 127.0.0.1:1\n";
    assert_eq!(codes(unread), ["unmatched-quote", "unmatched-quote"]);
}

#[test]
fn rings_and_samples_are_read() {
    let text = "global\n log ring@r sample 7,1-2,4-5:10 local0\n log ring@buf0 daemon\n\
                ring r\n description a text\n size 2k\n maxlen 300\n format json\n timeout server 1s\n\
                listen l\n bind :1\n log global\n server s 127.0.0.1:1\n";
    let config = config(text);
    let [own, built_in] = &config.global.logs[..] else {
        panic!("two lines: {:?}", config.global.logs);
    };
    assert_eq!(own.to, LogDestination::Ring("r".to_owned()));
    assert_eq!(built_in.to, LogDestination::Ring("buf0".to_owned()));
    let sample = own.sample.as_ref().unwrap();
    assert_eq!(
        (&sample.ranges[..], sample.size),
        (&[(1, 2), (4, 5), (7, 7)][..], 10)
    );
    let ring = config.rings.iter().find(|ring| ring.name == "r").unwrap();
    assert_eq!(
        (ring.size, ring.max_length, ring.format),
        (2048, Some(300), Some(LogFormat::Json))
    );
}

#[test]
fn a_runtime_socket_has_haproxys_defaults_and_takes_no_part_in_unix_bind() {
    let text = format!(
        "global\n unix-bind prefix /pre mode 600\n stats socket /run/a.sock\n \
         stats socket ipv4@127.0.0.1:9999,[::1]:9998 level admin severity-output number expose-fd listeners user bin\n \
         stats maxconn 3\n stats timeout 2m\n stats timeout 30s\n{TIMES}listen l\n bind :2\n server s 10.0.0.1:1\n"
    );
    let stats = config(&text).global.stats;
    assert_eq!(
        (stats.maxconn, stats.timeout),
        (Some(3), Some(Duration::from_secs(30)))
    );
    let [plain, admin] = stats.sockets.as_slice() else {
        panic!("{stats:?}");
    };
    let path = BindAddress::UnixPath("/run/a.sock".into());
    assert_eq!(plain.bind.addresses[0].value, path);
    assert_eq!(plain.bind.options.mode, None);
    assert_eq!(plain.options, StatsOptions::default());
    assert_eq!(plain.options.level, StatsLevel::Operator);
    assert_eq!(admin.bind.addresses.len(), 2);
    assert!(admin.options.exposes_listeners);
    assert_eq!(admin.options.level, StatsLevel::Admin);
    assert_eq!(admin.options.severity, SeverityOutput::Number);
    let none = config(&format!(
        "{TIMES}listen l\n bind :2\n server s 10.0.0.1:1\n"
    ));
    assert!(none.global.stats.sockets.is_empty());
}
