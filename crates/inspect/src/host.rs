//! Reads a host into a snapshot.
//!
//! Decides:  what is read first and what may fail: sockets must be told, everything else is written down as
//!           far as it can be read, with the reason where it cannot. Nothing is bound, and no socket of
//!           anybody is changed.
//! Kernel:   setns(2), network_namespaces(7): a thread reads another namespace from inside
//! Not here: each of the readings (diag.rs, iter.rs, getfd.rs, owners.rs, process.rs, links.rs, …).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::read_to_string;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_kernel_model::Change;
use portcullis_sys::netlink::Torn;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::beside;
use crate::diag::{self, Ports};
use crate::getfd;
use crate::iter::Iterators;
use crate::layout::Seen;
use crate::links;
use crate::owners::Owners;
use crate::place::{
    At, Means, Others, PROC, Wanted, caller, has_proc, main_namespace, other_namespaces,
    owner_of_net, uids_are_the_hosts, user_namespaces,
};
use crate::plain;
use crate::polls;
use crate::process::{process, user_name};
use crate::refusers;
use crate::snapshot::{
    Bucket, Group, InGroup, KernelName, Known, Namespace, Options, Process, Snapshot, Socket,
    State, User, Vrf,
};
use crate::sysctls;

const BTF: &str = "/sys/kernel/btf/vmlinux";
/// More network namespaces are not read.
const NAMESPACES_MAX: usize = 4096;
/// More users are not looked up by number: their list may be far away.
const USERS_MAX: usize = 32;
/// The user that stands for one who has no number here.
const OVERFLOW_UID: u32 = 65534;

/// Reads the host.
///
/// # Errors
///
/// Where sockets cannot be listed, the namespace or the caller is not there, or may not be entered.
pub fn read(wanted: &Wanted) -> io::Result<Snapshot> {
    let mut snapshot = Snapshot::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    snapshot.taken = now.map_or(0, |now| now.as_secs());
    snapshot.uptime_ms = uptime_ms();
    snapshot.kernel = kernel_name();
    let caller = caller(&wanted.caller)?;
    snapshot.caller = caller.pid;
    let main = main_namespace(&wanted.place, &caller)?;
    if !has_proc() {
        let what = "there is no /proc: no process is seen, and no setting";
        snapshot.sources.notes.push(what.to_owned());
    }
    let iterators = match wanted.means {
        Means::Everything => Iterators::find(Path::new(BTF)),
        Means::Descriptors | Means::SockDiag => Err("it was not wanted".to_owned()),
    };
    let reader = Reader {
        ports: wanted.ports(),
        iterators: iterators.as_ref().ok(),
        lists_bound: lists_bound(&snapshot.kernel),
    };
    let mut places = vec![main];
    if wanted.others == Others::Yes {
        places.extend(other_namespaces(&mut snapshot.sources.notes));
    }
    let mut read = BTreeSet::new();
    for place in places {
        if !read.insert(place.inode) || read.len() > NAMESPACES_MAX {
            continue;
        }
        let first = snapshot.namespaces.is_empty();
        match reader.read_at(&place) {
            Ok(found) => {
                let seen = &mut snapshot.sources;
                if first {
                    seen.bpf = found.bpf;
                    seen.bound = found.bound;
                }
                seen.notes.extend(found.notes);
                snapshot.namespaces.push(found.namespace);
            }
            Err(error) if first => return Err(error),
            Err(error) => {
                let name = place.names.first().cloned();
                let name = name.unwrap_or_else(|| format!("net:[{}]", place.inode));
                snapshot
                    .sources
                    .notes
                    .push(format!("namespace {name}: {error}"));
            }
        }
    }
    if let Err(why) = iterators {
        snapshot.sources.bpf = Known::No(why);
    }
    find_owners(&mut snapshot, wanted, caller);
    snapshot.refusers = refusers::read(&snapshot);
    snapshot.files = sysctls::files(Path::new(PROC));
    snapshot.user_namespaces = user_namespaces(&snapshot);
    plain::make_plain(&mut snapshot);
    Ok(snapshot)
}

/// Of the same clock as the starts of processes, which a time namespace may shift.
fn uptime_ms() -> Option<u64> {
    let text = read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some((seconds * 1000.0) as u64)
}

