//! Opening one socket: the steps, in order.
//!
//! Decides:  when each step is done and on what.
//! Source:   HAProxy's tcp_bind_listener(), sock_inet_bind_receiver(), sock_unix_bind_receiver()
//! Kernel:   net/ipv4/af_inet.c, inet_bind(), inet_listen(); fs/attr.c and net/socket.c,
//!           sockfs_setattr(), which gives a socket to another user, 6.1 to 6.18
//! Not here: what a failure means (step.rs), several sockets and trying again (set.rs).

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use portcullis_sockopt as sockopt;
use portcullis_sys::sockopt::get_int;
use rustix::fs::fchown;
use rustix::io::Errno;
use rustix::net::sockopt::socket_acceptconn;
use rustix::net::{
    AddressFamily, Protocol, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use crate::address::{LocalAddress, abstract_address};
use crate::context::OpenContext;
use crate::error::{Cause, OpenError, Report};
use crate::listener::{Listener, ListenerFacts, SocketFile};
use crate::options::{self, How, Kind, Origin, Setting};
use crate::restore::Touched;
use crate::spec::ListenerSpec;
use crate::step::{Step, Strict};
use crate::unix::{Beside, Place};
use crate::{Flags, inherited, netns, unix};

/// Where one socket is to come from.
#[derive(Debug, Clone)]
pub(crate) enum Source<'a> {
    Tcp(SocketAddr),
    Mptcp(SocketAddr),
    UnixPath(&'a Path),
    UnixAbstract(SocketAddrUnix),
    Inherited(i32),
}

/// A socket that listens; one with a path has not taken it yet.
#[derive(Debug)]
pub(crate) struct OpenSocket {
    pub listener: Listener,
    pub beside: Option<Beside>,
    /// It was taken over, and is as it was again unless the set opens.
    pub touched: Option<Touched>,
    pub reports: Vec<Report>,
}

/// The sysctls, of the socket's own namespace, that cut or undo what is asked for.
#[derive(Debug, Clone, Copy, Default)]
struct Sysctls {
    somaxconn: Option<u32>,
    tcp_fastopen: Option<i64>,
}

/// What is needed besides the specification to open one of its sockets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Which<'a> {
    pub spec: &'a ListenerSpec,
    pub index: usize,
    pub shard: u16,
}

/// Opens one socket, all steps.
pub(crate) fn open_socket(
    place: Which<'_>,
    source: &Source<'_>,
    context: &OpenContext,
) -> Result<OpenSocket, OpenError> {
    Opening {
        place,
        local: None,
        inherited: match source {
            Source::Inherited(number) => Some(*number),
            _ => None,
        },
        reports: Vec::new(),
        sysctls: Sysctls::default(),
    }
    .run(source, context)
}

/// Begins to listen on a TCP or Multipath TCP socket that was opened with [`ListenerSpec::listen_later`], and joins its
/// `SO_REUSEPORT` group, whose last member it is. The kernel checks the port again: `EADDRINUSE` where somebody has
/// begun to listen meanwhile.
///
/// Kernel: net/ipv4/inet_connection_sock.c, inet_csk_listen_start(); 4.4 to 6.18.
pub fn listen_now(socket: impl AsFd, spec: &ListenerSpec) -> rustix::io::Result<()> {
    listen(&socket, options::to_int(options::backlog(spec)))?;
    for setting in options::after_listen(spec, Kind::V4) {
        // It is a matter of acknowledgements alone, and any listener takes it.
        let _ = setting.apply(socket.as_fd());
    }
    Ok(())
}

pub(crate) fn abstract_source<'a>(
    name: &[u8],
    form: crate::spec::AbstractForm,
) -> rustix::io::Result<Source<'a>> {
    abstract_address(name, form).map(Source::UnixAbstract)
}

/// One socket on its way.
struct Opening<'a> {
    place: Which<'a>,
    local: Option<LocalAddress>,
    inherited: Option<i32>,
    reports: Vec<Report>,
    sysctls: Sysctls,
}

