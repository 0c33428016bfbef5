//! The listeners of a snapshot, one row for each that a person would name.
//!
//! Decides:  which sockets make one row (the shards of one SO_REUSEPORT group; TCP below MPTCP), which
//!           connections count as whose, how evenly shards are loaded, how old a listener is at most.
//! Kernel:   net/ipv4/inet_hashtables.c, compute_score(): an exact address before a wildcard; net/mptcp: a
//!           listener of MPTCP has a TCP socket of the same address below it
//! Not here: traps (traps.rs), which rows are shown and how (select.rs, table.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use portcullis_inspect::snapshot::{
    InGroup, Namespace, Process, Protocol, Snapshot, Socket, State, UnixSocket,
};
use serde::Serialize;

/// Clock ticks of a process's start, a second.
const TICKS: u64 = 100;

/// One listener, or the shards of one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// `tcp`, `mptcp` or `unix`.
    pub protocol: &'static str,
    /// The number of its network namespace.
    pub netns: u64,
    /// What that is called, if anything.
    pub netns_name: Option<String>,
    /// Where it listens: address and port, or the path of a Unix socket.
    pub address: String,
    /// The port; none for Unix.
    pub port: Option<u16>,
    /// The device that it is bound to.
    pub device: Option<String>,
    /// Who holds a descriptor; who most likely serves comes first.
    pub owners: Vec<Owner>,
    /// The socket's own user, by number: what SO_REUSEPORT compares.
    pub uid: Option<u32>,
    /// That user's name, for who reads the table where the owner is not seen.
    #[serde(skip)]
    pub user: Option<String>,
    /// Its options. `null`: nobody could tell.
    pub options: Options,
    /// Connections that wait to be accepted: of shards, in the fullest.
    pub queue: u32,
    /// How many may wait there.
    pub limit: u32,
    /// Handshakes that have begun and not ended.
    pub half_open: u32,
    /// Connections that were accepted, and are open.
    pub connections: u64,
    /// Connections that were refused or lost here, since it listens; `null` where the kernel does not tell.
    pub drops: Option<u64>,
    /// How long the oldest of its owners runs, in seconds: it is hardly older.
    pub age_s: Option<u64>,
    /// The shards, where there is more than one.
    pub shards: Vec<Shard>,
    /// How many times its share the busiest shard has of the connections; `null` where they cannot be told
    /// apart, or there are none.
    pub uneven: Option<f64>,
    /// What may surprise.
    pub traps: Vec<Marked>,
    /// The places of its sockets in the snapshot.
    #[serde(skip)]
    pub places: Vec<(usize, usize)>,
    #[serde(skip)]
    pub at: Option<SocketAddr>,
}

/// A process that holds a descriptor of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// The process.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// The descriptor.
    pub fd: u32,
    /// What the program is called.
    pub program: String,
    /// Its command line.
    pub command: Vec<String>,
    /// Its user.
    pub user: Option<String>,
    /// Its systemd unit.
    pub unit: Option<String>,
    /// Its container.
    pub container: Option<String>,
}

/// A listener's options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Options {
    /// `SO_REUSEADDR`.
    pub reuseaddr: Option<bool>,
    /// `SO_REUSEPORT`.
    pub reuseport: Option<bool>,
    /// `IPV6_V6ONLY`; `null` for IPv4, too.
    pub v6only: Option<bool>,
    /// `IP_TRANSPARENT`.
    pub transparent: Option<bool>,
    /// `IP_FREEBIND`.
    pub freebind: Option<bool>,
}

/// One shard of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shard {
    /// The processes that hold it.
    pub pids: Vec<u32>,
    /// Connections that wait in it.
    pub queue: u32,
    /// How many may.
    pub limit: u32,
    /// Connections that it lost.
    pub drops: Option<u32>,
    /// Connections that it took: of its processes; where those hold several shards, of the epoll instances that
    /// hear it. `null` where nothing tells them apart.
    pub connections: Option<u64>,
    #[serde(skip)]
    pub inode: u64,
}

/// A trap that a row is marked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Marked {
    /// The word that `portcullis why WORD` explains.
    pub word: &'static str,
    /// What it is here.
    pub detail: String,
}

/// Whether Unix sockets are wanted too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unix {
    Without,
    With,
}

