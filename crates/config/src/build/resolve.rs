//! What the proxies mean together: names, halves, warnings, and the model.
//!
//! Decides:  every default that does not depend on the host.
//! Source:   HAProxy's src/cfgparse.c, check_config_validity(), and src/proxy.c,
//!           proxy_finalize(), 3.5-dev5.
//! Not here: one server (servers.rs).

use std::collections::BTreeMap;

use crate::build::draft::{GlobalDraft, LogLine, LogShape, Mode, ProxyDraft, Toggle};
use crate::build::proxies::Proxies;
use crate::build::servers;
use crate::diagnostic::{Diagnostic, Severity};
use crate::model::{
    Backend, Balance, Config, Flow, Frontend, Keepalive, LogStyle, LogTarget, ProxyLog, Splice,
};
use crate::report::{HTTP_ONLY, Report};
use crate::source::{At, Place};
use crate::suggest::suggest;
use crate::syntax::SectionKind;

/// HAProxy's `retries` without the keyword.
const DEFAULT_RETRIES: u32 = 3;
/// HAProxy's `balance` without the keyword, since 3.3.
const DEFAULT_BALANCE: Balance = Balance::Random { draws: 2 };

/// The configuration, and the sections whose HTTP and unsupported keywords are not worth a word.
pub fn resolve(global: GlobalDraft, read: Proxies, report: &mut Report) -> (Config, Vec<usize>) {
    let quiet = refuse_other_modes(&read, report);
    duplicate_ids(&read.proxies, report);
    let mut config = Config {
        global: global.config,
        frontends: Vec::new(),
        backends: Vec::new(),
        rings: Vec::new(),
    };
    // Names first: a frontend may stand before its backend. A backend that is refused for its mode
    // is known nevertheless.
    let mut backends = BTreeMap::new();
    for draft in read.proxies.iter().filter(|draft| draft.serves()) {
        let next = backends.len();
        backends.entry(draft.name.as_str()).or_insert(next);
    }
    for draft in &read.proxies {
        report.enter(draft.section);
        if draft.mode() != Mode::Tcp {
            if draft.serves() {
                config
                    .backends
                    .push(backend(draft, &config.global.logs, report));
            }
            continue;
        }
        missing_timeouts(draft, report);
        if draft.listens() {
            let target = default_backend(draft, &read, &backends, report);
            let frontend = frontend(draft, target, &config.global.logs, report);
            config.frontends.push(frontend);
        }
        if draft.serves() {
            without_servers(draft, report);
            config
                .backends
                .push(backend(draft, &config.global.logs, report));
        }
    }
    nothing_listens(&config, report);
    (config, quiet)
}

/// One error for each proxy that is not for TCP. Tells whose keywords to keep quiet about.
fn refuse_other_modes(read: &Proxies, report: &mut Report) -> Vec<usize> {
    let mut quiet = Vec::new();
    for draft in &read.proxies {
        let Some(mode) = draft.mode.filter(|mode| mode.value != Mode::Tcp) else {
            continue;
        };
        report.enter(draft.section);
        quiet.push(draft.section);
        if draft.is_disabled() {
            continue;
        }
        let word = mode.value.word();
        let kind = draft.kind.word();
        let subject = match draft.name.as_str() {
            // That it needs a name is told by itself.
            "" => format!("this {kind}"),
            name => format!("{kind} `{name}`"),
        };
        let message = format!("{subject} is in `mode {word}`: only `mode tcp` is served");
        let own = is_own(draft, mode.place);
        let finding = Diagnostic::error(
            "http-mode",
            if own { mode.place } else { draft.place },
            message,
        );
        report.push(if own {
            finding.label("use `mode tcp`, or leave this proxy out")
        } else {
            finding
                .label("add `mode tcp`, or leave this proxy out")
                .note_at(
                    mode.place,
                    format!("`mode {word}` comes from `defaults`, here"),
                )
        });
    }
    for defaults in &read.defaults {
        let mut users = read
            .proxies
            .iter()
            .filter(|proxy| proxy.defaults == Some(defaults.section))
            .peekable();
        let alone = users.peek().is_none();
        if (alone && defaults.mode() != Mode::Tcp)
            || (!alone && users.all(|p| p.mode() != Mode::Tcp))
        {
            quiet.push(defaults.section);
        }
    }
    quiet
}

/// Does the proxy say it itself? What its `defaults` say stands before it.
fn is_own(draft: &ProxyDraft, place: Place) -> bool {
    (place.file, place.line) > (draft.place.file, draft.place.line)
}

/// Is there an error in the proxy or its `defaults`? Then what is missing may be what was wrong.
fn has_errors(draft: &ProxyDraft, report: &Report) -> bool {
    report.has_mistakes_in(draft.section)
        || draft
            .defaults
            .is_some_and(|section| report.has_mistakes_in(section))
}

