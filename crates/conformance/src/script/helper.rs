//! A live process of a script: a child that makes calls on descriptors of its own, as it is told.
//!
//! Decides:  the messages between the runner and such a child; in which order the child becomes who it
//!           is; that it is over when its end is asked for and seen.
//! Kernel:   fork(2), setresuid(2), setns(2), capabilities(7), pidfd_open(2)
//! Not here: the calls (hands.rs), what a call is in words (parse.rs, write.rs).

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use portcullis_kernel_model::{Bytes, Call, Caps, Family, Host, State};
use portcullis_sys::process::{self, Fork};
use portcullis_sys::{bare, pass};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, WaitOptions};
use rustix::thread::{CapabilitySet, LinkNameSpaceType};

use super::hands::{Hands, failed, high};
use super::parse::Reader;
use super::program::{STATES, Slot};
use super::world::Outcome;
use super::write::words_of;

/// The longest message: a call with an address and options of it.
const MESSAGE_MAX: usize = 512;
/// How long the end of a process is waited for.
const END: Timespec = Timespec {
    tv_sec: 5,
    tv_nsec: 0,
};

/// Such a process, from the runner's side.
#[derive(Debug)]
pub(super) struct Helper {
    channel: OwnedFd,
    /// Readable once it has ended.
    end: OwnedFd,
    /// Its number.
    pub(super) pid: Pid,
    /// Set where it is a child of this process, to be waited for.
    child: Option<Pid>,
}

/// Who a process is.
#[derive(Debug)]
pub(super) struct Identity<'a> {
    /// Its user id here.
    pub uid: u32,
    /// Its effective capabilities among those that decide here.
    pub caps: Caps,
    /// The network namespace that it enters first.
    pub net: Option<BorrowedFd<'a>>,
    /// The user namespace that it enters last.
    pub user_ns: Option<BorrowedFd<'a>>,
}

impl Helper {
    /// Makes the process. `hands` are its descriptors; this process goes on with its own `hands`.
    pub fn spawn(identity: &Identity<'_>, hands: &mut Hands, host: &Host) -> io::Result<Helper> {
        let (here, there) = channel()?;
        match process::fork()? {
            Fork::Parent(pid) => {
                drop(there);
                let mut helper = Helper {
                    channel: high(here)?,
                    end: pidfd(pid)?,
                    pid,
                    child: Some(pid),
                };
                match helper.answer()?.0 {
                    Outcome::Ok => Ok(helper),
                    Outcome::Err(number) => Err(io::Error::from_raw_os_error(number)),
                    _ => Err(nonsense()),
                }
            }
            Fork::Child => {
                drop(here);
                let served = high(there).and_then(|channel| {
                    let begun = become_it(identity);
                    let outcome = begun.as_ref().map_or_else(failed, |()| Outcome::Ok);
                    pass::send(&channel, print(&outcome).as_bytes(), &[])?;
                    begun?;
                    let server = Server {
                        caps: identity.caps,
                        reader: Reader::of_calls(host.clone()),
                    };
                    server.serve(channel, hands)
                });
                std::process::exit(i32::from(served.is_err()))
            }
        }
    }

    /// `socket`.
    pub fn open(&mut self, slot: Slot, family: Family) -> io::Result<Outcome> {
        let family = match family {
            Family::Inet => "inet",
            Family::Inet6 => "inet6",
        };
        self.order(&format!("open {slot} {family}"), None)
    }

    /// Any call that [`Hands::call`] makes.
    pub fn call(
        &mut self,
        slot: Slot,
        call: &Call,
        devices: &[(u32, String)],
    ) -> io::Result<Outcome> {
        let device = |index: u32| {
            let known = devices.iter().find(|device| device.0 == index);
            known.map_or("no-such-device".to_owned(), |device| device.1.clone())
        };
        let words = words_of(call, |port| port.to_string(), device);
        self.order(&format!("call {slot} {words}"), None)
    }

