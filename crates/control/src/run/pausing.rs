//! A frontend that takes no new connections for a while, and loses none: `disable frontend`.
//!
//! Decides:  all listeners of the frontend are paused, or none; that it is remembered by name over reloads,
//!           as long as there is a frontend of that name.
//! Source:   HAProxy's management guide, 9.3, `disable frontend`: there the listeners stop, and what waits in
//!           their queues is reset.
//! Not here: how a listener is paused (the listener crate's pause.rs), who asks (the admin socket), the pause of
//!           the whole process (TTOU, in life.rs).
//!
//! A paused listener drops SYNs, so that a client tries again after 1, 3 and 7 s. Workers go on serving its
//! queue, handshakes under way are finished, and sessions go on.

use std::collections::BTreeSet;
use std::fmt;

use portcullis_listener::pause::{self, CannotPause};

use super::held::Held;
use super::open::Note;
use super::reload::Serving;
use crate::Plan;
use portcullis_proxy::log::Level;

/// The names of the frontends that are paused.
#[derive(Debug, Default)]
pub(super) struct Paused(BTreeSet<String>);

/// What an order came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It is as asked for.
    Made,
    /// It was so before.
    None,
}

/// Why a frontend was not paused, or not resumed; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NotPaused {
    /// There is no frontend of that name that listens.
    NoFrontend,
    /// One of its listeners cannot be.
    Cannot {
        /// Its address.
        listener: String,
        why: CannotPause,
    },
    /// The kernel refused to take the filter off.
    NotResumed(String),
    /// The process stops, and its listeners are gone.
    Stopping,
}

impl fmt::Display for NotPaused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotPaused::NoFrontend => f.write_str("no such frontend"),
            NotPaused::Cannot { listener, why } => write!(f, "{listener}: {why}"),
            NotPaused::NotResumed(why) => write!(f, "the filter stays: {why}"),
            NotPaused::Stopping => f.write_str("the process is stopping"),
        }
    }
}

impl std::error::Error for NotPaused {}

impl Serving {
    /// Drops new connections of this frontend from now on. It does not block, and workers are not asked.
    pub(super) fn pause_frontend(&mut self, name: &str) -> Result<Change, NotPaused> {
        self.paused.pause(name, &self.plan, &self.held)
    }

    /// Takes new connections again.
    pub(super) fn resume_frontend(&mut self, name: &str) -> Result<Change, NotPaused> {
        self.paused.resume(name, &self.plan, &self.held)
    }
}

/// The listeners of a frontend.
fn of_frontend<'a>(name: &str, plan: &Plan, held: &'a [Held]) -> Result<Vec<&'a Held>, NotPaused> {
    let listeners = plan.listeners.iter().enumerate();
    let mut of_it = listeners
        .filter(|(_, listener)| plan.frontends[listener.frontend].name == name)
        .peekable();
    if of_it.peek().is_none() {
        return Err(NotPaused::NoFrontend);
    }
    let held = of_it.map(|(index, _)| held.get(index));
    held.collect::<Option<_>>().ok_or(NotPaused::Stopping)
}

impl Paused {
    /// As another process had them.
    pub(super) fn of(names: BTreeSet<String>) -> Paused {
        Paused(names)
    }

