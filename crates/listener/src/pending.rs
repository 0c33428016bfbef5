//! How many connections depend on a listener: half-open ones, and those that wait for `accept`.
//!
//! Decides:  that the number of references that the kernel prints is the number of those connections and one.
//! Kernel:   net/ipv4/tcp_ipv4.c, get_tcp4_sock(); net/ipv6/tcp_ipv6.c, get_tcp6_sock();
//!           net/ipv4/inet_connection_sock.c, reqsk_alloc(), inet_csk_accept(): a request holds its listener
//!           from the SYN until its connection is accepted, refused or given up; 4.4 to 6.18
//! Not here: what to do about it (retire.rs).
//!
//! Neither `TCP_INFO` nor sock_diag tells it: both know the accept queue alone, and a request in the state
//! SYN_RECV names an address, which several listeners share, not a listener. `/proc/net/tcp` prints
//! `sk_refcnt`, one atomic number: the socket's own, one for each request. What is over it for a moment
//! (a packet or a dump that looks at the socket) only makes the number too large. A connection of TCP Fast
//! Open counts until its handshake is complete, accepted or not. A handshake by SYN cookie does not count,
//! since the kernel keeps nothing of it; [`Looker::cookies_sent`] tells whether there can be any.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::fs::fstat;
use rustix::io::Errno;

/// The socket's reference to itself.
const OWN: u32 = 1;
/// `TCP_LISTEN`, as it is printed.
const LISTEN: &str = "0A";
/// Read at once; the kernel gives no more than a page of lines.
const CHUNK: usize = 16 * 1024;
/// Listening sockets come first; of a host with more than fits here, nothing is known.
const MOST: usize = 64 * 1024 * 1024;

/// One listening TCP socket of the network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The number by which `fstat` of a descriptor knows the socket.
    pub inode: u64,
    /// Family, address and port as the kernel prints them: equal for the members of a group.
    pub local: String,
    /// Half-open connections, and connections that wait for `accept`.
    pub pending: u32,
}

/// The tables of a network namespace, open: they stay readable after a `chroot`, and are those of the
/// namespace in which they were opened.
#[derive(Debug)]
pub struct Looker {
    ipv4: File,
    ipv6: Option<File>,
    counters: Option<File>,
    migrate: Option<File>,
    /// What was read last, for all clones.
    last: Arc<Mutex<Option<Listing>>>,
    /// Sockets that are no strangers, wherever they listen.
    apart: HashSet<u64>,
}

/// All listeners, and when reading them began.
#[derive(Debug, Clone)]
struct Listing {
    began: Instant,
    rows: Arc<[Row]>,
}

impl Looker {
    /// Opens the tables of the calling thread's network namespace.
    pub fn open() -> io::Result<Looker> {
        let ipv6 = match File::open("/proc/thread-self/net/tcp6") {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Looker {
            ipv4: File::open("/proc/thread-self/net/tcp")?,
            ipv6,
            counters: File::open("/proc/thread-self/net/netstat").ok(),
            migrate: File::open("/proc/sys/net/ipv4/tcp_migrate_req").ok(),
            last: Arc::default(),
            apart: HashSet::new(),
        })
    }

    /// Opens the tables of another network namespace: a name under `/run/netns`, or a path.
    pub fn open_in(namespace: &str) -> io::Result<Looker> {
        match crate::netns::inside(namespace, Looker::open) {
            Ok(looker) => looker,
            Err(crate::netns::CannotEnter(errno)) => Err(errno.into()),
        }
    }

    /// Another one, of the same tables: for a second retirement in the namespace. What one of them reads the
    /// others know too ([`Looker::listeners_since`]).
    pub fn try_clone(&self) -> io::Result<Looker> {
        let clone = |file: &Option<File>| file.as_ref().map(File::try_clone).transpose();
        Ok(Looker {
            ipv4: self.ipv4.try_clone()?,
            ipv6: clone(&self.ipv6)?,
            counters: clone(&self.counters)?,
            migrate: clone(&self.migrate)?,
            last: Arc::clone(&self.last),
            apart: self.apart.clone(),
        })
    }

