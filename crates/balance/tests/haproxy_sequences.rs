//! Do servers take their turns exactly as in HAProxy?
//!
//! Decides:  every row of the case files is played on a group, and must give the same servers.
//! Source:   cases/haproxy-2.6.12.txt, recorded by running HAProxy 2.6.12 with one thread;
//!           cases/haproxy-3.5-dev5.txt, by running 3.5-dev5, for what 2.6 does not have.
//! Not here: `balance random`, which has no sequence.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use portcullis_balance::{
    AddressHash, Affinity, Algorithm, AllBackups, Group, HashFunction, HashInput, HashTable,
    Limits, Member, MemberId, Tier,
};

const CASES: [&str; 2] = [
    include_str!("../cases/haproxy-2.6.12.txt"),
    include_str!("../cases/haproxy-3.5-dev5.txt"),
];

/// The words of the first column: `source`, `hash,24`, `hash-type` and what belongs to it.
fn hash_of(words: &[&str]) -> AddressHash {
    let has = |word: &str| words.contains(&word);
    let input = match words[0].strip_prefix("hash,") {
        Some(bits) => HashInput::Masked {
            v4: bits.parse().unwrap(),
            v6: 128,
        },
        None => HashInput::Source,
    };
    let functions = [
        ("sdbm", HashFunction::Sdbm),
        ("djb2", HashFunction::Djb2),
        ("wt6", HashFunction::Wt6),
        ("crc32", HashFunction::Crc32),
        ("none", HashFunction::None),
    ];
    let named = functions.iter().find(|(name, _)| has(name));
    AddressHash {
        input,
        function: named.map_or(HashFunction::Sdbm, |(_, function)| *function),
        avalanche: has("avalanche") || has("consistent") && named.is_none(),
    }
}

fn group_of(algorithm: &str, servers: &str) -> Group {
    let words: Vec<&str> = algorithm.split_whitespace().collect();
    let factor = words.iter().find_map(|word| word.strip_prefix("factor="));
    let algorithm = match words[0] {
        "roundrobin" => Algorithm::RoundRobin,
        "static-rr" => Algorithm::StaticRoundRobin,
        "leastconn" => Algorithm::LeastConn,
        "first" => Algorithm::First,
        _ if words.contains(&"consistent") => Algorithm::Hash(HashTable::Ring {
            balance_factor: factor.map_or(0, |percent| percent.parse().unwrap()),
            affinity: Affinity::Always,
        }),
        "source" | "hash,24" | "hash,32" => Algorithm::Hash(HashTable::Map),
        other => panic!("no algorithm {other:?}"),
    };
    let all_backups = match words.contains(&"allbackups") {
        true => AllBackups::Yes,
        false => AllBackups::No,
    };
    let members: Vec<Member> = servers
        .split_whitespace()
        .enumerate()
        .map(|(at, word)| {
            // `3b`: weight 3, backup; `1#7`: number 7; `1m2`: maxconn 2.
            let part = |sign| word.split_once(sign).map(|(_, rest)| rest);
            let weight: String = word.chars().take_while(char::is_ascii_digit).collect();
            let number = |text: &str| {
                let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
                digits.parse::<u32>().unwrap()
            };
            Member {
                name: format!("s{at}"),
                id: part('#').map_or(0, number),
                weight: weight.parse().unwrap(),
                tier: match word.contains('b') {
                    true => Tier::Backup,
                    false => Tier::Active,
                },
                limits: Limits {
                    maxconn: part('m').map_or(0, number),
                    ..Limits::default()
                },
                ..Member::default()
            }
        })
        .collect();
    Group::new(algorithm, all_backups, &members)
}

/// The address of the Nth client of `c*` and `h*`, as the recording took them.
fn client(n: u32) -> IpAddr {
    IpAddr::from([
        127,
        (n * 7 % 256) as u8,
        (n * 13 % 256) as u8,
        (1 + n % 250) as u8,
    ])
}

/// The address of the Nth client of `f*`: of another network each.
fn far_client(n: u32) -> IpAddr {
    IpAddr::from([
        (1 + n * 3 % 220) as u8,
        (n * 7 % 256) as u8,
        (n * 13 % 256) as u8,
        (1 + n % 250) as u8,
    ])
}

/// Plays `s*3 o*2 c*9 h*9 close:0 maint:1 ready:1 weight:1:8` and returns who was chosen, a digit each.
fn play(group: &Group, hash: AddressHash, operations: &str) -> String {
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
            "c" | "h" | "f" => {
                for n in 0..numbers[0] {
                    let from = if verb == "f" {
                        far_client(n)
                    } else {
                        client(n)
                    };
                    let id = group.choose(hash.of(from).into(), None).unwrap();
                    chosen.push(char::from_digit(id.0, 16).unwrap());
                    match verb {
                        "c" | "f" => drop(group.release(id)),
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
    let lines = CASES.iter().flat_map(|file| file.lines());
    for row in lines.filter(|line| !line.starts_with('#')) {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let [algorithm, servers, operations, expected] = columns[..] else {
            panic!("a row has four columns: {row}");
        };
        let words: Vec<&str> = algorithm.split_whitespace().collect();
        let chosen = play(&group_of(algorithm, servers), hash_of(&words), operations);
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
