//! Is a server up, by the results of its checks?
//!
//! Decides:  how many results change a server's state, and when the next check is due.
//! Source:   HAProxy's manual, `rise`, `fall`, `inter`, `fastinter`, `downinter`, `spread-checks`;
//!           src/check.c, set_server_check_status(), start_check_task(), start_checks(), and
//!           src/server.c, srv_getinter(), 2.6 to 3.5.
//! Not here: making a check (the control plane), how a change is worded (log/health.rs).

use std::fmt;

/// Checks that are due more often than this do not set the pace at which all checks start.
const SHORTEST_PACE_MS: u32 = 1_000;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CheckStatus {
    /// No check has ended yet.
    Initializing,
    /// Connections of sessions failed (`observe`).
    Analyzed,
    /// No socket, or an error of this host's before anything was sent.
    SocketError,
    /// The connection was made.
    L4Ok,
    /// The connection took too long.
    L4Timeout,
    /// The connection was refused, reset, or has no way there.
    L4Connection,
}

impl CheckStatus {
    /// Every one.
    pub const ALL: [CheckStatus; 6] = [
        Self::Initializing,
        Self::Analyzed,
        Self::SocketError,
        Self::L4Ok,
        Self::L4Timeout,
        Self::L4Connection,
    ];

    /// That of this name in statistics.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Its name in statistics: `L4OK`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Initializing => "INI",
            Self::Analyzed => "HANA",
            Self::SocketError => "SOCKERR",
            Self::L4Ok => "L4OK",
            Self::L4Timeout => "L4TOUT",
            Self::L4Connection => "L4CON",
        }
    }

    /// Its name in logs: `Layer4 check passed`.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Initializing => "Initializing",
            Self::Analyzed => "Health analyze",
            Self::SocketError => "Socket error",
            Self::L4Ok => "Layer4 check passed",
            Self::L4Timeout => "Layer4 timeout",
            Self::L4Connection => "Layer4 connection problem",
        }
    }

    fn verdict(self) -> Verdict {
        match self {
            Self::Initializing => Verdict::None,
            Self::L4Ok => Verdict::Passed,
            Self::Analyzed | Self::SocketError | Self::L4Timeout | Self::L4Connection => {
                Verdict::Failed
            }
        }
    }
}

impl fmt::Display for CheckStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    None,
    Passed,
    Failed,
}

/// Thresholds and intervals of one server's checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthSettings {
    /// Time between checks of a server that is fully up, ms.
    pub inter_ms: u32,
    /// The same between two states; `None`: as `inter_ms`.
    pub fast_inter_ms: Option<u32>,
    /// The same of a server that is fully down; `None`: as `inter_ms`.
    pub down_inter_ms: Option<u32>,
    /// Successes in a row that bring a server up; 0 is taken as 1.
    pub rise: u32,
    /// Failures in a row that take a server down; 0 is taken as 1.
    pub fall: u32,
}

impl HealthSettings {
    /// The longest time between two checks, ms, without spreading.
    #[must_use]
    pub fn longest_ms(&self) -> u32 {
        let others = [self.fast_inter_ms, self.down_inter_ms];
        let others = others.into_iter().flatten();
        others.fold(self.inter_ms, u32::max)
    }
}

/// How a server begins: `init-state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// Up, but the first failure takes it down.
    #[default]
    Up,
    /// Up, until it failed as often as `fall` says.
    FullyUp,
    /// Down, but the first success brings it up.
    Down,
    /// Down, until it succeeded as often as `rise` says.
    FullyDown,
}

/// What failed connections of sessions count as: `on-error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Errors {
    /// Nothing; the next check comes sooner.
    HurryOnly,
    /// A failed check.
    #[default]
    FailedCheck,
    /// All failed checks but the last.
    LastButOne,
    /// All failed checks.
    Down,
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The server went down.
    Down,
    /// The server came up.
    Up,
}

/// What a result meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Set when the server's state changed.
    pub change: Option<Change>,
    /// Something is new: another status than before, or a step towards a change. This is what
    /// `option log-health-checks` logs.
    pub news: bool,
}

/// How far a server is in its state: `2/3 UP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Failures that it can still take (up), or successes that it has (down).
    pub count: u32,
    /// Of how many.
    pub of: u32,
    /// Up or down.
    pub up: bool,
}

/// The health of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    settings: HealthSettings,
    /// 0 is fully down; below `rise` down; `rise` and more up; `rise + fall - 1` fully up.
    score: u32,
    status: CheckStatus,
}

