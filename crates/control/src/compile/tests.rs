//! Compiling, as tables: a text, and what the plan says or what is found wrong in it.

use std::net::IpAddr;
use std::path::PathBuf;

use portcullis_config::model::{Family, Id};
use portcullis_config::{Diagnostic, Environment, Features, MemoryFiles, Severity, Sources};
use portcullis_listener::Address;
use portcullis_listener::spec::{FastOpenQueue, Foreign, Ipv6Only};
use portcullis_proxy::snapshot::ServerAddress;

use super::*;

/// A host with two names, one user, one group and four processors.
struct Table;

impl Lookup for Table {
    fn address(&self, name: &str, family: Family) -> Result<IpAddr, String> {
        let all: &[&str] = match name {
            "both.example" => &["192.0.2.1", "2001:db8::1"],
            "six.example" => &["2001:db8::6"],
            _ => return Err("name or service not known".to_owned()),
        };
        all.iter()
            .map(|text| text.parse().unwrap())
            .find(|ip| lookup::in_family(*ip, family))
            .ok_or_else(|| "it has no address of the family".to_owned())
    }

    fn user(&self, name: &str) -> Result<Option<u32>, String> {
        Ok((name == "proxy").then_some(13))
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        Ok((name == "proxy").then_some(14))
    }

    fn cpus(&self) -> Vec<u32> {
        vec![0, 1, 4, 5]
    }
}

fn load(text: &str) -> (Option<Config>, Vec<Diagnostic>, Sources) {
    let outcome = portcullis_config::load(
        &[PathBuf::from("haproxy.cfg")],
        &MemoryFiles::single(text),
        &mut Environment::default(),
        &Features::default(),
    );
    (outcome.config, outcome.diagnostics, outcome.sources)
}

fn compiled(text: &str, overrides: &Overrides) -> (Option<Plan>, Vec<Diagnostic>, Sources) {
    let (config, found, sources) = load(text);
    let config = config.unwrap_or_else(|| panic!("{text}\n{found:?}"));
    let (plan, found) = compile(&config, &Table, overrides);
    (plan, found, sources)
}

fn plan(text: &str) -> Plan {
    let (plan, found, _) = compiled(text, &Overrides::default());
    plan.unwrap_or_else(|| panic!("{text}\n{found:?}"))
}

/// A frontend with this bind line before a backend with this server line.
fn proxy(bind: &str, server: &str) -> String {
    format!(
        "global\n nbthread 4\ndefaults\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n\
         frontend f\n bind {bind}\n default_backend b\nbackend b\n server s {server}\n"
    )
}

fn listener(bind: &str) -> ListenerSpec {
    plan(&proxy(bind, "127.0.0.1:1")).listeners[0].spec.clone()
}

#[test]
fn every_problem_is_found_at_once_at_its_words() {
    // Each row: the line, the words meant, the code.
    let lines = [
        (
            "bind nowhere.example:80",
            "nowhere.example:80",
            "unresolved-name",
        ),
        (
            "bind ipv4@six.example:81",
            "ipv4@six.example:81",
            "unresolved-name",
        ),
        (
            "bind 127.0.0.1:82,127.0.0.1:82",
            "127.0.0.1:82",
            "address-twice",
        ),
        (
            "bind /tmp/pc.sock user nobodyhere",
            "nobodyhere",
            "unknown-user",
        ),
        (
            "bind /tmp/pd.sock group nobodyhere",
            "nobodyhere",
            "unknown-group",
        ),
    ];
    let mut text = "global\n user ghost\nfrontend f\n timeout client 1s\n".to_owned();
    for (line, _, _) in lines {
        text += &format!(" {line}\n");
    }
    text += " default_backend b\nbackend b\n timeout connect 1s\n timeout server 1s\n";
    text += " server s nowhere.example:1\n server t /tmp/s check port 80\n";
    let (plan, found, sources) = compiled(&text, &Overrides::default());
    assert!(plan.is_none());
    for (line, words, code) in lines {
        let hit = found.iter().find(|d| {
            d.place
                .is_some_and(|p| sources.line(p.file, p.line).trim() == line)
                && d.code == code
        });
        let hit = hit.unwrap_or_else(|| panic!("{line}: {code} in {found:#?}"));
        let place = hit.place.unwrap();
        let shown = &sources.line(place.file, place.line)[place.start as usize..place.end as usize];
        assert_eq!(shown, words, "{line}");
        assert_eq!(hit.severity, Severity::Error, "{line}");
    }
    let codes: Vec<&str> = found.iter().map(|d| d.code).collect();
    assert_eq!(codes.iter().filter(|c| **c == "unknown-user").count(), 2);
    assert_eq!(
        codes.iter().filter(|c| **c == "unusable-address").count(),
        1
    );
    assert_eq!(codes.iter().filter(|c| **c == "unusable-check").count(), 1);
}

