//! `portcullis listeners`: who listens where, how full it is, and what may surprise.
//!
//! Decides:  the options.
//! Not here: the table and all behind it (listeners.rs).

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use portcullis_inspect::{Others, Place};

use crate::exit::Exit;
use crate::listeners::rows::Unix;
use crate::listeners::select::Order;
use crate::listeners::{self, Settings};

/// Arguments of `listeners`.
#[derive(Debug, Args)]
#[command(
    after_help = "Of shards (SO_REUSEPORT) QUEUE is the fullest one's, and SHARDS tells how many there are and how many times its share the busiest has. What stands after `!` may surprise: `portcullis why WORD` explains it.\nWithout root, owners and options of other users' programs are not shown."
)]
pub struct Arguments {
    /// Only listeners that fit every word: a port, an address, or text in the program, its command line, unit, container or user, or a trap
    #[arg(value_name = "WORD")]
    words: Vec<String>,
    /// Those of all network namespaces (containers too)
    #[arg(long, conflicts_with_all = ["netns", "host"])]
    all_netns: bool,
    /// Those of the network namespace with this name or file
    #[arg(long, value_name = "NAME", conflicts_with = "host")]
    netns: Option<String>,
    /// Those of another host, from a file of `why --save`
    #[arg(long, value_name = "FILE", conflicts_with = "watch")]
    host: Option<PathBuf>,
    /// Unix sockets too
    #[arg(long)]
    unix: bool,
    /// Only those that may surprise
    #[arg(long)]
    traps: bool,
    /// The order
    #[arg(long, value_enum, default_value_t)]
    sort: Order,
    /// The other way round
    #[arg(long)]
    reverse: bool,
    /// Show it again and again, with rates, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2", require_equals = true, value_parser = seconds)]
    watch: Option<Duration>,
    /// As JSON, one line each time
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "a number of seconds is meant".to_owned())?;
    if !(0.1..=3600.0).contains(&seconds) {
        return Err("0.1 to 3600 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

/// Shows them.
pub fn run(arguments: &Arguments) -> Exit {
    let place = arguments.netns.clone().map_or(Place::Here, Place::Named);
    listeners::run(&Settings {
        host: arguments.host.clone(),
        place,
        others: if arguments.all_netns {
            Others::Yes
        } else {
            Others::No
        },
        unix: if arguments.unix {
            Unix::With
        } else {
            Unix::Without
        },
        words: arguments.words.clone(),
        only_traps: arguments.traps,
        order: arguments.sort,
        reverse: arguments.reverse,
        json: arguments.json,
        watch: arguments.watch,
    })
}
