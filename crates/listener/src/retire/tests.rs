//! Retirements in the kernel model, with clients between all steps; and step by step.
//!
//! Decides:  nothing.
//! Not here: retirements on the live kernel (tests/retire.rs).

use portcullis_kernel_model::{
    Answer, Call, Errno, Family, Host, Kernel, Opt, ProcessId, Program as Index, SockAddr,
    SocketId, State as TcpState, World,
};
use proptest::prelude::*;

use super::*;

const WEB: u16 = 443;
/// More than the longest run: a bound that did not work would be noticed.
const STEPS: usize = 2000;

/// A group of the model, clients, and who serves them.
struct Site {
    world: World,
    sockets: Vec<SocketId>,
    program: Option<Program>,
    clients: Vec<SocketId>,
    /// Those whose handshake is not over for the listener.
    half: Vec<SocketId>,
    accepted: usize,
    random: u32,
}

fn to_web() -> SockAddr {
    SockAddr::new("127.0.0.1".parse().unwrap(), WEB)
}

impl Site {
    fn new(members: u32, migrate: bool, seed: u32) -> Site {
        let mut host = Host::new(Kernel::V6_18);
        host.namespaces[0].sysctls.tcp_migrate_req = migrate;
        let mut world = World::new(host);
        let open = |_| {
            let socket = world.socket(ProcessId(0), Family::Inet);
            let options = [Opt::ReusePort(true), Opt::DeferAccept(30)];
            let calls = options.map(Call::Set).into_iter();
            for call in calls.chain([
                Call::Bind(to_web()),
                Call::SetNonblocking(true),
                Call::Listen(512),
            ]) {
                assert_eq!(world.call(socket, call), Answer::Ok);
            }
            socket
        };
        let sockets = (0..members).map(open).collect();
        Site {
            world,
            sockets,
            program: None,
            clients: Vec::new(),
            half: Vec::new(),
            accepted: 0,
            random: seed,
        }
    }

    fn draw(&mut self) -> u32 {
        // Numerical Recipes' generator; its upper half.
        self.random = self
            .random
            .wrapping_mul(1_664_525)
            .wrapping_add(1_013_904_223);
        self.random >> 16
    }

    fn attach(&mut self, by: SocketId) {
        let random = self.draw();
        let option = match &self.program {
            // What the program says of this packet is all that the kernel hears of it.
            Some(program) => Opt::ReuseportCbpf(Index::Index(program.run(random, random % 3))),
            None => Opt::DetachReuseport,
        };
        let answer = self.world.call(by, Call::Set(option));
        assert!([Answer::Ok, Answer::Err(Errno::ENOENT)].contains(&answer));
    }

    /// A client comes; perhaps it speaks at once, perhaps later, perhaps another one speaks.
    fn visit(&mut self, by: SocketId) {
        self.attach(by);
        let client = self.world.socket(ProcessId(0), Family::Inet);
        let answer = self.world.call(client, Call::Connect(to_web()));
        assert_eq!(answer, Answer::Ok);
        self.clients.push(client);
        self.half.push(client);
        for _ in 0..self.draw() % 3 {
            self.speak();
        }
    }

    fn speak(&mut self) {
        if self.half.is_empty() {
            return;
        }
        let at = self.draw() as usize % self.half.len();
        let client = self.half.swap_remove(at);
        assert_eq!(self.world.call(client, Call::Shutdown(1)), Answer::Ok);
    }

    fn drain(&mut self, socket: SocketId) {
        while let Answer::Accepted(_) = self.world.call(socket, Call::Accept) {
            self.accepted += 1;
        }
    }

    fn pending(&self, socket: SocketId) -> u32 {
        (self.world.half_open_len(socket) + self.world.queue_len(socket)) as u32
    }

    /// Does what the machine asks for, and has clients come before and after each step.
    fn run(&mut self, machine: &mut Retirement, stays: SocketId) {
        let now = Instant::now();
        for _ in 0..STEPS {
            self.visit(stays);
            let action = machine.next();
            let event = match action {
                Action::Attach(program) => {
                    self.program = Some(program);
                    Event::Done
                }
                Action::Detach => {
                    self.program = None;
                    Event::Done
                }
                Action::EndDeferring(_) | Action::Seal(_) => Event::Done,
                Action::Settle => Event::Settled {
                    strangers: false,
                    cookies: false,
                },
                Action::AcceptUntilEmpty(member) => {
                    self.drain(self.sockets[member as usize]);
                    Event::Emptied
                }
                Action::WaitHalfOpen { member, .. } => {
                    let socket = self.sockets[member as usize];
                    self.speak();
                    self.speak();
                    self.drain(socket);
                    Event::Pending(Some(self.pending(socket)))
                }
                Action::Close(member) => {
                    let socket = self.sockets[member as usize];
                    let answer = self.world.call(socket, Call::Close);
                    assert_eq!(answer, Answer::Ok);
                    self.visit(stays); // The old program, the new order.
                    Event::Closed { cut: Some(0) }
                }
                Action::Finish => return,
                other => panic!("{other:?}"),
            };
            machine.took(event, now).unwrap();
        }
        panic!("no end");
    }
}

