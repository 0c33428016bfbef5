//! Single connections of a listener that leaves: queued, half-open, silent, by cookie; other kinds of sockets.
//!
//! Decides:  nothing.
//! Kernel:   the live one.
//! Not here: many clients at once (retire.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod load;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use load::{Asking, Site, WEB, one, serve, sleep_until, spec};
use portcullis_listener::pending::Looker;
use portcullis_listener::retire::{Driver, NotRetirable, Outcome, Plan, Step, Way, release};
use portcullis_listener::steer::{self, Choice, Order, Program};
use portcullis_listener::{ListenerSpec, open, pause};
use portcullis_sys::sockopt::accept_queue;
use portcullis_testkit::{forgo_net_admin, private_network, skip, wait_for};

const SOON: Duration = Duration::from_secs(60);

fn deferring() -> ListenerSpec {
    deferring_at(WEB)
}

fn deferring_at(address: &str) -> ListenerSpec {
    let mut spec = spec(address);
    spec.defer_accept = Some(Duration::from_secs(30));
    spec
}

fn web() -> SocketAddr {
    WEB.parse().unwrap()
}

/// Two shards whose order is 0, 1, nobody accepting.
fn two(spec: &ListenerSpec) -> (BTreeMap<u32, TcpListener>, Order) {
    let sockets = BTreeMap::from([(0, one(spec)), (1, one(spec))]);
    (sockets, Order::of([0, 1]))
}

fn steer_to(sockets: &BTreeMap<u32, TcpListener>, order: &Order, shard: u32) {
    let program = Program::new(order, &[shard], &Choice::Even).unwrap();
    program.attach(&sockets[&shard]).unwrap();
}

fn clones(sockets: &BTreeMap<u32, TcpListener>) -> BTreeMap<u32, TcpListener> {
    let clone = |(&number, socket): (&u32, &TcpListener)| (number, socket.try_clone().unwrap());
    sockets.iter().map(clone).collect()
}

fn driver(
    sockets: &BTreeMap<u32, TcpListener>,
    leaving: &[u32],
    order: Option<&Order>,
) -> Driver<TcpListener> {
    let mut looker = Looker::open().unwrap();
    let plan = Plan::find(sockets, leaving, order, &Choice::Even, Some(&mut looker)).unwrap();
    Driver::new(plan, clones(sockets), Some(looker)).unwrap()
}

/// Serves what leaves.
fn run(driver: &mut Driver<TcpListener>, sockets: &BTreeMap<u32, TcpListener>) -> Outcome {
    loop {
        match driver.step(Instant::now()) {
            Step::Accept(member) => {
                while let Ok((connection, _)) = sockets[&member].accept() {
                    serve(connection);
                }
                driver.emptied(member, Instant::now()).unwrap();
            }
            Step::Wait(until) => sleep_until(until),
            Step::Closed(_) => {}
            Step::Done(outcome) => return outcome,
        }
    }
}

/// A client that is half-open, and speaks a moment later; what it is answered.
fn hesitating() -> std::thread::JoinHandle<String> {
    let mut client = TcpStream::connect(WEB).unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        client.write_all(b"?").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        answer
    })
}

/// Accepts and serves in a thread until it is told to stop.
fn serving(listener: &TcpListener) -> impl FnOnce() + use<> {
    let listener = listener.try_clone().unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            match listener.accept() {
                Ok((connection, _)) => serve(connection),
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    });
    move || {
        drop(stop);
        thread.join().unwrap();
    }
}

#[test]
fn the_looker_counts_half_open_and_waiting_connections_of_one_shard() {
    private_network(|| {
        let (sockets, order) = two(&deferring());
        let mut looker = Looker::open().unwrap();
        steer_to(&sockets, &order, 1);
        let mut clients: Vec<TcpStream> =
            (0..3).map(|_| TcpStream::connect(WEB).unwrap()).collect();
        let mut pending = |shard| looker.pending(&sockets[&shard]).unwrap();
        assert_eq!((pending(0), pending(1)), (Some(0), Some(3)));
        clients[0].write_all(b"?").unwrap();
        wait_for("one in the queue", SOON, || {
            accept_queue(&sockets[&1]).unwrap().unwrap().waiting == 1
        });
        assert_eq!(pending(1), Some(3));
        let _served = sockets[&1].accept().unwrap();
        assert_eq!(pending(1), Some(2));
        assert_eq!(pending(0), Some(0));
        drop(clients);
        // Their FINs make them whole.
        wait_for("two in the queue", SOON, || {
            accept_queue(&sockets[&1]).unwrap().unwrap().waiting == 2
        });
        drop((sockets[&1].accept().unwrap(), sockets[&1].accept().unwrap()));
        assert_eq!(pending(1), Some(0));
        let elsewhere = UnixStream::pair().unwrap().0;
        assert_eq!(looker.pending(&elsewhere).unwrap(), None);
    });
}

