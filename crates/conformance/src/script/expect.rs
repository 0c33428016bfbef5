//! Addresses and expectations: how they are written, and when an expectation holds.
//!
//! Decides:  the grammar behind `bind`, `connect` and `->`; which answer fits which pattern.
//! Not here: the other words of a line (parse.rs).

use std::net::{IpAddr, SocketAddr};

use portcullis_kernel_model::{AF_INET, AF_INET6, AF_UNSPEC, Bytes, Errno, Rule};

use super::cursor::Cursor;
use super::parse::Reader;
use super::problem::{Problem, did_you_mean};
use super::program::{Address, Expect, Pattern, Port, PortPattern, Reaches, STATES, Slot};
use super::world::Outcome;

/// Whether a pattern is of a call that gives nothing: it fails, or waits.
pub(super) fn fails(pattern: &Pattern) -> bool {
    matches!(pattern, Pattern::Errno(_) | Pattern::Blocks)
}

impl Pattern {
    /// Whether an answer fits.
    #[must_use]
    pub fn fits(&self, outcome: &Outcome, ports: &[u16]) -> bool {
        match (self, outcome) {
            (Pattern::Ok, Outcome::Ok | Outcome::Accepted) | (Pattern::Blocks, Outcome::Blocks) => {
                true
            }
            (Pattern::Errno(errno), Outcome::Err(number)) => errno.number() == *number,
            (Pattern::Value(value), Outcome::Value(got)) => value == got,
            (Pattern::Bytes(bytes), Outcome::Bytes(got)) => bytes == got,
            (Pattern::State(state), Outcome::Value(got)) => *state as i32 == *got,
            (Pattern::Address(ip, port), Outcome::Address(got)) => {
                *ip == got.ip() && port.fits(got.port(), ports)
            }
            _ => false,
        }
    }
}

impl PortPattern {
    fn fits(self, got: u16, ports: &[u16]) -> bool {
        match self {
            PortPattern::Any => got != 0,
            PortPattern::Is(port) => port.number(ports) == got,
            PortPattern::Range(low, high) => low <= got && got <= high,
        }
    }
}

impl Reader {
    /// `ADDRESS:PORT`, `[ADDRESS%INTERFACE]:PORT` or `unspecified`, then `family F` and `length N`.
    pub(super) fn address(&self, at: &mut Cursor<'_>) -> Result<Address, Problem> {
        let here = at.at;
        let mut address = match at.next() {
            Some("unspecified") => Address::UNSPECIFIED,
            Some(word) => {
                let (ip, scope, port) = self.ip_port(word).map_err(|message| {
                    at.line.problem(here, message, "127.0.0.1:web, [::1]:web")
                })?;
                let port = self.port_of(at, here, port)?;
                Address {
                    ip,
                    port,
                    scope,
                    family: None,
                    len: None,
                }
            }
            None => {
                return Err(at.line.problem(
                    here,
                    "an address is missing",
                    "127.0.0.1:web, [::1]:web",
                ));
            }
        };
        loop {
            let here = at.at + 1;
            if at.take("family") {
                let family = match at.next().unwrap_or("") {
                    "unspec" => Some(AF_UNSPEC),
                    "inet" => Some(AF_INET),
                    "inet6" => Some(AF_INET6),
                    word => word.parse().ok(),
                };
                let wrong = || {
                    at.line.problem(
                        here,
                        "a family is `unspec`, `inet`, `inet6` or a number",
                        "",
                    )
                };
                address.family = Some(family.ok_or_else(wrong)?);
            } else if at.take("length") {
                let wrong = || at.line.problem(here, "a length is a number of bytes", "");
                let len = at.next().and_then(|word| word.parse().ok());
                address.len = Some(len.ok_or_else(wrong)?);
            } else {
                return Ok(address);
            }
        }
    }

