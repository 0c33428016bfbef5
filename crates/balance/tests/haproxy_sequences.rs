//! Do servers take their turns exactly as in HAProxy?
//!
//! Decides:  every row of the case file is played on a group, and must give the same servers.
//! Source:   cases/haproxy-2.6.12.txt, recorded by running HAProxy 2.6.12 with one thread.
//! Not here: `balance random`, which has no sequence.

#![allow(clippy::unwrap_used)]

use portcullis_balance::{Algorithm, AllBackups, Group, Member, MemberId, Tier};

const CASES: &str = include_str!("../cases/haproxy-2.6.12.txt");

fn group_of(algorithm: &str, servers: &str) -> Group {
    let mut words = algorithm.split_whitespace();
    let algorithm = match words.next() {
        Some("roundrobin") => Algorithm::RoundRobin,
        Some("static-rr") => Algorithm::StaticRoundRobin,
        Some("leastconn") => Algorithm::LeastConn,
        other => panic!("no algorithm {other:?}"),
    };
    let all_backups = match words.next() {
        Some("allbackups") => AllBackups::Yes,
        _ => AllBackups::No,
    };
    let members: Vec<Member> = servers
        .split_whitespace()
        .enumerate()
        .map(|(at, word)| Member {
            name: format!("s{at}"),
            weight: word.trim_end_matches('b').parse().unwrap(),
            tier: match word.ends_with('b') {
                true => Tier::Backup,
                false => Tier::Active,
            },
            usable: true,
        })
        .collect();
    Group::new(algorithm, all_backups, &members)
}

/// Plays `s*3 o*2 close:0 maint:1 ready:1 weight:1:8` and returns who was chosen, a digit each.
fn play(group: &Group, operations: &str) -> String {
    let mut chosen = String::new();
    let mut held = Vec::new();
    for operation in operations.split_whitespace() {
        let (verb, rest) = operation.split_once([':', '*']).unwrap();
        let numbers: Vec<u32> = rest.split(':').map(|n| n.parse().unwrap()).collect();
        let member = MemberId(numbers[0]);
        match verb {
            "s" | "o" => {
                for _ in 0..numbers[0] {
                    let id = group.choose(0, None).unwrap();
                    chosen.push(char::from_digit(id.0, 16).unwrap());
                    match verb {
                        "s" => drop(group.release(id)),
                        _ => held.push(id),
                    }
                }
            }
            "close" => drop(group.release(held[numbers[0] as usize])),
            "maint" => group.set_usable(member, false),
            "ready" => group.set_usable(member, true),
            "weight" => group.set_weight(member, u16::try_from(numbers[1]).unwrap()),
            _ => panic!("no operation {verb}"),
        }
    }
    chosen
}

#[test]
fn turns_are_those_recorded_from_haproxy() {
    let mut wrong = Vec::new();
    let mut rows = 0;
    for row in CASES.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let [algorithm, servers, operations, expected] = columns[..] else {
            panic!("a row has four columns: {row}");
        };
        let chosen = play(&group_of(algorithm, servers), operations);
        rows += 1;
        if chosen != expected {
            wrong.push(format!(
                "{algorithm} | {servers} | {operations}\n  haproxy {expected}\n  ours    {chosen}"
            ));
        }
    }
    assert!(rows > 50, "only {rows} rows were read");
    assert!(
        wrong.is_empty(),
        "{} rows:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
