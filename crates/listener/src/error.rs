//! What went wrong, as facts: reports of what was refused, errors of what did not open.
//!
//! Decides:  which facts a refusal carries, and the one line that a user reads.
//! Source:   HAProxy's `message [ADDR:PORT]`, with the cause behind it.
//! Not here: which refusal is an error (step.rs); who holds the port and why (the binary asks
//!           `inspect`).

use std::fmt;
use std::net::SocketAddr;

use portcullis_sys::errno;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::activation::ActivationFault;
use crate::address::LocalAddress;
use crate::inherited::InheritedFault;
use crate::shards::NotSharded;
use crate::spec::Address;
use crate::step::{Step, Strict};
use crate::{Flags, ListenerSpec};

/// What stopped a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// The kernel's error number.
    Errno(i32),
    /// The descriptor does not fit the limit.
    DescriptorLimit {
        /// The descriptor.
        descriptor: i32,
        /// The first number that is too large.
        limit: u64,
    },
    /// What is wrong with an inherited descriptor.
    Inherited(InheritedFault),
    /// What is wrong with the sockets that systemd passed.
    Activation(ActivationFault),
    /// The option has no meaning for this kind of socket.
    NotApplicable {
        /// The kind, like `a Unix socket`.
        to: String,
    },
    /// An inherited socket is bound to another device than asked for.
    InterfaceDiffers {
        /// The socket's device; empty is every device.
        has: String,
        /// The device asked for.
        wants: String,
    },
    /// A sysctl makes the option ineffective.
    Sysctl {
        /// Its name, with dots.
        name: String,
        /// Its value.
        value: i64,
        /// What it should be, in words.
        needs: String,
    },
    /// The kernel cuts the backlog.
    BacklogCut {
        /// What was asked for.
        asked: u32,
        /// `net.core.somaxconn`.
        limit: u32,
    },
    /// A TCP-MD5 key without a secret: to the kernel it means to take the peers' key away.
    EmptySecret,
    /// Two TCP-MD5 secrets for the same peers, of which the kernel would keep the second.
    SamePeers {
        /// The peers, like `10.0.0.0/8`.
        peers: String,
    },
    /// Why one socket serves in place of several.
    NotSharded(NotSharded),
    /// The path of a Unix socket is too long.
    PathTooLong {
        /// Its length in bytes.
        length: usize,
        /// The longest that can be bound.
        max: usize,
    },
    /// Something that is not a socket is at the path; it is left alone.
    NotASocket {
        /// Where.
        path: String,
    },
    /// The path was taken from an old socket.
    Replaced {
        /// Was the old socket still open somewhere?
        live: bool,
    },
    /// The path is in the set already.
    UsedTwice {
        /// Index of the specification that has it.
        by: usize,
    },
}

impl Cause {
    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Cause::Errno(errno) => Some(*errno),
            Cause::Inherited(fault) => fault.errno(),
            _ => None,
        }
    }
}

impl From<Errno> for Cause {
    fn from(errno: Errno) -> Self {
        Cause::Errno(errno.raw_os_error())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Errno(number) => f.write_str(&errno::describe(*number)),
            Cause::DescriptorLimit { descriptor, limit } => {
                write!(f, "descriptor {descriptor} is beyond the limit of {limit}")
            }
            Cause::Inherited(fault) => fault.fmt(f),
            Cause::Activation(fault) => fault.fmt(f),
            Cause::NotApplicable { to } => write!(f, "it has no meaning for {to}"),
            Cause::InterfaceDiffers { has, wants } if has.is_empty() => {
                write!(f, "the socket is open on every device, not only on {wants}")
            }
            Cause::InterfaceDiffers { has, wants } => {
                write!(f, "the socket is bound to {has}, not to {wants}")
            }
            Cause::Sysctl { name, value, needs } => {
                write!(f, "no effect while {name} is {value}; it needs {needs}")
            }
            Cause::BacklogCut { asked, limit } => write!(
                f,
                "the backlog of {asked} is cut to net.core.somaxconn, {limit}"
            ),
            Cause::EmptySecret => f.write_str("a key without a secret protects nothing"),
            Cause::SamePeers { peers } => write!(f, "there are two secrets for {peers}"),
            Cause::NotSharded(why) => why.fmt(f),
            Cause::PathTooLong { length, max } => {
                write!(f, "the path is {length} bytes long, more than {max}")
            }
            Cause::NotASocket { path } => {
                write!(f, "{path} exists and is not a socket; it is left alone")
            }
            Cause::Replaced { live: true } => {
                f.write_str("it took the path from a socket that is still open")
            }
            Cause::Replaced { live: false } => f.write_str("it took the path of a dead socket"),
            Cause::UsedTwice { .. } => f.write_str("another listener of the set has it"),
        }
    }
}