    /// The parts of `ADDRESS:PORT`.
    fn ip_port<'a>(&self, word: &'a str) -> Result<(IpAddr, u32, &'a str), String> {
        let (ip, port) = match word.strip_prefix('[') {
            Some(rest) => rest
                .split_once("]:")
                .ok_or("an IPv6 address is written `[ADDRESS]:PORT`")?,
            None => word.rsplit_once(':').ok_or("a port is missing")?,
        };
        let (ip, scope) = match ip.split_once('%') {
            Some((ip, name)) => (ip, name.parse().unwrap_or_else(|_| self.device(name))),
            None => (ip, 0),
        };
        let bracketed = word.starts_with('[');
        match ip.parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv6() == bracketed => Ok((ip, scope, port)),
            Ok(_) => Err("IPv6 addresses stand in brackets, IPv4 addresses do not".to_owned()),
            Err(_) => Err(format!("`{ip}` is no address")),
        }
    }

    fn port_of(&self, at: &Cursor<'_>, here: usize, text: &str) -> Result<Port, Problem> {
        if let Ok(number) = text.parse::<u16>() {
            return Ok(Port::Number(number));
        }
        let known = &self.script.ports;
        match known.iter().position(|port| port.0 == text) {
            Some(at) => Ok(Port::Named(at)),
            None => {
                let mut label = did_you_mean(text, known.iter().map(|port| port.0.as_str()));
                if text.bytes().all(|byte| byte.is_ascii_digit()) {
                    label = "a port's number is at most 65535".to_owned();
                } else if label.is_empty() {
                    label = format!("name it first: `port {text}`");
                }
                Err(at
                    .line
                    .problem(here, format!("no port is called `{text}`"), label))
            }
        }
    }

    /// `-> [one of] ANSWER, … [reaches …] [by RULE, …] [because of LABEL, …]`.
    pub(super) fn expectation(&self, at: &mut Cursor<'_>) -> Result<Option<Expect>, Problem> {
        if at.peek().is_none() {
            return Ok(None);
        }
        if !at.take("->") {
            at.end()?;
        }
        let mut expect = Expect::default();
        if at.take("one") {
            at.must("of", "one of ok, EADDRINUSE")?;
            loop {
                expect.answers.push(self.pattern(at)?);
                if !at.take(",") {
                    break;
                }
            }
        } else if !matches!(at.peek(), Some("reaches" | "by" | "because")) && !at.take("any") {
            expect.answers.push(self.pattern(at)?);
        }
        loop {
            if at.take("reaches") {
                expect.reaches = Some(self.reaches(at)?);
            } else if at.take("by") {
                expect.by = rules(at)?;
            } else if at.take("because") {
                at.must("of", "because of a")?;
                expect.because = self.labels(at)?;
            } else {
                break;
            }
        }
        at.end()?;
        Ok(Some(expect))
    }

    fn reaches(&self, at: &mut Cursor<'_>) -> Result<Reaches, Problem> {
        if at.take("nobody") {
            return Ok(Reaches::Nobody);
        }
        if at.take("one") {
            at.must("of", "reaches one of a, b")?;
            return Ok(Reaches::OneOf(self.labels(at)?));
        }
        Ok(Reaches::OneOf(vec![self.label(at)?]))
    }

    /// `a, b`, and `s1..s8` for a run of numbered labels.
    fn labels(&self, at: &mut Cursor<'_>) -> Result<Vec<Slot>, Problem> {
        let mut all = Vec::new();
        loop {
            match at.peek().and_then(|word| word.split_once("..")) {
                Some((from, to)) => {
                    let run = self.run(from, to);
                    let wrong = || {
                        at.line.problem(
                            at.at,
                            "a run of labels is written `s1..s8`, and all exist",
                            "",
                        )
                    };
                    all.extend(run.ok_or_else(wrong)?);
                    at.at += 1;
                }
                None => all.push(self.label(at)?),
            }
            if !at.take(",") {
                return Ok(all);
            }
        }
    }

    fn run(&self, from: &str, to: &str) -> Option<Vec<Slot>> {
        let stem = from.trim_end_matches(|c: char| c.is_ascii_digit());
        let low: usize = from.strip_prefix(stem)?.parse().ok()?;
        let high: usize = to.strip_prefix(stem)?.parse().ok()?;
        (low..=high)
            .map(|n| self.slot(&format!("{stem}{n}")))
            .collect()
    }

    fn pattern(&self, at: &mut Cursor<'_>) -> Result<Pattern, Problem> {
        let here = at.at;
        let word = at.next().unwrap_or("");
        if let Some(errno) = Errno::from_name(word) {
            return Ok(Pattern::Errno(errno));
        }
        if let Some((_, state)) = STATES.iter().find(|entry| entry.0 == word) {
            return Ok(Pattern::State(*state));
        }
        if let Ok(value) = word.parse() {
            return Ok(Pattern::Value(value));
        }
        if let Some(bytes) = Bytes::parse(word) {
            return Ok(Pattern::Bytes(bytes));
        }
        match word {
            "ok" => Ok(Pattern::Ok),
            "blocks" => Ok(Pattern::Blocks),
            word if word.contains("..") && super::amounts::port_range(word).is_some() => {
                // IP_LOCAL_PORT_RANGE, as the kernel packs it.
                Ok(Pattern::Value(
                    super::amounts::port_range(word).unwrap_or(0) as i32,
                ))
            }
            word if word.contains(':') => {
                let parts = self
                    .ip_port(word)
                    .map_err(|message| at.line.problem(here, message, ""))?;
                let port = match (parts.2, parts.2.split_once("..")) {
                    ("any", _) => PortPattern::Any,
                    (_, Some((low, high))) => match (low.parse(), high.parse()) {
                        (Ok(low), Ok(high)) => PortPattern::Range(low, high),
                        _ => {
                            return Err(at.line.problem(here, "a range of ports is LOW..HIGH", ""));
                        }
                    },
                    (text, None) => PortPattern::Is(self.port_of(at, here, text)?),
                };
                Ok(Pattern::Address(parts.0, port))
            }
            word => {
                let names = Errno::ALL.iter().map(|errno| errno.name());
                let names = names
                    .chain(STATES.iter().map(|entry| entry.0))
                    .chain(["ok", "blocks", "any"]);
                let mut label = did_you_mean(word, names);
                if label.is_empty() {
                    label = "`ok`, an errno name, a state, a number, an address, `blocks` or `any`"
                        .to_owned();
                }
                Err(at
                    .line
                    .problem(here, format!("`{word}` is no answer"), label))
            }
        }
    }
}

fn rules(at: &mut Cursor<'_>) -> Result<Vec<Rule>, Problem> {
    let mut all = Vec::new();
    loop {
        let here = at.at;
        let id = at.next().unwrap_or("");
        let found = Rule::ALL.iter().copied().find(|rule| rule.info().id == id);
        all.push(found.ok_or_else(|| {
            let near = did_you_mean(id, Rule::ALL.iter().map(|rule| rule.info().id));
            at.line
                .problem(here, format!("no rule is called `{id}`"), near)
        })?);
        if !at.take(",") {
            return Ok(all);
        }
    }
}

/// An address as a script writes it.
#[must_use]
pub fn print_address(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => address.to_string(),
        SocketAddr::V6(address) if address.scope_id() == 0 => address.to_string(),
        SocketAddr::V6(address) => {
            format!(
                "[{}%{}]:{}",
                address.ip(),
                address.scope_id(),
                address.port()
            )
        }
    }
}
