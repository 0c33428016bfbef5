//! The servers of a backend.
//!
//! Decides:  the defaults of a server, that names and numbers are its own, and that a check needs
//!           a port.
//! Source:   HAProxy's src/server.c, _srv_parse_init() and srv_init(), and src/check.c,
//!           init_srv_check(), 3.5-dev5.
//! Not here: resolving its name (the control plane).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::build::draft::{ProxyDraft, ServerDraft, ServerLine};
use crate::diagnostic::Diagnostic;
use crate::model::{Check, Observe, SendProxy, Server, ServerAddress, ServerPort};
use crate::report::Report;
use crate::source::Place;

const DEFAULT_WEIGHT: u16 = 1;
const DEFAULT_INTER: Duration = Duration::from_secs(2);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
const DEFAULT_ERROR_LIMIT: u32 = 10;

/// The servers, in the order of the lines.
pub fn servers(draft: &ProxyDraft, report: &mut Report) -> Vec<Server> {
    let mut names: BTreeMap<&str, Place> = BTreeMap::new();
    let mut ids: BTreeMap<u32, Place> = BTreeMap::new();
    let mut servers = Vec::new();
    for line in &draft.servers {
        if let Some(first) = names.insert(&line.name, line.name_place) {
            let message = format!("`{}` has another server named `{}`", draft.name, line.name);
            report.push(
                Diagnostic::error("duplicate-name", line.name_place, message)
                    .note_at(first, "the first one"),
            );
        }
        if let Some(id) = line.settings.id
            && let Some(first) = ids.insert(id.value, id.place)
        {
            let message = format!("the number {} is another server's", id.value);
            report.push(
                Diagnostic::error("duplicate-id", id.place, message)
                    .note_at(first, "the first one"),
            );
        }
        check_has_a_port(line, report);
        watches_what_it_checks(line, report);
        servers.push(server(line));
    }
    servers
}

fn check_has_a_port(line: &ServerLine, report: &mut Report) {
    let port = match &line.address.value {
        ServerAddress::Tcp { port, .. } | ServerAddress::OriginalDestination { port } => *port,
        _ => return,
    };
    let settings = &line.settings;
    if settings.check && settings.check_port.is_none() && !matches!(port, ServerPort::Fixed(_)) {
        let message = format!("a check of `{}` has no port to connect to", line.name);
        report.push(
            Diagnostic::error("check-without-port", line.address.place, message)
                .label("give the address a port, or the server a `port`"),
        );
    }
}

/// Only a check brings a server back that `observe` brought down, so without one nothing is observed.
fn watches_what_it_checks(line: &ServerLine, report: &mut Report) {
    if line.settings.observe && !line.settings.check {
        let message = format!("`observe` of `{}` has no effect without `check`", line.name);
        report.push(
            Diagnostic::warning("observe-without-check", line.name_place, message)
                .label("add `check`: without it the server is always up"),
        );
    }
}

fn server(line: &ServerLine) -> Server {
    let settings = &line.settings;
    Server {
        name: line.name.clone(),
        place: line.place,
        address: line.address.clone(),
        weight: settings.weight.unwrap_or(DEFAULT_WEIGHT),
        backup: settings.backup,
        disabled: settings.disabled,
        id: settings.id.map(|at| at.value),
        // One that is said alone, or is the greater, is the limit: src/proxy.c, proxy_finalize().
        maxconn: settings.maxconn.max(settings.minconn),
        minconn: settings.minconn,
        maxqueue: settings.maxqueue,
        slow_start: settings.slow_start.filter(|time| !time.is_zero()),
        ends_sessions_when_down: settings.on_marked_down,
        ends_backup_sessions_when_up: settings.on_marked_up,
        init_state: settings.init_state,
        check: settings.check.then(|| check(settings)),
        source: settings.source.clone(),
        send_proxy: match (settings.send_proxy_v2, settings.send_proxy) {
            (true, _) => Some(SendProxy::V2 {
                checksum: settings.proxy_checksum,
            }),
            (false, true) => Some(SendProxy::V1),
            (false, false) => None,
        },
        fast_open: settings.fast_open,
        init_addr: settings.init_addr.clone(),
        user_timeout: settings.user_timeout,
        congestion_control: settings.congestion_control.clone(),
    }
}

fn check(settings: &ServerDraft) -> Check {
    Check {
        inter: settings.inter.unwrap_or(DEFAULT_INTER),
        fast_inter: settings.fast_inter,
        down_inter: settings.down_inter,
        rise: settings.rise.unwrap_or(DEFAULT_RISE),
        fall: settings.fall.unwrap_or(DEFAULT_FALL),
        port: settings.check_port,
        addr: settings.check_addr.clone(),
        observe: settings.observe.then(|| Observe {
            error_limit: settings.error_limit.unwrap_or(DEFAULT_ERROR_LIMIT),
            on_error: settings.on_error,
        }),
        send_proxy: settings.check_send_proxy,
    }
}
