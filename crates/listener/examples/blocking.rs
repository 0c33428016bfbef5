//! An echo server with one thread for each connection.
//!
//! Decides:  nothing; shows how a listener becomes a `std::net::TcpListener`.
//! Not here: many connections at once (tokio.rs, sharded.rs).
//!
//! ```sh
//! cargo run -p portcullis-listener --example blocking -- 127.0.0.1:7000
//! nc 127.0.0.1 7000
//! ```

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use portcullis_listener::{ListenerSpec, open};

/// After a failed accept (no descriptors left), which would fail again at once.
const PAUSE: Duration = Duration::from_millis(100);

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:0".to_owned());
    let mut spec = ListenerSpec::tcp(address.parse()?);
    spec.name = "echo".to_owned();
    spec.no_delay = true;

    let opened = match open(&spec) {
        Ok(opened) => opened,
        Err(error) => {
            eprintln!("error: {error}");
            for hint in error.hints() {
                eprintln!("  try: {hint}");
            }
            std::process::exit(1);
        }
    };
    for report in &opened.reports {
        eprintln!("{report}");
    }
    let Some(listener) = opened.listeners.into_iter().next() else {
        return Err("no listener".into());
    };
    println!("listening on {}", listener.local());

    let server = TcpListener::try_from(listener)?;
    server.set_nonblocking(false)?; // listeners come non-blocking
    loop {
        match server.accept() {
            Ok((connection, peer)) => {
                std::thread::spawn(move || {
                    if let Err(error) = echo(&connection) {
                        eprintln!("{peer}: {error}");
                    }
                });
            }
            Err(error) => {
                eprintln!("cannot accept: {error}");
                std::thread::sleep(PAUSE);
            }
        }
    }
}

fn echo(connection: &TcpStream) -> std::io::Result<u64> {
    std::io::copy(&mut &*connection, &mut &*connection)
}
