//! Opening several listeners: all or nothing.
//!
//! Decides:  the order, when to stop, when to try again, when one socket stands for several, and
//!           that a set which does not open leaves nothing behind.
//! Source:   HAProxy's protocol_bind_all() and bind_listeners(), which pauses other processes'
//!           sockets before each retry; nothing that others hold is touched here.
//! Not here: the steps of one socket (open.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rustix::io::Errno;

use crate::activation::Activation;
use crate::address::LocalAddress;
use crate::adopt::{adopt, adopt_declared};
use crate::context::{OpenContext, RetryPolicy};
use crate::error::{Cause, OpenError, Report, SetError};
use crate::open::{OpenSocket, Source, Which, abstract_source, open_socket};
use crate::restore::Touched;
use crate::shards::{self, NotSharded};
use crate::spec::{Address, ListenerSpec};
use crate::step::{Step, Strict};
use crate::unix::{self, Placed};
use crate::{Flags, Listener, retire};

/// Listeners that are open, and what was refused or is worth knowing about them.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The listeners, in the order of the specifications and of their shards.
    pub listeners: Vec<Listener>,
    /// Refusals and notes.
    pub reports: Vec<Report>,
}

impl Opened {
    /// The flags of all reports together. HAProxy's start treats [`Flags::ALERT`] as fatal even
    /// where every listener opened.
    pub fn flags(&self) -> Flags {
        flags_of(&self.reports)
    }
}

/// Opens one specification: all of its shards, or nothing.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis_listener::{ListenerSpec, open};
///
/// let mut spec = ListenerSpec::tcp("127.0.0.1:0".parse()?);
/// spec.shards = 4; // four sockets on one port, for four threads
/// let opened = open(&spec)?;
/// assert_eq!(opened.listeners.len(), 4);
/// for report in &opened.reports {
///     eprintln!("{report}");
/// }
/// # Ok(()) }
/// ```
pub fn open(spec: &ListenerSpec) -> Result<Opened, OpenError> {
    open_with(spec, &OpenContext::default())
}

/// As [`open`], in a context of one's own.
pub fn open_with(spec: &ListenerSpec, context: &OpenContext) -> Result<Opened, OpenError> {
    match open_set(std::slice::from_ref(spec), context) {
        Ok(opened) => Ok(opened),
        Err(mut error) => Err(error.errors.swap_remove(0)),
    }
}

/// Opens a set: all of it, or nothing.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis_listener::{ListenerSpec, OpenContext, Step, open_set};
///
/// let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
/// let set = [
///     ListenerSpec::tcp("127.0.0.1:0".parse()?),
///     ListenerSpec::tcp(taken.local_addr()?),
/// ];
/// let error = open_set(&set, &OpenContext::default()).unwrap_err();
/// assert_eq!(error.errors[0].step(), Step::Bind);
/// assert!(error.to_string().ends_with("address already in use (EADDRINUSE)"));
/// # Ok(()) }
/// ```
pub fn open_set(specs: &[ListenerSpec], context: &OpenContext) -> Result<Opened, SetError> {
    let mut set = OpenSet::new(specs.to_vec());
    let reports = set.open(context)?;
    Ok(Opened {
        listeners: set.into_listeners(),
        reports,
    })
}

/// Specifications, each either assigned or listening.
///
/// [`OpenSet::open`] opens those that are not open yet and leaves the others alone, so it can be
/// called again after [`OpenSet::push`].
#[derive(Debug, Default)]
pub struct OpenSet {
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    spec: ListenerSpec,
    state: State,
}

/// The two states of a listener before anybody polls it.
#[derive(Debug)]
enum State {
    /// It is to be opened.
    Assigned,
    /// It is open; several sockets where it is sharded.
    Listening(Vec<Listener>),
}

/// The sockets of one specification that opened in this call.
#[derive(Debug)]
struct Fresh {
    sockets: Vec<OpenSocket>,
    reports: Vec<Report>,
}

impl Fresh {
    /// These sockets, and what was told of any of them, once.
    fn of(mut sockets: Vec<OpenSocket>) -> Fresh {
        let mut reports: Vec<Report> = Vec::new();
        for report in sockets.iter_mut().flat_map(|it| it.reports.drain(..)) {
            if !reports.iter().any(|known| told(known) == told(&report)) {
                reports.push(report);
            }
        }
        Fresh { sockets, reports }
    }
}

impl OpenSet {
    /// A set in which nothing is open yet.
    pub fn new(specs: Vec<ListenerSpec>) -> Self {
        let mut set = OpenSet::default();
        for spec in specs {
            set.push(spec);
        }
        set
    }

