//! A live kernel as a world: each step is a system call in a network made for it alone.
//!
//! Decides:  who a call is made as: users are identities of this process, processes are children with
//!           descriptors of their own; which namespaces they are in.
//! Kernel:   network_namespaces(7), user_namespaces(7), capabilities(7), credentials(7)
//! Not here: the calls (hands.rs), what a network holds (network.rs), the children (helper.rs).

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use portcullis_kernel_model::{
    Call, Caps, Errno, Family, FilesId, Host, NetId, Process, ProcessId, State, Sysctl, UserNsId,
};
use portcullis_sys::{bare, process};
use rustix::process::Pid;
use rustix::thread::LinkNameSpaceType;

use super::hands::{Hands, failed};
use super::helper::{Helper, Identity, make_user_namespace, this_namespace, wield};
use super::network;
use super::program::Slot;
use super::run::Tally;
use super::world::{Outcome, World};

/// Between two looks for a connection that nobody got yet.
pub(super) const LOOK: Duration = Duration::from_millis(1);

/// The kernel that runs here.
#[derive(Debug)]
pub struct Kernel {
    host: Host,
    /// This process's sockets: those of all users.
    hands: Hands,
    callers: Vec<Caller>,
    nets: Vec<OwnedFd>,
    devices: Vec<(u32, String)>,
    own_user: u32,
    now: u32,
}

/// Who makes calls.
#[derive(Debug)]
enum Caller {
    /// A user: an identity of this process.
    Here { uid: u32, caps: Caps },
    /// A process of its own.
    There(Helper),
    /// A process that has ended.
    Gone,
}

/// Why a script cannot run here.
#[derive(Debug)]
pub enum Obstacle {
    /// This host lacks something that the script needs; it is skipped, and says so.
    Skip(String),
    /// Something failed.
    Failed(io::Error),
}

impl Obstacle {
    /// What is counted and said of a script that stopped here before its first step.
    #[must_use]
    pub fn told(self) -> (Tally, String) {
        let mut tally = Tally::default();
        match self {
            Obstacle::Skip(reason) => {
                tally.skipped = 1;
                (tally, format!("skipped: {reason}"))
            }
            Obstacle::Failed(error) => {
                tally.failed = 1;
                (tally, format!("its host cannot be made: {error}"))
            }
        }
    }
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        Obstacle::Failed(error)
    }
}

impl Kernel {
    /// Makes the host in a fresh network namespace, for this process from now on: without root in a
    /// user namespace of its own too. The process has one thread and is a child made for this.
    ///
    /// `ids` are the users who make calls or own sockets in the script.
    pub fn enter(host: &Host, ids: &BTreeSet<u32>) -> Result<Kernel, Obstacle> {
        let root = rustix::process::geteuid().is_root();
        if !root && ids.len() > 1 {
            let reason = "it has several users, and only root can be several";
            return Err(Obstacle::Skip(reason.to_owned()));
        }
        if !root {
            process::enter_user_namespace().map_err(|error| {
                Obstacle::Skip(format!("a user namespace cannot be made here: {error}"))
            })?;
        }
        crate::times::raise_limit()?;
        // Programs that go by processor, and SO_INCOMING_CPU, see the one that the model has: 0.
        let _ = run_on(0, None);

        let own_user = rustix::process::geteuid().as_raw();
        let id = |named: u32| if root { named } else { own_user };
        let (user_namespaces, nets) = namespaces(host, id)?;
        let devices = host.namespaces.iter().flat_map(|net| &net.interfaces);
        let devices: Vec<(u32, String)> = devices.map(|i| (i.index, i.name.clone())).collect();
        let named = host.processes.iter().map(|process| process.uid.0);
        let ids = named.map(|named| (named, id(named))).collect();
        let mut kernel = Kernel {
            host: host.clone(),
            hands: Hands::new(devices.clone(), ids)?,
            callers: Vec::new(),
            nets,
            devices,
            own_user,
            now: own_user,
        };
        for process in &host.processes {
            let caller = kernel.caller(process, id(process.uid.0), &user_namespaces)?;
            kernel.callers.push(caller);
        }
        Ok(kernel)
    }

