//! What a configuration looks like at one moment, for the three programs.
//!
//! Decides:  which listeners are wanted throughout (wide, narrow, long) and which come and go; that Portcullis and
//!           HAProxy are given the same file.
//! Source:   doc/configuration.txt of HAProxy 2.6; nginx.org, ngx_stream_core_module.
//! Not here: when it changes (operations.rs).

use std::path::Path;

use crate::load::{LONG, LONG_SERVER, NARROW, SHORT_SERVERS, WIDE};

/// The first port of listeners that come and go.
pub const COMES_AND_GOES: u16 = 8010;
/// The narrow listener serves so many at once.
const NARROW_MAX: usize = 6;
/// Where Debian puts nginx's stream module.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// What can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Workers or threads.
    pub workers: usize,
    /// Sockets of each address; `None`: as many as workers.
    pub shards: Option<usize>,
    /// Which of the listeners that come and go are there now.
    pub extra: Vec<u16>,
    /// Changes the weights and the number of servers.
    pub servers: u64,
    /// Changes an option of the sockets.
    pub backlog: u32,
    /// Changes a timeout.
    pub timeout_s: u64,
}

impl Shape {
    /// The first one.
    pub fn new() -> Shape {
        Shape {
            workers: 2,
            shards: None,
            extra: Vec::new(),
            servers: 0,
            backlog: 1024,
            timeout_s: 60,
        }
    }

    /// For Portcullis and HAProxy. `more` is added to `global`, `bind` to the wide listener.
    pub fn haproxy(&self, more: &str, bind: &str) -> String {
        let shards = self.shards.map(|count| format!(" shards {count}"));
        let shards = shards.unwrap_or_default();
        let options = format!("backlog {}{shards}", self.backlog);
        let mut text = format!(
            "global\n    nbthread {}\n    maxconn 4000\n{more}defaults\n    mode tcp\n    timeout connect 5s\n    \
             timeout client {}s\n    timeout server 60s\n",
            self.workers, self.timeout_s
        );
        let [first, second] = SHORT_SERVERS;
        let weight = 1 + self.servers % 9;
        let another = match self.servers % 3 {
            0 => String::new(),
            _ => format!("    server s2 127.0.0.1:{second} weight 5\n"),
        };
        let servers = format!("    server s1 127.0.0.1:{first} weight {weight}\n{another}");
        text += &format!(
            "listen wide\n    bind 127.0.0.1:{WIDE} {options}{bind}\n{servers}listen narrow\n    \
             bind 127.0.0.1:{NARROW} {options}\n    maxconn {NARROW_MAX}\n{servers}listen long\n    \
             bind 127.0.0.1:{LONG} {options}\n    timeout client 1h\n    timeout server 1h\n    server s1 127.0.0.1:{LONG_SERVER}\n"
        );
        for port in &self.extra {
            text += &format!("listen extra{port}\n    bind 127.0.0.1:{port}\n{servers}");
        }
        text
    }

    /// For nginx, with a socket for each worker.
    pub fn nginx(&self, place: &Path) -> String {
        let mut text = String::new();
        if Path::new(STREAM_MODULE).exists() {
            text += &format!("load_module {STREAM_MODULE};\n");
        }
        let place = place.display();
        text += &format!(
            "daemon off;\nworker_processes {};\npid {place}/nginx.pid;\nerror_log {place}/error.log crit;\n\
             events {{\n    worker_connections 2048;\n}}\nstream {{\n    proxy_connect_timeout {}s;\n",
            self.workers, self.timeout_s
        );
        let [first, _] = SHORT_SERVERS;
        let servers = [(WIDE, first), (NARROW, first), (LONG, LONG_SERVER)];
        for (port, server) in servers {
            text += &format!(
                "    server {{\n        listen 127.0.0.1:{port} reuseport backlog=1024;\n        \
                 proxy_pass 127.0.0.1:{server};\n        proxy_timeout 1h;\n    }}\n"
            );
        }
        text + "}\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_in_the_file() {
        let mut shape = Shape::new();
        let first = shape.haproxy("", "");
        assert!(first.contains("nbthread 2\n") && !first.contains("shards"));
        shape.shards = Some(3);
        shape.workers = 4;
        shape.extra.push(COMES_AND_GOES);
        shape.servers = 1;
        let second = shape.haproxy("    log /dev/null local0\n", " tfo");
        for text in [
            "nbthread 4",
            "shards 3 tfo",
            "listen extra8010",
            "server s2",
            "    log /dev/null",
        ] {
            assert!(second.contains(text), "{text}: {second}");
        }
    }
}
