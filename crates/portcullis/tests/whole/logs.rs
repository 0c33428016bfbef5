//! What is logged of a session, and where it arrives.

use std::net::UdpSocket;
use std::time::Duration;

use portcullis_testkit::private_network;

use super::clients::{ask, connect};
use super::harness::{Balancer, SOON, listen, local};
use super::servers::Server;

const FRONT: u16 = 8000;

/// A session of 2 bytes to the server and 6 back; the client's port.
#[track_caller]
fn session() -> u16 {
    let mut client = connect(local(FRONT));
    let port = client.local_addr().unwrap().port();
    assert_eq!(ask(&mut client, "x"), "one x");
    port
}

/// `IP:PORT [DATE] front back/s1 W/C/T BYTES -- 1/1/0/0/0 0/0`
#[track_caller]
fn assert_is_tcplog(line: &str, port: u16) {
    let words: Vec<_> = line.split(' ').collect();
    let [
        client,
        date,
        frontend,
        server,
        times,
        bytes,
        state,
        connections,
        queues,
    ] = words[..]
    else {
        panic!("not nine words: {line}");
    };
    assert_eq!(client, format!("127.0.0.1:{port}"));
    assert!(
        date.starts_with('[') && date.ends_with(']') && date.len() == 26,
        "{date}"
    );
    assert_eq!((frontend, server), ("front", "front/s1"));
    let times: Vec<i64> = times.split('/').map(|time| time.parse().unwrap()).collect();
    let [waited, connected, total] = times[..] else {
        panic!("not three times: {line}")
    };
    assert!(
        (0..100).contains(&waited) && connected >= 0 && total >= connected,
        "{line}"
    );
    assert_eq!((bytes, state), ("6", "--"), "{line}");
    let connections: Vec<u32> = connections
        .split('/')
        .map(|count| count.parse().unwrap())
        .collect();
    assert_eq!(connections.len(), 5, "{line}");
    assert_eq!(connections[4], 0, "no retry: {line}");
    assert_eq!(queues, "0/0", "{line}");
}

#[test]
fn tcplog_goes_to_stdout_raw() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = listen("127.0.0.1:8000", &[local(9001)])
            .replace("nbthread 2", "nbthread 2\n    log stdout format raw local0")
            .replace("mode tcp", "mode tcp\n    log global\n    option tcplog");
        let mut balancer = Balancer::start(&config, &[local(FRONT)]);
        for _ in 0..3 {
            let port = session();
            let line = balancer.process.wait_line(&format!(":{port} ["), SOON);
            assert_is_tcplog(&line, port);
        }
        balancer.stop();
    });
}

#[test]
fn tcplog_reaches_a_syslog_server_over_udp() {
    private_network(|| {
        let syslog = UdpSocket::bind(local(5140)).unwrap();
        syslog
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let _server = Server::echo(local(9001), "one");
        let config = listen("127.0.0.1:8000", &[local(9001)])
            .replace("nbthread 2", "nbthread 2\n    log 127.0.0.1:5140 local3")
            .replace("mode tcp", "mode tcp\n    log global\n    option tcplog");
        let balancer = Balancer::start(&config, &[local(FRONT)]);
        let port = session();
        let (priority, message) = receive_about(&syslog, &format!("127.0.0.1:{port} ["));
        // local3 is facility 19, info is level 6.
        assert_eq!(priority, 19 * 8 + 6);
        let at = message.find("127.0.0.1:").unwrap();
        assert_is_tcplog(message[at..].trim_end_matches('\n'), port);
        balancer.stop();
    });
}

#[test]
fn a_host_name_is_sent_where_the_format_leaves_room_for_it() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        for (format, expected) in [
            ("", " lb1 abc["),
            ("format rfc3164 ", " lb1 abc["),
            ("format local ", " abc["),
        ] {
            let syslog = UdpSocket::bind(local(5140)).unwrap();
            syslog.set_read_timeout(Some(SOON)).unwrap();
            let lines = format!(
                "nbthread 2\n    log-send-hostname lb1\n    log-tag abc\n    \
                 log 127.0.0.1:5140 {format}local3"
            );
            let config = listen("127.0.0.1:8000", &[local(9001)])
                .replace("nbthread 2", &lines)
                .replace("mode tcp", "mode tcp\n    log global\n    option tcplog");
            let balancer = Balancer::start(&config, &[local(FRONT)]);
            let port = session();
            let (_, message) = receive_about(&syslog, &format!("127.0.0.1:{port} ["));
            // After the date, which always has fifteen bytes.
            let after = &message[15..];
            assert!(after.starts_with(expected), "{format}: {message}");
            balancer.stop();
        }
    });
}

