//! What the tests of all crates share. Never a dependency of anything that ships.
//!
//! Decides:  how a test gets a network of its own ([`private_network`]), how a missing thing skips it
//!           visibly ([`skip`]), how processes are started, watched and always ended ([`Process`]), how kept
//!           cases of a fuzz target are replayed ([`replay`]).
//! Not here: anything about Portcullis itself; the harness of the whole-binary tests is with them.
//!
//! ```no_run
//! # use portcullis_testkit::*;
//! // in a #[test]:
//! private_network(|| {
//!     add_address("192.0.2.1".parse().unwrap()).unwrap();
//!     let listener = std::net::TcpListener::bind("192.0.2.1:80").unwrap();
//! });
//! ```

mod corpus;
mod lo;
mod namespace;
mod probe;
mod process;
mod skip;

pub use corpus::replay;
pub use lo::{add_address, loopback_up};
pub use namespace::{forgo_net_admin, private_network, private_network_as_root, set_sysctl};
pub use probe::{
    cpu_time, descriptors, eventually, free_port, listening, rss_kib, sockets, wait_for,
};
pub use process::Process;
pub use rustix::process::Signal;
pub use skip::{in_ci, need_program, need_root, skip};
