//! The opener's side: a privileged process that opens, passes signals on, and ends as its child.
//!
//! Decides:  which signals go on to the worker, and how the opener ends.
//! Kernel:   kernel/signal.c: a terminal's signals go to its whole foreground process group
//! Not here: the worker's side (parent.rs), the packets (codec.rs).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use portcullis_sys::process::{self, Fork, Received, Sender, Signals};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpgid, getpgrp, kill_process, waitpid,
};

use super::channel::{Arrival, Channel};
use super::codec::Message;
use super::message::{Reply, Request, decode, encode};
use super::{Answer, Opener, OpenerError, Parent, Permit};
use crate::{Listener, ListenerSpec, Opened};

/// The signals that the opener passes on to the worker.
const PASSED_ON: [Signal; 8] = [
    Signal::TERM,
    Signal::INT,
    Signal::QUIT,
    Signal::HUP,
    Signal::USR1,
    Signal::USR2,
    Signal::TTIN,
    Signal::TTOU,
];

/// Those of them after which nobody is to serve.
const STOPS: [Signal; 3] = [Signal::TERM, Signal::INT, Signal::USR1];

/// How a worker's time ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How it ended itself.
    pub end: ChildEnd,
    /// A signal that asks for its end was passed on to it.
    pub told_to_stop: bool,
}

/// Which process this is after [`split`].
#[derive(Debug)]
pub enum Split {
    /// The one that was there: it keeps its privileges, must [`OpenerProcess::serve`], and exit as
    /// that says.
    Opener(OpenerProcess),
    /// The new one: it gives its privileges up and serves.
    Worker(Parent),
}

/// The privileged process.
#[derive(Debug)]
pub struct OpenerProcess {
    channel: Option<Channel>,
    signals: Signals,
    child: Pid,
}

/// How the worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChildEnd {
    /// It exited with this code.
    Exited(u8),
    /// This signal killed it.
    Killed(i32),
}

impl ChildEnd {
    /// The code to exit with: the child's, or 128 and the signal, as shells have it.
    pub fn exit_code(self) -> u8 {
        match self {
            ChildEnd::Exited(code) => code,
            ChildEnd::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }

    fn of(status: WaitStatus) -> Option<ChildEnd> {
        if let Some(code) = status.exit_status() {
            return Some(ChildEnd::Exited(u8::try_from(code).unwrap_or(u8::MAX)));
        }
        status.terminating_signal().map(ChildEnd::Killed)
    }
}

/// Splits the process in two: this one becomes the opener, its child goes on as the worker.
///
/// To be called while there is one thread only (`EDEADLK` otherwise) and before privileges are
/// dropped. Signals that come meanwhile wait, and reach the worker when the opener serves.
pub fn split() -> io::Result<Split> {
    let (ours, theirs) = Channel::pair()?;
    // A worker whose end nobody hears of would leave its opener waiting for ever.
    process::default_action(Signal::CHILD)?;
    let mut blocked = vec![Signal::CHILD];
    blocked.extend(PASSED_ON);
    let signals = Signals::block(&blocked)?;
    let pid = std::process::id();
    match process::fork()? {
        Fork::Parent(child) => Ok(Split::Opener(OpenerProcess {
            channel: Some(ours),
            signals,
            child,
        })),
        Fork::Child => {
            signals.restore();
            Ok(Split::Worker(Parent::new(theirs, pid)))
        }
    }
}

impl OpenerProcess {
    /// The worker's process id.
    pub fn child(&self) -> Pid {
        self.child
    }

    /// Opens for the worker and passes signals on, until the worker ends.
    ///
    /// `permit` is asked about every listener first. A worker that closes its end, or sends what
    /// is not the protocol, is still waited for.
    pub fn serve(self, opener: &mut dyn Opener, permit: &mut Permit<'_>) -> io::Result<ChildEnd> {
        let mut none = |_: &str| Err("this opener answers no questions".to_owned());
        self.serve_with(opener, permit, &mut none)
    }

    /// The same; `answer` answers the program's own questions ([`Parent::ask`]).
    pub fn serve_with(
        self,
        opener: &mut dyn Opener,
        permit: &mut Permit<'_>,
        answer: &mut Answer<'_>,
    ) -> io::Result<ChildEnd> {
        self.supervise(opener, permit, answer)
            .map(|ended| ended.end)
    }

    /// The same; says too whether the worker was told to stop, so that one that was not can be replaced: by
    /// another [`split`], and an opener that still has its sockets.
    pub fn supervise(
        mut self,
        opener: &mut dyn Opener,
        permit: &mut Permit<'_>,
        answer: &mut Answer<'_>,
    ) -> io::Result<Ended> {
        let mut told_to_stop = false;
        let mut clerk = Clerk {
            opener,
            permit,
            answer,
        };
        loop {
            while let Some(received) = self.signals.next()? {
                if received.signal != Signal::CHILD {
                    told_to_stop |= STOPS.contains(&received.signal);
                    self.pass_on(received)?;
                } else if let Some(end) = self.child_end()? {
                    return Ok(Ended { end, told_to_stop });
                }
            }
            if self.wait()? {
                self.hear(&mut clerk);
            }
        }
    }