#[test]
fn the_first_address_of_the_family_is_taken() {
    for (bind, address) in [
        ("both.example:80", "192.0.2.1:80"),
        ("ipv6@both.example:80", "[2001:db8::1]:80"),
        ("six.example:80", "[2001:db8::6]:80"),
    ] {
        let Address::Tcp(found) = listener(bind).address else {
            panic!("{bind}");
        };
        assert_eq!(found.to_string(), address, "{bind}");
    }
}

#[test]
fn backlog_is_the_lines_else_the_frontends_else_maxconn_from_near_to_far() {
    // bind line, frontend lines, global lines; then the backlog that the socket gets
    for (bind, frontend, global, backlog) in [
        (
            "backlog 1 maxconn 2",
            "backlog 3\n maxconn 4",
            "maxconn 5",
            1,
        ),
        ("maxconn 2", "backlog 3\n maxconn 4", "maxconn 5", 3),
        ("maxconn 2", "maxconn 4", "maxconn 5", 2),
        ("", "maxconn 4", "maxconn 5", 4),
        ("", "", "maxconn 5", 5),
        ("", "", "", 1024),
    ] {
        let text = format!(
            "global\n {global}\nfrontend f\n timeout client 1s\n bind :80 {bind}\n {frontend}\n \
             default_backend b\nbackend b\n timeout connect 1s\n timeout server 1s\n server s :1\n"
        )
        .replace("server s :1", "server s 127.0.0.1:1");
        let spec = plan(&text).listeners[0].spec.clone();
        assert_eq!(
            spec.backlog.unwrap_or(spec.maxconn),
            backlog,
            "{bind} / {frontend} / {global}"
        );
    }
}

#[test]
fn an_address_has_a_shard_a_worker_where_the_kernel_can_and_the_file_wants() {
    // bind line, global line, shards of four workers
    for (bind, global, shards) in [
        (":80", "", 4),
        ("[::1]:80", "", 4),
        ("mptcp@:80", "", 4),
        (":80 shards by-thread", "", 4),
        (":80 shards by-group", "", 1),
        (":80 shards 1", "", 1),
        (":80 shards 3", "", 3),
        (":80 shards 9", "", 4),
        (":80", "tune.listener.default-shards by-group", 1),
        (":80", "noreuseport", 1),
        (":80 shards 3", "noreuseport", 1),
        ("/tmp/x", "", 1),
        ("abns@x", "", 1),
        ("fd@3", "", 1),
    ] {
        let text =
            proxy(bind, "127.0.0.1:1").replace("nbthread 4", &format!("nbthread 4\n {global}"));
        let spec = plan(&text).listeners[0].spec.clone();
        assert_eq!(spec.shards, shards, "{bind} / {global}");
        let tcp = matches!(spec.address, Address::Tcp(_) | Address::Mptcp(_));
        assert_eq!(spec.reuse_port, tcp && global != "noreuseport", "{bind}");
        assert_eq!(spec.no_delay, tcp, "{bind}");
    }
}