    fn caller(
        &mut self,
        process: &Process,
        uid: u32,
        user_namespaces: &[OwnedFd],
    ) -> io::Result<Caller> {
        if process.files == FilesId(0) {
            let caps = process.caps;
            return Ok(Caller::Here { uid, caps });
        }
        let identity = Identity {
            uid,
            caps: process.caps,
            net: Some(self.nets[usize::from(process.net.0)].as_fd()),
            user_ns: match process.user_ns {
                UserNsId(0) => None,
                UserNsId(at) => Some(user_namespaces[usize::from(at) - 1].as_fd()),
            },
        };
        let helper = Helper::spawn(&identity, &mut self.hands, &self.host)?;
        Ok(Caller::There(helper))
    }

    /// What an observer does beside the script: as this process itself, inside a network of the script.
    ///
    /// # Errors
    ///
    /// Where that network cannot be entered.
    pub fn beside<T>(&mut self, net: NetId, act: impl FnOnce() -> T) -> io::Result<T> {
        let mut seen = None;
        self.within(net, || {
            seen = Some(act());
            Ok(())
        })?;
        seen.ok_or_else(|| io::Error::other("nothing was looked at"))
    }

    /// The number that the kernel gives a socket for as long as it lives, for who looks from outside.
    pub fn cookie(&mut self, slot: Slot) -> Option<u64> {
        if self.hands.is_open(slot) {
            let copy = self.hands.copy(slot).ok()?;
            return portcullis_sys::trace::socket_cookie(copy).ok();
        }
        let mut copies = self
            .helpers()
            .filter_map(|helper| helper.give(slot).ok()?.ok());
        portcullis_sys::trace::socket_cookie(copies.next()?).ok()
    }

    /// The process of a caller that has one of its own; a user is an identity of this process.
    #[must_use]
    pub fn process_of(&self, caller: ProcessId) -> Option<u32> {
        match self.callers.get(usize::from(caller.0)) {
            Some(Caller::There(helper)) => Some(helper.pid()),
            Some(Caller::Here { .. } | Caller::Gone) | None => None,
        }
    }

    /// Makes a call as this caller, who is here or there.
    fn ask(
        &mut self,
        caller: ProcessId,
        here: impl FnOnce(&mut Hands) -> Outcome,
        there: impl FnOnce(&mut Helper) -> io::Result<Outcome>,
    ) -> Outcome {
        let (uid, caps) = match self.callers.get_mut(usize::from(caller.0)) {
            Some(Caller::There(helper)) => {
                return there(helper).unwrap_or_else(|error| failed(&error));
            }
            Some(Caller::Here { uid, caps }) => (*uid, *caps),
            Some(Caller::Gone) | None => return Outcome::Err(Errno::EBADF.number()),
        };
        match self.become_user(uid, caps) {
            Ok(()) => here(&mut self.hands),
            Err(error) => failed(&error),
        }
    }

    /// Goes on as a user: effective user id and capabilities.
    fn become_user(&mut self, uid: u32, caps: Caps) -> io::Result<()> {
        if uid != self.now {
            process::set_effective_user(uid)?;
            self.now = uid;
        }
        wield(caps)
    }

    fn within(&mut self, net: NetId, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.become_user(self.own_user, Caps::ALL)?;
        move_to(&self.nets[usize::from(net.0)])?;
        let done = act();
        move_to(&self.nets[0])?;
        done
    }

