//! Every keyword of priority A and B is an entry, and no name is there twice.
//!
//! Decides:  nothing.
//! Source:   the inventory made from HAProxy 3.5-dev5's registered keywords and its manual.
//! Not here: what the keywords do.

use std::collections::BTreeSet;

use portcullis_config::reference::{Treatment, reference};

fn known(table: &str) -> BTreeSet<&'static str> {
    reference()
        .into_iter()
        .filter(|row| row.table == table)
        .map(|row| row.name)
        .collect()
}

fn assert_all(table: &str, names: &str) {
    let known = known(table);
    let missing: Vec<&str> = names
        .split(['\n', ';'])
        .map(str::trim)
        .filter(|name| !name.is_empty() && !known.contains(name))
        .collect();
    assert!(missing.is_empty(), "not in {table}: {missing:?}");
}

#[test]
fn every_global_keyword_of_priority_a_and_b_is_an_entry() {
    assert_all(
        "global",
        "daemon;pidfile;user;uid;group;gid;chroot;maxconn;ulimit-n;nbthread;log;log-tag;\
         log-send-hostname;stats socket;stats timeout;stats maxconn;master-worker;hard-stop-after;\
         expose-experimental-directives;setenv;presetenv;unsetenv;resetenv;\
         ssl-default-bind-ciphers;ssl-default-bind-ciphersuites;ssl-default-bind-options;\
         ssl-default-bind-curves;ssl-default-bind-sigalgs;ssl-default-bind-client-sigalgs;\
         ssl-default-server-ciphers;ssl-default-server-ciphersuites;ssl-default-server-options;\
         ssl-default-server-curves;ssl-default-server-sigalgs;ssl-default-server-client-sigalgs;\
         ca-base;crt-base;key-base;tune.bufsize;tune.maxaccept;quiet;zero-warning;node;description;\
         unix-bind;fd-hard-limit;strict-limits;grace;mworker-max-reloads;maxconnrate;maxsessrate;\
         maxsslconn;maxsslrate;maxpipes;spread-checks;max-spread-checks;server-state-base;\
         server-state-file;stats-file;localpeer;external-check;insecure-fork-wanted;setcap;cpu-map;\
         cpu-set;cpu-policy;cpu-affinity;thread-groups;thread-group;max-threads-per-group;\
         thread-hard-limit;numa-cpu-mapping;default-path;set-var;set-var-fmt;dns-accept-family;\
         tune.rcvbuf.client;tune.rcvbuf.server;tune.rcvbuf.frontend;tune.rcvbuf.backend;\
         tune.sndbuf.client;tune.sndbuf.server;tune.sndbuf.frontend;tune.sndbuf.backend;\
         tune.notsent-lowat.client;tune.notsent-lowat.server;tune.listener.default-shards;\
         tune.listener.multi-queue;tune.idletimer;tune.pipesize;tune.stick-counters;\
         tune.max-checks-per-thread;tune.max-rules-at-once;tune.vars.global-max-size;\
         tune.vars.proc-max-size;tune.vars.reqres-max-size;tune.vars.sess-max-size;\
         tune.vars.txn-max-size;tune.ssl.cachesize;tune.ssl.lifetime;tune.ssl.default-dh-param;\
         tune.ssl.maxrecord;tune.ssl.hard-maxrecord;tune.ssl.keylog;tune.ssl.capture-buffer-size;\
         tune.ssl.force-private-cache;tune.ssl.ssl-ctx-cache-size;\
         tune.ssl.certificate-compression;tune.ssl.keyupdate-rate-limit;ssl-server-verify;\
         ssl-dh-param-file;ssl-load-extra-files;ssl-load-extra-del-ext;ssl-passphrase-cmd;\
         ssl-provider;ssl-provider-path;ssl-propquery;ssl-security-level;ssl-skip-self-issued-ca;\
         issuers-chain-path;ocsp-update.disable;ocsp-update.maxdelay;ocsp-update.mindelay;\
         ocsp-update.httpproxy;ocsp-update.mode;cluster-secret;harden.reject-privileged-ports.tcp;\
         nosplice;noreuseport;nogetaddrinfo;noepoll;nopoll;noktls;busy-polling;prealloc-fd",
    );
}

