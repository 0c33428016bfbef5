//! The table again and again, with what changed a second.
//!
//! Decides:  what is compared with what; how the terminal is used and left; that Ctrl-C is the way to end,
//!           and Ctrl-Z and `fg` work.
//! Kernel:   console_codes(4): the alternate screen, so that what was on the terminal is there afterwards
//! Not here: how a table looks (table.rs).

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use portcullis_inspect::snapshot::Drops;
use portcullis_sys::process::Signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use super::rows::Row;
use crate::terminal::{self, Reader};

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const SIGNALS: [Signal; 6] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::TSTP,
    Signal::CONT,
    Signal::WINCH,
];

/// What a row was at the last look, and at most.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    drops: Option<u64>,
    connections: u64,
    peak: u32,
    /// Of those that are told, a second.
    drops_rate: Option<f64>,
    connections_rate: Option<f64>,
    round: u64,
}

/// What changes how fast.
#[derive(Debug, Default)]
pub struct Rates {
    rows: BTreeMap<String, Seen>,
    namespaces: BTreeMap<u64, (Drops, Option<f64>)>,
    last: Option<Instant>,
    round: u64,
}

impl Rates {
    /// Compares what is seen now with the last time.
    pub fn look(&mut self, rows: &[Row], drops: &[(u64, Drops)], now: Instant) {
        let since = self.last.map(|last| now.duration_since(last).as_secs_f64());
        let since = since.filter(|&seconds| seconds > 0.0);
        self.last = Some(now);
        self.round += 1;
        for row in rows {
            let first = Seen::default();
            let key = key(row);
            let known = self.rows.get(&key).copied();
            let before = known.unwrap_or(first);
            let per_second = |more: f64| known.and(since).map(|seconds| more / seconds);
            // A counter that went back is another socket's.
            let more = row
                .drops
                .zip(before.drops)
                .and_then(|(now, then)| now.checked_sub(then));
            let difference = row.connections as f64 - before.connections as f64;
            self.rows.insert(
                key,
                Seen {
                    drops: row.drops,
                    connections: row.connections,
                    peak: before.peak.max(row.queue),
                    drops_rate: more.and_then(|more| per_second(more as f64)),
                    connections_rate: per_second(difference),
                    round: self.round,
                },
            );
        }
        let round = self.round;
        self.rows.retain(|_, seen| seen.round == round);
        for &(netns, drops) in drops {
            let before = self
                .namespaces
                .get(&netns)
                .map(|known| known.0.listen_overflows);
            let more = before
                .flatten()
                .zip(drops.listen_overflows)
                .and_then(|(then, now)| now.checked_sub(then));
            let rate = more.zip(since).map(|(more, seconds)| more as f64 / seconds);
            self.namespaces.insert(netns, (drops, rate));
        }
    }

    /// Drops a second.
    pub fn drops(&self, row: &Row) -> Option<f64> {
        self.rows.get(&key(row))?.drops_rate
    }

    /// By how much more connections there are, a second.
    pub fn connections(&self, row: &Row) -> Option<f64> {
        self.rows.get(&key(row))?.connections_rate
    }

    /// The longest queue that was seen.
    pub fn peak(&self, row: &Row) -> Option<u32> {
        Some(self.rows.get(&key(row))?.peak)
    }

    /// Overflows of accept queues in a namespace a second.
    pub fn overflows(&self, netns: u64) -> Option<f64> {
        self.namespaces.get(&netns)?.1
    }
}

fn key(row: &Row) -> String {
    let device = row.device.as_deref().unwrap_or("");
    let pid = row.owners.first().map_or(0, |owner| owner.pid);
    format!(
        "{} {} {} {device} {pid}",
        row.netns, row.protocol, row.address
    )
}

/// Whether the screen is drawn anew each time, or the table written below the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    Whole,
    Lines,
}

