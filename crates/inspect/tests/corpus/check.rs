//! What must hold for any bytes that pretend to be an answer of the kernel, or the file of a host.
//!
//! Decides:  no panic; what is read has no more in it than the bytes had; a file that is read is written
//!           again as the same; and questions to it are answered or refused.
//! Not here: which inputs are tried (corpus.rs, and the targets of `fuzz/`, which include this file).

#![allow(dead_code, reason = "each includer uses a part")]
#![allow(clippy::unwrap_used, reason = "the checks of tests")]

use portcullis_inspect::recorded;
use portcullis_inspect::snapshot::Snapshot;
use portcullis_inspect::traffic::traffic;
use portcullis_inspect::verdict::{Opening, ask, ask_from_socket, ask_together};
use portcullis_inspect::{Focus, Worlds};
use portcullis_kernel_model::Opt;

/// The least that a message has: its header.
const MESSAGE: usize = 16;
/// Questions to larger hosts take longer than a fuzzer should wait.
const SOCKETS_MAX: usize = 200;

/// Bytes as an answer, of each kind.
pub fn answer(bytes: &[u8]) {
    if let Ok(sockets) = recorded::sockets(bytes) {
        assert!(sockets.len() * MESSAGE <= bytes.len());
        for socket in sockets {
            assert!(socket.peer.is_none_or(|peer| peer.port() != 0));
        }
    }
    if let Ok(sockets) = recorded::unix_sockets(bytes) {
        assert!(sockets.len() * MESSAGE <= bytes.len());
    }
    if let Ok(count) = recorded::interfaces(bytes) {
        assert!(count * MESSAGE <= bytes.len());
    }
    let _ = recorded::kernel_types(bytes);
}

/// Bytes as a file.
pub fn snapshot(bytes: &[u8]) {
    let Ok(snapshot) = Snapshot::parse(bytes) else {
        return;
    };
    let text = snapshot.render().unwrap();
    assert_eq!(Snapshot::parse(text.as_bytes()).unwrap(), snapshot);
    let all = snapshot.namespaces.iter().map(|net| net.sockets.len());
    if all.sum::<usize>() > SOCKETS_MAX || snapshot.namespaces.len() > SOCKETS_MAX {
        return;
    }
    let _ = Worlds::of(
        &snapshot,
        Focus {
            port: None,
            near: 0,
        },
    );
    let first = snapshot
        .namespaces
        .first()
        .and_then(|net| net.sockets.first());
    let port = first.map_or(80, |socket| socket.local.port());
    let mut four = Opening::new(([0, 0, 0, 0], port).into());
    four.options = vec![Opt::ReuseAddr(true), Opt::ReusePort(true)];
    let six = Opening::new(([0u16; 8], port).into());
    if let Ok(verdict) = ask(&snapshot, &four) {
        let _ = verdict.to_string();
    }
    let together = ask_together(&snapshot, &[four.clone(), six, four]);
    assert!(together.is_err() || together.is_ok_and(|all| all.len() == 3));
}

/// Questions whose answers are searched for: a port that the kernel chooses, and who gets a connection.
pub fn questions(bytes: &[u8]) {
    let Ok(snapshot) = Snapshot::parse(bytes) else {
        return;
    };
    let mut chosen = Opening::new(([127, 0, 0, 1], 0).into());
    for options in [
        vec![],
        vec![Opt::ReusePort(true)],
        vec![Opt::ReuseAddr(true)],
    ] {
        chosen.options = options;
        if let Ok(verdict) = ask_from_socket(&snapshot, &chosen) {
            let _ = verdict.to_string();
        }
    }
    let sockets = snapshot.namespaces.first().map(|net| &net.sockets);
    if let Some(socket) = sockets.and_then(|all| all.first())
        && let Ok(traffic) = traffic(&snapshot, socket.local, None)
    {
        let _ = traffic.to_string();
    }
}