    /// Sockets, by their inodes, that the caller knows to be of other groups than those that this looker is for,
    /// though perhaps at the same address: their device or their `IPV6_V6ONLY` is another. The tables tell
    /// neither, so that without this word they would count as strangers in the group.
    pub fn set_apart(&mut self, inodes: HashSet<u64>) {
        self.apart = inodes;
    }

    /// Whether these sockets are [`alone`], but for those that were set apart.
    pub fn alone(&self, rows: &[Row], inodes: &[u64]) -> bool {
        match self.apart.is_empty() {
            true => alone(rows, inodes),
            false => {
                let rows = rows.iter().filter(|row| !self.apart.contains(&row.inode));
                alone(&rows.cloned().collect::<Vec<_>>(), inodes)
            }
        }
    }

    /// All listening TCP sockets of the namespace.
    pub fn listeners(&mut self) -> io::Result<Vec<Row>> {
        Ok(self.listeners_since(Instant::now())?.to_vec())
    }

    /// All listening TCP sockets of the namespace, as they were then or later: where a clone has read them since,
    /// they are not read again, which for a thousand listeners takes milliseconds.
    pub fn listeners_since(&mut self, since: Instant) -> io::Result<Arc<[Row]>> {
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listing) = &*last()
            && listing.began >= since
        {
            return Ok(Arc::clone(&listing.rows));
        }
        let began = Instant::now();
        let mut rows = Vec::new();
        listening(&self.ipv4, "4 ", &mut rows)?;
        if let Some(file) = &self.ipv6 {
            listening(file, "6 ", &mut rows)?;
        }
        let rows: Arc<[Row]> = rows.into();
        *last() = Some(Listing {
            began,
            rows: Arc::clone(&rows),
        });
        Ok(rows)
    }

    /// The connections that depend on this listener, or `None` where it is none, or not of this namespace.
    pub fn pending(&mut self, listener: impl AsFd) -> io::Result<Option<u32>> {
        self.pending_since(listener, Instant::now())
    }

    /// The same, then or later ([`Looker::listeners_since`]).
    pub fn pending_since(
        &mut self,
        listener: impl AsFd,
        since: Instant,
    ) -> io::Result<Option<u32>> {
        let inode = inode_of(listener)?;
        let rows = self.listeners_since(since)?;
        let row = rows.iter().find(|row| row.inode == inode);
        Ok(row.map(|row| row.pending))
    }

    /// How many SYNs the namespace has answered by cookies since it began (`TcpExtSyncookiesSent`); `None`
    /// where that is not told.
    pub fn cookies_sent(&mut self) -> Option<u64> {
        let text = read_all(self.counters.as_ref()?).ok()?;
        counter(&text, "TcpExt:", "SyncookiesSent")
    }

    /// Whether `net.ipv4.tcp_migrate_req` is on: a group takes over what a closed member leaves. Off where the
    /// kernel does not know it (5.14).
    pub fn migrates(&mut self) -> bool {
        let text = self.migrate.as_ref().map(read_all);
        matches!(text, Some(Ok(text)) if text.trim() == "1")
    }
}

/// The number by which the tables know a socket.
pub fn inode_of(socket: impl AsFd) -> io::Result<u64> {
    Ok(fstat(socket)?.st_ino)
}

/// Whether these sockets, by their inodes, listen at one address, and nobody else there: then their group has
/// no members but them. More than needed is asked, since the tables do not tell devices and `IPV6_V6ONLY`.
pub fn alone(rows: &[Row], inodes: &[u64]) -> bool {
    let found = rows.iter().filter(|row| inodes.contains(&row.inode));
    let mut addresses = found.map(|row| &row.local);
    let Some(address) = addresses.next() else {
        return false;
    };
    let here = rows.iter().filter(|row| row.local == *address).count();
    here == inodes.len() && addresses.filter(|other| *other == address).count() == here - 1
}

