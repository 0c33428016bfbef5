//! What may surprise about a listener that works: one entry a trap.
//!
//! Decides:  the words, what each means and what to do, and which rows have it.
//! Kernel:   net/ipv4/inet_connection_sock.c, reqsk_queue_alloc(), inet_csk_listen_start(); include/net/sock.h,
//!           sk_acceptq_is_full(); net/ipv4/inet_hashtables.c, compute_score(), 5.0 to 6.18
//! Not here: why a bind or a listen is refused (explain.rs), what a program did to get there (crate `trace`).

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::net::IpAddr;

use portcullis_inspect::snapshot::{Interface, Namespace, Snapshot, Socket};
use serde::Serialize;

use super::rows::{Marked, Row, outside_groups};

/// `SOCK_BINDPORT_LOCK`: the port was asked for.
const PORT_WAS_ASKED_FOR: u8 = 8;
/// Shards with fewer connections each than this are not told to be uneven.
const SHARD_CONNECTIONS_MIN: u64 = 8;
/// Shards whose busiest has so many times its share are uneven.
const UNEVEN_MIN: f64 = 2.0;

/// An entry.
pub struct Trap {
    /// The word in the table.
    pub word: &'static str,
    /// What it means, a sentence or two.
    pub meaning: &'static str,
    /// What to do.
    pub advice: &'static str,
    /// What it is of a row that has it.
    found: Found,
}

type Found = fn(&Row, &Around<'_>) -> Option<String>;

/// A trap's word in `portcullis why WORD`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word(&'static str);

impl Word {
    /// A text that is the word of a trap.
    pub fn of(text: &str) -> Option<Word> {
        find(text).map(|trap| Word(trap.word))
    }

    /// What it means, and what to do.
    pub fn explained(self) -> Option<Explained> {
        find(self.0).map(|trap| Explained {
            format: 1,
            word: trap.word,
            meaning: trap.meaning,
            advice: trap.advice,
        })
    }
}

/// What a word means.
#[derive(Debug, Serialize)]
pub struct Explained {
    format: u32,
    word: &'static str,
    meaning: &'static str,
    advice: &'static str,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.word, self.meaning)?;
        writeln!(f, "  hint:   {}", self.advice)
    }
}

/// Whether another of the very address, outside of its group, gets what comes there, or may: of IPv6 the one
/// without SO_REUSEPORT is found first (inet_hash() adds the others at the end), of IPv4 the newer one.
fn beaten(row: &Row, other: &Row) -> bool {
    let shares = |row: &Row| row.options.reuseport;
    row.at.is_some()
        && (row.at, &row.device) == (other.at, &other.device)
        && match (shares(row), shares(other)) {
            (Some(true), Some(false)) => true,
            (Some(false), Some(true)) => row.at.is_some_and(|at| at.is_ipv4()),
            _ => false,
        }
}

/// What a row is judged by.
struct Around<'a> {
    snapshot: &'a Snapshot,
    namespace: &'a Namespace,
    rows: &'a [Row],
}