/// All rows, those of the first namespace first; without traps.
pub fn rows(snapshot: &Snapshot, unix: Unix) -> Vec<Row> {
    let mut rows = Vec::new();
    for (at, namespace) in snapshot.namespaces.iter().enumerate() {
        let mptcp = addresses(namespace, Protocol::Mptcp);
        let mut here: Vec<Row> = grouped(namespace)
            .into_iter()
            .map(|members| row(snapshot, at, &members, &mptcp))
            .collect();
        count(snapshot, at, &mut here);
        rows.extend(here);
        if unix == Unix::With {
            rows.extend(
                namespace
                    .unix
                    .iter()
                    .map(|socket| unix_row(snapshot, namespace, socket)),
            );
        }
    }
    rows
}

/// The listeners of a namespace by what makes them one: the shards of an address.
fn grouped(namespace: &Namespace) -> Vec<Vec<usize>> {
    let listens = |socket: &&Socket| socket.state == State::Listen;
    let below = addresses(namespace, Protocol::Tcp);
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known = BTreeMap::new();
    for (at, socket) in namespace.sockets.iter().enumerate() {
        if !listens(&socket)
            || (socket.protocol == Protocol::Mptcp && below.contains(&socket.local))
        {
            continue;
        }
        let alone = socket.options.reuseport == Some(false);
        let key = (
            socket.local,
            socket.device,
            socket.uid,
            alone.then_some(at),
            socket.protocol == Protocol::Mptcp,
        );
        let group = *known.entry(key).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(at);
    }
    groups
}

/// Where a protocol's listeners are.
fn addresses(namespace: &Namespace, protocol: Protocol) -> BTreeSet<SocketAddr> {
    let sockets = namespace.sockets.iter();
    let listeners = sockets.filter(|one| one.state == State::Listen && one.protocol == protocol);
    listeners.map(|one| one.local).collect()
}

fn row(snapshot: &Snapshot, net: usize, members: &[usize], mptcp: &BTreeSet<SocketAddr>) -> Row {
    let namespace = &snapshot.namespaces[net];
    let sockets: Vec<&Socket> = members.iter().map(|&at| &namespace.sockets[at]).collect();
    let first = sockets[0];
    let owners = owners(snapshot, &sockets);
    let is_mptcp = first.protocol == Protocol::Mptcp || mptcp.contains(&first.local);
    // Of shards that are equally full, the one that may hold least.
    let fullest = sockets.iter().max_by_key(|one| {
        let percent = u64::from(one.receive_queue) * 100 / u64::from(one.send_queue).max(1);
        (percent, std::cmp::Reverse(one.send_queue))
    });
    let (queue, limit) = fullest.map_or((0, 0), |one| (one.receive_queue, one.send_queue));
    let known: Vec<u64> = sockets
        .iter()
        .filter_map(|one| one.drops.map(u64::from))
        .collect();
    Row {
        protocol: if is_mptcp { "mptcp" } else { "tcp" },
        netns: namespace.inode,
        netns_name: namespace.names.first().cloned(),
        address: first.local.to_string(),
        port: Some(first.local.port()),
        device: device(namespace, first.device),
        age_s: age(snapshot, &owners),
        owners,
        uid: first.uid,
        user: first.uid.and_then(|uid| snapshot.user_name(uid)),
        options: Options {
            reuseaddr: same(&sockets, |options| options.reuseaddr),
            reuseport: same(&sockets, |options| options.reuseport),
            v6only: first
                .local
                .is_ipv6()
                .then_some(first.options.v6only)
                .flatten(),
            transparent: first.options.transparent,
            freebind: first.options.freebind,
        },
        queue,
        limit,
        half_open: 0,
        connections: 0,
        drops: (!known.is_empty()).then(|| known.iter().sum()),
        shards: if sockets.len() > 1 {
            sockets.iter().map(|one| shard(one)).collect()
        } else {
            Vec::new()
        },
        uneven: None,
        traps: Vec::new(),
        places: members.iter().map(|&at| (net, at)).collect(),
        at: Some(first.local),
    }
}

fn same(
    sockets: &[&Socket],
    of: impl Fn(&portcullis_inspect::snapshot::Options) -> Option<bool>,
) -> Option<bool> {
    sockets.iter().find_map(|socket| of(&socket.options))
}