fn plan(order: &Order, leaving: &[u32], choice: Choice, migrates: bool) -> Plan {
    Plan {
        way: Way::Program {
            order: order.clone(),
            choice,
        },
        leaving: leaving.to_vec(),
        migrates,
        bounds: Bounds::default(),
    }
}

proptest! {
    /// Clients that come at any moment of the retirement of any members are all served in the end.
    #[test]
    fn whoever_leaves_every_client_is_served(
        members in 2u32..7,
        leaving in prop::collection::btree_set(0u32..7, 1..6),
        migrate: bool,
        by_cpu: bool,
        seed: u32,
    ) {
        let leaving: Vec<u32> = leaving.into_iter().filter(|m| *m < members).collect();
        prop_assume!(!leaving.is_empty() && leaving.len() < members as usize);
        let stays = (0..members).find(|m| !leaving.contains(m)).unwrap();
        let mut site = Site::new(members, migrate, seed);
        let choice = if by_cpu { Choice::ByCpu(vec![0, 1, 2]) } else { Choice::Even };
        let order = Order::of(0..members);
        let mut machine = Retirement::new(plan(&order, &leaving, choice, migrate)).unwrap();
        let by = site.sockets[stays as usize];
        site.run(&mut machine, by);
        let outcome = machine.outcome().unwrap();
        let gone: BTreeSet<u32> = outcome.closed.iter().map(|c| c.member).collect();
        prop_assert_eq!(gone, leaving.iter().copied().collect());
        let order = outcome.order.clone().unwrap();
        prop_assert_eq!(order.members().len(), members as usize - leaving.len());
        while !site.half.is_empty() {
            site.speak();
        }
        for &member in order.members() {
            site.drain(site.sockets[member as usize]);
        }
        prop_assert_eq!(site.accepted, site.clients.len());
        for client in &site.clients {
            prop_assert_eq!(site.world.state(*client), Some(TcpState::FinWait2));
        }
    }
}

/// The same, closing without the machine: else the test above would show nothing.
#[test]
fn a_plain_close_loses_clients_in_the_model_too() {
    let mut site = Site::new(3, false, 7);
    let by = site.sockets[0];
    for _ in 0..40 {
        site.visit(by);
    }
    for member in [1, 2] {
        let socket = site.sockets[member];
        assert_eq!(site.world.call(socket, Call::Close), Answer::Ok);
    }
    while !site.half.is_empty() {
        site.speak();
    }
    site.drain(by);
    assert!(
        site.accepted < site.clients.len(),
        "{} of {}",
        site.accepted,
        site.clients.len()
    );
}

/// Answers every action well, but those that `answer` answers; the names of the actions.
fn transcript(
    machine: &mut Retirement,
    mut answer: impl FnMut(&Action) -> Option<Event>,
) -> Vec<String> {
    let mut now = Instant::now();
    let mut said = Vec::new();
    for _ in 0..STEPS {
        let action = machine.next();
        let name = match &action {
            Action::Attach(program) => {
                let all: BTreeSet<u32> = (0..999).map(|n| program.run(n, n)).collect();
                format!("attach {all:?}")
            }
            Action::WaitHalfOpen { member, .. } => format!("half-open {member}"),
            Action::Wait { .. } => "wait".to_owned(),
            Action::Finish => return said,
            other => format!("{other:?}"),
        };
        said.push(name);
        let good = match &action {
            Action::Settle => Event::Settled {
                strangers: false,
                cookies: false,
            },
            Action::AcceptUntilEmpty(_) => Event::Emptied,
            Action::WaitHalfOpen { .. } => Event::Pending(Some(0)),
            Action::Close(_) => Event::Closed { cut: Some(0) },
            Action::Wait { until } => {
                now = *until;
                Event::Done
            }
            _ => Event::Done,
        };
        let event = answer(&action).unwrap_or(good);
        machine.took(event, now).unwrap();
        now += Duration::from_secs(1);
    }
    panic!("no end: {said:?}");
}

fn of_three(leaving: &[u32]) -> Retirement {
    let order = Order::of([0, 1, 2]);
    Retirement::new(plan(&order, leaving, Choice::Even, false)).unwrap()
}

const ALL_BUT_ONE: [&str; 17] = [
    "attach {1}",
    "EndDeferring(2)",
    "EndDeferring(0)",
    "Settle",
    "AcceptUntilEmpty(2)",
    "half-open 2",
    "Seal(2)",
    "AcceptUntilEmpty(2)",
    "Close(2)",
    "attach {1}",
    "Settle",
    "AcceptUntilEmpty(0)",
    "half-open 0",
    "Seal(0)",
    "AcceptUntilEmpty(0)",
    "Close(0)",
    "Detach",
];

