//! Shards that come and go under load: every client is served.
//!
//! Decides:  nothing; shows who does what: a thread that retires, and workers that accept.
//! Not here: an event loop; a worker of this example asks its socket every millisecond.
//!
//! ```sh
//! cargo run -p portcullis-listener --example retire
//! ```

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portcullis_listener::pending::Looker;
use portcullis_listener::retire::{Driver, Plan, Step};
use portcullis_listener::steer::{Choice, Order};
use portcullis_listener::{ListenerSpec, open, pause};

type Failure = Box<dyn Error + Send + Sync>;

/// A thread with a shard of its own. Each message asks it to serve all that waits, and to answer then.
struct Worker {
    empty: Sender<Sender<()>>,
    thread: JoinHandle<()>,
}

fn worker(listener: TcpListener) -> Worker {
    let (empty, asked) = channel();
    let thread = thread::spawn(move || work(&listener, &asked));
    Worker { empty, thread }
}

fn work(listener: &TcpListener, asked: &Receiver<Sender<()>>) {
    loop {
        let request = asked.recv_timeout(Duration::from_millis(1));
        while let Ok((mut connection, _)) = listener.accept() {
            let _ = connection.write_all(b"hello");
        }
        match request {
            Ok(done) => drop(done), // Hanging up says it.
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Closes a shard so that no client notices; the group's order afterwards.
fn retire(
    leaving: u32,
    sockets: &BTreeMap<u32, TcpListener>,
    workers: &BTreeMap<u32, Worker>,
    order: &Order,
) -> Result<Order, Failure> {
    let mut looker = Looker::open()?;
    let choice = Choice::Even;
    let plan = Plan::find(sockets, &[leaving], Some(order), &choice, Some(&mut looker))?;
    let copies = sockets
        .iter()
        .map(|(&n, socket)| Ok((n, socket.try_clone()?)));
    let mut driver = Driver::new(plan, copies.collect::<Result<_, Failure>>()?, Some(looker))?;
    loop {
        match driver.step(Instant::now()) {
            Step::Accept(member) => {
                let (done, emptied) = channel();
                workers[&member].empty.send(done)?;
                let _ = emptied.recv();
                driver.emptied(member, Instant::now())?;
            }
            Step::Wait(until) => thread::sleep(until.saturating_duration_since(Instant::now())),
            Step::Closed(closed) => assert_eq!(closed.cut, Some(0)),
            Step::Done(outcome) => return outcome.order.ok_or_else(|| "the order is lost".into()),
        }
    }
}

/// Clients until `stop`: how many were served, how many were not.
fn clients(address: SocketAddr, stop: &AtomicBool, served: &AtomicU32, lost: &AtomicU32) {
    while !stop.load(Ordering::Relaxed) {
        let mut answer = String::new();
        let read = TcpStream::connect(address).and_then(|mut s| s.read_to_string(&mut answer));
        let good = read.is_ok() && answer == "hello";
        let count = if good { served } else { lost };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn come_and_go(shards: Vec<TcpListener>, address: SocketAddr) -> Result<(), Failure> {
    let (mut sockets, mut workers) = (BTreeMap::new(), BTreeMap::new());
    let mut order = Order::default();
    for (shard, listener) in (0..).zip(shards) {
        workers.insert(shard, worker(listener.try_clone()?));
        sockets.insert(shard, listener);
        order.joined(shard);
    }
    for shard in [0, 2, 1, 3, 3, 0, 1, 2, 0, 0, 2, 3] {
        order = retire(shard, &sockets, &workers, &order)?;
        println!("{shard} is closed: {:?} serve", order.members());
        sockets.remove(&shard);
        if let Some(Worker { empty, thread }) = workers.remove(&shard) {
            drop(empty);
            let _ = thread.join();
        }
        let again = open(&ListenerSpec::tcp(address))?.listeners.remove(0);
        let again = TcpListener::try_from(again)?;
        workers.insert(shard, worker(again.try_clone()?));
        sockets.insert(shard, again);
        order.joined(shard);
        thread::sleep(Duration::from_millis(20));
    }
    println!("pausing: clients wait, and none is refused");
    let all: Vec<&TcpListener> = sockets.values().collect();
    pause::pause_all(&all).map_err(|(_, error)| error)?;
    thread::sleep(Duration::from_millis(100));
    for listener in all {
        pause::resume(listener)?;
    }
    thread::sleep(Duration::from_millis(1500));
    Ok(())
}

fn main() -> Result<(), Failure> {
    let mut spec = ListenerSpec::tcp("127.0.0.1:0".parse()?);
    spec.shards = 4;
    let opened = open(&spec)?.listeners;
    let address = opened[0].local().inet().ok_or("no address")?;
    let shards: Result<Vec<TcpListener>, _> =
        opened.into_iter().map(TcpListener::try_from).collect();
    let (stop, served, lost) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| clients(address, &stop, &served, &lost));
        }
        let ended = shards
            .map_err(Failure::from)
            .and_then(|shards| come_and_go(shards, address));
        stop.store(true, Ordering::Relaxed);
        ended
    })?;
    println!(
        "{} clients served, {} lost",
        served.into_inner(),
        lost.into_inner()
    );
    Ok(())
}
