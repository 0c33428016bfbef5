//! Which process this is: the one that serves, or its opener, which may start others that serve.
//!
//! Decides:  that there is an opener where privileges are dropped or somebody is to supervise, and when it ends.
//! Not here: what it keeps and how often it tries (supervise.rs), what a worker does (start.rs).

use std::path::Path;
use std::time::Instant;

use portcullis_config::Sources;
use portcullis_listener::opener::{Ended, InProcess, OpenerProcess, Split, split};
use portcullis_listener::{ListenerSpec, OpenContext, Pool};

use super::messages::Messages;
use super::office::Office;
use super::open::Opening;
use super::reload::read::Clerk;
use super::supervise::{self, Crashes, Keeping, Kept};
use super::{End, Job, RunError};
use crate::Plan;
use crate::control_socket;
use crate::daemon::Readiness;
use crate::pidfile::Pidfile;

/// What is known before there are two processes.
pub(super) struct Beginning<'a> {
    pub(super) plan: &'a Plan,
    pub(super) job: &'a Job,
    /// Absolute.
    pub(super) pidfile: Option<&'a Path>,
    /// The user that sockets are given to.
    pub(super) owner: Option<u32>,
    /// There is to be an opener.
    pub(super) splits: bool,
    pub(super) messages: Messages,
}

/// Which process goes on, and as what.
pub(super) enum Role {
    /// The opener, at its end.
    Opener(End),
    /// The one that serves.
    Worker {
        opening: Opening,
        /// It is not the first: and what the last one served, where that is not what the first began with.
        restarted: Option<Option<Box<(Plan, Sources)>>>,
    },
}

/// Splits the process where that is wanted. The opener comes back from here when it is over; a worker as often as
/// one is started.
pub(super) fn split_up(
    beginning: &Beginning<'_>,
    readiness: &mut Option<Readiness>,
) -> Result<Role, RunError> {
    let job = beginning.job;
    let kept = job.supervise.then(Kept::default);
    let mut opener = Keeping {
        opener: in_process(beginning.owner, &job.pool),
        kept: kept.clone(),
    };
    let mut crashes = Crashes::default();
    let mut restarted = None;
    loop {
        if !beginning.splits {
            let opening = Opening::Here(opener.opener);
            return Ok(Role::Worker { opening, restarted });
        }
        let process = match split().map_err(RunError::host("start the opener"))? {
            Split::Opener(process) => process,
            Split::Worker(parent) => {
                // The opener has them; this process is given what they become.
                opener.opener.forget_pool();
                job.pool.close_rest();
                let opening = Opening::There(parent);
                return Ok(Role::Worker { opening, restarted });
            }
        };
        drop(readiness.take());
        // The worker's alone: its end is to be heard of.
        job.take_over.leave();
        let office = Office {
            relaunch: job.relaunch.clone(),
            pidfile: beginning.pidfile.map(Path::to_owned),
            kept: kept.clone(),
            ..Office::default()
        };
        let newer = restarted.as_ref().and_then(Option::as_ref);
        let plan = newer.map_or(beginning.plan, |newer| &newer.0);
        let clerk = Clerk::new(plan, job.read.clone(), office);
        let began = Instant::now();
        let ended = be_the_opener(process, &clerk, &mut opener)?;
        let Some(kept) = kept.as_ref().filter(|kept| kept.goes_on(ended)) else {
            let code = ended.end.exit_code();
            return Ok(Role::Opener(leave(beginning.pidfile, code, None)));
        };
        if let Some(end) = another(ended, began, &mut crashes, beginning) {
            return Ok(Role::Opener(end));
        }
        opener.opener = in_process(beginning.owner, &kept.for_the_next());
        let newer = clerk.last_served().map(Box::new);
        restarted = Some(newer.or(restarted.flatten()));
    }
}

/// Waits as long as is right before the next worker; the end where there is to be none.
fn another(
    ended: Ended,
    began: Instant,
    crashes: &mut Crashes,
    beginning: &Beginning<'_>,
) -> Option<End> {
    let how = supervise::words(ended.end);
    let delay = crashes.another(began.elapsed());
    let many = crashes.in_a_row();
    let Some(delay) = delay else {
        let text = format!("the worker process {how}, and {many} in a row did: giving up");
        let code = supervise::GIVEN_UP;
        return Some(leave(beginning.pidfile, code, Some(text)));
    };
    beginning.messages.warning(&format!(
        "the worker process {how}: starting another in {} ms (crash {many} in a row, of {})",
        delay.as_millis(),
        supervise::MOST
    ));
    std::thread::sleep(delay);
    None
}

fn in_process(owner: Option<u32>, pool: &Pool) -> InProcess {
    let mut context = OpenContext::default();
    context.pool = pool.clone();
    let opener = owner.map_or_else(InProcess::new, InProcess::for_user);
    opener.with_context(context)
}

/// The privileged parent's life beside one worker: it opens what the configuration says and nothing else, reads
/// it again when asked to, passes signals on.
fn be_the_opener(
    process: OpenerProcess,
    clerk: &Clerk,
    opener: &mut Keeping,
) -> Result<Ended, RunError> {
    let mut permit = |spec: &ListenerSpec| clerk.permit(spec);
    let mut answer = |question: &str| clerk.answer(question);
    process
        .supervise(opener, &mut permit, &mut answer)
        .map_err(RunError::host("open for the worker process"))
}

/// The opener's end.
fn leave(pidfile: Option<&Path>, code: u8, message: Option<String>) -> End {
    if let Some(path) = pidfile
        && let Ok(file) = Pidfile::claim(path, std::process::id())
    {
        // The worker's user may not remove what stands beside it.
        if file.remove_if_ours() {
            let _ = std::fs::remove_file(control_socket::beside(file.path()));
        }
    }
    End::Role { code, message }
}
