//! Every form of an address argument in every state, in the model and on the live kernel.
//!
//! Decides:  the addresses, families and lengths that are tried.
//! Not here: the states (states/mod.rs).

mod states;

/// The host on which they are addresses of its own, or not.
const HOST: &str = "\
interface lo = 192.0.2.1/32, 2001:db8::1/128
interface eth0 = 192.0.2.7/24, 2001:db8::7/64, fe80::7/64
port closed = 19999
";

/// Addresses: own, any, mapped, scoped, of groups, of strangers.
const ADDRESSES: &[&str] = &[
    "127.0.0.1:closed",
    "127.9.8.7:closed",
    "0.0.0.0:closed",
    "0.0.0.0:0",
    "192.0.2.7:closed",
    "192.0.2.255:closed",
    "255.255.255.255:closed",
    "224.0.0.1:closed",
    "203.0.113.9:closed",
    "[::]:closed",
    "[::]:0",
    "[::1]:closed",
    "[::1%eth0]:closed",
    "[::ffff:127.0.0.1]:closed",
    "[::ffff:0.0.0.0]:closed",
    "[::ffff:203.0.113.9]:closed",
    "[2001:db8::7]:closed",
    "[2001:db9::9]:closed",
    "[fe80::7]:closed",
    "[fe80::7%eth0]:closed",
    "[fe80::7%lo]:closed",
    "[fe80::7%99]:closed",
    "[ff02::1]:closed",
    "[ff02::1%eth0]:closed",
    "unspecified",
];

const FAMILIES: &[&str] = &["unspec", "inet", "inet6", "1", "65535"];

/// Around the bounds of every structure: `sa_family_t`, `sockaddr_in`, `sockaddr_in6` old and new,
/// `sockaddr_storage`.
const LENGTHS: &[i32] = &[
    i32::MIN,
    -1,
    0,
    1,
    2,
    3,
    8,
    15,
    16,
    17,
    23,
    24,
    27,
    28,
    29,
    127,
    128,
    129,
    i32::MAX,
];

/// Each address as it is, with each family, and with each length both as it is and as AF_UNSPEC; for
/// `connect`, which may wait, each length with three addresses alone.
fn arguments(verb: &str) -> Vec<String> {
    let mut all = Vec::new();
    for address in ADDRESSES {
        all.push((*address).to_owned());
        for family in FAMILIES {
            all.push(format!("{address} family {family}"));
        }
        let three = ["127.0.0.1:closed", "[::1]:closed", "unspecified"];
        let lengths = if verb == "bind" || three.contains(address) {
            LENGTHS
        } else {
            &[]
        };
        for len in lengths {
            all.push(format!("{address} length {len}"));
            all.push(format!("{address} family unspec length {len}"));
        }
    }
    all
}

fn every_state(family: &str, verb: &str) {
    let arguments = arguments(verb);
    let groups = arguments
        .iter()
        .map(|argument| format!("x {verb} {argument} -> any\n"));
    let groups: Vec<String> = groups.collect();
    let all = states::STATES.iter().map(|(state, lines)| {
        let process = "worker with none";
        let text = states::scenario(family, lines, process, HOST, &groups);
        (format!("{verb} {state}"), text)
    });
    let all: Vec<(String, String)> = all.collect();
    states::agree(&format!("{verb}-{family}"), &all, 30_000);
}

#[test]
fn every_form_of_an_address_is_bound_alike_in_every_state_of_an_ipv4_socket() {
    every_state("inet", "bind");
}

#[test]
fn every_form_of_an_address_is_bound_alike_in_every_state_of_an_ipv6_socket() {
    every_state("inet6", "bind");
}

#[test]
fn every_form_of_an_address_is_connected_to_alike_in_every_state_of_an_ipv4_socket() {
    every_state("inet", "connect");
}

#[test]
fn every_form_of_an_address_is_connected_to_alike_in_every_state_of_an_ipv6_socket() {
    every_state("inet6", "connect");
}
