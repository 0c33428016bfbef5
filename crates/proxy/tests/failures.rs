//! Servers that refuse, hang, fall silent or flood; clients that go away; timeouts.
//!
//! Decides:  nothing; it shows which end each of them comes to, in HAProxy's letters.
//! Source:   the same configurations run with HAProxy 2.6 on loopback.
//! Not here: bytes and ends of sessions that go well (relay.rs).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::*;
use portcullis_balance::{Algorithm, MemberId};
use portcullis_proxy::session::Times;
use portcullis_proxy::snapshot::ServerAddress;
use portcullis_proxy::worker::thread::WorkerEvent;

#[test]
fn a_refused_session_ends_with_sc_whether_the_client_spoke_or_not() {
    let proxy = start(Plan {
        servers: vec![tcp(refusing())],
        ..Plan::default()
    });
    for words in [&b""[..], &b"hello"[..]] {
        let mut client = proxy.connect();
        // Nothing at all is refused too, but a client's words may come after the end.
        let _ = client.write_all(words);
        let _ = client.read(&mut [0]);
        let record = proxy.record();
        assert_eq!(record.termination.to_string(), "SC");
        assert_eq!(record.connect_ms, None);
        assert_eq!(record.server.unwrap().name.as_ref(), "s0");
    }
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn a_refused_attempt_is_repeated_after_a_wait_and_ends_without_a_reset() {
    let proxy = start(Plan {
        servers: vec![tcp(refusing())],
        times: Times {
            connect: 150,
            ..Times::default()
        },
        retries: 2,
        ..Plan::default()
    });
    let began = Instant::now();
    let mut client = proxy.connect();
    client.write_all(b"hello").unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(began.elapsed() >= Duration::from_millis(290));
    let record = proxy.record();
    assert_eq!(record.termination.to_string(), "SC");
    assert_eq!((record.retries, record.redispatched), (2, false));
    let server = proxy.backend().servers.get(MemberId(0)).unwrap();
    assert_eq!(server.state.connect_errors.load(Ordering::SeqCst), 3);
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn redispatch_takes_a_refused_session_to_the_other_server_at_once() {
    let proxy = start(Plan {
        servers: vec![tcp(refusing()), tcp(echo())],
        retries: 1,
        redispatch: -1,
        algorithm: Algorithm::LeastConn,
        ..Plan::default()
    });
    let mut redispatched = 0;
    for _ in 0..4 {
        let began = Instant::now();
        let mut client = proxy.connect();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        assert!(began.elapsed() < Duration::from_millis(900), "it waited");
        drop(client);
        let record = proxy.record();
        assert_eq!(record.termination.to_string(), "--");
        assert_eq!(record.server.unwrap().name.as_ref(), "s1");
        redispatched += u32::from(record.redispatched);
    }
    assert!(redispatched > 0);
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn without_a_usable_server_a_session_ends_with_sc_and_no_server() {
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        ..Plan::default()
    });
    let member = proxy.backend().servers.get(MemberId(0)).unwrap().slot;
    proxy.backend().group.set_usable(member, false);
    let mut client = proxy.connect();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let record = proxy.record();
    assert_eq!(record.termination.to_string(), "SC");
    assert!(record.server.is_none() && record.queue_ms.is_none());
    proxy.backend().group.set_usable(member, true);
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(proxy.ending(), "--");
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn the_time_of_failed_attempts_is_the_queues_once_a_server_is_chosen_anew() {
    // HAProxy 2.6: `305/0/313 … +1`, and `608/-1/910 sC`.
    let (address, _listener, _fillers) = hanging();
    let with = |second: SocketAddr| {
        start(Plan {
            servers: vec![tcp(address), tcp(second)],
            times: Times {
                connect: 300,
                ..Times::default()
            },
            retries: 2,
            redispatch: 1,
            ..Plan::default()
        })
    };
    let proxy = with(echo());
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    let record = proxy.record();
    assert_eq!((record.redispatched, record.retries), (true, 1));
    let (queue, connect) = (record.queue_ms.unwrap(), record.connect_ms.unwrap());
    assert!(
        queue >= 300 && queue + connect <= record.total_ms,
        "{record:?}"
    );
    proxy.stop();
    let proxy = with(address);
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    let _ = client.read(&mut [0]);
    let record = proxy.record();
    assert_eq!(record.termination.to_string(), "sC");
    let queue = record.queue_ms.unwrap();
    assert!(queue >= 600 && queue + 300 <= record.total_ms, "{record:?}");
    assert_eq!(record.connect_ms, None);
    proxy.assert_idle();
    proxy.stop();
}

/// A server whose queue is full: connecting to it hangs. The connections that fill it come along.
fn hanging() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(150)) {
        fillers.push(stream);
        assert!(fillers.len() < 100, "the queue does not fill");
    }
    (address, listener, fillers)
}

