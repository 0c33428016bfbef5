//! Listeners, shards and workers that go: whoever had come is served, under load.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portcullis_testkit::{
    Signal, eventually, forgo_net_admin, listening, private_network, wait_for,
};

use super::clients::{PATIENCE, ask, connect, with_deadlines};
use super::harness::{DEFAULTS, Place, SOON, local, ours_only};
use super::reload::{FRONT, ONE, Reloaded, with};
use super::servers::Server;

const OTHER: u16 = 8001;

/// What clients do who find nobody.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It is wrong.
    Wrong,
    /// They come again: the address is not always wanted.
    TryAgain,
}

/// Clients that connect, say nothing for a moment, ask and leave, one after the other.
struct Crowd {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<Vec<String>>>,
}

impl Crowd {
    fn start(clients: usize, address: SocketAddr, refusal: Refusal) -> Crowd {
        let (stop, served) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<AtomicU64>::default(),
        );
        let run = |_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                let mut wrong = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    match TcpStream::connect_timeout(&address, PATIENCE) {
                        Ok(stream) => match visit(stream) {
                            Ok(()) => {
                                served.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(why) => wrong.push(why),
                        },
                        Err(_) if refusal == Refusal::TryAgain => {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        Err(why) => wrong.push(format!("connect: {why}")),
                    }
                }
                wrong
            })
        };
        let threads = (0..clients).map(run).collect();
        Crowd {
            stop,
            served,
            threads,
        }
    }

    fn more(&self, count: u64) {
        let goal = self.served.load(Ordering::Relaxed) + count;
        wait_for("some more to be served", PATIENCE, || {
            self.served.load(Ordering::Relaxed) >= goal
                || self.threads.iter().any(|it| it.is_finished())
        });
    }

    /// How many were served, and all that went wrong.
    fn stop(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let threads = self.threads.into_iter();
        let wrong = threads.flat_map(|it| it.join().unwrap()).collect();
        (self.served.load(Ordering::Relaxed), wrong)
    }
}

/// The client closes second, so that no port of its stays behind in TIME_WAIT.
fn visit(stream: TcpStream) -> Result<(), String> {
    let wrong = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let mut stream = with_deadlines(stream);
    std::thread::sleep(Duration::from_millis(1));
    stream.write_all(b"hello\n").map_err(wrong("write"))?;
    stream.shutdown(Shutdown::Write).map_err(wrong("shut"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(wrong("read"))?;
    match answer.as_str() {
        "one hello\n" => Ok(()),
        other => Err(format!("answered {other:?}")),
    }
}

/// Whether a client that had connected, and asks now, is answered.
fn is_answered(mut client: TcpStream) -> bool {
    let mut byte = [0];
    client.write_all(b"x\n").is_ok() && client.read(&mut byte).is_ok_and(|count| count == 1)
}

fn threads(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let names = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|name| name.starts_with("worker-")).count()
}

/// Sockets that listen on this port, in this network.
pub fn listeners(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let port = format!(":{port:04X}");
    let lines = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|words| words[1].ends_with(&port) && words[3] == "0A")
        .count()
}

fn with_workers(config: &str, workers: usize) -> String {
    config.replace("nbthread 2", &format!("nbthread {workers}"))
}

/// Connections were steered away from what left, and not dropped until they came again.
fn no_client_waited(it: &Reloaded) {
    let said = it.balancer.process.stderr();
    assert!(said.contains(" retired in "), "{said}");
    assert!(!said.contains("filter"), "{said}");
}

/// Clients whose handshake is not over for the listener, since they have said nothing.
fn silent_clients(port: u16) -> Vec<TcpStream> {
    (0..20).map(|_| connect(local(port))).collect()
}

/// How many of the clients whose handshake was under way at this signal are answered.
fn answered_after(signal: Signal) -> usize {
    let _server = Server::echo(local(9001), "one");
    let mut it = Reloaded::start(&with("127.0.0.1:8000 defer-accept", &[ONE]), &[FRONT]);
    let clients = silent_clients(8000);
    it.balancer.signal(signal);
    std::thread::sleep(Duration::from_millis(200));
    let answered = clients.into_iter().map(is_answered).filter(|it| *it);
    let answered = answered.count();
    assert_eq!(it.balancer.process.exit_code(SOON), 0);
    answered
}

#[test]
fn a_soft_stop_serves_handshakes_under_way() {
    if ours_only() {
        return;
    }
    private_network(|| assert_eq!(answered_after(Signal::USR1), 20));
}

