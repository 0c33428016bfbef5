//! What we say we are, to a configuration that asks (`.if`).
//!
//! Decides:  the version of HAProxy's language that we follow, and which of its build features and
//!           run-time options we have.
//! Source:   HAProxy's manual, chapter 2.4; Makefile, `use_opts`; src/cfgcond.c,
//!           cfg_eval_cond_enabled(), 3.5-dev5.
//! Not here: the conditions (condition.rs).

use std::fmt;

/// A version of HAProxy. A development version comes before its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major and minor, like 3.4.
    pub branch: (u32, u32),
    /// `-devN`; `None`: released.
    pub stage: Stage,
    /// The third number of a release.
    pub patch: u32,
}

/// How far a version of HAProxy is, in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// `-devN`
    Development(u32),
    /// Released.
    Release,
}

impl Version {
    /// Reads `3`, `3.4`, `3.4.1` or `3.4-dev5`; whatever stands after that is ignored, as HAProxy does.
    pub fn parse(text: &str) -> Option<Version> {
        let (major, rest) = number(text)?;
        let (minor, rest) = match rest.strip_prefix('.').and_then(number) {
            Some((minor, rest)) => (minor, rest),
            None => (0, rest),
        };
        if let Some((n, _)) = rest.strip_prefix("-dev").and_then(number) {
            return Some(Version {
                branch: (major, minor),
                stage: Stage::Development(n),
                patch: 0,
            });
        }
        let patch = rest.strip_prefix('.').and_then(number);
        Some(Version {
            branch: (major, minor),
            stage: Stage::Release,
            patch: patch.map_or(0, |(n, _)| n),
        })
    }

    /// `3.4`
    pub fn branch(&self) -> String {
        format!("{}.{}", self.branch.0, self.branch.1)
    }
}

fn number(text: &str) -> Option<(u32, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Stage::Development(n) => write!(f, "{}-dev{n}", self.branch()),
            Stage::Release => write!(f, "{}.{}", self.branch(), self.patch),
        }
    }
}

/// The answers to `version_atleast()`, `feature()`, `enabled()` and their like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Features {
    /// The version of HAProxy whose language we follow.
    pub version: Version,
    /// The names that `feature()` finds.
    pub features: &'static [&'static str],
    /// The names that `enabled()` finds.
    pub enabled: &'static [&'static str],
}

/// HAProxy 3.4 is the newest release; what 3.5-dev adds to TCP mode is known but not promised.
pub const LANGUAGE: Version = Version {
    branch: (3, 4),
    stage: Stage::Release,
    patch: 0,
};

/// Build features of HAProxy that we have too, and `PORTCULLIS`, so that one file can serve both.
/// TLS, Lua, QUIC, compression, regular expressions and the Prometheus exporter are not among them.
const HAVE: &[&str] = &[
    "ACCEPT4",
    "EPOLL",
    "GETADDRINFO",
    "LINUX_CAP",
    "LINUX_SPLICE",
    "LINUX_TPROXY",
    "NS",
    "PORTCULLIS",
    "TFO",
    "THREAD",
    "TPROXY",
];

impl Default for Features {
    fn default() -> Features {
        Features {
            version: LANGUAGE,
            features: HAVE,
            enabled: &["EPOLL", "GETADDRINFO", "REUSEPORT", "SPLICE"],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_development_version_comes_before_its_release() {
        let in_order = [
            "2",
            "2.6",
            "2.6.12",
            "3.4-dev1",
            "3.4-dev10",
            "3.4",
            "3.4.1",
            "3.5-dev5",
            "10.0",
        ];
        let versions: Vec<_> = in_order.iter().map(|v| Version::parse(v)).collect();
        assert!(versions.iter().all(Option::is_some));
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        assert_eq!(Version::parse("new"), None);
        assert_eq!(Version::parse("3.4"), Some(LANGUAGE));
        assert_eq!(LANGUAGE.to_string(), "3.4.0");
    }
}