/// One refusal, or one fact worth knowing, about one listener.
///
/// Flags say how loud it is: [`Flags::ALERT`], [`Flags::WARN`], or neither for a note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// Index of the specification in its set.
    pub spec: usize,
    /// The specification's name; may be empty.
    pub name: String,
    /// The address that was asked for.
    pub address: Address,
    /// The address that an inherited socket turned out to have.
    pub local: Option<LocalAddress>,
    /// The number of the inherited descriptor, where it is one.
    pub inherited: Option<i32>,
    /// Which of the specification's sockets, from 0.
    pub shard: u16,
    /// The step.
    pub step: Step,
    /// What stopped it.
    pub cause: Cause,
    /// How bad it is.
    pub flags: Flags,
    /// The words for the step, where the step's own do not fit.
    pub message: Option<String>,
}

impl Report {
    pub(crate) fn new(spec: &ListenerSpec, index: usize, step: Step, cause: Cause) -> Self {
        Report {
            spec: index,
            name: spec.name.clone(),
            address: spec.address.clone(),
            local: None,
            inherited: None,
            shard: 0,
            step,
            cause,
            flags: step.flags(Strict::from(spec.strict)),
            message: None,
        }
    }

    /// The same fact as a note: nothing was refused.
    pub(crate) fn into_note(mut self, message: &str) -> Self {
        self.flags = Flags::empty();
        self.message = Some(message.to_owned());
        self
    }

    /// What could be done about it.
    pub fn hints(&self) -> Vec<Hint> {
        hints(self)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = self.message.as_deref().unwrap_or(self.step.info().message);
        let (address, cause) = (&self.address, &self.cause);
        match (&self.local, address, self.inherited) {
            (Some(local), ..) => write!(f, "{message} [{local}]: {cause}"),
            // A name of systemd's can stand for several.
            (None, Address::Activated(_), Some(number)) => {
                write!(f, "{message} [{address}, fd@{number}]: {cause}")
            }
            (None, ..) => write!(f, "{message} [{address}]: {cause}"),
        }
    }
}

/// Why a listener did not open: the step that failed, and what was refused before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenError {
    report: Box<Report>,
    earlier: Vec<Report>,
}

impl OpenError {
    pub(crate) fn new(report: Report, earlier: Vec<Report>) -> Self {
        OpenError {
            report: Box::new(report),
            earlier,
        }
    }

    /// The failure itself.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What had been refused before, in order.
    pub fn earlier(&self) -> &[Report] {
        &self.earlier
    }

    /// The step that failed.
    pub fn step(&self) -> Step {
        self.report.step
    }

    /// What stopped it.
    pub fn cause(&self) -> &Cause {
        &self.report.cause
    }

    /// The kernel's error number, where there is one.
    pub fn errno(&self) -> Option<i32> {
        self.report.cause.errno()
    }

    /// The address that was asked for.
    pub fn address(&self) -> &Address {
        &self.report.address
    }

    /// The listener's name; may be empty.
    pub fn name(&self) -> &str {
        &self.report.name
    }

    /// Index of the specification in its set.
    pub fn spec(&self) -> usize {
        self.report.spec
    }

    /// How bad it is.
    pub fn flags(&self) -> Flags {
        self.report.flags
    }

