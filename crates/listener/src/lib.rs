//! Open any kind of Linux listening socket from one specification, with errors that explain.
//!
//! Decides:  what a stranger's program sees of this library.
//! Not here: who holds a port and why the kernel said no (crate `inspect`); accepting (its user).
//!
//! # One specification
//!
//! A [`ListenerSpec`] says where to listen and with which options: TCP over IPv4 or IPv6, Multipath
//! TCP, Unix sockets with a path or an abstract name, descriptors that the process was started
//! with, sockets that systemd passed. [`open`] turns it into [`Listener`]s:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::net::{TcpListener, TcpStream};
//! use portcullis_listener::{ListenerSpec, open};
//!
//! let mut spec = ListenerSpec::tcp("127.0.0.1:0".parse()?);
//! spec.backlog = Some(128);
//! spec.no_delay = true; // accepted connections inherit it
//! let listener = open(&spec)?.listeners.remove(0);
//!
//! let server = TcpListener::try_from(listener)?; // non-blocking, for an event loop
//! server.set_nonblocking(false)?; // this example has none
//! let _client = TcpStream::connect(server.local_addr()?)?;
//! let (connection, _) = server.accept()?;
//! assert!(connection.nodelay()?);
//! # Ok(()) }
//! ```
//!
//! # Nothing is silent
//!
//! An option that the kernel refuses is a [`Report`]: a warning, or an error where
//! [`ListenerSpec::strict`] says so. An `interface` or a TCP-MD5 key that cannot be applied is always
//! an error, since the port would be open to others than it was meant for. An [`OpenError`] carries
//! the [`Step`], the [`Cause`], the address and the [`Flags`], and is one line for the user:
//!
//! ```
//! use portcullis_listener::{Hint, ListenerSpec, Step, open};
//!
//! let spec = ListenerSpec::tcp("192.0.2.1:8080".parse().unwrap());
//! let error = open(&spec).unwrap_err();
//! assert_eq!(error.step(), Step::Bind);
//! assert_eq!(error.hints(), [Hint::AddressNotLocal]);
//! assert_eq!(
//!     error.to_string(),
//!     "cannot bind socket [192.0.2.1:8080]: cannot assign requested address (EADDRNOTAVAIL)"
//! );
//! ```
//!
//! # All or nothing
//!
//! [`open_set`] opens several specifications or none, in their order; [`OpenSet`] can be added to
//! later, as for a reload. Trying again is for those who ask for it, with a [`RetryPolicy`]. What
//! other processes hold is never touched.
//!
//! # Another configuration
//!
//! [`compare`] says what a new specification means for a socket that listens already, and
//! [`adjust()`] gives it the options that it can take as it is, so that its queue stays.
//!
//! # Shards
//!
//! With [`ListenerSpec::shards`] several sockets share one port, one for each thread, and the
//! kernel spreads connections over them. Each has a backlog of its own. What cannot be sharded
//! (Unix sockets, inherited ones) becomes one socket, which several threads can accept from.
//!
//! # Another user
//!
//! A server that is started as root and runs as another user sets [`ListenerSpec::owner_uid`]: the
//! sockets are given to that user before `bind`, since the kernel lets only sockets of one user
//! share a port, so a shard that is added later finds its siblings.
//!
//! # Shards that come and go
//!
//! A socket that closes resets what waits in its queue and what is half-open. [`retire`] closes some
//! sockets of a port, or all, and loses neither: it steers new connections to the others by a program
//! ([`steer`]) or drops their SYNs for the time ([`pause`]), waits until everything that the listener
//! began is accepted ([`pending`] counts it), and closes then. [`pause::pause`] alone stops a listener
//! for a while; where that was without CAP_NET_ADMIN, what is accepted needs [`pause::min_ttl::admit`].
//! `docs/retiring.md` has the steps, the reasons and the figures.
//!
//! # Whole programs
//!
//! - `examples/blocking.rs`: a thread for each connection;
//! - `examples/tokio.rs`: over TCP or a Unix socket;
//! - `examples/sharded.rs`: a thread and a socket for each core;
//! - `examples/retire.rs`: shards that close and open again under load.

pub mod activation;
pub mod address;
pub mod adjust;
pub mod adopt;
pub mod context;
pub mod error;
pub mod flags;
pub mod handover;
pub mod inherited;
pub mod listener;
pub mod netns;
mod open;
pub mod opener;
mod options;
pub mod pause;
pub mod pending;
mod restore;
pub mod retire;
pub mod set;
pub mod shards;
pub mod spec;
pub mod steer;
pub mod step;
mod unix;

pub use activation::Activation;
pub use address::LocalAddress;
pub use adjust::{Change, adjust, compare, enforce};
pub use adopt::{Known, Pool};
pub use context::{OpenContext, RetryPolicy};
pub use error::{Cause, Hint, OpenError, Report, SetError};
pub use flags::Flags;
pub use listener::{Listener, ListenerFacts, WrongFamily};
pub use open::listen_now;
pub use set::{OpenSet, Opened, open, open_set, open_with};
pub use spec::{Address, ListenerSpec};
pub use step::Step;
