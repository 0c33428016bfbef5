//! How many descriptors the process may have, and how many connections that is.
//!
//! Decides:  `maxconn` from the descriptor limit and the descriptor limit from `maxconn`.
//! Source:   HAProxy 3.5-dev5, src/limits.c, compute_ideal_maxconn(), compute_ideal_maxsock(),
//!           apply_nofile_limit(), check_nofile_lim_and_prealloc_fd(); configuration.txt 3.1
//!           `maxconn`, `ulimit-n`, `fd-hard-limit`, `strict-limits`.
//! Not here: what a worker does when descriptors run out all the same (proxy).
//!
//! Two differences from HAProxy. An automatic `maxconn` is computed from `ulimit-n` where that is
//! given (there it is not, and the process then refuses to start); and where `no strict-limits`
//! lets the process go on with fewer descriptors than `maxconn` needs, `maxconn` is lowered to
//! what they suffice for, so that the connections in excess wait in the kernel's queue and are
//! not accepted only to be reset.

use std::fmt;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The most descriptors that are used where no limit is configured at all: HAProxy's
/// `DEFAULT_MAXFD`. Some systems set the hard limit to a thousand million.
pub const DEFAULT_MAX_DESCRIPTORS: u64 = 1_048_576;
/// The least that an automatic `maxconn` becomes: HAProxy's `DEFAULT_MAXCONN`.
pub const LEAST_AUTOMATIC_MAXCONN: u64 = 100;
/// A connection is two descriptors: the client's and the server's.
pub const PER_CONNECTION: u64 = 2;
/// A pipe, for splicing, is two descriptors.
pub const PER_PIPE: u64 = 2;
/// Without `maxpipes`, one connection in this many is expected to splice at a time.
pub const CONNECTIONS_PER_PIPE: u64 = 4;
/// Of each worker: its epoll, its wake-up, its timer, and the reserve that survives `EMFILE`.
pub const PER_WORKER: u64 = 4;
/// Of the process: standard input to error, the control thread's epoll, wake-up, signals and
/// timers, the opener's socket, logs, and files that are open for a moment.
pub const FIXED: u64 = 32;

/// What the configuration needs besides connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Demand {
    /// Listening sockets, every shard counted.
    pub listeners: u64,
    /// Checks that may run at once: one descriptor each.
    pub checks: u64,
    /// Worker threads.
    pub workers: u64,
    /// How many pipes splicing may take.
    pub pipes: Pipes,
}

/// How many pipes splicing may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipes {
    /// Nothing splices.
    None,
    /// `maxpipes`.
    AtMost(u64),
    /// One for each [`CONNECTIONS_PER_PIPE`] connections.
    Automatic,
}

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wishes {
    /// `maxconn` of the process, or `-n`; `None`: computed.
    pub maxconn: Option<u32>,
    /// `ulimit-n`.
    pub ulimit_n: Option<u64>,
    /// `fd-hard-limit`.
    pub fd_hard_limit: Option<u64>,
    /// `strict-limits`.
    pub strictness: Strictness,
}

/// What becomes of a limit that cannot be had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strictness {
    /// `strict-limits`, the default: an error.
    #[default]
    Strict,
    /// `no strict-limits`: a warning, and as much as can be had.
    Lenient,
}

/// `RLIMIT_NOFILE`; `u64::MAX` where it is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What counts now.
    pub soft: u64,
    /// What an ordinary process may raise it to.
    pub hard: u64,
}

/// What is to be done, computed before anything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Connections of the process.
    pub maxconn: u32,
    /// Whether it was computed here.
    pub automatic: bool,
    /// Descriptors needed for that.
    pub needed: u64,
    /// The descriptor limit to set; at most `fd-hard-limit`. Never lowers the present one.
    pub nofile: u64,
}

