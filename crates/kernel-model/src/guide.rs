//! Longer programs, to be read and copied.
//!
//! Decides:  nothing; the programs are those of `examples/`, which tests run.
//! Not here: the short ones, on the front page.

/// A simulated network that asks the model for every socket call.
///
/// `Net` is the part to copy: it owns a [`World`](crate::World) and the simulated clock, and offers socket
/// calls as a simulator's programs make them. The rest is a small discrete simulation: events on a heap,
/// two servers, a client of each every half second. After ten seconds both servers are killed and start
/// again:
///
/// ```text
/// careful: 241 clients served, 0 refused; listening again after 0 ms
/// careless: 121 clients served, 120 refused; listening again after 60000 ms
/// ```
///
/// Both close their connections first, as servers do, so what is left of them waits in TIME_WAIT and owns the
/// port. With SO_REUSEADDR `bind` passes that; without, it is refused until the last one is a minute old.
///
/// ```no_run
#[doc = include_str!("../examples/simulator.rs")]
/// ```
pub mod simulator {}