/// All of them.
pub const ALL: &[Trap] = &[
    Trap {
        word: "queue-full",
        meaning: "As many connections wait to be accepted as may. The next ones are dropped, or refused \
                  with net.ipv4.tcp_abort_on_overflow; clients see time-outs.",
        advice: "find out why the program does not accept (stopped, busy, out of descriptors); a larger \
                 backlog and net.core.somaxconn only help against bursts",
        found: |row, _| {
            // The kernel takes one more than the limit.
            (row.at.is_some() && row.queue > row.limit)
                .then(|| format!("{} wait, and {} may", row.queue, row.limit))
        },
    },
    Trap {
        word: "drops",
        meaning: "The listener has lost connections: its queue was full when a handshake ended, or a SYN \
                  could not be kept. The number counts from its listen on.",
        advice: "if it grows (--watch), raise the backlog that the program asks for and \
                 net.core.somaxconn, or accept faster",
        found: |row, _| {
            let drops = row.drops.filter(|&drops| drops > 0)?;
            Some(format!("{drops} since it listens"))
        },
    },
    Trap {
        word: "ipv6-only",
        meaning: "It listens on the IPv6 wildcard with IPV6_V6ONLY, and nobody on the port of IPv4: \
                  clients of IPv4 are refused.",
        advice: "bind 0.0.0.0 too, or turn IPV6_V6ONLY off before bind (net.ipv6.bindv6only is its default)",
        found: |row, around| {
            let at = row.at?;
            let only = at.ip() == IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED)
                && row.options.v6only == Some(true);
            let served = around.neighbours(row).any(|other| {
                other
                    .at
                    .is_some_and(|at| at.is_ipv4() || other.options.v6only == Some(false))
            });
            (only && !served).then(|| format!("nobody listens on 0.0.0.0:{}", at.port()))
        },
    },
    Trap {
        word: "shadowed",
        meaning: "Another program listens on the same port at an address or a device of its own. What comes \
                  there goes to that one: the better match wins, whoever came first. Of two on the very same \
                  address, one with SO_REUSEPORT and one without, one gets everything.",
        advice: "bind the two to addresses or ports that do not overlap",
        found: |row, around| {
            let at = row.at?;
            let hides = |other: &&Row| {
                let closer = other.at.is_some_and(|theirs| {
                    (row.hears(theirs).is_some() && theirs.ip() != at.ip())
                        || (theirs.ip() == at.ip() && other.device.is_some())
                });
                let closer = closer && row.device.is_none();
                (closer || beaten(row, other)) && around.strangers(row, other)
            };
            let others: Vec<String> = around.neighbours(row).filter(hides).map(named).collect();
            (!others.is_empty()).then(|| format!("by {}", others.join(", ")))
        },
    },
    Trap {
        word: "shared-silently",
        meaning: "Programs that do not belong together listen on one address through SO_REUSEPORT, and each \
                  gets a part of the connections. Usually one was started twice.",
        advice: "stop the one that should not run; nothing but the user id of both lets them share",
        found: |row, around| {
            let apart = around.apart(row)?;
            Some(format!("by {apart}"))
        },
    },
    Trap {
        word: "kept-open",
        meaning: "Different programs hold the very same socket, mostly since a server left it open when it \
                  started another program. The port stays taken until the last of them ends.",
        advice: "let the server open its sockets with SOCK_CLOEXEC (or close them before exec)",
        found: |row, _| {
            let names: BTreeSet<&str> = row
                .owners
                .iter()
                // Init keeps what it activates.
                .filter(|owner| owner.pid != 1 && owner.program != "systemd")
                .map(|owner| owner.program.as_str())
                .collect();
            (names.len() > 1 && row.shards.is_empty() && row.port.is_some())
                .then(|| format!("by {}", names.into_iter().collect::<Vec<_>>().join(", ")))
        },
    },
    Trap {
        word: "ownerless",
        meaning: "No process holds it: it is the kernel's own (NFS), or its descriptor is on its way over a \
                  Unix socket, or its owner is in a PID namespace that is not seen from here.",
        advice: "look from the host's own namespaces, as root",
        found: |row, around| {
            let all_seen =
                around.snapshot.sources.processes == portcullis_inspect::snapshot::Known::Yes;
            (all_seen && row.owners.is_empty() && row.at.is_some())
                .then(|| "no process holds a descriptor of it".to_owned())
        },
    },
    Trap {
        word: "address-gone",
        meaning: "No interface has the address that it is bound to: nothing arrives there, until the address \
                  comes back.",
        advice: "give the address to an interface, or bind another one; it is meant where IP_FREEBIND or \
                 IP_TRANSPARENT is set, or a route of type local covers it",
        found: |row, around| {
            let ip = row.at?.ip().to_canonical();
            let known = !around.namespace.interfaces.is_empty();
            let meant = row.options.transparent == Some(true) || row.options.freebind == Some(true);
            let local = ip.is_unspecified() || ip.is_loopback() || around.has(ip).is_some();
            (known && !meant && !local).then(|| format!("no interface has {ip}"))
        },
    },
    Trap {
        word: "device-down",
        meaning: "The device that it is bound to, or that has its address, is down or gone: nothing arrives \
                  over it.",
        advice: "set the device up: ip link set DEVICE up",
        found: |row, around| {
            let index = row
                .places
                .first()
                .map(|&place| around.socket(place).map_or(0, |one| one.device))?;
            if index != 0 {
                let mut all = around.namespace.interfaces.iter();
                return match all.find(|one| one.index == index) {
                    Some(device) if device.up => None,
                    Some(device) => Some(format!("{} is down", device.name)),
                    None => Some(format!("there is no interface {index} any more")),
                };
            }
            let ip = row.at?.ip().to_canonical();
            let device = around.has(ip).filter(|device| !device.up)?;
            Some(format!("{}, which has the address, is down", device.name))
        },
    },
    Trap {
        word: "ephemeral-port",
        meaning: "Its port lies where the kernel chooses ports of outgoing connections. While the server is \
                  down, a connection can take it, and the next start fails with EADDRINUSE.",
        advice: "add the port to net.ipv4.ip_local_reserved_ports, or use one outside of \
                 net.ipv4.ip_local_port_range",
        found: |row, around| {
            let port = row.port?;
            let socket = around.socket(*row.places.first()?)?;
            let asked = socket.options.user_locks? & PORT_WAS_ASKED_FOR != 0;
            let sysctls = &around.namespace.sysctls;
            let (low, high) = sysctls.ip_local_port_range?;
            let within = |(low, high): (u16, u16)| (low..=high).contains(&port);
            let reserved = sysctls
                .ip_local_reserved_ports
                .iter()
                .any(|&range| within(range));
            (asked && within((low, high)) && !reserved)
                .then(|| format!("{low} to {high} are the kernel's to choose"))
        },
    },
    Trap {
        word: "late-reuseport",
        meaning: "SO_REUSEPORT was set when it listened already: no group was made. Another socket may then \
                  listen beside it, and one of the two gets all connections.",
        advice: "set SO_REUSEPORT before bind",
        found: |row, around| {
            let late = |&place: &(usize, usize)| {
                around
                    .socket(place)
                    .is_some_and(|one| one.options.reuseport == Some(true) && outside_groups(one))
            };
            row.places
                .iter()
                .any(late)
                .then(|| "it has SO_REUSEPORT, and is in no group".to_owned())
        },
    },
    Trap {
        word: "uneven",
        meaning: "One shard has far more connections than its share. The kernel spreads new ones by a hash of \
                  their addresses: few clients, or connections that stay, make it uneven, and a shard that \
                  is slow keeps its share.",
        advice: "look at the shards with --json; more clients even it out, a program on the group \
                 (SO_ATTACH_REUSEPORT_CBPF) chooses otherwise",
        found: |row, _| {
            let times = row.uneven.filter(|&times| times > UNEVEN_MIN)?;
            let enough = row.connections >= SHARD_CONNECTIONS_MIN * row.shards.len() as u64;
            enough.then(|| {
                format!(
                    "the busiest of {} has {times:.1} times its share",
                    row.shards.len()
                )
            })
        },
    },
];