/// The limits as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Connections of the process.
    pub maxconn: u32,
    /// Whether it was computed here (HAProxy says so in a notice).
    pub automatic: bool,
    /// Pipes that may be open at once.
    pub pipes: u64,
    /// The soft descriptor limit.
    pub nofile: u64,
    /// Under `no strict-limits`: what could not be had.
    pub warning: Option<LimitError>,
}

/// A descriptor limit that could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitError {
    /// The limit could not be raised.
    CannotRaise {
        /// To what.
        wanted: u64,
        /// What it is.
        present: Limit,
        /// What `fd-hard-limit` allows, where that was in the way.
        fd_hard_limit: Option<u64>,
        /// The errno, where the kernel was in the way.
        errno: Option<i32>,
        /// Whether a configured `maxconn` or `ulimit-n` asked for it.
        configured: bool,
        /// A `maxconn` that would fit.
        suggestion: u64,
    },
    /// `ulimit-n` (or the limit that was there) is below what `maxconn` needs.
    TooLow {
        /// What it is.
        nofile: u64,
        /// What is needed.
        needed: u64,
        /// For this many connections.
        maxconn: u32,
        /// A `maxconn` that would fit.
        suggestion: u64,
    },
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitError::CannotRaise {
                wanted,
                present,
                fd_hard_limit,
                errno,
                configured,
                suggestion,
            } => {
                write!(f, "cannot raise the descriptor limit to {wanted}")?;
                if let Some(limit) = fd_hard_limit {
                    write!(f, ": `fd-hard-limit` is {limit}")?;
                } else if let Some(errno) = errno {
                    write!(f, ": {}", io::Error::from_raw_os_error(*errno))?;
                }
                write!(
                    f,
                    " (soft limit {}, hard limit {}); ",
                    present.soft, present.hard
                )?;
                match configured {
                    true => write!(
                        f,
                        "leave `maxconn` and `ulimit-n` out to have them computed, or set \
                         `maxconn {suggestion}`"
                    ),
                    false => write!(
                        f,
                        "that is for the {LEAST_AUTOMATIC_MAXCONN} connections that there should \
                         be at least; raise the limit, or set `maxconn {suggestion}`"
                    ),
                }
            }
            LimitError::TooLow {
                nofile,
                needed,
                maxconn,
                suggestion,
            } => write!(
                f,
                "the descriptor limit {nofile} is too low for maxconn {maxconn}, which needs \
                 {needed}; set `ulimit-n {needed}` or more, or `maxconn {suggestion}`"
            ),
        }
    }
}

impl std::error::Error for LimitError {}

impl Demand {
    /// Descriptors needed before the first connection.
    fn base(&self) -> u64 {
        self.listeners
            .saturating_add(self.checks)
            .saturating_add(self.workers.saturating_mul(PER_WORKER))
            .saturating_add(FIXED)
    }

    /// Pipes with this many connections.
    pub fn pipes_for(&self, maxconn: u64) -> u64 {
        match self.pipes {
            Pipes::None => 0,
            Pipes::AtMost(pipes) => pipes,
            // Below one splicing session in four there is still one pipe each.
            Pipes::Automatic if maxconn < CONNECTIONS_PER_PIPE => maxconn,
            Pipes::Automatic => maxconn / CONNECTIONS_PER_PIPE,
        }
    }

    /// Descriptors needed with this many connections.
    pub fn needed_for(&self, maxconn: u64) -> u64 {
        self.base()
            .saturating_add(maxconn.saturating_mul(PER_CONNECTION))
            .saturating_add(self.pipes_for(maxconn).saturating_mul(PER_PIPE))
    }