#[test]
fn a_soft_stop_after_a_pause_serves_who_waits_also_by_workers_that_came_meanwhile() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = with("127.0.0.1:8000", &[ONE]);
        let mut it = Reloaded::start(&config, &[FRONT]);
        it.balancer.signal(Signal::TTOU);
        it.balancer.process.wait_line("paused:", SOON);
        it.to(&with_workers(&config, 4));
        let mut clients = silent_clients(8000);
        for client in &mut clients {
            client.write_all(b"x\n").unwrap();
            client
                .set_read_timeout(Some(Duration::from_millis(5)))
                .unwrap();
            assert!(client.read(&mut [0]).is_err(), "it is paused");
            client.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        it.balancer.signal(Signal::USR1);
        assert!(clients.into_iter().all(is_answered));
        assert_eq!(it.balancer.process.exit_code(SOON), 0);
    });
}

#[test]
fn what_a_refused_reload_had_opened_beside_a_listener_is_closed_without_losing_its_clients() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let file = place.write("no-socket", "a file");
        let mut it = Reloaded::start(&with("127.0.0.1:8000", &[ONE]), &[FRONT]);
        let crowd = Crowd::start(6, FRONT, Refusal::Wrong);
        // Sockets of an interface are found before those of none; the path is refused after they were opened.
        let bind = format!("127.0.0.1:8000 interface lo\n    bind {}", file.display());
        for _ in 0..10 {
            let said = it.refused(&with(&bind, &[ONE]));
            assert!(said.contains("no-socket"), "{said}");
            crowd.more(20);
            wait_for("the old sockets alone", SOON, || listeners(8000) == 2);
        }
        let (served, wrong) = crowd.stop();
        assert_eq!(wrong, Vec::<String>::new(), "of {served} served");
        wait_for("the log of ten retirements", SOON, || {
            let said = it.balancer.process.stderr();
            said.matches("2 listening sockets retired in").count() == 10
        });
        it.to(&with("127.0.0.1:8000 interface lo", &[ONE]));
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        it.balancer.stop();
    });
}

/// Else the test of a soft stop would show nothing.
#[test]
fn a_hard_stop_cuts_handshakes_under_way() {
    if ours_only() {
        return;
    }
    private_network(|| assert!(answered_after(Signal::TERM) < 20));
}

fn a_listener_goes() {
    let _server = Server::echo(local(9001), "one");
    let both = with("127.0.0.1:8000,127.0.0.1:8001 defer-accept", &[ONE]);
    let mut it = Reloaded::start(&both, &[FRONT]);
    let clients = silent_clients(OTHER);
    it.to(&with("127.0.0.1:8000 defer-accept", &[ONE]));
    std::thread::sleep(Duration::from_millis(200));
    assert!(clients.into_iter().all(is_answered));
    wait_for("the port to close", SOON, || !listening(local(OTHER)));
    it.balancer
        .process
        .wait_line("2 listening sockets retired in", SOON);
    it.balancer.stop();
}

#[test]
fn a_listener_that_goes_with_a_reload_serves_handshakes_under_way() {
    if ours_only() {
        return;
    }
    private_network(a_listener_goes);
}

#[test]
fn a_listener_of_an_ordinary_user_that_goes_serves_handshakes_under_way() {
    if ours_only() {
        return;
    }
    private_network(|| {
        forgo_net_admin();
        a_listener_goes();
    });
}

fn a_listener_comes_and_goes() {
    let _server = Server::echo(local(9001), "one");
    let both = with("127.0.0.1:8000,127.0.0.1:8001 defer-accept", &[ONE]);
    let one = with("127.0.0.1:8000 defer-accept", &[ONE]);
    let mut it = Reloaded::start(&both, &[FRONT]);
    let stays = Crowd::start(4, FRONT, Refusal::Wrong);
    let goes = Crowd::start(4, local(OTHER), Refusal::TryAgain);
    for _ in 0..10 {
        goes.more(20);
        it.to(&one);
        wait_for("the port to close", SOON, || listeners(OTHER) == 0);
        it.to(&both);
    }
    goes.more(20);
    let (served, wrong) = goes.stop();
    assert_eq!(wrong, Vec::<String>::new(), "of {served} served");
    let (served, wrong) = stays.stop();
    assert_eq!(wrong, Vec::<String>::new(), "of {served} served");
    it.balancer.stop();
}

