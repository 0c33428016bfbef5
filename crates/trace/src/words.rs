//! Calls and errors in words and in the record's terms.
//!
//! Decides:  how an address, an option and its value are written; what an error means by itself.
//! Source:   bind(2), unix(7), socket(7)
//! Not here: what a call means for other sockets (explain.rs).

use crate::call::{Address, Call};
use crate::facts::Peek;
use crate::record::{Family, OptionSet, Setting, What};
use crate::recorder::Made;

/// Devices are chosen by these.
pub(crate) const DEVICE_OPTIONS: [&str; 2] = ["SO_BINDTODEVICE", "SO_BINDTOIFINDEX"];

/// A call as the record keeps it.
pub(crate) fn what(made: &Made<'_>) -> What {
    let port = |peek: &Option<Peek>| peek.as_ref().map_or(0, Peek::port);
    let had_no_port = port(&made.before) == 0;
    let chosen = Some(port(&made.after)).filter(|&port| port != 0 && had_no_port);
    match made.call {
        Call::Bind { address, .. } => {
            let (argument, asked) = match address {
                Address::Inet(argument) => (Some(*argument), argument.port),
                _ => (None, 0),
            };
            What::Bind {
                address: address_text(address),
                argument,
                chosen: chosen.filter(|_| asked == 0),
            }
        }
        Call::Listen { backlog, .. } => What::Listen {
            backlog: *backlog,
            limit: made.after.as_ref().and_then(|after| after.limit),
            chosen,
        },
        Call::SetOption {
            level,
            number,
            value,
            ..
        } => {
            let option = option_name(*level, *number);
            let of_device = DEVICE_OPTIONS.contains(&option.as_str());
            let device = made
                .after
                .as_ref()
                .filter(|_| of_device)
                .map(|after| after.device);
            What::SetOption(OptionSet {
                option,
                level: *level,
                number: *number,
                value: value
                    .as_deref()
                    .and_then(|bytes| setting(*level, *number, bytes)),
                device,
            })
        }
        // Only the three above are calls on a socket.
        _ => What::Listen {
            backlog: 0,
            limit: None,
            chosen: None,
        },
    }
}

/// The argument of bind, as a person writes it.
pub(crate) fn address_text(address: &Address) -> String {
    match address {
        Address::Inet(argument) => {
            let port = argument.port;
            let named = match argument.ip {
                std::net::IpAddr::V4(ip) => format!("{ip}:{port}"),
                std::net::IpAddr::V6(ip) if argument.scope != 0 => {
                    format!("[{ip}%{}]:{port}", argument.scope)
                }
                std::net::IpAddr::V6(ip) => format!("[{ip}]:{port}"),
            };
            match argument.family {
                0 => format!("{named} (AF_UNSPEC)"),
                _ => named,
            }
        }
        Address::Unix(name) => match name.split_first() {
            Some((0, rest)) => format!("unix:@{}", String::from_utf8_lossy(rest)),
            _ => format!("unix:{}", String::from_utf8_lossy(name)),
        },
        Address::Other(family) => format!("an address of family {family}"),
        Address::Unreadable { len } => format!("an address of {len} bytes that cannot be read"),
    }
}

pub(crate) fn family(domain: i32) -> Family {
    match domain {
        libc::AF_INET6 => Family::Inet6,
        _ => Family::Inet,
    }
}

pub(crate) fn protocol(peek: &Peek) -> String {
    match peek.protocol {
        libc::IPPROTO_TCP => "tcp".to_owned(),
        libc::IPPROTO_UDP => "udp".to_owned(),
        libc::IPPROTO_MPTCP => "mptcp".to_owned(),
        libc::IPPROTO_SCTP => "sctp".to_owned(),
        other => format!("protocol {other}"),
    }
}

/// The C name of an option.
pub(crate) fn option_name(level: i32, number: i32) -> String {
    let known = portcullis_sockopt::all().iter();
    let mut same = known.filter(|option| option.level.number() == level && option.number == number);
    if let Some(option) = same.next() {
        return option.name.to_owned();
    }
    // Options that no listener of ours sets.
    let name = match (level, number) {
        (libc::SOL_SOCKET, 62) => "SO_BINDTOIFINDEX",
        (libc::SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_EBPF) => "SO_ATTACH_REUSEPORT_EBPF",
        (libc::SOL_SOCKET, libc::SO_DETACH_REUSEPORT_BPF) => "SO_DETACH_REUSEPORT_BPF",
        (libc::SOL_SOCKET, libc::SO_BROADCAST) => "SO_BROADCAST",
        (libc::SOL_SOCKET, libc::SO_REUSEADDR) => "SO_REUSEADDR",
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER) => "IP_MTU_DISCOVER",
        (libc::IPPROTO_TCP, libc::TCP_REPAIR) => "TCP_REPAIR",
        _ => return format!("level {level} option {number}"),
    };
    name.to_owned()
}

/// An option's value as a person reads it.
pub(crate) fn setting(level: i32, number: i32, bytes: &[u8]) -> Option<Setting> {
    let texts = [
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE),
        (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    ];
    if texts.contains(&(level, number)) {
        let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
        return Some(Setting::Text(
            String::from_utf8_lossy(&bytes[..end]).into_owned(),
        ));
    }
    Some(match *bytes {
        [a, b, c, d] => Setting::Int(i32::from_ne_bytes([a, b, c, d])),
        // A byte is enough for the options of IPv4.
        [byte] => Setting::Int(i32::from(byte)),
        _ => Setting::Text(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
    })
}

/// What an error means for a Unix socket's name, and what to do.
pub(crate) fn unix_text(name: &[u8], errno: i32) -> Option<(&'static str, &'static str)> {
    let is_abstract = name.first() == Some(&0);
    Some(match errno {
        libc::EADDRINUSE if is_abstract => (
            "another socket of this network namespace has the abstract name, and is not closed",
            "see who: ss -xap",
        ),
        libc::EADDRINUSE => (
            "a file of this name exists; a Unix socket's file stays when its server ends",
            "remove the file if nobody listens on it: ss -lx",
        ),
        libc::EACCES => (
            "the directory may not be written to or searched",
            "give the user a directory of its own",
        ),
        libc::ENOENT => ("the directory is not there", "make the directory first"),
        libc::EROFS => ("the file system is read-only", "use a directory under /run"),
        libc::EINVAL => (
            "the name is longer than 108 bytes, or the socket has one already",
            "use a shorter path, or a new socket",
        ),
        _ => return None,
    })
}

/// What an error means whoever else is there, where no rule was found.
pub(crate) fn plain_text(errno: i32) -> Option<(&'static str, &'static str)> {
    Some(match errno {
        libc::EBADF => (
            "the descriptor is not open",
            "call it before the socket is closed",
        ),
        libc::ENOTSOCK => (
            "the descriptor is no socket",
            "pass the socket's descriptor",
        ),
        libc::EFAULT => (
            "the argument's memory cannot be read",
            "pass a valid pointer",
        ),
        libc::EADDRINUSE => (
            "no socket of this program explains it: another program holds the port, or what is left of a connection does",
            "see who: ss -tanpe",
        ),
        _ => return None,
    })
}