    /// `accept`.
    pub fn accept(&mut self, slot: Slot, into: Slot) -> io::Result<Outcome> {
        self.order(&format!("accept {slot} {into}"), None)
    }

    /// It sends a descriptor here.
    pub fn give(&mut self, slot: Slot) -> io::Result<Result<OwnedFd, Outcome>> {
        self.send(&format!("give {slot}"), None)?;
        match self.answer()? {
            (Outcome::Ok, Some(fd)) => Ok(Ok(fd)),
            (outcome, _) => Ok(Err(outcome)),
        }
    }

    /// It gets a descriptor from here.
    pub fn take(&mut self, slot: Slot, fd: BorrowedFd<'_>) -> io::Result<Outcome> {
        self.order(&format!("take {slot}"), Some(fd))
    }

    /// It goes into another network namespace.
    pub fn enter(&mut self, net: BorrowedFd<'_>) -> io::Result<Outcome> {
        self.order("enter", Some(net))
    }

    /// Its child, with copies of its descriptors.
    pub fn fork(&mut self) -> io::Result<Helper> {
        let (here, there) = channel()?;
        self.send("fork", Some(there.as_fd()))?;
        drop(there);
        let channel = high(here)?;
        match receive(&channel)? {
            (text, _) if text.starts_with("pid ") => {
                let pid = text[4..].parse().ok().and_then(Pid::from_raw);
                let pid = pid.ok_or_else(nonsense)?;
                Ok(Helper {
                    channel,
                    end: pidfd(pid)?,
                    pid,
                    child: None,
                })
            }
            _ => Err(nonsense()),
        }
    }

    /// Its number, for who looks at it from outside.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// It ends; what it held is closed when this returns.
    pub fn exit(&mut self) -> io::Result<()> {
        self.send("exit", None)?;
        self.ended()
    }

    fn ended(&mut self) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.end, PollFlags::IN)];
        if poll(&mut fds, Some(&END))? == 0 {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        if let Some(pid) = self.child.take() {
            rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
        }
        Ok(())
    }

    /// How many connections wait in a listener's queue.
    pub fn waiting(&mut self, slot: Slot) -> io::Result<u32> {
        match self.order(&format!("waiting {slot}"), None)? {
            Outcome::Value(count) => Ok(count as u32),
            _ => Err(nonsense()),
        }
    }

    /// The socket's own name and state, if it holds the socket.
    pub fn look(&mut self, slot: Slot) -> io::Result<Option<(SocketAddr, State)>> {
        let state = match self.order(&format!("state {slot}"), None)? {
            Outcome::Value(number) => number,
            _ => return Ok(None),
        };
        let state = STATES.iter().find(|entry| entry.1 as i32 == state);
        let name = self.order(&format!("call {slot} getsockname"), None)?;
        match (name, state) {
            (Outcome::Address(name), Some(state)) => Ok(Some((name, state.1))),
            _ => Ok(None),
        }
    }

    fn order(&mut self, text: &str, with: Option<BorrowedFd<'_>>) -> io::Result<Outcome> {
        self.send(text, with)?;
        Ok(self.answer()?.0)
    }

    fn send(&mut self, text: &str, with: Option<BorrowedFd<'_>>) -> io::Result<()> {
        pass::send(&self.channel, text.as_bytes(), with.as_slice())
    }

    fn answer(&mut self) -> io::Result<(Outcome, Option<OwnedFd>)> {
        let (text, fd) = receive(&self.channel)?;
        Ok((read(&text).ok_or_else(nonsense)?, fd))
    }
}

impl Drop for Helper {
    /// Told to end, if it has not; so that no process outlives its script.
    fn drop(&mut self) {
        if self.send("exit", None).is_ok() {
            let _ = self.ended();
        }
    }
}

/// The child's side.
struct Server {
    caps: Caps,
    reader: Reader,
}

