//! Sides of conditions that no run on the newest kernel reaches, with their reasons.
//!
//! Decides:  which sides `--branches` tells apart from those that a run should reach.
//! Not here: how they are counted (mutant.rs), the rules that are out of reach (report.rs).

use crate::mutant::Place;

/// Where the side of a condition may stay unseen: its file, its function and a part of its text, each
/// empty for any; and why.
const UNREACHED: &[(&str, &str, &str, &str)] = &[
    ("", "", ".has(Change::", OTHER_RELEASE),
    ("", "", ".has(change)", OTHER_RELEASE),
    ("lookup.rs", "equals", "", "kernels before 4.6 alone"),
    ("lookup.rs", "score_old", "", "kernels before 5.0 alone"),
    (
        "lookup.rs",
        "find_listener_old",
        "",
        "kernels before 5.0 alone",
    ),
    ("lookup.rs", "is_crowded", "", "4.16 to 4.20 alone"),
    (
        "between.rs",
        "",
        "",
        "bind chose ports so from 4.6 to 4.10 alone",
    ),
    ("request.rs", "takes_syns", "", "kernels before 4.10 alone"),
    (
        "request.rs",
        "at_request_of_listener",
        "",
        "kernels before 4.4 alone",
    ),
    (
        "request.rs",
        "forget_requests",
        "",
        "kernels before 4.4 alone",
    ),
    ("chance.rs", "draw_equal", "", "kernels before 4.6 alone"),
    ("rover.rs", "", "", "bind chose ports so before 4.6 alone"),
    (
        "port.rs",
        "memory_allows",
        "reuse",
        "a bucket remembers SO_REUSEADDR before 6.8 alone",
    ),
    (
        "bucket.rs",
        "update_memory",
        "",
        "a bucket remembers SO_REUSEADDR before 6.8 alone, and users loosely before 4.11",
    ),
    (
        "bucket.rs",
        "reuseport_matches",
        "== ANY",
        "a bucket remembers any address before 6.8 alone",
    ),
    ("conflict.rs", "meets_ipv4_wildcard", "", OTHER_RELEASE),
    (
        "conflict.rs",
        "group_allows",
        "closed_counts",
        OTHER_RELEASE,
    ),
    ("host.rs", "zeronet", "", "0.0.0.0/8 is ordinary since 5.3"),
    (
        "host.rs",
        "is_no_source4",
        "zeronet",
        "0.0.0.0/8 is ordinary since 5.3",
    ),
    (
        "host.rs",
        "",
        "zeronet",
        "no interface of a run has an address of 0.0.0.0/8",
    ),
    (
        "host.rs",
        "",
        "lowest",
        "the lowest address is ordinary since 5.14",
    ),
    (
        "host.rs",
        "",
        "net.first",
        "the lowest address is ordinary since 5.14",
    ),
    (
        "neighbour.rs",
        "link_of4",
        "zeronet",
        "no interface of a run has an address of 0.0.0.0/8",
    ),
    (
        "listen.rs",
        "listen",
        "State::Close | State::Listen",
        "asked again for worlds that are built from what was found, where advice is tried",
    ),
    ("options.rs", "check_known", "", OTHER_RELEASE),
    ("options.rs", "may_name_device", "", "before 5.7 alone"),
    ("options.rs", "set_device", "EPERM", "before 5.7 alone"),
    (
        "options.rs",
        "set_repair",
        "EINVAL",
        "TCP_REPAIR without a probe before 4.19 alone",
    ),
    (
        "files.rs",
        "exit_traced",
        "backwards",
        "before 4.3 a process closes forwards",
    ),
    ("", "", "vrf", NO_VRF),
    ("", "", "Vrf", NO_VRF),
    ("", "", "l3mdev", NO_VRF),
    ("vrf.rs", "", "", NO_VRF),
    ("host.rs", "kind4", "merged", NO_VRF),
    ("bucket.rs", "", "next", NO_VRF),
    ("", "", "is_asked()", CHOICE),
    ("ports.rs", "reach_of_bind", "", CHOICE),
    ("ports.rs", "choose_port", "Errno", CHOICE),
    ("connect.rs", "choose_for_connect", "Errno", CHOICE),
    (
        "by_addr.rs",
        "",
        "",
        "more addresses on one port than a script has sockets; its own tests have them",
    ),
    (
        "reuseport.rs",
        "check_room",
        "",
        "a group of 32,768 listeners is more than a script has",
    ),
    (
        "reuseport.rs",
        "join",
        "",
        "bind refuses a socket that is in a group of several before listen could",
    ),
    (
        "reuseport.rs",
        "make_room",
        "",
        "a group of 32,768 listeners is more than a script has",
    ),
    (
        "files.rs",
        "exit_traced",
        "other.files == files",
        "each process of a scenario has descriptors of its own: tests/processes.rs ends a thread",
    ),
    (
        "chance.rs",
        "told",
        "",
        "only a caller tells the kernel's random numbers: tests/rules.rs does",
    ),
    (
        "chance.rs",
        "draw_moment",
        "",
        "a choice is told only where the likely one does not agree with the kernel",
    ),
    (
        "receive.rs",
        "check_segment",
        "segment.end() == next",
        SELF_CALLED,
    ),
    (
        "receive.rs",
        "check_segment",
        "segment.ack == Some(sock.snd_nxt)",
        SELF_CALLED,
    ),
    (
        "receive.rs",
        "step_on_fin",
        "early [1 of 2]",
        "a peer that has sent its only FIN has no successor with a window to send another by",
    ),
    (
        "request.rs",
        "at_request",
        "segment.end() == next",
        SAME_SYN,
    ),
    (
        "request.rs",
        "at_request",
        "self.may_complain(ix)",
        SAME_SYN,
    ),
    ("world.rs", "socket", "", NO_SUCH),
    ("world.rs", "existing", "socket.index", NO_SUCH),
    ("world.rs", "call_traced", "Errno::EINVAL [2 of 2]", NO_SUCH),
    ("timer.rs", "syn_timeout", "", MINUTES),
    ("timer.rs", "request_timeout", "", MINUTES),
    ("timer.rs", "retry_syn_later", "", MINUTES),
    ("way.rs", "no_route", "", MINUTES),
    ("sysctl.rs", "", "", SYSCTLS),
    ("options.rs", "get_with_length", "", LENGTHS),
    ("options.rs", "get_device", "", LENGTHS),
    ("version.rs", "", "", "it reads the names of releases"),
];

