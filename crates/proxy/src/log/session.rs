//! The line of one session.
//!
//! Decides:  the three shapes: "Connect from" at accept, tcplog, and tcplog in the common log
//!           format; and at which level a session is logged.
//! Source:   HAProxy 3.5-dev5, doc/configuration.txt chapters 8.2.1, 8.2.2 and 8.6; src/log.c,
//!           default_tcp_log_format, clf_tcp_log_format; src/session.c for "Connect from".
//! Cases:    the tests below, recorded from HAProxy 2.6.12
//! Not here: which sessions are logged (`dontlognull`: the worker), frames (frame.rs).

use std::fmt::Write as _;

use super::frame::{Level, write_escaped};
use super::time::{Moment, Zone, write_utc_date};
use crate::proxy_protocol::Fault;
use crate::record::{PeerAddress, RecordKind, SessionRecord};
use crate::snapshot::LogMoment;
use crate::source::NoAddress;

/// The shape of a session's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Style {
    /// `Connect from A:p to B:p (fe/TCP)`
    Connect,
    /// `option tcplog`
    Tcplog,
    /// `option tcplog clf`
    TcplogClf,
}

/// Appends a session's line, without frame or newline.
pub fn session_line(style: Style, record: &SessionRecord, zone: &Zone, out: &mut String) {
    match record.kind {
        RecordKind::Refused(fault) => return write_refused(record, fault, zone, out),
        RecordKind::NoAddress(why) => return write_no_address(record, why, out),
        _ => {}
    }
    match style {
        Style::Connect => write_connect(record, out),
        Style::Tcplog => write_tcplog(record, zone, out),
        Style::TcplogClf => write_clf(record, out),
    }
}

/// At which level a session is logged; with `option log-separate-errors` errors are `err`.
#[must_use]
pub fn session_level(record: &SessionRecord, separate_errors: bool) -> Level {
    match record.kind {
        RecordKind::NoAddress(_) => Level::Emergency,
        _ if separate_errors && record.is_error() => Level::Error,
        _ => Level::Info,
    }
}

/// HAProxy's words, with the server's name and the reason in every case.
fn write_no_address(record: &SessionRecord, why: NoAddress, out: &mut String) {
    out.push_str(match why {
        NoAddress::Ports | NoAddress::InUse | NoAddress::ServerPort(_) => {
            "Connect() failed for backend "
        }
        NoAddress::Permission | NoAddress::Address(_) => {
            "Cannot bind to source address before connect() for backend "
        }
    });
    write_escaped(backend_name(record), out);
    out.push_str(", server ");
    write_server(record, out);
    let _ = write!(out, ": {why}.");
}

fn write_connect(record: &SessionRecord, out: &mut String) {
    match (record.client, record.local) {
        (PeerAddress::Ip(from), Some(PeerAddress::Ip(to))) => {
            let _ = write!(out, "Connect from {}:{}", from.ip(), from.port());
            let _ = write!(out, " to {}:{}", to.ip(), to.port());
        }
        (PeerAddress::Ip(from), _) => {
            let _ = write!(out, "Connect from {}:{}", from.ip(), from.port());
        }
        (PeerAddress::Unix, _) => {
            out.push_str("Connect to unix:");
            write_client_port(record, out);
        }
    }
    out.push_str(" (");
    write_escaped(&record.frontend.name, out);
    out.push_str("/TCP)");
}

/// A connection without the PROXY header that its listener expects.
fn write_refused(record: &SessionRecord, fault: Fault, zone: &Zone, out: &mut String) {
    write_client_ip(record, out);
    out.push(':');
    write_client_port(record, out);
    out.push_str(" [");
    zone.write_date(Moment::from_ms(record.accepted_ms), out);
    out.push_str("] ");
    write_escaped(&record.frontend.name, out);
    out.push('/');
    match &record.listener_name {
        Some(name) => write_escaped(name, out),
        None => {
            let _ = write!(out, "{}", record.listener);
        }
    }
    let _ = write!(out, ": {fault}");
}