#[test]
fn workers_are_one_a_processor_unless_the_file_says_a_number_or_a_limit() {
    let with = |global: &str| {
        let text = proxy(":80", "127.0.0.1:1").replace("nbthread 4", global);
        let (plan, found, _) = compiled(&text, &Overrides::default());
        let codes: Vec<_> = found.iter().map(|d| d.code).collect();
        let plan = plan.unwrap();
        assert_eq!(plan.listeners[0].spec.shards, plan.workers, "{global}");
        (plan.workers, codes)
    };
    let rows: [(&str, u16, &[&str]); 5] = [
        ("", 4, &[]),
        (
            "nbthread 8\n thread-hard-limit 3",
            3,
            &["thread-hard-limit"],
        ),
        ("nbthread 2\n thread-hard-limit 3", 2, &[]),
        ("thread-hard-limit 3", 3, &[]),
        ("thread-hard-limit 64", 4, &[]),
    ];
    for (global, workers, codes) in rows {
        assert_eq!(with(global), (workers, codes.to_vec()), "{global}");
    }
}

#[test]
fn bind_parameters_reach_the_specification() {
    let spec = listener(
        ":80 name web interface lo transparent v4v6 mss 1400 defer-accept tfo tcp-ut 3s \
         cc reno tcp-md5sig secret namespace blue strict maxconn 9",
    );
    assert_eq!(spec.name, "f/web");
    assert_eq!(spec.interface.as_deref(), Some("lo"));
    assert_eq!(spec.foreign, Some(Foreign::TransparentOrFreebind));
    assert_eq!(spec.ipv6_only, Some(Ipv6Only::Off));
    assert_eq!(spec.mss, Some(1400));
    assert_eq!(spec.defer_accept, Some(Duration::from_secs(1)));
    assert_eq!(spec.fast_open, Some(FastOpenQueue::Backlog));
    assert_eq!(spec.user_timeout, Some(Duration::from_secs(3)));
    assert_eq!(spec.congestion_control.as_deref(), Some("reno"));
    assert_eq!(spec.md5_keys.len(), 1);
    assert_eq!(spec.md5_keys[0].peers, None);
    assert_eq!(spec.network_namespace.as_deref(), Some("blue"));
    assert!(spec.strict);
    let unix = listener("/tmp/x user proxy group proxy mode 660");
    assert_eq!(unix.unix_permissions.uid, Some(13));
    assert_eq!(unix.unix_permissions.gid, Some(14));
    assert_eq!(unix.unix_permissions.mode, Some(0o660));
}

#[test]
fn a_shard_with_an_incoming_cpu_has_its_worker_on_that_cpu() {
    let plan = plan(&proxy(":80 incoming-cpu", "127.0.0.1:1"));
    assert_eq!(plan.listeners[0].spec.incoming_cpus, [0, 1, 4, 5]);
    assert_eq!(plan.pinned, [0, 1, 4, 5]);
    let plain = super::tests::plan(&proxy(":80", "127.0.0.1:1"));
    assert!(plain.pinned.is_empty());
}

