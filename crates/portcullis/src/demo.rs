//! The demo's parts: echo servers, the generated configuration, the live view.
//!
//! Decides:  the text of the configuration that the demo runs.
//! Not here: running it (commands/demo.rs, and the same code as `run`).

pub mod echo;
pub mod view;

use std::io;
use std::net::{SocketAddr, TcpListener};

/// The names of the servers.
pub const SERVERS: [&str; 3] = ["ash", "elm", "oak"];
/// The frontend's name.
pub const FRONTEND: &str = "door";

/// A configuration that balances connections to `port` of 127.0.0.1 over `servers`.
pub fn configuration(port: u16, servers: &[(&str, SocketAddr)]) -> String {
    let mut text = format!(
        "\
global
    maxconn 1000

defaults
    mode tcp
    timeout connect 2s
    timeout client  60s
    timeout server  60s

frontend {FRONTEND}
    bind 127.0.0.1:{port}
    default_backend trees

backend trees
    balance roundrobin
    default-server check inter 2s
"
    );
    for (name, address) in servers {
        text += &format!("    server {name} {address}\n");
    }
    text
}

/// A port of 127.0.0.1 that was free a moment ago.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