fn listening(file: &File, family: &str, rows: &mut Vec<Row>) -> io::Result<()> {
    // The kernel prints all listeners, then all others.
    let text = read_while(file, |line| {
        fields(line).is_none_or(|fields| fields.state == LISTEN)
    })?;
    for line in text.lines() {
        let Some(fields) = fields(line).filter(|fields| fields.state == LISTEN) else {
            continue;
        };
        let numbers = (fields.inode.parse(), fields.references.parse::<u32>());
        let (Ok(inode), Ok(references)) = numbers else {
            return Err(Errno::PROTO.into());
        };
        rows.push(Row {
            inode,
            local: format!("{family}{}", fields.local),
            pending: references.saturating_sub(OWN),
        });
    }
    Ok(())
}

struct Fields<'a> {
    local: &'a str,
    state: &'a str,
    inode: &'a str,
    references: &'a str,
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ref …`; `None` for the heading.
fn fields(line: &str) -> Option<Fields<'_>> {
    let mut words = line.split_ascii_whitespace();
    words.next()?.strip_suffix(':')?;
    Some(Fields {
        local: words.next()?,
        state: words.nth(1)?,
        inode: words.nth(5)?,
        references: words.next()?,
    })
}

fn read_all(file: &File) -> io::Result<String> {
    read_while(file, |_| true)
}

/// Reads from the beginning as long as the last whole line is of interest.
fn read_while(file: &File, more: impl Fn(&str) -> bool) -> io::Result<String> {
    let mut bytes = Vec::new();
    loop {
        let at = bytes.len();
        bytes.resize(at + CHUNK, 0);
        let read = file.read_at(&mut bytes[at..], at as u64);
        bytes.truncate(at + *read.as_ref().unwrap_or(&0));
        let read = match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let end = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = bytes.get(..end.unwrap_or(0)).unwrap_or(&[]);
        let last = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or(&[]);
        if read == 0 || !more(&String::from_utf8_lossy(last)) {
            return Ok(String::from_utf8_lossy(whole).into_owned());
        }
        if bytes.len() > MOST {
            return Err(Errno::NOBUFS.into());
        }
    }
}

/// A number of `/proc/net/netstat`: a line of names, a line of values, each behind the same word.
fn counter(text: &str, group: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group));
    let at = lines
        .next()?
        .split_ascii_whitespace()
        .position(|word| word == name)?;
    let value = lines.next()?.split_ascii_whitespace().nth(at)?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_its_fields_and_the_heading_none() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000  1000  \
                    0 91827 7 0000000012345678 100 0 0 10 0";
        let fields = fields(line).unwrap();
        assert_eq!(
            (fields.local, fields.state, fields.inode, fields.references),
            ("0100007F:1F90", "0A", "91827", "7")
        );
        let heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when";
        assert!(super::fields(heading).is_none());
        assert!(super::fields("   0: 0100007F:1F90").is_none());
    }

    #[test]
    fn a_counter_stands_under_its_name() {
        let text = "TcpExt: A SyncookiesSent C\nTcpExt: 1 22 3\nIpExt: A\nIpExt: 4\n";
        assert_eq!(counter(text, "TcpExt:", "SyncookiesSent"), Some(22));
        assert_eq!(counter(text, "TcpExt:", "D"), None);
        assert_eq!(counter("", "TcpExt:", "A"), None);
    }

    #[test]
    fn a_group_is_alone_if_all_at_its_address_are_its_own() {
        let row = |inode, local: &str| Row {
            inode,
            local: local.into(),
            pending: 0,
        };
        let rows = [
            row(1, "4 A:1"),
            row(2, "4 A:1"),
            row(3, "4 B:1"),
            row(4, "6 A:1"),
        ];
        let table: [(&str, &[u64], bool); 6] = [
            ("both", &[1, 2], true),
            ("one of two", &[1], false),
            ("the only one", &[3], true),
            ("of two addresses", &[1, 3], false),
            ("one that is not there", &[3, 9], false),
            ("nobody", &[], false),
        ];
        for (what, inodes, expected) in table {
            assert_eq!(alone(&rows, inodes), expected, "{what}");
        }
        let mut looker = Looker::open().unwrap();
        assert!(!looker.alone(&rows, &[1]));
        looker.set_apart(HashSet::from([2, 4]));
        assert!(looker.alone(&rows, &[1]));
        assert!(looker.try_clone().unwrap().alone(&rows, &[1]));
        assert!(!looker.alone(&rows, &[1, 3]));
    }
}