#[test]
fn a_listener_that_comes_and_goes_under_load_loses_nobody_who_had_connected() {
    if ours_only() {
        return;
    }
    private_network(a_listener_comes_and_goes);
}

#[test]
fn a_listener_of_an_ordinary_user_comes_and_goes_and_loses_nobody_who_had_connected() {
    if ours_only() {
        return;
    }
    private_network(|| {
        forgo_net_admin();
        a_listener_comes_and_goes();
    });
}

#[test]
fn workers_come_and_go_under_load_and_nobody_is_lost() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = with("127.0.0.1:8000 defer-accept", &[ONE]);
        let mut it = Reloaded::start(&config, &[FRONT]);
        let crowd = Crowd::start(8, FRONT, Refusal::Wrong);
        let mut long: Vec<TcpStream> = Vec::new();
        for round in 0..2 {
            for workers in [1, 4, 2, 3] {
                it.to(&with_workers(&config, workers));
                long.push(connect(FRONT));
                for client in &mut long {
                    assert_eq!(ask(client, "still"), "one still", "round {round}");
                }
                crowd.more(20);
                wait_for("a socket for each worker", SOON, || {
                    listeners(8000) == workers
                });
            }
        }
        let (served, wrong) = crowd.stop();
        assert_eq!(wrong, Vec::<String>::new(), "of {served} served");
        no_client_waited(&it);
        // Workers that are wanted no more live as long as their sessions.
        drop(long);
        let pid = it.balancer.pid();
        assert!(eventually(SOON, || threads(pid) == 3), "{}", threads(pid));
        it.balancer.stop();
    });
}

/// Sockets at one address that differ in their device are of two groups: one's order is known beside the other.
#[test]
fn shards_come_and_go_beside_those_of_a_device_and_after_a_change_of_device_without_filters() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let binds = |first: &str| {
            let config = with(first, &[ONE]);
            config.replace(
                "\n    balance",
                "\n    bind 127.0.0.1:8001\n    bind 127.0.0.1:8001 interface lo\n    balance",
            )
        };
        let plain = binds("127.0.0.1:8000");
        let mut it = Reloaded::start(&with_workers(&plain, 2), &[FRONT]);
        let to_workers = |it: &mut Reloaded, config: &str, workers| {
            it.to(&with_workers(config, workers));
            wait_for("a socket for each worker", SOON, || {
                listeners(8000) == workers && listeners(8001) == 2 * workers
            });
        };
        let by_filter = |it: &Reloaded| it.balancer.process.stderr().matches("by a filter").count();
        for workers in [4, 1, 3] {
            to_workers(&mut it, &plain, workers);
        }
        no_client_waited(&it);
        let device = binds("127.0.0.1:8000 interface lo");
        to_workers(&mut it, &device, 3);
        it.balancer.process.wait_line("by a filter", SOON);
        for workers in [1, 4, 2] {
            to_workers(&mut it, &device, workers);
        }
        assert_eq!(by_filter(&it), 1, "{}", it.balancer.process.stderr());
        it.balancer.stop();
    });
}

#[test]
fn shards_come_and_go_under_load_and_nobody_is_lost() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = |shards: usize| {
            let bind = format!("127.0.0.1:8000 defer-accept shards {shards}");
            with_workers(&with(&bind, &[ONE]), 4)
        };
        let mut it = Reloaded::start(&config(4), &[FRONT]);
        let crowd = Crowd::start(8, FRONT, Refusal::Wrong);
        for _ in 0..2 {
            for shards in [1, 3, 2, 4] {
                it.to(&config(shards));
                crowd.more(20);
                wait_for("as many sockets", SOON, || listeners(8000) == shards);
            }
        }
        let (served, wrong) = crowd.stop();
        assert_eq!(wrong, Vec::<String>::new(), "of {served} served");
        no_client_waited(&it);
        it.balancer.stop();
    });
}

/// One that joined while another left was in no program, and filters that did the rest made clients wait.
#[test]
fn shards_that_come_while_others_still_go_make_no_client_wait() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = |shards: usize| {
            let bind = format!("127.0.0.1:8000 shards {shards}");
            with_workers(&with(&bind, &[ONE]), 4)
        };
        let mut it = Reloaded::start(&config(4), &[FRONT]);
        let crowd = Crowd::start(8, FRONT, Refusal::Wrong);
        for shards in [1, 4].repeat(8) {
            it.to(&config(shards));
        }
        crowd.more(20);
        wait_for("as many sockets", SOON, || listeners(8000) == 4);
        let (served, wrong) = crowd.stop();
        assert_eq!(wrong, Vec::<String>::new(), "of {served} served");
        no_client_waited(&it);
        it.balancer.stop();
    });
}