#[test]
fn servers_are_resolved_by_init_addr_in_its_order() {
    let tcp = |text: &str| {
        Some(ServerAddress::Tcp {
            address: text.parse().unwrap(),
            mptcp: false,
        })
    };
    for (server, address, usable) in [
        ("192.0.2.9:80", tcp("192.0.2.9:80"), true),
        ("both.example:80", tcp("192.0.2.1:80"), true),
        ("ipv6@both.example:80", tcp("[2001:db8::1]:80"), true),
        ("nowhere.example:80 init-addr last,libc,none", None, false),
        (
            "nowhere.example:80 init-addr libc,192.0.2.7",
            tcp("192.0.2.7:80"),
            true,
        ),
        ("both.example:80 init-addr none", None, false),
        ("both.example:80 disabled", tcp("192.0.2.1:80"), false),
        (
            "192.0.2.9",
            Some(ServerAddress::TcpMappedPort {
                ip: "192.0.2.9".parse().unwrap(),
                offset: 0,
                mptcp: false,
            }),
            true,
        ),
        (
            "192.0.2.9:+1000",
            Some(ServerAddress::TcpMappedPort {
                ip: "192.0.2.9".parse().unwrap(),
                offset: 1000,
                mptcp: false,
            }),
            true,
        ),
        (
            "0.0.0.0:0",
            Some(ServerAddress::OriginalDestination {
                port: None,
                offset: 0,
            }),
            true,
        ),
        (
            "/tmp/s",
            Some(ServerAddress::Unix(b"/tmp/s".to_vec())),
            true,
        ),
        ("abnsz@s", Some(ServerAddress::Unix(b"\0s".to_vec())), true),
    ] {
        let plan = plan(&proxy(":80", server));
        let found = &plan.backends[0].servers[0];
        assert_eq!(found.address, address, "{server}");
        assert_eq!(found.member.usable, usable, "{server}");
    }
    let padded = plan(&proxy(":80", "abns@s"));
    let Some(ServerAddress::Unix(bytes)) = &padded.backends[0].servers[0].address else {
        panic!("not a Unix address");
    };
    assert_eq!(bytes.len(), 108);
}

#[test]
fn a_check_goes_to_addr_and_port_where_given_and_a_server_at_rest_has_none() {
    for (server, target) in [
        ("192.0.2.9:80 check", Some("192.0.2.9:80")),
        ("192.0.2.9:80 check port 81", Some("192.0.2.9:81")),
        ("192.0.2.9:80 check addr 192.0.2.8", Some("192.0.2.8:80")),
        ("192.0.2.9 check port 81", Some("192.0.2.9:81")),
        ("/tmp/s check addr 192.0.2.8 port 81", Some("192.0.2.8:81")),
        ("192.0.2.9:80", None),
        ("192.0.2.9:80 check disabled", None),
        ("both.example:80 check init-addr none", None),
    ] {
        let plan = plan(&proxy(":80", server));
        let check = plan.backends[0].servers[0]
            .check
            .as_ref()
            .map(|c| &c.target);
        let expected = target.map(|text| ServerAddress::Tcp {
            address: text.parse().unwrap(),
            mptcp: false,
        });
        assert_eq!(check, expected.as_ref(), "{server}");
    }
}

#[test]
fn disabled_proxies_are_left_out_and_a_disabled_backend_is_warned_of() {
    let text = "defaults\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n\
                frontend a\n bind :80\n disabled\n default_backend x\n\
                frontend b\n bind :81\n default_backend y\n\
                backend x\n server s 127.0.0.1:1\n\
                backend y\n disabled\n server s 127.0.0.1:1\n";
    let (plan, found, _) = compiled(text, &Overrides::default());
    let plan = plan.unwrap();
    assert_eq!(plan.frontends.len(), 1);
    assert_eq!(plan.listeners.len(), 1);
    assert_eq!(plan.listeners[0].frontend, 0);
    assert_eq!(plan.frontends[0].backend, None);
    assert_eq!(plan.backends.len(), 1);
    assert_eq!(plan.backends[0].name, "x");
    assert!(found.iter().any(|d| d.code == "disabled-backend"));
}

