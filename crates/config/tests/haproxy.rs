//! Does HAProxy accept what we accept, and refuse what we refuse?
//!
//! Decides:  nothing; a row where we differ on purpose says why (docs/differences.md).
//! Source:   the installed haproxy (2.6 in Debian 12), run with `-c`.
//! Not here: what the configurations mean (model.rs).

#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use portcullis_config::{Environment, Features, MemoryFiles, load};

/// What is expected of HAProxy and of us.
enum Expect {
    /// Both load it.
    Loads,
    /// Both refuse it.
    Refused,
    /// HAProxy 2.6 loads it, we refuse it: why.
    WeRefuse(&'static str),
    /// HAProxy 2.6 refuses it, we load it: why.
    WeLoad(&'static str),
}
use Expect::{Loads, Refused, WeLoad, WeRefuse};

const YET: &str = "not there yet, and it changes where traffic goes or what is secure";
const TYPO: &str = "a number is read to its end; atol() takes what it can";
const NEWER: &str = "HAProxy refuses it since a later version";
const LATER: &str = "HAProxy has it since a later version";

/// Lines of a `listen` section that has an address and a server.
const LISTEN: &[(&str, Expect)] = &[
    ("", Loads),
    ("balance roundrobin", Loads),
    ("balance static-rr", Loads),
    ("balance leastconn", Loads),
    ("balance random", Loads),
    ("balance random(3)", Loads),
    ("balance random(0)", Refused),
    ("balance nonsense", Refused),
    (
        "balance",
        WeRefuse("an algorithm must be said; HAProxy takes the default"),
    ),
    ("balance source", Loads),
    ("balance first", Loads),
    ("balance hash src", Loads),
    ("balance hash src,ipmask(24)", Loads),
    ("balance hash src,ipmask(24,64)", Loads),
    ("balance hash src,ipmask(nonsense)", Refused),
    ("balance hash", Refused),
    ("balance hash dst_port", WeRefuse(YET)),
    ("hash-type consistent", Loads),
    ("hash-type map-based djb2 avalanche", Loads),
    ("hash-type map-based nonsense", Refused),
    ("hash-type nonsense", Refused),
    ("hash-type consistent sdbm nonsense", Refused),
    ("hash-balance-factor 150", Loads),
    ("hash-balance-factor 0", Loads),
    ("hash-balance-factor 50", Refused),
    ("balance uri", Loads),
    ("maxconn 10", Loads),
    ("maxconn", Refused),
    ("maxconn 10 20", Refused),
    ("maxconn ten", WeRefuse(TYPO)),
    ("backlog 10", Loads),
    ("fullconn 10", Loads),
    ("retries 2", Loads),
    ("retries", Refused),
    ("retries 1 2", Refused),
    ("timeout client 5s", Loads),
    ("timeout client 5y", Refused),
    ("timeout client", Refused),
    ("timeout client 5s 6s", Refused),
    ("timeout client 25d", Refused),
    ("timeout nonsense 5s", Refused),
    ("timeout client-fin 5s", Loads),
    ("timeout server-fin 5s", Loads),
    ("timeout tunnel 1h", Loads),
    ("timeout check 1s", Loads),
    ("timeout queue 1s", Loads),
    ("timeout http-request 1s", Loads),
    ("timeout tarpit 1s", Loads),
    ("clitimeout 5000", Refused),
    ("option tcplog", Loads),
    ("option tcplog clf", WeLoad(LATER)),
    ("option tcplog nonsense", Refused),
    ("option httplog", Loads),
    ("option httpslog", Loads),
    ("option dontlognull", Loads),
    ("no option dontlognull", Loads),
    (
        "default option dontlognull",
        WeLoad("HAProxy 2.6 has `default` for other keywords only"),
    ),
    ("option dontlognull x", Refused),
    ("option nonsense", Refused),
    ("no option tcplog", Refused),
    ("no maxconn 10", Refused),
    ("option redispatch", Loads),
    ("option redispatch 3", Loads),
    ("no option redispatch", Loads),
    ("option allbackups", Loads),
    ("option tcpka", Loads),
    ("option clitcpka", Loads),
    ("option srvtcpka", Loads),
    ("clitcpka-cnt 3", Loads),
    ("clitcpka-idle 10s", Loads),
    ("srvtcpka-intvl 10s", Loads),
    ("option nolinger", Loads),
    ("option splice-auto", Loads),
    ("no option splice-auto", Loads),
    ("option tcp-smart-accept", Loads),
    ("option tcp-smart-connect", Loads),
    ("option abortonclose", Loads),
    ("option independent-streams", Loads),
    ("option logasap", Loads),
    ("option log-health-checks", Loads),
    ("option log-separate-errors", Loads),
    ("option dontlog-normal", Loads),
    ("option socket-stats", Loads),
    ("option contstats", Loads),
    ("option persist", Loads),
    ("option tcp-check", WeRefuse(YET)),
    ("option httpchk", WeRefuse(YET)),
    ("option forwardfor", Loads),
    ("option http-server-close", Loads),
    ("option checkcache", Loads),
    ("option forceclose", Refused),
    ("option http-tunnel", Refused),
    ("log global", Loads),
    ("no log", Loads),
    ("log 127.0.0.1 local0", Loads),
    ("log 127.0.0.1:514 local0 info", Loads),
    ("log 127.0.0.1 local0 info debug", Loads),
    ("log 127.0.0.1 len 200 format rfc5424 local0", Loads),
    ("log 127.0.0.1 len 20 local0", Refused),
    ("log 127.0.0.1 local9", Refused),
    ("log 127.0.0.1 local0 loud", Refused),
    ("log 127.0.0.1 format loud local0", Refused),
    ("log 127.0.0.1", Refused),
    ("log stdout local0", Loads),
    ("log /dev/log local0", Loads),
    ("log", Refused),
    ("log-tag x", Loads),
    ("log-format %ci", Loads),
    ("id 10", Loads),
    ("id 0", Refused),
    ("id", Refused),
    ("description some text", Loads),
    (
        "description",
        WeLoad("it has no effect yet, and its arguments are not looked at"),
    ),
    ("disabled", Loads),
    ("disabled x", Refused),
    ("mode tcp", Loads),
    ("mode nonsense", Refused),
    ("mode", Refused),
    ("mode http", WeRefuse("only `mode tcp` is served")),
    ("mode health", Refused),
    ("acl x src 10.0.0.1", Loads),
    ("use_backend b", WeRefuse(YET)),
    ("tcp-request connection accept", WeRefuse(YET)),
    ("tcp-request connection expect-proxy layer4", Loads),
    ("tcp-request connection expect-proxy layer7", Refused),
    ("tcp-request connection expect-proxy", Refused),
    (
        "tcp-request connection expect-proxy layer4 if { src 10.0.0.0/8 }",
        WeRefuse(YET),
    ),
    ("tcp-request inspect-delay 5s", Loads),
    ("stick-table type ip size 10", WeRefuse(YET)),
    ("rate-limit sessions 5", Loads),
    ("http-request deny", Loads),
    ("cookie S insert", Loads),
    ("compression algo gzip", Loads),
    ("stats enable", Loads),
    ("monitor-uri /x", Loads),
    ("errorloc 503 http://x/", Loads),
    ("dispatch 10.0.0.1:80", WeRefuse(NEWER)),
    ("option transparent", WeRefuse(NEWER)),
    ("reqadd X", Refused),
    ("block if x", Refused),
    ("grace 100", Refused),
    ("monitor-net 10.0.0.0/8", Refused),
    ("redispatch", Refused),
    ("nonsense", Refused),
    ("nbthread 3", Refused),
    ("default_backend b", Loads),
    ("default_backend missing", Refused),
    ("default_backend", Refused),
    ("default_backend b c", Refused),
    ("default-server weight 3", Loads),
    ("default-server nonsense", Refused),
    (
        "default-server id 5",
        WeRefuse("HAProxy 2.6 says ALERT and goes on"),
    ),
    (
        "default-server",
        WeRefuse("a line that says nothing is a slip"),
    ),
    ("server x 10.0.0.1:80", Loads),
    ("server x 10.0.0.1", Loads),
    ("server x 10.0.0.1:+5", Loads),
    ("server x 0.0.0.0", Loads),
    ("server x", Refused),
    ("server", Refused),
    ("server x/y 10.0.0.1:80", Refused),
    ("server x 10.0.0.1:80 weight 256", Loads),
    ("server x 10.0.0.1:80 weight 257", Refused),
    ("server x 10.0.0.1:80 weight -1", Refused),
    ("server x 10.0.0.1:80 weight many", WeRefuse(TYPO)),
    ("server x 10.0.0.1:80 weight", WeRefuse(TYPO)),
    ("server x 10.0.0.1:80 nonsense", Refused),
    (
        "server x 10.0.0.1:80 check inter 1s fastinter 1s downinter 1s rise 1 fall 1",
        Loads,
    ),
    ("server x 10.0.0.1:80 check rise 0", Refused),
    ("server x 10.0.0.1:80 check fall 0", Refused),
    ("server x 10.0.0.1:80 check inter 0", Refused),
    ("server x 10.0.0.1:80 check inter 5y", Refused),
    ("server x 10.0.0.1:80 check port 90 addr 10.0.0.2", Loads),
    (
        "server x 10.0.0.1:80 check port 0",
        WeRefuse("a port of 0 is no port"),
    ),
    ("server x 10.0.0.1 check", Refused),
    ("server x 10.0.0.1 check port 80", Loads),
    ("server x 10.0.0.1:80 backup", Loads),
    ("server x 10.0.0.1:80 disabled", Loads),
    ("server x 10.0.0.1:80 init-addr none", Loads),
    ("server x 10.0.0.1:80 init-addr nonsense", Refused),
    ("server x 10.0.0.1:80 id 5", Loads),
    ("server x 10.0.0.1:80 id 0", Refused),
    ("server x 10.0.0.1:80 tcp-ut 5s", Loads),
    ("server x 10.0.0.1:80 cc cubic", WeLoad(LATER)),
    ("server x 10.0.0.1:80 maxconn 10 maxqueue 5", Loads),
    ("server x 10.0.0.1:80 minconn 10", Loads),
    ("server x 10.0.0.1:80 send-proxy", Loads),
    (
        "server x 10.0.0.1:80 send-proxy-v2 proxy-v2-options crc32c",
        Loads,
    ),
    (
        "server x 10.0.0.1:80 send-proxy-v2 proxy-v2-options nonsense",
        Refused,
    ),
    (
        "server x 10.0.0.1:80 send-proxy-v2 proxy-v2-options unique-id",
        WeRefuse(YET),
    ),
    ("server x 10.0.0.1:80 check check-send-proxy", Loads),
    ("server x 10.0.0.1:80 source 10.0.0.9:1000-2000", Loads),
    ("server x 10.0.0.1:80 source 10.0.0.9:2000-1000", Refused),
    ("server x 10.0.0.1:80 source [2001:db8::9]", Loads),
    ("server x 10.0.0.1:80 source [2001:db8::9]:80", Loads),
    ("server x 10.0.0.1:80 source 2001:db8::9:80-90", Loads),
    ("server x 10.0.0.1:80 source 10.0.0.9 interface lo", Loads),
    ("server x 10.0.0.1:80 source", Refused),
    (
        "server x 10.0.0.1:80 source 10.0.0.9 usesrc clientip",
        Loads,
    ),
    ("server x 10.0.0.1:80 source 10.0.0.9 usesrc client", Loads),
    (
        "server x 10.0.0.1:80 source 10.0.0.9 usesrc 10.0.0.8:99",
        Loads,
    ),
    ("server x 10.0.0.1:80 source 10.0.0.9 usesrc", Refused),
    ("source 0.0.0.0 usesrc clientip", Loads),
    ("source 0.0.0.0 usesrc nonsense..", Refused),
    ("source 10.0.0.9", Loads),
    ("source 10.0.0.9 nonsense", Refused),
    ("server x 10.0.0.1:80 tfo", Loads),
    (
        "server x 10.0.0.1:80 check on-marked-down shutdown-sessions",
        Loads,
    ),
    (
        "server x 10.0.0.1:80 check on-marked-up shutdown-backup-sessions",
        Loads,
    ),
    ("server x 10.0.0.1:80 check on-marked-up nonsense", Refused),
    (
        "server x 10.0.0.1:80 check observe layer4 error-limit 3 on-error mark-down",
        Loads,
    ),
    ("server x 10.0.0.1:80 check observe nonsense", Refused),
    ("server x 10.0.0.1:80 slowstart 10s", Loads),
    ("server x 10.0.0.1:80 ssl verify none", WeRefuse(YET)),
    ("server x 10.0.0.1:80 cookie c", Loads),
    ("server x 10.0.0.1:80 proto none", Loads),
    ("server x 10.0.0.1:80 interface lo", Refused),
    ("server x 10.0.0.1:80 usesrc client", Refused),
    ("server a 10.0.0.2:80", Refused),
    ("server-template x 3 10.0.0.1:80", Loads),
    ("server-template x 2-4 10.0.0.1:80", Loads),
    ("server-template x 4-2 10.0.0.1:80", Refused),
    ("server-template x nonsense 10.0.0.1:80", Refused),
    ("server-template x", Refused),
    ("bind 127.0.0.1:9002", Loads),
    ("bind 127.0.0.1:9002-9004", Loads),
    ("bind 127.0.0.1:9004-9002", Refused),
    ("bind 127.0.0.1", Refused),
    ("bind 127.0.0.1:0", Refused),
    ("bind 127.0.0.1:70000", Refused),
    ("bind", Refused),
    (
        "bind /tmp/portcullis-differential.sock mode 660 uid 0 gid 0",
        Loads,
    ),
    ("bind abns@x", Loads),
    ("bind 127.0.0.1:9002 nonsense", Refused),
    (
        "bind 127.0.0.1:9002 maxconn 5 backlog 6 name n id 77",
        Loads,
    ),
    ("bind 127.0.0.1:9002 maxconn -1", Refused),
    ("bind 127.0.0.1:9002 backlog -1", Refused),
    ("bind 127.0.0.1:9002 id 0", Refused),
    ("bind 127.0.0.1:9002 shards 2", Loads),
    ("bind 127.0.0.1:9002 shards by-thread", Loads),
    ("bind 127.0.0.1:9002 shards 0", Refused),
    ("bind 127.0.0.1:9002 shards nonsense", Refused),
    ("bind 127.0.0.1:9002 interface lo", Loads),
    ("bind 127.0.0.1:9002 transparent", Loads),
    ("bind :::9002 v4v6", Loads),
    ("bind :::9002 v6only", Loads),
    ("bind 127.0.0.1:9002 mss 1400", Loads),
    ("bind 127.0.0.1:9002 mss -40", Loads),
    ("bind 127.0.0.1:9002 mss 0", Refused),
    ("bind 127.0.0.1:9002 mss 70000", Refused),
    ("bind 127.0.0.1:9002 defer-accept tfo", Loads),
    ("bind 127.0.0.1:9002 tcp-ut 5s", Loads),
    ("bind 127.0.0.1:9002 tcp-ut 5y", Refused),
    ("bind 127.0.0.1:9002 nice 5 thread all", Loads),
    ("bind 127.0.0.1:9002 accept-proxy", Loads),
    (
        "bind 127.0.0.1:9002 crt /nonexistent",
        WeLoad("without `ssl` no certificate is read"),
    ),
    ("bind 127.0.0.1:9002 level admin", Loads),
    ("bind 127.0.0.1:9002 process 1", WeRefuse(NEWER)),
];

/// Whole files.
const WHOLE: &[(&str, Expect)] = &[
    ("global\n nbthread 2\n maxconn 100\n daemon\n", Loads),
    ("global\n maxconn 100\n maxconn 200\n", Loads),
    ("global\n maxconn x\n", WeRefuse(NEWER)),
    ("global\n nbthread 0\n", Refused),
    ("global\n nbproc 2\n", Refused),
    ("global\n spread-checks 51\n", Refused),
    ("global\n nonsense\n", Refused),
    ("global\n daemon x\n", Refused),
    ("global\n timeout client 5s\n", Refused),
    ("global\n log /dev/log local0\n log global\n", Refused),
    (
        "global\n stats socket /tmp/x.sock mode 600 level admin\n stats timeout 10s\n",
        Loads,
    ),
    ("global\n hard-stop-after 10s\n grace 5s\n", Loads),
    (
        "global\n tune.maxaccept 10\n tune.bufsize 32768\n tune.pipesize 65536\n",
        Loads,
    ),
    ("global\n unix-bind prefix /tmp mode 600\n", Loads),
    ("global\n unix-bind nonsense x\n", Refused),
    ("global\n no strict-limits\n", Loads),
    ("global\n no daemon\n", Refused),
    (
        "global\n ssl-default-bind-options no-sslv3\n ca-base /tmp\n",
        Loads,
    ),
    (
        "global\n tune.h2.header-table-size 4096\n tune.lua.maxmem 0\n",
        Loads,
    ),
    ("frontend f\n bind 127.0.0.1:9003\n", Loads),
    ("frontend f\n default_backend b\nbackend b\n", Loads),
    (
        "frontend f\n bind 127.0.0.1:9003\n default_backend f\n",
        Refused,
    ),
    (
        "backend b\n bind 127.0.0.1:9003\n",
        WeRefuse("the port would not be opened; HAProxy warns"),
    ),
    ("frontend f\n server a 10.0.0.1:80\n", Refused),
    ("frontend f\n balance leastconn\n", Loads),
    ("backend b\n maxconn 5\n", Loads),
    ("backend b\n tcp-request connection reject\n", Refused),
    ("backend b\n tcp-request session reject\n", Refused),
    ("frontend f\n tcp-response content reject\n", Refused),
    ("defaults\n bind 127.0.0.1:9003\n", Refused),
    ("defaults\n server a 10.0.0.1:80\n", Refused),
    (
        "defaults d\nfrontend f from d\n bind 127.0.0.1:9003\n",
        Loads,
    ),
    ("frontend f from d\n bind 127.0.0.1:9003\n", Refused),
    (
        "defaults d\ndefaults e from d\nfrontend f from e\n bind 127.0.0.1:9003\n",
        Loads,
    ),
    (
        "defaults d\ndefaults d\nfrontend f from d\n bind 127.0.0.1:9003\n",
        Refused,
    ),
    (
        "defaults d\nbackend b from d\ndefaults d\n",
        WeRefuse(NEWER),
    ),
    ("defaults d\nbackend d\n", WeRefuse(NEWER)),
    (
        "frontend x\n bind 127.0.0.1:9003\nbackend x\n",
        WeRefuse(NEWER),
    ),
    ("backend x\nbackend x\n", Refused),
    ("listen x\n bind 127.0.0.1:9003\nbackend x\n", Refused),
    ("backend x\n id 5\nbackend y\n id 5\n", Refused),
    (
        "backend x\n server a 10.0.0.1:1 id 5\n server b 10.0.0.1:2 id 5\n",
        Refused,
    ),
    ("backend\n", Refused),
    ("backend a@b\n", Refused),
    (
        "backend a b\n",
        WeRefuse("a word that means nothing is a slip"),
    ),
    ("listen l 127.0.0.1:9003\n", WeRefuse(NEWER)),
    ("resolvers r\n nameserver n 127.0.0.1:53\n", Loads),
    ("userlist u\n user a password b\n", Loads),
    ("nonsense x\n", Refused),
];

fn we_load(text: &str) -> (bool, String) {
    let files = MemoryFiles::default().with("t.cfg", text.as_bytes().to_vec());
    let outcome = load(
        &[PathBuf::from("t.cfg")],
        &files,
        &mut Environment::default(),
        &Features::default(),
    );
    let said: Vec<String> = outcome
        .diagnostics
        .iter()
        .map(|d| format!("{:?} {}", d.severity, d.message))
        .collect();
    (outcome.config.is_some(), said.join("\n"))
}

fn haproxy_loads(haproxy: &Path, text: &str, number: usize) -> (bool, String) {
    let name = format!(
        "portcullis-differential-{}-{number}.cfg",
        std::process::id()
    );
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).unwrap();
    let output = Command::new(haproxy)
        .args(["-c", "-f"])
        .arg(&path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // 2: "Configuration file has no error but will not start (no listener)".
    (matches!(output.status.code(), Some(0 | 2)), said)
}

#[test]
fn haproxy_and_we_accept_the_same_files_or_say_why_not() {
    let Some(haproxy) = portcullis_testkit::need_program("haproxy") else {
        return;
    };
    let mut wrong = Vec::new();
    let section = |line: &str| {
        format!(
            "defaults\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n\
             backend b\n server a 10.0.0.1:80\n\
             listen l\n bind 127.0.0.1:9001\n server a 10.0.0.1:80\n {line}\n"
        )
    };
    let rows = LISTEN
        .iter()
        .map(|(line, expect)| (section(line), *line, expect))
        .chain(
            WHOLE
                .iter()
                .map(|(text, expect)| ((*text).to_owned(), *text, expect)),
        );
    for (number, (text, label, expect)) in rows.enumerate() {
        let (theirs, they_said) = haproxy_loads(&haproxy, &text, number);
        let (ours, we_said) = we_load(&text);
        let (expect_theirs, expect_ours, why) = match expect {
            Loads => (true, true, ""),
            Refused => (false, false, ""),
            WeRefuse(why) => (true, false, *why),
            WeLoad(why) => (false, true, *why),
        };
        if (theirs, ours) != (expect_theirs, expect_ours) {
            wrong.push(format!(
                "{label:?}: HAProxy loads: {theirs} (expected {expect_theirs}), we: {ours} \
                 (expected {expect_ours}) {why}\n{they_said}{we_said}"
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} rows\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