fn kernel_name() -> KernelName {
    let name = rustix::system::uname();
    let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    let mut version = text(name.version());
    // Ubuntu's stable update stands nowhere else.
    if let Ok(signature) = read_to_string("/proc/version_signature") {
        version = format!("{version} {}", signature.trim());
    }
    KernelName {
        release: text(name.release()),
        version,
        machine: text(name.machine()),
    }
}

/// Since 6.8 sock_diag lists sockets that are bound and no more.
fn lists_bound(kernel: &KernelName) -> bool {
    let kernel = portcullis_kernel_model::Kernel::of_host(&kernel.release, &kernel.version);
    kernel.is_some_and(|kernel| kernel.has(Change::NoFastreuse))
}

/// What is the same for all namespaces.
struct Reader<'a> {
    ports: Ports,
    iterators: Option<&'a Iterators>,
    lists_bound: bool,
}

/// A namespace, and how much of it could be read.
struct Found {
    namespace: Namespace,
    bpf: Known,
    bound: Known,
    notes: Vec<String>,
}

impl Reader<'_> {
    /// Reads a namespace, in a thread that has entered it where it is another one.
    fn read_at(&self, place: &At) -> io::Result<Found> {
        let Some(file) = &place.file else {
            return self.read(place);
        };
        let entered = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
            self.read(place)
        };
        std::thread::scope(|scope| {
            let done = scope.spawn(entered).join();
            done.unwrap_or_else(|_| Err(io::Error::other("the reading thread ended")))
        })
    }

    fn read(&self, place: &At) -> io::Result<Found> {
        let mut notes = Vec::new();
        let (sockets, torn) = diag::inet(self.ports)?;
        if torn == Torn::Yes {
            notes.push("the sockets changed each time that they were listed".to_owned());
        }
        let unix = match self.ports {
            Ports::All => diag::unix(),
            Ports::Within { .. } => Ok(Vec::new()),
        };
        let unix = unix.unwrap_or_else(|error| {
            notes.push(format!("Unix sockets: {error}"));
            Vec::new()
        });
        let interfaces = links::interfaces().unwrap_or_else(|error| {
            notes.push(format!("interfaces: {error}"));
            Vec::new()
        });
        let proc = Path::new(PROC);
        let has_vrf = interfaces.iter().any(|one| one.vrf == Vrf::Itself);
        let (owner, routes) = (owner_of_net(), links::routes(has_vrf));
        let without_routes4 =
            matches!(&routes, Err(error) if error.kind() == io::ErrorKind::NotFound);
        let (local_routes, other_routes) = routes
            .map(|routes| (routes.local, routes.other))
            .ok()
            .unzip();
        let mut namespace = Namespace {
            inode: place.inode,
            names: place.names.clone(),
            user_namespace: owner.number,
            owner_outside: owner.outside,
            sysctls: sysctls::sysctls(proc),
            interfaces,
            without_routes4,
            local_routes,
            other_routes,
            sockets,
            buckets: Vec::new(),
            groups: Vec::new(),
            unix,
            drops: sysctls::drops(proc),
        };
        if !uids_are_the_hosts() {
            for socket in &mut namespace.sockets {
                socket.uid = socket.uid.filter(|&uid| uid != OVERFLOW_UID);
            }
        }
        let bpf = match self
            .iterators
            .map(|iterators| self.ask_bpf(iterators, &mut namespace))
        {
            None => Known::Untried,
            Some(Ok(())) => Known::Yes,
            Some(Err(why)) => Known::No(why),
        };
        let bound = match (self.lists_bound, &bpf) {
            (true, _) | (_, Known::Yes) => Known::Yes,
            _ => Known::No("sock_diag lists them since 6.8, and BPF was no help".into()),
        };
        Ok(Found {
            namespace,
            bpf,
            bound,
            notes,
        })
    }

    fn ask_bpf(&self, iterators: &Iterators, namespace: &mut Namespace) -> Result<(), String> {
        // Who begins to listen in between is in the second list. Where sock_diag would have listed sockets that
        // are bound and no more, and there is none, no descriptor need be looked at.
        let mut sockets = namespace.sockets.iter();
        let bound = match self.lists_bound && !sockets.any(|one| one.state == State::Bound) {
            true => Vec::new(),
            false => iterators.bound(self.ports)?,
        };
        let mut seen = iterators.tcp(self.ports)?;
        let listed = seen.len();
        let here = |one: &Seen| u64::from(one.net) == namespace.inode;
        seen.extend(bound.into_iter().filter(here));
        let mut by_cookie: BTreeMap<u64, &Seen> = BTreeMap::new();
        let mut order: BTreeMap<u64, usize> = BTreeMap::new();
        for (at, one) in seen.iter().enumerate().filter(|(_, one)| one.cookie != 0) {
            by_cookie.entry(one.cookie).or_insert(one);
            if at < listed {
                order.entry(one.cookie).or_insert(at);
            }
        }
        let mut groups = Groups::default();
        for socket in &mut namespace.sockets {
            if let Some(one) = by_cookie.get(&socket.cookie) {
                complete(socket, one, &mut groups);
            }
        }
        if !self.lists_bound {
            add_bound(&seen, &mut namespace.sockets, &mut groups);
        }
        // Both families' listeners together, as a SYN meets them.
        namespace
            .sockets
            .sort_by_key(|socket| order.get(&socket.cookie).copied().unwrap_or(usize::MAX));
        namespace.buckets = buckets(&seen);
        namespace.groups = groups.found;
        Ok(())
    }
}