    /// One more to be opened. Returns its index.
    pub fn push(&mut self, spec: ListenerSpec) -> usize {
        let state = State::Assigned;
        self.members.push(Member { spec, state });
        self.members.len() - 1
    }

    /// The specifications, by index.
    pub fn specs(&self) -> impl ExactSizeIterator<Item = &ListenerSpec> {
        self.members.iter().map(|member| &member.spec)
    }

    /// The open sockets of one specification; none where it is not open.
    pub fn listeners(&self, index: usize) -> &[Listener] {
        match self.members.get(index).map(|member| &member.state) {
            Some(State::Listening(listeners)) => listeners,
            Some(State::Assigned) | None => &[],
        }
    }

    /// All open sockets, in the order of the specifications and of their shards.
    pub fn into_listeners(self) -> Vec<Listener> {
        let sockets = self.members.into_iter().map(|member| match member.state {
            State::Listening(listeners) => listeners,
            State::Assigned => Vec::new(),
        });
        sockets.flatten().collect()
    }

    /// Opens what is not open yet: all of it, or nothing of it.
    ///
    /// On failure what this call opened is closed, Unix paths that it took are given back, and
    /// what was open before stays open.
    pub fn open(&mut self, context: &OpenContext) -> Result<Vec<Report>, SetError> {
        let mut fresh = BTreeMap::new();
        let mut tries = 0;
        loop {
            let tries_left = context.retry.times.saturating_sub(tries);
            tries = tries.saturating_add(1);
            let errors = self.try_all(context, tries_left, &mut fresh);
            if errors.is_empty() {
                break;
            }
            if tries_left == 0 || !context.retry.covers(&errors) {
                let reports = fresh.into_values().flat_map(|f: Fresh| f.reports).collect();
                return Err(set_error(errors, reports, tries));
            }
            std::thread::sleep(context.retry.delay);
        }
        self.commit(fresh, tries)
    }

    /// One try of everything that is neither open nor fresh, in order, until one says ABORT.
    fn try_all(
        &self,
        context: &OpenContext,
        tries_left: u32,
        fresh: &mut BTreeMap<usize, Fresh>,
    ) -> Vec<OpenError> {
        let mut errors: Vec<OpenError> = Vec::new();
        // Among sockets of one port the order of opening can decide which gets a connection, so
        // one that will be tried again holds back those of its port that come after it.
        let mut held_back: BTreeSet<u16> = BTreeSet::new();
        for (index, member) in self.members.iter().enumerate() {
            let open = matches!(member.state, State::Listening(_)) || fresh.contains_key(&index);
            let port = port_of(&member.spec);
            if open || port.is_some_and(|port| held_back.contains(&port)) {
                continue;
            }
            match self.open_member(index, context) {
                Ok(opened) => {
                    fresh.insert(index, opened);
                }
                Err(error) => {
                    if tries_left > 0 && context.retry.covers(std::slice::from_ref(&error)) {
                        held_back.extend(port);
                    }
                    let abort = error.flags().contains(Flags::ABORT);
                    errors.push(error);
                    if abort {
                        break;
                    }
                }
            }
        }
        errors
    }

    fn open_member(&self, index: usize, context: &OpenContext) -> Result<Fresh, OpenError> {
        let spec = &self.members[index].spec;
        if let Some(by) = self.earlier_with_path(index) {
            let cause = Cause::UsedTwice { by };
            let report = Report::new(spec, index, Step::Distinct, cause);
            return Err(OpenError::new(report, Vec::new()));
        }
        open_spec(spec, index, context)
    }

    /// The other member, open or before this one, whose Unix path is the same.
    fn earlier_with_path(&self, index: usize) -> Option<usize> {
        let path = |member: &Member| match &member.spec.address {
            Address::UnixPath(path) => Some(path.clone()),
            _ => None,
        };
        let wanted = path(&self.members[index])?;
        self.members.iter().enumerate().find_map(|(other, member)| {
            let first = other < index || matches!(member.state, State::Listening(_));
            let same = || path(member).is_some_and(|path| unix::same_name(&path, &wanted));
            (other != index && first && same()).then_some(other)
        })
    }