#[test]
fn a_half_open_connection_is_waited_for_and_served() {
    private_network(|| {
        let (sockets, order) = two(&deferring());
        steer_to(&sockets, &order, 1);
        let client = hesitating();
        let mut driver = driver(&sockets, &[1], Some(&order));
        let outcome = run(&mut driver, &sockets);
        assert_eq!(outcome.closed[0].cut, Some(0));
        assert_eq!(client.join().unwrap(), "served");
    });
}

#[test]
fn a_client_that_answered_and_says_nothing_is_accepted_once_deferring_ends() {
    private_network(|| {
        let (sockets, order) = two(&deferring());
        steer_to(&sockets, &order, 1);
        let mut client = TcpStream::connect(WEB).unwrap();
        let mut driver = driver(&sockets, &[1], Some(&order));
        let connection = loop {
            match driver.step(Instant::now()) {
                Step::Accept(member) => match sockets[&member].accept() {
                    Ok((connection, _)) => break connection,
                    Err(_) => driver.emptied(member, Instant::now()).unwrap(),
                },
                Step::Wait(until) => sleep_until(until),
                other => panic!("{other:?}: it was not accepted"),
            }
        };
        client.write_all(b"?").unwrap();
        serve(connection);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "served");
    });
}

#[test]
fn who_is_half_open_longer_than_the_bound_is_cut_and_counted() {
    private_network(|| {
        let (sockets, order) = two(&deferring());
        steer_to(&sockets, &order, 1);
        let silent = [(); 2].map(|()| TcpStream::connect(WEB).unwrap());
        for client in &silent {
            // It hears nothing more, so it answers nothing.
            portcullis_sys::filter::attach_filter(client, &[(6, 0, 0, 0)]).unwrap();
        }
        let mut looker = Looker::open().unwrap();
        let choice = &Choice::Even;
        let mut plan = Plan::find(&sockets, &[1], Some(&order), choice, Some(&mut looker)).unwrap();
        plan.bounds.half_open = Duration::from_millis(100);
        let mut driver = Driver::new(plan, clones(&sockets), Some(looker)).unwrap();
        let outcome = run(&mut driver, &sockets);
        assert_eq!(outcome.closed[0].cut, Some(2));
    });
}

/// Two shards; the queue of the second is full (9), and 6 more have spoken, which it could not hear.
fn overfull() -> (BTreeMap<u32, TcpListener>, Order, Vec<Asking>) {
    let mut spec = deferring();
    spec.backlog = Some(8);
    let (sockets, order) = two(&spec);
    steer_to(&sockets, &order, 1);
    let mut half_open: Vec<TcpStream> = (0..6).map(|_| TcpStream::connect(WEB).unwrap()).collect();
    let mut asking: Vec<Asking> = (0..9).map(|_| Asking::at(web())).collect();
    wait_for("a full queue", SOON, || {
        accept_queue(&sockets[&1]).unwrap().unwrap().waiting == 9
    });
    for client in &mut half_open {
        client.write_all(b"?").unwrap();
    }
    asking.extend(half_open.into_iter().map(Asking));
    let pending = Looker::open().unwrap().pending(&sockets[&1]).unwrap();
    assert_eq!(pending, Some(15));
    (sockets, order, asking)
}

#[test]
fn a_full_queue_is_served_whole_and_so_are_those_who_found_no_place() {
    private_network(|| {
        let (sockets, order, mut asking) = overfull();
        let stop = serving(&sockets[&0]);
        // Dropped, and sent again: to the other shard.
        let late = std::thread::spawn(|| Asking::at(web()).answer());
        let mut driver = driver(&sockets, &[1], Some(&order));
        let outcome = run(&mut driver, &sockets);
        assert_eq!(outcome.closed[0].cut, Some(0));
        while let Some(client) = asking.pop() {
            client.answer().unwrap();
        }
        late.join().unwrap().unwrap();
        stop();
    });
}

