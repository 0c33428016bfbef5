//! The runtime sockets of the plan: each address of each `stats socket` line.
//!
//! Decides:  the defaults of time and number, and that one socket is enough for an address.
//! Source:   HAProxy's manual, chapter 3.1 `stats socket`, `stats timeout`, `stats maxconn`;
//!           src/cli.c, cli_alloc_fe(): 10 s and 10 clients, 3.5-dev5.
//! Not here: opening them (run/open.rs), the commands (admin.rs).

use std::time::Duration;

use portcullis_config::Place;
use portcullis_config::model::{Config, StatsOptions, StatsSocket};
use portcullis_listener::{Address, ListenerSpec};

use super::listeners::{address, common, permissions};
use super::lookup::Lookup;
use super::problems::Problems;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAXCONN: u32 = 10;

/// The runtime sockets, all together.
#[derive(Debug, Clone)]
pub struct AdminPlan {
    /// What to open, in the order of the file.
    pub sockets: Vec<AdminSocket>,
    /// How long a client may be silent.
    pub timeout: Duration,
    /// Clients at once.
    pub maxconn: u32,
}

/// One runtime socket.
#[derive(Debug, Clone)]
pub struct AdminSocket {
    /// What to open.
    pub spec: ListenerSpec,
    /// The address in the file.
    pub place: Place,
    /// What its clients may do.
    pub options: StatsOptions,
}

/// Every runtime socket, in the order of the file.
pub(super) fn plan(config: &Config, lookup: &dyn Lookup, problems: &mut Problems) -> AdminPlan {
    let stats = &config.global.stats;
    let mut sockets = Vec::new();
    for line in &stats.sockets {
        let options = &line.bind.options;
        let permissions = permissions(options, lookup, problems);
        without_effect(line, problems);
        for at in &line.bind.addresses {
            let Some(address) = address(&at.value, at.place, lookup, problems) else {
                continue;
            };
            let is_tcp = matches!(address, Address::Tcp(_) | Address::Mptcp(_));
            let mut spec = common(options, permissions, address);
            spec.name = match &options.name {
                Some(name) => format!("stats socket/{name}"),
                None => "stats socket".to_owned(),
            };
            spec.reuse_port = is_tcp && !config.global.no_reuse_port;
            sockets.push(AdminSocket {
                spec,
                place: at.place,
                options: line.options,
            });
        }
    }
    AdminPlan {
        sockets,
        timeout: stats.timeout.unwrap_or(TIMEOUT),
        maxconn: stats.maxconn.unwrap_or(MAXCONN),
    }
}

/// Words of `bind` lines that mean nothing to a runtime socket.
fn without_effect(line: &StatsSocket, problems: &mut Problems) {
    let options = &line.bind.options;
    for (given, word) in [
        (options.accept_proxy, "accept-proxy"),
        (options.shards.is_some(), "shards"),
        (options.incoming_cpu, "incoming-cpu"),
        (options.maxconn.is_some(), "maxconn"),
    ] {
        if given {
            let message = format!("`{word}` has no effect on a `stats socket` line");
            problems.warning("no-effect", Some(line.bind.place), message);
        }
    }
}