/// The entry of a word.
fn find(word: &str) -> Option<&'static Trap> {
    ALL.iter().find(|trap| trap.word == word)
}

/// Marks rows with what they have.
pub fn mark(snapshot: &Snapshot, rows: &mut [Row]) {
    let marks: Vec<Vec<Marked>> = rows.iter().map(|row| marks(snapshot, rows, row)).collect();
    for (row, marks) in rows.iter_mut().zip(marks) {
        row.traps = marks;
    }
}

fn marks(snapshot: &Snapshot, rows: &[Row], row: &Row) -> Vec<Marked> {
    let mut namespaces = snapshot.namespaces.iter();
    let Some(namespace) = namespaces.find(|one| one.inode == row.netns) else {
        return Vec::new();
    };
    let around = Around {
        snapshot,
        namespace,
        rows,
    };
    let found = ALL.iter().filter_map(|trap| {
        let detail = (trap.found)(row, &around)?;
        Some(Marked {
            word: trap.word,
            detail,
        })
    });
    found.collect()
}

fn named(row: &Row) -> String {
    let mut text = row.address.clone();
    if let Some(device) = &row.device {
        let _ = write!(text, " on {device}");
    }
    match row.owners.first() {
        Some(owner) => text + &format!(" of {} (pid {})", owner.program, owner.pid),
        None => text,
    }
}

