//! What compiling asks the host: names, users, groups, processors.
//!
//! Decides:  that the first address of the wanted family is taken, as HAProxy does.
//! Source:   HAProxy's `str2ip2()` (tools.c): getaddrinfo(3), first usable answer.
//! Not here: resolving again while running.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};

use portcullis_config::model::{Family, Host};

/// The host as compiling sees it. Tests give their own.
pub trait Lookup {
    /// The address of `name` in `family`, or why there is none, in words.
    fn address(&self, name: &str, family: Family) -> Result<IpAddr, String>;
    /// The user's id, or `None` where there is no such user.
    fn user(&self, name: &str) -> Result<Option<u32>, String>;
    /// The group's id.
    fn group(&self, name: &str) -> Result<Option<u32>, String>;
    /// The processors that this process may run on.
    fn cpus(&self) -> Vec<u32>;
}

/// The real host. A name is asked for once.
#[derive(Debug, Default)]
pub struct HostLookup {
    answers: RefCell<BTreeMap<String, Result<Vec<IpAddr>, String>>>,
}

impl HostLookup {
    fn all(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        if let Some(known) = self.answers.borrow().get(name) {
            return known.clone();
        }
        let answer = match (name, 0u16).to_socket_addrs() {
            Ok(addresses) => Ok(addresses.map(|a| a.ip()).collect()),
            Err(error) => Err(plain(&error)),
        };
        self.answers
            .borrow_mut()
            .insert(name.to_owned(), answer.clone());
        answer
    }
}

/// The resolver's words without the standard library's preamble.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.strip_prefix("failed to lookup address information: ")
        .unwrap_or(&text)
        .to_lowercase()
}

impl Lookup for HostLookup {
    fn address(&self, name: &str, family: Family) -> Result<IpAddr, String> {
        let all = self.all(name)?;
        all.iter()
            .copied()
            .find(|ip| in_family(*ip, family))
            .ok_or_else(|| match family {
                Family::V4 => "it has no IPv4 address".to_owned(),
                Family::V6 => "it has no IPv6 address".to_owned(),
                Family::Any => "it has no address".to_owned(),
            })
    }

    fn user(&self, name: &str) -> Result<Option<u32>, String> {
        portcullis_sys::process::user_by_name(name)
            .map(|found| found.map(|user| user.uid))
            .map_err(|error| error.to_string())
    }

    fn group(&self, name: &str) -> Result<Option<u32>, String> {
        portcullis_sys::process::group_by_name(name).map_err(|error| error.to_string())
    }

    fn cpus(&self) -> Vec<u32> {
        let Ok(set) = rustix::thread::sched_getaffinity(None) else {
            return vec![0];
        };
        let most = rustix::thread::CpuSet::MAX_CPU;
        (0..most)
            .filter(|&cpu| set.is_set(cpu))
            .map(|cpu| cpu as u32)
            .collect()
    }
}

/// Is this address what the file asked for?
pub(super) fn in_family(ip: IpAddr, family: Family) -> bool {
    match family {
        Family::Any => true,
        Family::V4 => ip.is_ipv4(),
        Family::V6 => ip.is_ipv6(),
    }
}

/// The address of a host that may be a name; the error is a sentence about the name.
pub(crate) fn host(host: &Host, lookup: &dyn Lookup) -> Result<IpAddr, String> {
    match host {
        Host::Address(ip) => Ok(*ip),
        Host::Name(name, family) => lookup
            .address(name, *family)
            .map_err(|why| format!("cannot resolve `{name}`: {why}")),
    }
}