#[test]
fn a_server_that_does_not_answer_runs_into_the_connect_timeout() {
    let (address, _listener, _fillers) = hanging();
    let proxy = start(Plan {
        servers: vec![tcp(address)],
        times: Times {
            connect: 200,
            ..Times::default()
        },
        retries: 1,
        ..Plan::default()
    });
    let began = Instant::now();
    let mut client = proxy.connect();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(390) && took < Duration::from_secs(3),
        "{took:?}"
    );
    let record = proxy.record();
    assert_eq!(record.termination.to_string(), "sC");
    assert_eq!(record.retries, 1);
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn a_client_that_goes_away_while_his_server_hangs_is_noticed() {
    let (address, _listener, _fillers) = hanging();
    let proxy = start(Plan {
        servers: vec![tcp(address)],
        times: Times {
            connect: 60_000,
            ..Times::default()
        },
        ..Plan::default()
    });
    let silent = proxy.connect();
    drop(silent);
    assert_eq!(proxy.ending(), "CC");
    let mut gone = proxy.connect();
    gone.write_all(b"words").unwrap();
    reset(gone);
    assert_eq!(proxy.ending(), "CD");
    // One who said something and sent his end still waits for an answer.
    let mut patient = proxy.connect();
    patient.write_all(b"words").unwrap();
    patient.shutdown(Shutdown::Write).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(proxy.log.receiver().try_recv().is_err());
    drop(patient);
    proxy.handles[0].end_sessions();
    assert_eq!(proxy.ending(), "KC");
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn with_abortonclose_a_client_who_sent_his_end_does_not_wait() {
    let (address, _listener, _fillers) = hanging();
    let proxy = start(Plan {
        servers: vec![tcp(address)],
        abort_on_close: true,
        times: Times {
            connect: 60_000,
            ..Times::default()
        },
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(b"words").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(proxy.ending(), "CC");
    proxy.assert_idle();
    proxy.stop();
}

/// Takes everything, says nothing, and goes when the other one goes.
fn silent() -> ServerAddress {
    tcp(server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    }))
}

#[test]
fn the_side_whose_time_runs_out_first_names_the_end() {
    // Client's time, server's time, and the letters.
    let cases = [(150, 10_000, "cD"), (10_000, 150, "sD"), (150, 150, "cD")];
    for (client_ms, server_ms, letters) in cases {
        let proxy = start(Plan {
            servers: vec![silent()],
            times: Times {
                connect: 1_000,
                client: client_ms,
                server: server_ms,
                ..Times::default()
            },
            ..Plan::default()
        });
        let began = Instant::now();
        let mut client = proxy.connect();
        client.write_all(b"hello").unwrap();
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "{letters}");
        assert!(began.elapsed() >= Duration::from_millis(145), "{letters}");
        assert!(began.elapsed() < Duration::from_secs(5), "{letters}");
        drop(client);
        let record = proxy.record();
        assert_eq!(record.termination.to_string(), letters);
        assert_eq!(record.bytes_in, 5);
        proxy.assert_idle();
        proxy.stop();
    }
}

#[test]
fn a_session_that_goes_on_does_not_time_out() {
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        times: Times {
            connect: 1_000,
            client: 200,
            server: 200,
            ..Times::default()
        },
        ..Plan::default()
    });
    let mut client = proxy.connect();
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(client);
    assert_eq!(proxy.ending(), "--");
    proxy.stop();
}

#[test]
fn a_half_closed_side_has_its_own_time() {
    let proxy = start(Plan {
        servers: vec![silent_after_end()],
        times: Times {
            connect: 1_000,
            client: 20_000,
            server: 20_000,
            server_fin: 150,
            ..Times::default()
        },
        ..Plan::default()
    });
    a_client_who_says_good_bye_is_let_go(&proxy);
    proxy.assert_idle();
    proxy.stop();
}

/// Half-closed at once, and ended by the server's time for that, not by its long one.
#[track_caller]
fn a_client_who_says_good_bye_is_let_go(proxy: &Proxy) {
    let began = Instant::now();
    let mut client = proxy.connect();
    client.write_all(b"bye").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert_eq!(proxy.ending(), "sD");
}

