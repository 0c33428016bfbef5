//! The sockets that systemd opened for this process.
//!
//! Decides:  which inherited numbers go by which name, from three environment variables.
//! Source:   sd_listen_fds(3): LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES; numbers begin at 3, names
//!           may repeat, and without names each is `unknown`.
//! Not here: whether such a number is a socket (inherited.rs).
//!
//! A socket that no specification asks for stays open as it was passed: clients can connect to it
//! and wait. [`Activation::sockets`] has them all, so a program can say which it does not use.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

const FIRST: i32 = 3;
/// More descriptors than this are not believed.
pub const MAX_ACTIVATED: i32 = 65_536;
const VARIABLES: &[&str] = &["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
const DEFAULT_NAME: &str = "unknown";

/// The sockets that systemd passed, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Activation {
    /// Name and descriptor number of each.
    pub sockets: Vec<(String, i32)>,
}

/// What is wrong with the variables, or with a name asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ActivationFault {
    /// A variable that should be a number is not, or is too large.
    Malformed {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
    },
    /// There are more or fewer names than descriptors.
    NamesDiffer {
        /// `LISTEN_FDS`
        descriptors: usize,
        /// How many names.
        names: usize,
    },
    /// No socket was passed at all, or to another process.
    NoSockets,
    /// None of the sockets has this name.
    NoSuchName {
        /// The names that there are, each once.
        known: Vec<String>,
    },
}

impl fmt::Display for ActivationFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ActivationFault::Malformed { variable, value } => {
                write!(
                    f,
                    "{variable} is no usable number: `{}`",
                    value.escape_debug()
                )
            }
            ActivationFault::NamesDiffer { descriptors, names } => write!(
                f,
                "LISTEN_FDS announces {descriptors} sockets, LISTEN_FDNAMES has {names} names"
            ),
            ActivationFault::NoSockets => f.write_str("systemd passed no sockets to this process"),
            ActivationFault::NoSuchName { known } => {
                write!(
                    f,
                    "no socket has this name; there are: {}",
                    known.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for ActivationFault {}

/// The three variables as they were found.
#[derive(Debug, Clone, Copy, Default)]
pub struct Variables<'a> {
    /// `LISTEN_PID`
    pub pid: Option<&'a str>,
    /// `LISTEN_FDS`
    pub fds: Option<&'a str>,
    /// `LISTEN_FDNAMES`
    pub names: Option<&'a str>,
}

impl Activation {
    /// What the variables say to the process `own_pid`. Nothing where they are for another one.
    pub fn parse(variables: Variables<'_>, own_pid: u32) -> Result<Activation, ActivationFault> {
        let (Some(pid), Some(fds)) = (variables.pid, variables.fds) else {
            return Ok(Activation::default());
        };
        let pid: u32 = pid.parse().map_err(|_| malformed("LISTEN_PID", pid))?;
        if pid != own_pid {
            return Ok(Activation::default());
        }
        let count: i32 = fds.parse().map_err(|_| malformed("LISTEN_FDS", fds))?;
        if !(0..=MAX_ACTIVATED).contains(&count) {
            return Err(malformed("LISTEN_FDS", fds));
        }
        let names = names(variables.names, count as usize)?;
        let numbers = FIRST..FIRST + count;
        Ok(Activation {
            sockets: names.into_iter().zip(numbers).collect(),
        })
    }

    /// The sockets passed to this process, and the variables removed, so that a program that
    /// it starts does not take the sockets for its own.
    ///
    /// Call it before starting threads: with several, the variables stay. They are harmless then
    /// as far as LISTEN_PID names this process.
    pub fn from_environment() -> Result<Activation, ActivationFault> {
        let text = |name| std::env::var_os(name).map(|v| v.to_string_lossy().into_owned());
        let (pid, fds, names) = (text(VARIABLES[0]), text(VARIABLES[1]), text(VARIABLES[2]));
        let variables = Variables {
            pid: pid.as_deref(),
            fds: fds.as_deref(),
            names: names.as_deref(),
        };
        let activation = Activation::parse(variables, std::process::id());
        // Threads make it impossible; there is no other failure, and nothing else to be done.
        let _ = portcullis_sys::env::remove_variables(VARIABLES);
        activation
    }

    /// As [`Activation::from_environment`], read once in a process and kept.
    pub fn of_process() -> Result<&'static Activation, ActivationFault> {
        static FOUND: OnceLock<Result<Activation, ActivationFault>> = OnceLock::new();
        FOUND
            .get_or_init(Activation::from_environment)
            .as_ref()
            .map_err(Clone::clone)
    }

    /// The descriptor numbers that go by this name, at least one.
    pub fn numbers(&self, name: &str) -> Result<Vec<i32>, ActivationFault> {
        if self.sockets.is_empty() {
            return Err(ActivationFault::NoSockets);
        }
        let named = |(of, _): &&(String, i32)| of == name;
        let numbers: Vec<i32> = self.sockets.iter().filter(named).map(|(_, n)| *n).collect();
        if numbers.is_empty() {
            let known: BTreeSet<&String> = self.sockets.iter().map(|(n, _)| n).collect();
            let known = known.into_iter().cloned().collect();
            return Err(ActivationFault::NoSuchName { known });
        }
        Ok(numbers)
    }
}