    /// Waits for a signal or the worker; `true` if the worker has something to say.
    fn wait(&self) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(channel) = &self.channel {
            fds.push(PollFd::new(channel, PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) => Ok(fds.get(1).is_some_and(|fd| !fd.revents().is_empty())),
            Err(Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn child_end(&self) -> io::Result<Option<ChildEnd>> {
        match waitpid(Some(self.child), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => Ok(ChildEnd::of(status)),
            Ok(None) | Err(Errno::INTR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn pass_on(&self, received: Received) -> io::Result<()> {
        let shares_group = getpgid(Some(self.child)).ok() == Some(getpgrp());
        if !goes_on(received, shares_group) {
            return Ok(());
        }
        match kill_process(self.child, received.signal) {
            // It has ended; SIGCHLD says how.
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one packet and answers if it completes a question. A worker that does not keep to
    /// the protocol, or does not read, is heard no more.
    fn hear(&mut self, clerk: &mut Clerk<'_, '_>) {
        let Some(channel) = &mut self.channel else {
            return;
        };
        let heard = match channel.arrival() {
            Ok(Arrival::NotYet) => Ok(true),
            Ok(Arrival::Gone) => Ok(false),
            Ok(Arrival::Message(message)) => respond(channel, message, clerk).map(|()| true),
            Err(error) => Err(error),
        };
        if !matches!(heard, Ok(true)) {
            self.channel = None;
        }
    }
}

/// Does a signal go on to the worker? One from the terminal has reached it already.
fn goes_on(received: Received, shares_group: bool) -> bool {
    !(received.from == Sender::Kernel && shares_group)
}

/// Answers one question. What was opened for it is closed here again: the worker has its own
/// descriptors, and a listener closes when the worker closes it.
fn respond(
    channel: &mut Channel,
    message: Message<impl Sized>,
    clerk: &mut Clerk<'_, '_>,
) -> Result<(), OpenerError> {
    let (reply, listeners) = match decode(&message.text) {
        Ok(request) => clerk.answer(request),
        Err(error) => (Reply::NotUnderstood(error.to_string()), Vec::new()),
    };
    let descriptors: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
    let sent = encode(&reply)
        .map_err(OpenerError::from)
        .and_then(|text| channel.send(message.id, &text, &descriptors));
    if sent.is_err() {
        // Nobody holds them: their names go too.
        for listener in &listeners {
            let _ = listener.remove_path();
        }
    }
    sent
}

/// Who does what is asked for.
struct Clerk<'a, 'b> {
    opener: &'a mut dyn Opener,
    permit: &'a mut Permit<'b>,
    answer: &'a mut Answer<'b>,
}

impl Clerk<'_, '_> {
    fn answer(&mut self, request: Request) -> (Reply, Vec<Listener>) {
        let specs = match request {
            Request::Open(specs) => specs,
            Request::Detach => return (detach(), Vec::new()),
            Request::Ask(question) => {
                let answered = (self.answer)(&question);
                return (
                    answered.map_or_else(Reply::Failed, Reply::Answer),
                    Vec::new(),
                );
            }
        };
        for spec in &specs {
            if let Err(reason) = (self.permit)(spec) {
                let listener = name(spec);
                return (Reply::Refused { listener, reason }, Vec::new());
            }
        }
        match self.opener.open(&specs) {
            Ok(opened) => {
                let Opened { listeners, reports } = opened;
                let facts = listeners.iter().map(|one| one.facts().clone()).collect();
                let reply = Reply::Opened {
                    listeners: facts,
                    reports,
                };
                (reply, listeners)
            }
            Err(OpenerError::NotOpened(error)) => (Reply::NotOpened(error), Vec::new()),
            Err(OpenerError::Refused { listener, reason }) => {
                (Reply::Refused { listener, reason }, Vec::new())
            }
            Err(error) => (Reply::Failed(error.to_string()), Vec::new()),
        }
    }
}

fn detach() -> Reply {
    match process::open_null().and_then(process::replace_stdio) {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed(error.to_string()),
    }
}

/// A listener's name for messages.
fn name(spec: &ListenerSpec) -> String {
    if !spec.name.is_empty() {
        return spec.name.clone();
    }
    spec.address.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opener::{InProcess, permit_all};
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    /// The opener's side without a process: answers until the other side is gone.
    fn serve(
        mut channel: Channel,
        mut permit: impl FnMut(&ListenerSpec) -> Result<(), String> + Send + 'static,
    ) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            loop {
                let mut fds = [PollFd::new(&channel, PollFlags::IN)];
                rustix::event::poll(&mut fds, None).unwrap();
                match channel.arrival().unwrap() {
                    Arrival::NotYet => {}
                    Arrival::Gone => return,
                    Arrival::Message(message) => {
                        let mut clerk = Clerk {
                            opener: &mut InProcess::new(),
                            permit: &mut permit,
                            answer: &mut |question| match question {
                                "why" => Err("because".to_owned()),
                                _ => Ok(format!("you asked: {question}")),
                            },
                        };
                        respond(&mut channel, message, &mut clerk).unwrap();
                    }
                }
            }
        })
    }

    fn spec(shards: u16) -> ListenerSpec {
        let mut spec = ListenerSpec::new(crate::Address::Tcp("127.0.0.1:0".parse().unwrap()));
        spec.shards = shards;
        spec
    }

    fn local(fd: impl AsFd) -> SocketAddr {
        rustix::net::getsockname(fd).unwrap().try_into().unwrap()
    }

    #[test]
    fn listeners_arrive_in_order_and_only_the_asker_holds_them() {
        let (ours, theirs) = Channel::pair().unwrap();
        let opener = serve(theirs, permit_all);
        let mut parent = Parent::new(ours, 1);
        let opened = parent.open(&[spec(1), spec(1), spec(1)]).unwrap();
        let indexes: Vec<usize> = opened
            .listeners
            .iter()
            .map(|one| one.facts().spec)
            .collect();
        assert_eq!(indexes, [0, 1, 2]);
        let addresses: Vec<SocketAddr> = opened.listeners.iter().map(local).collect();
        for address in &addresses {
            TcpStream::connect_timeout(address, Duration::from_secs(5)).unwrap();
        }
        // A second question is answered after what was opened for the first is closed there.
        parent.open(&[]).unwrap();
        drop(opened);
        for address in &addresses {
            TcpStream::connect_timeout(address, Duration::from_secs(5)).unwrap_err();
        }
        drop(parent);
        opener.join().unwrap();
    }

    #[test]
    fn a_listener_that_is_not_permitted_is_refused_and_nothing_is_opened() {
        let (ours, theirs) = Channel::pair().unwrap();
        let opener = serve(theirs, |spec| {
            if spec.name == "evil" {
                Err("it is not in the configuration".to_owned())
            } else {
                Ok(())
            }
        });
        let mut parent = Parent::new(ours, 1);
        let mut evil = spec(1);
        evil.name = "evil".to_owned();
        let error = parent.open(&[spec(1), evil]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the opener refuses to open evil: it is not in the configuration"
        );
        assert_eq!(parent.open(&[spec(1)]).unwrap().listeners.len(), 1);
        drop(parent);
        opener.join().unwrap();
    }

    #[test]
    fn a_set_that_cannot_be_opened_says_why_across_the_processes() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (ours, theirs) = Channel::pair().unwrap();
        let opener = serve(theirs, permit_all);
        let mut parent = Parent::new(ours, 1);
        let wanted = ListenerSpec::new(crate::Address::Tcp(taken.local_addr().unwrap()));
        let error = parent.open(&[spec(1), wanted]).unwrap_err();
        let here = InProcess::new()
            .open(&[ListenerSpec::new(crate::Address::Tcp(
                taken.local_addr().unwrap(),
            ))])
            .unwrap_err();
        assert!(matches!(error, OpenerError::NotOpened(_)));
        assert_eq!(error.to_string(), here.to_string());
        drop(parent);
        opener.join().unwrap();
    }

    #[test]
    fn a_question_of_the_programs_own_is_answered_or_says_why_not() {
        let (ours, theirs) = Channel::pair().unwrap();
        let opener = serve(theirs, permit_all);
        let mut parent = Parent::new(ours, 1);
        let long = "x".repeat(100_000);
        assert_eq!(parent.ask(&long).unwrap(), format!("you asked: {long}"));
        let error = parent.ask("why").unwrap_err().to_string();
        assert_eq!(error, "the opener could not do it: because");
        assert_eq!(parent.open(&[spec(1)]).unwrap().listeners.len(), 1);
        drop(parent);
        opener.join().unwrap();
    }

    #[test]
    fn a_question_that_is_not_understood_is_answered_so_and_the_next_is_heard() {
        let (mut ours, theirs) = Channel::pair().unwrap();
        let opener = serve(theirs, permit_all);
        ours.send(1, br#"{"ReadFiles":[]}"#, &[]).unwrap();
        let answer = ours.wait_for(1, Duration::from_secs(10)).unwrap();
        assert!(matches!(
            decode(&answer.text).unwrap(),
            Reply::NotUnderstood(why) if why.contains("ReadFiles")
        ));
        Parent::new(ours, 1).open(&[]).unwrap();
        opener.join().unwrap();
    }

    #[test]
    fn a_terminals_signal_is_not_passed_on_twice() {
        let terminal = Received {
            signal: Signal::INT,
            from: Sender::Kernel,
        };
        let kill = Received {
            signal: Signal::INT,
            from: Sender::Process(1),
        };
        for (received, shares_group, expected) in [
            (terminal, true, false),
            (terminal, false, true),
            (kill, true, true),
            (kill, false, true),
        ] {
            assert_eq!(goes_on(received, shares_group), expected);
        }
    }

    #[test]
    fn the_exit_code_is_the_childs_or_the_signals() {
        assert_eq!(ChildEnd::Exited(0).exit_code(), 0);
        assert_eq!(ChildEnd::Exited(3).exit_code(), 3);
        assert_eq!(ChildEnd::Killed(9).exit_code(), 137);
        assert_eq!(ChildEnd::Killed(15).exit_code(), 143);
    }
}