    /// Their names.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.0.clone()
    }

    fn pause(&mut self, name: &str, plan: &Plan, held: &[Held]) -> Result<Change, NotPaused> {
        let held = of_frontend(name, plan, held)?;
        let sockets: Vec<_> = held
            .iter()
            .flat_map(|held| held.sockets.iter().map(move |socket| (*held, socket)))
            .collect();
        let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| &*socket.fd).collect();
        pause::pause_all(&descriptors).map_err(|(at, why)| NotPaused::Cannot {
            listener: sockets[at].0.spec.address.to_string(),
            why,
        })?;
        Ok(match self.0.insert(name.to_owned()) {
            true => Change::Made,
            false => Change::None,
        })
    }

    fn resume(&mut self, name: &str, plan: &Plan, held: &[Held]) -> Result<Change, NotPaused> {
        for held in of_frontend(name, plan, held)? {
            for socket in &held.sockets {
                pause::resume(&*socket.fd).map_err(|why| NotPaused::NotResumed(why.to_string()))?;
            }
        }
        Ok(match self.0.remove(name) {
            true => Change::Made,
            false => Change::None,
        })
    }

    /// Another plan has come: its listeners are as the names say. What cannot be paused is told.
    pub(super) fn carry_over(&mut self, plan: &Plan, held: &[Held]) -> Vec<Note> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let mut notes = Vec::new();
        let mut still = BTreeSet::new();
        for (listener, held) in plan.listeners.iter().zip(held) {
            let name = &*plan.frontends[listener.frontend].name;
            let wanted = self.0.contains(name);
            if wanted {
                still.insert(name.to_owned());
            }
            for socket in &held.sockets {
                let refused = match wanted {
                    true => pause::pause(&*socket.fd).err().map(|why| why.to_string()),
                    false => pause::resume(&*socket.fd).err().map(|why| why.to_string()),
                };
                // A kind that cannot be paused cannot have been paused either.
                if let Some(why) = refused.filter(|_| wanted) {
                    let text = format!(
                        "frontend {name} is disabled, but {} goes on: {why}",
                        listener.spec.address
                    );
                    notes.push((Level::Warning, text));
                }
            }
        }
        self.0 = still;
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    use crate::compile::{HostLookup, Overrides};
    use crate::run::held;
    use portcullis_config::{Environment, Features, MemoryFiles, load};
    use portcullis_testkit::private_network;
    use std::path::PathBuf;

    const SOON: Duration = Duration::from_millis(100);

    fn plan(frontends: &str) -> Plan {
        let text = format!(
            "defaults\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n default_backend x\n\
             {frontends}backend x\n server s 127.0.0.1:1\n"
        );
        let outcome = load(
            &[PathBuf::from("haproxy.cfg")],
            &MemoryFiles::single(&*text),
            &mut Environment::default(),
            &Features::default(),
        );
        let config = outcome.config.unwrap();
        let (plan, _) = crate::compile(&config, &HostLookup::default(), &Overrides::default());
        plan.unwrap()
    }

    fn opened(plan: &Plan) -> Vec<Held> {
        let specs: Vec<_> = plan.listeners.iter().map(|it| it.spec.clone()).collect();
        let mut held: Vec<Held> = specs.iter().map(Held::nothing).collect();
        let opened = portcullis_listener::open_set(&specs, &Default::default()).unwrap();
        let placed = opened.listeners.into_iter().map(|one| (one.spec(), one));
        held::put(&mut held, placed.collect(), &mut Default::default());
        held
    }

    fn connects(port: u16) -> bool {
        TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), SOON).is_ok()
    }

    #[test]
    fn a_frontend_is_paused_with_all_its_listeners_and_over_another_plan() {
        private_network(|| {
            let text = "frontend a\n  bind 127.0.0.1:81 shards 2\n  bind 127.0.0.1:82\n\
                        frontend b\n  bind 127.0.0.1:83\n";
            let plan = plan(text);
            let held = opened(&plan);
            let mut paused = Paused::default();
            assert_eq!(paused.pause("c", &plan, &held), Err(NotPaused::NoFrontend));
            assert_eq!(paused.pause("a", &plan, &[]), Err(NotPaused::Stopping));
            assert_eq!(paused.pause("a", &plan, &held), Ok(Change::Made));
            assert_eq!(paused.pause("a", &plan, &held), Ok(Change::None));
            let open = [81, 82, 83].map(connects);
            assert_eq!(open, [false, false, true]);
            // The same sockets, one of them in another frontend's hands; and one that is new.
            let other = super::tests::plan(
                "frontend a\n  bind 127.0.0.1:81 shards 2\n  bind 127.0.0.1:84\n\
                 frontend b\n  bind 127.0.0.1:82\n",
            );
            let mut now = vec![held[0].clone(), held[1].clone(), held[1].clone()];
            now[1] = opened(&super::tests::plan("frontend a\n  bind 127.0.0.1:84\n")).remove(0);
            assert_eq!(paused.carry_over(&other, &now), []);
            assert_eq!([81, 84, 82].map(connects), [false, false, true]);
            assert_eq!(paused.resume("a", &other, &now), Ok(Change::Made));
            assert_eq!([81, 84, 82].map(connects), [true, true, true]);
        });
    }

    #[test]
    fn a_frontend_with_a_unix_socket_cannot_be_paused_and_nothing_of_it_is() {
        private_network(|| {
            let plan = plan("frontend a\n  bind 127.0.0.1:81\n  bind abns@x\n");
            let held = opened(&plan);
            let mut paused = Paused::default();
            let refused = paused.pause("a", &plan, &held).unwrap_err();
            assert!(refused.to_string().contains("Unix"), "{refused}");
            assert!(connects(81));
            assert!(!paused.0.contains("a"));
        });
    }
}