fn device(namespace: &Namespace, index: u32) -> Option<String> {
    if index == 0 {
        return None;
    }
    let mut all = namespace.interfaces.iter();
    let known = all.find(|one| one.index == index);
    Some(known.map_or_else(|| format!("interface {index}"), |one| one.name.clone()))
}

fn shard(socket: &Socket) -> Shard {
    let mut pids: Vec<u32> = socket.holders.iter().map(|holder| holder.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    Shard {
        pids,
        queue: socket.receive_queue,
        limit: socket.send_queue,
        drops: socket.drops,
        connections: None,
        inode: socket.inode,
    }
}

/// Who holds it, once each: not init before others (it holds what it activates), parents before children.
fn owners(snapshot: &Snapshot, sockets: &[&Socket]) -> Vec<Owner> {
    let holders = sockets.iter().flat_map(|socket| &socket.holders);
    of_holders(snapshot, holders.map(|holder| (holder.pid, holder.fd)))
}

fn of_holders(snapshot: &Snapshot, holders: impl Iterator<Item = (u32, u32)>) -> Vec<Owner> {
    let mut first: BTreeMap<u32, u32> = BTreeMap::new();
    for (pid, fd) in holders {
        let known = first.entry(pid).or_insert(fd);
        *known = fd.min(*known);
    }
    let mut owners: Vec<Owner> = first
        .iter()
        .map(|(&pid, &fd)| owner(pid, fd, snapshot.process(pid)))
        .collect();
    owners.sort_by_key(|owner| {
        (
            owner.pid == 1,
            first.contains_key(&owner.parent) && owner.parent != 1,
            owner.pid,
        )
    });
    owners
}

fn owner(pid: u32, fd: u32, process: Option<&Process>) -> Owner {
    Owner {
        pid,
        fd,
        parent: process.map_or(0, |process| process.parent),
        program: process.map_or_else(|| "?".to_owned(), |process| process.name.clone()),
        command: process
            .map(|process| process.command.clone())
            .unwrap_or_default(),
        user: process.and_then(|process| {
            let number = process.uids.map(|uids| uids[1].to_string());
            process.user.clone().or(number)
        }),
        unit: process.and_then(|process| process.unit.clone()),
        container: process.and_then(|process| process.container.clone()),
    }
}

fn age(snapshot: &Snapshot, owners: &[Owner]) -> Option<u64> {
    let up = snapshot.uptime_ms? / 1000;
    let started = owners
        .iter()
        .filter(|owner| owner.pid != 1 || owners.len() == 1)
        .filter_map(|owner| snapshot.process(owner.pid)?.started)
        .min()?;
    Some(up.saturating_sub(started / TICKS))
}

/// Counts handshakes and connections to the listener that hears them best.
fn count(snapshot: &Snapshot, net: usize, rows: &mut [Row]) {
    let mut by_port: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        if let Some(port) = row.port {
            by_port.entry(port).or_default().push(at);
        }
    }
    let mut holders: BTreeMap<(usize, u32), u64> = BTreeMap::new();
    let heard_by = Instances::of(snapshot);
    let mut instances: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    let mut heard = BTreeMap::new();
    for socket in &snapshot.namespaces[net].sockets {
        if matches!(socket.state, State::Listen | State::Bound | State::TimeWait)
            || socket.protocol == Protocol::Mptcp
        {
            continue;
        }
        let Some(candidates) = by_port.get(&socket.local.port()) else {
            continue;
        };
        // Thousands of connections are to one address.
        let best = *heard.entry(socket.local).or_insert_with(|| {
            let all = candidates.iter();
            let hear = all.filter_map(|&at| Some((rows[at].hears(socket.local)?, at)));
            hear.max_by_key(|&(score, _)| score)
        });
        let Some((_, at)) = best else { continue };
        if socket.state == State::HalfOpen {
            rows[at].half_open += 1;
        } else if socket.inode != 0 && socket.state != State::SynSent {
            rows[at].connections += 1;
            if let Some(holder) = socket.holders.first() {
                *holders.entry((at, holder.pid)).or_default() += 1;
            }
            if let Some(&instance) = heard_by.of_socket(socket.inode).first() {
                *instances.entry((at, instance)).or_default() += 1;
            }
        }
    }
    for (at, row) in rows.iter_mut().enumerate() {
        divide(row, |pid| holders.get(&(at, pid)).copied().unwrap_or(0));
        if row.uneven.is_none() {
            let of = |one: usize| instances.get(&(at, one)).copied().unwrap_or(0);
            divide_by_instances(row, &heard_by, of);
        }
    }
}