    fn try_pass(&mut self, slot: Slot, from: ProcessId, to: ProcessId) -> io::Result<Outcome> {
        let fd = match self.callers.get_mut(usize::from(from.0)) {
            Some(Caller::There(helper)) => match helper.give(slot)? {
                Ok(fd) => fd,
                Err(outcome) => return Ok(outcome),
            },
            Some(Caller::Here { .. }) => {
                // Through a Unix socket, as from anybody else.
                let flags = rustix::net::SocketFlags::CLOEXEC;
                let (family, kind) = (
                    rustix::net::AddressFamily::UNIX,
                    rustix::net::SocketType::SEQPACKET,
                );
                let (here, there) = rustix::net::socketpair(family, kind, flags, None)?;
                portcullis_sys::pass::send(&here, b"x", &[self.hands.copy(slot)?.as_fd()])?;
                let received = portcullis_sys::pass::receive(&there, &mut [0; 8])?;
                let fd = received.descriptors.into_iter().next();
                fd.ok_or_else(|| io::Error::other("no descriptor arrived"))?
            }
            Some(Caller::Gone) | None => return Ok(Outcome::Err(Errno::EBADF.number())),
        };
        match self.callers.get_mut(usize::from(to.0)) {
            Some(Caller::There(helper)) => helper.take(slot, fd.as_fd()),
            Some(Caller::Here { .. }) => {
                // The lowest free number, which those of the message no longer take.
                let high = super::hands::high(fd)?;
                let low = rustix::io::fcntl_dupfd_cloexec(&high, 3)?;
                self.hands.take(slot, low);
                Ok(Outcome::Ok)
            }
            Some(Caller::Gone) | None => Ok(Outcome::Err(Errno::EINVAL.number())),
        }
    }

    fn try_fork(&mut self, parent: ProcessId) -> io::Result<()> {
        let child = match self.callers.get_mut(usize::from(parent.0)) {
            Some(Caller::There(helper)) => helper.fork()?,
            Some(&mut Caller::Here { uid, caps }) => {
                self.become_user(self.own_user, Caps::ALL)?;
                let identity = Identity {
                    uid,
                    caps,
                    net: None,
                    user_ns: None,
                };
                Helper::spawn(&identity, &mut self.hands, &self.host)?
            }
            Some(Caller::Gone) | None => return Err(io::Error::from_raw_os_error(libc::ESRCH)),
        };
        self.callers.push(Caller::There(child));
        Ok(())
    }

    fn helpers(&mut self) -> impl Iterator<Item = &mut Helper> {
        self.callers.iter_mut().filter_map(|caller| match caller {
            Caller::There(helper) => Some(helper),
            _ => None,
        })
    }
}