/// Steered and drained, but not waited for: what the test above would be without that step.
#[test]
fn a_full_queue_that_is_drained_once_and_closed_loses_those_who_found_no_place() {
    private_network(|| {
        // On a host that stops for a moment in the middle they may find a place after all.
        let lost = (0..5).any(|_| {
            let (mut sockets, order, asking) = overfull();
            steer_to(&sockets, &order, 0);
            let stop = serving(&sockets[&0]);
            let leaving = sockets.remove(&1).unwrap();
            let accept = || leaving.accept().ok().map(|(connection, _)| connection);
            let waiting: Vec<TcpStream> = std::iter::from_fn(accept).collect();
            drop(leaving);
            waiting.into_iter().for_each(serve);
            let answers: Vec<bool> = asking.into_iter().map(|one| one.answer().is_ok()).collect();
            assert_eq!(answers[..9], [true; 9]);
            stop();
            answers[9..].contains(&false)
        });
        assert!(lost);
    });
}

#[test]
fn the_last_of_an_address_serves_all_that_it_began_and_no_more() {
    private_network(|| {
        let sockets = BTreeMap::from([(0, one(&deferring())), (1, one(&deferring()))]);
        let asking: Vec<Asking> = (0..20).map(|_| Asking::at(web())).collect();
        let half_open = hesitating();
        let mut driver = driver(&sockets, &[0, 1], Some(&Order::of([0, 1])));
        let somebody_stays = false;
        assert_eq!(driver.retirement().way(), &Way::Filter { somebody_stays });
        let outcome = run(&mut driver, &sockets);
        assert_eq!(outcome.closed.len(), 2);
        assert!(outcome.closed.iter().all(|closed| closed.cut == Some(0)));
        for client in asking {
            client.answer().unwrap();
        }
        assert_eq!(half_open.join().unwrap(), "served");
        let refused = TcpStream::connect(WEB).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    });
}

#[test]
fn whoever_stops_at_any_step_leaves_sockets_that_another_can_serve() {
    private_network(|| {
        let mut finished = false;
        for steps in 0.. {
            let (sockets, order) = two(&spec(WEB));
            let asking: Vec<Asking> = (0..10).map(|_| Asking::at(web())).collect();
            let mut driver = driver(&sockets, &[1], Some(&order));
            let mut served = Vec::new();
            for _ in 0..steps {
                match driver.step(Instant::now()) {
                    Step::Accept(member) => {
                        while let Ok((connection, _)) = sockets[&member].accept() {
                            served.push(connection);
                        }
                        driver.emptied(member, Instant::now()).unwrap();
                    }
                    Step::Wait(until) => sleep_until(until),
                    Step::Closed(_) => {}
                    Step::Done(_) => finished = true,
                }
            }
            drop(driver); // It died; the sockets live on in another process.
            for socket in sockets.values() {
                release(socket).unwrap();
            }
            let late: Vec<Asking> = (0..10).map(|_| Asking::at(web())).collect();
            for socket in sockets.values() {
                while let Ok((connection, _)) = socket.accept() {
                    served.push(connection);
                }
            }
            served.into_iter().for_each(serve);
            for client in asking.into_iter().chain(late) {
                client.answer().unwrap();
            }
            if finished {
                assert!(steps > 3);
                return;
            }
        }
    });
}

#[test]
fn cancelling_opens_a_listener_to_clients_again() {
    private_network(|| {
        let (sockets, order) = two(&deferring());
        for (leaving, what) in [(vec![0, 1], "filters"), (vec![1], "program")] {
            let _half_open: Vec<TcpStream> =
                (0..8).map(|_| TcpStream::connect(WEB).unwrap()).collect();
            let mut driver = driver(&sockets, &leaving, Some(&order));
            while !matches!(driver.step(Instant::now()), Step::Accept(_)) {}
            driver.cancel();
            let Step::Done(outcome) = driver.step(Instant::now()) else {
                panic!("{what}");
            };
            assert_eq!(outcome.kept.len(), leaving.len());
            for socket in sockets.values() {
                assert!(!pause::is_paused(socket).unwrap(), "{what}");
                let defers = portcullis_sys::sockopt::get_int(socket, 6, 9).unwrap();
                assert!(defers > 0, "{what}");
            }
            assert!(
                !steer::detach(&sockets[&0]).unwrap(),
                "{what}: a program is left"
            );
        }
    });
}

