//! Answers of the kernel that were kept: their bytes, taken apart as those that come from a socket.
//!
//! Decides:  nothing: it is how a fuzzer, and who was sent an answer that could not be read, reach the
//!           readings of diag.rs, links.rs and btf.rs.
//! Not here: asking the kernel (host.rs).

use std::io;

use portcullis_sys::netlink::Messages;

use crate::layout::Layout;
use crate::snapshot::{Protocol, Socket, UnixSocket};
use crate::{diag, links};

/// The TCP sockets of an answer of sock_diag.
///
/// # Errors
///
/// Where a message or a description is cut short, or makes no sense.
pub fn sockets(answer: &[u8]) -> io::Result<Vec<Socket>> {
    Messages(answer)
        .map(|message| diag::socket_in(message?.body, Protocol::Tcp))
        .collect()
}

/// The Unix sockets of an answer of sock_diag.
///
/// # Errors
///
/// As [`sockets`].
pub fn unix_sockets(answer: &[u8]) -> io::Result<Vec<UnixSocket>> {
    Messages(answer)
        .map(|message| diag::unix_in(message?.body))
        .collect()
}

/// How many interfaces and addresses an answer of rtnetlink describes.
///
/// # Errors
///
/// As [`sockets`].
pub fn interfaces(answer: &[u8]) -> io::Result<usize> {
    let mut count = 0;
    for message in Messages(answer) {
        count += links::read(message?)?;
    }
    Ok(count)
}

/// Whether the kernel's description of its types (`/sys/kernel/btf/vmlinux`) has all that the programs need.
///
/// # Errors
///
/// A sentence about what is wrong or missing.
pub fn kernel_types(btf: &[u8]) -> Result<(), String> {
    Layout::find(btf).map(|_| ())
}
