//! How health checks and their consequences are worded.
//!
//! Decides:  the sentences and their levels, as HAProxy's, so that what parses its logs goes on
//!           to work.
//! Source:   HAProxy 3.5-dev5, src/check.c, set_server_check_status(), check_append_info();
//!           src/server.c, srv_append_more(); src/backend.c, set_backend_down().
//! Cases:    the tests below, recorded from HAProxy 2.6.12
//! Not here: when they are said (the control plane), what they mean (../health.rs).

use std::fmt::Write as _;

use portcullis_balance::{Tier, Usable};

use super::frame::Level;
use crate::health::{Change, CheckStatus, Standing};

/// Of which server a line speaks.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The backend's name.
    pub backend: &'a str,
    /// The server's name.
    pub server: &'a str,
    /// Active or backup.
    pub tier: Tier,
}

/// What one check found.
#[derive(Debug, Clone, Copy)]
pub struct Finding<'a> {
    /// How it ended.
    pub status: CheckStatus,
    /// What the system said, like `Connection refused`; may be empty.
    pub info: &'a str,
    /// How long it took, ms; `None`: it was no check, but traffic.
    pub duration_ms: Option<u64>,
}

/// `, reason: Layer4 connection problem, info: "Connection refused", check duration: 0ms`
fn write_reason(finding: &Finding<'_>, out: &mut String) {
    let _ = write!(out, ", reason: {}", finding.status.description());
    if !finding.info.is_empty() {
        let _ = write!(out, ", info: \"{}\"", finding.info);
    }
    if let Some(duration_ms) = finding.duration_ms {
        let _ = write!(out, ", check duration: {duration_ms}ms");
    }
}

/// With `option log-health-checks`: a check that brought news.
#[must_use]
pub fn check_line(
    subject: &Subject<'_>,
    finding: &Finding<'_>,
    standing: Standing,
    weight: u16,
) -> (Level, String) {
    let backup = match subject.tier {
        Tier::Active => "",
        Tier::Backup => "backup ",
    };
    let result = match finding.status {
        CheckStatus::L4Ok => "succeeded",
        _ => "failed",
    };
    let mut line = format!(
        "Health check for {backup}server {}/{} {result}",
        subject.backend, subject.server
    );
    write_reason(finding, &mut line);
    let state = match (standing.up, weight) {
        (false, _) => "DOWN",
        (true, 0) => "DRAIN",
        (true, _) => "UP",
    };
    let _ = write!(
        line,
        ", status: {}/{} {state}.",
        standing.count, standing.of
    );
    (Level::Notice, line)
}

/// A server went down or came up. `finding` is left out where [`check_line`] has said it.
/// `sessions` are the server's now.
#[must_use]
pub fn change_line(
    subject: &Subject<'_>,
    change: Change,
    finding: Option<&Finding<'_>>,
    left: Usable,
    sessions: u32,
) -> (Level, String) {
    let backup = match subject.tier {
        Tier::Active => "",
        Tier::Backup => "Backup ",
    };
    let (level, verb, word) = match change {
        Change::Down => (Level::Alert, "DOWN", "left"),
        Change::Up => (Level::Notice, "UP", "online"),
    };
    let mut line = format!(
        "{backup}Server {}/{} is {verb}",
        subject.backend, subject.server
    );
    if let Some(finding) = finding {
        write_reason(finding, &mut line);
    }
    let _ = write!(
        line,
        ". {} active and {} backup servers {word}.",
        left.active, left.backup
    );
    if left.active == 0 && left.backup > 0 {
        line.push_str(" Running on backup.");
    }
    // Nothing waits in queues yet, so nothing is requeued and nothing remains.
    match change {
        Change::Down => {
            let _ = write!(
                line,
                " {sessions} sessions active, 0 requeued, 0 remaining in queue."
            );
        }
        Change::Up => line.push_str(" 0 sessions requeued, 0 total in queue."),
    }
    (level, line)
}

/// Whether a backend is one of its own or the back half of a `listen` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// `backend`
    Backend,
    /// `listen`, which HAProxy calls a proxy.
    Listen,
}

