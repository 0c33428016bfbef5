//! How fast the model is, beside the kernel itself.
//!
//! Decides:  that a round of socket, bind, listen and close on the model takes at most a tenth of the
//!           time that the same core needs for the system calls, and that crowds stay usable.
//! Not here: correctness. `cargo test --release -p portcullis-kernel-model --test speed -- --nocapture`
//!
//! Without optimisation the numbers mean nothing: the test then only runs the rounds.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod live;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use live::Live;
use live::both::fresh_world;
use portcullis_kernel_model::{Answer, Call, Family, Opt, ProcessId, SockAddr};
use portcullis_testkit::{private_network, set_sysctl};

const ROUNDS: u32 = 100_000;

fn loopback(port: u16) -> Call {
    Call::Bind(SockAddr::new(IpAddr::from([127, 0, 0, 1]), port))
}

fn time(what: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    what();
    begin.elapsed()
}

#[test]
fn a_round_of_bind_listen_close_is_ten_times_faster_than_the_kernel() {
    private_network(|| {
        let calls = [loopback(10_000), Call::Listen(5), Call::Close];
        let kernel = time(|| {
            for _ in 0..ROUNDS / 10 {
                let mut live = Live::default();
                live.socket(Family::Inet);
                for call in calls {
                    assert_eq!(live.call(0, call), Answer::Ok);
                }
            }
        }) / (ROUNDS / 10);
        let mut world = fresh_world(|_| {});
        let model = time(|| {
            for _ in 0..ROUNDS {
                let socket = world.socket(ProcessId(0), Family::Inet);
                for call in calls {
                    assert_eq!(world.call(socket, call), Answer::Ok);
                }
            }
        }) / ROUNDS;
        println!("round: model {model:?}, kernel {kernel:?}");
        if !cfg!(debug_assertions) {
            assert!(model * 10 <= kernel, "model {model:?}, kernel {kernel:?}");
        }
    });
}

#[test]
fn ten_thousand_sockets_on_one_port_stay_usable() {
    private_network(|| {
        let share = Call::Set(Opt::ReusePort(true));
        let mut live = Live::default();
        let crowd = crowd_size();
        let kernel = time(|| {
            for number in 0..crowd {
                live.socket(Family::Inet);
                live.call(number, share);
                assert_eq!(live.call(number, loopback(10_000)), Answer::Ok);
                assert_eq!(live.call(number, Call::Listen(5)), Answer::Ok);
            }
        });
        let mut world = fresh_world(|_| {});
        let mut sockets = Vec::new();
        let model = time(|| {
            for _ in 0..10_000 {
                let socket = world.socket(ProcessId(0), Family::Inet);
                sockets.push(socket);
                world.call(socket, share);
                assert_eq!(world.call(socket, loopback(10_000)), Answer::Ok);
                assert_eq!(world.call(socket, Call::Listen(5)), Answer::Ok);
            }
        });
        let closing = time(|| {
            for &socket in &sockets {
                world.call(socket, Call::Close);
            }
        });
        println!(
            "one port: model 10000 in {model:?} (closing {closing:?}), kernel {crowd} in {kernel:?}"
        );
        assert!(model + closing < Duration::from_secs(20));
    });
}

#[test]
fn all_ports_in_use_stay_usable() {
    private_network(|| {
        set_sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        let mut world = fresh_world(|host| {
            host.namespaces[0].sysctls.ip_local_port_range = (1024, 65_535);
        });
        let model = time(|| {
            for port in 1..=65_535 {
                let socket = world.socket(ProcessId(0), Family::Inet);
                assert_eq!(world.call(socket, loopback(port)), Answer::Ok);
            }
        });
        let last = world.socket(ProcessId(0), Family::Inet);
        let search = time(|| {
            assert!(world.call(last, loopback(0)).error().is_some());
        });
        let mut live = Live::default();
        let crowd = crowd_size();
        let kernel = time(|| {
            for number in 0..crowd {
                live.socket(Family::Inet);
                assert_eq!(
                    live.call(number, loopback(1024 + number as u16)),
                    Answer::Ok
                );
            }
        });
        println!(
            "all ports: model 65535 in {model:?}, a vain search {search:?}; kernel {crowd} in {kernel:?}"
        );
        assert!(model < Duration::from_secs(20));
    });
}

/// As many sockets as the limit on descriptors lets a test have.
fn crowd_size() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(10_000, |limit| {
        (limit as usize).saturating_sub(50).min(10_000)
    })
}
