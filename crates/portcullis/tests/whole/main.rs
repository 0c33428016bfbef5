//! Whole-binary tests: real processes, each test in a network namespace of its own.
//!
//! Decides:  what a balancer must do as seen from outside. `PORTCULLIS_PEER=haproxy` runs those of
//!           them that hold for HAProxy too against it, which shows that the tests ask for the truth.
//! Not here: what one crate can show alone.

// clippy knows test functions and #[cfg(test)], but not the helpers of an integration test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bytes;
mod clients;
mod harness;
mod servers;

mod admin;
mod balance;
mod beside;
mod check;
mod check_host;
mod check_same;
mod clock;
mod crowd;
mod demo;
mod draining;
mod examples;
mod faults;
mod health;
mod inventory;
mod limits;
mod listeners;
mod log_targets;
mod logs;
mod moving;
mod outgoing;
mod privileges;
mod proxy_protocol;
mod queue;
mod relay;
mod reload;
mod reload_load;
mod reload_process;
mod retire;
mod signals;
mod sim;
mod start;
mod supervise;
mod timeouts;
mod upgrade;
mod upgrade_bad;
mod upgrade_deaths;
mod upgrade_state;
mod why;
mod why_ask;
mod why_edges;
mod why_holders;
mod why_refusers;