    /// What could be done about it.
    pub fn hints(&self) -> Vec<Hint> {
        let mut hints = self.report.hints();
        let foreign_refused = self.earlier.iter().any(|r| r.step == Step::Foreign);
        if foreign_refused && self.errno() == Some(Errno::ADDRNOTAVAIL.raw_os_error()) {
            hints.retain(|hint| *hint != Hint::AddressNotLocal);
            hints.push(Hint::ForeignWasRefused);
        }
        hints
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.report.fmt(f)
    }
}

impl std::error::Error for OpenError {}

impl From<OpenError> for std::io::Error {
    fn from(error: OpenError) -> Self {
        let kind = error.errno().map_or(std::io::ErrorKind::Other, |number| {
            std::io::Error::from_raw_os_error(number).kind()
        });
        std::io::Error::new(kind, error)
    }
}

/// Why a set did not open. Nothing of it is open; what was open before still is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SetError {
    /// One error for each listener that failed in the last try, in the set's order.
    pub errors: Vec<OpenError>,
    /// What was refused or noted about the others.
    pub reports: Vec<Report>,
    /// The flags of all errors and reports together.
    pub flags: Flags,
    /// How many times the set was tried.
    pub tries: u32,
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for SetError {}

impl From<SetError> for std::io::Error {
    fn from(error: SetError) -> Self {
        let kind = error
            .errors
            .first()
            .and_then(OpenError::errno)
            .map_or(std::io::ErrorKind::Other, |number| {
                std::io::Error::from_raw_os_error(number).kind()
            });
        std::io::Error::new(kind, error)
    }
}

/// A way out that follows from the facts of a refusal alone, without looking at the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Hint {
    /// The port is privileged.
    PrivilegedPort,
    /// The directory of a Unix socket does not let this user make a file.
    DirectoryNotWritable,
    /// The name of an abstract Unix socket is in use.
    NameHeld,
    /// A link-local address means nothing without a device.
    LinkLocalNeedsDevice,
    /// The address is in use.
    PortHeld,
    /// The address is not this host's.
    AddressNotLocal,
    /// The address is not this host's, and the option that would allow it was refused.
    ForeignWasRefused,
    /// The process has too few descriptors.
    MoreDescriptors,
    /// There is no such device.
    NoSuchDevice,
    /// The kernel lacks the option.
    NotInThisKernel,
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Hint::PrivilegedPort => {
                "the port needs CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start"
            }
            Hint::DirectoryNotWritable => {
                "this user needs the right to write to the directory, where the socket gets its name"
            }
            Hint::NameHeld => "another socket has the name, and abstract names cannot be shared",
            Hint::LinkLocalNeedsDevice => "a link-local address needs its device (`interface`)",
            Hint::PortHeld => {
                "another socket holds the port; to share it, both need SO_REUSEPORT and one user id"
            }
            Hint::AddressNotLocal => {
                "no device of this host has the address; `transparent` binds to it all the same"
            }
            Hint::ForeignWasRefused => {
                "no device of this host has the address, and the option that allows it was refused"
            }
            Hint::MoreDescriptors => "raise the limit of open files (RLIMIT_NOFILE)",
            Hint::NoSuchDevice => "no network device has this name (`ip link` lists them)",
            Hint::NotInThisKernel => "this kernel does not have the option for such a socket",
        })
    }
}

fn hints(report: &Report) -> Vec<Hint> {
    let Some(errno) = report.cause.errno().map(Errno::from_raw_os_error) else {
        return match report.cause {
            Cause::DescriptorLimit { .. } => vec![Hint::MoreDescriptors],
            _ => Vec::new(),
        };
    };
    let unix = matches!(
        report.address,
        Address::UnixPath(_) | Address::UnixAbstract { .. }
    );
    let hint = match (report.step, errno) {
        (Step::Bind, Errno::ACCESS) if unix => Hint::DirectoryNotWritable,
        (Step::Bind, Errno::ACCESS) => Hint::PrivilegedPort,
        (Step::Bind, Errno::ADDRINUSE) if unix => Hint::NameHeld,
        (Step::Bind, Errno::INVAL) if link_local_alone(&report.address) => {
            Hint::LinkLocalNeedsDevice
        }
        (Step::Bind | Step::Listen, Errno::ADDRINUSE) => Hint::PortHeld,
        (Step::Bind, Errno::ADDRNOTAVAIL) => Hint::AddressNotLocal,
        (Step::Create, Errno::MFILE) => Hint::MoreDescriptors,
        (Step::Interface, Errno::NODEV) => Hint::NoSuchDevice,
        (_, Errno::NOPROTOOPT) => Hint::NotInThisKernel,
        _ => return Vec::new(),
    };
    vec![hint]
}

