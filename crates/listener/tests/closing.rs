//! A member that closes is given SYNs that no program gives it: the moment itself, many times over.
//!
//! Decides:  nothing.
//! Kernel:   the live one: net/ipv4/inet_hashtables.c, inet_unhash(), inet_lhash2_lookup();
//!           net/core/sock_reuseport.c, reuseport_detach_sock(), reuseport_select_sock();
//!           net/ipv4/tcp.c, tcp_set_state().
//! Not here: retirements (retire.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod load;

use std::sync::Arc;
use std::time::{Duration, Instant};

use load::{Habits, Load, Servers, Tally, WEB, one, spec};
use portcullis_listener::pause;
use portcullis_listener::steer::{Choice, Order, Program};
use portcullis_testkit::{forgo_net_admin, private_network};

/// One member stays, and a program gives it everything. Others join and close at once, so that nothing ever
/// waits in their queues: whatever is lost is lost by the moment of the close.
fn join_and_close(within: Duration, sealed: bool) -> (u32, Arc<Tally>) {
    let servers = Servers::start(1);
    let spec = spec(WEB);
    let stays = one(&spec);
    let program = Program::new(&Order::of([0]), &[0], &Choice::Even).unwrap();
    program.attach(&stays).unwrap();
    servers.add(0, stays);
    let load = Load::start(
        WEB.parse().unwrap(),
        Habits {
            clients: 16,
            ..Habits::default()
        },
    );
    load.more(50);
    let (began, mut closes) = (Instant::now(), 0);
    while began.elapsed() < within {
        let joins = one(&spec);
        if sealed {
            pause::seal(&joins).unwrap();
        }
        drop(joins);
        closes += 1;
    }
    let tally = load.finish();
    servers.finish();
    (closes, tally)
}

/// Not in CI, for its length: `cargo xtask long close_resets`.
#[test]
#[ignore = "a minute, and it is rare"]
fn a_close_resets_a_client_that_the_program_gave_to_another_member() {
    private_network(|| {
        let (closes, tally) = join_and_close(Duration::from_secs(60), false);
        eprintln!("{closes} closes: {tally:?}");
        assert!(tally.lost() > 0);
    });
}

fn seal_and_close() {
    let within = std::env::var("SECONDS_OF_CLOSING").ok();
    let within = within.and_then(|text| text.parse().ok()).unwrap_or(2);
    let (closes, tally) = join_and_close(Duration::from_secs(within), true);
    eprintln!("{closes} closes: {tally:?}");
    assert!(closes > 100);
    assert_eq!(tally.lost(), 0, "{tally:?}");
}

#[test]
fn a_sealed_member_closes_and_no_client_is_lost() {
    private_network(seal_and_close);
}

#[test]
fn a_member_that_an_ordinary_user_sealed_closes_and_no_client_is_lost() {
    private_network(|| {
        forgo_net_admin();
        seal_and_close();
    });
}
