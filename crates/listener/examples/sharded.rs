//! An echo server with one thread a core, each with a listening socket of its own.
//!
//! Decides:  nothing; shows shards, and one shared socket where they cannot be had.
//! Not here: what the kernel does with the connections waiting in a shard that closes
//!           (`SO_REUSEPORT` in `portcullis-sockopt`).
//!
//! ```sh
//! cargo run -p portcullis-listener --example sharded -- 127.0.0.1:7000
//! ss -tlnp sport = :7000    # one line for each thread
//! ```

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use portcullis_listener::{Listener, ListenerSpec, open};

/// After a failed accept (no descriptors left), which would fail again at once.
const PAUSE: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:0".to_owned());
    let threads = thread::available_parallelism()?.get();
    let mut spec = ListenerSpec::tcp(address.parse()?);
    spec.shards = u16::try_from(threads)?;
    spec.backlog = Some(256); // each thread's own

    let opened = open(&spec)?;
    for report in &opened.reports {
        eprintln!("{report}");
    }
    for listener in &opened.listeners {
        println!("listening on {}", listener.local());
    }
    let mut workers = Vec::new();
    for number in 0..threads {
        let listener = share(&opened.listeners, number)?;
        workers.push(thread::spawn(move || serve(number, &listener)));
    }
    for worker in workers {
        worker.join().map_err(|_| "a worker panicked")?;
    }
    Ok(())
}

/// The thread's own shard, or a descriptor of the one socket that all accept from.
fn share(listeners: &[Listener], number: usize) -> Result<TcpListener, Box<dyn Error>> {
    let listener = &listeners[number % listeners.len()];
    let server = TcpListener::try_from(listener.try_clone()?)?;
    server.set_nonblocking(false)?;
    Ok(server)
}

/// One connection at a time, as a sketch: a real worker has an event loop here.
fn serve(number: usize, server: &TcpListener) {
    loop {
        match server.accept() {
            Ok((connection, peer)) => {
                match std::io::copy(&mut &connection, &mut &connection) {
                    Ok(bytes) => println!("thread {number}: {bytes} bytes for {peer}"),
                    // Its client's fault, or the network's: the others are served.
                    Err(error) => eprintln!("thread {number}: {peer}: {error}"),
                }
            }
            Err(error) => {
                eprintln!("thread {number}: cannot accept: {error}");
                thread::sleep(PAUSE);
            }
        }
    }
}