#[test]
fn members_leave_one_by_one_the_last_of_the_order_first() {
    let mut machine = of_three(&[0, 2]);
    assert_eq!(transcript(&mut machine, |_| None), ALL_BUT_ONE);
    let outcome = machine.outcome().unwrap();
    assert_eq!(outcome.order.as_ref().unwrap().members(), [1]);
    assert!(!outcome.by_filter && outcome.kept.is_empty());
}

#[test]
fn a_member_that_cannot_be_sealed_is_closed_and_one_that_was_is_opened_by_cancelling() {
    let mut machine = of_three(&[2]);
    let said = transcript(&mut machine, |action| {
        matches!(action, Action::Seal(_)).then_some(Event::Failed)
    });
    assert_eq!(said.last().unwrap(), "Detach");
    assert_eq!(machine.outcome().unwrap().closed.len(), 1);

    let mut machine = of_three(&[2]);
    let now = Instant::now();
    while !matches!(machine.next(), Action::Close(_)) {
        let event = match machine.next() {
            Action::Settle => Event::Settled {
                strangers: false,
                cookies: false,
            },
            Action::AcceptUntilEmpty(_) => Event::Emptied,
            Action::WaitHalfOpen { .. } => Event::Pending(Some(0)),
            _ => Event::Done,
        };
        machine.took(event, now).unwrap();
    }
    machine.cancel();
    assert_eq!(machine.next(), Action::AdmitSyns(2));
}

#[test]
fn after_the_hole_is_filled_the_program_is_for_the_new_order() {
    let mut machine = of_three(&[0]);
    let said = transcript(&mut machine, |_| None);
    assert_eq!(said[0], "attach {1, 2}");
    // 2 has moved to 0, where by CPU it must be found.
    let order = Order::of([0, 1, 2]);
    let by_cpu = plan(&order, &[0], Choice::ByCpu(vec![0, 1, 2]), false);
    let mut machine = Retirement::new(by_cpu).unwrap();
    let said = transcript(&mut machine, |_| None);
    assert_eq!(said.last().unwrap(), "attach {0, 1}");
    let order = machine.outcome().unwrap().order.clone().unwrap();
    assert_eq!(order.members(), [2, 1]);
}

#[test]
fn where_connections_migrate_half_open_ones_are_not_waited_for() {
    let order = Order::of([0, 1, 2]);
    let mut machine = Retirement::new(plan(&order, &[2], Choice::Even, true)).unwrap();
    let said = transcript(&mut machine, |_| None);
    assert!(
        !said.iter().any(|name| name.contains("half-open")),
        "{said:?}"
    );
}

#[test]
fn a_refused_program_or_a_stranger_in_the_group_leads_to_filters() {
    let expected = [
        "Detach",
        "DropSyns(2)",
        "EndDeferring(2)",
        "Settle",
        "AcceptUntilEmpty(2)",
        "half-open 2",
        "AcceptUntilEmpty(2)",
        "Close(2)",
    ];
    let mut machine = of_three(&[2]);
    let said = transcript(&mut machine, |action| {
        matches!(action, Action::Attach(_)).then_some(Event::Failed)
    });
    assert_eq!(said[1..], expected);
    assert!(machine.outcome().unwrap().by_filter);
    assert_eq!(machine.outcome().unwrap().order, None);

    let mut machine = of_three(&[2]);
    let mut looks = 0;
    let said = transcript(&mut machine, |action| {
        looks += usize::from(*action == Action::Settle);
        (*action == Action::Settle).then_some(Event::Settled {
            strangers: looks == 1,
            cookies: false,
        })
    });
    let mut expected = expected.to_vec();
    expected.remove(2); // It was done before.
    assert_eq!(said[3..], expected);
}

#[test]
fn who_cannot_be_filtered_is_kept() {
    let order = Order::of([0, 1]);
    let mut machine = Retirement::new(plan(&order, &[0, 1], Choice::Even, false)).unwrap();
    let said = transcript(&mut machine, |action| {
        (*action == Action::DropSyns(0)).then_some(Event::Failed)
    });
    assert!(said.contains(&"Close(1)".to_owned()) && !said.contains(&"Close(0)".to_owned()));
    let outcome = machine.outcome().unwrap();
    assert_eq!(outcome.kept, [0]);
    assert_eq!(
        outcome.closed,
        [Closed {
            member: 1,
            cut: Some(0)
        }]
    );
}

