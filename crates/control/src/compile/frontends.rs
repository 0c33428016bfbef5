//! Frontends of the plan.
//!
//! Decides:  which are enabled, and that one whose backend is disabled has none.
//! Not here: their listeners (listeners.rs).

use portcullis_config::model::{Config, Splice};

use super::problems::{Problems, note};
use super::{FrontendPlan, keepalive, milliseconds};

/// The enabled frontends; and for each frontend of the file, its index in the plan.
pub(super) fn plan(
    config: &Config,
    backend_index: &[Option<usize>],
    problems: &mut Problems,
) -> (Vec<FrontendPlan>, Vec<Option<usize>>) {
    let mut plans = Vec::new();
    let mut index = Vec::with_capacity(config.frontends.len());
    for frontend in &config.frontends {
        if frontend.disabled {
            index.push(None);
            continue;
        }
        index.push(Some(plans.len()));
        let backend = frontend.default_backend.as_ref().and_then(|wanted| {
            let found = backend_index.get(wanted.value).copied().flatten();
            let there = config.backends.get(wanted.value);
            if let (None, Some(there)) = (found, there)
                && there.name != frontend.name
            {
                problems
                    .warning(
                        "disabled-backend",
                        Some(wanted.place),
                        format!(
                            "backend `{}` is disabled: connections to `{}` end at once, with code SC",
                            there.name, frontend.name
                        ),
                    )
                    .notes
                    .push(note("the backend", there.place));
            }
            found
        });
        plans.push(FrontendPlan {
            name: frontend.name.clone(),
            backend,
            maxconn: frontend.maxconn.filter(|&n| n > 0),
            session_rate: frontend.session_rate.unwrap_or(0),
            lifetime_ms: milliseconds(frontend.timeout_lifetime),
            drain_age_ms: milliseconds(frontend.timeout_drain_age),
            greeting_timeout_ms: milliseconds(
                frontend.timeout_client_hs.or(frontend.timeout_client),
            ),
            client_timeout_ms: milliseconds(frontend.timeout_client),
            client_fin_timeout_ms: milliseconds(frontend.timeout_client_fin),
            log: frontend.log.clone(),
            keepalive: keepalive(frontend.keepalive),
            no_linger: frontend.flow.no_linger,
            independent: frontend.flow.independent_streams,
            splice: !config.global.no_splice && frontend.flow.splice == Splice::Auto,
        });
    }
    (plans, index)
}