impl Opening<'_> {
    fn run(mut self, source: &Source<'_>, context: &OpenContext) -> Result<OpenSocket, OpenError> {
        let spec = self.place.spec;
        let (fd, kind, origin) = self.create(source)?;
        self.check_limit(&fd, context.descriptor_limit())?;
        if origin == Origin::Inherited {
            self.or_refuse(Step::NonBlocking, inherited::add_non_blocking(fd.as_fd()))?;
        }
        self.apply(
            &fd,
            options::before_bind(spec, kind, origin, self.place.shard),
        )?;
        self.sign(&fd, kind)?;
        self.give_to_owner(&fd, kind, origin)?;
        let beside = self.bind(&fd, source)?;
        if !self.listens_later(kind, origin) {
            self.listen(&fd, origin)?;
            self.apply(&fd, options::after_listen(spec, kind))?;
        }
        self.note_sysctls(kind, origin);
        let listens = !self.listens_later(kind, origin);
        self.finish(fd, beside, listens)
    }

    fn listens_later(&self, kind: Kind, origin: Origin) -> bool {
        self.place.spec.listen_later && kind != Kind::Unix && origin == Origin::Created
    }

    /// Row 2, and what comes before it.
    fn create(&mut self, source: &Source<'_>) -> Result<(OwnedFd, Kind, Origin), OpenError> {
        let (family, protocol, kind) = match source {
            Source::Inherited(number) => return self.inherit(*number),
            Source::UnixPath(_) | Source::UnixAbstract(_) => {
                (AddressFamily::UNIX, None, Kind::Unix)
            }
            Source::Tcp(address) => inet(*address, rustix::net::ipproto::TCP),
            Source::Mptcp(address) => inet(*address, rustix::net::ipproto::MPTCP),
        };
        let make = move || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let fd = socket_with(family, SocketType::STREAM, flags, protocol)?;
            Ok::<_, Errno>((fd, Sysctls::read()))
        };
        let made = match &self.place.spec.network_namespace {
            None => make(),
            Some(name) => match netns::inside(name, make) {
                Ok(made) => made,
                Err(netns::CannotEnter(errno)) => {
                    return Err(self.fail(Step::Namespace, errno.into()));
                }
            },
        };
        let (fd, sysctls) = made.map_err(|errno| self.fail(Step::Create, errno.into()))?;
        self.sysctls = sysctls;
        Ok((fd, kind, Origin::Created))
    }

    fn inherit(&mut self, number: i32) -> Result<(OwnedFd, Kind, Origin), OpenError> {
        if self.place.spec.network_namespace.is_some() {
            let to = "an inherited socket, which has its namespace already".to_owned();
            return Err(self.fail(Step::Namespace, Cause::NotApplicable { to }));
        }
        let fd = match inherited::duplicate(number) {
            Ok(fd) => fd,
            Err(Errno::BADF) => {
                let fault = inherited::InheritedFault::NotOpen;
                return Err(self.fail(Step::Inherited, Cause::Inherited(fault)));
            }
            Err(errno) => return Err(self.fail(Step::Create, errno.into())),
        };
        let checked = inherited::check(fd.as_fd())
            .map_err(|fault| self.fail(Step::Inherited, Cause::Inherited(fault)))?;
        self.local = Some(checked.local);
        let closed = portcullis_sys::fd::close_inherited_on_exec(number);
        self.or_refuse(Step::CloseOnExec, closed)?;
        Ok((fd, checked.kind, Origin::Inherited))
    }

    /// Row 3.
    fn check_limit(&mut self, fd: &OwnedFd, limit: u64) -> Result<(), OpenError> {
        let descriptor = fd.as_raw_fd();
        if u64::try_from(descriptor).is_ok_and(|number| number < limit) {
            return Ok(());
        }
        let cause = Cause::DescriptorLimit { descriptor, limit };
        Err(self.fail(Step::DescriptorLimit, cause))
    }

    /// Rows 5 to 13 and 16.
    fn apply(&mut self, fd: &OwnedFd, plan: Vec<Setting>) -> Result<(), OpenError> {
        for setting in plan {
            let Err(cause) = setting.apply(fd.as_fd()) else {
                continue;
            };
            let to_one = "a socket that is bound to one address";
            match setting.how {
                // Nothing was refused: the words of the line fit another kind of socket. A
                // device cannot be missed by a socket that no device reaches.
                How::NotApplicable(_) if setting.step == Step::Ipv6Only => {
                    self.note_ipv6_only(cause);
                }
                How::NotApplicable(_) if !self.strict() => {
                    let mut report = self.report(setting.step, cause);
                    report.flags = Flags::WARN;
                    self.reports.push(report);
                }
                How::IfDifferent if self.bound_to_one_address() => {
                    self.note_ipv6_only(Cause::NotApplicable {
                        to: to_one.to_owned(),
                    });
                }
                _ => self.refuse(setting.step, cause)?,
            }
        }
        Ok(())
    }

    /// The option only decides what a wildcard covers; elsewhere neither value makes a difference.
    fn note_ipv6_only(&mut self, cause: Cause) {
        let report = self.report(Step::Ipv6Only, cause);
        self.reports.push(report.into_note("option without effect"));
    }

    fn bound_to_one_address(&self) -> bool {
        let address = self.local.as_ref().and_then(LocalAddress::inet);
        address.is_some_and(|address| !address.ip().is_unspecified())
    }

    fn sign(&mut self, fd: &OwnedFd, kind: Kind) -> Result<(), OpenError> {
        if self.place.spec.md5_keys.is_empty() {
            return Ok(());
        }
        let option = &sockopt::IPV6_V6ONLY;
        let takes_v4 = kind == Kind::V6
            && get_int(fd, option.level.number(), option.number)
                .map_err(|errno| self.fail(Step::Md5, errno.into()))?
                == 0;
        let plan = options::md5(self.place.spec, kind, takes_v4);
        options::md5_fault(&plan).map_or(Ok(()), |cause| Err(self.fail(Step::Md5, cause)))?;
        for setting in plan {
            if let Err(cause) = setting.apply(fd.as_fd()) {
                return Err(self.fail(Step::Md5, cause));
            }
        }
        Ok(())
    }

    /// Gives the socket to the user that will run, before `bind` compares owners.
    fn give_to_owner(&mut self, fd: &OwnedFd, kind: Kind, origin: Origin) -> Result<(), OpenError> {
        let Some(uid) = self.place.spec.owner_uid else {
            return Ok(());
        };
        if kind == Kind::Unix || origin == Origin::Inherited {
            return Ok(());
        }
        if rustix::process::geteuid().as_raw() == uid {
            return Ok(());
        }
        let given = unix::user(uid).and_then(|user| fchown(fd, Some(user), None));
        self.or_refuse(Step::Owner, given)
    }

    /// Row 14, with a Unix socket's path around it.
    fn bind(&mut self, fd: &OwnedFd, source: &Source<'_>) -> Result<Option<Beside>, OpenError> {
        let bound = match source {
            Source::Inherited(_) => Ok(()),
            Source::Tcp(address) | Source::Mptcp(address) => bind(fd, address),
            Source::UnixAbstract(address) => bind(fd, address),
            Source::UnixPath(path) => return self.bind_path(fd, path).map(Some),
        };
        bound.map_err(|errno| self.fail(Step::Bind, errno.into()))?;
        Ok(None)
    }

    fn bind_path(&mut self, fd: &OwnedFd, path: &Path) -> Result<Beside, OpenError> {
        let place = Place::find(path).map_err(|cause| self.fail(Step::UnixPath, cause))?;
        let address = place
            .address()
            .map_err(|errno| self.fail(Step::UnixPath, errno.into()))?;
        bind(fd, &address).map_err(|errno| self.fail(Step::Bind, errno.into()))?;
        let beside = place
            .bound()
            .map_err(|errno| self.fail(Step::Bind, errno.into()))?;
        beside
            .set_permissions(self.place.spec.unix_permissions)
            .map_err(|errno| self.fail(Step::UnixPermissions, errno.into()))?;
        Ok(beside)
    }

    /// Row 15.
    fn listen(&mut self, fd: &OwnedFd, origin: Origin) -> Result<(), OpenError> {
        let listens = socket_acceptconn(fd).unwrap_or(false);
        if listens && origin == Origin::Inherited {
            return Ok(());
        }
        let backlog = options::to_int(options::backlog(self.place.spec));
        listen(fd, backlog).map_err(|errno| self.fail(Step::Listen, errno.into()))
    }

    /// What the kernel took and will not do: nothing was refused, and nobody would notice.
    fn note_sysctls(&mut self, kind: Kind, origin: Origin) {
        /// The bit of net.ipv4.tcp_fastopen that lets servers take data in a SYN.
        const SERVER: i64 = 2;
        if origin == Origin::Inherited {
            return;
        }
        let asked = options::backlog(self.place.spec);
        if let Some(limit) = self.sysctls.somaxconn.filter(|limit| asked > *limit) {
            let report = self.report(Step::Listen, Cause::BacklogCut { asked, limit });
            self.reports.push(report.into_note("short accept queue"));
        }
        let set = self.place.spec.fast_open.is_some()
            && kind != Kind::Unix
            && !self.reports.iter().any(|r| r.step == Step::FastOpen);
        if let Some(value) = self.sysctls.tcp_fastopen.filter(|v| set && v & SERVER == 0) {
            let cause = Cause::Sysctl {
                name: "net.ipv4.tcp_fastopen".to_owned(),
                value,
                needs: "bit 2 for servers, as in 3".to_owned(),
            };
            let mut report = self.report(Step::FastOpen, cause);
            report.flags = Flags::WARN;
            self.reports.push(report);
        }
    }

    /// Row 17.
    fn finish(
        mut self,
        fd: OwnedFd,
        beside: Option<Beside>,
        listens: bool,
    ) -> Result<OpenSocket, OpenError> {
        let file: Option<SocketFile> = beside.as_ref().map(|beside| beside.file().clone());
        let local = match (&file, self.local.take()) {
            (Some(file), _) => LocalAddress::UnixPath(file.path.clone()),
            (None, Some(local)) => local,
            (None, None) => {
                LocalAddress::of(&fd).map_err(|errno| self.fail(Step::Bind, errno.into()))?
            }
        };
        let facts = ListenerFacts {
            spec: self.place.index,
            name: self.place.spec.name.clone(),
            local,
            shard: self.place.shard,
            shards: 1,
            inherited: self.inherited,
            socket_file: file,
            listens,
            adopted: false,
            in_order: self.inherited.is_none(),
            place: None,
        };
        Ok(OpenSocket {
            listener: Listener::new(fd, facts),
            beside,
            touched: None,
            reports: self.reports,
        })
    }

    fn strict(&self) -> bool {
        self.place.spec.strict
    }

    fn report(&self, step: Step, cause: Cause) -> Report {
        let mut report = Report::new(self.place.spec, self.place.index, step, cause);
        report.local.clone_from(&self.local);
        report.inherited = self.inherited;
        report.shard = self.place.shard;
        report
    }

    fn fail(&mut self, step: Step, cause: Cause) -> OpenError {
        OpenError::new(self.report(step, cause), std::mem::take(&mut self.reports))
    }

    /// Reports a refusal, which is an error where the step or `strict` says so.
    fn refuse(&mut self, step: Step, cause: Cause) -> Result<(), OpenError> {
        if step.closes(Strict::from(self.strict())) {
            return Err(self.fail(step, cause));
        }
        let report = self.report(step, cause);
        self.reports.push(report);
        Ok(())
    }

    fn or_refuse(&mut self, step: Step, done: rustix::io::Result<()>) -> Result<(), OpenError> {
        done.or_else(|errno| self.refuse(step, errno.into()))
    }
}

fn inet(address: SocketAddr, protocol: Protocol) -> (AddressFamily, Option<Protocol>, Kind) {
    match address {
        SocketAddr::V4(_) => (AddressFamily::INET, Some(protocol), Kind::V4),
        SocketAddr::V6(_) => (AddressFamily::INET6, Some(protocol), Kind::V6),
    }
}

impl Sysctls {
    /// Those of the calling thread's namespace; what cannot be read is not known.
    fn read() -> Sysctls {
        fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        }
        Sysctls {
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            tcp_fastopen: number("/proc/sys/net/ipv4/tcp_fastopen"),
        }
    }
}
