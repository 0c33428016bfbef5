//! Listeners of the plan: each address of each `bind` line becomes one specification.
//!
//! Decides:  how many sockets an address gets, its backlog, and what the listener library is told.
//! Source:   HAProxy's manual, chapter 5.1; `listener_backlog()` (2.6) for the order of backlogs.
//! Not here: two lines on one address (duplicates.rs), to whom a socket is given (run/start.rs),
//!           opening (the listener crate).

use std::net::SocketAddr;

use portcullis_config::Place;
use portcullis_config::model::{
    Bind, BindAddress, BindOptions, Config, ForeignBind, Frontend, Host, Ipv6Bind, Shards,
};
use portcullis_listener::spec::{
    AbstractForm, FastOpenQueue, Foreign, Ipv6Only, Md5Key, UnixPermissions,
};
use portcullis_listener::{Address, ListenerSpec};

use super::lookup::{Lookup, host};
use super::numbers::Numbers;
use super::problems::Problems;
use super::{ListenerPlan, process};

/// The accept queue where nothing is said.
const BACKLOG: u32 = 1024;

/// What of the rest of the configuration a listener depends on.
pub(super) struct Surroundings<'a> {
    /// Worker threads.
    pub(super) workers: u16,
    /// `maxconn` of the process, where it was said.
    pub(super) process_maxconn: Option<u32>,
    /// The processors of the process: worker n runs on the n-th of them, in turn.
    pub(super) cpus: &'a [u32],
}

/// Every listener of every enabled frontend, in the order of the file.
pub(super) fn plan(
    config: &Config,
    frontend_index: &[Option<usize>],
    around: Surroundings<'_>,
    lookup: &dyn Lookup,
    problems: &mut Problems,
) -> Vec<ListenerPlan> {
    let mut plans = Vec::new();
    for (frontend, index) in config.frontends.iter().zip(frontend_index) {
        let Some(index) = *index else { continue };
        let mut numbers = Numbers::taken_by(frontend.binds.iter().map(|bind| bind.options.id));
        for bind in &frontend.binds {
            let template = template(config, frontend, bind, &around, lookup, problems);
            for at in &bind.addresses {
                let number = numbers.next(bind.options.id);
                let Some(address) = address(&at.value, at.place, lookup, problems) else {
                    continue;
                };
                plans.push(ListenerPlan {
                    spec: spec(config, frontend, &template, address, &around),
                    place: at.place,
                    frontend: index,
                    number,
                    name: bind.options.name.clone(),
                    accepts_proxy: bind.options.accept_proxy || frontend.expect_proxy,
                    maxconn: bind.options.maxconn.unwrap_or(0),
                });
            }
        }
    }
    plans
}

/// What all addresses of a `bind` line have in common.
struct Template<'a> {
    options: &'a BindOptions,
    permissions: UnixPermissions,
    shards: Shards,
}

fn template<'a>(
    config: &Config,
    frontend: &Frontend,
    bind: &'a Bind,
    around: &Surroundings<'_>,
    lookup: &dyn Lookup,
    problems: &mut Problems,
) -> Template<'a> {
    let options = &bind.options;
    let shards = options
        .shards
        .or(config.global.default_shards)
        .unwrap_or(Shards::ByThread);
    if let (Some(Shards::Number(wanted)), workers) = (options.shards, around.workers)
        && wanted > workers
    {
        problems.warning(
            "more-shards-than-workers",
            Some(bind.place),
            format!(
                "frontend `{}`: {wanted} shards for {workers} worker threads; {workers} are opened",
                frontend.name
            ),
        );
    }
    Template {
        options,
        permissions: permissions(options, lookup, problems),
        shards,
    }
}

/// Owner and mode of the line's Unix sockets.
pub(super) fn permissions(
    options: &BindOptions,
    lookup: &dyn Lookup,
    problems: &mut Problems,
) -> UnixPermissions {
    let uid = options
        .user
        .as_ref()
        .and_then(|id| process::user(id, lookup, problems));
    let gid = options
        .group
        .as_ref()
        .and_then(|id| process::group(id, lookup, problems));
    UnixPermissions {
        uid,
        gid,
        mode: options.mode,
    }
}

