//! Orders and programs against the kernel model's groups.
//!
//! Decides:  nothing.
//! Not here: programs on the live kernel (tests/steer.rs).

use portcullis_kernel_model::{
    Answer, Call, Family, Host, Kernel, NetId, Opt, ProcessId, SockAddr, SocketId, World,
};
use proptest::prelude::*;

use super::*;

/// Every subset of a group of up to eight, each member admitted as often as the others.
#[test]
fn a_program_gives_each_admitted_member_its_even_share_and_others_nothing() {
    for count in 1..=8u32 {
        let order = Order::of(0..count);
        for subset in 1..1u32 << count {
            let admitted: Vec<u32> = (0..count).filter(|bit| subset >> bit & 1 == 1).collect();
            let program = Program::new(&order, &admitted, &Choice::Even).unwrap();
            let mut got = vec![0; count as usize];
            for random in 0..admitted.len() as u32 * 5 {
                got[program.run(random, 0) as usize] += 1;
            }
            for member in 0..count {
                let fair = if admitted.contains(&member) { 5 } else { 0 };
                let exact = admitted.len() == 1 || got[member as usize] == fair;
                assert!(exact, "{count} {admitted:?} {got:?}");
            }
            assert!((0..99).all(|n| admitted.contains(&program.run(n, 0))));
        }
    }
}

#[test]
fn a_cpu_has_its_member_wherever_that_stands_in_the_group() {
    let mut order = Order::of([0, 1, 2, 3]);
    order.left(0); // 3 1 2
    let homes = Choice::ByCpu(vec![0, 1, 2, 3]);
    let program = Program::new(&order, &[1, 2, 3], &homes).unwrap();
    let member = |cpu| order.members()[program.run(7, cpu) as usize];
    assert_eq!([member(1), member(2), member(3)], [1, 2, 3]);
    assert_eq!([member(5), member(6), member(7)], [1, 2, 3]);
    let without_2 = Program::new(&order, &[1, 3], &homes).unwrap();
    let member = |cpu| order.members()[without_2.run(7, cpu) as usize];
    assert_eq!([member(1), member(3)], [1, 3]);
    assert!([1, 3].contains(&member(0)) && [1, 3].contains(&member(2)));
}

#[test]
fn a_program_is_short_where_few_are_admitted_or_few_are_not() {
    let order = Order::of(0..1000);
    let most: Vec<u32> = (0..1000).filter(|n| *n != 500).collect();
    let table: [(&str, Vec<u32>, usize); 4] = [
        ("one", vec![77], 1),
        ("two", vec![7, 900], 5),
        ("all but one", most, 5),
        ("all", (0..1000).collect(), 3),
    ];
    for (what, admitted, length) in table {
        let program = Program::new(&order, &admitted, &Choice::Even).unwrap();
        assert_eq!(program.instructions().len(), length, "{what}");
    }
}

#[test]
fn what_cannot_be_a_program_is_said() {
    let order = Order::of([1, 2]);
    let of = |admitted: &[u32]| Program::new(&order, admitted, &Choice::Even).unwrap_err();
    assert_eq!(of(&[]), NoProgram::NobodyAdmitted);
    assert_eq!(of(&[1, 9]), NoProgram::NotAMember(9));
    let crowd = Order::of(0..9000);
    let odd: Vec<u32> = (0..9000).filter(|n| n % 2 == 1).collect();
    let long = Program::new(&crowd, &odd, &Choice::Even).unwrap_err();
    assert_eq!(long, NoProgram::TooLong(9001));
}

const WEB: u16 = 443;

/// A group in the model, and the order that is kept beside it.
struct Beside {
    world: World,
    sockets: Vec<Option<SocketId>>,
    order: Order,
}

impl Beside {
    fn new(migrate: bool, members: usize) -> Beside {
        let mut host = Host::new(Kernel::V6_18);
        host.namespaces[0].sysctls.tcp_migrate_req = migrate;
        Beside {
            world: World::new(host),
            sockets: vec![None; members],
            order: Order::default(),
        }
    }

    /// Opens it where it is closed; else closes or shuts it down.
    fn toggle(&mut self, member: usize, shut: bool) {
        let address = SockAddr::new("127.0.0.1".parse().unwrap(), WEB);
        if let Some(socket) = self.sockets[member].take() {
            if shut {
                let answer = self.world.call(socket, Call::Shutdown(0));
                assert_eq!(answer, Answer::Ok);
            }
            assert_eq!(self.world.call(socket, Call::Close), Answer::Ok);
            assert!(self.order.left(member as u32));
            return;
        }
        let socket = self.world.socket(ProcessId(0), Family::Inet);
        let calls = [
            Call::Set(Opt::ReusePort(true)),
            Call::Bind(address),
            Call::Listen(8),
        ];
        for call in calls {
            assert_eq!(self.world.call(socket, call), Answer::Ok);
        }
        self.sockets[member] = Some(socket);
        assert!(self.order.joined(member as u32));
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let ip = "127.0.0.1".parse().unwrap();
        let expected = self.world.listeners_for(NetId(0), ip, WEB, 1);
        let kept = self.order.members().iter();
        let kept: Vec<_> = kept.filter_map(|&m| self.sockets[m as usize]).collect();
        prop_assert_eq!(kept, expected);
        Ok(())
    }
}

proptest! {
    /// Whatever opens, closes and is shut down, and whether connections migrate.
    #[test]
    fn the_order_is_that_of_the_models_group(
        migrate: bool,
        steps in prop::collection::vec((0usize..7, any::<bool>()), 1..80),
    ) {
        let mut beside = Beside::new(migrate, 7);
        for (member, shut) in steps {
            beside.toggle(member, shut);
            beside.compare()?;
        }
    }

    /// No program ever sends a connection to a member that is not admitted, or beyond the group.
    #[test]
    fn a_program_returns_admitted_members_alone(
        left in prop::collection::vec(0u32..40, 0..20),
        admitted in prop::collection::btree_set(0u32..40, 1..40),
        homes in prop::option::of(prop::collection::vec(0u32..50, 0..70)),
        packets in prop::collection::vec(any::<(u32, u16)>(), 50),
    ) {
        let mut order = Order::of(0..40);
        for member in left {
            order.left(member);
        }
        let here: Vec<u32> = admitted.into_iter().filter(|&m| order.index_of(m).is_some()).collect();
        prop_assume!(!here.is_empty());
        let choice = homes.map_or(Choice::Even, Choice::ByCpu);
        let program = Program::new(&order, &here, &choice).unwrap();
        for (random, cpu) in packets {
            let index = program.run(random, u32::from(cpu)) as usize;
            let member = order.members().get(index);
            prop_assert!(member.is_some_and(|member| here.contains(member)));
        }
    }
}
