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
