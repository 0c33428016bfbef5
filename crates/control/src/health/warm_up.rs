//! `slowstart`: a server that came up gets its share little by little.
//!
//! Decides:  a step each twentieth of the time, of a second at least; going down ends it.
//! Source:   HAProxy's manual, `slowstart`; src/server.c, server_warmup(), 2.6 to 3.5.
//! Not here: what a step comes to (the balance crate).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_balance::WarmUp;
use tokio::task::AbortHandle;

use super::Check;

/// Steps that the whole time is divided into.
const STEPS: u32 = 20;

/// The task that warms a server up, while there is one, and when that began.
#[derive(Debug, Default)]
pub(super) struct Warming(Mutex<Option<(AbortHandle, Instant)>>);

impl Warming {
    /// Begins, with so much of it over; the server must be usable after this, not before. At its end `when_warm`
    /// is called.
    pub(super) fn start(
        &self,
        check: &Arc<Check>,
        elapsed_s: u32,
        when_warm: impl FnOnce() + Send + 'static,
    ) {
        let of_s = check.slow_start_s;
        check
            .group
            .set_warm_up(check.slot, WarmUp { elapsed_s, of_s });
        let check = Arc::clone(check);
        let now = Instant::now();
        let over = Duration::from_secs(elapsed_s.into());
        let began = now.checked_sub(over).unwrap_or(now);
        let task = tokio::spawn(async move {
            let step = Duration::from_secs((of_s / STEPS).max(1).into());
            loop {
                tokio::time::sleep(step).await;
                let elapsed_s = u32::try_from(began.elapsed().as_secs()).unwrap_or(u32::MAX);
                check
                    .group
                    .set_warm_up(check.slot, WarmUp { elapsed_s, of_s });
                if elapsed_s >= of_s {
                    return when_warm();
                }
            }
        });
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((task.abort_handle(), began));
    }

    /// Since when, s, where it is not over.
    pub(super) fn elapsed_s(&self) -> Option<u32> {
        let task = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (task, began) = task.as_ref()?;
        let elapsed = u32::try_from(began.elapsed().as_secs()).unwrap_or(u32::MAX);
        (!task.is_finished()).then_some(elapsed)
    }

    /// Ends it: the server has all its weight when it is next used.
    pub(super) fn stop(&self, check: &Check) {
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((task, _)) = before {
            task.abort();
            check.group.set_warm_up(check.slot, WarmUp::DONE);
        }
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        let task = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((task, _)) = task.take() {
            task.abort();
        }
    }
}
