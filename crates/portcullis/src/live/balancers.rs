//! Does a holder hand its sockets over, and this one too?
//!
//! Decides:  that a program's name proves nothing: Portcullis is who runs this very file or answers as it does;
//!           HAProxy is believed once it gave the socket that is wanted, to the question that `run -x` asks.
//!           Only sockets that the configuration or `-x` names are asked, and only those of the holder.
//! Source:   HAProxy's src/cli.c, _getsocks(), 2.6; crates/control, admin/take.rs
//! Kernel:   proc_pid_exe(5)
//! Not here: what is made of it (foreseen.rs, local.rs), taking for good (`run -x`).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_control::admin::take;
use portcullis_control::{Plan, control_socket};
use portcullis_inspect::snapshot::{Snapshot, UnixSocket};
use portcullis_inspect::verdict::Holder;
use portcullis_listener::{Address, LocalAddress, Pool};

/// Programs that take listeners over from each other.
const NAMES: [&str; 2] = ["portcullis", "haproxy"];
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether somebody can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Live {
    /// It is this host.
    Yes,
    /// It is the host of a file: names are all there is.
    No,
}

/// Who is asked on which socket, and what they gave.
#[derive(Debug)]
pub struct Balancers {
    live: Live,
    sockets: Vec<PathBuf>,
    given: RefCell<BTreeMap<PathBuf, Given>>,
}

/// What a socket gives.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Given {
    Nothing,
    /// It is Portcullis: what it holds it hands over.
    All,
    These(Vec<LocalAddress>),
}

/// What is known of a holder that is in the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// It hands this socket over; by name.
    HandsOver(String),
    /// It is called like a balancer, and does not; by name.
    Keeps(String),
    /// It is another program, or nobody that can be seen.
    Other,
}

impl Balancers {
    /// Those who answer at the sockets that the configuration names, or at this one.
    pub fn new(plan: &Plan, live: Live, take_from: Option<&Path>) -> Balancers {
        let of_file = plan.admin.sockets.iter().map(|one| &one.spec.address);
        let mut sockets: Vec<PathBuf> = take_from.map(Path::to_owned).into_iter().collect();
        sockets.extend(of_file.filter_map(|address| match address {
            Address::UnixPath(path) => Some(path.clone()),
            _ => None,
        }));
        let beside = plan.process.pidfile.as_deref().map(control_socket::beside);
        sockets.extend(beside);
        Balancers {
            live,
            sockets,
            given: RefCell::default(),
        }
    }

    /// Of the holders of TCP sockets that stand in the way of this address, all together.
    pub fn of_tcp<'a>(
        &self,
        snapshot: &Snapshot,
        holders: impl IntoIterator<Item = &'a Holder>,
        wanted: SocketAddr,
    ) -> Holding {
        let mut told = Holding::Other;
        for holder in holders {
            let pids: Vec<u32> = holder.processes.iter().map(|one| one.pid).collect();
            let wanted = LocalAddress::Inet(wanted);
            let one = match self.is_balancer(snapshot, &pids) {
                false => return Holding::Other,
                true if wanted != LocalAddress::Inet(holder.address) => {
                    Holding::Keeps(holder.called())
                }
                true => self.hands_over(snapshot, &pids, &wanted, holder.called()),
            };
            if matches!(told, Holding::Other | Holding::HandsOver(_)) {
                told = one;
            }
        }
        told
    }

    /// Of a Unix socket's holders.
    pub fn of_unix(&self, snapshot: &Snapshot, socket: &UnixSocket, at: &LocalAddress) -> Holding {
        let pids: Vec<u32> = socket.holders.iter().map(|one| one.pid).collect();
        if !self.is_balancer(snapshot, &pids) {
            return Holding::Other;
        }
        let first = pids.first().and_then(|&pid| snapshot.process(pid));
        let name = first.map_or_else(String::new, |one| format!("{} (pid {})", one.name, one.pid));
        self.hands_over(snapshot, &pids, at, name)
    }

    /// By their names, and of this program by what they run: all of them.
    fn is_balancer(&self, snapshot: &Snapshot, pids: &[u32]) -> bool {
        let named = |pid| {
            let process = snapshot.process(pid);
            process.is_some_and(|process| NAMES.contains(&process.name.as_str()))
        };
        let one = |&pid: &u32| named(pid) || (self.live == Live::Yes && runs_this_program(pid));
        !pids.is_empty() && pids.iter().all(one)
    }

    fn hands_over(
        &self,
        snapshot: &Snapshot,
        pids: &[u32],
        wanted: &LocalAddress,
        name: String,
    ) -> Holding {
        // It takes its own over when it reads the file again, and gives them to the next one.
        let ours = || pids.iter().all(|&pid| runs_this_program(pid));
        let gives = || {
            let held = self.sockets.iter().filter(|path| {
                let net = snapshot.namespaces.first();
                let mut all = net.into_iter().flat_map(|net| &net.unix);
                let by_them = |one: &UnixSocket| {
                    let mut holders = one.holders.iter();
                    holders.any(|holder| pids.contains(&holder.pid))
                };
                all.any(|one| one.is_at(path) && by_them(one))
            });
            held.map(|path| self.ask(path)).any(|given| match given {
                Given::Nothing => false,
                Given::All => true,
                // Its name was another one before it was renamed; and a path is no obstacle.
                Given::These(_) if matches!(wanted, LocalAddress::UnixPath(_)) => true,
                Given::These(all) => all.contains(wanted),
            })
        };
        match self.live == Live::No || ours() || gives() {
            true => Holding::HandsOver(name),
            false => Holding::Keeps(name),
        }
    }

    /// Asks once.
    fn ask(&self, path: &Path) -> Given {
        let mut given = self.given.borrow_mut();
        let ask = || {
            match who_answers(path) {
                Some("Portcullis") => return Given::All,
                // Portcullis would make ready to be left by who asks it so.
                Some("HAProxy") => {}
                _ => return Given::Nothing,
            }
            let pool = Pool::default();
            let answered = take::fill(path, &pool);
            // What came is closed at once: who gave it goes on with its own.
            let all = pool.close_rest();
            match answered {
                Ok(_) => Given::These(all),
                Err(_) => Given::Nothing,
            }
        };
        given.entry(path.to_owned()).or_insert_with(ask).clone()
    }
}

/// Whether a process runs the file that this one runs, under whatever name.
fn runs_this_program(pid: u32) -> bool {
    let file = |of: &str| std::fs::metadata(format!("/proc/{of}/exe"));
    match (file("self"), file(&pid.to_string())) {
        (Ok(own), Ok(theirs)) => (own.dev(), own.ino()) == (theirs.dev(), theirs.ino()),
        _ => false,
    }
}

/// `show info`, whose first line says who it is.
fn who_answers(path: &Path) -> Option<&'static str> {
    const NAMED: [(&[u8], &str); 2] = [
        (b"Name: HAProxy", "HAProxy"),
        (b"Name: Portcullis", "Portcullis"),
    ];
    let mut stream = UnixStream::connect(path).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.write_all(b"show info\n").ok()?;
    let mut first = [0; b"Name: Portcullis".len()];
    stream.read_exact(&mut first).ok()?;
    let named = NAMED.iter().find(|(line, _)| first.starts_with(line));
    named.map(|&(_, name)| name)
}