fn write_tcplog(record: &SessionRecord, zone: &Zone, out: &mut String) {
    write_client_ip(record, out);
    out.push(':');
    write_client_port(record, out);
    out.push_str(" [");
    zone.write_date(Moment::from_ms(record.accepted_ms), out);
    out.push_str("] ");
    write_escaped(&record.frontend.name, out);
    out.push(' ');
    write_escaped(backend_name(record), out);
    out.push('/');
    write_server(record, out);
    out.push(' ');
    write_optional(record.queue_ms, out);
    out.push('/');
    write_optional(record.connect_ms, out);
    let early = early_mark(record);
    let _ = write!(
        out,
        "/{early}{} {early}{}",
        record.total_ms, record.bytes_out
    );
    let _ = write!(out, " {} ", record.termination);
    write_counts(record, '/', out);
    let _ = write!(out, " {}/{}", record.server_queue, record.backend_queue);
}

fn write_clf(record: &SessionRecord, out: &mut String) {
    let accepted = Moment::from_ms(record.accepted_ms);
    write_client_ip(record, out);
    out.push_str(" - - [");
    write_utc_date(accepted, out);
    let early = early_mark(record);
    let _ = write!(out, "] \"TCP \" 000 {early}{} \"\" \"\" ", record.bytes_out);
    write_client_port(record, out);
    let _ = write!(out, " {:03} \"", record.accepted_ms % 1_000);
    write_escaped(&record.frontend.name, out);
    out.push_str("\" \"");
    write_escaped(backend_name(record), out);
    out.push_str("\" \"");
    write_server(record, out);
    // %Th, the time of handshakes before the session, is 0: there is none.
    out.push_str("\" 0 ");
    write_optional(record.queue_ms, out);
    out.push(' ');
    write_optional(record.connect_ms, out);
    let _ = write!(out, " {early}{} {}", record.total_ms, record.bytes_in);
    let _ = write!(out, " {}-- ", record.termination);
    write_counts(record, ' ', out);
    let _ = write!(
        out,
        " {} {} \"\" \"\" ",
        record.server_queue, record.backend_queue
    );
}

/// `%ac/%fc/%bc/%sc/%rc`
fn write_counts(record: &SessionRecord, between: char, out: &mut String) {
    for count in [
        record.process_connections,
        record.frontend_connections,
        record.backend_connections,
        record.server_connections,
    ] {
        let _ = write!(out, "{count}{between}");
    }
    let elsewhere = if record.redispatched { "+" } else { "" };
    let _ = write!(out, "{elsewhere}{}", record.retries);
}

/// `%ci`
fn write_client_ip(record: &SessionRecord, out: &mut String) {
    match record.client {
        PeerAddress::Ip(address) => {
            let _ = write!(out, "{}", address.ip());
        }
        PeerAddress::Unix => out.push_str("unix"),
    }
}

/// `%cp`; of a Unix client the number of its listener.
fn write_client_port(record: &SessionRecord, out: &mut String) {
    match record.client {
        PeerAddress::Ip(address) => {
            let _ = write!(out, "{}", address.port());
        }
        PeerAddress::Unix => {
            let _ = write!(out, "{}", record.listener);
        }
    }
}

/// `%b`: without a backend HAProxy names the frontend.
fn backend_name(record: &SessionRecord) -> &str {
    match &record.backend {
        Some(backend) => &backend.name,
        None => &record.frontend.name,
    }
}

/// `%s`
fn write_server(record: &SessionRecord, out: &mut String) {
    match &record.server {
        Some(server) => write_escaped(&server.name, out),
        None => out.push_str("<NOSRV>"),
    }
}

fn write_optional(time: Option<u64>, out: &mut String) {
    match time {
        Some(ms) => {
            let _ = write!(out, "{ms}");
        }
        None => out.push_str("-1"),
    }
}