#[test]
fn the_command_line_goes_over_the_file() {
    let text = "global\n daemon\n maxconn 5\n pidfile /tmp/a\n user proxy\n gid 7\n".to_owned()
        + &proxy(":80", "127.0.0.1:1");
    let (from_file, _, _) = compiled(&text, &Overrides::default());
    let process = from_file.unwrap().process;
    assert!(process.daemon);
    assert_eq!(process.maxconn, Some(5));
    assert_eq!(process.pidfile, Some(PathBuf::from("/tmp/a")));
    assert_eq!(process.privileges.user, Some(Id::Number(13)));
    assert_eq!(process.privileges.group, Some(Id::Number(7)));
    let overrides = Overrides {
        maxconn: Some(6),
        foreground: true,
        pidfile: Some(PathBuf::from("/tmp/b")),
        ..Overrides::default()
    };
    let process = compiled(&text, &overrides).0.unwrap().process;
    assert!(!process.daemon);
    assert_eq!(process.maxconn, Some(6));
    assert_eq!(process.pidfile, Some(PathBuf::from("/tmp/b")));
}

#[test]
fn addresses_are_numbered_in_their_frontend_as_haproxy_does() {
    // HAProxy 2.6 logs `unix:4`, `unix:77` and `unix:6` for clients of these three sockets.
    let text = "defaults\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n\
                listen a\n bind 127.0.0.1:8000-8002\n bind /a\n bind /b id 77\n bind /c\n\
                server s 127.0.0.1:1\n\
                listen b\n bind /d\n bind /e id 1\n server s 127.0.0.1:1\n";
    let numbers: Vec<u32> = plan(text).listeners.iter().map(|l| l.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 77, 6, 2, 1]);
}

#[test]
fn servers_are_numbered_in_their_backend_as_haproxy_does() {
    // Of 200 clients, 108 went elsewhere than with HAProxy 2.6 while `s1` was number 1 here.
    let text = "defaults\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n\
                listen a\n bind 127.0.0.1:8000\n balance source\n hash-type consistent\n\
                server s0 127.0.0.1:1 id 7\n server s1 127.0.0.1:2\n\
                server-template t 2 127.0.0.1:3\n server s2 127.0.0.1:4 id 4\n\
                server s3 127.0.0.1:5\n";
    let plan = plan(text);
    let servers = plan.backends[0].servers.iter();
    let numbers: Vec<_> = servers
        .map(|s| (s.member.name.as_ref(), s.member.id))
        .collect();
    let expected = [
        ("s0", 7),
        ("s1", 2),
        ("t1", 3),
        ("t2", 5),
        ("s2", 4),
        ("s3", 8),
    ];
    assert_eq!(numbers, expected);
}

#[test]
fn an_address_of_others_needs_a_capability_that_the_user_may_give_up() {
    for (global, server, refused) in [
        ("uid 7", "127.0.0.1:1 source 0.0.0.0 usesrc clientip", true),
        (
            "uid 7\n setcap cap_net_bind_service",
            "127.0.0.1:1 source 0.0.0.0 usesrc client",
            true,
        ),
        (
            "uid 7\n setcap cap_net_raw",
            "127.0.0.1:1 source 0.0.0.0 usesrc clientip",
            false,
        ),
        (
            "nbthread 4",
            "127.0.0.1:1 source 0.0.0.0 usesrc clientip",
            false,
        ),
        ("uid 7", "127.0.0.1:1 source 127.0.0.5", false),
    ] {
        let text = proxy("127.0.0.1:8000", server).replace("nbthread 4", global);
        let (plan, found, _) = compiled(&text, &Overrides::default());
        let named = found.iter().any(|d| d.code == "missing-capability");
        assert_eq!(
            (plan.is_none(), named),
            (refused, refused),
            "{global}, {server}: {found:?}"
        );
    }
}

#[test]
fn expect_proxy_holds_for_every_address_of_its_frontend() {
    let rule = " tcp-request connection expect-proxy layer4\n default_backend b";
    for (rule, expected) in [(" default_backend b", false), (rule, true)] {
        let text = proxy("127.0.0.1:8000,127.0.0.1:8001", "127.0.0.1:1")
            .replace(" default_backend b", rule);
        let found: Vec<bool> = plan(&text)
            .listeners
            .iter()
            .map(|l| l.accepts_proxy)
            .collect();
        assert_eq!(found, [expected; 2]);
    }
}
