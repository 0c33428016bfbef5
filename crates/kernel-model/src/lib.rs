//! Linux's rules of TCP `bind`, `listen` and listener lookup, as a program that can be asked.
//!
//! Decides:  nothing itself; the files below each hold one part of the kernel's rules.
//! Not here: system calls. The model is pure: no clock, no I/O, no hash-map order.
//!
//! A [`World`] is a host with its sockets. Every socket call is a [`Call`], and the model answers it
//! as the kernel of the host's [`Kernel`] release would:
//!
//! ```
//! use portcullis_kernel_model::{Answer, Call, Errno, Family, Host, Kernel, Opt, ProcessId, SockAddr, World};
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
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod addr;
mod attempt;
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
mod host;
mod listen;
mod lookup;
mod options;
mod port;
mod ports;
mod receive;
mod request;
mod reuseport;
mod rover;
mod rules;
mod scan;
mod slab;
mod socket;
mod timer;
mod version;
mod view;
mod way;
mod ways_out;
mod wire;
mod world;

pub use addr::{
    AF_INET, AF_INET6, AF_UNSPEC, Family, SOCKADDR_IN_LEN, SOCKADDR_IN6_LEN, SOCKADDR_IN6_OLD_LEN,
    SOCKADDR_MAX_LEN, SockAddr,
};
pub use call::{Answer, Call, Opt, OptName, Program, State};
pub use chapters::Chapter;
pub use difference::{Difference, Setting, WayOut};
pub use errno::Errno;
pub use explain::{Coverage, Explanation, NoTrace, Trace};
pub use host::{
    Addr6, Cap, Caps, FilesId, Host, Interface, Namespace, NetId, Process, ProcessId, Sysctls, Uid,
    UserNamespace, UserNsId,
};
pub use ports::PortChoice;
pub use rules::{Rule, RuleInfo};
pub use version::{Change, Kernel};
pub use view::{BucketView, Owner};
pub use wire::TIME_WAIT_MS;
pub use world::{SocketId, World};
