//! Sockets as BPF iterators tell them: with the options, buckets and groups that nothing else tells.
//!
//! Decides:  which iterators are run; why they could not be.
//! Kernel:   kernel/bpf/bpf_iter.c; needs CAP_BPF and CAP_PERFMON, and a kernel with BTF (5.11)
//! Not here: the programs (program.rs); what is made of a record (host.rs).

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use portcullis_sys::bpf::{load_iterator, open_iterator};

use crate::diag::Ports;
use crate::layout::{Layout, RECORD, Seen};
use crate::program;

/// One read of an iterator.
const BUFFER: usize = 256 * 1024;
/// More records than a host can have sockets.
const RECORDS_MAX: usize = 16 * 1024 * 1024;

/// A kernel whose types are known.
#[derive(Debug)]
pub(crate) struct Iterators {
    layout: Layout,
}

impl Iterators {
    /// Reads the kernel's description of itself.
    pub(crate) fn find(btf: &Path) -> Result<Iterators, String> {
        let bytes = std::fs::read(btf).map_err(|error| format!("{}: {error}", btf.display()))?;
        let layout = Layout::find(&bytes)?;
        Ok(Iterators { layout })
    }

    /// The sockets of this thread's network namespace that listen or have a peer, those that nobody holds
    /// included. Listeners stand in the order in which a SYN meets them.
    pub(crate) fn tcp(&self, ports: Ports) -> Result<Vec<Seen>, String> {
        self.run(
            "portcullis_tcp",
            &program::tcp(&self.layout, ports),
            self.layout.iter_tcp,
        )
    }

    /// The TCP sockets, of whatever namespace, that processes hold, and that neither listen nor have a peer.
    pub(crate) fn bound(&self, ports: Ports) -> Result<Vec<Seen>, String> {
        let target = self.layout.iter_task_file;
        let target = target.ok_or("this kernel has no bpf_sock_from_file (5.11)")?;
        self.run(
            "portcullis_fd",
            &program::task_file(&self.layout, ports),
            target,
        )
    }

    fn run(&self, name: &str, code: &[u64], target: u32) -> Result<Vec<Seen>, String> {
        let program = load_iterator(name, code, target).map_err(|refused| {
            let report = match refused.report.as_str() {
                "" => String::new(),
                report => format!(": {report}"),
            };
            format!("bpf: {}{report}", refused.error)
        })?;
        let bytes = open_iterator(program)
            .and_then(|iterator| read_all(File::from(iterator)))
            .map_err(|error| format!("bpf iterator: {error}"))?;
        let records = bytes.chunks(usize::from(RECORD));
        Ok(records
            .filter_map(|record| self.layout.read(record))
            .collect())
    }
}

fn read_all(mut iterator: File) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match iterator.read(&mut buffer) {
            Ok(0) => return Ok(all),
            Ok(length) => all.extend(&buffer[..length]),
            // The iterator has seen as many objects as it may at once, and goes on.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if all.len() > RECORDS_MAX * usize::from(RECORD) {
            return Err(io::Error::other("it does not end"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_testkit::{private_network_as_root, skip};
    use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport};
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    use std::net::SocketAddr;

    #[test]
    fn a_listener_and_a_bound_socket_are_seen_with_their_options() {
        private_network_as_root(|| {
            let iterators = match Iterators::find(Path::new("/sys/kernel/btf/vmlinux")) {
                Ok(iterators) => iterators,
                Err(why) => return skip(&why),
            };
            let at: SocketAddr = "127.0.0.1:443".parse().unwrap();
            let one = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
            set_socket_reuseport(&one, true).unwrap();
            bind(&one, &at).unwrap();
            listen(&one, 7).unwrap();
            let two = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
            set_socket_reuseaddr(&two, true).unwrap();
            bind(&two, &"[::1]:80".parse::<SocketAddr>().unwrap()).unwrap();

            let seen = match iterators.tcp(Ports::All) {
                Err(why) if why.contains("Operation not permitted") => return skip(&why),
                seen => seen.unwrap(),
            };
            assert_eq!(seen.len(), 1, "{seen:?}");
            let seen = &seen[0];
            assert_eq!((seen.local, seen.state), ((at.ip(), 443), 10));
            assert!(seen.reuseport && seen.reuse == 0 && seen.backlog == 7);
            let bucket = seen.bucket.as_ref().unwrap();
            assert_eq!((bucket.port, bucket.fastreuse), (443, 0));
            assert_eq!(
                (bucket.fastreuseport, bucket.uid, bucket.address),
                (2, 0, at.ip())
            );
            assert_eq!((seen.members, seen.closed, seen.program), (1, 0, false));

            let own = crate::process::namespace(Path::new("/proc/self/ns/net")).unwrap();
            let here = |ports| {
                let mut found = iterators.bound(ports).unwrap();
                found.retain(|one| u64::from(one.net) == own);
                found
            };
            let all = here(Ports::All);
            assert_eq!(all.len(), 1, "{all:?}");
            let bound = &all[0];
            assert_eq!(bound.local.1, 80);
            assert!(bound.reuse == 1 && !bound.reuseport && bound.state == 7);
            assert!(bound.v6only, "a true IPv6 address makes it so");
            assert_eq!(bound.locks, 4 | 8, "address and port were bound");

            for (first, last, listeners, bounds) in [
                (443, 443, 1, 0),
                (80, 80, 0, 1),
                (80, 443, 1, 1),
                (81, 442, 0, 0),
                (0, 80, 0, 1),
                (443, u16::MAX, 1, 0),
            ] {
                let ports = Ports::Within { first, last };
                let found = (iterators.tcp(ports).unwrap().len(), here(ports).len());
                assert_eq!(found, (listeners, bounds), "{ports:?}");
            }
        });
    }
}
