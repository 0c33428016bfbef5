//! Who has what no TCP listener has: a port of UDP, a Unix socket's file that nobody listens on.
//!
//! Decides:  which sockets' addresses meet another one's; that an owner who cannot be seen is still one.
//! Kernel:   net/ipv4/udp.c, udp_lib_get_port(), inet_rcv_saddr_equal(): a wildcard meets every address of its
//!           family, IPv6's IPv4's too unless it has IPV6_V6ONLY
//! Not here: whether SO_REUSEADDR or SO_REUSEPORT lets them share it: the kernel has said no.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::diag;
use crate::owners::Owners;
use crate::place::{Caller, PROC, Place, caller, main_namespace};
use crate::plain::make_plain;
use crate::process::process;
use crate::snapshot::{Drops, Holder as Descriptor, Namespace, Snapshot, Socket, Sysctls};
use crate::verdict::Holder;

/// Those whose UDP sockets an address meets, in the network namespace of a process.
///
/// # Errors
///
/// Where the process has gone, its namespace may not be entered, or the kernel does not list UDP sockets.
pub fn datagram_holders(pid: u32, at: SocketAddr) -> io::Result<Vec<Holder>> {
    let (inode, mut sockets) = in_network_of(pid, || diag::datagrams(at.port()))?;
    sockets.retain(|socket| meets(socket, at));
    let mut snapshot = Snapshot::new();
    let owners = owners(sockets.iter().map(|socket| socket.inode))?;
    for socket in &mut sockets {
        socket.holders = holders(&owners, socket.inode, &mut snapshot);
    }
    make_plain(&mut snapshot);
    let net = Namespace::of_sockets(inode, sockets);
    let sockets = net.sockets.iter();
    Ok(sockets
        .map(|socket| Holder::of(&snapshot, &net, socket))
        .collect())
}

/// Those whose Unix sockets are bound to the file at a path and do not listen, in the network namespace of a
/// process: a snapshot of them and their holders, and of nothing else.
///
/// # Errors
///
/// As [`datagram_holders`].
pub fn bound_to_file(pid: u32, path: &Path) -> io::Result<Snapshot> {
    let (inode, mut sockets) = in_network_of(pid, diag::unix_bound)?;
    sockets.retain(|socket| socket.is_at(path));
    let mut snapshot = Snapshot::new();
    let owners = owners(sockets.iter().map(|socket| socket.inode))?;
    for socket in &mut sockets {
        socket.holders = holders(&owners, socket.inode, &mut snapshot);
    }
    let mut net = Namespace::of_sockets(inode, Vec::new());
    net.unix = sockets;
    snapshot.namespaces.push(net);
    make_plain(&mut snapshot);
    Ok(snapshot)
}

/// Reads in the network namespace of a process, and tells its number.
fn in_network_of<T: Send>(
    pid: u32,
    read: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<(u64, T)> {
    let asking = caller(&Caller::Process(pid))?;
    let place = main_namespace(&Place::Here, &asking)?;
    let found = match &place.file {
        None => read(),
        Some(file) => std::thread::scope(|scope| {
            let done = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                read()
            });
            let failed = |_| Err(io::Error::other("the reading thread ended"));
            done.join().unwrap_or_else(failed)
        }),
    };
    Ok((place.inode, found?))
}

fn owners(inodes: impl Iterator<Item = u64>) -> io::Result<Owners> {
    let mut inodes: Vec<u64> = inodes.collect();
    inodes.sort_unstable();
    match inodes.is_empty() {
        true => Ok(Owners::default()),
        false => Owners::read(Path::new(PROC), &inodes),
    }
}

/// Who has a socket; their processes become known to the snapshot.
fn holders(owners: &Owners, inode: u64, snapshot: &mut Snapshot) -> Vec<Descriptor> {
    let found = owners.by_inode.get(&inode).cloned().unwrap_or_default();
    for holder in &found {
        if snapshot.process(holder.pid).is_none() {
            let known = process(Path::new(PROC), holder.pid);
            snapshot.processes.extend(known);
        }
    }
    found
}

impl Namespace {
    /// A namespace of which no more than some sockets is known.
    fn of_sockets(inode: u64, sockets: Vec<Socket>) -> Namespace {
        Namespace {
            inode,
            names: Vec::new(),
            user_namespace: None,
            owner_outside: None,
            sysctls: Sysctls::default(),
            interfaces: Vec::new(),
            local_routes: None,
            other_routes: None,
            without_routes4: false,
            sockets,
            buckets: Vec::new(),
            groups: Vec::new(),
            unix: Vec::new(),
            drops: Drops::default(),
        }
    }
}

/// Whether what is sent to one could be meant for the other.
fn meets(socket: &Socket, at: SocketAddr) -> bool {
    let (own, other) = (socket.local.ip(), at.ip());
    let wild = |ip: IpAddr| ip.is_unspecified();
    let both = |ip: IpAddr| wild(ip) && ip.is_ipv6() && socket.options.v6only != Some(true);
    if own.is_ipv4() == other.is_ipv4() {
        return own == other || wild(own) || wild(other);
    }
    both(own) || (wild(other) && other.is_ipv6()) || own.to_canonical() == other.to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn addresses_meet_as_the_kernel_lets_them() {
        for (own, v6only, asked, expected) in [
            ("127.0.0.1:5", None, "127.0.0.1:5", true),
            ("127.0.0.1:5", None, "127.0.0.2:5", false),
            ("127.0.0.1:5", None, "0.0.0.0:5", true),
            ("0.0.0.0:5", None, "127.0.0.1:5", true),
            ("[::]:5", Some(false), "127.0.0.1:5", true),
            ("[::]:5", Some(true), "127.0.0.1:5", false),
            ("[::1]:5", Some(false), "127.0.0.1:5", false),
            ("127.0.0.1:5", None, "[::]:5", true),
            ("[::ffff:127.0.0.1]:5", Some(false), "127.0.0.1:5", true),
        ] {
            let mut socket = Socket::unknown(own.parse().unwrap());
            socket.options.v6only = v6only;
            let asked = asked.parse().unwrap();
            assert_eq!(meets(&socket, asked), expected, "{own} {asked}");
        }
    }

    #[test]
    fn who_has_a_udp_port_is_found_with_its_descriptor() {
        use std::os::fd::AsRawFd as _;
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let found = datagram_holders(std::process::id(), at).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        let one = &found[0].processes[0];
        assert_eq!(one.pid, std::process::id());
        assert_eq!(one.descriptors, [socket.as_raw_fd() as u32]);
        assert_eq!(found[0].what, format!("bound to {at}"));
        let other = SocketAddr::new("127.0.0.2".parse().unwrap(), at.port());
        assert!(
            datagram_holders(std::process::id(), other)
                .unwrap()
                .is_empty()
        );
    }
}