    /// Everything opened: Unix sockets take their paths, and the new ones are of the set.
    fn commit(
        &mut self,
        fresh: BTreeMap<usize, Fresh>,
        tries: u32,
    ) -> Result<Vec<Report>, SetError> {
        let mut reports = Vec::new();
        let mut placed: Vec<Placed> = Vec::new();
        let mut ready: Vec<(usize, Vec<Listener>)> = Vec::new();
        let mut touched: Vec<Touched> = Vec::new();
        for (index, opened) in fresh {
            let spec = &self.members[index].spec;
            reports.extend(opened.reports);
            let mut listeners = Vec::new();
            for socket in opened.sockets {
                match socket.beside.map(|beside| beside.take_path()).transpose() {
                    Ok(taken) => {
                        reports.extend(taken.as_ref().and_then(|p| replaced(p, spec, index)));
                        placed.extend(taken);
                    }
                    Err(cause) => {
                        // The old sockets get their paths back before the new ones close, so
                        // that there is somebody at each path all the time.
                        drop(placed);
                        let report = Report::new(spec, index, Step::UnixReplace, cause);
                        let errors = vec![OpenError::new(report, Vec::new())];
                        return Err(set_error(errors, reports, tries));
                    }
                }
                touched.extend(socket.touched);
                listeners.push(socket.listener);
            }
            ready.push((index, listeners));
        }
        if let Err((index, cause)) = release(&ready) {
            drop(placed);
            let spec = &self.members[index].spec;
            let report = Report::new(spec, index, Step::ReusePort, cause);
            let errors = vec![OpenError::new(report, Vec::new())];
            return Err(set_error(errors, reports, tries));
        }
        touched.into_iter().for_each(Touched::keep);
        for (index, listeners) in ready {
            self.members[index].state = State::Listening(listeners);
        }
        placed.into_iter().for_each(Placed::keep);
        Ok(reports)
    }
}

impl RetryPolicy {
    /// Can another try help against every one of these errors?
    fn covers(&self, errors: &[OpenError]) -> bool {
        errors.iter().all(|error| {
            let retryable = error.flags().contains(Flags::RETRYABLE);
            let listed = error.errno().is_some_and(|e| self.errors.contains(&e));
            retryable && listed && !error.flags().contains(Flags::FATAL)
        })
    }
}

/// Takes off what the last holders of sockets left on them or on their groups.
fn release(ready: &[(usize, Vec<Listener>)]) -> Result<(), (usize, Cause)> {
    for (index, listeners) in ready {
        for listener in listeners.iter().filter(|it| it.facts().adopted) {
            if let Err(error) = retire::release(listener) {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                return Err((*index, errno.into()));
            }
        }
    }
    Ok(())
}

/// Opens the sockets of one specification.
fn open_spec(spec: &ListenerSpec, index: usize, context: &OpenContext) -> Result<Fresh, OpenError> {
    let fail = |step, cause| {
        let report = Report::new(spec, index, step, cause);
        OpenError::new(report, Vec::new())
    };
    let source = match &spec.address {
        Address::Tcp(address) => Source::Tcp(*address),
        Address::Mptcp(address) => Source::Mptcp(*address),
        Address::UnixPath(path) => Source::UnixPath(path.as_path()),
        Address::UnixAbstract { name, form } => {
            abstract_source(name, *form).map_err(|errno| fail(Step::Create, errno.into()))?
        }
        Address::Inherited(number) => Source::Inherited(*number),
        Address::Activated(_) => Source::Inherited(-1), // asked for below, by name
    };
    if let Address::Inherited(_) | Address::Activated(_) = &spec.address {
        let adopted = adopt_declared(spec, index, &context.pool)?;
        if !adopted.is_empty() {
            return Ok(Fresh::of(adopted));
        }
    }
    if let Address::Activated(name) = &spec.address {
        return open_activated(spec, index, name, context);
    }
    match shards::planned(spec) {
        Ok(count) => open_shards(spec, index, &source, count, context),
        Err(why) => {
            let mut fresh = open_shards(spec, index, &source, 1, context)?;
            fresh.reports.push(one_socket(spec, index, why));
            Ok(fresh)
        }
    }
}

