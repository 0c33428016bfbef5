//! Reloads under load: nobody is refused, reset or cut short, and nothing is left behind.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portcullis_testkit::{Signal, descriptors, private_network, rss_kib, wait_for};

use super::clients::{PATIENCE, ask, connect, with_deadlines};
use super::harness::{SOON, local, ours_only};
use super::reload::{FRONT, ONE, Reloaded, TWO, answers, with};
use super::servers::Server;

/// Configurations that differ from each other in all that a reload can change.
fn another(round: usize) -> String {
    let bind = match round % 3 {
        0 => "127.0.0.1:8000".to_owned(),
        1 => "127.0.0.1:8000 backlog 2000".to_owned(),
        _ => format!("127.0.0.1:8000,127.0.0.1:{}", 8001 + round % 5),
    };
    let servers: &[&str] = match round % 4 {
        0 => &[ONE],
        1 => &[ONE, TWO],
        2 => &[TWO],
        _ => &[
            "s1 127.0.0.1:9001 weight 7 maxconn 400",
            "new 127.0.0.1:9002",
        ],
    };
    let timeout = format!("timeout client {}s", 50 + round % 7);
    with(&bind, servers).replace("timeout client 60s", &timeout)
}

/// Clients that connect, ask and leave, until told to stop: how many were served, and what went
/// wrong with the others.
pub struct Crowd {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Crowd {
    pub fn start(clients: usize) -> Crowd {
        let (stop, served) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let threads = (0..clients).map(|_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                let mut wrong = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match one() {
                        Ok(()) => {
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(why) => wrong.push(why),
                    }
                }
                wrong
            })
        });
        let threads = threads.collect();
        Crowd {
            stop,
            served,
            threads,
        }
    }

    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// All that went wrong.
    pub fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let threads = self.threads.into_iter();
        threads.flat_map(|thread| thread.join().unwrap()).collect()
    }
}

/// One short connection. Its end is waited for, and the client closes second: no port of its stays
/// behind in TIME_WAIT.
fn one() -> Result<(), String> {
    let wrong = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let mut stream = TcpStream::connect_timeout(&FRONT, PATIENCE).map_err(wrong("connect"))?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .map_err(wrong("set"))?;
    stream.write_all(b"hello\n").map_err(wrong("write"))?;
    stream.shutdown(Shutdown::Write).map_err(wrong("shut"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(wrong("read"))?;
    match answer.as_str() {
        "one hello\n" | "two hello\n" => Ok(()),
        other => Err(format!("answered {other:?}")),
    }
}

#[test]
fn short_connections_at_full_load_over_fifty_reloads_lose_nobody() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let servers = [
            Server::echo(local(9001), "one"),
            Server::echo(local(9002), "two"),
        ];
        let mut it = Reloaded::start(&another(0), &[FRONT]);
        let crowd = Crowd::start(8);
        for round in 1..=50 {
            let before = crowd.served();
            it.to(&another(round));
            wait_for("some more to be served", SOON, || {
                crowd.served() > before + 20
            });
        }
        let served = crowd.served();
        assert_eq!(crowd.stop(), Vec::<String>::new(), "of {served} served");
        assert!(served > 1_000, "{served}");
        servers.iter().for_each(Server::assert_well);
        it.balancer.stop();
    });
}

#[test]
fn sessions_under_way_over_twenty_reloads_have_every_byte() {
    if ours_only() {
        return;
    }
    private_network(|| {
        // Repeats what it hears, whatever that is.
        let repeat = |port: u16| {
            Server::start(local(port), |mut stream| {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            })
        };
        let _servers = [repeat(9001), repeat(9002)];
        let mut it = Reloaded::start(&another(0), &[FRONT]);
        let stop = Arc::new(AtomicBool::new(false));
        let sessions: Vec<_> = (0..6u64)
            .map(|seed| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || exchange(seed, &stop))
            })
            .collect();
        for round in 1..=20 {
            it.to(&another(round));
            std::thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        for session in sessions {
            assert!(session.join().unwrap() > 1 << 20, "bytes compared");
        }
        it.balancer.stop();
    });
}

/// Sends and compares, in both directions at once, until told to stop; how many bytes.
fn exchange(seed: u64, stop: &AtomicBool) -> u64 {
    let mut stream = with_deadlines(TcpStream::connect(FRONT).unwrap());
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let (mut sent, mut heard) = (vec![0; 32 << 10], vec![0; 32 << 10]);
    let mut compared = 0;
    while !stop.load(Ordering::Relaxed) {
        for byte in &mut sent {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *byte = state as u8;
        }
        stream.write_all(&sent).unwrap();
        stream.read_exact(&mut heard).unwrap();
        assert!(sent == heard, "after {compared} bytes");
        compared += sent.len() as u64;
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut heard).unwrap(), 0);
    compared
}

#[test]
fn a_reload_that_is_asked_for_while_one_runs_comes_after_it_and_the_last_file_counts() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = [
            Server::echo(local(9001), "one"),
            Server::echo(local(9002), "two"),
        ];
        let mut it = Reloaded::start(&another(0), &[FRONT]);
        for round in 0..30 {
            it.write(&another(round));
            it.balancer.signal(Signal::HUP);
        }
        it.write(&with("127.0.0.1:8000", &[TWO]));
        let (before, _) = it.told();
        it.balancer.signal(Signal::HUP);
        wait_for("the last one", SOON, || it.told().0 > before);
        wait_for("the last file", SOON, || {
            answers(3) == ["two".to_owned()].into()
        });
        assert_eq!(it.told().1, 0, "none was refused");
        it.balancer.stop();
    });
}

#[test]
fn memory_and_descriptors_are_back_at_their_level_after_two_hundred_reloads() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = [
            Server::echo(local(9001), "one"),
            Server::echo(local(9002), "two"),
        ];
        // Names that were never there before, each time.
        let config = |round: usize| {
            let sections = (0..20).map(|section| {
                format!(
                    "\nlisten l{round}x{section}\n    bind 127.0.0.1:{}\n    server a{round} \
                     127.0.0.1:9001 check\n    server b 127.0.0.1:9002\n",
                    8100 + section
                )
            });
            another(round) + &sections.collect::<String>()
        };
        let mut it = Reloaded::start(&config(0), &[FRONT]);
        let pid = it.balancer.pid();
        let mut level = None;
        for round in 1..=220 {
            it.to(&config(round));
            assert!(answers(1).len() == 1);
            if round == 20 {
                level = Some((rss_kib(pid), descriptors(pid)));
            }
        }
        it.to(&config(20));
        let (memory, files) = level.unwrap();
        let now = || (rss_kib(pid), descriptors(pid));
        wait_for("the descriptors", SOON, || now().1 <= files);
        let grown = now().0.saturating_sub(memory);
        assert!(grown < 3_000, "{grown} KiB more than {memory}");
        assert_eq!(ask(&mut connect(FRONT), "x").split(' ').count(), 2);
        it.balancer.stop();
    });
}