impl Server {
    /// Does as it is told until the channel closes.
    fn serve(&self, mut channel: OwnedFd, hands: &mut Hands) -> io::Result<()> {
        loop {
            let (text, fd) = receive(&channel)?;
            let (word, rest) = text.split_once(' ').unwrap_or((&text, ""));
            if word == "exit" || text.is_empty() {
                return Ok(());
            }
            if let ("fork", Some(fd)) = (word, &fd) {
                let theirs = rustix::io::fcntl_dupfd_cloexec(fd, 500)?;
                if process::fork()? == Fork::Child {
                    channel = theirs;
                    let pid = rustix::process::getpid().as_raw_pid();
                    pass::send(&channel, format!("pid {pid}").as_bytes(), &[])?;
                }
                continue;
            }
            let mut slots = rest.split(' ').map_while(|word| word.parse::<Slot>().ok());
            let slot = slots.next().unwrap_or(0);
            if word == "give" {
                match hands.copy(slot) {
                    Ok(fd) => pass::send(&channel, b"ok", &[fd.as_fd()])?,
                    Err(error) => pass::send(&channel, print(&failed(&error)).as_bytes(), &[])?,
                }
                continue;
            }
            let outcome = match (word, fd) {
                ("open", _) => hands.open(slot, family(rest)),
                ("accept", _) => hands.accept(slot, slots.next().unwrap_or(0)),
                ("take", Some(fd)) => {
                    hands.take(slot, fd);
                    Outcome::Ok
                }
                ("enter", Some(net)) => self.enter(net.as_fd()),
                ("waiting", _) => Outcome::Value(hands.waiting(slot) as i32),
                ("state", _) => match hands.look(slot) {
                    Some((_, state)) => Outcome::Value(state as i32),
                    None => Outcome::Err(libc::EBADF),
                },
                ("call", _) => self.call(hands, slot, rest),
                _ => return Err(nonsense()),
            };
            pass::send(&channel, print(&outcome).as_bytes(), &[])?;
        }
    }

    fn call(&self, hands: &mut Hands, slot: Slot, rest: &str) -> Outcome {
        let words = rest.split_once(' ').map_or("", |(_, words)| words);
        match self.reader.one_call(words) {
            Ok(call) => hands.call(slot, call),
            // The runner sends what it has read itself.
            Err(_) => Outcome::Err(libc::EPROTO),
        }
    }

    /// It takes its hidden capabilities for the one call, as a privileged launcher would make it.
    fn enter(&self, net: BorrowedFd<'_>) -> Outcome {
        let entered = wield(Caps::ALL)
            .and_then(|()| enter(net, LinkNameSpaceType::Network))
            .and_then(|()| wield(self.caps));
        entered.map_or_else(|error| failed(&error), |()| Outcome::Ok)
    }
}

fn family(rest: &str) -> Family {
    if rest.ends_with("inet6") {
        Family::Inet6
    } else {
        Family::Inet
    }
}

fn become_it(identity: &Identity<'_>) -> io::Result<()> {
    wield(Caps::ALL)?;
    if let Some(net) = identity.net {
        enter(net, LinkNameSpaceType::Network)?;
    }
    rustix::thread::set_keep_capabilities(true)?;
    process::set_user(identity.uid)?;
    // Another user's effective capabilities are none until they are raised again.
    wield(Caps::ALL)?;
    if let Some(user_ns) = identity.user_ns {
        enter(user_ns, LinkNameSpaceType::User)?;
    }
    wield(identity.caps)
}

fn enter(namespace: BorrowedFd<'_>, kind: LinkNameSpaceType) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(
        namespace,
        Some(kind),
    )?)
}

