//! What we say we are, to a configuration that asks (`.if`).
//!
//! Decides:  the version of HAProxy's language that we follow, and which of its build features and
//!           run-time options we have.
//! Source:   HAProxy's manual, chapter 2.4; Makefile, `use_opts`; src/cfgcond.c,
//!           cfg_eval_cond_enabled(), 3.5-dev5.
//! Not here: the conditions (condition.rs).

use std::fmt;

/// A version of HAProxy, in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Up to four numbers, like 3.4.1.0.
    pub numbers: [u32; 4],
    /// Released, or on the way there.
    pub stage: Stage,
}

/// How far a version of HAProxy is, in the order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// `-devN`
    Development(u32),
    /// `-rcN`, `-preN`
    Candidate(u32),
    /// Released.
    Release,
}

impl Version {
    /// Reads `3`, `3.4`, `3.4.1`, `3.4-dev5`; what else stands after a dash (a commit, a
    /// distribution's number) says nothing about the language and is ignored.
    pub fn parse(text: &str) -> Option<Version> {
        let (numbers, tag) = text.split_once('-').unwrap_or((text, ""));
        let mut version = Version {
            numbers: [0; 4],
            stage: Stage::Release,
        };
        for (at, part) in numbers.split('.').enumerate() {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            *version.numbers.get_mut(at)? = part.parse().ok().filter(|_| digits)?;
        }
        let count = |name: &str| -> Option<u32> {
            let rest = tag.strip_prefix(name)?;
            let digits = rest.split('-').next().unwrap_or_default();
            if digits.is_empty() {
                Some(0)
            } else {
                digits.parse().ok()
            }
        };
        if let Some(n) = count("dev") {
            version.stage = Stage::Development(n);
        } else if let Some(n) = count("rc").or_else(|| count("pre")) {
            version.stage = Stage::Candidate(n);
        }
        Some(version)
    }

    /// `3.4`
    pub fn branch(&self) -> String {
        format!("{}.{}", self.numbers[0], self.numbers[1])
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Stage::Development(n) => write!(f, "{}-dev{n}", self.branch()),
            Stage::Candidate(n) => write!(f, "{}-rc{n}", self.branch()),
            Stage::Release => write!(f, "{}.{}", self.branch(), self.numbers[2]),
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
    numbers: [3, 4, 0, 0],
    stage: Stage::Release,
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
            "3.4-rc1",
            "3.4",
            "3.4.1",
            "3.5-dev5",
            "10.0",
        ];
        let versions: Vec<_> = in_order.iter().map(|v| Version::parse(v)).collect();
        assert!(versions.iter().all(Option::is_some));
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        for text in ["", "new", "3.", ".4", "3.4.1.0.0", "3.x", "+3"] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        assert_eq!(Version::parse("3.4.0-1+deb13u4"), Some(LANGUAGE));
        assert_eq!(Version::parse("3.4"), Some(LANGUAGE));
        assert_eq!(LANGUAGE.to_string(), "3.4.0");
    }
}
