//! Tables of addresses: what they mean in each place, and where they go wrong.

use super::*;

const LINE: Place = Place {
    file: 0,
    line: 1,
    start: 5,
    end: 5,
};

fn word(text: &str) -> Word {
    let end = LINE.start + text.len() as u32;
    Word::plain(text, Place { end, ..LINE })
}

fn with_environment<T>(run: impl FnOnce(Addresses<'_>) -> T) -> T {
    let mut environment = Environment::default();
    environment.set("IP", "10.0.0.1");
    environment.set("PORT", "8080");
    environment.set("LIST", "1.1.1.1:1,2.2.2.2:2");
    run(Addresses {
        environment: &environment,
        unix_prefix: "/run",
    })
}

fn show_host(host: &Host) -> String {
    match host {
        Host::Address(address) => address.to_string(),
        Host::Name(name, family) => format!("name {name} {family:?}"),
    }
}

fn show_bind(address: &BindAddress) -> String {
    let marked = |mptcp: bool| if mptcp { " mptcp" } else { "" };
    match address {
        BindAddress::Tcp { address, mptcp } => format!("{address}{}", marked(*mptcp)),
        BindAddress::Named { target, mptcp } => {
            format!(
                "{} {}{}",
                show_host(&target.host),
                target.port,
                marked(*mptcp)
            )
        }
        BindAddress::UnixPath(path) => format!("unix {}", path.display()),
        BindAddress::Abstract(name) => format!("abns {}", name.escape_ascii()),
        BindAddress::AbstractExact(name) => format!("abnsz {}", name.escape_ascii()),
        BindAddress::Descriptor(n) => format!("fd {n}"),
        BindAddress::Activated(name) => format!("sd {name}"),
    }
}

fn show_server(address: &ServerAddress) -> String {
    match address {
        ServerAddress::Tcp { host, port, mptcp } => {
            let mark = if *mptcp { " mptcp" } else { "" };
            format!("{} {port:?}{mark}", show_host(host))
        }
        ServerAddress::OriginalDestination { port } => format!("original {port:?}"),
        ServerAddress::UnixPath(path) => format!("unix {}", path.display()),
        ServerAddress::Abstract(name) => format!("abns {}", name.escape_ascii()),
        ServerAddress::AbstractExact(name) => format!("abnsz {}", name.escape_ascii()),
    }
}

/// `code start..end`, from the beginning of the word.
fn show_error(error: &Diagnostic) -> String {
    let place = error.place.unwrap();
    let (start, end) = (place.start - LINE.start, place.end - LINE.start);
    format!("{} {start}..{end}", error.code)
}

fn bind_of(text: &str) -> Result<String, String> {
    with_environment(|addresses| match addresses.bind(&word(text)) {
        Ok(found) => {
            let shown: Vec<_> = found.iter().map(|a| show_bind(&a.value)).collect();
            Ok(shown.join(", "))
        }
        Err(errors) => Err(errors.iter().map(show_error).collect::<Vec<_>>().join(", ")),
    })
}

#[test]
fn bind_addresses_mean_what_they_mean_in_haproxy() {
    let table = [
        (":80", "0.0.0.0:80"),
        ("*:80", "0.0.0.0:80"),
        ("0.0.0.0:80", "0.0.0.0:80"),
        (":::80", "[::]:80"),
        ("[::]:80", "[::]:80"),
        ("::1:80", "[::1]:80"),
        ("[::1]:80", "[::1]:80"),
        ("ipv6@:80", "[::]:80"),
        ("ipv6@*:80", "[::]:80"),
        ("ipv6@::ffff:1.2.3.4:80", "[::ffff:1.2.3.4]:80"),
        ("1.2.3.4:65535", "1.2.3.4:65535"),
        ("ip@1.2.3.4:1", "1.2.3.4:1"),
        ("ipv4@1.2.3.4:1", "1.2.3.4:1"),
        ("tcp@::1:1", "[::1]:1"),
        ("tcp4@:1", "0.0.0.0:1"),
        ("tcp6@:1", "[::]:1"),
        ("stream+ipv4@:1", "0.0.0.0:1"),
        ("mptcp@[::1]:1", "[::1]:1 mptcp"),
        ("mptcp4@:1", "0.0.0.0:1 mptcp"),
        ("mptcp6@:1", "[::]:1 mptcp"),
        (":80-82", "0.0.0.0:80, 0.0.0.0:81, 0.0.0.0:82"),
        ("::1:1-1,:3,", "[::1]:1, 0.0.0.0:3"),
        ("localhost:80", "name localhost Any 80"),
        (
            "ipv6@web_1.example.:80-81",
            "name web_1.example. V6 80, name web_1.example. V6 81",
        ),
        ("/a.sock", "unix /run/a.sock"),
        ("unix@b.sock", "unix /runb.sock"),
        ("uxst@/c", "unix /run/c"),
        ("stream+unix@/c", "unix /run/c"),
        ("stream+/c", "unix /run/c"),
        ("abns@name", "abns name"),
        ("abnsz@name", "abnsz name"),
        ("fd@3", "fd 3"),
        ("sd@https", "sd https"),
        ("$IP:$PORT", "10.0.0.1:8080"),
        ("${IP}:${PORT}-8081", "10.0.0.1:8080, 10.0.0.1:8081"),
        ("$NONE:80", "0.0.0.0:80"),
        ("fd@3,/x,1.2.3.4:5", "fd 3, unix /run/x, 1.2.3.4:5"),
    ];
    for (text, expected) in table {
        assert_eq!(bind_of(text), Ok(expected.to_string()), "{text}");
    }
}

#[test]
fn bad_bind_addresses_are_placed_at_the_part_at_fault() {
    let table = [
        ("", "empty-address 0..0"),
        (",:80", "empty-address 0..0"),
        (":80,,:81", "empty-address 4..4"),
        ("80", "bad-address 0..2"),
        ("1.2.3.4", "missing-port 0..7"),
        ("1.2.3.4:", "missing-port 0..7"),
        ("[::1]", "missing-port 0..5"),
        ("localhost", "missing-port 0..9"),
        (":0", "bad-port 1..2"),
        (":65536", "bad-port 1..6"),
        (":99999999999999", "bad-port 1..15"),
        (":8o", "bad-port 1..3"),
        (":80-", "bad-port 4..4"),
        (":80-79", "bad-port 1..6"),
        (":80-70000", "bad-port 4..9"),
        (":1-2-3", "bad-port 3..6"),
        (":+1", "address-not-possible-here 1..3"),
        (":-1", "address-not-possible-here 1..3"),
        ("::1", "bad-address 0..3"),
        ("fe80::1%eth0:80", "bad-address 0..12"),
        ("[fe80::1%eth0]:80", "bad-address 0..14"),
        ("[::1:80", "bad-address 0..4"),
        ("[name]:80", "bad-address 0..6"),
        ("1.2.3.256:80", "bad-address 0..9"),
        ("1.2.3:80", "bad-address 0..5"),
        ("a b:80", "bad-address 0..2"),
        ("ipv4@::1:80", "bad-address 5..8"),
        ("ipv6@1.2.3.4:80", "bad-address 5..12"),
        ("ipv5@1.2.3.4:80", "unknown-address-prefix 0..5"),
        ("udp@:80", "address-not-possible-here 0..4"),
        ("dgram+ip@:80", "address-not-possible-here 0..9"),
        ("uxdg@/x", "address-not-possible-here 0..5"),
        ("quic4@:443", "address-not-supported 0..6"),
        ("quic+:443", "address-not-supported 0..5"),
        ("sockpair@4", "address-not-supported 0..9"),
        ("rhttp@be/s", "address-not-supported 0..6"),
        ("ring@r", "address-not-possible-here 0..5"),
        ("fd@", "empty-address 0..3"),
        ("fd@x", "bad-descriptor 3..4"),
        ("fd@-1", "bad-descriptor 3..5"),
        ("fd@99999999999", "bad-descriptor 3..14"),
        ("abns@", "empty-address 0..5"),
        ("sd@", "empty-address 0..3"),
        ("unix@", "empty-address 0..5"),
        (":1,:0,:2,x:y", "bad-port 4..5, bad-port 11..12"),
        ("x:$PORT0", "missing-port 0..1"),
        ("x:${PORT}z", "bad-port 2..10"),
        ("$LIST:1", "bad-address 0..5"),
        (":1-65535,:1-65535", "too-many-addresses 9..17"),
    ];
    for (text, expected) in table {
        assert_eq!(bind_of(text), Err(expected.to_string()), "{text}");
    }
}

#[test]
fn hints_name_the_likely_intention() {
    let table = [
        ("80", "did you mean `:80`?"),
        (
            "::1",
            "what follows the last colon is the port; expected like `[::1]:80`",
        ),
        ("ipv5@:80", "did you mean `ipv4@`?"),
        ("mptpc@:80", "did you mean `mptcp@`?"),
        (
            "[fe80::1%eth0]:80",
            "a scope (`%eth0`) is not possible; use `interface eth0`",
        ),
        ("1.2.3.4:0", "expected 1 to 65535"),
        ("1.2.3.400:80", "an IPv4 address is four numbers up to 255"),
    ];
    for (text, expected) in table {
        let errors = with_environment(|addresses| addresses.bind(&word(text)).unwrap_err());
        assert_eq!(errors[0].label.as_deref(), Some(expected), "{text}");
    }
}

#[test]
fn paths_and_names_have_the_length_that_the_kernel_allows() {
    let long = |n: usize| "x".repeat(n);
    assert!(bind_of(&format!("unix@{}", long(MAX_UNIX_PATH - 4))).is_ok());
    assert!(bind_of(&format!("unix@{}", long(MAX_UNIX_PATH - 3))).is_err());
    assert!(bind_of(&format!("abns@{}", long(MAX_ABSTRACT))).is_ok());
    assert!(bind_of(&format!("abns@{}", long(MAX_ABSTRACT + 1))).is_err());
    assert!(bind_of(&format!("{}:80", long(63))).is_ok());
    assert!(bind_of(&format!("{}:80", long(64))).is_err());
    assert!(bind_of(&format!("{}:80", "a.".repeat(128))).is_err());
}

#[test]
fn every_prefix_has_a_meaning_in_every_place_and_begins_no_other() {
    for a in prefix::PREFIXES {
        for b in prefix::PREFIXES {
            assert!(
                a.name == b.name || !b.name.starts_with(a.name),
                "{} {}",
                a.name,
                b.name
            );
        }
        for rest in ["", "x", "1.2.3.4:80", "/x", "7"] {
            let text = format!("{}{rest}", a.name);
            with_environment(|addresses| {
                let bind = addresses.bind(&word(&text));
                let server = addresses.server(&word(&text));
                assert!(bind.is_ok() || !bind.unwrap_err().is_empty(), "{text}");
                let unknown = |code: &str| code == "unknown-address-prefix";
                assert!(!server.is_err_and(|e| unknown(e.code)), "{text}");
                assert!(
                    !addresses.log(&word(&text)).is_err_and(|e| unknown(e.code)),
                    "{text}"
                );
            });
        }
    }
}

#[test]
fn server_addresses_mean_what_they_mean_in_haproxy() {
    let table: [(&str, Result<&str, &str>); 31] = [
        ("1.2.3.4:80", Ok("1.2.3.4 Fixed(80)")),
        ("1.2.3.4", Ok("1.2.3.4 Offset(0)")),
        ("1.2.3.4:", Ok("1.2.3.4 Offset(0)")),
        ("1.2.3.4:0", Ok("1.2.3.4 Offset(0)")),
        ("1.2.3.4:+5", Ok("1.2.3.4 Offset(5)")),
        ("1.2.3.4:-5", Ok("1.2.3.4 Offset(-5)")),
        ("1.2.3.4:+65536", Err("bad-port 8..14")),
        ("1.2.3.4:+", Err("bad-port 9..9")),
        ("1.2.3.4:80-81", Err("address-not-possible-here 8..13")),
        ("[::1]", Ok("::1 Offset(0)")),
        ("::1:80", Ok("::1 Fixed(80)")),
        ("::1", Err("bad-address 0..3")),
        ("db.internal:5432", Ok("name db.internal Any Fixed(5432)")),
        ("ipv6@db", Ok("name db V6 Offset(0)")),
        ("mptcp@db:1", Ok("name db Any Fixed(1) mptcp")),
        ("0.0.0.0", Ok("original Offset(0)")),
        ("*:80", Ok("original Fixed(80)")),
        ("0.0.0.0:+1", Ok("original Offset(1)")),
        ("[::]:80", Ok("original Fixed(80)")),
        ("8080", Err("bad-address 0..4")),
        ("/s", Ok("unix /s")),
        ("unix@/s", Ok("unix /s")),
        ("abns@s", Ok("abns s")),
        ("abnsz@s", Ok("abnsz s")),
        ("fd@3", Err("address-not-possible-here 0..3")),
        ("sd@x", Err("address-not-possible-here 0..3")),
        ("udp@1.2.3.4:1", Err("address-not-possible-here 0..4")),
        ("rhttp@", Err("address-not-supported 0..6")),
        ("_db._tcp.local", Err("address-not-supported 0..14")),
        ("1.2.3.4:80,1.2.3.5:80", Err("bad-address 0..18")),
        ("$IP:${PORT}", Ok("10.0.0.1 Fixed(8080)")),
    ];
    for (text, expected) in table {
        let found = with_environment(|addresses| addresses.server(&word(text)));
        let found = found
            .map(|a| show_server(&a.value))
            .map_err(|e| show_error(&e));
        let found = found.as_ref().map(String::as_str).map_err(String::as_str);
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn log_targets_mean_what_they_mean_in_haproxy() {
    let table: [(&str, Result<&str, &str>); 21] = [
        ("stdout", Ok("Stdout")),
        ("stderr", Ok("Stderr")),
        ("fd@2", Ok("Descriptor(2)")),
        ("127.0.0.1", Ok("127.0.0.1 514")),
        ("127.0.0.1:0", Ok("127.0.0.1 514")),
        ("127.0.0.1:1514", Ok("127.0.0.1 1514")),
        ("[::1]", Ok("::1 514")),
        ("loghost", Ok("name loghost Any 514")),
        ("udp6@loghost:5", Ok("name loghost V6 5")),
        ("/dev/log", Ok("Unix(\"/dev/log\")")),
        ("uxdg@/dev/log", Ok("Unix(\"/dev/log\")")),
        ("uxst@/dev/log", Err("address-not-supported 0..5")),
        ("tcp@1.2.3.4:5", Err("address-not-supported 0..4")),
        ("stream+1.2.3.4:5", Err("address-not-supported 0..7")),
        ("ring@r", Ok("Ring(\"r\")")),
        ("backend@b", Err("address-not-supported 0..8")),
        ("sockpair@3", Err("address-not-possible-here 0..9")),
        ("abns@x", Err("address-not-supported 0..5")),
        ("127.0.0.1:1-2", Err("address-not-possible-here 10..13")),
        ("127.0.0.1:+2", Err("address-not-possible-here 10..12")),
        ("", Err("empty-address 0..0")),
    ];
    for (text, expected) in table {
        let found = with_environment(|addresses| addresses.log(&word(text)));
        let found = match found {
            Ok(LogDestination::Udp(at)) => Ok(format!("{} {}", show_host(&at.host), at.port)),
            Ok(other) => Ok(format!("{other:?}")),
            Err(error) => Err(show_error(&error)),
        };
        let found = found.as_ref().map(String::as_str).map_err(String::as_str);
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn check_hosts_may_name_a_port() {
    let table = [
        ("1.2.3.4", Ok("1.2.3.4 None")),
        ("1.2.3.4:9", Ok("1.2.3.4 Some(9)")),
        ("[::1]:9", Ok("::1 Some(9)")),
        ("checks.local", Ok("name checks.local Any None")),
        ("/x", Err("address-not-supported 0..0")),
        ("fd@1", Err("address-not-possible-here 0..3")),
        ("a:1-2", Err("address-not-possible-here 2..5")),
    ];
    for (text, expected) in table {
        let found = with_environment(|addresses| addresses.host(&word(text)));
        let found = found
            .map(|(host, port)| format!("{} {port:?}", show_host(&host)))
            .map_err(|error| show_error(&error));
        let found = found.as_ref().map(String::as_str).map_err(String::as_str);
        assert_eq!(found, expected, "{text}");
    }
}