/// `+` before what may still have grown after the line was written: as in HAProxy, on every line of
/// a frontend with `option logasap`.
fn early_mark(record: &SessionRecord) -> &'static str {
    let moment = record.frontend.log.map(|log| log.moment);
    match moment == Some(LogMoment::Connect) {
        true => "+",
        false => "",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use portcullis_balance::{Algorithm, AllBackups, Group, MemberId};

    use super::*;
    use crate::record::{EndCause, EndPhase, RecordKind, Termination};
    use crate::snapshot::{Backend, Frontend, Server, ServerAddress};

    pub(in crate::log) fn backend(name: &str) -> Arc<Backend> {
        Arc::new(Backend {
            name: name.into(),
            group: Arc::new(Group::new(Algorithm::RoundRobin, AllBackups::No, &[])),
            servers: Default::default(),
            hash: None,
            queue_timeout_ms: 0,
            connect_timeout_ms: 0,
            server_timeout_ms: 0,
            server_fin_timeout_ms: 0,
            tunnel_timeout_ms: 0,
            retries: 3,
            redispatch: 0,
            keepalive: None,
            no_linger: false,
            independent: false,
            splice: true,
            abort_on_close: false,
            smart_connect: false,
            state: Arc::default(),
        })
    }

    pub(in crate::log) fn frontend(name: &str) -> Arc<Frontend> {
        Arc::new(Frontend {
            name: name.into(),
            backend: None,
            maxconn: 10,
            session_rate: 0,
            lifetime_ms: 0,
            drain_age_ms: 0,
            greeting_timeout_ms: 0,
            client_timeout_ms: 0,
            client_fin_timeout_ms: 0,
            log: None,
            keepalive: None,
            no_linger: false,
            independent: false,
            splice: true,
            state: Arc::default(),
        })
    }

    pub(in crate::log) fn server(name: &str) -> Arc<Server> {
        Arc::new(Server {
            name: name.into(),
            slot: MemberId(0),
            address: ServerAddress::Unix(b"/s".to_vec()),
            user_timeout_ms: 0,
            congestion_control: None,
            outgoing: Default::default(),
            observe: None,
            state: Arc::default(),
        })
    }

    /// An ordinary session through `fe` to `be/s0`, at 2026-11-22 04:31:03.475 UTC.
    pub(in crate::log) fn record() -> SessionRecord {
        SessionRecord {
            kind: RecordKind::Ended,
            frontend: frontend("fe"),
            backend: Some(backend("be")),
            server: Some(server("s0")),
            client: PeerAddress::Ip("127.0.0.1:50308".parse().unwrap()),
            listener: 1,
            listener_name: None,
            local: None,
            accepted_ms: 1_795_321_863_475,
            queue_ms: Some(1),
            connect_ms: Some(0),
            total_ms: 0,
            bytes_in: 5,
            bytes_out: 5,
            termination: Termination::NORMAL,
            process_connections: 1,
            frontend_connections: 1,
            backend_connections: 0,
            server_connections: 0,
            retries: 0,
            redispatched: false,
            server_queue: 0,
            backend_queue: 0,
        }
    }

    pub(in crate::log) fn ended(cause: EndCause, phase: EndPhase) -> Termination {
        Termination { cause, phase }
    }

    fn written(style: Style, record: &SessionRecord) -> String {
        let mut out = String::new();
        session_line(style, record, &Zone::utc(), &mut out);
        out
    }

    #[test]
    fn tcplog_is_as_haproxy_writes_it() {
        // Recorded from HAProxy 2.6.12.
        let rows: [(SessionRecord, &str); 6] = [
            (
                record(),
                "127.0.0.1:50308 [22/Nov/2026:04:31:03.475] fe be/s0 1/0/0 5 -- 1/1/0/0/0 0/0",
            ),
            (
                SessionRecord {
                    client: PeerAddress::Ip("[::1]:33848".parse().unwrap()),
                    accepted_ms: 1_795_321_863_507,
                    total_ms: 1,
                    ..record()
                },
                "::1:33848 [22/Nov/2026:04:31:03.507] fe be/s0 1/0/1 5 -- 1/1/0/0/0 0/0",
            ),
            (
                SessionRecord {
                    frontend: frontend("refused"),
                    backend: Some(backend("refused")),
                    server: Some(server("sr")),
                    client: PeerAddress::Ip("127.0.0.1:53488".parse().unwrap()),
                    accepted_ms: 1_795_321_863_118,
                    connect_ms: None,
                    total_ms: 201,
                    bytes_out: 0,
                    termination: ended(EndCause::ServerAbort, EndPhase::Connect),
                    retries: 1,
                    ..record()
                },
                "127.0.0.1:53488 [22/Nov/2026:04:31:03.118] refused refused/sr 1/-1/201 0 SC 1/1/0/0/1 0/0",
            ),
            (
                SessionRecord {
                    frontend: frontend("nobe"),
                    backend: None,
                    server: None,
                    client: PeerAddress::Ip("127.0.0.1:55744".parse().unwrap()),
                    accepted_ms: 1_795_321_863_570,
                    queue_ms: None,
                    connect_ms: None,
                    bytes_out: 0,
                    termination: ended(EndCause::ServerAbort, EndPhase::Connect),
                    ..record()
                },
                "127.0.0.1:55744 [22/Nov/2026:04:31:03.570] nobe nobe/<NOSRV> -1/-1/0 0 SC 1/1/0/0/0 0/0",
            ),
            (
                SessionRecord {
                    retries: 3,
                    redispatched: true,
                    process_connections: 5,
                    frontend_connections: 4,
                    backend_connections: 3,
                    server_connections: 2,
                    server_queue: 7,
                    backend_queue: 8,
                    termination: ended(EndCause::ClientTimeout, EndPhase::Data),
                    ..record()
                },
                "127.0.0.1:50308 [22/Nov/2026:04:31:03.475] fe be/s0 1/0/0 5 cD 5/4/3/2/+3 7/8",
            ),
            (
                SessionRecord {
                    client: PeerAddress::Unix,
                    listener: 77,
                    ..record()
                },
                "unix:77 [22/Nov/2026:04:31:03.475] fe be/s0 1/0/0 5 -- 1/1/0/0/0 0/0",
            ),
        ];
        for (record, expected) in rows {
            assert_eq!(written(Style::Tcplog, &record), expected);
        }
    }

    #[test]
    fn common_log_format_is_as_haproxy_writes_it() {
        // Recorded from HAProxy 2.6.12 with the format that 3.5's `option tcplog clf` stands for.
        let record = SessionRecord {
            frontend: frontend("clf"),
            client: PeerAddress::Ip("127.0.0.1:52624".parse().unwrap()),
            accepted_ms: 1_795_321_863_381,
            queue_ms: Some(0),
            connect_ms: Some(1),
            ..record()
        };
        assert_eq!(
            written(Style::TcplogClf, &record),
            "127.0.0.1 - - [22/Nov/2026:04:31:03 +0000] \"TCP \" 000 5 \"\" \"\" 52624 381 \
             \"clf\" \"be\" \"s0\" 0 0 1 0 5 ---- 1 1 0 0 0 0 0 \"\" \"\" "
        );
    }

    #[test]
    fn connect_line_is_as_haproxy_writes_it() {
        // Recorded from HAProxy 2.6.12.
        let record = SessionRecord {
            kind: RecordKind::Accepted,
            frontend: frontend("conn"),
            client: PeerAddress::Ip("127.0.0.1:44208".parse().unwrap()),
            listener_name: None,
            local: Some(PeerAddress::Ip("127.0.0.1:21000".parse().unwrap())),
            ..record()
        };
        assert_eq!(
            written(Style::Connect, &record),
            "Connect from 127.0.0.1:44208 to 127.0.0.1:21000 (conn/TCP)"
        );
    }

    #[test]
    fn with_logasap_what_may_still_grow_is_marked() {
        // Recorded from HAProxy 2.6.12: a session just connected, one refused, and one that
        // `dontlog-normal` kept until its timeout.
        let log = Some(crate::snapshot::FrontendLog {
            moment: LogMoment::Connect,
            skip_null: false,
            skip_normal: false,
        });
        let mut early = Arc::into_inner(frontend("f")).unwrap();
        early.log = log;
        let begun = SessionRecord {
            kind: RecordKind::Connected,
            frontend: Arc::new(early),
            bytes_out: 0,
            backend_connections: 1,
            server_connections: 1,
            ..record()
        };
        let refused = SessionRecord {
            kind: RecordKind::Ended,
            connect_ms: None,
            termination: ended(EndCause::ServerAbort, EndPhase::Connect),
            backend_connections: 0,
            server_connections: 0,
            ..begun.clone()
        };
        let silent = SessionRecord {
            connect_ms: Some(0),
            total_ms: 2008,
            bytes_out: 10,
            termination: ended(EndCause::ClientTimeout, EndPhase::Data),
            ..refused.clone()
        };
        for (record, end) in [
            (begun, " 1/0/+0 +0 -- 1/1/1/1/0 0/0"),
            (refused, " 1/-1/+0 +0 SC 1/1/0/0/0 0/0"),
            (silent, " 1/0/+2008 +10 cD 1/1/0/0/0 0/0"),
        ] {
            let line = written(Style::Tcplog, &record);
            assert!(line.ends_with(end), "{line}");
        }
    }

    #[test]
    fn errors_are_raised_only_where_asked() {
        let broken = SessionRecord {
            termination: ended(EndCause::ServerAbort, EndPhase::Data),
            ..record()
        };
        assert_eq!(session_level(&broken, true), Level::Error);
        assert_eq!(session_level(&broken, false), Level::Info);
        assert_eq!(session_level(&record(), true), Level::Info);
    }
}
