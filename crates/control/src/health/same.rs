//! Does a check change with a reload?
//!
//! Decides:  what makes another task of it.
//! Not here: what becomes of the old one (../health.rs).

use std::sync::Arc;

use portcullis_proxy::state::ServerState;

use super::{Check, Observed};

/// Would a task for `new` do exactly what the one for `old` does?
pub(super) fn same(old: &Check, new: &Check) -> bool {
    Arc::ptr_eq(&old.group, &new.group)
        && old.slot == new.slot
        && old.section == new.section
        && old.tier == new.tier
        && old.target == new.target
        && old.opening == new.opening
        && old.settings == new.settings
        && old.timeout == new.timeout
        && old.slow_start_s == new.slow_start_s
        && old.log_each == new.log_each
        && same_states(&old.ends_when_down, &new.ends_when_down)
        && same_states(&old.ends_when_up, &new.ends_when_up)
        && same_observed(old.observed.as_ref(), new.observed.as_ref())
}

fn same_states(old: &[Arc<ServerState>], new: &[Arc<ServerState>]) -> bool {
    let mut pairs = old.iter().zip(new);
    old.len() == new.len() && pairs.all(|(old, new)| Arc::ptr_eq(old, new))
}

fn same_observed(old: Option<&Observed>, new: Option<&Observed>) -> bool {
    match (old, new) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            Arc::ptr_eq(&old.alarm, &new.alarm)
                && old.limit == new.limit
                && old.on_error == new.on_error
        }
        _ => false,
    }
}
