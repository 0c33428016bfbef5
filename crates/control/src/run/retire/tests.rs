//! Retirements by the thread, without workers: the test accepts.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use portcullis_testkit::private_network;

use super::*;
use crate::run::held;

const PATIENCE: Duration = Duration::from_secs(30);

fn web(shards: u16) -> ListenerSpec {
    let mut spec = ListenerSpec::tcp(SocketAddr::from(([127, 0, 0, 1], 80)));
    spec.shards = shards;
    spec
}

/// Opened as by the start.
fn open(spec: &ListenerSpec, groups: &Groups) -> Held {
    let mut held = vec![Held::nothing(spec)];
    let mut orders = groups.hold();
    orders.begin([spec]);
    let opened = portcullis_listener::open(spec).unwrap();
    let placed = opened.listeners.into_iter().map(|one| (0, one));
    held::put(&mut held, placed.collect(), &mut orders);
    orders.opened();
    held.remove(0)
}

fn part(of: &Held, sockets: std::ops::Range<usize>) -> Held {
    Held {
        spec: of.spec.clone(),
        sockets: of.sockets[sockets].to_vec(),
    }
}

/// Starts a retirement; what comes of it is received.
fn start(retirer: &Retirer, gone: &Held, stays: &Held) -> mpsc::Receiver<Summary> {
    let (sender, receiver) = mpsc::channel();
    let batch = leaving([gone], [stays]);
    let told = Box::new(move |summary| sender.send(summary).unwrap());
    retirer.retire(batch, Vec::new(), told);
    receiver
}

fn members(held: &Held) -> Vec<u32> {
    held.sockets.iter().map(|socket| socket.member).collect()
}

fn order(groups: &Groups, held: &Held) -> Option<Vec<u32>> {
    let orders = groups.hold();
    let order = orders.order(&Group::of(&held.spec, &held.sockets[0]));
    order.map(|order| order.members().to_vec())
}

fn listeners() -> usize {
    let mut looker = portcullis_listener::pending::Looker::open().unwrap();
    looker.listeners().unwrap().len()
}

#[test]
fn shards_of_one_group_leave_in_two_batches_one_after_the_other() {
    private_network(|| {
        let groups = Groups::default();
        let retirer = Retirer::start(groups.clone()).unwrap();
        let all = open(&web(4), &groups);
        let [a, b, c, d] = members(&all).try_into().unwrap();
        assert_eq!(order(&groups, &all), Some(vec![a, b, c, d]));
        let first = start(&retirer, &part(&all, 0..1), &part(&all, 1..4));
        let second = start(&retirer, &part(&all, 1..2), &part(&all, 2..4));
        for told in [first, second] {
            let summary = told.recv_timeout(PATIENCE).unwrap();
            let counts = (summary.closed, summary.cut, summary.unknown);
            assert_eq!(counts, (1, 0, 0), "{summary:?}");
            assert_eq!(summary.kept, Vec::<String>::new());
        }
        // The last one took the place of each that left.
        assert_eq!(order(&groups, &all), Some(vec![d, c]));
        assert_eq!(listeners(), 2);
    });
}

#[test]
fn who_wants_to_join_waits_for_those_who_leave_and_not_for_other_ports() {
    private_network(|| {
        let groups = Groups::default();
        let retirer = Retirer::start(groups.clone()).unwrap();
        let all = open(&web(2), &groups);
        let client = TcpStream::connect(("127.0.0.1", 80)).unwrap();
        let told = start(&retirer, &all, &Held::nothing(&web(1)));
        let wait = |port, within| {
            groups.wait_for_retired(&HashSet::from([(None, port)]), Instant::now() + within)
        };
        assert!(wait(81, Duration::ZERO));
        // Somebody waits to be accepted.
        assert!(!wait(80, Duration::from_millis(100)));
        for socket in &all.sockets {
            let listener = TcpListener::from(socket.fd.try_clone().unwrap());
            listener.set_nonblocking(true).unwrap();
            let _ = listener.accept();
        }
        assert!(wait(80, PATIENCE));
        told.recv_timeout(PATIENCE).unwrap();
        drop(client);
    });
}