fn duplicate_ids(proxies: &[ProxyDraft], report: &mut Report) {
    let mut seen: BTreeMap<u32, Place> = BTreeMap::new();
    for draft in proxies {
        let Some(id) = draft.id else { continue };
        report.enter(draft.section);
        if let Some(first) = seen.get(&id.value) {
            let message = format!("the number {} is another proxy's", id.value);
            report.push(
                Diagnostic::error("duplicate-id", id.place, message)
                    .note_at(*first, "the first one"),
            );
        } else {
            seen.insert(id.value, id.place);
        }
    }
}

fn missing_timeouts(draft: &ProxyDraft, report: &mut Report) {
    if draft.is_disabled() || has_errors(draft, report) {
        return;
    }
    let zero =
        |timeout: &Option<At<std::time::Duration>>| timeout.is_none_or(|at| at.value.is_zero());
    let times = &draft.timeouts;
    let mut missing = Vec::new();
    if draft.listens() && zero(&times.client) {
        missing.push("`timeout client`");
    }
    if draft.serves() && !draft.servers.is_empty() {
        if zero(&times.connect) {
            missing.push("`timeout connect`");
        }
        if zero(&times.server) && zero(&times.tunnel) {
            missing.push("`timeout server`");
        }
    }
    if missing.is_empty() {
        return;
    }
    let message = format!(
        "{} `{}` has no {}",
        draft.kind.word(),
        draft.name,
        missing.join(", no ")
    );
    report.push(
        Diagnostic::warning("missing-timeout", draft.place, message)
            .label("connections of peers that vanish would stay for ever"),
    );
}

fn without_servers(draft: &ProxyDraft, report: &mut Report) {
    let forwards = draft.kind == SectionKind::Listen && draft.default_backend.is_some();
    if draft.servers.is_empty() && !forwards && !draft.is_disabled() && !has_errors(draft, report) {
        let message = format!("{} `{}` has no server", draft.kind.word(), draft.name);
        report.push(
            Diagnostic::warning("no-server", draft.place, message)
                .label("connections that come here are closed"),
        );
    }
}

/// HAProxy's `-c` has a code of its own for it: no error, but it would not start.
fn nothing_listens(config: &Config, report: &mut Report) {
    let listens = config
        .frontends
        .iter()
        .any(|frontend| !frontend.disabled && !frontend.binds.is_empty());
    if !listens && !report.has_errors() {
        report.push(Diagnostic::new(
            Severity::Warning,
            "no-listener",
            "nothing listens: no `frontend` or `listen` that is enabled has a `bind` line",
        ));
    }
}

/// Where a frontend's connections go.
fn default_backend(
    draft: &ProxyDraft,
    read: &Proxies,
    backends: &BTreeMap<&str, usize>,
    report: &mut Report,
) -> Option<At<usize>> {
    let Some(named) = &draft.default_backend else {
        if draft.kind == SectionKind::Listen {
            return backends
                .get(draft.name.as_str())
                .map(|index| At::new(*index, draft.place));
        }
        if !draft.is_disabled() && !draft.binds.is_empty() && !has_errors(draft, report) {
            let message = format!("frontend `{}` has no `default_backend`", draft.name);
            report.push(
                Diagnostic::warning("no-backend", draft.place, message)
                    .label("its connections are accepted and closed"),
            );
        }
        return None;
    };
    if let Some(index) = backends.get(named.value.as_str()) {
        return Some(At::new(*index, named.place));
    }
    let known = backends.keys().copied();
    let is_frontend = read
        .proxies
        .iter()
        .any(|proxy| proxy.name == named.value && proxy.listens());
    let message = match is_frontend {
        true => format!("`{}` is a frontend, not a backend", named.value),
        false => format!("there is no backend `{}`", named.value),
    };
    let mut finding = Diagnostic::error("unknown-backend", named.place, message)
        .suggest(suggest(&named.value, known));
    if finding.label.is_none() {
        finding = finding.label("no `backend` or `listen` section has this name");
    }
    if !is_own(draft, named.place) {
        finding = finding.note_at(draft.place, "this proxy takes it from `defaults`");
    }
    report.push_merged(finding);
    None
}

fn frontend(
    draft: &ProxyDraft,
    default_backend: Option<At<usize>>,
    global_logs: &[LogTarget],
    report: &mut Report,
) -> Frontend {
    if draft.binds.is_empty()
        && draft.kind == SectionKind::Frontend
        && !draft.is_disabled()
        && !has_errors(draft, report)
    {
        let message = format!("frontend `{}` has no `bind` line", draft.name);
        report.push(
            Diagnostic::warning("no-bind", draft.place, message).label("nothing can reach it"),
        );
    }
    let keeps_alive = draft.is_on(Toggle::Keepalive) || draft.is_on(Toggle::ClientKeepalive);
    let positive = |limit: Option<At<u32>>| limit.map(|at| at.value).filter(|value| *value > 0);
    Frontend {
        name: draft.name.clone(),
        place: draft.place,
        disabled: draft.is_disabled(),
        id: draft.id.map(|at| at.value),
        binds: draft.binds.clone(),
        default_backend,
        maxconn: positive(draft.maxconn),
        backlog: positive(draft.backlog),
        expect_proxy: draft.expect_proxy,
        session_rate: draft.session_rate.filter(|rate| *rate > 0),
        timeout_client: time(draft.timeouts.client),
        timeout_client_fin: time(draft.timeouts.client_fin),
        timeout_lifetime: time(draft.timeouts.lifetime),
        timeout_drain_age: time(draft.timeouts.drain_age),
        timeout_client_hs: time(draft.timeouts.client_hs),
        log: log(draft, global_logs, report),
        keepalive: keepalive(keeps_alive, draft.client_keepalive),
        flow: flow(draft),
        smart_accept: draft.is_on(Toggle::SmartAccept),
    }
}

