//! The examples, run.
//!
//! Decides:  what each of them must find out.
//! Not here: the short ones on the crate's front page, which are tests themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

#[path = "../examples/eight_shards.rs"]
mod eight_shards;
#[path = "../examples/simulator.rs"]
mod simulator;
#[path = "../examples/three_services.rs"]
mod three_services;

#[test]
fn the_third_service_is_refused_and_the_first_way_out_is_v6only() {
    let report = three_services::report();
    assert_eq!(report[0], "vpn listens on 192.0.2.7, port 443");
    assert_eq!(report[1], "api listens on 127.0.0.1, port 443");
    assert_eq!(
        report[2],
        "web cannot have ::, port 443: EADDRINUSE because of api (reuseaddr-beside-listener)"
    );
    assert_eq!(report[3], "    it could, if you set IPV6_V6ONLY first");
    assert!(report.len() > 5, "{report:?}");
}

/// 8,000 connections over 8 shards: the standard deviation of each is √(8000 · 1/8 · 7/8) ≈ 30.
#[test]
fn eight_shards_are_loaded_evenly_within_the_limits_of_chance() {
    for seed in 1..=4 {
        let load = eight_shards::load(8, 8_000, seed);
        assert_eq!(load.iter().sum::<usize>(), 8_000);
        for connections in load {
            assert!((850..=1150).contains(&connections), "{connections}");
        }
    }
    assert_ne!(
        eight_shards::load(8, 100, 1),
        eight_shards::load(8, 100, 2),
        "another seed, other draws"
    );
}

#[test]
fn a_server_without_reuseaddr_waits_for_the_end_of_its_last_time_wait() {
    let told = simulator::simulate(1);
    let of = |name| told.iter().find(|entry| entry.0 == name).unwrap().1;
    let (careful, careless) = (of("careful"), of("careless"));
    assert_eq!(careful.down_ms, 0);
    assert_eq!(careful.refused, 0);
    // Its last client came 250 ms before the end; TIME_WAIT lasts a minute; it tries each second.
    assert_eq!(careless.down_ms, 60_000);
    assert_eq!(careless.refused, 120);
    assert_eq!(careful.served, careless.served + careless.refused);
    assert_eq!(told, simulator::simulate(1), "the same seed, the same run");
}
