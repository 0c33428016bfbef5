//! Linux's rules of TCP `bind`, `listen` and listener lookup, as a program that can be asked.
//!
//! <!--
//! Decides:  nothing itself; the files below each hold one part of the kernel's rules.
//! Not here: system calls. The model is pure: no clock, no I/O, no hash-map order.
//! -->
//!
//! A [`World`] is a host with its sockets. Every socket call is a [`Call`], and the model answers it
//! as the kernel of the host's [`Kernel`] release would, and says by which [`Rule`]:
//!
//! ```
//! use portcullis_kernel_model::*;
//!
//! let mut world = World::new(Host::new(Kernel::V6_18));
//! let root = ProcessId(0);
//! let port = SockAddr::new("127.0.0.1".parse().unwrap(), 443);
//!
//! let first = world.socket(root, Family::Inet);
//! world.call(first, Call::Set(Opt::ReusePort(true)));
//! assert_eq!(world.call(first, Call::Bind(port)), Answer::Ok);
//!
//! let second = world.socket(root, Family::Inet);
//! let (answer, why) = world.explain(root, second, Call::Bind(port));
//! assert_eq!(answer, Answer::Err(Errno::EADDRINUSE));
//! assert_eq!(why.because_of(), Some(first));
//! assert_eq!(why.decided_by().unwrap().info().id, "port-held");
//! ```
//!
//! The model is pure: it makes no system call, reads no clock, keeps nothing in a hash map's order, needs
//! `alloc` and no more. Copying a world copies everything, so a question can be tried on a copy. It is
//! compared with live kernels by exhaustive and random scripts, millions of steps at a time. The rules are
//! told one by one, with a scenario each, in `docs/bind-rules.md`; a scenario runs in the model and on a
//! live kernel alike with `portcullis sim --both`.
//!
//! # Can these three services share port 443?
//!
//! Start them in a world, one after the other. Where one is refused, [`World::ways_out`] tells what would
//! have to differ: it tries each difference on a copy, and keeps those with which the call succeeds, the
//! smallest first. (The whole program: `examples/three_services.rs`.)
//!
//! ```
//! # use portcullis_kernel_model::*;
//! let mut world = World::new(Host::new(Kernel::V6_18));
//! let me = ProcessId(0);
//! let at = |ip: &str| Call::Bind(SockAddr::new(ip.parse().unwrap(), 443));
//!
//! let vpn = world.socket(me, Family::Inet);
//! assert!(world.call(vpn, at("127.0.0.2")).is_ok());
//! let api = world.socket(me, Family::Inet);
//! assert!(world.call(api, at("127.0.0.1")).is_ok(), "two addresses never meet");
//!
//! let web = world.socket(me, Family::Inet6);
//! let (answer, why) = world.ask(me, web, at("::"));
//! assert_eq!(answer, Answer::Err(Errno::EADDRINUSE), "the IPv6 wildcard covers IPv4 too");
//! assert_eq!(why.because_of(), Some(api));
//!
//! let ways = world.ways_out(me, web, at("::"));
//! assert_eq!(ways[0].to_string(), "set IPV6_V6ONLY first");
//! assert_eq!(ways[0].differences, [Difference::Option(Opt::V6Only(true))]);
//! world.call(web, Call::Set(Opt::V6Only(true)));
//! assert!(world.call(web, at("::")).is_ok());
//! ```
//!
//! # Which ports are left?
//!
//! For ports that you name, [`World::free_ports`]. For the port that the kernel chooses (`bind` to port 0,
//! `connect`), [`World::port_choice`]: the kernel draws at random, so the answer is the set of all that
//! some draw leads to.
//!
//! ```
//! # use portcullis_kernel_model::*;
//! let mut host = Host::new(Kernel::V6_18);
//! host.namespaces[0].sysctls.ip_local_port_range = (40_000, 40_007);
//! host.namespaces[0].sysctls.ip_local_reserved_ports = vec![(40_001, 40_001)];
//! let mut world = World::new(host);
//! let me = ProcessId(0);
//! let any = "0.0.0.0".parse().unwrap();
//! let holder = world.socket(me, Family::Inet);
//! world.call(holder, Call::Bind(SockAddr::new("127.0.0.1".parse().unwrap(), 40_003)));
//!
//! let socket = world.socket(me, Family::Inet);
//! let left = world.free_ports(me, socket, any, 40_000..=40_004);
//! assert_eq!(left, [40_000, 40_001, 40_002, 40_004]);
//!
//! // The kernel's own choice: no reserved port, and no even one while there are odd ones.
//! let choice = world.port_choice(me, socket, Call::Bind(SockAddr::new(any, 0))).unwrap();
//! assert_eq!(choice.ports, [40_005, 40_007]);
//!
//! // Told what the kernel drew, the model gives the kernel's exact answer.
//! world.tell_draw(6);
//! world.call(socket, Call::Bind(SockAddr::new(any, 0)));
//! assert_eq!(world.port(socket), 40_007);
//! ```
//!
//! # How evenly will eight shards be loaded?
//!
//! [`World::listeners_for`] tells who may get a connection: one listener, or every member of a
//! SO_REUSEPORT group, among whom the kernel chooses by a hash whose secret it draws at boot. The model
//! draws in its place: from a seed ([`World::seed`]), as you tell it ([`World::tell_member`],
//! [`World::tell_draw`]), so a program can see what comes of a thousand connections. (The whole program:
//! `examples/eight_shards.rs`.)
//!
//! ```
//! # use portcullis_kernel_model::*;
//! let there = SockAddr::new("127.0.0.1".parse().unwrap(), 443);
//! let mut world = World::new(Host::new(Kernel::V6_18));
//! let me = ProcessId(0);
//! let shards: Vec<SocketId> = (0..8).map(|_| {
//!     let shard = world.socket(me, Family::Inet);
//!     world.call(shard, Call::Set(Opt::ReusePort(true)));
//!     world.call(shard, Call::Bind(there));
//!     world.call(shard, Call::Listen(1024));
//!     shard
//! }).collect();
//! assert_eq!(world.listeners_for(NetId(0), there.ip, 443, 1), shards);
//!
//! world.seed(42);
//! for _ in 0..800 {
//!     let client = world.socket(me, Family::Inet);
//!     assert!(world.call(client, Call::Connect(there)).is_ok());
//! }
//! let load: Vec<usize> = shards.iter().map(|&shard| world.queue_len(shard)).collect();
//! assert_eq!(load.iter().sum::<usize>(), 800);
//! // A hundred each, give or take ten: chance, not round robin.
//! assert!(load.iter().all(|&got| (60..140).contains(&got)), "{load:?}");
//! assert!(load.iter().any(|&got| got != 100));
//! ```
//!
//! # A simulated network
//!
//! A simulator gives each of its machines a world, hands every socket call to it, and lets time pass there
//! ([`World::pass_time`]) when its own clock goes on. [`guide::simulator`] is such a program, to be copied (`examples/simulator.rs`):
//! two servers are killed and start again, and the one without SO_REUSEADDR is away for a minute.
//!
//! # What is where
//!
//! | | |
//! |---|---|
//! | the host | [`Host`], [`Kernel`], [`Namespace`], [`Interface`], [`Sysctls`], [`Sysctl`], [`World::write_sysctl`], [`Process`], [`Caps`], [`UserNamespace`] |
//! | sockets | [`World::socket`], [`SocketId`], [`World::state`], [`World::name`], [`World::queue_len`], [`World::bucket`] |
//! | calls | [`Call`] and [`Opt`], made by [`World::call`] or, with the caller, by [`World::call_as`]; [`Answer`], [`Errno`] |
//! | addresses | [`SockAddr`]: right ones, and those with a wrong family or length |
//! | processes | [`World::fork`], [`World::exit`], [`Call::Dup`], [`Call::Pass`], [`World::holders`] |
//! | reasons | [`World::explain`], [`World::ask`], [`Explanation`], [`Rule`], [`RuleInfo`], [`Chapter`] |
//! | ways out | [`World::ways_out`], [`WayOut`], [`Difference`], [`Setting`] |
//! | chance | [`World::port_choice`], [`World::seed`], [`World::tell_port`], [`World::tell_draw`], [`World::tell_member`] |
//! | time | [`World::pass_time`], [`World::pass_time_in`], [`TIME_WAIT_MS`] |
//! | releases | [`Kernel`], and what each of them changed: [`Change`] |
//! | a live host | [`World::found`], [`Found`]: a world whose sockets were there before |
//! | one's own tracing | [`Trace`], [`World::call_traced`], [`Coverage`] |
//!
//! # What it does not know
//!
//! Peers on other machines, routes beyond the host's own addresses, data, packet loss, eBPF and security
//! modules are left out; `gaps.toml` beside the sources lists each gap with its reason and with what the
//! model does instead. Releases that no live kernel has confirmed ([`Kernel::verified`]) are transcribed
//! from their source.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod addr;
mod ask;
mod attempt;
mod between;
mod bind;
mod bucket;
mod by_addr;
mod call;
mod chain;
mod chance;
mod chapters;
mod close;
mod conflict;
mod connect;
mod difference;
mod errno;
mod explain;
mod files;
mod found;
pub mod guide;
mod host;
mod listen;
mod lookup;
mod neighbour;
mod net4;
mod options;
mod places;
mod port;
mod ports;
mod receive;
mod request;
mod reuseport;
mod routes;
mod rover;
mod rules;
mod scan;
mod slab;
mod socket;
mod sysctl;
mod timer;
mod version;
mod view;
mod vrf;
mod way;
mod ways_out;
mod wire;
mod world;

