//! The lines that set the host up: kernel, interfaces, users, ports, sysctls.
//!
//! Decides:  their grammar, and that they come before the first socket (a sysctl may come later).
//! Not here: sockets and calls (parse.rs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_kernel_model::{Addr6, Caps, Interface, Kernel, NetId, NoTrace, Sysctl, Uid, Vrf};

use super::cursor::Cursor;
use super::parse::{Caller, Reader};
use super::problem::{Problem, did_you_mean};
use super::program::{Action, Kernels};

impl Reader {
    pub(super) fn before_sockets(&self, at: &Cursor<'_>) -> Result<(), Problem> {
        if self.begun {
            return Err(at.line.problem(
                0,
                "the host is set up before the first socket",
                "move it up",
            ));
        }
        Ok(())
    }

    /// A release, `5.4`, or an update of one, `6.1.192`.
    fn release(&self, at: &mut Cursor<'_>) -> Result<Kernel, Problem> {
        let here = at.at;
        let kernel = at.next().and_then(Kernel::parse);
        kernel
            .filter(|&kernel| kernel >= Kernel::OLDEST)
            .ok_or_else(|| {
                let message = format!("`kernel` takes a release from {} on", Kernel::OLDEST);
                at.line.problem(here, message, "kernel 6.18")
            })
    }

    /// `kernel RELEASE`, `kernel RELEASE to RELEASE`, `kernel RELEASE or later`.
    pub(super) fn kernel(&mut self, at: &mut Cursor<'_>) -> Result<(), Problem> {
        self.before_sockets(at)?;
        let first = self.release(at)?;
        let last = if at.take("to") {
            let here = at.at;
            let last = self.release(at)?;
            if last < first {
                let message = format!("Linux {last} is before {first}");
                let label = format!("kernel {last} to {first}");
                return Err(at.line.problem(here, message, label));
            }
            Some(last)
        } else if at.take("or") {
            at.must("later", "kernel 6.8 or later")?;
            None
        } else {
            Some(first)
        };
        let kernels = Kernels { first, last };
        self.script.kernel = Some(kernels);
        // The model's own release where it is one of them.
        if !kernels.contain(self.script.host.kernel) {
            self.script.host = self.script.host_of(last.unwrap_or(first));
        }
        Ok(())
    }

    /// `interface NAME [inside NAMESPACE] [vrf | in VRF] [down] [= ADDRESS/PREFIX [tentative], …]`.
    pub(super) fn interface(&mut self, at: &mut Cursor<'_>) -> Result<(), Problem> {
        self.before_sockets(at)?;
        let here = at.at;
        let name = at.name("an interface's name")?;
        if name.len() > 15 {
            return Err(at.line.problem(
                here,
                "an interface's name has at most 15 letters",
                "shorten it",
            ));
        }
        let net = self.inside(at)?;
        let vrf = self.vrf(at, net)?;
        let up = !at.take("down");
        let namespaces = &self.script.host.namespaces;
        let elsewhere = namespaces.iter().enumerate().any(|(other, namespace)| {
            other != usize::from(net.0)
                && name != "lo"
                && namespace.interfaces.iter().any(|i| i.name == name)
        });
        if elsewhere {
            return Err(at.line.problem(
                here,
                format!("interface `{name}` is in another namespace"),
                "take another name",
            ));
        }
        let all: usize = namespaces
            .iter()
            .map(|namespace| namespace.interfaces.len())
            .sum();
        let next = (all - namespaces.len()) as u32 + 2;
        let interfaces = &mut self.script.host.namespaces[usize::from(net.0)].interfaces;
        let index = interfaces
            .iter()
            .position(|interface| interface.name == name);
        let index = index.unwrap_or_else(|| {
            let interface = Interface {
                index: next,
                name,
                up,
                vrf,
                v4: Vec::new(),
                v6: Vec::new(),
            };
            interfaces.push(interface);
            interfaces.len() - 1
        });
        let interface = &mut interfaces[index];
        interface.up = up;
        interface.vrf = vrf;
        addresses(at, interface)
    }

    /// `vrf`, or `in VRF` of one that is there already.
    fn vrf(&self, at: &mut Cursor<'_>, net: NetId) -> Result<Vrf, Problem> {
        if at.take("vrf") {
            return Ok(Vrf::Itself);
        }
        if !at.take("in") {
            return Ok(Vrf::Outside);
        }
        let here = at.at;
        let name = at.name("a VRF's name")?;
        let mut known = self.script.host.namespaces[usize::from(net.0)]
            .interfaces
            .iter();
        match known.find(|known| known.name == name && known.vrf == Vrf::Itself) {
            Some(vrf) => Ok(Vrf::Member(vrf.index)),
            None => Err(at.line.problem(
                here,
                format!("there is no VRF `{name}` here yet"),
                format!("interface {name} vrf"),
            )),
        }
    }

    /// `user NAME UID [with CAPABILITY, …]`.
    pub(super) fn user(&mut self, at: &mut Cursor<'_>) -> Result<(), Problem> {
        self.before_sockets(at)?;
        let here = at.at;
        let name = at.name("a user's name")?;
        self.unused_name(at, here, &name)?;
        // The last number is nobody's: where a user id is given, it means none.
        let uid = at.user_id(u32::MAX - 1, "user alice 1000")?;
        let caps = self.capabilities(at)?.unwrap_or(Caps::NONE);
        self.callers.push(Caller::User);
        self.script.users.push(name);
        self.script.host.add_process(Uid(uid), caps);
        Ok(())
    }

