//! Which targets take which lines.
//!
//! Decides:  the tag, the host name and the address of each target, from the compiled
//!           configuration.
//! Source:   HAProxy's manual, `log`, `log-tag`, `log-send-hostname`.
//! Not here: opening anything (output.rs).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use portcullis_config::Place;
use portcullis_config::model::{self, LogDestination, LogFormat, LogStyle, ProxyLog};
use portcullis_proxy::log::session::Style;
use portcullis_proxy::log::{Facility, Format, Level};

use crate::compile::lookup::{Lookup, host};
use crate::compile::{BackendPlan, FrontendPlan, ProcessPlan};

/// The tag of lines where the file gives none.
const TAG: &str = "portcullis";

/// Where every line goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogPlan {
    /// Of sessions, by the frontend's name. By name, so that a session that outlives its
    /// configuration is still logged where its frontend is now.
    pub sessions: BTreeMap<String, SessionLog>,
    /// Of events of backends, by name.
    pub backends: BTreeMap<String, Route>,
    /// Of the process.
    pub global: Route,
    /// Whether messages go to standard error too.
    pub notices: Notices,
    /// Bytes of each ring, by name.
    pub rings: BTreeMap<String, usize>,
}

/// Whether messages of the control plane go to standard error too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Notices {
    /// In the foreground.
    Stderr,
    /// `quiet`, `daemon`, or logs go there already.
    #[default]
    Nowhere,
}

/// How sessions of a frontend are logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLog {
    /// The shape of a line.
    pub style: Style,
    /// `option log-separate-errors`
    pub separate_errors: bool,
    /// Where it goes.
    pub route: Route,
}

/// The targets of one proxy, or of the process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// In the order of the file.
    pub targets: Vec<Target>,
}

/// One `log` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Where.
    pub to: Destination,
    /// The header.
    pub format: Format,
    /// The facility.
    pub facility: Facility,
    /// Less urgent lines are not sent.
    pub max_level: Level,
    /// More urgent lines are sent at this level.
    pub min_level: Level,
    /// Longer lines are cut.
    pub max_length: usize,
    /// `log-tag`
    pub tag: String,
    /// `log-send-hostname`
    pub hostname: Option<String>,
    /// `sample`; `None`: every line is sent.
    pub sample: Option<model::Sample>,
    /// How many lines came since the sample began anew.
    pub came: u32,
}

impl Target {
    /// Counts a line; is it one of those that `sample` asks for?
    pub(super) fn is_in_sample(&mut self) -> bool {
        let Some(sample) = &self.sample else {
            return true;
        };
        self.came = self.came % sample.size.max(1) + 1;
        let number = self.came;
        sample
            .ranges
            .iter()
            .any(|&(first, last)| first <= number && number <= last)
    }
}

/// Where lines go, looked up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// `stdout`, `stderr`, `fd@N`
    Descriptor(i32),
    /// Syslog over UDP.
    Udp(SocketAddr),
    /// A Unix datagram socket.
    Unix(PathBuf),
    /// In memory.
    Ring(String),
}

impl LogPlan {
    /// From a compiled configuration. Names of UDP targets are looked up here; all that are not
    /// found are returned, with their places.
    pub fn new(
        process: &ProcessPlan,
        frontends: &[FrontendPlan],
        backends: &[BackendPlan],
        lookup: &dyn Lookup,
    ) -> Result<Self, Vec<(Place, String)>> {
        let mut maker = Maker {
            process,
            hostname: hostname(process),
            lookup,
            problems: Vec::new(),
        };
        let global = maker.route(&process.logs, None);
        let sessions = frontends
            .iter()
            .map(|frontend| (frontend.name.clone(), maker.session_log(&frontend.log)))
            .collect();
        let backends = backends
            .iter()
            .map(|backend| {
                let log = &backend.log;
                let route = maker.route(&log.targets, log.tag.as_deref());
                (backend.name.clone(), route)
            })
            .collect();
        let made = Self {
            sessions,
            backends,
            global,
            notices: match process.quiet || process.daemon {
                true => Notices::Nowhere,
                false => Notices::Stderr,
            },
            rings: process
                .rings
                .iter()
                .map(|ring| (ring.name.clone(), ring.size as usize))
                .collect(),
        };
        match maker.problems.is_empty() {
            true => Ok(made),
            false => Err(maker.problems),
        }
    }

