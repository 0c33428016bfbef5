//! Every small script of bind, listen and close, on the model and on the live kernel.
//!
//! Decides:  the alphabet: all sharing options, all kinds of address, all ends.
//! Not here: longer scripts (random.rs).

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod live;

use std::net::IpAddr;

use live::both::{Step, Tally, fresh_world, run};
use portcullis_kernel_model::{Call, Family, Opt, SockAddr};
use portcullis_testkit::private_network;

const PORT: u16 = 10_000;

/// (label, family, address, whether IPV6_V6ONLY is set)
const ADDRESSES: [(Family, &str, bool); 6] = [
    (Family::Inet, "0.0.0.0", false),
    (Family::Inet, "127.0.0.1", false),
    (Family::Inet6, "::", false),
    (Family::Inet6, "::1", false),
    (Family::Inet6, "::ffff:127.0.0.1", false),
    (Family::Inet6, "::", true),
];

#[derive(Clone, Copy, PartialEq)]
enum End {
    Bound,
    Listens,
    Closes,
}

/// The steps of one socket: its options, bind, and its end.
fn life(number: usize, kind: usize) -> Vec<Step> {
    let (family, ip, v6only) = ADDRESSES[kind % 6];
    let options = kind / 6 % 4;
    let end = [End::Bound, End::Listens, End::Closes][kind / 24];
    let ip: IpAddr = ip.parse().unwrap();
    let mut steps = vec![Step::New(family)];
    let mut on = |call| steps.push(Step::On(number, call));
    if options & 1 != 0 {
        on(Call::Set(Opt::ReuseAddr(true)));
    }
    if options & 2 != 0 {
        on(Call::Set(Opt::ReusePort(true)));
    }
    if v6only {
        on(Call::Set(Opt::V6Only(true)));
    }
    on(Call::Bind(SockAddr::new(ip, PORT)));
    match end {
        End::Bound => {}
        End::Listens => on(Call::Listen(5)),
        End::Closes => on(Call::Close),
    }
    steps
}

const KINDS: usize = 72;

fn compare(kinds: &[usize], tally: &mut Tally) {
    let script: Vec<Step> = kinds
        .iter()
        .enumerate()
        .flat_map(|(number, &kind)| life(number, kind))
        .collect();
    if let Err(difference) = run(&script, fresh_world(|_| {}), tally) {
        panic!("{script:#?}\n{difference:#?}");
    }
}

#[test]
fn all_pairs_of_sockets_agree_with_the_kernel() {
    private_network(|| {
        let mut tally = Tally::default();
        for first in 0..KINDS {
            for second in 0..KINDS {
                compare(&[first, second], &mut tally);
            }
        }
        assert_eq!(tally.scripts, 5184);
        println!("scripts={} steps={}", tally.scripts, tally.steps);
    });
}

#[test]
fn all_triples_of_sockets_agree_with_the_kernel() {
    private_network(|| {
        let mut tally = Tally::default();
        for first in 0..KINDS {
            for second in 0..KINDS {
                for third in 0..48 {
                    compare(&[first, second, third], &mut tally);
                }
            }
        }
        println!("scripts={} steps={}", tally.scripts, tally.steps);
    });
}