#[test]
fn who_waits_in_the_queue_of_the_last_listener_is_accepted_before_it_closes() {
    private_network(|| {
        let groups = Groups::default();
        let retirer = Retirer::start(groups.clone()).unwrap();
        let all = open(&web(1), &groups);
        let clients: Vec<TcpStream> = (0..5)
            .map(|_| TcpStream::connect(("127.0.0.1", 80)).unwrap())
            .collect();
        let told = start(&retirer, &all, &Held::nothing(&web(1)));
        assert!(told.recv_timeout(Duration::from_millis(300)).is_err());
        let listener = TcpListener::from(all.sockets[0].fd.try_clone().unwrap());
        let accepted: Vec<_> = clients.iter().map(|_| listener.accept().unwrap()).collect();
        let summary = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!((summary.closed, summary.cut), (1, 0));
        assert!(
            summary
                .to_string()
                .starts_with("1 listening sockets retired in ")
        );
        assert_eq!(listeners(), 0);
        drop((clients, accepted));
    });
}

#[test]
fn a_socket_that_was_inherited_is_let_go_of_and_goes_on_for_who_else_has_it() {
    private_network(|| {
        let groups = Groups::default();
        let retirer = Retirer::start(groups.clone()).unwrap();
        let theirs = TcpListener::bind("127.0.0.1:80").unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&theirs);
        let ours = open(&ListenerSpec::inherited(number), &groups);
        assert_eq!(order(&groups, &ours), None);
        let told = start(&retirer, &ours, &Held::nothing(&web(1)));
        let summary = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!((summary.closed, summary.kept.len()), (1, 0));
        drop(ours);
        let client = TcpStream::connect(("127.0.0.1", 80)).unwrap();
        theirs.set_nonblocking(false).unwrap();
        theirs.accept().unwrap();
        drop(client);
    });
}

#[test]
fn the_order_is_lost_where_somebody_else_was_there_before_and_known_again_after_all_left() {
    private_network(|| {
        let groups = Groups::default();
        let retirer = Retirer::start(groups.clone()).unwrap();
        let stranger = portcullis_listener::open(&web(1)).unwrap();
        let all = open(&web(2), &groups);
        assert_eq!(order(&groups, &all), None);
        drop(stranger);
        // The kernel has put one of ours in its place: whoever believed in our order would be wrong.
        assert_eq!(order(&groups, &all), None);
        let told = start(&retirer, &all, &Held::nothing(&web(1)));
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().closed, 2);
        let all = open(&web(2), &groups);
        assert_eq!(order(&groups, &all), Some(members(&all)));
        // Somebody who comes later changes nothing of what we know, and is seen when it matters.
        let _stranger = portcullis_listener::open(&web(1)).unwrap();
        assert_eq!(order(&groups, &all), Some(members(&all)));
        let told = start(&retirer, &part(&all, 0..1), &part(&all, 1..2));
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().closed, 1);
    });
}

#[test]
fn a_hand_over_waits_for_shards_that_leave_and_not_for_a_whole_address() {
    private_network(|| {
        let groups = Groups::default();
        let retirer = Retirer::start(groups.clone()).unwrap();
        let all = open(&web(2), &groups);
        // The thread gets no further than this while the orders are held.
        let orders = groups.hold();
        let told = start(&retirer, &part(&all, 0..1), &part(&all, 1..2));
        assert!(retirer.steers());
        drop(orders);
        told.recv_timeout(PATIENCE).unwrap();
        assert!(!retirer.steers());
        let orders = groups.hold();
        let told = start(&retirer, &part(&all, 1..2), &part(&all, 0..0));
        assert!(!retirer.steers());
        drop(orders);
        told.recv_timeout(PATIENCE).unwrap();
    });
}

