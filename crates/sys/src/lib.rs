//! The system calls Portcullis makes that rustix lacks, one safe function each.

pub mod bare;
pub mod bpf;
pub mod env;
pub mod errno;
pub mod fd;
pub mod files;
pub mod filter;
pub mod io;
pub mod namespace;
pub mod netlink;
pub mod pass;
pub mod process;
pub mod socket;
pub mod sockopt;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod trace;