/// The last server of a backend is gone.
#[must_use]
pub fn none_left_line(section: Section, backend: &str) -> (Level, String) {
    let kind = match section {
        Section::Backend => "backend",
        Section::Listen => "proxy",
    };
    let line = format!("{kind} {backend} has no server available!");
    (Level::Emergency, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: Subject<'_> = Subject {
        backend: "chk",
        server: "bad",
        tier: Tier::Active,
    };
    const BACKUP: Subject<'_> = Subject {
        backend: "chk",
        server: "bk",
        tier: Tier::Backup,
    };
    const REFUSED: Finding<'_> = Finding {
        status: CheckStatus::L4Connection,
        info: "Connection refused",
        duration_ms: Some(0),
    };
    const PASSED: Finding<'_> = Finding {
        status: CheckStatus::L4Ok,
        info: "",
        duration_ms: Some(0),
    };

    fn standing(count: u32, of: u32, up: bool) -> Standing {
        Standing { count, of, up }
    }

    fn usable(active: u32, backup: u32) -> Usable {
        Usable { active, backup }
    }

    #[test]
    fn checks_are_worded_as_by_haproxy() {
        let timeout = Finding {
            status: CheckStatus::L4Timeout,
            info: "",
            duration_ms: Some(300),
        };
        for (line, expected) in [
            (
                check_line(&SERVER, &REFUSED, standing(0, 2, false), 1),
                "Health check for server chk/bad failed, reason: Layer4 connection problem, \
                 info: \"Connection refused\", check duration: 0ms, status: 0/2 DOWN.",
            ),
            (
                check_line(&BACKUP, &PASSED, standing(3, 3, true), 1),
                "Health check for backup server chk/bk succeeded, reason: Layer4 check passed, \
                 check duration: 0ms, status: 3/3 UP.",
            ),
            (
                check_line(&SERVER, &timeout, standing(2, 3, true), 1),
                "Health check for server chk/bad failed, reason: Layer4 timeout, \
                 check duration: 300ms, status: 2/3 UP.",
            ),
        ] {
            assert_eq!(line, (Level::Notice, expected.to_owned()));
        }
    }

    #[test]
    fn changes_are_worded_as_by_haproxy() {
        for ((level, line), expected_level, expected) in [
            (
                change_line(&SERVER, Change::Down, Some(&REFUSED), usable(2, 1), 0),
                Level::Alert,
                "Server chk/bad is DOWN, reason: Layer4 connection problem, \
                 info: \"Connection refused\", check duration: 0ms. \
                 2 active and 1 backup servers left. \
                 0 sessions active, 0 requeued, 0 remaining in queue.",
            ),
            (
                change_line(&SERVER, Change::Down, None, usable(0, 1), 4),
                Level::Alert,
                "Server chk/bad is DOWN. 0 active and 1 backup servers left. Running on backup. \
                 4 sessions active, 0 requeued, 0 remaining in queue.",
            ),
            (
                change_line(&BACKUP, Change::Down, None, usable(2, 0), 0),
                Level::Alert,
                "Backup Server chk/bk is DOWN. 2 active and 0 backup servers left. \
                 0 sessions active, 0 requeued, 0 remaining in queue.",
            ),
            (
                change_line(&SERVER, Change::Up, Some(&PASSED), usable(1, 1), 9),
                Level::Notice,
                "Server chk/bad is UP, reason: Layer4 check passed, check duration: 0ms. \
                 1 active and 1 backup servers online. 0 sessions requeued, 0 total in queue.",
            ),
        ] {
            assert_eq!(line, expected);
            assert_eq!(level, expected_level);
        }
    }

    #[test]
    fn the_last_server_gone_is_an_emergency() {
        let (level, line) = none_left_line(Section::Backend, "be");
        assert_eq!(level, Level::Emergency);
        assert_eq!(line, "backend be has no server available!");
        let (_, line) = none_left_line(Section::Listen, "web");
        assert_eq!(line, "proxy web has no server available!");
    }
}