impl World for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn open(&mut self, slot: Slot, user: ProcessId, family: Family) -> Outcome {
        self.ask(
            user,
            |hands| hands.open(slot, family),
            |helper| helper.open(slot, family),
        )
    }

    fn call(&mut self, slot: Slot, user: ProcessId, call: Call) -> Outcome {
        let devices = self.devices.clone();
        self.ask(
            user,
            |hands| hands.call(slot, call),
            |helper| helper.call(slot, &call, &devices),
        )
    }

    fn pass(&mut self, slot: Slot, user: ProcessId, to: ProcessId) -> Outcome {
        self.try_pass(slot, user, to)
            .unwrap_or_else(|error| failed(&error))
    }

    fn accept(&mut self, slot: Slot, user: ProcessId, into: Slot) -> Outcome {
        self.ask(
            user,
            |hands| hands.accept(slot, into),
            |helper| helper.accept(slot, into),
        )
    }

    fn fork(&mut self, parent: ProcessId) -> Outcome {
        match self.try_fork(parent) {
            Ok(()) => Outcome::Ok,
            Err(error) => failed(&error),
        }
    }

    fn exit(&mut self, process: ProcessId) -> Outcome {
        let Some(caller) = self.callers.get_mut(usize::from(process.0)) else {
            return Outcome::Err(libc::ESRCH);
        };
        let Caller::There(mut helper) = std::mem::replace(caller, Caller::Gone) else {
            return Outcome::Err(libc::ESRCH);
        };
        match helper.exit() {
            Ok(()) => Outcome::Ok,
            Err(error) => failed(&error),
        }
    }

    fn enter_net(&mut self, process: ProcessId, net: NetId) -> Outcome {
        let Some(Caller::There(helper)) = self.callers.get_mut(usize::from(process.0)) else {
            return Outcome::Err(libc::ESRCH);
        };
        let entered = helper.enter(self.nets[usize::from(net.0)].as_fd());
        entered.unwrap_or_else(|error| failed(&error))
    }

    fn sysctl(&mut self, sysctl: &'static Sysctl, net: NetId, value: &str) -> Outcome {
        match self.within(net, || network::write(sysctl, value)) {
            Ok(()) => Outcome::Ok,
            Err(error) => failed(&error),
        }
    }

    fn cpu(&mut self, cpu: u16) -> Outcome {
        let others = self.helpers().map(|helper| Some(helper.pid));
        let mut all = std::iter::once(None).chain(others);
        match all.try_for_each(|thread| run_on(cpu, thread)) {
            Ok(()) => Outcome::Ok,
            Err(error) => failed(&error),
        }
    }

    fn wait(&mut self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    fn waiting(&mut self, slot: Slot) -> u32 {
        if self.hands.is_open(slot) {
            return self.hands.waiting(slot);
        }
        let mut others = self.helpers().map(|helper| helper.waiting(slot));
        others
            .find_map(|count| count.ok().filter(|&count| count > 0))
            .unwrap_or(0)
    }

    fn look(&mut self, slot: Slot) -> Option<(SocketAddr, State)> {
        if self.hands.is_open(slot) {
            return self.hands.look(slot);
        }
        self.helpers()
            .find_map(|helper| helper.look(slot).ok().flatten())
    }

    fn settle(&mut self) -> bool {
        std::thread::sleep(LOOK);
        true
    }
}

/// Makes the namespaces of the host and goes into the first network: the user namespaces but the
/// first, and all networks.
fn namespaces(
    host: &Host,
    id: impl Fn(u32) -> u32,
) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>), Obstacle> {
    let mut user_namespaces = Vec::new();
    let mut inner: Vec<std::vec::IntoIter<OwnedFd>> = Vec::new();
    for (at, wanted) in host.user_namespaces.iter().enumerate().skip(1) {
        let own = |net: &&portcullis_kernel_model::Namespace| usize::from(net.user_ns.0) == at;
        let count = host.namespaces.iter().filter(own).count();
        let (made, nets) = make_user_namespace(id(wanted.owner.0), count).map_err(|error| {
            Obstacle::Skip(format!("a user namespace cannot be made here: {error}"))
        })?;
        user_namespaces.push(made);
        inner.push(nets.into_iter());
    }
    let mut nets: Vec<OwnedFd> = Vec::new();
    for wanted in &host.namespaces {
        let inside = match wanted.user_ns {
            UserNsId(0) => None,
            UserNsId(at) => inner[usize::from(at) - 1].next(),
        };
        let net = match inside {
            Some(net) => net,
            None => {
                bare::enter_network_namespace().map_err(|error| {
                    Obstacle::Skip(format!("a network namespace cannot be made here: {error}"))
                })?;
                this_namespace("net")?
            }
        };
        move_to(&net)?;
        network::set_up(wanted)?;
        nets.push(net);
    }
    move_to(&nets[0])?;
    Ok((user_namespaces, nets))
}

/// What a thread sends through the loopback, its own processor receives.
fn run_on(cpu: u16, thread: Option<Pid>) -> io::Result<()> {
    let mut only = rustix::thread::CpuSet::new();
    only.set(usize::from(cpu));
    Ok(rustix::thread::sched_setaffinity(thread, &only)?)
}

fn move_to(net: &OwnedFd) -> io::Result<()> {
    let kind = Some(LinkNameSpaceType::Network);
    Ok(rustix::thread::move_into_link_name_space(
        net.as_fd(),
        kind,
    )?)
}