fn names(names: Option<&str>, count: usize) -> Result<Vec<String>, ActivationFault> {
    let Some(names) = names else {
        return Ok(vec![DEFAULT_NAME.to_owned(); count]);
    };
    let names: Vec<String> = match (names, count) {
        ("", 0) => Vec::new(),
        _ => names.split(':').map(str::to_owned).collect(),
    };
    if names.len() != count {
        return Err(ActivationFault::NamesDiffer {
            descriptors: count,
            names: names.len(),
        });
    }
    Ok(names)
}

fn malformed(variable: &str, value: &str) -> ActivationFault {
    ActivationFault::Malformed {
        variable: variable.to_owned(),
        value: value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(
        pid: &str,
        fds: &str,
        names: Option<&str>,
    ) -> Result<Vec<(String, i32)>, ActivationFault> {
        let variables = Variables {
            pid: Some(pid),
            fds: Some(fds),
            names,
        };
        Activation::parse(variables, 77).map(|a| a.sockets)
    }

    fn named(list: &[(&str, i32)]) -> Vec<(String, i32)> {
        list.iter().map(|(n, f)| ((*n).to_owned(), *f)).collect()
    }

    #[test]
    fn names_and_numbers_go_together_from_three_on() {
        assert_eq!(
            parse("77", "3", Some("web:admin:web")).unwrap(),
            named(&[("web", 3), ("admin", 4), ("web", 5)])
        );
        assert_eq!(
            parse("77", "2", None).unwrap(),
            named(&[("unknown", 3), ("unknown", 4)])
        );
        assert_eq!(parse("77", "1", Some("")).unwrap(), named(&[("", 3)]));
        assert_eq!(parse("77", "0", Some("")).unwrap(), named(&[]));
    }

    #[test]
    fn variables_for_another_process_are_not_ours() {
        assert_eq!(parse("78", "2", None).unwrap(), named(&[]));
        let none = Activation::parse(Variables::default(), 77).unwrap();
        assert_eq!(none.sockets, named(&[]));
    }

    #[test]
    fn nonsense_in_the_variables_is_an_error_that_names_it() {
        for (pid, fds) in [
            ("x", "1"),
            ("77", "-1"),
            ("77", "65537"),
            ("77", "1e3"),
            ("77", ""),
        ] {
            assert!(
                matches!(
                    parse(pid, fds, None),
                    Err(ActivationFault::Malformed { .. })
                ),
                "{pid} {fds}"
            );
        }
        assert_eq!(
            parse("77", "2", Some("a")),
            Err(ActivationFault::NamesDiffer {
                descriptors: 2,
                names: 1
            })
        );
    }

    #[test]
    fn a_name_that_repeats_gives_several_numbers_and_an_unknown_one_an_error() {
        let activation = Activation {
            sockets: named(&[("web", 3), ("admin", 4), ("web", 5)]),
        };
        assert_eq!(activation.numbers("web"), Ok(vec![3, 5]));
        let error = activation.numbers("wep").unwrap_err();
        assert!(error.to_string().ends_with("are: admin, web"), "{error}");
        assert_eq!(
            Activation::default().numbers("web"),
            Err(ActivationFault::NoSockets)
        );
    }
}