/// Groups by their address in the kernel, with numbers of the snapshot's own.
#[derive(Default)]
struct Groups {
    numbers: BTreeMap<u64, u32>,
    found: Vec<Group>,
}

impl Groups {
    fn number(&mut self, one: &Seen) -> u32 {
        let next = self.numbers.len() as u32 + 1;
        *self.numbers.entry(one.group).or_insert_with(|| {
            self.found.push(Group {
                number: next,
                members: u32::from(one.members),
                closed: u32::from(one.closed),
                program: one.program,
            });
            next
        })
    }

    fn place_of(&mut self, one: &Seen) -> InGroup {
        const CLOSE: u8 = 7;
        match one.group {
            0 => InGroup::None,
            // A program can make a group for a socket that does not listen yet: then nobody is closed.
            _ if one.state == CLOSE && one.closed > 0 => InGroup::Closed(self.number(one)),
            _ => InGroup::Member(self.number(one)),
        }
    }
}

/// What BPF tells of a socket that sock_diag listed.
fn complete(socket: &mut Socket, one: &Seen, groups: &mut Groups) {
    const REUSED_BY_FORCE: u8 = 2;
    let full = !matches!(socket.state, State::TimeWait | State::HalfOpen);
    let known = &mut socket.options;
    *known = Options {
        reuseaddr: Some(one.reuse != 0 && one.reuse != REUSED_BY_FORCE),
        reuseport: Some(one.reuseport),
        v6only: Some(one.v6only),
        repair: Some(one.repair || one.reuse == REUSED_BY_FORCE),
        incoming_cpu: full.then_some(one.incoming_cpu),
        user_locks: full.then_some(one.locks),
        ..known.clone()
    };
    if full {
        socket.uid = Some(one.uid);
        socket.group = Some(groups.place_of(one));
    }
    if socket.state == State::Listen {
        (socket.send_queue, socket.receive_queue) = (one.backlog, one.queue);
    }
}

/// Sockets that are bound and no more, where sock_diag does not list them. Their inodes are not told.
fn add_bound(seen: &[Seen], sockets: &mut Vec<Socket>, groups: &mut Groups) {
    const CLOSE: u8 = 7;
    let mut known: BTreeSet<u64> = sockets.iter().map(|socket| socket.cookie).collect();
    for one in seen {
        if one.state != CLOSE || one.local.1 == 0 || !known.insert(one.cookie) {
            continue;
        }
        let mut socket = Socket::unknown(one.local.into());
        socket.cookie = one.cookie;
        socket.device = one.device;
        complete(&mut socket, one, groups);
        sockets.push(socket);
    }
}

fn buckets(seen: &[Seen]) -> Vec<Bucket> {
    let mut all: BTreeMap<(u16, u32), Bucket> = BTreeMap::new();
    for bucket in seen.iter().filter_map(|one| one.bucket.as_ref()) {
        all.entry((bucket.port, bucket.vrf))
            .or_insert_with(|| Bucket {
                port: bucket.port,
                vrf: bucket.vrf,
                fastreuse: bucket.fastreuse,
                fastreuseport: bucket.fastreuseport,
                uid: bucket.uid,
                address: bucket.address,
                v6only: bucket.v6only,
            });
    }
    all.into_values().collect()
}