impl Around<'_> {
    fn socket(&self, place: (usize, usize)) -> Option<&Socket> {
        self.snapshot.namespaces.get(place.0)?.sockets.get(place.1)
    }

    /// Other listeners of the port.
    fn neighbours<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = &'a Row> {
        self.rows.iter().filter(move |other| {
            other.netns == row.netns
                && other.port == row.port
                && other.at.is_some()
                && other.places != row.places
        })
    }

    /// The interface with an address.
    fn has(&self, ip: IpAddr) -> Option<&Interface> {
        self.namespace
            .interfaces
            .iter()
            .find(|one| one.addresses.iter().any(|own| own.ip == ip))
    }

    /// Whether nobody of the one has to do with anybody of the other, and both have somebody.
    fn strangers(&self, one: &Row, other: &Row) -> bool {
        let pids = |row: &Row| {
            row.owners
                .iter()
                .map(|owner| owner.pid)
                .collect::<Vec<u32>>()
        };
        self.unrelated(&pids(one), &pids(other))
    }

    fn unrelated(&self, one: &[u32], other: &[u32]) -> bool {
        let related = |&a: &u32| other.iter().any(|&b| self.related(a, b));
        !one.is_empty() && !other.is_empty() && !one.iter().any(related)
    }

    /// The same process, one the other's parent, or children of one parent that is not the one of all.
    fn related(&self, a: u32, b: u32) -> bool {
        let parent = |pid: u32| {
            self.snapshot
                .process(pid)
                .map_or(0, |process| process.parent)
        };
        let program = |pid: u32| {
            self.snapshot
                .process(pid)
                .map(|process| (&process.command, &process.unit))
        };
        let (of_a, of_b) = (parent(a), parent(b));
        // A shell starts the same server twice, too: children of one parent are shards of one program only
        // if that parent is the program, or a supervisor whose unit they are in.
        let siblings =
            of_a == of_b && of_a > 1 && program(of_a).is_some_and(|it| Some(it) == program(a));
        let one_unit = || {
            let unit = |pid: u32| {
                self.snapshot
                    .process(pid)
                    .and_then(|process| process.unit.clone())
            };
            unit(a).is_some_and(|unit_a| unit_a.ends_with(".service") && Some(unit_a) == unit(b))
        };
        a == b || of_a == b || of_b == a || siblings || one_unit()
    }

    /// The programs that share a row's group and do not belong together.
    fn apart(&self, row: &Row) -> Option<String> {
        let mut parts: Vec<Vec<u32>> = Vec::new();
        for shard in row.shards.iter().filter(|shard| !shard.pids.is_empty()) {
            let (with, mut rest): (Vec<_>, Vec<_>) = std::mem::take(&mut parts)
                .into_iter()
                .partition(|part| !self.unrelated(part, &shard.pids));
            let mut joined: Vec<u32> = with.into_iter().flatten().collect();
            joined.extend(&shard.pids);
            rest.push(joined);
            parts = rest;
        }
        if parts.len() < 2 {
            return None;
        }
        let told = parts.iter().filter_map(|part| {
            let pid = part.iter().min()?;
            let name = self
                .snapshot
                .process(*pid)
                .map_or("?", |process| process.name.as_str());
            Some(format!("{name} (pid {pid})"))
        });
        Some(told.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::rows::tests::{connection, host, listener, process_called, shard_of};
    use crate::listeners::rows::{Unix, rows};
    use portcullis_inspect::snapshot::{Address, Holder, InGroup, Vrf};

    /// The words of each row, by its address.
    fn words(snapshot: &Snapshot) -> Vec<(String, Vec<&'static str>)> {
        let mut rows = rows(snapshot, Unix::Without);
        mark(snapshot, &mut rows);
        let told = rows.iter().map(|row| {
            let words = row.traps.iter().map(|trap| trap.word).collect();
            (row.address.clone(), words)
        });
        told.collect()
    }

    fn of(snapshot: &Snapshot) -> Vec<&'static str> {
        words(snapshot).remove(0).1
    }

    fn one(change: impl FnOnce(&mut Socket)) -> Snapshot {
        let mut socket = listener("0.0.0.0:80", 7);
        change(&mut socket);
        host(vec![socket], vec![process_called("a", 7, 1)])
    }

    #[test]
    fn an_ordinary_listener_has_none() {
        assert!(of(&one(|_| {})).is_empty());
    }

    #[test]
    fn a_queue_is_full_beyond_its_limit_as_the_kernel_counts() {
        let queue = |waits| one(|socket| (socket.receive_queue, socket.send_queue) = (waits, 5));
        assert!(of(&queue(5)).is_empty());
        assert_eq!(of(&queue(6)), ["queue-full"]);
        assert_eq!(of(&one(|socket| socket.drops = Some(1))), ["drops"]);
    }

    #[test]
    fn ipv6_alone_is_one_and_with_ipv4_beside_it_is_not() {
        let mut six = listener("[::]:80", 7);
        six.options.v6only = Some(true);
        assert_eq!(
            of(&host(vec![six.clone()], vec![process_called("a", 7, 1)])),
            ["ipv6-only"]
        );
        let four = listener("0.0.0.0:80", 7);
        assert!(
            of(&host(
                vec![six.clone(), four],
                vec![process_called("a", 7, 1)]
            ))
            .is_empty()
        );
        let elsewhere = listener("0.0.0.0:81", 7);
        let told = of(&host(vec![six, elsewhere], vec![process_called("a", 7, 1)]));
        assert_eq!(told, ["ipv6-only"]);
    }

    #[test]
    fn a_wildcard_is_shadowed_by_a_stranger_and_not_by_its_own_program() {
        let pair = |pid, at: &str| vec![listener("0.0.0.0:80", 7), listener(at, pid)];
        let processes = || vec![process_called("a", 7, 1), process_called("b", 9, 1)];
        let told = words(&host(pair(9, "127.0.0.1:80"), processes()));
        assert_eq!(told[0].1, ["shadowed"]);
        assert!(told[1].1.is_empty());
        assert!(of(&host(pair(7, "127.0.0.1:80"), processes())).is_empty());
        assert!(of(&host(pair(9, "127.0.0.1:81"), processes())).is_empty());
        assert!(
            of(&host(pair(9, "[::1]:80"), processes())).is_empty(),
            "another family's"
        );
    }

    #[test]
    fn shards_of_one_program_share_and_programs_started_apart_do_so_silently() {
        let shards = || vec![shard_of("0.0.0.0:80", 7), shard_of("0.0.0.0:80", 9)];
        let apart = vec![process_called("a", 7, 1), process_called("a", 9, 1)];
        assert_eq!(of(&host(shards(), apart)), ["shared-silently"]);
        let by_shell = vec![
            process_called("sh", 5, 1),
            process_called("a", 7, 5),
            process_called("a", 9, 5),
        ];
        assert_eq!(of(&host(shards(), by_shell)), ["shared-silently"]);
        let prefork = vec![
            process_called("a", 5, 1),
            process_called("a", 7, 5),
            process_called("a", 9, 5),
        ];
        assert!(of(&host(shards(), prefork)).is_empty());
        let parent = vec![process_called("a", 7, 1), process_called("b", 9, 7)];
        assert!(of(&host(shards(), parent)).is_empty());
        let mut unit = vec![process_called("a", 7, 1), process_called("a", 9, 1)];
        for process in &mut unit {
            process.unit = Some("a.service".into());
        }
        assert!(of(&host(shards(), unit)).is_empty());
    }

    #[test]
    fn programs_that_hold_one_socket_keep_it_open_but_init_may() {
        let held = |other: u32, name: &str| {
            let mut socket = listener("0.0.0.0:80", 7);
            socket.holders.push(Holder { pid: other, fd: 3 });
            host(
                vec![socket],
                vec![
                    process_called("server", 7, 1),
                    process_called(name, other, 1),
                ],
            )
        };
        assert_eq!(of(&held(9, "sleep")), ["kept-open"]);
        assert!(of(&held(9, "server")).is_empty());
        assert!(of(&held(1, "init")).is_empty());
    }

    #[test]
    fn an_address_that_went_away_and_a_device_that_is_down_are_told() {
        let at = |up: bool, has: &str, bound: u32| {
            let mut socket = listener("192.0.2.1:80", 7);
            socket.device = bound;
            let mut snapshot = host(vec![socket], vec![process_called("a", 7, 1)]);
            snapshot.namespaces[0].interfaces.push(Interface {
                index: 2,
                name: "eth0".into(),
                up,
                running: up,
                vrf: Vrf::Outside,
                addresses: vec![Address {
                    ip: has.parse().unwrap(),
                    prefix: 24,
                    tentative: false,
                    duplicate: false,
                    deprecated: false,
                }],
            });
            snapshot
        };
        assert!(of(&at(true, "192.0.2.1", 0)).is_empty());
        assert!(of(&at(true, "192.0.2.1", 2)).is_empty());
        assert_eq!(of(&at(true, "192.0.2.2", 0)), ["address-gone"]);
        assert_eq!(of(&at(false, "192.0.2.1", 0)), ["device-down"]);
        assert_eq!(of(&at(false, "192.0.2.1", 2)), ["device-down"]);
        assert_eq!(of(&at(true, "192.0.2.1", 9)), ["device-down"]);
        let mut meant = at(true, "192.0.2.2", 0);
        meant.namespaces[0].sockets[0].options.freebind = Some(true);
        assert!(of(&meant).is_empty());
    }

    #[test]
    fn a_port_that_the_kernel_may_give_away_is_told_unless_it_is_reserved_or_was_its_choice() {
        let port = |locks: Option<u8>| {
            let mut snapshot = one(|socket| socket.options.user_locks = locks);
            snapshot.namespaces[0].sysctls.ip_local_port_range = Some((80, 90));
            snapshot
        };
        assert_eq!(of(&port(Some(PORT_WAS_ASKED_FOR))), ["ephemeral-port"]);
        assert!(of(&port(Some(0))).is_empty());
        assert!(of(&port(None)).is_empty(), "nobody could tell");
        let mut reserved = port(Some(PORT_WAS_ASKED_FOR));
        reserved.namespaces[0].sysctls.ip_local_reserved_ports = vec![(80, 80)];
        assert!(of(&reserved).is_empty());
    }

    #[test]
    fn late_reuseport_and_nobody_are_told_where_they_are_known() {
        let late =
            |group| one(|socket| (socket.options.reuseport, socket.group) = (Some(true), group));
        assert_eq!(of(&late(Some(InGroup::None))), ["late-reuseport"]);
        assert!(of(&late(Some(InGroup::Member(1)))).is_empty());
        assert!(of(&late(None)).is_empty());
        assert_eq!(of(&one(|socket| socket.holders.clear())), ["ownerless"]);
        let mut hidden = one(|socket| socket.holders.clear());
        hidden.sources.processes =
            portcullis_inspect::snapshot::Known::Partly("3 are hidden".into());
        assert!(of(&hidden).is_empty());
    }

    #[test]
    fn a_shard_with_far_more_than_its_share_is_told_and_few_connections_are_not() {
        let load = |most: usize, others: usize| {
            let pids = [7, 8, 9];
            let mut sockets: Vec<Socket> = pids
                .iter()
                .map(|&pid| shard_of("0.0.0.0:80", pid))
                .collect();
            sockets.extend((0..most).map(|_| connection("192.0.2.1:80", 7)));
            sockets.extend((0..others).map(|_| connection("192.0.2.1:80", 8)));
            let mut processes = vec![process_called("a", 5, 1)];
            processes.extend(pids.iter().map(|&pid| process_called("a", pid, 5)));
            host(sockets, processes)
        };
        assert_eq!(of(&load(30, 2)), ["uneven"]);
        assert!(of(&load(15, 15)).is_empty());
        assert!(of(&load(5, 0)).is_empty());
    }

    #[test]
    fn every_word_stands_in_the_page_with_what_it_means() {
        let page = include_str!("../../../../docs/listeners.md");
        for trap in ALL {
            let row = format!("| `{}` | {} | {} |", trap.word, trap.meaning, trap.advice);
            assert!(page.contains(&row), "docs/listeners.md lacks: {row}");
            assert_eq!(find(trap.word).map(|found| found.word), Some(trap.word));
        }
        assert!(find("no-such-word").is_none());
    }
}
