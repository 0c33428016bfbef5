//! `portcullis demo`: three echo servers, and the balancer in front of them, live.
//!
//! Decides:  what is shown, and in which order.
//! Not here: the balancer: the generated file goes through the same loader and the same run.

use std::io;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use clap::Args;
use portcullis_config::MemoryFiles;
use portcullis_control::Overrides;
use portcullis_control::run::{self, HeldSignals, Job, OnHangup};
use portcullis_proxy::record::{self, ObserverSource};

use crate::demo::view::{Colours, View};
use crate::demo::{self, FRONTEND, SERVERS, echo};
use crate::exit::{self, Exit};
use crate::load::{self, Warnings};
use crate::terminal;

/// Live events that may wait for the terminal; more are counted, not shown.
const EVENTS: usize = 4096;
/// The generated file's name in messages.
const FILE: &str = "demo/haproxy.cfg";

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// End by itself after this many seconds
    #[arg(long = "for", value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: Option<u32>,
}

/// Shows it until told to stop.
pub fn run(arguments: &Arguments) -> Exit {
    let (_held, port, text) = match prepare() {
        Ok(prepared) => prepared,
        Err(error) => {
            terminal::err(&format!("error: cannot start the demo: {error}\n"));
            return exit::INTERNAL;
        }
    };
    let files = MemoryFiles::default().with(FILE, text.as_bytes());
    let paths = [PathBuf::from(FILE)];
    let overrides = Overrides {
        quiet: true,
        ..Overrides::default()
    };
    let loaded = load::load(&paths, &files, &overrides, Warnings::Refuse);
    loaded.show();
    let (sink, source) = record::bounded(EVENTS);
    let viewer = match watch(source) {
        Ok(viewer) => viewer,
        Err(error) => {
            terminal::err(&format!("error: cannot start the demo's view: {error}\n"));
            return exit::INTERNAL;
        }
    };
    let seconds = arguments.seconds.map(u64::from);
    let job = Job {
        observer: Some(sink),
        run_for: seconds.map(Duration::from_secs),
        on_hangup: OnHangup::End,
        ready: Some(Box::new(move || {
            terminal::out(&welcome(port, &text, seconds));
        })),
        ..Job::default()
    };
    let exit = super::run::serve(loaded, job);
    // The view ends when the last worker has gone, and with it the last sender of events.
    match viewer.join() {
        Ok(summary) if exit == exit::OK => terminal::out(&summary),
        _ => {}
    }
    exit
}

/// Starts the servers; gives the port to listen on and the configuration. Signals are held first,
/// so that no server's thread takes them.
fn prepare() -> io::Result<(HeldSignals, u16, String)> {
    let held = run::hold_signals()?;
    let mut servers = Vec::new();
    for name in SERVERS {
        servers.push((name, echo::start(name)?));
    }
    let port = demo::free_port()?;
    Ok((held, port, demo::configuration(port, &servers)))
}

/// Prints events as they come, in a thread of its own; its result is the last line.
fn watch(events: ObserverSource) -> io::Result<JoinHandle<String>> {
    let colours = match terminal::out_colours() {
        true => Colours::On,
        false => Colours::Off,
    };
    std::thread::Builder::new()
        .name("demo-view".to_owned())
        .spawn(move || {
            let mut view = View::new(SERVERS.map(str::to_owned), colours);
            for event in events.receiver() {
                terminal::out(&view.line(&event));
            }
            let mut last = format!("\n{}", view.summary());
            if events.dropped() > 0 {
                last += &format!("({} events came too fast to be shown)\n", events.dropped());
            }
            last
        })
}

fn welcome(port: u16, text: &str, seconds: Option<u64>) -> String {
    let indented: String = text
        .lines()
        .map(|line| match line {
            "" => "\n".to_owned(),
            line => format!("    {line}\n"),
        })
        .collect();
    let end = match seconds {
        Some(seconds) => format!("It ends by itself after {seconds} s, or with Ctrl-C."),
        None => "Ctrl-C ends it.".to_owned(),
    };
    format!(
        "Three echo servers ({}) run inside this process, and Portcullis balances\n\
         connections over them with this haproxy.cfg:\n\n{indented}\n\
         Try, from another terminal:\n\n    \
             nc 127.0.0.1 {port}              every line comes back, with the server's name\n    \
             curl http://127.0.0.1:{port}/    each time another server answers\n\n\
         {end} Connections through `{FRONTEND}`, live:\n\n",
        SERVERS.join(", ")
    )
}