pub use addr::{
    AF_INET, AF_INET6, AF_UNSPEC, Family, SOCKADDR_IN_LEN, SOCKADDR_IN6_LEN, SOCKADDR_IN6_OLD_LEN,
    SOCKADDR_MAX_LEN, SockAddr,
};
pub use call::{Answer, Bytes, Call, Opt, OptName, Program, State};
pub use chapters::Chapter;
pub use difference::{Difference, Setting, WayOut};
pub use errno::Errno;
pub use explain::{Coverage, Explanation, NoTrace, Trace};
pub use found::{Chosen, Found, FoundBucket, FoundGroup, FoundSocket, Impossible, Membership};
pub use host::{
    Addr6, Cap, Caps, FilesId, Host, Interface, Namespace, NetId, Process, ProcessId, Sysctls, Uid,
    UserNamespace, UserNsId, Vrf,
};
pub use places::{MOVED, Moved};
pub use ports::PortChoice;
pub use routes::{Route4, RouteKind};
pub use rules::{Rule, RuleInfo};
pub use sysctl::Sysctl;
pub use timer::Together;
pub use version::{Change, Kernel, LIVE, Live, Ran};
pub use view::{BucketView, Owner};
pub use wire::TIME_WAIT_MS;
pub use world::{SocketId, World};
