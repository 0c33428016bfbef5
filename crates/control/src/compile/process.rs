//! The process: workers, limits, users, tuning.
//!
//! Decides:  what the command line overrides, and the defaults of tuning.
//! Source:   HAProxy's manual, chapter 3 (maxconn, nbthread, maxpipes, tune.*).
//! Not here: applying any of it (limits.rs, privileges.rs, daemon.rs).

use portcullis_config::model::{Global, Id, Ring};
use portcullis_config::source::At;
use portcullis_proxy::snapshot::Tuning;

use super::problems::Problems;
use super::{Lookup, Overrides, ProcessPlan};
use crate::privileges::Wanted;

/// Bytes of a splice pipe where nothing is said and the kernel allows it.
const PIPE_SIZE: u32 = 1 << 20;
/// Bytes of a worker's scratch buffer where nothing is said: as measured, not HAProxy's 16 KiB.
const BUFFER_SIZE: u32 = 64 << 10;
/// Connections accepted at a stretch where nothing is said.
const MAX_ACCEPT: u32 = 64;
/// The most workers, whatever the host has.
const MAX_WORKERS: usize = 1024;

/// The process as the file and the command line want it.
pub(super) fn plan(
    global: &Global,
    rings: &[Ring],
    lookup: &dyn Lookup,
    overrides: &Overrides,
    problems: &mut Problems,
) -> ProcessPlan {
    let user = global
        .user
        .as_ref()
        .and_then(|id| user(id, lookup, problems));
    let group = global
        .group
        .as_ref()
        .and_then(|id| group(id, lookup, problems));
    let pidfile = overrides
        .pidfile
        .clone()
        .or_else(|| global.pidfile.as_ref().map(|at| at.value.clone()));
    ProcessPlan {
        maxconn: overrides
            .maxconn
            .or(global.maxconn)
            .filter(|&connections| connections > 0),
        max_rate: global.max_connection_rate.unwrap_or(0),
        max_pipes: global.max_pipes,
        ulimit_n: global.ulimit_n,
        fd_hard_limit: global.fd_hard_limit,
        strict_limits: global.strict_limits,
        daemon: (global.daemon || overrides.daemon) && !overrides.foreground,
        pidfile,
        privileges: Wanted {
            user: user.map(Id::Number),
            group: group.map(Id::Number),
            chroot: global.chroot.as_ref().map(|at| at.value.clone()),
            keep: global.setcap.iter().map(|at| at.value).collect(),
        },
        hard_stop_after: global.hard_stop_after,
        grace: global.grace,
        spread_checks: global.spread_checks,
        log_tag: global.log_tag.clone(),
        log_send_hostname: global.log_send_hostname.clone(),
        logs: global.logs.clone(),
        rings: rings.to_vec(),
        quiet: global.quiet || overrides.quiet,
    }
}

/// `nbthread`, else one worker for each processor that the process may use; no more than
/// `thread-hard-limit`.
pub(super) fn workers(global: &Global, lookup: &dyn Lookup, problems: &mut Problems) -> u16 {
    let wanted = global.nbthread.map(usize::from);
    let workers = wanted.unwrap_or_else(|| lookup.cpus().len());
    let most = global.thread_hard_limit.map_or(MAX_WORKERS, usize::from);
    if wanted.is_some_and(|wanted| wanted > most) {
        let message = format!("nbthread {workers} is above thread-hard-limit {most}");
        let finding = problems.warning("thread-hard-limit", None, message);
        finding.label = Some(format!("{most} workers are started"));
    }
    workers.clamp(1, most.clamp(1, MAX_WORKERS)) as u16
}

/// The workers' tuning.
pub(super) fn tuning(global: &Global) -> Tuning {
    Tuning {
        max_accept: global.max_accept.unwrap_or(MAX_ACCEPT).max(1),
        pipe_size: if global.no_splice {
            0
        } else {
            global.pipe_size.unwrap_or(PIPE_SIZE)
        },
        buffer_size: global.buffer_size.unwrap_or(BUFFER_SIZE),
        max_pipes: global.max_pipes.unwrap_or(u32::MAX),
        client_receive_buffer: global.socket_buffers.client_receive,
        client_send_buffer: global.socket_buffers.client_send,
        server_receive_buffer: global.socket_buffers.server_receive,
        server_send_buffer: global.socket_buffers.server_send,
    }
}

/// A user's id.
pub(super) fn user(wanted: &At<Id>, lookup: &dyn Lookup, problems: &mut Problems) -> Option<u32> {
    let name = match &wanted.value {
        Id::Number(uid) => return Some(*uid),
        Id::Name(name) => name,
    };
    match lookup.user(name) {
        Ok(Some(uid)) => Some(uid),
        Ok(None) => {
            let message = format!("there is no user `{name}` on this host");
            problems.error("unknown-user", Some(wanted.place), message);
            None
        }
        Err(why) => {
            let message = format!("cannot look up user `{name}`: {why}");
            problems.error("unknown-user", Some(wanted.place), message);
            None
        }
    }
}

/// A group's id.
pub(super) fn group(wanted: &At<Id>, lookup: &dyn Lookup, problems: &mut Problems) -> Option<u32> {
    let name = match &wanted.value {
        Id::Number(gid) => return Some(*gid),
        Id::Name(name) => name,
    };
    match lookup.group(name) {
        Ok(Some(gid)) => Some(gid),
        Ok(None) => {
            let message = format!("there is no group `{name}` on this host");
            problems.error("unknown-group", Some(wanted.place), message);
            None
        }
        Err(why) => {
            let message = format!("cannot look up group `{name}`: {why}");
            problems.error("unknown-group", Some(wanted.place), message);
            None
        }
    }
}
