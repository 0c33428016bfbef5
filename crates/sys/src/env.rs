//! Taking variables out of the environment.
//!
//! Decides:  that it happens only while no other thread could be reading them.
//! Source:   `std::env::remove_var` is unsafe since other threads may be in getenv(3).
//! Not here: what the variables mean (listener, activation.rs).

use std::io::{Error, ErrorKind, Result};

/// Removes variables from the environment.
///
/// `ResourceBusy` where the process has more than one thread; nothing is removed then.
pub fn remove_variables(names: &[&str]) -> Result<()> {
    if !crate::process::is_single_threaded()? {
        return Err(Error::from(ErrorKind::ResourceBusy));
    }
    for name in names {
        // SAFETY: this is the only thread, so no other one reads or writes the environment.
        unsafe { std::env::remove_var(name) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_keeps_its_variables() {
        // The test harness runs this beside its main thread.
        let error = remove_variables(&["PATH"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ResourceBusy);
        assert!(std::env::var_os("PATH").is_some());
    }
}
