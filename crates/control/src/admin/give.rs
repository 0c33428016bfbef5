//! Listeners to another process that asks as HAProxy does.
//!
//! Decides:  how long the other side may take over each message, and that it has them as soon as the
//!           last message is on its way: whatever it does then, nobody may shut them down here.
//! Source:   src/cli.c, _getsocks(), 2.6, which waits one second for each answer.
//! Not here: the messages (getsocks.rs), which sockets (run/handing.rs). It blocks: it is for a
//!           thread of its own.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portcullis_sys::pass;

use super::getsocks::{Names, WORD, announcement, messages};

/// How long the other side may take to read, and to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket to be given.
#[derive(Debug, Clone)]
pub struct Gift {
    /// The socket.
    pub fd: Arc<OwnedFd>,
    /// What it does not tell itself.
    pub names: Names,
    /// Becomes true when another process has it.
    pub given: Arc<AtomicBool>,
}

/// Gives these through a connection on which they were asked for. On an error the other side cannot
/// know all of them; those that it has are marked.
pub fn give(stream: &UnixStream, gifts: &[Gift]) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let names: Vec<Names> = gifts.iter().map(|gift| gift.names.clone()).collect();
    let messages = messages(&names).map_err(|at| {
        let namespace = &names[at].namespace;
        io::Error::other(format!("the name `{namespace}` is too long to be said"))
    })?;
    let mut stream = stream;
    stream.write_all(&announcement(gifts.len()))?;
    let mut rest = gifts;
    for (count, bytes) in messages {
        let (now, later) = rest.split_at(count.min(rest.len()));
        rest = later;
        let descriptors: Vec<_> = now.iter().map(|gift| gift.fd.as_fd()).collect();
        let mark = |given| {
            for gift in now {
                gift.given.store(given, Ordering::SeqCst);
            }
        };
        // Before it can tell us to stop.
        mark(true);
        if let Err(error) = pass::send(stream, &bytes, &descriptors) {
            mark(false);
            return Err(error);
        }
        let mut answer = [0; WORD];
        match stream.read_exact(&mut answer) {
            Ok(()) => {}
            // It has all of them, and went without a word.
            Err(error) if rest.is_empty() && error.kind() == io::ErrorKind::UnexpectedEof => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::take::{NotTaken, receive};
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    fn gifts(count: usize) -> Vec<Gift> {
        let listener: Arc<OwnedFd> = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap().into());
        let gift = |n: usize| Gift {
            fd: Arc::clone(&listener),
            names: Names {
                namespace: "n".repeat(n % 3),
                interface: String::new(),
            },
            given: Arc::default(),
        };
        (0..count).map(gift).collect()
    }

    #[test]
    fn what_is_given_is_what_is_taken() {
        for count in [0, 1, 2, 252, 253, 600] {
            let (here, there) = UnixStream::pair().unwrap();
            let gifts = gifts(count);
            let expected: Vec<Names> = gifts.iter().map(|gift| gift.names.clone()).collect();
            let taker = thread::spawn(move || receive(&there).unwrap());
            give(&here, &gifts).unwrap();
            let taken = taker.join().unwrap();
            let names: Vec<Names> = taken.into_iter().map(|(_, names)| names).collect();
            assert_eq!(names, expected, "{count}");
            let marked = gifts.iter().all(|gift| gift.given.load(Ordering::SeqCst));
            assert!(marked, "{count}");
        }
    }

    #[test]
    fn a_taker_that_goes_away_in_the_middle_has_what_it_has() {
        let (here, there) = UnixStream::pair().unwrap();
        let gifts = gifts(300);
        let taker = thread::spawn(move || {
            let mut count = [0; WORD];
            (&there).read_exact(&mut count).unwrap();
            let mut bytes = vec![0; 1 << 16];
            let message = pass::receive(&there, &mut bytes).unwrap();
            message.descriptors.len()
        });
        assert!(give(&here, &gifts).is_err());
        assert_eq!(taker.join().unwrap(), 252);
        let marked = gifts
            .iter()
            .filter(|gift| gift.given.load(Ordering::SeqCst));
        assert_eq!(marked.count(), 252);
    }

    #[test]
    fn one_that_takes_nothing_at_all_leaves_everything_as_it_was() {
        let (here, there) = UnixStream::pair().unwrap();
        drop(there);
        let gifts = gifts(2);
        assert!(give(&here, &gifts).is_err());
        assert!(gifts.iter().all(|gift| !gift.given.load(Ordering::SeqCst)));
    }

    #[test]
    fn what_breaks_the_protocol_is_refused_and_what_came_is_closed() {
        let fd = gifts(1).remove(0).fd;
        let send = |announced: i32, messages: &[(&[u8], usize)]| {
            let (here, there) = UnixStream::pair().unwrap();
            (&there).write_all(&announced.to_ne_bytes()).unwrap();
            for (bytes, count) in messages {
                pass::send(&there, bytes, &vec![fd.as_fd(); *count]).unwrap();
            }
            there.shutdown(std::net::Shutdown::Write).unwrap();
            receive(&here).map(|taken| taken.len())
        };
        assert_eq!(send(1, &[(&[0; 6], 1)]).unwrap(), 1);
        for (label, announced, messages) in [
            ("a negative number", -1, &[][..]),
            ("more than announced", 1, &[(&[0; 12][..], 2)][..]),
            ("fewer than announced", 3, &[(&[0; 6], 1)]),
            ("no descriptor", 1, &[(&[0; 6], 0)]),
            ("names cut short", 1, &[(&[9; 3], 1)]),
        ] {
            let refused = send(announced, messages);
            assert!(
                matches!(refused, Err(NotTaken::Malformed(_))),
                "{label}: {refused:?}"
            );
        }
    }
}