#[test]
fn a_stranger_in_the_group_means_filters() {
    private_network(|| {
        let (sockets, order) = two(&spec(WEB));
        let stranger = one(&spec(WEB));
        let somebody_stays = true;
        let by_filter = Way::Filter { somebody_stays };
        let alone = driver(&sockets, &[0, 1], Some(&order));
        assert_eq!(alone.retirement().way(), &by_filter);
        drop(stranger);
        // It comes when the plan is made, and the first program attached.
        let mut driver = driver(&sockets, &[1], Some(&order));
        let _stranger = one(&spec(WEB));
        let stop = serving(&sockets[&0]);
        let outcome = run(&mut driver, &sockets);
        assert!(outcome.by_filter);
        assert_eq!(outcome.closed.len(), 1);
        stop();
    });
}

#[test]
fn a_listener_with_a_filter_of_its_own_is_kept() {
    private_network(|| {
        let sockets = BTreeMap::from([(0, one(&spec(WEB)))]);
        let all = [(6, 0, 0, 0x40000)];
        portcullis_sys::filter::attach_filter(&sockets[&0], &all).unwrap();
        let mut driver = driver(&sockets, &[0], None);
        let outcome = run(&mut driver, &sockets);
        assert_eq!((outcome.kept, outcome.closed.len()), (vec![0], 0));
        assert_eq!(
            portcullis_sys::filter::filter(&sockets[&0]),
            Ok(all.to_vec())
        );
        TcpStream::connect(WEB).unwrap();
    });
}

#[test]
fn a_unix_socket_serves_its_queue_and_refuses_newcomers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let listener = open(&ListenerSpec::unix(&path))
        .unwrap()
        .listeners
        .remove(0);
    let listener = UnixListener::try_from(listener).unwrap();
    let mut clients: Vec<UnixStream> = (0..5)
        .map(|_| UnixStream::connect(&path).unwrap())
        .collect();
    let sockets = BTreeMap::from([(0, listener.try_clone().unwrap())]);
    let plan = Plan::find(&sockets, &[0], None, &Choice::Even, None).unwrap();
    assert_eq!(plan.way, Way::Shutdown);
    let mut driver = Driver::new(plan, sockets, None).unwrap();
    let mut served = 0;
    loop {
        match driver.step(Instant::now()) {
            Step::Accept(member) => {
                let refused = UnixStream::connect(&path).unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
                while let Ok((mut connection, _)) = listener.accept() {
                    connection.write_all(b"served").unwrap();
                    served += 1;
                }
                driver.emptied(member, Instant::now()).unwrap();
            }
            Step::Closed(closed) => assert_eq!(closed.cut, Some(0)),
            Step::Done(outcome) => break assert_eq!(outcome.closed.len(), 1),
            Step::Wait(until) => panic!("{until:?}"),
        }
    }
    assert_eq!(served, 5);
    for client in &mut clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "served");
    }
    drop(listener);
}

#[test]
fn multipath_tcp_is_kept_while_a_sibling_is_wanted() {
    private_network(|| {
        let spec = ListenerSpec::mptcp(web());
        let Ok(first) = open(&spec) else {
            skip("this kernel has no Multipath TCP");
            return;
        };
        let second = open(&spec).unwrap();
        let listeners = first.listeners.into_iter().chain(second.listeners);
        let sockets: BTreeMap<u32, _> = (0..).zip(listeners).collect();
        let order = Order::of([0, 1]);
        let one = Plan::find(&sockets, &[1], Some(&order), &Choice::Even, None);
        assert!(matches!(one, Err(NotRetirable::MptcpWhileWanted(1))));
        let paused = pause::pause(&sockets[&0]).unwrap_err();
        assert_eq!(paused, pause::CannotPause::NotTcp(pause::Kind::Mptcp));
        let both = Plan::find(&sockets, &[0, 1], Some(&order), &Choice::Even, None).unwrap();
        assert_eq!(both.way, Way::Nothing);
        let mut driver = Driver::new(both, sockets, None).unwrap();
        let mut closed = 0;
        loop {
            match driver.step(Instant::now()) {
                Step::Accept(member) => driver.emptied(member, Instant::now()).unwrap(),
                Step::Closed(_) => closed += 1,
                Step::Done(_) => break,
                Step::Wait(_) => panic!(),
            }
        }
        assert_eq!(closed, 2);
        TcpStream::connect(WEB).unwrap_err();
    });
}

