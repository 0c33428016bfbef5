//! Our listeners to another process that asks for them as HAProxy does: `_getsocks`.
//!
//! Decides:  which sockets are given, and that one is left of each address first: HAProxy takes one
//!           descriptor for an address and closes the others, whose queues would be nobody's. New
//!           connections are steered to that one; the others are retired as in a reload, however
//!           long that takes, while the other process serves already.
//! Source:   docs/retiring.md; HAProxy's src/cli.c, _getsocks(), 2.6: all that were bound by it are
//!           given, those of `stats socket` too, those of `fd@` not.
//! Kernel:   net/core/sock_reuseport.c, __reuseport_detach_sock(): the last member takes the place of
//!           one that leaves; the first is the only one that never moves, whoever joins.
//! Not here: the messages (admin/give.rs), the steps of a retirement (retire.rs), what becomes of
//!           sockets that were given (held.rs, `is_ours`).

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use portcullis_listener::{Address, pause};
use portcullis_proxy::log::Level;

use super::groups::{Group, Orders};
use super::held::{self, Held, HeldSocket};
use super::reload::Serving;
use super::workers::{NewWorkers, Workers};
use crate::Plan;
use crate::admin::getsocks::Names;
use crate::admin::give::{Gift, give};
use crate::logs::{Audience, LogHandle};

/// Processes that are given the listeners, or wait for them, at once.
const MOST_TAKERS: usize = 4;

impl Serving {
    /// Somebody asks for the listeners. While a reload is under way, or another process is taking over in our own
    /// way, it waits for its end: shards that are retired meanwhile would be nobody's.
    pub(super) fn give(&mut self, stream: UnixStream, workers: &mut Workers, log: &LogHandle) {
        // Whoever is one too many is closed, and may ask again.
        if Arc::strong_count(&self.admin.giving) + self.admin.askers.len() > MOST_TAKERS {
            return;
        }
        if !self.reloads.is_idle() || self.upgrades.is_handing() {
            return self.admin.askers.push(stream);
        }
        let who = peer(&stream);
        let collapsed = self.collapse(workers, log);
        let gifts = gifts(&self.plan, &self.held);
        let text = format!(
            "giving {} listening sockets to {who}; {collapsed} shards of theirs are retired",
            gifts.len()
        );
        log.say(Audience::Global, Level::Notice, text);
        for gift in &gifts {
            // It would serve a socket to which nobody can connect.
            if let Ok(true) = pause::resume(&*gift.fd) {
                let text = "a disabled frontend's listener is given, and takes connections again";
                log.say(Audience::Global, Level::Warning, text);
            }
        }
        let told = log.clone();
        let place = Arc::clone(&self.admin.giving);
        let started = std::thread::Builder::new()
            .name("give".to_owned())
            .spawn(move || {
                let _place = place;
                let (level, text) = match give(&stream, &gifts) {
                    Ok(()) => (
                        Level::Notice,
                        format!("listening sockets were given to {who}"),
                    ),
                    Err(why) => {
                        let text = format!("the listening sockets were not given to {who}: {why}");
                        (Level::Warning, text)
                    }
                };
                told.say(Audience::Global, level, text);
            });
        if let Err(why) = started {
            let text = format!("the listening sockets are not given: no thread: {why}");
            log.say(Audience::Global, Level::Error, text);
        }
    }

    /// Those who asked while they had to wait.
    pub(super) fn give_to_askers(&mut self, workers: &mut Workers, log: &LogHandle) {
        if !self.reloads.is_idle() || self.upgrades.is_handing() {
            return;
        }
        for stream in std::mem::take(&mut self.admin.askers) {
            self.give(stream, workers, log);
        }
    }

    /// Leaves one socket of each address that has several; how many go.
    fn collapse(&mut self, workers: &mut Workers, log: &LogHandle) -> usize {
        let mut stay = (*self.held).clone();
        let mut gone = Vec::new();
        let listeners = self.plan.listeners.len();
        {
            let orders = self.retirer.groups().hold();
            for held in stay.iter_mut().take(listeners) {
                gone.extend(all_but_the_first(held, &orders));
            }
        }
        if gone.is_empty() {
            return 0;
        }
        let plan = Arc::clone(&self.plan);
        let maxconn = self
            .registry
            .process()
            .maxconn
            .load(std::sync::atomic::Ordering::Relaxed);
        let applied = self.registry.apply(&plan, Some(&plan), maxconn);
        let sockets = held::deal(&stay, &applied.listeners, &plan);
        self.held = Arc::new(stay);
        self.retire(&gone, workers, log);
        // The last one to let go of it is not to be a worker.
        self.admin.before =
            Some(workers.install(&applied.snapshot, sockets, NewWorkers::default()));
        gone.iter().map(|held| held.sockets.len()).sum()
    }
}

/// Takes all sockets but the first of its group from a listener that can do without them.
fn all_but_the_first(held: &mut Held, orders: &Orders) -> Option<Held> {
    let steerable = matches!(held.spec.address, Address::Tcp(_));
    if !steerable || held.sockets.len() < 2 || !held.sockets.iter().all(HeldSocket::is_ours) {
        return None;
    }
    let place = |socket: &HeldSocket| {
        let order = orders.order(&Group::of(&held.spec, socket));
        order.and_then(|order| order.index_of(socket.member))
    };
    // Without an order they leave by filters, and it makes no difference which one stays.
    let mut sockets = held.sockets.clone();
    sockets.sort_by_key(|socket| (place(socket), socket.member));
    let leaving = sockets.split_off(1);
    held.sockets = sockets;
    Some(Held {
        spec: held.spec.clone(),
        sockets: leaving,
    })
}

/// What is given: every socket that was bound here.
fn gifts(plan: &Plan, held: &[Held]) -> Vec<Gift> {
    let bound = |held: &&Held| {
        let address = &held.spec.address;
        !matches!(address, Address::Inherited(_) | Address::Activated(_))
    };
    let all = held.iter().take(plan.to_open().len()).filter(bound);
    let one = |held: &Held| -> Vec<Gift> {
        let names = Names {
            namespace: held.spec.network_namespace.clone().unwrap_or_default(),
            interface: held.spec.interface.clone().unwrap_or_default(),
        };
        let sockets = held.sockets.iter().map(|socket| Gift {
            fd: Arc::clone(&socket.fd),
            names: names.clone(),
            given: Arc::clone(&socket.given),
        });
        sockets.collect()
    };
    all.flat_map(one).collect()
}

fn peer(stream: &UnixStream) -> String {
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) => format!("process {}", peer.pid.as_raw_nonzero()),
        Err(_) => "a process".to_owned(),
    }
}