const OTHER_RELEASE: &str =
    "the other side is another release's; scenarios name theirs with `kernel`";
const NO_VRF: &str = "a run's network has no VRF; scenarios on 6.1 and 6.12 have";
const SYSCTLS: &str =
    "a run writes few values of few sysctls; crates/conformance/tests/sysctls.rs writes all";
const LENGTHS: &str =
    "getsockopt with another room is compared by crates/conformance/tests/options.rs";
const CHOICE: &str = "the set of permitted ports is asked for by tests/choice.rs";
const SELF_CALLED: &str =
    "a SYN and acknowledgement meets SYN_RECV where a socket called itself alone, and is its own";
const SAME_SYN: &str =
    "the same SYN comes twice only from sockets that were under TCP_REPAIR (gaps.toml)";
const NO_SUCH: &str =
    "a caller of the model named what does not exist, or added a namespace: no kernel is asked";
const MINUTES: &str = "a minute and more must pass over half a connection; `sim --slow` shows it";

/// Why no run reaches a side of the condition, if that is known.
#[must_use]
pub fn reason(place: &Place) -> Option<&'static str> {
    let fits = |wanted: &str, has: &str| wanted.is_empty() || wanted == has;
    let found = UNREACHED.iter().find(|(file, function, text, _)| {
        fits(file, &place.file) && fits(function, &place.function) && place.text.contains(text)
    });
    found.map(|entry| entry.3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(file: &str, function: &str, text: &str) -> Place {
        Place {
            number: 1,
            file: file.to_owned(),
            line: 1,
            function: function.to_owned(),
            what: String::new(),
            text: text.to_owned(),
        }
    }

    #[test]
    fn a_reason_is_for_its_conditions_alone() {
        let table = [
            (
                "close.rs",
                "migrate_to",
                "self.host.kernel.has(Change::MigrateReq)",
                true,
            ),
            ("rover.rs", "turn", "count < least", true),
            ("close.rs", "migrate_to", "on", false),
            ("receive.rs", "take_ack", "after(ack, sock.snd_nxt)", false),
        ];
        for (file, function, text, known) in table {
            let reason = reason(&place(file, function, text));
            assert_eq!(reason.is_some(), known, "{file} {function} {text}");
        }
    }
}