    pub(super) fn routes(&self) -> impl Iterator<Item = &Route> {
        let sessions = self.sessions.values().map(|log| &log.route);
        sessions.chain(self.backends.values()).chain([&self.global])
    }
}

struct Maker<'a> {
    process: &'a ProcessPlan,
    hostname: Option<String>,
    lookup: &'a dyn Lookup,
    problems: Vec<(Place, String)>,
}

impl Maker<'_> {
    fn session_log(&mut self, log: &ProxyLog) -> SessionLog {
        SessionLog {
            style: match log.style {
                LogStyle::Connect => Style::Connect,
                LogStyle::Tcplog => Style::Tcplog,
                LogStyle::TcplogClf => Style::TcplogClf,
            },
            separate_errors: log.separate_errors,
            route: self.route(&log.targets, log.tag.as_deref()),
        }
    }

    fn route(&mut self, targets: &[model::LogTarget], tag: Option<&str>) -> Route {
        let tag = tag.or(self.process.log_tag.as_deref()).unwrap_or(TAG);
        let targets = targets
            .iter()
            .filter_map(|target| self.target(target, tag))
            .collect();
        Route { targets }
    }

    fn target(&mut self, target: &model::LogTarget, tag: &str) -> Option<Target> {
        let to = match &target.to {
            LogDestination::Stdout => Destination::Descriptor(1),
            LogDestination::Stderr => Destination::Descriptor(2),
            LogDestination::Descriptor(number) => Destination::Descriptor(*number),
            LogDestination::Unix(path) => Destination::Unix(path.clone()),
            LogDestination::Ring(name) => Destination::Ring(name.clone()),
            LogDestination::Udp(at) => match host(&at.host, self.lookup) {
                Ok(ip) => Destination::Udp(SocketAddr::new(ip, at.port)),
                Err(why) => {
                    self.problems.push((target.place, why));
                    return None;
                }
            },
        };
        let mut rings = self.process.rings.iter();
        let ring = rings.find(|ring| matches!(&to, Destination::Ring(name) if *name == ring.name));
        // A ring's own format and length prevail.
        let format = ring.and_then(|ring| ring.format).or(target.format);
        let format = format.unwrap_or(match self.hostname {
            Some(_) => LogFormat::Rfc3164,
            None => LogFormat::Local,
        });
        let max_length = ring.and_then(|ring| ring.max_length);
        Some(Target {
            to,
            format: match format {
                LogFormat::Local => Format::Local,
                LogFormat::Rfc3164 => Format::Rfc3164,
                LogFormat::Rfc5424 => Format::Rfc5424,
                LogFormat::Priority => Format::Priority,
                LogFormat::Short => Format::Short,
                LogFormat::Timed => Format::Timed,
                LogFormat::Iso => Format::Iso,
                LogFormat::Raw => Format::Raw,
                LogFormat::Json => Format::Json,
            },
            facility: Facility(target.facility),
            max_level: Level::from_number(target.max_level),
            min_level: Level::from_number(target.min_level),
            max_length: max_length.unwrap_or(target.max_length) as usize,
            tag: tag.to_owned(),
            hostname: self.hostname.clone(),
            sample: target.sample.clone(),
            came: 0,
        })
    }
}

/// The host name in lines, if it is sent.
fn hostname(process: &ProcessPlan) -> Option<String> {
    match &process.log_send_hostname {
        None => None,
        Some(Some(name)) => Some(name.clone()),
        Some(None) => {
            let system = rustix::system::uname();
            Some(system.nodename().to_string_lossy().into_owned())
        }
    }
}