    /// The most connections that this many descriptors suffice for.
    ///
    /// Pipes are optional: a `maxpipes` that would take everything is not counted.
    pub fn connections_within(&self, descriptors: u64) -> u64 {
        let left = descriptors.saturating_sub(self.base());
        match self.pipes {
            Pipes::None => left / PER_CONNECTION,
            Pipes::AtMost(pipes) => {
                let pipes = pipes.saturating_mul(PER_PIPE);
                (if pipes < left { left - pipes } else { left }) / PER_CONNECTION
            }
            // n connections take 2n + 2n/4 descriptors.
            Pipes::Automatic => {
                let per_pipe = CONNECTIONS_PER_PIPE;
                u64::try_from(
                    u128::from(left) * u128::from(per_pipe)
                        / u128::from(per_pipe * PER_CONNECTION + PER_PIPE),
                )
                .unwrap_or(u64::MAX)
            }
        }
    }
}

/// What to do, from what is wanted and what the limit is.
pub fn plan(demand: &Demand, wishes: &Wishes, present: Limit) -> Plan {
    let nothing_configured =
        wishes.maxconn.is_none() && wishes.ulimit_n.is_none() && wishes.fd_hard_limit.is_none();
    let ceiling = match wishes.fd_hard_limit {
        Some(limit) => limit,
        None if nothing_configured => DEFAULT_MAX_DESCRIPTORS,
        None => u64::MAX,
    };
    let (maxconn, automatic) = match wishes.maxconn {
        Some(maxconn) => (maxconn, false),
        None => {
            let have = wishes
                .ulimit_n
                .unwrap_or(present.soft.max(present.hard))
                .min(ceiling)
                // An unlimited descriptor limit is bounded by fs.nr_open all the same.
                .min(i32::MAX as u64);
            let fits = demand.connections_within(have);
            let maxconn = fits.max(LEAST_AUTOMATIC_MAXCONN);
            (u32::try_from(maxconn).unwrap_or(u32::MAX), true)
        }
    };
    let needed = demand.needed_for(maxconn.into());
    Plan {
        maxconn,
        automatic,
        needed,
        nofile: wishes.ulimit_n.unwrap_or(needed),
    }
}

/// What the limit is to become, or why that cannot be.
///
/// `None`: it is enough as it is.
fn target(
    plan: &Plan,
    demand: &Demand,
    wishes: &Wishes,
    present: Limit,
) -> Result<Option<Limit>, LimitError> {
    if let Some(limit) = wishes.fd_hard_limit
        && plan.nofile > limit
    {
        return Err(LimitError::CannotRaise {
            wanted: plan.nofile,
            present,
            fd_hard_limit: Some(limit),
            errno: None,
            configured: !plan.automatic || wishes.ulimit_n.is_some(),
            suggestion: suggestion(demand, limit.min(present.hard)),
        });
    }
    if plan.nofile <= present.soft {
        return Ok(None);
    }
    Ok(Some(Limit {
        soft: plan.nofile,
        hard: plan.nofile.max(present.hard),
    }))
}

/// Whether what the limit is now is enough, and what follows where it is not.
fn settle(
    plan: &Plan,
    demand: &Demand,
    strictness: Strictness,
    nofile: u64,
    warning: Option<LimitError>,
) -> Result<Settled, LimitError> {
    let mut settled = Settled {
        maxconn: plan.maxconn,
        automatic: plan.automatic,
        pipes: demand.pipes_for(plan.maxconn.into()),
        nofile,
        warning,
    };
    if nofile >= plan.needed {
        return Ok(settled);
    }
    let too_low = LimitError::TooLow {
        nofile,
        needed: plan.needed,
        maxconn: plan.maxconn,
        suggestion: suggestion(demand, nofile),
    };
    if strictness == Strictness::Strict {
        return Err(too_low);
    }
    let fits = demand.connections_within(nofile).max(1);
    settled.maxconn = u32::try_from(fits).unwrap_or(u32::MAX).min(plan.maxconn);
    settled.pipes = demand
        .pipes_for(settled.maxconn.into())
        .min(nofile.saturating_sub(demand.base()) / PER_PIPE);
    settled.warning.get_or_insert(too_low);
    Ok(settled)
}

