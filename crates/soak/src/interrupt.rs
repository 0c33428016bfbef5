//! Ctrl-C and SIGTERM: the operation under way is finished, no other is begun, and the table is shown.
//!
//! Decides:  the second one ends the run at once, with exit code 130.
//! Not here: where a phase looks whether it was asked to end (main.rs, peers.rs).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Has somebody asked the run to end?
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Listens from now on, in a thread of its own.
pub fn watch() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
        )
    };
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if ASKED.swap(true, Ordering::Relaxed) {
                        std::process::exit(130);
                    }
                    eprintln!(
                        "interrupted: what is under way is finished; once more ends it at once"
                    );
                }
            });
        })?;
    Ok(())
}
