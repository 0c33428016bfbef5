//! Tables of docs/bind-rules.md that the model computes.
//!
//! Decides:  which tables stand in which chapter; an empty cell of a table is never guessed, it is asked.
//! Not here: the rules' entries (mod.rs).

use std::fmt::Write as _;
use std::net::IpAddr;

use portcullis_kernel_model::{
    Answer, Call, Caps, Chapter, Family, Host, Kernel, Opt, ProcessId, SockAddr, SocketId, Uid,
    World,
};

const PORT: u16 = 443;
const ROOT: ProcessId = ProcessId(0);
const REUSEADDR: &[Opt] = &[Opt::ReuseAddr(true)];
const REUSEPORT: &[Opt] = &[Opt::ReusePort(true)];
const BOTH: &[Opt] = &[Opt::ReuseAddr(true), Opt::ReusePort(true)];
const OPTIONS: &[(&str, &[Opt])] = &[
    ("neither option", &[]),
    ("SO_REUSEADDR", REUSEADDR),
    ("SO_REUSEPORT", REUSEPORT),
    ("both options", BOTH),
];

/// The tables of a chapter; empty where it has none.
pub fn of(chapter: Chapter) -> String {
    match chapter {
        Chapter::Conflict => format!("{}{}", options(), addresses()),
        Chapter::TimeWait => remains(),
        _ => String::new(),
    }
}

fn world() -> (World, ProcessId) {
    let mut host = Host::new(Kernel::V6_18);
    let other = host.add_process(Uid(1000), Caps::ALL);
    (World::new(host), other)
}

fn socket(world: &mut World, user: ProcessId, family: Family, options: &[Opt]) -> SocketId {
    let socket = world.socket(user, family);
    for &option in options {
        world.call_as(user, socket, Call::Set(option));
    }
    socket
}

fn address(text: &str) -> SockAddr {
    let ip = text.parse().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    SockAddr::new(ip, PORT)
}

fn cell(answer: Answer) -> &'static str {
    match answer {
        Answer::Ok => "ok",
        Answer::Err(errno) => errno.name(),
        _ => "?",
    }
}

/// The older socket's options and state against the newcomer's options.
fn options() -> String {
    let mut out = String::from(
        "\nTwo sockets of one user, one address, one port; may the newcomer bind?\n\n\
         | the older has ↓, the newcomer has → |",
    );
    head(&mut out, OPTIONS.iter().map(|entry| entry.0));
    for listening in [false, true] {
        for (name, options) in OPTIONS {
            let state = if listening {
                "listens"
            } else {
                "does not listen"
            };
            let _ = write!(out, "| {name}, {state} |");
            for (_, newcomer) in OPTIONS {
                let (mut world, _) = world();
                let older = socket(&mut world, ROOT, Family::Inet, options);
                world.call(older, Call::Bind(address("127.0.0.1")));
                if listening {
                    world.call(older, Call::Listen(8));
                }
                let new = socket(&mut world, ROOT, Family::Inet, newcomer);
                let answer = world.call(new, Call::Bind(address("127.0.0.1")));
                let _ = write!(out, " {} |", cell(answer));
            }
            out.push('\n');
        }
    }
    out
}

/// The older socket's address against the newcomer's, without any option.
fn addresses() -> String {
    const ADDRESSES: &[(&str, &str, &[Opt])] = &[
        ("127.0.0.1", "127.0.0.1", &[]),
        ("127.0.0.2", "127.0.0.2", &[]),
        ("0.0.0.0", "0.0.0.0", &[]),
        ("::1", "::1", &[]),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1", &[]),
        ("::", "::", &[]),
        (":: with IPV6_V6ONLY", "::", &[Opt::V6Only(true)]),
    ];
    let mut out = String::from(
        "\nTwo sockets on one port without any option; does the newcomer's address meet the older's?\n\n\
         | the older ↓, the newcomer → |",
    );
    head(&mut out, ADDRESSES.iter().map(|entry| entry.0));
    for (name, text, options) in ADDRESSES {
        let _ = write!(out, "| {name} |");
        for (_, newcomer, more) in ADDRESSES {
            let (mut world, _) = world();
            let bind = |world: &mut World, text: &str, options: &[Opt]| {
                let address = address(text);
                let family = if address.ip.is_ipv6() {
                    Family::Inet6
                } else {
                    Family::Inet
                };
                let socket = socket(world, ROOT, family, options);
                world.call(socket, Call::Bind(address))
            };
            bind(&mut world, text, options);
            let answer = bind(&mut world, newcomer, more);
            let _ = write!(out, " {} |", cell(answer));
        }
        out.push('\n');
    }
    out
}

/// What a server left, against a newcomer's options.
fn remains() -> String {
    let newcomers: &[(&str, &[Opt], bool)] = &[
        ("neither option", &[], false),
        ("SO_REUSEADDR", REUSEADDR, false),
        ("SO_REUSEPORT", REUSEPORT, false),
        ("SO_REUSEPORT, another user", REUSEPORT, true),
    ];
    let mut out = String::from(
        "\nA server had these options and was closed; may a new one bind its address and port?\n\n\
         | the old server had, and left ↓, the new one has → |",
    );
    head(&mut out, newcomers.iter().map(|entry| entry.0));
    for (name, options) in OPTIONS {
        for established in [true, false] {
            let left = if established {
                "a connection"
            } else {
                "TIME_WAIT"
            };
            let _ = write!(out, "| {name}, {left} |");
            for (_, newcomer, other_user) in newcomers {
                let (mut world, other) = world();
                old_server(&mut world, options, established);
                let user = if *other_user { other } else { ROOT };
                let new = socket(&mut world, user, Family::Inet, newcomer);
                let answer = world.call_as(user, new, Call::Bind(address("127.0.0.1")));
                let _ = write!(out, " {} |", cell(answer));
            }
            out.push('\n');
        }
    }
    out
}

fn old_server(world: &mut World, options: &[Opt], stays: bool) {
    let server = socket(world, ROOT, Family::Inet, options);
    world.call(server, Call::Bind(address("127.0.0.1")));
    world.call(server, Call::Listen(8));
    let client = world.socket(ROOT, Family::Inet);
    world.call(client, Call::Connect(address("127.0.0.1")));
    if let Answer::Accepted(child) = world.call(server, Call::Accept)
        && !stays
    {
        world.call(child, Call::Close);
        world.call(client, Call::Close);
    }
    world.call(server, Call::Close);
}

fn head<'a>(out: &mut String, columns: impl Iterator<Item = &'a str>) {
    let mut rule = String::from("|---|");
    for column in columns {
        let _ = write!(out, " {column} |");
        rule += "---|";
    }
    let _ = write!(out, "\n{rule}\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_say_what_everybody_knows() {
        let text = options();
        let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(
            row("| SO_REUSEADDR, listens |"),
            "| SO_REUSEADDR, listens | EADDRINUSE | EADDRINUSE | EADDRINUSE | EADDRINUSE |"
        );
        assert_eq!(
            row("| SO_REUSEPORT, listens |"),
            "| SO_REUSEPORT, listens | EADDRINUSE | EADDRINUSE | ok | ok |"
        );
        let text = addresses();
        assert!(text.contains(
            "| 0.0.0.0 | EADDRINUSE | EADDRINUSE | EADDRINUSE | ok | EADDRINUSE | EADDRINUSE | ok |"
        ));
        let text = remains();
        assert!(text.contains("| SO_REUSEADDR, TIME_WAIT | EADDRINUSE | ok |"));
        assert!(!text.contains('?') || text.contains("port?"));
    }
}