impl Health {
    /// A server that has not been checked: up, but the first failure takes it down.
    #[must_use]
    pub fn new(settings: HealthSettings) -> Self {
        let settings = HealthSettings {
            rise: settings.rise.max(1),
            fall: settings.fall.max(1),
            ..settings
        };
        Self {
            settings,
            score: settings.rise,
            status: CheckStatus::Initializing,
        }
    }

    /// A server that has not been checked, and begins as it is told.
    #[must_use]
    pub fn starting(settings: HealthSettings, start: Start) -> Self {
        let mut health = Self::new(settings);
        health.score = match start {
            Start::Up => health.settings.rise,
            Start::FullyUp => health.fully_up(),
            Start::Down => health.settings.rise - 1,
            Start::FullyDown => 0,
        };
        health
    }

    /// A server that somebody else has checked so far: up or down as it was, and as far in that as its thresholds
    /// allow.
    #[must_use]
    pub fn resumed(settings: HealthSettings, standing: Standing, status: CheckStatus) -> Self {
        let mut health = Self::new(settings);
        let HealthSettings { rise, fall, .. } = health.settings;
        health.score = match standing.up {
            true if standing.of == fall => rise.saturating_add(standing.count.clamp(1, fall) - 1),
            true => health.fully_up(),
            false if standing.of == rise => standing.count.min(rise - 1),
            false => 0,
        };
        health.status = status;
        health
    }

    /// Takes new thresholds and intervals: a server keeps its state, up or down.
    pub fn reconfigure(&mut self, settings: HealthSettings) {
        let up = self.is_up();
        let fresh = Self::new(settings);
        if fresh.settings == self.settings {
            return;
        }
        self.settings = fresh.settings;
        self.score = if up { self.fully_up() } else { 0 };
    }

    /// Is the server up?
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.score >= self.settings.rise
    }

    /// How the last check ended.
    #[must_use]
    pub fn status(&self) -> CheckStatus {
        self.status
    }

    /// How far it is in its state.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let HealthSettings { rise, fall, .. } = self.settings;
        match self.is_up() {
            true => Standing {
                count: self.score - rise + 1,
                of: fall,
                up: true,
            },
            false => Standing {
                count: self.score,
                of: rise,
                up: false,
            },
        }
    }

    /// Takes the result of a check.
    pub fn observe(&mut self, status: CheckStatus) -> Outcome {
        let (was_up, old_score) = (self.is_up(), self.score);
        let another = status != self.status;
        self.status = status;
        match status.verdict() {
            Verdict::None => {}
            // A result against the state is a step; one with the state takes all steps back.
            Verdict::Failed => {
                self.score = self.score.saturating_sub(1);
                if self.score < self.settings.rise {
                    self.score = 0;
                }
            }
            Verdict::Passed => {
                self.score = (self.score + 1).min(self.fully_up());
                if self.is_up() {
                    self.score = self.fully_up();
                }
            }
        }
        Outcome {
            change: match (was_up, self.is_up()) {
                (true, false) => Some(Change::Down),
                (false, true) => Some(Change::Up),
                _ => None,
            },
            news: another || self.score != old_score,
        }
    }

    /// Connections of sessions failed: takes it as `on-error` says; `None` says that it is no result.
    pub fn analyzed(&mut self, as_what: Errors) -> Option<Outcome> {
        let rise = self.settings.rise;
        match as_what {
            Errors::HurryOnly => return None,
            Errors::FailedCheck => {}
            Errors::LastButOne => self.score = self.score.min(rise + 1),
            Errors::Down => self.score = self.score.min(rise),
        }
        Some(self.observe(CheckStatus::Analyzed))
    }

    /// Time until the next check after errors, ms: the fast interval where there is one.
    #[must_use]
    pub fn hurried_delay_ms(&self) -> Option<u32> {
        self.settings.fast_inter_ms.map(|ms| ms.max(1))
    }

    /// Time until the next check without spreading, ms.
    #[must_use]
    pub fn interval_ms(&self) -> u32 {
        let settings = &self.settings;
        let chosen = if self.score == self.fully_up() {
            None
        } else if self.score == 0 {
            settings.down_inter_ms
        } else {
            settings.fast_inter_ms
        };
        chosen.unwrap_or(settings.inter_ms).max(1)
    }

    /// Time until the next check, ms: the interval, and up to `spread` percent of it more or
    /// less, by `random`.
    #[must_use]
    pub fn next_delay_ms(&self, spread: u8, random: u32) -> u32 {
        spread_by(self.interval_ms(), spread, random)
    }

    fn fully_up(&self) -> u32 {
        self.settings.rise.saturating_add(self.settings.fall - 1)
    }
}