/// Is it an address of one link (RFC 4291, section 2.5.6) that does not say of which?
fn link_local_alone(address: &Address) -> bool {
    match address {
        Address::Tcp(SocketAddr::V6(v6)) | Address::Mptcp(SocketAddr::V6(v6)) => {
            v6.ip().is_unicast_link_local() && v6.scope_id() == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind_error(address: &str, errno: Errno) -> OpenError {
        let spec = ListenerSpec::tcp(address.parse().unwrap());
        OpenError::new(Report::new(&spec, 0, Step::Bind, errno.into()), Vec::new())
    }

    #[test]
    fn an_error_is_one_lower_case_line_with_address_and_errno() {
        assert_eq!(
            bind_error("0.0.0.0:443", Errno::ADDRINUSE).to_string(),
            "cannot bind socket [0.0.0.0:443]: address already in use (EADDRINUSE)"
        );
    }

    #[test]
    fn hints_follow_from_the_step_and_the_errno() {
        let table = [
            (Errno::ACCESS, Some(Hint::PrivilegedPort)),
            (Errno::ADDRINUSE, Some(Hint::PortHeld)),
            (Errno::ADDRNOTAVAIL, Some(Hint::AddressNotLocal)),
            (Errno::NOBUFS, None),
        ];
        for (errno, hint) in table {
            let hints = bind_error("127.0.0.1:80", errno).hints();
            assert_eq!(hints.first().copied(), hint, "{errno}");
        }
    }

    #[test]
    fn a_unix_socket_has_no_port_to_be_privileged_or_held() {
        let hints = |spec: &ListenerSpec, errno: Errno| {
            Report::new(spec, 0, Step::Bind, errno.into()).hints()
        };
        let path = ListenerSpec::unix("/run/door");
        assert_eq!(hints(&path, Errno::ACCESS), [Hint::DirectoryNotWritable]);
        let name = ListenerSpec::unix_abstract("door");
        assert_eq!(hints(&name, Errno::ADDRINUSE), [Hint::NameHeld]);
    }

    #[test]
    fn only_a_link_local_address_without_its_link_needs_a_device() {
        let table = [
            ("[fe80::1]:80", vec![Hint::LinkLocalNeedsDevice]),
            ("[fe80::1%1]:80", vec![]),
            ("[fd00::1]:80", vec![]),
        ];
        for (address, hints) in table {
            assert_eq!(
                bind_error(address, Errno::INVAL).hints(),
                hints,
                "{address}"
            );
        }
    }

    #[test]
    fn a_bind_that_fails_after_transparent_was_refused_says_so() {
        let spec = ListenerSpec::tcp("192.0.2.1:80".parse().unwrap());
        let refused = Report::new(&spec, 0, Step::Foreign, Errno::PERM.into());
        let failed = Report::new(&spec, 0, Step::Bind, Errno::ADDRNOTAVAIL.into());
        let error = OpenError::new(failed, vec![refused]);
        assert_eq!(error.hints(), vec![Hint::ForeignWasRefused]);
    }

    #[test]
    fn an_error_survives_serialisation_whole() {
        let error = bind_error("[::1]:1", Errno::ACCESS);
        let json = serde_json::to_string(&error).unwrap();
        assert_eq!(serde_json::from_str::<OpenError>(&json).unwrap(), error);
        assert!(json.contains("\"errno\":13"), "{json}");
    }

    #[test]
    fn an_io_error_keeps_the_kind_and_the_line() {
        let error = std::io::Error::from(bind_error("127.0.0.1:80", Errno::ADDRINUSE));
        assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
        assert!(error.to_string().starts_with("cannot bind socket"));
    }
}