/// Takes everything to the end, and then never closes.
fn silent_after_end() -> ServerAddress {
    tcp(server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
        std::thread::sleep(Duration::from_secs(8));
    }))
}

/// Longer than the time of a half closed side in the tests below.
const LONG_SILENCE: Duration = Duration::from_millis(1_200);

fn half_closed_for(client_fin: u32, server_fin: u32, tunnel: u32) -> Times {
    Times {
        connect: 1_000,
        client: 20_000,
        server: 20_000,
        client_fin,
        server_fin,
        tunnel,
        ..Times::default()
    }
}

#[test]
fn the_time_of_a_half_closed_side_begins_when_it_is_closed() {
    let answers_late = || {
        tcp(server(|mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
            let _ = stream.write_all(b"late");
        }))
    };
    for tunnel in [0, 20_000] {
        let proxy = start(Plan {
            servers: vec![answers_late()],
            times: half_closed_for(0, 1_000, tunnel),
            ..Plan::default()
        });
        let mut client = proxy.connect();
        client.write_all(b"q").unwrap();
        std::thread::sleep(LONG_SILENCE);
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!((answer.as_str(), tunnel), ("late", tunnel));
        assert_eq!(proxy.ending(), "--");
        proxy.assert_idle();
        proxy.stop();
    }
}

#[test]
fn the_time_of_a_client_begins_when_his_server_is_done() {
    let (sender, received) = std::sync::mpsc::channel();
    let proxy = start(Plan {
        servers: vec![tcp(server(move |mut stream| {
            std::thread::sleep(LONG_SILENCE);
            stream.shutdown(Shutdown::Write).unwrap();
            let mut words = String::new();
            let _ = stream.read_to_string(&mut words);
            let _ = sender.send(words);
        }))],
        times: half_closed_for(1_000, 0, 0),
        ..Plan::default()
    });
    let mut client = proxy.connect();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    client.write_all(b"last words").unwrap();
    drop(client);
    assert_eq!(received.recv_timeout(PATIENCE).unwrap(), "last words");
    assert_eq!(proxy.ending(), "--");
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn the_tunnel_time_replaces_both_from_the_connection_to_the_server_on() {
    // Who speaks, the usual times, the tunnel's, and how long it lasts at least.
    let cases = [
        ("both", echo(), &b"x"[..], 150, 700, 650),
        ("the client", mute(), b"x", 150, 700, 650),
        ("nobody", mute(), b"", 150, 700, 650),
        ("both", echo(), b"x", 20_000, 300, 290),
        ("the client", mute(), b"x", 20_000, 300, 290),
        ("nobody", mute(), b"", 20_000, 300, 290),
    ];
    for (label, server, words, usual, tunnel, at_least) in cases {
        let proxy = start(Plan {
            servers: vec![tcp(server)],
            times: Times {
                connect: 1_000,
                client: usual,
                server: usual,
                tunnel,
                ..Times::default()
            },
            ..Plan::default()
        });
        let began = Instant::now();
        let mut client = proxy.connect();
        client.write_all(words).unwrap();
        let _ = client.read_to_end(&mut Vec::new());
        let took = began.elapsed();
        let fits = Duration::from_millis(at_least)..Duration::from_secs(6);
        assert!(fits.contains(&took), "{label}, {usual}, {tunnel}: {took:?}");
        drop(client);
        assert_eq!(proxy.ending(), "cD", "{label}, {usual}, {tunnel}");
        proxy.stop();
    }
}

#[test]
fn a_half_closed_tunnel_has_the_time_of_that_side() {
    let proxy = start(Plan {
        servers: vec![silent_after_end()],
        times: half_closed_for(0, 150, 20_000),
        ..Plan::default()
    });
    a_client_who_says_good_bye_is_let_go(&proxy);
    proxy.stop();
}

/// Takes everything to the end, and says nothing.
fn mute() -> SocketAddr {
    server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    })
}