/// `interval` and up to `percent` of it more (random 0) or less (the largest random).
fn spread_by(interval: u32, percent: u8, random: u32) -> u32 {
    let most = i64::from(interval) * i64::from(percent) / 100;
    let shift = most - 2 * most * i64::from(random) / i64::from(u32::MAX);
    u32::try_from(i64::from(interval) + shift).unwrap_or(u32::MAX)
}

/// The pace at which the first checks are started, ms: the shortest interval of at least a second.
#[must_use]
pub fn start_pace_ms(intervals: impl IntoIterator<Item = u32>) -> u32 {
    intervals
        .into_iter()
        .filter(|&interval| interval >= SHORTEST_PACE_MS)
        .min()
        .unwrap_or(0)
}

/// When the first check of the server at `position` of `count` is due, ms from the start: all
/// first checks are spread over one interval.
#[must_use]
pub fn start_delay_ms(
    health: &Health,
    pace_ms: u32,
    position: usize,
    count: usize,
    spread: u8,
    random: u32,
) -> u32 {
    let interval = health.interval_ms();
    let shift = i64::from(spread_by(interval, spread, random)) - i64::from(interval);
    let over = u64::try_from(i64::from(pace_ms.max(interval)) + shift).unwrap_or(0);
    let delay = over * position as u64 / count.max(1) as u64;
    u32::try_from(delay).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(rise: u32, fall: u32) -> HealthSettings {
        HealthSettings {
            inter_ms: 2_000,
            fast_inter_ms: Some(500),
            down_inter_ms: Some(5_000),
            rise,
            fall,
        }
    }

    fn after(rise: u32, fall: u32, results: &str) -> Health {
        let mut health = Health::new(settings(rise, fall));
        for result in results.chars() {
            health.observe(match result {
                '+' => CheckStatus::L4Ok,
                '-' => CheckStatus::L4Connection,
                't' => CheckStatus::L4Timeout,
                _ => CheckStatus::SocketError,
            });
        }
        health
    }

    #[test]
    fn standing_after_results() {
        // rise, fall, results: standing, as HAProxy 2.6.12 writes it under log-health-checks
        for (rise, fall, results, expected, interval) in [
            (2, 3, "", "1/3 UP", 500),
            (2, 3, "+", "3/3 UP", 2_000),
            (2, 3, "-", "0/2 DOWN", 5_000),
            (2, 3, "-+", "1/2 DOWN", 500),
            (2, 3, "-++", "3/3 UP", 2_000),
            (2, 3, "-+-+", "1/2 DOWN", 500),
            (2, 3, "+-", "2/3 UP", 500),
            (2, 3, "+-t", "1/3 UP", 500),
            (2, 3, "+-t?", "0/2 DOWN", 5_000),
            (2, 3, "+--+", "3/3 UP", 2_000),
            (2, 3, "+--+--", "1/3 UP", 500),
            (1, 1, "", "1/1 UP", 2_000),
            (1, 1, "-", "0/1 DOWN", 5_000),
            (1, 1, "-+", "1/1 UP", 2_000),
            (0, 0, "-+", "1/1 UP", 2_000),
        ] {
            let health = after(rise, fall, results);
            let Standing { count, of, up } = health.standing();
            let state = if up { "UP" } else { "DOWN" };
            assert_eq!(
                format!("{count}/{of} {state}"),
                expected,
                "{rise} {fall} {results}"
            );
            assert_eq!(health.interval_ms(), interval, "{rise} {fall} {results}");
        }
    }

    #[test]
    fn whoever_resumes_goes_on_as_if_nothing_had_happened() {
        for rise in 1..4 {
            for fall in 1..4 {
                for results in [
                    "", "+", "-", "+-", "-+", "-++", "+--", "+---", "---", "-+-+",
                ] {
                    let before = after(rise, fall, results);
                    let again =
                        Health::resumed(settings(rise, fall), before.standing(), before.status());
                    assert_eq!(again, before, "{rise} {fall} {results}");
                    // With other thresholds it is at least up, or down.
                    let other = Health::resumed(settings(7, 9), before.standing(), before.status());
                    assert_eq!(other.is_up(), before.is_up(), "{rise} {fall} {results}");
                }
            }
        }
    }

    #[test]
    fn no_standing_that_somebody_tells_is_out_of_bounds() {
        for count in [0, 1, 2, 3, 4, u32::MAX] {
            for of in [0, 1, 2, 3, u32::MAX] {
                for up in [true, false] {
                    let told = Standing { count, of, up };
                    let health = Health::resumed(settings(2, 3), told, CheckStatus::L4Ok);
                    assert_eq!(health.is_up(), up, "{told:?}");
                    assert!(health.score <= health.fully_up(), "{told:?}");
                }
            }
        }
    }

    #[test]
    fn every_status_is_found_by_its_name() {
        for status in CheckStatus::ALL {
            assert_eq!(CheckStatus::named(status.name()), Some(status));
        }
        assert_eq!(CheckStatus::named("L7OK"), None);
    }

    /// The rule in other words: once `fall` failures in a row are seen, down; once `rise`
    /// successes, up; unless it begins fully up or down, the first result of all counts in full.
    fn naive_is_up(start: Start, rise: usize, fall: usize, results: &[bool]) -> bool {
        let (mut up, mut row) = match start {
            Start::Up => (true, fall - 1),
            Start::FullyUp => (true, 0),
            Start::Down => (false, rise - 1),
            Start::FullyDown => (false, 0),
        };
        for &passed in results {
            if passed == up {
                row = 0;
                continue;
            }
            row += 1;
            if row == if up { fall } else { rise } {
                (up, row) = (!up, 0);
            }
        }
        up
    }

    /// Ten results as bits, after each way to begin.
    fn histories() -> impl Iterator<Item = (u32, Start)> {
        let starts = [Start::Up, Start::FullyUp, Start::Down, Start::FullyDown];
        (0..1 << 10).flat_map(move |bits| starts.map(|start| (bits, start)))
    }

    #[test]
    fn every_short_history_agrees_with_the_rule_in_words() {
        for rise in 1..=4 {
            for fall in 1..=4 {
                for (bits, start) in histories() {
                    let results: Vec<bool> = (0..10).map(|n| bits >> n & 1 == 1).collect();
                    let mut health = Health::starting(settings(rise, fall), start);
                    let up = naive_is_up(start, rise as usize, fall as usize, &[]);
                    assert_eq!(health.is_up(), up, "{start:?}");
                    for (n, &passed) in results.iter().enumerate() {
                        let before = health.is_up();
                        let outcome = health.observe(match passed {
                            true => CheckStatus::L4Ok,
                            false => CheckStatus::L4Timeout,
                        });
                        let up = naive_is_up(start, rise as usize, fall as usize, &results[..=n]);
                        assert_eq!(health.is_up(), up, "{rise} {fall} {:?}", &results[..=n]);
                        let change = match (before, up) {
                            (true, false) => Some(Change::Down),
                            (false, true) => Some(Change::Up),
                            _ => None,
                        };
                        assert_eq!(outcome.change, change);
                    }
                }
            }
        }
    }

    #[test]
    fn news_is_a_step_or_another_status() {
        let mut health = Health::new(settings(2, 3));
        let news: Vec<bool> = [
            CheckStatus::L4Ok,
            CheckStatus::L4Ok,
            CheckStatus::L4Timeout,
            CheckStatus::L4Timeout,
            CheckStatus::L4Timeout,
            CheckStatus::L4Timeout,
            CheckStatus::L4Connection,
            CheckStatus::L4Connection,
        ]
        .into_iter()
        .map(|status| health.observe(status).news)
        .collect();
        assert_eq!(news, [true, false, true, true, true, false, true, false]);
    }

    #[test]
    fn spreading_stays_within_its_percentage_on_both_sides() {
        let health = after(2, 3, "+");
        assert_eq!(health.next_delay_ms(0, 12_345), 2_000);
        assert_eq!(health.next_delay_ms(50, 0), 3_000);
        assert_eq!(health.next_delay_ms(50, u32::MAX), 1_000);
        assert_eq!(health.next_delay_ms(50, u32::MAX / 2 + 1), 2_000);
        for random in (0..u32::MAX - 100_000_000).step_by(99_999_989) {
            let delay = health.next_delay_ms(10, random);
            assert!((1_800..=2_200).contains(&delay), "{delay}");
        }
    }

    #[test]
    fn first_checks_are_spread_over_one_interval() {
        let health = after(2, 3, "");
        let pace = start_pace_ms([500, 2_000, 1_000, 7_000]);
        assert_eq!(pace, 1_000);
        let delays: Vec<u32> = (0..4)
            .map(|position| start_delay_ms(&health, pace, position, 4, 0, 0))
            .collect();
        assert_eq!(delays, [0, 250, 500, 750]);
        assert_eq!(start_pace_ms([500, 20]), 0);
        assert_eq!(start_delay_ms(&health, 0, 1, 2, 0, 0), 250);
    }

    #[test]
    fn new_settings_keep_the_state() {
        for (results, up) in [("+", true), ("-", false), ("-+", false), ("+--", true)] {
            let mut health = after(2, 3, results);
            health.reconfigure(settings(5, 1));
            assert_eq!(health.is_up(), up, "{results}");
        }
        let mut same = after(2, 3, "+--");
        same.reconfigure(settings(2, 3));
        assert_eq!(same.standing().count, 1, "the same settings change nothing");
    }
}