fn backend(draft: &ProxyDraft, global_logs: &[LogTarget], report: &mut Report) -> Backend {
    let keeps_alive = draft.is_on(Toggle::Keepalive) || draft.is_on(Toggle::ServerKeepalive);
    // A listen section's two halves have one log: what is to be said of it, its front half said.
    let log = match draft.kind {
        SectionKind::Listen => log(draft, global_logs, &mut Report::default()),
        _ => log(draft, global_logs, report),
    };
    Backend {
        name: draft.name.clone(),
        place: draft.place,
        disabled: draft.is_disabled(),
        id: draft.id.map(|at| at.value),
        balance: draft.balance.map_or(DEFAULT_BALANCE, |at| at.value),
        hash_type: draft.hash_type,
        fullconn: draft.fullconn.filter(|number| *number > 0),
        all_backups: draft.is_on(Toggle::AllBackups),
        servers: servers::servers(draft, report),
        timeout_connect: time(draft.timeouts.connect),
        timeout_queue: time(draft.timeouts.queue),
        timeout_server: time(draft.timeouts.server),
        timeout_server_fin: time(draft.timeouts.server_fin),
        timeout_tunnel: time(draft.timeouts.tunnel),
        timeout_check: time(draft.timeouts.check),
        retries: draft.retries.unwrap_or(DEFAULT_RETRIES),
        redispatch: draft.redispatch,
        log,
        source: draft.source.clone(),
        log_health_checks: draft.is_on(Toggle::LogChecks),
        keepalive: keepalive(keeps_alive, draft.server_keepalive),
        flow: flow(draft),
        smart_connect: draft.is_on(Toggle::SmartConnect),
        abort_on_close: draft.is_on(Toggle::AbortOnClose),
    }
}

/// 0 is HAProxy's word for no timeout.
fn time(timeout: Option<At<std::time::Duration>>) -> Option<std::time::Duration> {
    timeout.map(|at| at.value).filter(|time| !time.is_zero())
}

fn keepalive(on: bool, settings: Keepalive) -> Option<Keepalive> {
    on.then_some(settings)
}

fn log(draft: &ProxyDraft, global_logs: &[LogTarget], report: &mut Report) -> ProxyLog {
    let mut targets = Vec::new();
    let mut global_taken = false;
    for line in &draft.logs {
        match line {
            LogLine::Target(target) => targets.push(target.clone()),
            // `log global` in `defaults` and in the proxy is one.
            LogLine::Global(_) if global_taken => {}
            LogLine::Global(place) => {
                global_taken = true;
                if global_logs.is_empty() {
                    let message = "`log global` has no effect: `global` has no `log` line";
                    report.push(Diagnostic::notice("no-log", *place, message));
                }
                targets.extend(global_logs.iter().cloned());
            }
        }
    }
    ProxyLog {
        targets,
        style: log_style(draft, report),
        skip_null: draft.is_on(Toggle::SkipNull),
        skip_normal: draft.is_on(Toggle::SkipNormal),
        as_soon_as_possible: draft.is_on(Toggle::LogEarly),
        separate_errors: draft.is_on(Toggle::SeparateErrors),
        tag: draft.log_tag.clone(),
    }
}

fn log_style(draft: &ProxyDraft, report: &mut Report) -> LogStyle {
    let Some(shape) = draft.log_shape else {
        return LogStyle::Connect;
    };
    match shape.value {
        LogShape::Tcp => LogStyle::Tcplog,
        LogShape::TcpClf => LogStyle::TcplogClf,
        LogShape::Http => {
            if draft.listens() && !draft.is_disabled() {
                let message = format!(
                    "`option httplog` needs `mode http`, which `{}` has not",
                    draft.name
                );
                report.push(
                    Diagnostic::warning(HTTP_ONLY, draft.place, message)
                        .label("it logs as with `option tcplog`")
                        .note_at(shape.place, "the option stands here"),
                );
            }
            LogStyle::Tcplog
        }
    }
}

fn flow(draft: &ProxyDraft) -> Flow {
    let splicing = [
        Toggle::SpliceAuto,
        Toggle::SpliceRequest,
        Toggle::SpliceResponse,
    ];
    let said: Vec<bool> = splicing
        .iter()
        .filter_map(|toggle| draft.toggles.get(toggle))
        .map(|at| at.value)
        .collect();
    let never = !said.is_empty() && said.iter().all(|on| !on);
    Flow {
        no_linger: draft.is_on(Toggle::NoLinger),
        splice: if never { Splice::Never } else { Splice::Auto },
        independent_streams: draft.is_on(Toggle::IndependentStreams),
    }
}