#[test]
fn a_paused_listener_serves_its_queue_and_what_it_accepts_has_the_filter() {
    private_network(|| {
        let site = Site::open(deferring(), 1);
        let listener = site.servers.take(0);
        let early = Asking::at(web());
        let mut half_open = TcpStream::connect(WEB).unwrap();
        pause::pause(&*listener).unwrap();
        pause::pause(&*listener).unwrap();
        assert!(pause::is_paused(&*listener).unwrap());
        half_open.write_all(b"?").unwrap();
        let late = std::thread::spawn(|| Asking::at(web()).answer());
        wait_for("two in the queue", SOON, || {
            accept_queue(&*listener).unwrap().unwrap().waiting == 2
        });
        for filtered in [false, true] {
            let (connection, _) = listener.accept().unwrap();
            assert_eq!(pause::unfilter(&connection).unwrap(), filtered);
            assert!(!pause::unfilter(&connection).unwrap());
            serve(connection);
        }
        early.answer().unwrap();
        assert!(listener.accept().is_err(), "the late one was let in");
        assert!(pause::resume(&*listener).unwrap());
        assert!(!pause::resume(&*listener).unwrap());
        wait_for("the late one", SOON, || {
            listener
                .accept()
                .map(|(connection, _)| serve(connection))
                .is_ok()
        });
        late.join().unwrap().unwrap();
        site.servers.finish();
    });
}

const EVERYBODYS: &str = "this kernel allows everybody a filter";

/// A filter is for who has CAP_NET_ADMIN; a minimum TTL keeps clients of both families away without it.
#[test]
fn an_ordinary_user_pauses_by_a_minimum_ttl() {
    private_network(|| {
        let filtered = one(&spec("127.0.0.1:81"));
        pause::pause(&filtered).unwrap();
        assert_eq!(minimum_ttls(&filtered), [0]);
        forgo_net_admin();
        let unfiltered = one(&spec("127.0.0.1:82"));
        pause::pause(&unfiltered).unwrap();
        if minimum_ttls(&unfiltered) == [0] {
            return skip(EVERYBODYS);
        }
        let mut both = deferring_at("[::]:443");
        both.ipv6_only = Some(portcullis_listener::spec::Ipv6Only::Off);
        for spec in [deferring(), both] {
            let listener = one(&spec);
            listener.set_nonblocking(true).unwrap();
            let clients: &[&str] = match listener.local_addr().unwrap().is_ipv6() {
                true => &["127.0.0.1:443", "[::1]:443"],
                false => &["127.0.0.1:443"],
            };
            for address in clients {
                let mut half_open = TcpStream::connect(address).unwrap();
                pause::pause(&listener).unwrap();
                pause::pause(&listener).unwrap();
                assert!(pause::is_paused(&listener).unwrap());
                assert!(minimum_ttls(&listener).into_iter().all(|ttl| ttl == 255));
                let address: SocketAddr = address.parse().unwrap();
                let moment = Duration::from_millis(100);
                TcpStream::connect_timeout(&address, moment).unwrap_err();
                half_open.write_all(b"?").unwrap();
                wait_for("one in the queue", SOON, || {
                    accept_queue(&listener).unwrap().unwrap().waiting == 1
                });
                let (mut connection, _) = listener.accept().unwrap();
                assert!(pause::min_ttl::used());
                pause::min_ttl::admit(&connection);
                assert!(minimum_ttls(&connection).into_iter().all(|ttl| ttl == 0));
                half_open.write_all(b"!").unwrap();
                let mut asked = [0; 2];
                connection.read_exact(&mut asked).unwrap();
                assert!(pause::resume(&listener).unwrap());
                assert!(!pause::resume(&listener).unwrap());
                drop((half_open, connection));
                let again = TcpStream::connect_timeout(&address, SOON).unwrap();
                drop(again);
                // It was half-open until its end.
                wait_for("nobody to wait", SOON, || listener.accept().is_ok());
            }
        }
    });
}

#[test]
fn a_minimum_ttl_of_somebody_else_stays() {
    private_network(|| {
        forgo_net_admin();
        let listener = one(&spec(WEB));
        portcullis_sys::sockopt::set_int(&listener, 0, 21, 254).unwrap();
        if pause::pause(&listener).is_ok() {
            return skip(EVERYBODYS);
        }
        let refused = pause::seal(&listener).unwrap_err();
        assert_eq!(refused, pause::CannotPause::ForeignMinTtl(254));
        assert!(!pause::resume(&listener).unwrap());
        assert_eq!(minimum_ttls(&listener), [254]);
    });
}