/// The datagram that speaks of the session; others (a proxy has started) come first.
#[track_caller]
fn receive_about(syslog: &UdpSocket, text: &str) -> (u32, String) {
    let mut buffer = [0; 4096];
    loop {
        let count = syslog
            .recv(&mut buffer)
            .expect("a log line about the session");
        let datagram = String::from_utf8_lossy(&buffer[..count]).into_owned();
        if datagram.contains(text) {
            let (priority, rest) = datagram.strip_prefix('<').unwrap().split_once('>').unwrap();
            return (priority.parse().unwrap(), rest.to_owned());
        }
    }
}

#[test]
fn a_session_that_timed_out_or_found_no_server_says_so() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = listen("127.0.0.1:8000", &[local(9001)])
            .replace("nbthread 2", "nbthread 2\n    log stdout format raw local0")
            .replace(
                "mode tcp",
                "mode tcp\n    log global\n    option tcplog\n    retries 0",
            )
            .replace("client 60s", "client 300ms");
        let config =
            config + "\nlisten dead\n    bind 127.0.0.1:8001\n    server none 127.0.0.1:9999\n";
        let mut balancer = Balancer::start(&config, &[local(FRONT), local(8001)]);
        let mut silent = connect(local(FRONT));
        let port = silent.local_addr().unwrap().port();
        super::clients::drain(&mut silent);
        let line = balancer.process.wait_line(&format!(":{port} ["), SOON);
        assert!(
            line.contains(" cD "),
            "the client's time was over while data could flow: {line}"
        );
        let mut unlucky = connect(local(8001));
        let port = unlucky.local_addr().unwrap().port();
        super::clients::drain(&mut unlucky);
        let line = balancer.process.wait_line(&format!(":{port} ["), SOON);
        assert!(
            line.contains(" SC "),
            "the server refused the connection: {line}"
        );
        assert!(line.contains(" dead/none "), "{line}");
        balancer.stop();
    });
}

/// Logs to `target`, with more lines of `defaults`.
fn logging(target: &str, defaults: &str) -> String {
    listen("127.0.0.1:8000", &[local(9001)])
        .replace("nbthread 2", &format!("nbthread 2\n    log {target}"))
        .replace(
            "mode tcp",
            &format!("mode tcp\n    log global\n    option tcplog\n    {defaults}"),
        )
}

#[test]
fn every_header_reaches_a_unix_syslog_socket() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = super::harness::Place::new();
        // HAProxy's times in iso lines are UTC or local; only shapes are compared.
        for (format, begins, has) in [
            ("rfc3164", "<150>", " tcp"),
            ("rfc5424", "<150>1 2", " tcp"),
            ("local", "<150>", " tcp["),
            ("priority", "<150>127.0.0.1:", ""),
            ("short", "<6>127.0.0.1:", ""),
            ("timed", "<6>2", "T"),
            ("iso", "2", "T"),
            ("raw", "127.0.0.1:", ""),
        ] {
            let path = place.path().join(format);
            let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            let target = format!("{} format {format} local2", path.display());
            let config = logging(&target, "").replace("    log /", "    log-tag tcp\n    log /");
            let balancer = Balancer::start(&config, &[local(FRONT)]);
            let about = format!("127.0.0.1:{} [", session());
            let mut buffer = [0; 4096];
            let line = loop {
                let count = socket.recv(&mut buffer).expect("a line about the session");
                let line = String::from_utf8_lossy(&buffer[..count]).into_owned();
                if line.contains(&about) {
                    break line;
                }
            };
            assert!(
                line.starts_with(begins) && line.contains(has),
                "{format}: {line}"
            );
            assert!(
                line.trim_end().ends_with(" -- 1/1/0/0/0 0/0"),
                "{format}: {line}"
            );
            balancer.stop();
        }
    });
}

