//! Servers behind the balancer: threads of the test with one behaviour each.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::clients::with_deadlines;

/// A server, and what it has seen so far.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    now: AtomicUsize,
    most: AtomicUsize,
    failed: Mutex<Option<String>>,
    stopped: AtomicBool,
}

impl Server {
    /// Serves each connection in a thread of its own. A panic in one is kept for
    /// [`assert_well`](Server::assert_well).
    #[track_caller]
    pub fn start<F>(address: SocketAddr, serve: F) -> Server
    where
        F: Fn(TcpStream) + Send + Sync + 'static,
    {
        let listener = match TcpListener::bind(address) {
            Ok(listener) => listener,
            Err(error) => panic!("cannot bind the server {address}: {error}"),
        };
        // std listens with a queue of 128, too short for a storm.
        rustix::net::listen(&listener, 4096).unwrap();
        let server = Server {
            address,
            seen: Arc::default(),
        };
        let (seen, serve) = (Arc::clone(&server.seen), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // Out of descriptors is not what these tests ask of their own process.
                let stream = stream.expect("the test's own server can accept");
                if seen.stopped.load(Ordering::SeqCst) {
                    return;
                }
                one(with_deadlines(stream), &seen, &serve);
            }
        });
        server
    }

    /// Answers each line with `NAME LINE`.
    pub fn echo(address: SocketAddr, name: &str) -> Server {
        let name = name.to_owned();
        Server::start(address, move |stream| {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut stream = stream;
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                if stream
                    .write_all(format!("{name} {line}").as_bytes())
                    .is_err()
                {
                    return;
                }
                line.clear();
            }
        })
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Connections now.
    pub fn now(&self) -> usize {
        self.seen.now.load(Ordering::SeqCst)
    }

    /// The most connections at once.
    pub fn most(&self) -> usize {
        self.seen.most.load(Ordering::SeqCst)
    }

    /// Fails with what failed in one of its threads.
    #[track_caller]
    pub fn assert_well(&self) {
        let failed = self.seen.failed.lock().unwrap().clone();
        assert_eq!(failed, None, "the server {} failed", self.address);
    }

    /// Stops listening; connections go on.
    pub fn stop_listening(&self) {
        self.seen.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept; the listener is closed when its thread ends.
        drop(TcpStream::connect(self.address));
        portcullis_testkit::wait_for("the server to close", super::harness::SOON, || {
            !portcullis_testkit::listening(self.address)
        });
    }
}

fn one<F>(stream: TcpStream, seen: &Arc<Seen>, serve: &Arc<F>)
where
    F: Fn(TcpStream) + Send + Sync + 'static,
{
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
    seen.most.fetch_max(now, Ordering::SeqCst);
    let (seen, serve) = (Arc::clone(seen), Arc::clone(serve));
    let thread = std::thread::Builder::new()
        .stack_size(192 * 1024)
        .spawn(move || {
            let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve(stream)));
            seen.now.fetch_sub(1, Ordering::SeqCst);
            if let Err(panic) = served {
                let text = panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                *seen.failed.lock().unwrap() = Some(text.unwrap_or_default());
            }
        });
    thread.expect("a thread for a server's connection");
}