    /// `port NAME`, `port NAME = NUMBER`, `port NAME of LABEL`.
    pub(super) fn port(&mut self, at: &mut Cursor<'_>) -> Result<Option<Action>, Problem> {
        let here = at.at;
        let name = at.name("a port's name")?;
        if name.starts_with(|c: char| c.is_ascii_digit()) || name == "any" {
            return Err(at.line.problem(
                here,
                "a port's name begins with a letter and is not `any`",
                "",
            ));
        }
        let known = self.script.ports.iter().position(|port| port.0 == name);
        if at.take("of") {
            let slot = self.label(at)?;
            let port = known.unwrap_or(self.script.ports.len());
            if known.is_none() {
                self.script.ports.push((name, 0));
            }
            return Ok(Some(Action::PortOf { port, slot }));
        }
        if known.is_some() {
            return Err(at.line.problem(
                here,
                format!("port `{name}` has a number already"),
                "remove this",
            ));
        }
        let number = if at.take("=") {
            let here = at.at;
            let number = at
                .next()
                .and_then(|word| word.parse::<u16>().ok())
                .filter(|&port| port > 0);
            number.ok_or_else(|| {
                at.line
                    .problem(here, "a port is a number from 1 to 65535", "")
            })?
        } else {
            while self
                .script
                .ports
                .iter()
                .any(|port| port.1 == self.next_port)
            {
                self.next_port += 1;
            }
            self.next_port
        };
        self.script.ports.push((name, number));
        Ok(None)
    }

    /// `sysctl NAME [inside NAMESPACE] = VALUE`; after the first socket, or with an expectation, it is a
    /// step.
    pub(super) fn sysctl(&mut self, at: &mut Cursor<'_>) -> Result<Option<Action>, Problem> {
        let here = at.at;
        let name = at.next().unwrap_or("");
        let Some(sysctl) = Sysctl::find(name) else {
            let names = Sysctl::ALL.iter().map(|sysctl| sysctl.name);
            let several = names
                .clone()
                .filter(|known| known.rsplit('.').next() == Some(name));
            let several: Vec<&str> = several.collect();
            if !several.is_empty() {
                let message = format!("{} sysctls end in `{name}`", several.len());
                let label = format!("write `{}`", several.join("` or `"));
                return Err(at.line.problem(here, message, label));
            }
            let last_parts = names.clone().filter_map(|name| name.rsplit('.').next());
            let label = did_you_mean(name, names.chain(last_parts));
            return Err(at.line.problem(
                here,
                format!("no sysctl `{name}` decides anything here"),
                label,
            ));
        };
        let net = self.inside(at)?;
        at.must("=", "sysctl NAME = VALUE")?;
        let value_at = at.at;
        let value = sysctl_value(at);
        let mut trial = self.script.host.namespaces[usize::from(net.0)]
            .sysctls
            .clone();
        let kernel = self.script.host.kernel;
        let is_step = self.begun || at.peek() == Some("->");
        let written = sysctl.write(kernel, &mut trial, &value, &mut NoTrace);
        if !FIN_TIMEOUTS.contains(&trial.tcp_fin_timeout) {
            let message = "a tcp_fin_timeout of more than 60 s, or of none, is not modelled";
            return Err(at.line.problem(value_at, message, "see gaps.toml"));
        }
        // A write that is refused is for scenarios about that.
        if let (Err(errno), false) = (written, is_step) {
            let message = format!("{} does not take `{value}`: {errno}", sysctl.name);
            let example = format!("for example {}", sysctl.show(&trial));
            return Err(at.line.problem(value_at, message, example));
        }
        if is_step {
            return Ok(Some(Action::Sysctl(sysctl, net, value)));
        }
        self.script.host.namespaces[usize::from(net.0)].sysctls = trial;
        self.script.set.push((net, sysctl.name));
        Ok(None)
    }
}

/// The seconds that the model knows, of `tcp_fin_timeout`.
const FIN_TIMEOUTS: std::ops::RangeInclusive<u32> = 1..=60;

/// Everything up to `->`: blanks between words, none beside a comma, which no sysctl takes.
fn sysctl_value(at: &mut Cursor<'_>) -> String {
    let mut value = String::new();
    while let Some(word) = at.peek().filter(|&word| word != "->") {
        if !value.is_empty() && word != "," && !value.ends_with(',') {
            value.push(' ');
        }
        value.push_str(word);
        at.at += 1;
    }
    value
}

/// `= ADDRESS/PREFIX [tentative], …`, or nothing.
fn addresses(at: &mut Cursor<'_>, interface: &mut Interface) -> Result<(), Problem> {
    if !at.take("=") {
        return Ok(());
    }
    loop {
        let here = at.at;
        let Some((ip, prefix)) = at.next().and_then(with_prefix) else {
            return Err(at.line.problem(
                here,
                "an address and its prefix are missing",
                "192.0.2.7/24",
            ));
        };
        match ip {
            IpAddr::V4(ip) => interface.v4.push((ip, prefix)),
            IpAddr::V6(addr) => {
                let tentative = at.take("tentative");
                interface.v6.push(Addr6 {
                    addr,
                    prefix,
                    tentative,
                });
            }
        }
        if !at.take(",") {
            return Ok(());
        }
    }
}

fn with_prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, prefix) = text.split_once('/')?;
    let prefix = prefix.parse::<u8>().ok()?;
    if let Ok(ip) = ip.parse::<Ipv4Addr>() {
        return (prefix <= 32).then_some((IpAddr::V4(ip), prefix));
    }
    let ip = ip.parse::<Ipv6Addr>().ok()?;
    (prefix <= 128).then_some((IpAddr::V6(ip), prefix))
}