/// Epoll instances of the whole snapshot, numbered, by the sockets that they hear.
struct Instances {
    by_socket: BTreeMap<u64, Vec<usize>>,
}

impl Instances {
    fn of(snapshot: &Snapshot) -> Instances {
        let mut by_socket: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        // One that was inherited is told of each process that has it.
        let all: BTreeSet<&Vec<u64>> = (snapshot.processes.iter())
            .flat_map(|process| &process.polls)
            .collect();
        for (number, sockets) in all.into_iter().enumerate() {
            for &inode in sockets.iter().filter(|&&inode| inode != 0) {
                by_socket.entry(inode).or_default().push(number);
            }
        }
        Instances { by_socket }
    }

    fn of_socket(&self, inode: u64) -> &[usize] {
        self.by_socket.get(&inode).map_or(&[], Vec::as_slice)
    }
}

/// Gives each shard the connections that are heard where it is heard, if no place hears two of them, and most
/// connections are heard at such a place.
fn divide_by_instances(row: &mut Row, heard_by: &Instances, of: impl Fn(usize) -> u64) {
    let places = |shard: &Shard| heard_by.of_socket(shard.inode).to_vec();
    let mut seen = BTreeSet::new();
    let apart = row.shards.iter().all(|shard| {
        let places = places(shard);
        !places.is_empty() && places.into_iter().all(|one| seen.insert(one))
    });
    let counted: u64 = seen.into_iter().map(&of).sum();
    if !apart || row.shards.is_empty() || 2 * counted < row.connections {
        return;
    }
    for shard in &mut row.shards {
        shard.connections = Some(places(shard).into_iter().map(&of).sum());
    }
    row.uneven = unevenness(&row.shards);
}

/// How many times its share the busiest shard has, if there are connections.
fn unevenness(shards: &[Shard]) -> Option<f64> {
    let each = shards.iter().filter_map(|shard| shard.connections);
    let (most, all) = (each.clone().max()?, each.sum::<u64>());
    (all > 0).then(|| most as f64 * shards.len() as f64 / all as f64)
}

/// Gives each shard the connections of its processes, where no process has two.
fn divide(row: &mut Row, of: impl Fn(u32) -> u64) {
    let mut seen = BTreeSet::new();
    let apart = row
        .shards
        .iter()
        .all(|shard| !shard.pids.is_empty() && shard.pids.iter().all(|&pid| seen.insert(pid)));
    if !apart || row.shards.is_empty() {
        return;
    }
    for shard in &mut row.shards {
        shard.connections = Some(shard.pids.iter().map(|&pid| of(pid)).sum());
    }
    row.uneven = unevenness(&row.shards);
}

impl Row {
    /// How well it hears what comes to an address; `None` for not at all.
    pub fn hears(&self, at: SocketAddr) -> Option<u8> {
        let own = self.at.filter(|own| own.port() == at.port())?;
        let other = at.ip().to_canonical();
        match own.ip() {
            one if one.to_canonical() == other => Some(3),
            IpAddr::V4(one) if one.is_unspecified() && other.is_ipv4() => Some(2),
            IpAddr::V6(one) if one.is_unspecified() && other.is_ipv6() => Some(2),
            IpAddr::V6(one) if one.is_unspecified() && self.options.v6only != Some(true) => Some(1),
            _ => None,
        }
    }
}

fn unix_row(snapshot: &Snapshot, namespace: &Namespace, socket: &UnixSocket) -> Row {
    let owners = of_holders(
        snapshot,
        socket.holders.iter().map(|holder| (holder.pid, holder.fd)),
    );
    Row {
        protocol: "unix",
        netns: namespace.inode,
        netns_name: namespace.names.first().cloned(),
        // HAProxy fills an abstract name up with NULs.
        address: socket.name.trim_end_matches('\0').to_owned(),
        port: None,
        device: None,
        age_s: age(snapshot, &owners),
        owners,
        uid: socket.uid,
        user: socket.uid.and_then(|uid| snapshot.user_name(uid)),
        options: Options::default(),
        queue: socket.queue,
        limit: socket.backlog,
        half_open: 0,
        connections: 0,
        drops: None,
        shards: Vec::new(),
        uneven: None,
        traps: Vec::new(),
        places: Vec::new(),
        at: None,
    }
}