/// Of each family that it may have clients of.
fn minimum_ttls(socket: &impl std::os::fd::AsFd) -> Vec<i32> {
    let read = |(level, option)| portcullis_sys::sockopt::get_int(socket, level, option);
    let both = [(0, 21), (41, 73)].map(read);
    both.into_iter().filter_map(Result::ok).collect()
}

#[test]
fn several_are_paused_or_none() {
    private_network(|| {
        let (sockets, _) = two(&spec(WEB));
        let directory = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(directory.path().join("s")).unwrap();
        pause::pause(&sockets[&1]).unwrap();
        let fds: [&dyn std::os::fd::AsFd; 3] = [&sockets[&0], &sockets[&1], &unix];
        let fds = fds.map(|fd| fd.as_fd());
        let (which, error) = pause::pause_all(&fds).unwrap_err();
        assert_eq!(which, 2);
        assert_eq!(
            error.to_string(),
            "no filter sees who connects to a Unix socket, so it cannot be paused"
        );
        assert!(!pause::is_paused(&sockets[&0]).unwrap());
        assert!(pause::is_paused(&sockets[&1]).unwrap(), "it was before");
        pause::pause_all(&fds[..2]).unwrap();
        assert!(pause::is_paused(&sockets[&0]).unwrap());
    });
}

#[test]
fn a_program_sends_connections_where_it_says() {
    private_network(|| {
        let sockets: BTreeMap<u32, TcpListener> = (0..5).map(|n| (n, one(&spec(WEB)))).collect();
        let order = Order::of(0..5);
        let table: [&[u32]; 4] = [&[2], &[0, 4], &[1, 2, 3, 4], &[0, 1, 2, 3, 4]];
        for admitted in table {
            let program = Program::new(&order, admitted, &Choice::Even).unwrap();
            program.attach(&sockets[&0]).unwrap();
            // Each admitted member misses all of them once in 2^50 or less.
            let clients: Vec<TcpStream> =
                (0..160).map(|_| TcpStream::connect(WEB).unwrap()).collect();
            let count = |(&number, socket): (&u32, &TcpListener)| {
                let mut count = 0;
                while socket.accept().is_ok() {
                    count += 1;
                }
                (number, count)
            };
            let got: BTreeMap<u32, usize> = sockets.iter().map(count).collect();
            assert_eq!(got.values().sum::<usize>(), clients.len());
            for (number, count) in &got {
                assert_eq!(
                    *count > 0,
                    admitted.contains(number),
                    "{admitted:?} {got:?}"
                );
            }
        }
        assert!(steer::detach(&sockets[&3]).unwrap());
        assert!(!steer::detach(&sockets[&3]).unwrap());
    });
}

/// What a thread sends over the loopback is received on its own CPU.
#[test]
fn a_connection_goes_to_the_shard_of_the_cpu_that_received_it() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    private_network(|| {
        let mut sockets: BTreeMap<u32, TcpListener> =
            (0..5).map(|n| (n, one(&spec(WEB)))).collect();
        let mut order = Order::of(0..5);
        // The order is no longer that of the numbers: 4 1 2 3.
        sockets.remove(&0);
        order.left(0);
        let homes = [3, 1, 4, 2];
        let choice = Choice::ByCpu(homes.to_vec());
        let program = Program::new(&order, &[1, 2, 3, 4], &choice).unwrap();
        program.attach(&sockets[&1]).unwrap();
        let allowed = sched_getaffinity(None).unwrap();
        let cpus = (0..CpuSet::MAX_CPU)
            .filter(|cpu| allowed.is_set(*cpu))
            .take(8);
        for cpu in cpus {
            let mut here = CpuSet::new();
            here.set(cpu);
            sched_setaffinity(None, &here).unwrap();
            for _ in 0..5 {
                let _client = TcpStream::connect(WEB).unwrap();
                let mut reached = sockets.iter().filter(|(_, socket)| socket.accept().is_ok());
                assert_eq!(
                    reached.next().map(|(n, _)| *n),
                    Some(homes[cpu % 4]),
                    "CPU {cpu}"
                );
            }
        }
    });
}