/// A `maxconn` that fits these descriptors: as many as do, cut to two digits.
fn suggestion(demand: &Demand, descriptors: u64) -> u64 {
    let fits = demand.connections_within(descriptors).max(1);
    let mut unit = 1;
    while fits / unit >= 100 {
        unit *= 10;
    }
    fits / unit * unit
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Raising {
    /// An ordinary process's: it can be raised up to the hard limit.
    ToHard,
    /// That of one with CAP_SYS_RESOURCE: it can be raised up to `fs.nr_open`, where that is known.
    Beyond(Option<u64>),
}

/// What a plan needs, and what it asks for.
pub fn of_plan(plan: &crate::Plan) -> (Demand, Wishes) {
    let sockets = plan.to_open();
    let admin = &plan.admin;
    let askers = match admin.sockets.is_empty() {
        true => 0,
        false => u64::from(admin.maxconn),
    };
    let servers = plan.backends.iter().flat_map(|backend| &backend.servers);
    let splices = plan.tuning.pipe_size > 0;
    let demand = Demand {
        // Whoever asks at a runtime socket has a descriptor too.
        listeners: sockets
            .iter()
            .map(|one| u64::from(one.spec.shards))
            .sum::<u64>()
            + askers,
        checks: servers.filter(|server| server.check.is_some()).count() as u64,
        workers: u64::from(plan.workers),
        pipes: match (splices, plan.process.max_pipes) {
            (false, _) => Pipes::None,
            (true, Some(pipes)) => Pipes::AtMost(u64::from(pipes)),
            (true, None) => Pipes::Automatic,
        },
    };
    let wishes = Wishes {
        maxconn: plan.process.maxconn,
        ulimit_n: plan.process.ulimit_n,
        fd_hard_limit: plan.process.fd_hard_limit,
        strictness: match plan.process.strict_limits {
            true => Strictness::Strict,
            false => Strictness::Lenient,
        },
    };
    (demand, wishes)
}

/// What [`apply`] would come to with a limit, without setting anything.
pub fn foresee(
    demand: &Demand,
    wishes: &Wishes,
    present: Limit,
    raising: Raising,
) -> Result<Settled, LimitError> {
    let plan = plan(demand, wishes, present);
    let most = match raising {
        Raising::ToHard => present.hard,
        Raising::Beyond(nr_open) => nr_open.unwrap_or(u64::MAX),
    };
    let (nofile, refused) = match target(&plan, demand, wishes, present) {
        Ok(None) => (present.soft, None),
        Ok(Some(limit)) if limit.soft <= most => (limit.soft, None),
        Ok(Some(_)) => {
            let error = LimitError::CannotRaise {
                wanted: plan.nofile,
                present,
                fd_hard_limit: None,
                errno: Some(rustix::io::Errno::PERM.raw_os_error()),
                configured: !plan.automatic || wishes.ulimit_n.is_some(),
                suggestion: suggestion(demand, present.hard),
            };
            (present.hard, Some(error))
        }
        Err(error) => {
            let most = present.hard.min(wishes.fd_hard_limit.unwrap_or(u64::MAX));
            (most.max(present.soft), Some(error))
        }
    };
    match refused {
        Some(error) if wishes.strictness == Strictness::Strict => Err(error),
        refused => settle(&plan, demand, wishes.strictness, nofile, refused),
    }
}

/// `RLIMIT_NOFILE` now.
pub fn present() -> Limit {
    let limit = getrlimit(Resource::Nofile);
    Limit {
        soft: limit.current.unwrap_or(u64::MAX),
        hard: limit.maximum.unwrap_or(u64::MAX),
    }
}

/// Sets `RLIMIT_NOFILE` as the configuration needs it, and says how many connections it allows.
///
/// To be called before the opener is split off (it holds the listening sockets for a moment)
/// and before privileges are dropped: raising the hard limit needs CAP_SYS_RESOURCE.
pub fn apply(demand: &Demand, wishes: &Wishes) -> Result<Settled, LimitError> {
    let before = present();
    let plan = plan(demand, wishes, before);
    let refused = match target(&plan, demand, wishes, before) {
        Ok(None) => None,
        Ok(Some(limit)) => match set(limit) {
            Ok(()) => None,
            Err(error) => Some(LimitError::CannotRaise {
                wanted: plan.nofile,
                present: before,
                fd_hard_limit: None,
                errno: error.raw_os_error(),
                configured: !plan.automatic || wishes.ulimit_n.is_some(),
                suggestion: suggestion(demand, before.hard),
            }),
        },
        Err(error) => Some(error),
    };
    if let Some(error) = &refused {
        if wishes.strictness == Strictness::Strict {
            return Err(error.clone());
        }
        let most = before.hard.min(wishes.fd_hard_limit.unwrap_or(u64::MAX));
        if most > before.soft {
            // What it has become is looked at below.
            let _ = set(Limit {
                soft: most,
                hard: before.hard,
            });
        }
    }
    let nofile = present().soft;
    let usable = nofile.min(wishes.fd_hard_limit.unwrap_or(u64::MAX));
    settle(&plan, demand, wishes.strictness, usable, refused)
}

fn set(limit: Limit) -> io::Result<()> {
    let value = |limit: u64| (limit != u64::MAX).then_some(limit);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: value(limit.soft),
            maximum: value(limit.hard),
        },
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        listeners: 4,
        checks: 6,
        workers: 2,
        pipes: Pipes::None,
    };
    /// `DEMAND` before the first connection: 4 + 6 + 2 * 4 + 32.
    const BASE: u64 = 50;

    fn limit(soft: u64, hard: u64) -> Limit {
        Limit { soft, hard }
    }

    #[test]
    fn the_descriptors_needed_are_two_a_connection_and_two_a_pipe() {
        assert_eq!(DEMAND.needed_for(0), BASE);
        assert_eq!(DEMAND.needed_for(1000), BASE + 2000);
        let splicing = Demand {
            pipes: Pipes::Automatic,
            ..DEMAND
        };
        assert_eq!(splicing.needed_for(1000), BASE + 2000 + 500);
        assert_eq!(splicing.needed_for(3), BASE + 6 + 6);
        let few = Demand {
            pipes: Pipes::AtMost(10),
            ..DEMAND
        };
        assert_eq!(few.needed_for(1000), BASE + 2000 + 20);
    }

    #[test]
    fn connections_and_descriptors_are_each_others_inverse() {
        for pipes in [Pipes::None, Pipes::AtMost(10), Pipes::Automatic] {
            let demand = Demand { pipes, ..DEMAND };
            for descriptors in (BASE + 40)..5000 {
                let most = demand.connections_within(descriptors);
                assert!(
                    most < CONNECTIONS_PER_PIPE || demand.needed_for(most) <= descriptors,
                    "{pipes:?}: {most} connections do not fit {descriptors}"
                );
                assert!(
                    demand.needed_for(most + 2) > descriptors,
                    "{pipes:?}: more than {most} connections would fit {descriptors}"
                );
            }
        }
    }

    /// Rows: what is wished, what the limit is; then maxconn, automatic, and the limit to set.
    #[test]
    fn maxconn_and_the_limit_follow_from_each_other() {
        let none = Wishes::default();
        let rows = [
            (
                "automatic, from the hard limit",
                none,
                limit(1024, 20_050),
                (10_000, true, 20_050),
            ),
            (
                "automatic, a soft limit above the hard one's use",
                none,
                limit(4050, 4050),
                (2000, true, 4050),
            ),
            (
                "automatic, a huge limit is cut",
                none,
                limit(1024, 1_000_000_000),
                ((1_048_576 - 50) / 2, true, 1_048_576),
            ),
            (
                "automatic, unlimited is cut too",
                none,
                limit(u64::MAX, u64::MAX),
                ((1_048_576 - 50) / 2, true, 1_048_576),
            ),
            (
                "automatic, never below a hundred",
                none,
                limit(64, 64),
                (100, true, 250),
            ),
            (
                "automatic, within fd-hard-limit",
                Wishes {
                    fd_hard_limit: Some(5050),
                    ..none
                },
                limit(1024, 1_000_000_000),
                (2500, true, 5050),
            ),
            (
                "automatic, from ulimit-n",
                Wishes {
                    ulimit_n: Some(3050),
                    ..none
                },
                limit(1024, 1_000_000),
                (1500, true, 3050),
            ),
            (
                "given",
                Wishes {
                    maxconn: Some(1000),
                    ..none
                },
                limit(1024, 1024),
                (1000, false, 2050),
            ),
            (
                "given, with a ulimit-n of its own",
                Wishes {
                    maxconn: Some(1000),
                    ulimit_n: Some(9000),
                    ..none
                },
                limit(1024, 1024),
                (1000, false, 9000),
            ),
        ];
        for (what, wishes, present, (maxconn, automatic, nofile)) in rows {
            let plan = plan(&DEMAND, &wishes, present);
            assert_eq!(
                (plan.maxconn, plan.automatic, plan.nofile),
                (maxconn, automatic, nofile),
                "{what}"
            );
        }
    }

    #[test]
    fn a_limit_that_suffices_is_left_alone_and_never_lowered() {
        let wishes = Wishes {
            maxconn: Some(10),
            ulimit_n: Some(500),
            ..Wishes::default()
        };
        let present = limit(1024, 4096);
        let plan = plan(&DEMAND, &wishes, present);
        assert_eq!(target(&plan, &DEMAND, &wishes, present), Ok(None));
    }

    #[test]
    fn the_hard_limit_is_raised_only_where_it_must_be() {
        let wishes = Wishes {
            maxconn: Some(1000),
            ..Wishes::default()
        };
        for (present, expected) in [
            (limit(1024, 4096), limit(2050, 4096)),
            (limit(1024, 2000), limit(2050, 2050)),
        ] {
            let plan = plan(&DEMAND, &wishes, present);
            assert_eq!(target(&plan, &DEMAND, &wishes, present), Ok(Some(expected)));
        }
    }

    #[test]
    fn a_maxconn_beyond_fd_hard_limit_is_refused_with_one_that_fits() {
        let wishes = Wishes {
            maxconn: Some(10_000),
            fd_hard_limit: Some(5000),
            ..Wishes::default()
        };
        let present = limit(1024, 1_000_000);
        let plan = plan(&DEMAND, &wishes, present);
        let error = target(&plan, &DEMAND, &wishes, present).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot raise the descriptor limit to 20050: `fd-hard-limit` is 5000 (soft limit \
             1024, hard limit 1000000); leave `maxconn` and `ulimit-n` out to have them \
             computed, or set `maxconn 2400`"
        );
    }

    #[test]
    fn too_few_descriptors_are_an_error_or_fewer_connections() {
        let plan = plan(
            &DEMAND,
            &Wishes {
                maxconn: Some(1000),
                ..Wishes::default()
            },
            limit(1024, 1024),
        );
        let error = settle(&plan, &DEMAND, Strictness::Strict, 1024, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the descriptor limit 1024 is too low for maxconn 1000, which needs 2050; set \
             `ulimit-n 2050` or more, or `maxconn 480`"
        );
        let settled = settle(&plan, &DEMAND, Strictness::Lenient, 1024, None).unwrap();
        assert_eq!((settled.maxconn, settled.warning), (487, Some(error)));
        assert!(DEMAND.needed_for(487) <= 1024);
    }

    #[test]
    fn a_limit_below_everything_still_serves_one_connection_when_lenient() {
        let plan = plan(&DEMAND, &Wishes::default(), limit(16, 16));
        let settled = settle(&plan, &DEMAND, Strictness::Lenient, 16, None).unwrap();
        assert_eq!((settled.maxconn, settled.pipes), (1, 0));
    }
}
