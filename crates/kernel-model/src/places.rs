//! Where a release has a rule: functions were renamed, split and moved.
//!
//! Decides:  the file and the function to look into, in one release.
//! Kernel:   looked for in Ubuntu's 4.4, 4.15, 5.4, 5.15, 6.2 and 6.5, in 5.10.262, 6.1.192, 6.12 and
//!           6.18.24; the release of each row between two of them is that of its commit
//! Not here: the places in 6.18 (rules.rs), since when a rule holds.

use alloc::string::String;

use crate::rules::Rule;
use crate::version::Kernel;

/// A place that was once another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// As it is now, or was until the next row about it.
    pub now: &'static str,
    /// The first release with it.
    pub since: Kernel,
    /// Where the same was before.
    pub before: &'static str,
}

const fn moved(now: &'static str, major: u8, minor: u8, before: &'static str) -> Moved {
    Moved {
        now,
        since: Kernel::new(major, minor),
        before,
    }
}

/// Every place that was once another, the latest changes first.
pub const MOVED: &[Moved] = &[
    moved("__sys_listen_socket()", 6, 11, "__sys_listen()"),
    moved("inet_bind_sk()", 6, 6, "inet_bind()"),
    moved("inet6_bind_sk()", 6, 6, "inet6_bind()"),
    moved("__inet_listen_sk()", 6, 6, "inet_listen()"),
    moved(
        "net/core/sock_reuseport.c, reuseport_select_sock_by_hash()",
        6,
        2,
        "net/ipv4/inet_hashtables.c, compute_score()",
    ),
    moved("sk_setsockopt()", 6, 1, "sock_setsockopt()"),
    moved("inet_bind_conflict()", 6, 1, "inet_csk_bind_conflict()"),
    moved(
        "include/net/inet_sock.h, inet_addr_valid_or_nonlocal()",
        5,
        17,
        "net/ipv4/af_inet.c, __inet_bind()",
    ),
    moved("sock_bindtoindex_locked()", 5, 8, "sock_setbindtodevice()"),
    moved("run_bpf_filter()", 4, 19, "run_bpf()"),
    moved(
        "include/net/inet_sock.h, inet_can_nonlocal_bind()",
        4,
        19,
        "net/ipv4/af_inet.c, inet_bind()",
    ),
    moved("__sys_bind()", 4, 17, "sys_bind()"),
    moved("__sys_listen()", 4, 17, "sys_listen()"),
    moved("__inet_bind()", 4, 17, "inet_bind()"),
    moved("__inet6_bind()", 4, 17, "inet6_bind()"),
    moved(
        "ip_route_output_key_hash_rcu()",
        4,
        13,
        "__ip_route_output_key_hash()",
    ),
    moved("inet_csk_find_open_port()", 4, 11, "inet_csk_get_port()"),
    moved("sk_reuseport_match()", 4, 11, "inet_csk_get_port()"),
    moved(
        "__ip_route_output_key_hash()",
        4,
        3,
        "__ip_route_output_key()",
    ),
];

impl Rule {
    /// Where a release has it: file and function.
    #[must_use]
    pub fn place(self, kernel: Kernel) -> String {
        let mut place = String::from(self.info().kernel);
        for row in MOVED.iter().filter(|row| kernel < row.since) {
            if has(&place, row.now) {
                place = place.replace(row.now, row.before);
            }
        }
        place
    }
}

/// Whether a place names a function, and not one whose name only ends the same.
fn has(place: &str, name: &str) -> bool {
    place
        .split(", ")
        .any(|part| part == name || part.split("; ").any(|part| part == name))
        || (name.contains(", ") && place.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_as_the_release_has_it() {
        let table = [
            (
                Rule::PortHeld,
                (6, 18),
                "net/ipv4/inet_connection_sock.c, inet_bind_conflict()",
            ),
            (
                Rule::PortHeld,
                (5, 15),
                "net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict()",
            ),
            (
                Rule::BacklogCut,
                (6, 18),
                "net/socket.c, __sys_listen_socket()",
            ),
            (Rule::BacklogCut, (6, 1), "net/socket.c, __sys_listen()"),
            (Rule::BacklogCut, (4, 4), "net/socket.c, sys_listen()"),
            (
                Rule::LookupCpu,
                (6, 1),
                "net/ipv4/inet_hashtables.c, compute_score()",
            ),
            (
                Rule::PrivilegedPort,
                (4, 4),
                "net/ipv4/af_inet.c, inet_bind(); net/ipv6/af_inet6.c, inet6_bind()",
            ),
            (
                Rule::NoSource,
                (4, 2),
                "net/ipv4/route.c, __ip_route_output_key()",
            ),
        ];
        for (rule, (major, minor), place) in table {
            assert_eq!(rule.place(Kernel::new(major, minor)), place, "{rule:?}");
        }
    }

    #[test]
    fn every_place_that_moved_is_one_of_a_rule() {
        for (at, row) in MOVED.iter().enumerate() {
            let of_rule = Rule::ALL
                .iter()
                .any(|rule| has(rule.info().kernel, row.now));
            let of_row = MOVED[..at]
                .iter()
                .any(|later| later.before.contains(row.now));
            assert!(of_rule || of_row, "{}", row.now);
            assert!(
                MOVED[..at].iter().all(|later| later.since >= row.since),
                "{}",
                row.now
            );
        }
    }
}