/// As another process of ours gives them, whose places are these.
fn handed_over(
    spec: &ListenerSpec,
    sockets: &[HeldSocket],
    places: &[Option<u32>],
) -> (Groups, Held) {
    use portcullis_listener::adopt::Options;
    use portcullis_listener::{Known, OpenContext, Pool, open_set};
    let pool = Pool::default();
    for (socket, place) in sockets.iter().zip(places) {
        let mut facts = socket.facts.clone();
        facts.in_order = place.is_some();
        facts.place = *place;
        let known = Known {
            spec: spec.clone(),
            facts,
            options: Options::AsSpecified,
        };
        pool.give(socket.fd.try_clone().unwrap(), Some(known))
            .unwrap();
    }
    let groups = Groups::default();
    let mut held = vec![Held::nothing(spec)];
    let mut orders = groups.hold();
    orders.begin([spec]);
    let mut context = OpenContext::default();
    context.pool = pool;
    let opened = open_set(std::slice::from_ref(spec), &context).unwrap();
    let placed = opened.listeners.into_iter().map(|one| (0, one));
    held::put(&mut held, placed.collect(), &mut orders);
    orders.opened();
    drop(orders);
    (groups, held.remove(0))
}

#[test]
fn sockets_that_are_handed_over_with_their_places_are_in_order_and_more_come_after_them() {
    private_network(|| {
        let before = Groups::default();
        let old = open(&web(3), &before);
        let [a, b, c] = [0, 1, 2].map(|at| old.sockets[at].clone());
        for (label, given, places, shards, expected) in [
            (
                "in order",
                [&a, &b, &c],
                [Some(0), Some(1), Some(2)],
                3,
                Some(vec![0, 1, 2]),
            ),
            (
                "mixed up",
                [&c, &a, &b],
                [Some(2), Some(0), Some(1)],
                3,
                Some(vec![1, 2, 0]),
            ),
            (
                "and more",
                [&c, &a, &b],
                [Some(2), Some(0), Some(1)],
                5,
                Some(vec![1, 2, 0, 3, 4]),
            ),
            ("not told", [&a, &b, &c], [None; 3], 3, None),
            (
                "one is not told",
                [&a, &b, &c],
                [Some(0), Some(1), None],
                3,
                None,
            ),
            (
                "one is missing",
                [&a, &b, &c],
                [Some(0), Some(1), Some(3)],
                3,
                None,
            ),
            (
                "twice the same",
                [&a, &b, &c],
                [Some(0), Some(1), Some(1)],
                3,
                None,
            ),
        ] {
            let sockets = given.map(Clone::clone);
            let (groups, new) = handed_over(&web(shards), &sockets, &places);
            assert_eq!(new.sockets.len(), usize::from(shards), "{label}");
            let members = members(&new);
            let place = |member| members.iter().position(|it| *it == member).unwrap();
            let found = order(&groups, &new);
            let found = found.map(|all| all.into_iter().map(place).collect::<Vec<_>>());
            assert_eq!(found, expected, "{label}");
        }
        // Of four, three were given: the last one to hold the fourth closes it whenever it likes.
        let four = open(&web(4), &Groups::default());
        drop((a, b, c, old));
        let places = [Some(0), Some(1), Some(2)];
        let (groups, new) = handed_over(&web(3), &four.sockets[..3], &places);
        assert_eq!(order(&groups, &new), None);
    });
}

#[test]
fn the_order_that_was_told_is_the_kernels() {
    use portcullis_listener::steer::{Choice, Order, Program};
    private_network(|| {
        let before = Groups::default();
        let old = open(&web(4), &before);
        let mixed = [2, 0, 3, 1].map(|at| old.sockets[at].clone());
        let (groups, new) = handed_over(&web(6), &mixed, &[2, 0, 3, 1].map(Some));
        drop((mixed, old));
        let order = Order::of(order(&groups, &new).unwrap());
        for socket in &new.sockets {
            let only = Program::new(&order, &[socket.member], &Choice::Even).unwrap();
            only.attach(&*socket.fd).unwrap();
            portcullis_listener::steer::settle().unwrap();
            let _client = TcpStream::connect("127.0.0.1:80").unwrap();
            let listener = TcpListener::from(socket.fd.try_clone().unwrap());
            listener.set_nonblocking(true).unwrap();
            listener.accept().expect("the one that the program names");
        }
    });
}