#[test]
fn every_proxy_keyword_of_the_manuals_matrix_is_an_entry() {
    assert_all(
        "proxies",
        "mode;bind;server;default-server;server-template;balance;hash-type;default_backend;\
         use_backend;use-server;acl;maxconn;timeout connect;timeout client;timeout server;\
         timeout queue;timeout check;timeout tunnel;timeout client-fin;timeout server-fin;\
         timeout client-hs;timeout http-keep-alive;timeout http-request;timeout tarpit;retries;\
         option redispatch;option tcplog;log;log-format;option dontlognull;option logasap;\
         option log-health-checks;option tcp-check;tcp-check comment;tcp-check connect;\
         tcp-check expect;tcp-check send;tcp-check send-lf;tcp-check send-binary;\
         tcp-check send-binary-lf;tcp-check set-var;tcp-check unset-var;option httpchk;\
         http-check comment;http-check connect;http-check disable-on-404;http-check expect;\
         http-check send;http-check send-state;http-check set-var;http-check unset-var;option tcpka;\
         option clitcpka;option srvtcpka;clitcpka-cnt;clitcpka-idle;clitcpka-intvl;srvtcpka-cnt;\
         srvtcpka-idle;srvtcpka-intvl;stick-table;stick on;stick match;stick store-request;\
         stick store-response;tcp-request connection;tcp-request session;tcp-request content;\
         tcp-request inspect-delay;tcp-response content;tcp-response inspect-delay;stats admin;\
         stats auth;stats enable;stats hide-version;stats http-request;stats realm;stats refresh;\
         stats scope;stats show-desc;stats show-legends;stats show-node;stats show-version;stats uri;\
         disabled;enabled;id;description;source;backlog;fullconn;option allbackups;option persist;\
         force-persist;ignore-persist;persist rdp-cookie;option nolinger;option splice-auto;\
         option splice-request;option splice-response;option tcp-smart-accept;\
         option tcp-smart-connect;option abortonclose;option independent-streams;option contstats;\
         option socket-stats;option dontlog-normal;option log-separate-errors;rate-limit sessions;\
         hash-balance-factor;hash-preserve-affinity;unique-id-format;load-server-state-from-file;\
         server-state-file-name;external-check command;external-check path;option external-check;\
         log-tag;log-format-sd;error-log-format;log-steps;email-alert from;email-alert level;\
         email-alert mailers;email-alert myhostname;email-alert to;guid;be-unpublished;\
         force-be-switch;declare capture;filter;filter-sequence;option httplog;option httpslog;\
         option mysql-check;option pgsql-check;option redis-check;option smtpchk;option ldap-check;\
         option ssl-hello-chk;option spop-check;option prefer-last-server;option use-small-buffers;\
         retry-on;max-session-srv-conns;capture cookie;capture request header;\
         capture response header;compression;cookie;crt;dynamic-cookie-key;errorfile;errorfiles;\
         errorloc;errorloc302;errorloc303;http-after-response;http-error;http-request;http-response;\
         http-reuse;http-send-name-header;max-keep-alive-queue;monitor fail;monitor-uri;redirect;\
         quic-initial;unique-id-header;use-fcgi-app;option checkcache;option disable-h2-upgrade;\
         option forwardfor;option forwarded;option h1-case-adjust-bogus-client;\
         option h1-case-adjust-bogus-server;option http-buffer-request;\
         option http-drop-request-trailers;option http-drop-response-trailers;\
         option http-ignore-probes;option http-keep-alive;option http-no-delay;\
         option http-pretend-keepalive;option http-restrict-req-hdr-names;option http-server-close;\
         option http-use-proxy-header;option httpclose;option idle-close-on-response;\
         option originalto;dispatch;transparent;option transparent;monitor-net;grace;bind-process;\
         appsession;redisp;block;reqadd;rspadd;clitimeout;contimeout;srvtimeout",
    );
}

#[test]
fn every_bind_parameter_of_the_manual_is_an_entry() {
    assert_all(
        "bind",
        "accept-netscaler-cip;accept-proxy;allow-0rtt;alpn;backlog;ca-file;ca-ignore-err;\
         ca-sign-file;ca-sign-pass;ca-verify-file;cc;ciphers;ciphersuites;client-sigalgs;crl-file;\
         crt;crt-ignore-err;crt-list;default-crt;curves;defer-accept;ecdhe;ech;expose-fd;\
         force-sslv3;force-tlsv10;force-tlsv11;force-tlsv12;force-tlsv13;generate-certificates;gid;\
         group;guid-prefix;id;idle-ping;interface;ktls;label;level;maxconn;mode;mss;name;namespace;\
         nbconn;nice;no-alpn;no-ca-names;no-sslv3;no-strict-sni;no-tls-tickets;no-tlsv10;no-tlsv11;\
         no-tlsv12;no-tlsv13;npn;prefer-client-ciphers;proto;quic-cc-algo;quic-force-retry;\
         quic-socket;severity-output;shards;sigalgs;ssl;ssl-max-ver;ssl-min-ver;strict-sni;\
         tcp-md5sig;tcp-ss;tcp-ut;tfo;thread;tls-tickets;tls-ticket-keys;transparent;uid;user;v4v6;\
         v6only;verify;process",
    );
}

