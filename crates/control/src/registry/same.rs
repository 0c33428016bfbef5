//! Is a section alike in two plans, as far as workers can tell?
//!
//! Decides:  which fields count: neither where the log lines go, which is the log writer's affair, nor
//!           the place of a backend in a list. A new field does not compile until it stands here.
//! Not here: what follows from it (../registry.rs).

use crate::compile::{BackendPlan, FrontendPlan};

pub(super) fn frontend(one: &FrontendPlan, other: &FrontendPlan) -> bool {
    let FrontendPlan {
        name,
        backend: _,
        maxconn,
        session_rate,
        lifetime_ms,
        drain_age_ms,
        greeting_timeout_ms,
        client_timeout_ms,
        client_fin_timeout_ms,
        log: _,
        keepalive,
        no_linger,
        independent,
        splice,
    } = one;
    *name == other.name
        && *maxconn == other.maxconn
        && *session_rate == other.session_rate
        && *lifetime_ms == other.lifetime_ms
        && *drain_age_ms == other.drain_age_ms
        && *greeting_timeout_ms == other.greeting_timeout_ms
        && *client_timeout_ms == other.client_timeout_ms
        && *client_fin_timeout_ms == other.client_fin_timeout_ms
        && *keepalive == other.keepalive
        && *no_linger == other.no_linger
        && *independent == other.independent
        && *splice == other.splice
}

pub(super) fn backend(one: &BackendPlan, other: &BackendPlan) -> bool {
    let BackendPlan {
        name,
        algorithm,
        hash,
        fullconn,
        all_backups,
        servers,
        queue_timeout_ms,
        connect_timeout_ms,
        server_timeout_ms,
        server_fin_timeout_ms,
        tunnel_timeout_ms,
        check_timeout: _,
        retries,
        redispatch,
        keepalive,
        no_linger,
        independent,
        splice,
        abort_on_close,
        smart_connect,
        log: _,
        log_health_checks: _,
    } = one;
    *name == other.name
        && *algorithm == other.algorithm
        && *hash == other.hash
        && *fullconn == other.fullconn
        && *all_backups == other.all_backups
        && *queue_timeout_ms == other.queue_timeout_ms
        && *connect_timeout_ms == other.connect_timeout_ms
        && *server_timeout_ms == other.server_timeout_ms
        && *server_fin_timeout_ms == other.server_fin_timeout_ms
        && *tunnel_timeout_ms == other.tunnel_timeout_ms
        && *retries == other.retries
        && *redispatch == other.redispatch
        && *keepalive == other.keepalive
        && *no_linger == other.no_linger
        && *independent == other.independent
        && *splice == other.splice
        && *abort_on_close == other.abort_on_close
        && *smart_connect == other.smart_connect
        && *servers == other.servers
}