/// Opens `count` sockets of one group; all have the port that the first one got.
fn open_shards(
    spec: &ListenerSpec,
    index: usize,
    source: &Source<'_>,
    count: u16,
    context: &OpenContext,
) -> Result<Fresh, OpenError> {
    let which = |shard| Which { spec, index, shard };
    let mut fresh = Fresh::of(adopt(spec, index, source, &context.pool)?);
    let adopted = fresh.sockets.len();
    // One more than were asked for is a queue that somebody has to serve.
    let count = count.max(u16::try_from(adopted).unwrap_or(u16::MAX));
    if adopted == 0 {
        fresh = Fresh::of(vec![open_socket(which(0), source, context)?]);
    }
    let first = &fresh.sockets[0];
    let refused = fresh.reports.iter().any(|r| r.step == Step::ReusePort);
    if count > 1 && adopted < 2 && refused {
        let why = NotSharded::ReusePortRefused;
        fresh.reports.push(one_socket(spec, index, why));
        return Ok(fresh);
    }
    let same_port = at_port_of(source, first.listener.local());
    let had = u16::try_from(fresh.sockets.len()).unwrap_or(u16::MAX);
    for shard in had..count {
        match open_socket(which(shard), &same_port, context) {
            Ok(mut socket) => {
                // What was refused to the first is refused to all alike; it is said once.
                let known: Vec<_> = fresh.reports.iter().map(told).collect();
                socket
                    .reports
                    .retain(|report| !known.contains(&told(report)));
                fresh.reports.append(&mut socket.reports);
                fresh.sockets.push(socket);
            }
            // Beside those of another process the kernel may refuse any of them: another user's, say.
            Err(error) if (shard == 1 || adopted > 0) && in_use(&error) => {
                let errno = Errno::ADDRINUSE.raw_os_error();
                let why = NotSharded::SecondRefused { errno };
                fresh.reports.push(one_socket(spec, index, why));
                break;
            }
            Err(error) => return Err(error),
        }
    }
    let count = u16::try_from(fresh.sockets.len()).unwrap_or(u16::MAX);
    for socket in &mut fresh.sockets {
        socket.listener.set_shards(count);
    }
    Ok(fresh)
}

/// Opens every socket that systemd passed under a name.
fn open_activated(
    spec: &ListenerSpec,
    index: usize,
    name: &str,
    context: &OpenContext,
) -> Result<Fresh, OpenError> {
    let numbers = match &context.activation {
        Some(activation) => activation.numbers(name),
        None => Activation::of_process().and_then(|activation| activation.numbers(name)),
    };
    let numbers = numbers.map_err(|fault| {
        let report = Report::new(spec, index, Step::Activation, Cause::Activation(fault));
        OpenError::new(report, Vec::new())
    })?;
    let mut fresh = Fresh {
        sockets: Vec::new(),
        reports: Vec::new(),
    };
    for number in numbers {
        let which = Which {
            spec,
            index,
            shard: 0,
        };
        let mut socket = open_socket(which, &Source::Inherited(number), context)?;
        fresh.reports.append(&mut socket.reports);
        fresh.sockets.push(socket);
    }
    if let Err(why) = shards::planned(spec) {
        fresh.reports.push(one_socket(spec, index, why));
    }
    Ok(fresh)
}

/// The same address, with the port that the kernel chose for the first shard.
fn at_port_of<'a>(source: &Source<'a>, first: &LocalAddress) -> Source<'a> {
    let mut source = source.clone();
    if let (Source::Tcp(address) | Source::Mptcp(address), Some(bound)) =
        (&mut source, first.inet())
    {
        address.set_port(bound.port());
    }
    source
}

fn port_of(spec: &ListenerSpec) -> Option<u16> {
    match spec.address {
        Address::Tcp(address) | Address::Mptcp(address) => {
            Some(address.port()).filter(|port| *port != 0)
        }
        _ => None,
    }
}

fn in_use(error: &OpenError) -> bool {
    matches!(error.step(), Step::Bind | Step::Listen)
        && error.errno() == Some(Errno::ADDRINUSE.raw_os_error())
}

fn told(report: &Report) -> (Step, Cause) {
    (report.step, report.cause.clone())
}

fn one_socket(spec: &ListenerSpec, index: usize, why: NotSharded) -> Report {
    let mut report = Report::new(spec, index, Step::Shards, Cause::NotSharded(why));
    report.flags = Step::Shards.flags(Strict::No);
    report
}

fn replaced(placed: &Placed, spec: &ListenerSpec, index: usize) -> Option<Report> {
    let live = placed.replaced_live()?;
    let report = Report::new(spec, index, Step::UnixReplace, Cause::Replaced { live });
    Some(report.into_note("socket replaced"))
}

fn flags_of(reports: &[Report]) -> Flags {
    let join = |flags, report: &Report| flags | report.flags;
    reports.iter().fold(Flags::empty(), join)
}

fn set_error(errors: Vec<OpenError>, reports: Vec<Report>, tries: u32) -> SetError {
    let of_errors = errors.iter().fold(Flags::empty(), |flags, error| {
        flags | error.flags() | flags_of(error.earlier())
    });
    SetError {
        flags: of_errors | flags_of(&reports),
        errors,
        reports,
        tries,
    }
}

/// Removes the files of Unix sockets, as a server does that ends and is not replaced.
pub fn remove_paths(listeners: &[Listener]) -> Vec<(&Path, std::io::Error)> {
    let removed = listeners.iter().filter_map(|listener| {
        let path = listener.facts().socket_file.as_ref()?.path.as_path();
        listener.remove_path().err().map(|error| (path, error))
    });
    removed.collect()
}
