//! Which changes between kernels do the scenarios show?
//!
//! Decides:  for a release, the changes whose other side would break an expectation of a scenario that
//!           runs on that release's live kernel. What breaks none was not tried there, whatever else agreed.
//! Not here: the running itself (cases.rs); the table that is made of it (xtask, docs/kernel_versions.rs).

use std::collections::BTreeMap;

use portcullis_kernel_model::{Change, Kernel};

use crate::script::{self, Complaint, Mode, Run, Script, Settings};

/// The changes that scenarios show on a release, each with the first scenario (by name) that does.
///
/// An expectation counts only where a live kernel can break it: an answer, or the listener that a
/// connection reached; the rule that the model names is its own affair.
#[must_use]
pub fn shown(scenarios: &[(String, String)], kernel: Kernel) -> BTreeMap<Change, &str> {
    let settings = Settings {
        kernel,
        ..Settings::default()
    };
    let mut shown = BTreeMap::new();
    for (name, text) in scenarios {
        let Ok(script) = script::parse(text, settings) else {
            continue;
        };
        let about = script.kernel.is_none_or(|kernels| kernels.contain(kernel));
        if !about || script::check_patience(&script).is_err() || !holds(&script, kernel) {
            continue;
        }
        for &change in Change::ALL {
            if !shown.contains_key(&change) && !holds(&script, kernel.flipped(change)) {
                shown.insert(change, name.as_str());
            }
        }
    }
    shown
}

/// Whether what a live kernel can be held to comes out in the model of a release.
fn holds(script: &Script, kernel: Kernel) -> bool {
    let mut script = script.clone();
    script.host = script.host_of(kernel);
    let Ok(mut run) = Run::prepare(&script, Mode::Model) else {
        return false;
    };
    script.steps.iter().all(|step| {
        let complaints = run.step(step).complaints;
        !complaints
            .iter()
            .any(|complaint| matches!(complaint, Complaint::Answer(_) | Complaint::Reach(_)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: &str = "\
socket a inet
a set port-range 40050..40051 -> ok
a bind 127.0.0.1:0
a getsockname -> 127.0.0.1:40050..40051
";

    fn one(name: &str, text: &str) -> Vec<(String, String)> {
        vec![(name.to_owned(), text.to_owned())]
    }

    #[test]
    fn a_scenario_shows_the_change_that_it_depends_on_and_no_other() {
        let scenarios = one("range", RANGE);
        let shown = shown(&scenarios, Kernel::V6_18);
        assert_eq!(
            shown.into_iter().collect::<Vec<_>>(),
            [(Change::LocalPortRange, "range")]
        );
    }

    #[test]
    fn a_scenario_about_other_kernels_shows_nothing() {
        let scenarios = one("old", &format!("kernel 6.3 to 6.12\n{RANGE}"));
        assert!(shown(&scenarios, Kernel::V6_18).is_empty());
        assert!(!shown(&scenarios, Kernel::new(6, 12)).is_empty());
    }

    #[test]
    fn a_scenario_that_does_not_hold_shows_nothing() {
        let scenarios = one("wrong", &RANGE.replace("-> ok", "-> EPERM"));
        assert!(shown(&scenarios, Kernel::V6_18).is_empty());
    }
}