#[test]
fn a_worker_that_is_wanted_no_more_ends_with_its_last_session() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = with("127.0.0.1:8000", &[ONE]);
        let mut it = Reloaded::start(&with_workers(&config, 4), &[FRONT]);
        let pid = it.balancer.pid();
        wait_for("four workers", SOON, || threads(pid) == 4);
        let mut clients: Vec<TcpStream> = (0..40).map(|_| connect(FRONT)).collect();
        for client in &mut clients {
            assert_eq!(ask(client, "a"), "one a");
        }
        it.to(&with_workers(&config, 1));
        for client in &mut clients {
            assert_eq!(ask(client, "b"), "one b");
        }
        assert!(threads(pid) > 1, "each of 4 workers had one of 40 sessions");
        drop(clients);
        assert!(eventually(SOON, || threads(pid) == 1), "{}", threads(pid));
        assert_eq!(ask(&mut connect(FRONT), "c"), "one c");
        it.balancer.stop();
    });
}

#[test]
fn the_number_of_sockets_of_a_listener_without_reuseport_grows() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = with("127.0.0.1:8000", &[ONE]);
        let alone = config.replace("nbthread 2", "nbthread 2\n    noreuseport");
        let mut it = Reloaded::start(&alone, &[FRONT]);
        assert_eq!(listeners(8000), 1);
        let crowd = Crowd::start(4, FRONT, Refusal::Wrong);
        for _ in 0..3 {
            it.to(&config);
            assert_eq!(listeners(8000), 2);
            crowd.more(20);
            it.to(&alone);
            wait_for("one socket", SOON, || listeners(8000) == 1);
            crowd.more(20);
        }
        let (served, wrong) = crowd.stop();
        assert_eq!(wrong, Vec::<String>::new(), "of {served} served");
        it.balancer.stop();
    });
}

#[test]
fn a_reload_without_descriptors_changes_nothing_and_a_queue_is_served_by_and_by() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let text = with("127.0.0.1:8000,127.0.0.1:8001", &[ONE]);
        let text = text.replace(
            "nbthread 2",
            "nbthread 2\n    no strict-limits\n    maxconn 500",
        );
        assert!(text.starts_with(DEFAULTS.split("nbthread").next().unwrap()));
        let mut it = Reloaded::start(&text, &[FRONT]);
        let pid = it.balancer.pid();
        let process = rustix::process::Pid::from_raw(pid as i32);
        let limit = |most: u64| {
            let few = rustix::process::Rlimit {
                current: Some(most),
                maximum: Some(most),
            };
            rustix::process::prlimit(process, rustix::process::Resource::Nofile, few).unwrap();
        };
        it.balancer.process.wait_line("serving 4 listening", SOON);
        let open = portcullis_testkit::descriptors(pid) as u64;
        limit(open + 8);
        let many: Vec<String> = (0..40)
            .map(|port| format!("127.0.0.1:{}", 8100 + port))
            .collect();
        let said = it.refused(&text.replace("127.0.0.1:8001", &many.join(",")));
        assert!(said.contains("too many open files"), "{said}");
        assert!(listening(local(OTHER)) && !listening(local(8100)));
        assert_eq!(ask(&mut connect(FRONT), "still"), "one still");
        // More come than there are descriptors for, and wait in the queue of a listener that goes away.
        it.balancer.signal(Signal::TTOU);
        it.balancer.process.wait_line("paused:", SOON);
        let clients: Vec<TcpStream> = (0..60).map(|_| connect(local(OTHER))).collect();
        it.to(&text.replace("127.0.0.1:8000,127.0.0.1:8001", "127.0.0.1:8000"));
        it.balancer.signal(Signal::TTIN);
        // The limit of connections is as small as the descriptors: each ends before the next one begins.
        let asking: Vec<_> = clients
            .into_iter()
            .map(|client| std::thread::spawn(|| is_answered(client)))
            .collect();
        let served = asking.into_iter().map(|it| it.join().unwrap());
        assert_eq!(served.filter(|served| *served).count(), 60);
        wait_for("the port to close", SOON, || listeners(OTHER) == 0);
        assert_eq!(ask(&mut connect(FRONT), "after"), "one after");
        it.balancer.stop();
    });
}