/// Who holds the sockets, who those processes are, and their options where BPF did not tell.
fn find_owners(snapshot: &mut Snapshot, wanted: &Wanted, caller: Process) {
    let proc = Path::new(PROC);
    let mut pids = BTreeSet::new();
    let inodes = inodes(snapshot);
    // A port that nobody has is nobody's, whatever thousand processes do.
    let nobody = wanted.port.is_some() && !anybody_may_hold(snapshot);
    match (!nobody).then(|| Owners::read(proc, &inodes)) {
        None => {}
        Some(Ok(owners)) => {
            snapshot.sources.processes = owners.known();
            let mut holders = |inode: u64| {
                let found = owners.by_inode.get(&inode).cloned().unwrap_or_default();
                pids.extend(found.iter().map(|holder| holder.pid));
                found
            };
            for namespace in &mut snapshot.namespaces {
                for socket in namespace
                    .sockets
                    .iter_mut()
                    .filter(|socket| socket.inode != 0)
                {
                    socket.holders = holders(socket.inode);
                }
                for socket in &mut namespace.unix {
                    socket.holders = holders(socket.inode);
                }
            }
        }
        Some(Err(error)) => snapshot.sources.processes = Known::No(error.to_string()),
    }
    if wanted.means != Means::SockDiag {
        let sockets = snapshot
            .namespaces
            .iter_mut()
            .flat_map(|net| &mut net.sockets);
        // Of connections that are none of the one port that was asked for, nobody's descriptor is touched.
        let one = wanted.port.is_some() && wanted.near == 0;
        let asked =
            sockets.filter(|socket| one || matches!(socket.state, State::Listen | State::Bound));
        snapshot.sources.descriptors = getfd::fill(asked);
    }
    pids.remove(&caller.pid);
    let pids: Vec<u32> = pids.into_iter().collect();
    let found = beside::each(&pids, Vec::new, |found, &pid| {
        found.extend(process(proc, pid));
    });
    let mut others: Vec<Process> = found.into_iter().flatten().collect();
    others.sort_by_key(|process| process.pid);
    snapshot.processes = vec![caller];
    snapshot.processes.extend(others);
    polls::fill(proc, snapshot);
    snapshot.users = users(snapshot);
}

/// The users of servers' sockets that nobody was seen to hold, as far as they have names.
fn users(snapshot: &Snapshot) -> Vec<User> {
    let sockets = snapshot.namespaces.iter().flat_map(|net| &net.sockets);
    let unseen = sockets
        .filter(|one| matches!(one.state, State::Listen | State::Bound) && one.holders.is_empty());
    let known = |uid: u32| {
        let mut all = snapshot.processes.iter();
        all.any(|one| one.uids.is_some_and(|uids| uids[1] == uid))
    };
    let numbers: BTreeSet<u32> = unseen.filter_map(|one| one.uid).collect();
    let numbers = numbers.into_iter().filter(|&uid| !known(uid));
    let named = numbers.take(USERS_MAX).filter_map(|uid| {
        Some(User {
            uid,
            name: user_name(uid)?,
        })
    });
    named.collect()
}

/// The numbers of all sockets that somebody may hold, sorted.
fn inodes(snapshot: &Snapshot) -> Vec<u64> {
    let of = |net: &Namespace| {
        let sockets = net.sockets.iter().map(|socket| socket.inode);
        let unix = net.unix.iter().map(|socket| socket.inode);
        sockets.chain(unix).collect::<Vec<u64>>()
    };
    let mut all: Vec<u64> = snapshot.namespaces.iter().flat_map(of).collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|&inode| inode != 0);
    all
}

/// Whether there is a socket that is somebody's: not all that BPF alone lists has a number.
fn anybody_may_hold(snapshot: &Snapshot) -> bool {
    let mut sockets = snapshot.namespaces.iter().flat_map(|net| &net.sockets);
    sockets.any(|one| one.inode != 0 || matches!(one.state, State::Listen | State::Bound))
}