#[test]
fn every_server_parameter_of_the_manual_is_an_entry() {
    assert_all(
        "server",
        "addr;agent-check;agent-send;agent-inter;agent-addr;agent-port;allow-0rtt;alpn;backup;\
         ca-file;cc;check;check-reuse-pool;check-send-proxy;check-alpn;check-pool-conn-name;\
         check-proto;check-sni-auto;check-sni;check-ssl;check-via-socks4;ciphers;ciphersuites;\
         client-sigalgs;cookie;crl-file;crt;curves;disabled;enabled;error-limit;fall;force-sslv3;\
         force-tlsv10;force-tlsv11;force-tlsv12;force-tlsv13;guid;hash-key;healthcheck;id;idle-ping;\
         init-addr;inter;fastinter;downinter;init-state;ktls;log-bufsize;log-proto;maxconn;maxqueue;\
         max-reuse;minconn;namespace;no-agent-check;no-backup;no-check;no-check-reuse-pool;\
         no-check-sni-auto;no-check-ssl;no-check-send-proxy;no-renegotiate;no-send-proxy;\
         no-send-proxy-v2;no-send-proxy-v2-ssl;no-send-proxy-v2-ssl-cn;no-sni-auto;no-ssl;\
         no-ssl-reuse;no-sslv3;no-tls-tickets;no-tlsv10;no-tlsv11;no-tlsv12;no-tlsv13;no-verifyhost;\
         no-tfo;non-stick;npn;observe;on-error;on-marked-down;on-marked-up;pool-conn-name;\
         pool-low-conn;pool-max-conn;pool-purge-delay;port;proto;quic-cc-algo;redir;renegotiate;rise;\
         resolve-opts;resolve-prefer;resolve-net;resolvers;send-proxy;send-proxy-v2;\
         set-proxy-v2-tlv-fmt;proxy-v2-options;send-proxy-v2-ssl;send-proxy-v2-ssl-cn;shard;sigalgs;\
         slowstart;sni;sni-auto;source;usesrc;ssl;ssl-max-ver;ssl-min-ver;ssl-reuse;stick;\
         strict-maxconn;socks4;tcp-md5sig;tcp-ut;tfo;track;tls-tickets;verify;verifyhost;weight;ws;\
         from",
    );
}

#[test]
fn no_name_is_in_a_table_twice() {
    let mut seen = BTreeSet::new();
    for row in reference() {
        assert!(
            seen.insert((row.table, row.name)),
            "{} {}",
            row.table,
            row.name
        );
    }
}

#[test]
fn every_entry_says_what_it_does_and_why_it_does_not() {
    for row in reference() {
        assert!(
            !row.doc.is_empty() && !row.sections.is_empty(),
            "{}",
            row.name
        );
        assert!(!row.doc.ends_with('.'), "{}", row.name);
        if let Treatment::Refused(why) | Treatment::Warned(why) | Treatment::Removed(why) =
            row.treatment
        {
            assert!(!why.is_empty(), "{}", row.name);
        }
    }
}

#[test]
fn a_keyword_known_to_the_installed_haproxy_is_known_here() {
    let Some(haproxy) = portcullis_testkit::need_program("haproxy") else {
        return;
    };
    let output = std::process::Command::new(haproxy)
        .args(["-dKcfg", "-q", "-c", "-f", "/dev/null"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut missing = Vec::new();
    let mut count = 0;
    let mut table = "";
    for line in text.lines() {
        match line {
            "global" => table = "global",
            "listen" => table = "proxies",
            "userlist" | "peers" | "crt-list" => table = "",
            _ => {}
        }
        let Some(keyword) = line.strip_prefix('\t') else {
            continue;
        };
        let words: Vec<&str> = keyword.split(' ').collect();
        let (table, name) = match words.as_slice() {
            ["bind", "<addr>", "ssl", name, ..] | ["bind", "<addr>", name, ..] => ("bind", *name),
            ["server", "<name>", "<addr>", name, ..] => ("server", *name),
            ["option", ..] => ("option", words[1]),
            [name, ..] => (table, *name),
            [] => continue,
        };
        let there = match table {
            "" => continue,
            "option" => known("proxies").contains(format!("option {name}").as_str()),
            // `stats` and `timeout` have words after them in our list.
            _ => known(table)
                .iter()
                .any(|known| *known == name || known.starts_with(&format!("{name} "))),
        };
        count += 1;
        if !there {
            missing.push(format!("{table}: {name}"));
        }
    }
    assert!(count > 200, "haproxy -dKcfg lists its keywords: {text}");
    assert!(missing.is_empty(), "{missing:#?}");
}