/// Makes the permitted capabilities effective, but of those that decide here only these.
pub(super) fn wield(caps: Caps) -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    let decide = [
        (CapabilitySet::NET_BIND_SERVICE, caps.net_bind_service),
        (CapabilitySet::NET_ADMIN, caps.net_admin),
        (CapabilitySet::NET_RAW, caps.net_raw),
    ];
    for (cap, _) in decide.iter().filter(|(_, has)| !has) {
        sets.effective.remove(*cap);
    }
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// A user namespace of this user, and network namespaces that it owns: made by a child, and kept by
/// these descriptors.
pub(super) fn make_user_namespace(owner: u32, nets: usize) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
    let (here, there) = channel()?;
    match process::fork()? {
        Fork::Child => {
            drop(here);
            let sent = own_namespaces(owner, nets).and_then(|all| {
                let all: Vec<BorrowedFd<'_>> = all.iter().map(AsFd::as_fd).collect();
                pass::send(&there, b"made", &all)
            });
            let code = match sent {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().unwrap_or(libc::EIO),
            };
            std::process::exit(code)
        }
        Fork::Parent(pid) => {
            drop(there);
            let mut buffer = [0; 8];
            let received = pass::receive(&here, &mut buffer)?;
            let status = rustix::process::waitpid(Some(pid), WaitOptions::empty())?;
            let code = status.and_then(|(_, status)| status.exit_status());
            if let Some(code) = code.filter(|&code| code != 0) {
                return Err(io::Error::from_raw_os_error(code));
            }
            let all: io::Result<Vec<OwnedFd>> =
                received.descriptors.into_iter().map(high).collect();
            let mut all = all?.into_iter();
            let first = all.next().ok_or_else(nonsense)?;
            Ok((first, all.collect()))
        }
    }
}

fn own_namespaces(owner: u32, nets: usize) -> io::Result<Vec<OwnedFd>> {
    process::set_user(owner)?;
    process::enter_unmapped_user_namespace()?;
    let mut all = vec![this_namespace("user")?];
    for _ in 0..nets {
        bare::enter_network_namespace()?;
        all.push(this_namespace("net")?);
    }
    Ok(all)
}

/// The namespace of a kind in which this process is.
pub(super) fn this_namespace(kind: &str) -> io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let path = format!("/proc/self/ns/{kind}");
    high(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socketpair(
        family,
        kind,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    high(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

fn receive(channel: &OwnedFd) -> io::Result<(String, Option<OwnedFd>)> {
    let mut buffer = [0; MESSAGE_MAX];
    let received = pass::receive(channel, &mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..received.length]).into_owned();
    Ok((text, received.descriptors.into_iter().next()))
}

fn nonsense() -> io::Error {
    io::Error::other("a process of the script told nonsense, or ended early")
}

fn print(outcome: &Outcome) -> String {
    let mut text = String::new();
    let _ = match outcome {
        Outcome::Ok => write!(text, "ok"),
        Outcome::Accepted => write!(text, "accepted"),
        Outcome::Blocks => write!(text, "blocks"),
        Outcome::Err(number) => write!(text, "err {number}"),
        Outcome::Value(value) => write!(text, "value {value}"),
        Outcome::Bytes(bytes) => write!(text, "bytes {bytes}"),
        Outcome::Address(address) => write!(text, "address {address}"),
    };
    text
}

fn read(text: &str) -> Option<Outcome> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Some(match word {
        "ok" => Outcome::Ok,
        "accepted" => Outcome::Accepted,
        "blocks" => Outcome::Blocks,
        "err" => Outcome::Err(rest.parse().ok()?),
        "value" => Outcome::Value(rest.parse().ok()?),
        "bytes" => Outcome::Bytes(Bytes::parse(rest)?),
        "address" => Outcome::Address(rest.parse().ok()?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_arrives_as_it_was_sent() {
        let addresses = ["127.0.0.1:80", "[::1]:0", "[fe80::7%3]:443"];
        let mut all = vec![
            Outcome::Ok,
            Outcome::Accepted,
            Outcome::Blocks,
            Outcome::Err(98),
            Outcome::Value(-1),
            Outcome::Bytes(Bytes::new(b"eth0\0")),
            Outcome::Bytes(Bytes::default()),
        ];
        all.extend(addresses.map(|text| Outcome::Address(text.parse().unwrap())));
        for outcome in all {
            assert_eq!(read(&print(&outcome)), Some(outcome));
        }
        assert_eq!(read("err many"), None);
    }
}