#[test]
fn a_sample_sends_the_lines_that_it_names() {
    private_network(|| {
        let syslog = UdpSocket::bind(local(5140)).unwrap();
        syslog.set_read_timeout(Some(SOON)).unwrap();
        let _server = Server::echo(local(9001), "one");
        // "Proxy front started" of each proxy is a notice (or info) of global; it is counted too,
        // so the sample stands on the proxy alone.
        let config = listen("127.0.0.1:8000", &[local(9001)]).replace(
            "mode tcp",
            "mode tcp\n    log 127.0.0.1:5140 sample 2,4-5:5 local0 info\n    option tcplog",
        );
        let balancer = Balancer::start(&config, &[local(FRONT)]);
        let sent: Vec<u16> = (0..20)
            .map(|_| {
                let port = session();
                // In order, whichever worker served it.
                std::thread::sleep(Duration::from_millis(20));
                port
            })
            .collect();
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while seen.len() < 11 {
            let Ok(count) = syslog.recv(&mut buffer) else {
                break;
            };
            let line = String::from_utf8_lossy(&buffer[..count]).into_owned();
            let number = sent
                .iter()
                .position(|port| line.contains(&format!(":{port} [")));
            seen.extend(number);
            if seen.len() >= 11 || seen.last().is_some_and(|&at| at >= 17) {
                break;
            }
        }
        // What was logged before the first session shifts the numbers; three of five stay.
        for five in sent.chunks(5).enumerate().take(3) {
            let in_five = seen.iter().filter(|&&at| at / 5 == five.0).count();
            assert!((2..=4).contains(&in_five), "{seen:?}");
        }
        let steps: Vec<usize> = seen.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(
            steps
                .windows(3)
                .all(|three| three.iter().sum::<usize>() == 5),
            "{seen:?}"
        );
        balancer.stop();
    });
}

#[test]
fn json_lines_tell_all_of_a_session() {
    if super::harness::ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let config = logging("stdout format json local0", "");
        let mut balancer = Balancer::start(&config, &[local(FRONT)]);
        let about = format!("127.0.0.1:{}\"", session());
        let line = balancer.process.wait_line(&about, SOON);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        for (member, expected) in [
            ("event", "ended"),
            ("frontend", "front"),
            ("backend", "front"),
            ("server", "s1"),
            ("termination", "--"),
            ("reason", "normal"),
            ("level", "info"),
        ] {
            assert_eq!(read[member], expected, "{line}");
        }
        assert_eq!(
            (&read["bytes_in"], &read["bytes_out"]),
            (&2.into(), &6.into())
        );
        balancer.stop();
    });
}

#[test]
fn a_ring_keeps_the_newest_lines_and_quit_shows_them() {
    if super::harness::ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let ring = "\nring kept\n    description \"of the tests\"\n    size 1024\n    \
                    format raw\n    maxlen 200\n";
        let config = logging("ring@kept format rfc5424 local0", "") + ring;
        let mut balancer = Balancer::start(&config, &[local(FRONT)]);
        let ports: Vec<u16> = (0..30)
            .map(|_| {
                let port = session();
                std::thread::sleep(Duration::from_millis(10));
                port
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300));
        balancer.signal(portcullis_testkit::Signal::QUIT);
        let last = format!("ring kept: | 127.0.0.1:{} [", ports[29]);
        balancer.process.wait_line(&last, SOON);
        let shown = balancer.process.transcript();
        let first = format!("127.0.0.1:{} [", ports[0]);
        assert!(!shown.contains(&first), "the oldest made room: {shown}");
        assert!(shown.contains("of 1024 bytes"), "{shown}");
        balancer.stop();
    });
}

/// Sessions go on at their pace although nobody takes their log lines.
fn assert_not_blocked() {
    let begun = std::time::Instant::now();
    for _ in 0..300 {
        session();
    }
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn a_full_unix_socket_blocks_no_session_and_losses_are_reported() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = super::harness::Place::new();
        let path = place.path().join("log");
        // Its queue holds a few datagrams, and nobody reads them.
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        let target = format!(
            "{} local2\n    log stderr format raw local3 warning",
            path.display()
        );
        let mut balancer = Balancer::start(&logging(&target, ""), &[local(FRONT)]);
        assert_not_blocked();
        if super::harness::peer() == super::harness::Peer::Portcullis {
            balancer.process.wait_line("log lines were dropped", SOON);
        }
        drop(socket);
        assert_not_blocked();
        balancer.stop();
    });
}

