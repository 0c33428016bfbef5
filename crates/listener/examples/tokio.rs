//! An echo server on tokio, over TCP or a Unix socket.
//!
//! Decides:  nothing; shows that a listener is ready for an async runtime as it comes, and that a
//!           Unix socket replaces the one of an earlier run without a gap.
//! Not here: a thread for each core (sharded.rs).
//!
//! ```sh
//! cargo run -p portcullis-listener --example tokio -- 127.0.0.1:7000
//! cargo run -p portcullis-listener --example tokio -- /tmp/echo.sock
//! ```

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Duration;

use portcullis_listener::{ListenerSpec, LocalAddress, open};
use tokio::io::{AsyncRead, AsyncWrite, copy, split};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:0".to_owned());
    let spec = match address.parse() {
        Ok(inet) => ListenerSpec::tcp(inet),
        Err(_) => ListenerSpec::unix(&address),
    };
    let opened = open(&spec)?;
    for report in &opened.reports {
        eprintln!("{report}");
    }
    let Some(listener) = opened.listeners.into_iter().next() else {
        return Err("no listener".into());
    };
    println!("listening on {}", listener.local());

    match listener.local() {
        LocalAddress::Inet(_) => {
            let server = tokio::net::TcpListener::from_std(listener.try_into()?)?;
            loop {
                match server.accept().await {
                    Ok((connection, _)) => drop(tokio::spawn(echo(connection))),
                    Err(error) => not_accepted(&error).await,
                }
            }
        }
        _ => {
            let server = tokio::net::UnixListener::from_std(listener.try_into()?)?;
            loop {
                match server.accept().await {
                    Ok((connection, _)) => drop(tokio::spawn(echo(connection))),
                    Err(error) => not_accepted(&error).await,
                }
            }
        }
    }
}

/// An accept that failed (no descriptors left) would fail again at once.
async fn not_accepted(error: &std::io::Error) {
    eprintln!("cannot accept: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

async fn echo(connection: impl AsyncRead + AsyncWrite) {
    let (mut from, mut to) = split(connection);
    if let Err(error) = copy(&mut from, &mut to).await {
        eprintln!("{error}");
    }
}