/// Shows what `draw` gives every so often, until INT, TERM or HUP, or until nobody reads it.
pub fn every(
    interval: Duration,
    screen: Screen,
    mut draw: impl FnMut() -> String,
) -> io::Result<()> {
    let signals = Signals::block(&SIGNALS)?;
    let _terminal = Alternate::enter(screen);
    let mut due = Instant::now();
    loop {
        let now = Instant::now();
        if now >= due {
            if show(screen, &draw())? == Reader::Gone {
                return Ok(());
            }
            // What took longer than the interval is not made up for.
            due = (due + interval).max(Instant::now());
        }
        let wait = due.saturating_duration_since(Instant::now());
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let mut ready = [PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(received) = signals.next()? {
            match received.signal {
                Signal::TSTP => stop(screen)?,
                Signal::CONT | Signal::WINCH => due = Instant::now(),
                _ => return Ok(()),
            }
        }
    }
}

fn show(screen: Screen, text: &str) -> io::Result<Reader> {
    if screen == Screen::Lines {
        return terminal::try_out_again(text);
    }
    // Each line wipes what was behind it, so that nothing flickers; then all below.
    let lines: String = text
        .lines()
        .map(|line| format!("{line}\x1b[K\r\n"))
        .collect();
    terminal::try_out_again(&format!("\x1b[H{}\x1b[J", lines.trim_end_matches("\r\n")))
}

/// Ctrl-Z: the terminal as it was, until the shell continues us.
fn stop(screen: Screen) -> io::Result<()> {
    if screen == Screen::Whole {
        terminal::out(LEAVE);
    }
    rustix::process::kill_process(rustix::process::getpid(), Signal::STOP)?;
    if screen == Screen::Whole {
        terminal::out(ENTER);
    }
    Ok(())
}

/// The alternate screen, for as long as it lives.
struct Alternate(Screen);

impl Alternate {
    fn enter(screen: Screen) -> Alternate {
        if screen == Screen::Whole {
            terminal::out(ENTER);
        }
        Alternate(screen)
    }
}

impl Drop for Alternate {
    fn drop(&mut self) {
        if self.0 == Screen::Whole {
            terminal::out(LEAVE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listeners::rows::tests::{host, listener, process_called};
    use crate::listeners::rows::{Unix, rows};

    #[test]
    fn rates_are_of_what_changed_and_peaks_stay() {
        let look = |drops, queue, connections| {
            let mut socket = listener("0.0.0.0:80", 7);
            (socket.drops, socket.receive_queue) = (Some(drops), queue);
            let snapshot = host(vec![socket], vec![process_called("a", 7, 1)]);
            let mut rows = rows(&snapshot, Unix::Without);
            rows[0].connections = connections;
            rows
        };
        let overflows = |count| Drops {
            listen_overflows: Some(count),
            ..Drops::default()
        };
        let start = Instant::now();
        let mut rates = Rates::default();
        let first = look(10, 9, 100);
        rates.look(&first, &[(1, overflows(5))], start);
        assert_eq!(
            (rates.drops(&first[0]), rates.connections(&first[0])),
            (None, None)
        );
        assert_eq!(rates.peak(&first[0]), Some(9));
        let second = look(14, 2, 90);
        rates.look(
            &second,
            &[(1, overflows(6))],
            start + Duration::from_secs(2),
        );
        assert_eq!(rates.drops(&second[0]), Some(2.0));
        assert_eq!(rates.connections(&second[0]), Some(-5.0));
        assert_eq!(rates.peak(&second[0]), Some(9));
        assert_eq!(rates.overflows(1), Some(0.5));
        // A counter that went back is another listener's.
        let third = look(1, 0, 90);
        rates.look(&third, &[(1, overflows(6))], start + Duration::from_secs(4));
        assert_eq!(rates.drops(&third[0]), None);
        rates.look(&[], &[], start + Duration::from_secs(6));
        assert_eq!(rates.peak(&third[0]), None, "it is gone");
    }
}
