//! Would the kernel make a socket at all: the limits on descriptors and open files.
//!
//! Decides:  when socket() itself is refused, before any rule of ports; what would help.
//! Kernel:   fs/file.c, alloc_fd(), expand_files(): the lowest free number below RLIMIT_NOFILE and fs.nr_open;
//!           fs/file_table.c, alloc_empty_file(): fs.file-max, beyond which CAP_SYS_ADMIN goes; 5.10 to 6.18
//! Not here: counting them (place.rs); whether a configuration's connections have enough (crate `control`).

use portcullis_kernel_model::Errno;
use serde::Serialize;

use super::{Opening, Outcome, PossibleAnswer, RuleText, Verdict, Way, ask, refuser};
use crate::snapshot::Snapshot;
use crate::world::Nonsense;

const CAP_SYS_ADMIN: u32 = 21;

/// The limits on the caller's descriptors, and how far it is from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Descriptors {
    /// How many numbers below the limit it has open.
    pub held: u64,
    /// RLIMIT_NOFILE as it counts now.
    pub soft: u64,
    /// How far an ordinary process can raise it.
    pub hard: u64,
    /// `fs.nr_open`: how far anybody can.
    pub nr_open: Option<u64>,
    /// Files that are open on the whole host.
    pub open_files: Option<u64>,
    /// `fs.file-max`: how many may be.
    pub file_max: Option<u64>,
}

/// Why the kernel makes no socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSocket {
    /// The error's name in C.
    pub error: &'static str,
    /// What the error says.
    pub message: &'static str,
    /// The kernel's rule.
    pub rule: RuleText,
    /// What would help: none of it was tried.
    pub hints: Vec<String>,
}

impl Descriptors {
    /// Of the caller; `None` where it could not be told.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Option<Descriptors> {
        let caller = snapshot.process(snapshot.caller)?;
        let (soft, hard) = caller.descriptor_limit?;
        Some(Descriptors {
            held: caller.descriptors?,
            soft,
            hard,
            nr_open: snapshot.files.nr_open,
            open_files: snapshot.files.open,
            file_max: snapshot.files.file_max,
        })
    }

    /// How many it may have.
    fn most(&self) -> u64 {
        self.nr_open.map_or(self.soft, |most| self.soft.min(most))
    }

    fn is_full(&self) -> bool {
        self.held >= self.most()
    }

    /// In words: `64 of 64 descriptors are open (RLIMIT_NOFILE, which may be raised to 4096)`.
    #[must_use]
    pub fn told(&self) -> String {
        if !self.is_full()
            && let (Some(open), Some(most)) = (self.open_files, self.file_max)
        {
            return format!("{open} of {most} files are open on this host (fs.file-max)");
        }
        let which = match self.nr_open {
            Some(nr_open) if nr_open < self.soft => "fs.nr_open".to_owned(),
            _ if self.hard > self.soft => {
                format!("RLIMIT_NOFILE, which may be raised to {}", self.hard)
            }
            _ => "RLIMIT_NOFILE, soft and hard".to_owned(),
        };
        format!(
            "{} of {} descriptors are open ({which})",
            self.held,
            self.most()
        )
    }

    fn ways_to_more(&self, pid: u32) -> Vec<String> {
        let more = self.most().saturating_mul(2);
        let mut hints = Vec::new();
        if let Some(nr_open) = self.nr_open.filter(|&nr_open| nr_open <= self.most()) {
            let twice = nr_open.saturating_mul(2);
            hints.push(format!("sysctl fs.nr_open={twice}, and then the limit"));
        }
        hints.push(match self.hard > self.soft {
            true => format!("prlimit --pid {pid} --nofile={}:", more.min(self.hard)),
            false => format!("as root: prlimit --pid {pid} --nofile={more}:{more}"),
        });
        hints.push(format!(
            "close what is not needed: ls -l /proc/{pid}/fd shows all"
        ));
        hints
    }
}

/// Why the caller would get no socket; `None` where it would, as far as that was seen.
#[must_use]
pub fn no_socket(snapshot: &Snapshot) -> Option<NoSocket> {
    let caller = snapshot.process(snapshot.caller)?;
    if let Some(limits) = Descriptors::of(snapshot).filter(Descriptors::is_full) {
        return Some(NoSocket {
            error: "EMFILE",
            message: "too many open files",
            rule: RuleText {
                id: "descriptor-limit",
                text: "A socket takes the lowest free number of a descriptor, and it has to be below RLIMIT_NOFILE and fs.nr_open.",
            },
            hints: limits.ways_to_more(caller.pid),
        });
    }
    let (open, most) = (snapshot.files.open?, snapshot.files.file_max?);
    let beyond = (caller.capabilities).is_some_and(|bits| bits >> CAP_SYS_ADMIN & 1 == 1);
    (open >= most && !beyond).then(|| NoSocket {
        error: "ENFILE",
        message: "too many open files in system",
        rule: RuleText {
            id: "file-max",
            text: "Of all processes together no more than fs.file-max files may be open, sockets among them; only CAP_SYS_ADMIN goes beyond.",
        },
        hints: vec![format!("sysctl fs.file-max={}", most.saturating_mul(2))],
    })
}

/// Would all calls succeed, the making of the socket among them?
///
/// # Errors
///
/// As [`ask`].
pub fn ask_from_socket(snapshot: &Snapshot, opening: &Opening) -> Result<Verdict, Nonsense> {
    let verdict = ask(snapshot, opening)?;
    let Some(refused) = no_socket(snapshot) else {
        return Ok(unless_a_program_refuses(verdict, snapshot, opening));
    };
    let answer = PossibleAnswer {
        call: Some("socket".to_owned()),
        error: Some(refused.error),
        message: Some(refused.message),
        rule: Some(refused.rule),
        holders: Vec::new(),
        more_holders: 0,
        supposing: Vec::new(),
    };
    // Who has the port is not in the way yet.
    let holders = verdict.answers.iter().flat_map(|one| one.holders.clone());
    let mut beside: Vec<_> = holders.chain(verdict.beside.clone()).collect();
    let mut known = std::collections::BTreeSet::new();
    beside.retain(|holder| known.insert(holder.cookie));
    let hints = refused.hints.into_iter().map(|text| Way {
        text,
        tried: false,
        kinds: vec!["limit"],
    });
    Ok(Verdict {
        outcome: Outcome::Refused,
        answers: vec![answer],
        ways: hints.collect(),
        beside,
        elsewhere: Vec::new(),
        ..verdict
    })
}

/// Where a BPF program is asked whether the caller may, only the program knows: the rules' yes is half of the
/// answer then.
fn unless_a_program_refuses(verdict: Verdict, snapshot: &Snapshot, opening: &Opening) -> Verdict {
    let first = refuser::programs(snapshot, Some(opening.family)).next();
    let (Outcome::Works, Some(one)) = (verdict.outcome, first) else {
        return verdict;
    };
    let which = refuser::program(one);
    let call = match one.hook.as_str() {
        "sock_create" => "socket",
        _ => "bind",
    };
    let refused = PossibleAnswer {
        call: Some(call.to_owned()),
        error: Some(Errno::EPERM.name()),
        message: Some(Errno::EPERM.text()),
        rule: None,
        holders: Vec::new(),
        more_holders: 0,
        supposing: vec![format!("{which} refuses it")],
    };
    let mut answers = verdict.answers;
    for answer in &mut answers {
        answer
            .supposing
            .push("no BPF program of the control groups refuses it".to_owned());
    }
    answers.push(refused);
    Verdict {
        outcome: Outcome::Unknown,
        answers,
        ..verdict
    }
}
