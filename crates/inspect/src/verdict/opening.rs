//! What somebody would do to open a port: a socket, its options, bind, listen.
//!
//! Decides:  the order of the calls; what an interface's name is for the model.
//! Not here: what comes of it (the parent).

use std::net::{IpAddr, SocketAddr};

use portcullis_kernel_model::{Call, Family, Opt, SockAddr, Uid};

use crate::snapshot::Snapshot;

/// No interface has this number: it stands for a name that is not there.
const NO_DEVICE: u32 = i32::MAX as u32;

/// A port that is to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// Where; port 0 leaves the choice to the kernel.
    pub at: SocketAddr,
    /// The socket's family: an IPv6 socket can take an IPv4-mapped address too.
    pub family: Family,
    /// The options that are set before `bind`, in order.
    pub options: Vec<Opt>,
    /// The user that the socket is given to before `bind` (`fchown`).
    pub owner: Option<Uid>,
    /// The backlog of `listen`; without it, `bind` is all.
    pub backlog: Option<i32>,
}

impl Opening {
    /// A listener without options.
    #[must_use]
    pub fn new(at: SocketAddr) -> Opening {
        let family = match at.ip() {
            IpAddr::V4(_) => Family::Inet,
            IpAddr::V6(_) => Family::Inet6,
        };
        Opening {
            at,
            family,
            options: Vec::new(),
            owner: None,
            backlog: Some(4096),
        }
    }

    /// The option that binds to an interface of the snapshot's first namespace, by its name.
    #[must_use]
    pub fn device(snapshot: &Snapshot, name: &str) -> Opt {
        Opt::BindToDevice(Opening::index(snapshot, name).unwrap_or(NO_DEVICE))
    }

    /// The number of an interface of the snapshot's first namespace, by its name.
    #[must_use]
    pub fn index(snapshot: &Snapshot, name: &str) -> Option<u32> {
        let net = snapshot.namespaces.first();
        let mut all = net.into_iter().flat_map(|net| &net.interfaces);
        let known = all.find(|device| device.name == name);
        known.map(|device| device.index)
    }

    /// The address as `bind` takes it.
    #[must_use]
    pub fn address(&self) -> SockAddr {
        let mut address = SockAddr::new(self.at.ip(), self.at.port());
        if let SocketAddr::V6(at) = self.at {
            address.scope = at.scope_id();
        }
        address
    }

    /// All calls on the new socket, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let mut calls: Vec<Call> = self.options.iter().map(|&opt| Call::Set(opt)).collect();
        calls.extend(self.owner.map(Call::Fchown));
        calls.push(Call::Bind(self.address()));
        calls.extend(self.backlog.map(Call::Listen));
        calls
    }
}