#[test]
fn the_last_of_an_address_waits_for_cookies_once() {
    let alone = Plan {
        way: Way::Filter {
            somebody_stays: false,
        },
        leaving: vec![0, 1],
        migrates: true, // There is nobody to migrate to in the end.
        bounds: Bounds::default(),
    };
    let mut machine = Retirement::new(alone).unwrap();
    let said = transcript(&mut machine, |action| {
        (*action == Action::Settle).then_some(Event::Settled {
            strangers: false,
            cookies: true,
        })
    });
    let expected = [
        "DropSyns(0)",
        "DropSyns(1)",
        "EndDeferring(0)",
        "EndDeferring(1)",
        "Settle",
        "AcceptUntilEmpty(0)",
        "half-open 0",
        "wait",
        "AcceptUntilEmpty(0)",
        "Close(0)",
        "AcceptUntilEmpty(1)",
        "half-open 1",
        "AcceptUntilEmpty(1)",
        "Close(1)",
    ];
    assert_eq!(said, expected);
}

#[test]
fn unix_sockets_are_shut_and_emptied() {
    let unix = Plan {
        way: Way::Shutdown,
        leaving: vec![0],
        migrates: false,
        bounds: Bounds::default(),
    };
    let mut machine = Retirement::new(unix).unwrap();
    let said = transcript(&mut machine, |_| None);
    let expected = [
        "Shut(0)",
        "AcceptUntilEmpty(0)",
        "AcceptUntilEmpty(0)",
        "Close(0)",
    ];
    assert_eq!(said, expected);
}

#[test]
fn half_open_connections_are_waited_for_until_the_bound_and_counted() {
    let mut machine = of_three(&[1]);
    let said = transcript(&mut machine, |action| match action {
        Action::WaitHalfOpen { .. } => Some(Event::Pending(Some(3))),
        Action::Close(_) => Some(Event::Closed { cut: Some(3) }),
        _ => None,
    });
    let looks = said.iter().filter(|name| *name == "half-open 1").count();
    // A second between two looks.
    assert_eq!(looks as u64, Bounds::default().half_open.as_secs());
    let outcome = machine.outcome().unwrap();
    assert_eq!(
        outcome.closed,
        [Closed {
            member: 1,
            cut: Some(3)
        }]
    );
}

#[test]
fn what_came_into_the_queue_at_the_last_moment_is_accepted_first() {
    let mut machine = of_three(&[1]);
    let mut closes = 0;
    let said = transcript(&mut machine, |action| {
        closes += usize::from(*action == Action::Close(1));
        (*action == Action::Close(1) && closes < 3).then_some(Event::Refilled)
    });
    let end = [
        "Close(1)",
        "AcceptUntilEmpty(1)",
        "Close(1)",
        "AcceptUntilEmpty(1)",
        "Close(1)",
        "Detach",
    ];
    assert_eq!(said[said.len() - 6..], end);
}

/// Whatever was done is undone for those that are open, from every step on.
#[test]
fn cancelling_at_any_step_leaves_the_rest_open_as_before() {
    for steps in 0..ALL_BUT_ONE.len() {
        let mut machine = of_three(&[0, 2]);
        let mut left = steps;
        let mut changed = BTreeSet::new();
        let mut closed = BTreeSet::new();
        loop {
            if left == 0 {
                machine.cancel();
            }
            left = left.wrapping_sub(1);
            let action = machine.next();
            let event = match &action {
                Action::Finish => break,
                Action::EndDeferring(member) => {
                    changed.insert(*member);
                    Event::Done
                }
                Action::Defer(member) => {
                    assert!(changed.remove(member));
                    Event::Done
                }
                Action::Settle => Event::Settled {
                    strangers: false,
                    cookies: false,
                },
                Action::AcceptUntilEmpty(_) => Event::Emptied,
                Action::WaitHalfOpen { .. } => Event::Pending(Some(0)),
                Action::Close(member) => {
                    closed.insert(*member);
                    changed.remove(member);
                    Event::Closed { cut: Some(0) }
                }
                _ => Event::Done,
            };
            machine.took(event, Instant::now()).unwrap();
        }
        assert!(changed.is_empty(), "after {steps}: {changed:?}");
        let outcome = machine.outcome().unwrap();
        let kept: BTreeSet<u32> = outcome.kept.iter().copied().collect();
        let all: BTreeSet<u32> = closed.union(&kept).copied().collect();
        assert_eq!(all, BTreeSet::from([0, 2]), "after {steps}");
        assert_eq!(
            outcome.order.as_ref().unwrap().members().len(),
            3 - closed.len()
        );
    }
}

#[test]
fn an_event_that_answers_nothing_changes_nothing() {
    let mut machine = of_three(&[1]);
    let before = machine.next();
    for event in [
        Event::Emptied,
        Event::Pending(Some(0)),
        Event::Closed { cut: None },
        Event::Refilled,
    ] {
        assert_eq!(machine.took(event, Instant::now()), Err(Unexpected));
        assert_eq!(machine.next(), before);
    }
}
