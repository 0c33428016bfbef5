//! `source`: can connections to servers leave from there, and are there ports enough?
//!
//! Decides:  that an address which is not here and a range without a free port are warnings: a server is
//!           then down, and the process serves all the same.
//! Source:   HAProxy's manual, chapter 5.2, `source`; crates/proxy/src/source.rs
//! Not here: the call itself (the proxy crate).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use portcullis_config::model::{Seen, Source};
use portcullis_config::{Diagnostic, Severity};
use portcullis_control::Plan;
use portcullis_control::compile::ServerPlan;
use portcullis_inspect::snapshot::{Snapshot, State};
use portcullis_inspect::verdict::{Opening, Outcome, ask};
use portcullis_kernel_model::{Family, Opt};
use portcullis_proxy::snapshot::ServerAddress;

use super::foreseen::notes;

/// Every server's, each finding once.
pub fn of_plan(plan: &Plan, snapshot: &Snapshot) -> io::Result<Vec<Diagnostic>> {
    let mut found = Vec::new();
    for backend in &plan.backends {
        let mut known: Vec<(&Source, bool)> = Vec::new();
        for server in &backend.servers {
            let Some(source) = &server.source else {
                continue;
            };
            let six = is_six(server, source);
            if let Some(ServerAddress::Tcp { address, .. }) = &server.address
                && address.is_ipv6() != six
            {
                let what = format!(
                    "backend `{}`, server `{}`: no connection can leave from its `source`: that is of the other family than {address}",
                    backend.name, server.member.name
                );
                found.push(Diagnostic::new(Severity::Warning, "source-refused", what));
                continue;
            }
            if !known.contains(&(source, six)) {
                known.push((source, six));
                let whose = format!(
                    "backend `{}`, server `{}`",
                    backend.name, server.member.name
                );
                found.extend(of_source(snapshot, source, six, &whose)?);
            }
            if let Some((low, high)) = source.ports {
                let whose = format!(
                    "backend `{}`, server `{}`",
                    backend.name, server.member.name
                );
                found.extend(too_few(server, (low, high), &whose));
            }
        }
    }
    Ok(found)
}

fn is_six(server: &ServerPlan, source: &Source) -> bool {
    match (source.address, &server.address) {
        (Some(ip), _) => ip.is_ipv6(),
        (None, Some(ServerAddress::Tcp { address, .. })) => address.is_ipv6(),
        (None, _) => false,
    }
}

/// A range has a port for each connection of the server, or some have to wait for one.
fn too_few(server: &ServerPlan, (low, high): (u16, u16), whose: &str) -> Option<Diagnostic> {
    let ports = u32::from(high) - u32::from(low) + 1;
    let most = server.member.limits.maxconn;
    (most > ports).then(|| {
        let what =
            format!("{whose}: `maxconn {most}` needs more ports than the {ports} of `source`");
        Diagnostic::new(Severity::Warning, "too-few-source-ports", what)
    })
}

/// Where connections leave from, if that is known beforehand.
struct From<'a> {
    snapshot: &'a Snapshot,
    ip: IpAddr,
    interface: Option<&'a str>,
    transparent: bool,
}

fn of_source(
    snapshot: &Snapshot,
    source: &Source,
    six: bool,
    whose: &str,
) -> io::Result<Option<Diagnostic>> {
    let (ip, transparent) = match (source.seen, source.address) {
        (Some(Seen::Address(at)), _) => (at.ip(), true),
        // The client's address is whatever it is.
        (Some(Seen::Client | Seen::ClientIp), _) => return Ok(None),
        (None, Some(ip)) => (ip, false),
        (None, None) if six => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), false),
        (None, None) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), false),
    };
    let from = From {
        snapshot,
        ip,
        interface: source.interface.as_deref(),
        transparent,
    };
    // The address alone: a port that nobody has.
    let first = source.ports.map_or(0, |(low, _)| low);
    let held = taken(snapshot, (first, first)).contains(&first);
    if let (false, Some(mut lines)) = (held, from.refused(first)?) {
        let last = source.ports.map_or(first, |(_, high)| high);
        // Ports below ip_unprivileged_port_start come first.
        let what = match last == first || from.refused(last)?.is_some() {
            true => "its `source`",
            false => "some ports of its `source`",
        };
        let what = format!(
            "{whose}: this host would refuse {what}: {}",
            lines.remove(0)
        );
        let diagnostic = Diagnostic::new(Severity::Warning, "source-refused", what);
        return Ok(Some(lines.into_iter().fold(diagnostic, Diagnostic::note)));
    }
    let Some(range) = source.ports else {
        return Ok(None);
    };
    let mut lost = Vec::new();
    for port in taken(snapshot, range) {
        if from.refused(port)?.is_some() {
            lost.push(port.to_string());
        }
    }
    Ok((!lost.is_empty()).then(|| {
        let what = format!(
            "{whose}: of the ports of `source`, taken on this host: {}",
            shortened(&lost)
        );
        Diagnostic::new(Severity::Warning, "source-ports-taken", what)
    }))
}

impl From<'_> {
    /// Why a connection cannot leave from a port of it, a line each.
    fn refused(&self, port: u16) -> io::Result<Option<Vec<String>>> {
        let mut opening = Opening::new(SocketAddr::new(self.ip, port));
        opening.backlog = None;
        opening.options.push(Opt::ReuseAddr(true));
        if let Some(name) = self.interface {
            opening.options.push(Opening::device(self.snapshot, name));
        }
        if self.transparent {
            opening.options.push(match opening.family {
                Family::Inet => Opt::Transparent(true),
                Family::Inet6 => Opt::Transparent6(true),
            });
        }
        let verdict = ask(self.snapshot, &opening).map_err(io::Error::other)?;
        if verdict.outcome != Outcome::Refused {
            return Ok(None);
        }
        let text = verdict.to_string();
        let first = text.lines().next().unwrap_or_default();
        let mut lines = vec![first.replacen("error: ", "", 1)];
        lines.extend(notes(&verdict));
        Ok(Some(lines))
    }
}

/// The ports of a range that somebody listens on or has bound.
fn taken(snapshot: &Snapshot, (low, high): (u16, u16)) -> BTreeSet<u16> {
    let sockets = snapshot
        .namespaces
        .first()
        .map(|net| net.sockets.as_slice());
    let bound = sockets
        .unwrap_or_default()
        .iter()
        .filter(|socket| matches!(socket.state, State::Listen | State::Bound));
    bound
        .map(|socket| socket.local.port())
        .filter(|port| (low..=high).contains(port))
        .collect()
}

fn shortened(ports: &[String]) -> String {
    const TOLD_MAX: usize = 8;
    match ports.len() {
        0..=TOLD_MAX => ports.join(", "),
        all => format!(
            "{} and {} more",
            ports[..TOLD_MAX].join(", "),
            all - TOLD_MAX
        ),
    }
}