#[test]
fn a_silent_client_of_a_server_that_hangs_waits_no_longer_than_his_time() {
    // HAProxy makes all attempts for him: 1200 ms, and then the same letters.
    let (address, _listener, _fillers) = hanging();
    let proxy = start(Plan {
        servers: vec![tcp(address)],
        retries: 30,
        times: Times {
            connect: 300,
            client: 700,
            ..Times::default()
        },
        ..Plan::default()
    });
    let mut client = proxy.connect();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    let record = proxy.record();
    assert_eq!(record.termination.to_string(), "cC");
    assert!((700..6_000).contains(&record.total_ms), "{record:?}");
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn a_client_that_does_not_read_a_flood_times_out_and_frees_everything() {
    for splice in [false, true] {
        let flood = server(|mut stream| {
            let chunk = [7; 65_536];
            while stream.write_all(&chunk).is_ok() {}
        });
        let proxy = start(Plan {
            servers: vec![tcp(flood)],
            splice,
            times: Times {
                connect: 1_000,
                client: 300,
                server: 10_000,
                ..Times::default()
            },
            ..Plan::default()
        });
        let client = proxy.connect();
        assert_eq!(proxy.ending(), "cD");
        drop(client);
        proxy.assert_idle();
        proxy.stop();
    }
}

#[test]
fn killed_sessions_say_so_and_the_worker_takes_new_ones() {
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    proxy.handles[0].end_sessions();
    let ended = client.read(&mut [0]).map_err(|error| error.kind());
    assert!(matches!(ended, Ok(0) | Err(ErrorKind::ConnectionReset)));
    assert_eq!(proxy.ending(), "K-");
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(proxy.ending(), "--");
    proxy.stop();
}

#[test]
fn a_worker_that_stops_accepting_serves_its_queue_and_drains() {
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    proxy.handles[0].pause();
    eventually("it pauses", || proxy.handles[0].has_obeyed());
    // Queued while paused: the promise is that it is served.
    let mut queued = proxy.connect();
    queued.write_all(b"q").unwrap();
    queued
        .set_read_timeout(Some(Duration::from_millis(150)))
        .unwrap();
    assert_eq!(
        queued.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    queued.set_read_timeout(Some(PATIENCE)).unwrap();
    proxy.handles[0].stop_accepting();
    queued.read_exact(&mut [0]).unwrap();
    client.write_all(b"y").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop((client, queued));
    assert_eq!(proxy.wait_for_event(), WorkerEvent::Drained { worker: 0 });
    proxy.assert_idle();
    let address = proxy.address;
    proxy.stop();
    assert!(
        TcpStream::connect(address).is_err(),
        "the listener is closed"
    );
}

#[test]
fn a_paused_worker_leaves_its_queue_and_resumes() {
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        ..Plan::default()
    });
    proxy.handles[0].pause();
    eventually("it pauses", || proxy.handles[0].has_obeyed());
    let mut queued = proxy.connect();
    queued.write_all(b"q").unwrap();
    queued
        .set_read_timeout(Some(Duration::from_millis(150)))
        .unwrap();
    assert_eq!(
        queued.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::WouldBlock
    );
    proxy.handles[0].resume();
    queued.set_read_timeout(Some(PATIENCE)).unwrap();
    queued.read_exact(&mut [0]).unwrap();
    proxy.stop();
}

/// A server that sends a byte every 20 ms, 40 of them, and stops early at the client's end.
fn dripping() -> SocketAddr {
    server(|mut stream| {
        stream.set_nonblocking(true).unwrap();
        for _ in 0..40 {
            if matches!(stream.read(&mut [0]), Ok(0)) || stream.write_all(b"y").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}

#[test]
fn a_client_that_only_listens_is_silent_where_streams_are_independent() {
    // Compared with HAProxy 2.6: there the server sees the client's end, and the line says cD.
    for (independent, ending, whole) in [(false, "--", true), (true, "cD", false)] {
        let proxy = start(Plan {
            servers: vec![tcp(dripping())],
            times: Times {
                client: 200,
                server: 5_000,
                ..Times::default()
            },
            independent: (independent, false),
            ..Plan::default()
        });
        let mut client = proxy.connect();
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        drop(client);
        assert_eq!(proxy.ending(), ending);
        assert_eq!(got.len() == 40, whole, "{} bytes", got.len());
        proxy.stop();
    }
}

#[test]
fn a_server_that_only_listens_is_silent_where_streams_are_independent() {
    for (independent, ending) in [(false, "--"), (true, "sD")] {
        let proxy = start(Plan {
            servers: vec![tcp(server(
                |mut stream| while let Ok(1..) = stream.read(&mut [0]) {},
            ))],
            times: Times {
                client: 5_000,
                server: 200,
                ..Times::default()
            },
            independent: (false, independent),
            ..Plan::default()
        });
        let mut client = proxy.connect();
        for _ in 0..25 {
            if client.write_all(b"x").is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        drop(client);
        assert_eq!(proxy.ending(), ending);
        proxy.stop();
    }
}