/// Where to listen, names looked up.
pub(super) fn address(
    from: &BindAddress,
    place: Place,
    lookup: &dyn Lookup,
    problems: &mut Problems,
) -> Option<Address> {
    let tcp = |address, mptcp| match mptcp {
        true => Address::Mptcp(address),
        false => Address::Tcp(address),
    };
    Some(match from {
        BindAddress::Tcp { address, mptcp } => tcp(*address, *mptcp),
        BindAddress::Named { target, mptcp } => match host(&target.host, lookup) {
            Ok(ip) => tcp(SocketAddr::new(ip, target.port), *mptcp),
            Err(why) => {
                let label = match target.host {
                    Host::Name(..) => {
                        Some("looked up when the configuration is put to work".into())
                    }
                    Host::Address(_) => None,
                };
                problems.error("unresolved-name", Some(place), why).label = label;
                return None;
            }
        },
        BindAddress::UnixPath(path) => Address::UnixPath(path.clone()),
        BindAddress::Abstract(name) => Address::UnixAbstract {
            name: name.clone(),
            form: AbstractForm::Padded,
        },
        BindAddress::AbstractExact(name) => Address::UnixAbstract {
            name: name.clone(),
            form: AbstractForm::Exact,
        },
        BindAddress::Descriptor(number) => Address::Inherited(*number),
        BindAddress::Activated(name) => Address::Activated(name.clone()),
    })
}

fn spec(
    config: &Config,
    frontend: &Frontend,
    template: &Template<'_>,
    address: Address,
    around: &Surroundings<'_>,
) -> ListenerSpec {
    let options = template.options;
    let mut spec = common(options, template.permissions, address);
    let is_tcp = matches!(spec.address, Address::Tcp(_) | Address::Mptcp(_));
    spec.name = frontend.name.clone();
    if let Some(name) = &options.name {
        spec.name = format!("{}/{name}", frontend.name);
    }
    spec.reuse_port = is_tcp && !config.global.no_reuse_port;
    spec.shards = match template.shards {
        _ if !spec.reuse_port => 1,
        Shards::Number(wanted) => wanted.clamp(1, around.workers),
        Shards::ByThread => around.workers,
        Shards::ByGroup => 1,
    };
    spec.backlog = options.backlog.or(frontend.backlog);
    spec.maxconn = [options.maxconn, frontend.maxconn, around.process_maxconn]
        .into_iter()
        .flatten()
        .find(|&n| n > 0)
        .unwrap_or(BACKLOG);
    spec.no_linger = frontend.flow.no_linger;
    spec.no_quick_ack = frontend.smart_accept;
    spec.no_delay = is_tcp;
    if options.incoming_cpu && !around.cpus.is_empty() {
        spec.incoming_cpus = (0..usize::from(spec.shards))
            .map(|shard| around.cpus[shard % around.cpus.len()])
            .collect();
    }
    spec
}

/// What the words of a line say of a socket, whoever serves it.
pub(super) fn common(
    options: &BindOptions,
    permissions: UnixPermissions,
    address: Address,
) -> ListenerSpec {
    let mut spec = ListenerSpec::new(address);
    spec.backlog = options.backlog;
    spec.foreign = options.foreign.map(|wanted| match wanted {
        ForeignBind::Transparent => Foreign::TransparentOrFreebind,
        ForeignBind::Freebind => Foreign::Freebind,
    });
    spec.interface = options.interface.as_ref().map(|at| at.value.clone());
    spec.mss = options.mss;
    spec.defer_accept = options
        .defer_accept
        .then_some(std::time::Duration::from_secs(1));
    spec.fast_open = options.fast_open.then_some(FastOpenQueue::Backlog);
    spec.ipv6_only = options.ipv6.map(|wanted| match wanted {
        Ipv6Bind::V6Only => Ipv6Only::On,
        Ipv6Bind::V4V6 => Ipv6Only::Off,
    });
    spec.user_timeout = options.user_timeout;
    spec.congestion_control = options
        .congestion_control
        .as_ref()
        .map(|at| at.value.clone());
    spec.md5_keys = md5_keys(options);
    spec.network_namespace = options.namespace.as_ref().map(|at| at.value.clone());
    spec.unix_permissions = permissions;
    spec.strict = options.strict;
    spec
}

/// One key for every peer, or one for each prefix that must sign.
fn md5_keys(options: &BindOptions) -> Vec<Md5Key> {
    let Some(secret) = &options.md5_secret else {
        return Vec::new();
    };
    let key = |peers| Md5Key {
        peers,
        secret: secret.value.clone(),
    };
    if options.md5_peers.is_empty() {
        return vec![key(None)];
    }
    options
        .md5_peers
        .iter()
        .map(|&peers| key(Some(peers)))
        .collect()
}