/// Whether its SO_REUSEPORT group is known to be none.
pub fn outside_groups(socket: &Socket) -> bool {
    socket.group == Some(InGroup::None)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use portcullis_inspect::snapshot::{Drops, Holder, Known, Sysctls};

    /// A listener of a process.
    pub fn listener(at: &str, pid: u32) -> Socket {
        let mut socket = Socket::unknown(at.parse().unwrap());
        socket.state = State::Listen;
        socket.inode = u64::from(pid) * 100 + u64::from(socket.local.port());
        socket.send_queue = 128;
        socket.uid = Some(0);
        socket.drops = Some(0);
        socket.options.reuseaddr = Some(true);
        socket.options.reuseport = Some(false);
        socket.options.v6only = socket.local.is_ipv6().then_some(false);
        socket.holders.push(Holder { pid, fd: 3 });
        socket
    }

    /// The same as one shard of several.
    pub fn shard_of(at: &str, pid: u32) -> Socket {
        let mut socket = listener(at, pid);
        socket.options.reuseport = Some(true);
        socket
    }

    pub fn connection(at: &str, pid: u32) -> Socket {
        let mut socket = listener(at, pid);
        socket.state = State::Established;
        socket.peer = Some("192.0.2.9:5000".parse().unwrap());
        socket
    }

    pub fn process_called(name: &str, pid: u32, parent: u32) -> Process {
        let text = serde_json::json!({
            "pid": pid, "parent": parent, "name": name, "command": [name], "uids": [0, 33, 0, 0],
            "user": "www-data", "started": 1000 * u64::from(pid),
        });
        serde_json::from_value(text).unwrap()
    }

    pub fn host(sockets: Vec<Socket>, processes: Vec<Process>) -> Snapshot {
        let mut snapshot = Snapshot::new();
        snapshot.uptime_ms = Some(100_000);
        snapshot.sources.processes = Known::Yes;
        snapshot.processes = processes;
        snapshot.namespaces.push(Namespace {
            inode: 1,
            names: Vec::new(),
            user_namespace: None,
            owner_outside: Some(false),
            local_routes: None,
            other_routes: None,
            without_routes4: false,
            sysctls: Sysctls::default(),
            interfaces: Vec::new(),
            sockets,
            buckets: Vec::new(),
            groups: Vec::new(),
            unix: Vec::new(),
            drops: Drops::default(),
        });
        snapshot.namespaces[0].sysctls.ip_unprivileged_port_start = Some(1024);
        snapshot
    }

    #[test]
    fn shards_are_one_row_and_others_are_rows_of_their_own() {
        let mut wide = shard_of("0.0.0.0:80", 2);
        (wide.receive_queue, wide.drops) = (100, Some(7));
        let snapshot = host(
            vec![
                shard_of("0.0.0.0:80", 1),
                wide,
                listener("127.0.0.1:80", 3),
                shard_of("0.0.0.0:81", 1),
                connection("192.0.2.1:80", 2),
                connection("192.0.2.1:80", 2),
                connection("192.0.2.1:80", 1),
                connection("127.0.0.1:80", 3),
                connection("192.0.2.1:999", 3),
            ],
            vec![process_called("a", 1, 0), process_called("b", 2, 1)],
        );
        let rows = rows(&snapshot, Unix::Without);
        let told: Vec<(&str, usize, u64)> = rows
            .iter()
            .map(|row| (row.address.as_str(), row.shards.len(), row.connections))
            .collect();
        assert_eq!(
            told,
            [
                ("0.0.0.0:80", 2, 3),
                ("127.0.0.1:80", 0, 1),
                ("0.0.0.0:81", 0, 0)
            ]
        );
        assert_eq!(
            (rows[0].queue, rows[0].limit),
            (100, 128),
            "the fullest shard's"
        );
        assert_eq!(rows[0].drops, Some(7));
        let connections: Vec<_> = rows[0]
            .shards
            .iter()
            .map(|shard| shard.connections)
            .collect();
        assert_eq!(connections, [Some(1), Some(2)]);
        assert_eq!(rows[0].uneven, Some(2.0 * 2.0 / 3.0));
    }

    #[test]
    fn shards_that_one_process_holds_cannot_be_compared() {
        let snapshot = host(
            vec![
                shard_of("0.0.0.0:80", 7),
                shard_of("0.0.0.0:80", 7),
                connection("192.0.2.1:80", 7),
            ],
            vec![process_called("a", 7, 1)],
        );
        let rows = rows(&snapshot, Unix::Without);
        assert_eq!((rows[0].connections, rows[0].uneven), (1, None));
        assert!(
            rows[0]
                .shards
                .iter()
                .all(|shard| shard.connections.is_none())
        );
    }

    #[test]
    fn shards_that_all_are_held_by_all_are_told_apart_by_who_hears_them() {
        let with = |polls: &[&[u64]]| {
            let mut sockets = vec![shard_of("0.0.0.0:80", 7), shard_of("0.0.0.0:80", 7)];
            sockets.extend((0..4).map(|_| connection("192.0.2.1:80", 7)));
            for (at, socket) in sockets.iter_mut().enumerate() {
                socket.inode = at as u64 + 1;
            }
            let mut process = process_called("a", 7, 1);
            process.polls = polls.iter().map(|one| one.to_vec()).collect();
            // A child that inherited one of the instances.
            let mut heir = process_called("b", 8, 7);
            heir.polls = process.polls.iter().take(1).cloned().collect();
            let row = rows(&host(sockets, vec![process, heir]), Unix::Without).remove(0);
            let connections: Vec<_> = row.shards.iter().map(|one| one.connections).collect();
            (connections, row.uneven)
        };
        assert_eq!(
            with(&[&[1, 3, 4, 5], &[2, 6]]),
            (vec![Some(3), Some(1)], Some(1.5))
        );
        let unknown = (vec![None, None], None);
        assert_eq!(with(&[&[1, 2, 3, 4, 5, 6]]), unknown, "one hears both");
        assert_eq!(with(&[&[1, 3, 4]]), unknown, "nobody hears the second");
        assert_eq!(
            with(&[&[1, 3], &[2]]),
            unknown,
            "most connections are heard nowhere"
        );
    }

    #[test]
    fn the_parent_comes_first_init_last_and_the_age_is_the_oldest_servants() {
        let mut socket = listener("[::]:80", 30);
        socket.holders = [1, 40, 30, 40].map(|pid| Holder { pid, fd: pid }).to_vec();
        let snapshot = host(
            vec![socket],
            vec![
                process_called("systemd", 1, 0),
                process_called("nginx", 40, 1),
                process_called("worker", 30, 40),
            ],
        );
        let row = &rows(&snapshot, Unix::Without)[0];
        let pids: Vec<u32> = row.owners.iter().map(|owner| owner.pid).collect();
        assert_eq!(pids, [40, 30, 1]);
        // 100 s up; 30 began 300 s after boot by its ticks, 40 later: none is older than the host.
        assert_eq!(row.age_s, Some(0));
        assert_eq!(row.owners[0].user.as_deref(), Some("www-data"));
    }

    #[test]
    fn a_connection_belongs_to_the_listener_that_hears_it_best() {
        let all = ["[::]:80", "0.0.0.0:80", "127.0.0.1:80", "[::1]:80"];
        let snapshot = host(all.iter().map(|at| listener(at, 1)).collect(), Vec::new());
        let rows = rows(&snapshot, Unix::Without);
        let table = [
            ("127.0.0.1:80", [1, 2, 3, 0]),
            ("[::ffff:127.0.0.1]:80", [1, 2, 3, 0]),
            ("192.0.2.1:80", [1, 2, 0, 0]),
            ("[::1]:80", [2, 0, 0, 3]),
            ("[2001:db8::1]:80", [2, 0, 0, 0]),
            ("192.0.2.1:81", [0, 0, 0, 0]),
        ];
        for (at, scores) in table {
            let at: SocketAddr = at.parse().unwrap();
            let told: Vec<u8> = rows.iter().map(|row| row.hears(at).unwrap_or(0)).collect();
            assert_eq!(told, scores, "{at}");
        }
    }

    #[test]
    fn tcp_below_mptcp_is_one_row() {
        let mut above = listener("0.0.0.0:80", 1);
        above.protocol = Protocol::Mptcp;
        let snapshot = host(vec![listener("0.0.0.0:80", 1), above], Vec::new());
        let rows = rows(&snapshot, Unix::Without);
        assert_eq!((rows.len(), rows[0].protocol), (1, "mptcp"));
    }
}