#[test]
fn a_syslog_server_that_goes_away_and_comes_back_is_found_again() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = super::harness::Place::new();
        let path = place.path().join("log");
        let bind = || {
            let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            socket
        };
        let socket = bind();
        let target = format!("{} format raw local2", path.display());
        let balancer = Balancer::start(&logging(&target, ""), &[local(FRONT)]);
        session();
        drop(socket);
        std::fs::remove_file(&path).unwrap();
        assert_not_blocked();
        let socket = bind();
        let back = portcullis_testkit::eventually(SOON, || {
            let about = format!("127.0.0.1:{} [", session());
            let mut buffer = [0; 4096];
            while let Ok(count) = socket.recv(&mut buffer) {
                if String::from_utf8_lossy(&buffer[..count]).contains(&about) {
                    return true;
                }
            }
            false
        });
        assert!(back, "it is not connected again");
        balancer.stop();
    });
}

#[test]
fn options_and_levels_choose_what_is_logged() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let base = "option dontlognull\n    option dontlog-normal\n    option log-separate-errors\n    \
                    retries 0";
        let config = logging(
            "stdout format short local0\n    log stderr format raw local0 err",
            base,
        ) + "\nlisten dead\n    bind 127.0.0.1:8001\n    server r 127.0.0.1:9002\n";
        let _resetting = Server::start(local(9002), |mut stream| {
            let _ = super::clients::read_line(&mut stream);
            super::clients::reset(stream);
        });
        let mut balancer = Balancer::start(&config, &[local(FRONT), local(8001)]);
        let normal = session();
        let null = connect(local(FRONT));
        let null_port = null.local_addr().unwrap().port();
        drop(null);
        let mut failed = connect(local(8001));
        std::io::Write::write_all(&mut failed, b"x\n").unwrap();
        let port = failed.local_addr().unwrap().port();
        super::clients::drain(&mut failed);
        // The error has level err: on both targets.
        let line = balancer
            .process
            .wait_line(&format!("<3>127.0.0.1:{port} ["), SOON);
        assert!(line.contains(" SD "), "{line}");
        wait_in_stderr(&mut balancer, &format!("127.0.0.1:{port} ["));
        let said = balancer.process.transcript();
        for quiet in [normal, null_port] {
            assert!(!said.contains(&format!(":{quiet} [")), "{said}");
        }
        balancer.stop();
    });
}

#[test]
fn who_said_something_is_logged_under_dontlognull_though_no_server_took_it() {
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let limits = "option dontlognull\n    retries 1\n    timeout connect 200ms";
        let config = logging("stdout format raw local0", limits)
            .replace("127.0.0.1:9001", "127.0.0.1:9001 maxconn 1")
            + "    timeout queue 200ms\n\
               \nlisten dead\n    bind 127.0.0.1:8001\n    server r 127.0.0.1:9002\n";
        let mut balancer = Balancer::start(&config, &[local(FRONT), local(8001)]);
        // The only place is taken, so who comes next waits.
        let mut first = connect(local(FRONT));
        assert_eq!(super::clients::ask(&mut first, "x"), "one x");
        for (port, letters) in [(FRONT, " sQ "), (8001, " SC ")] {
            let quiet = connect(local(port));
            let quiet_port = quiet.local_addr().unwrap().port();
            let mut client = connect(local(port));
            std::io::Write::write_all(&mut client, b"x\n").unwrap();
            let name = format!("127.0.0.1:{} [", client.local_addr().unwrap().port());
            super::clients::drain(&mut client);
            let line = balancer.process.wait_line(&name, SOON);
            assert!(line.contains(letters), "{line}");
            let mut quiet = quiet;
            super::clients::drain(&mut quiet);
            let said = balancer.process.transcript();
            assert!(!said.contains(&format!(":{quiet_port} [")), "{said}");
        }
        drop((first, server));
        balancer.stop();
    });
}

#[track_caller]
fn wait_in_stderr(balancer: &mut Balancer, text: &str) {
    portcullis_testkit::wait_for("a line on standard error", SOON, || {
        balancer.process.stderr().contains(text)
    });
}
