//! The demo's servers: each answers with its name, to `nc` and to `curl`.
//!
//! Decides:  that a first line that looks like an HTTP request gets one HTTP response, and that
//!           any other line comes back with the server's name before it.
//! Not here: the balancer in front of them (the same code as `run`).

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Connections that one server serves at once; more are closed.
const MAX_CONNECTIONS: usize = 512;
/// The longest line that is held to be answered as one; longer ones are answered in pieces.
const MAX_LINE: usize = 8 << 10;
/// A connection that says nothing for so long is closed.
const PATIENCE: Duration = Duration::from_secs(120);

/// Starts a server on a free port of 127.0.0.1, in threads of its own; it lives as long as the
/// process.
pub fn start(name: &'static str) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::Builder::new()
        .name(format!("echo-{name}"))
        .spawn(move || accept(&listener, name))?;
    Ok(address)
}

fn accept(listener: &TcpListener, name: &'static str) {
    let serving = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        let Ok(connection) = connection else {
            // No descriptor left, most likely: let some sessions end.
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if serving.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            serving.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let counted = Arc::clone(&serving);
        let spawned = std::thread::Builder::new()
            .stack_size(128 << 10)
            .spawn(move || {
                // A client that goes away is no news here.
                let _ = serve(&connection, name);
                counted.fetch_sub(1, Ordering::AcqRel);
            });
        if spawned.is_err() {
            serving.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn serve(mut connection: &TcpStream, name: &str) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    let mut answers = Answers::new(name);
    let mut buffer = [0_u8; 4096];
    let mut out = Vec::new();
    loop {
        let read = connection.read(&mut buffer)?;
        let more = if read == 0 {
            answers.end(&mut out);
            More::No
        } else {
            answers.take(&buffer[..read], &mut out)
        };
        connection.write_all(&out)?;
        out.clear();
        if more == More::No {
            return Ok(());
        }
    }
}

/// Does the conversation go on?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

/// What a server says to what it hears; no I/O.
struct Answers<'a> {
    name: &'a str,
    held: Vec<u8>,
    speech: Speech,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speech {
    Unknown,
    Lines,
    Http,
}

impl<'a> Answers<'a> {
    fn new(name: &'a str) -> Self {
        Answers {
            name,
            held: Vec::new(),
            speech: Speech::Unknown,
        }
    }

    /// Takes in `bytes` and adds what is answered to `out`.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> More {
        self.held.extend_from_slice(bytes);
        loop {
            match self.speech {
                Speech::Unknown => match self.held.iter().position(|&b| b == b'\n') {
                    Some(end) if is_request(&self.held[..end]) => self.speech = Speech::Http,
                    Some(_) => self.speech = Speech::Lines,
                    None if self.held.len() >= MAX_LINE => self.speech = Speech::Lines,
                    None => return More::Yes,
                },
                Speech::Http => return self.http(out),
                Speech::Lines => {
                    self.lines(out);
                    return More::Yes;
                }
            }
        }
    }

    /// The client said its last: what is held is answered too.
    fn end(&mut self, out: &mut Vec<u8>) {
        if self.speech != Speech::Http && !self.held.is_empty() {
            let last = std::mem::take(&mut self.held);
            self.line(&last, out);
        }
    }

    fn lines(&mut self, out: &mut Vec<u8>) {
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            self.line(&rest[..=end], out);
            rest = &rest[end + 1..];
        }
        if rest.len() >= MAX_LINE {
            self.line(rest, out);
        } else {
            self.held = rest.to_vec();
        }
    }

    fn line(&self, line: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(line);
    }

    /// Waits for the end of the head, then answers it, once.
    fn http(&mut self, out: &mut Vec<u8>) -> More {
        let complete = contains(&self.held, b"\r\n\r\n") || contains(&self.held, b"\n\n");
        if !complete && self.held.len() < MAX_LINE {
            return More::Yes;
        }
        let body = format!("Hello from server {}.\n", self.name);
        let head = format!(
            "HTTP/1.1 200 OK\r\nServer: {}\r\nContent-Type: text/plain\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.name,
            body.len()
        );
        out.extend_from_slice(head.as_bytes());
        if !self.held.starts_with(b"HEAD ") {
            out.extend_from_slice(body.as_bytes());
        }
        More::No
    }
}

/// A first line like `GET / HTTP/1.1`.
fn is_request(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|&b| b == b' ');
    let method = words.next().unwrap_or_default();
    let version = words.nth(1).unwrap_or_default();
    !method.is_empty()
        && method.iter().all(u8::is_ascii_uppercase)
        && version.starts_with(b"HTTP/1.")
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the server answers to these pieces followed by the end, and whether it closes first.
    fn said(pieces: &[&str]) -> (String, More) {
        let mut answers = Answers::new("elm");
        let mut out = Vec::new();
        for piece in pieces {
            if answers.take(piece.as_bytes(), &mut out) == More::No {
                return (String::from_utf8(out).unwrap(), More::No);
            }
        }
        answers.end(&mut out);
        (String::from_utf8(out).unwrap(), More::Yes)
    }

    #[test]
    fn every_line_comes_back_with_the_servers_name() {
        for (label, pieces, answer) in [
            ("one line", &["hello\n"][..], "elm: hello\n"),
            ("two at once", &["a\nb\n"], "elm: a\nelm: b\n"),
            (
                "in pieces",
                &["he", "llo\nwo", "rld"],
                "elm: hello\nelm: world",
            ),
            ("no line end", &["x"], "elm: x"),
            ("nothing", &[], ""),
            ("almost HTTP", &["GET up\n"], "elm: GET up\n"),
        ] {
            assert_eq!(said(pieces), (answer.to_owned(), More::Yes), "{label}");
        }
    }

    #[test]
    fn an_http_request_gets_one_response_that_names_the_server() {
        let (answer, more) = said(&["GET / HT", "TP/1.1\r\nHost: x\r\n", "\r\n"]);
        assert_eq!(more, More::No);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("Content-Length: 23\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nHello from server elm.\n"));
        let (answer, _) = said(&["HEAD / HTTP/1.1\r\n\r\n"]);
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    }

    #[test]
    fn a_line_without_end_is_answered_in_pieces_and_never_held_whole() {
        let mut answers = Answers::new("elm");
        let mut out = Vec::new();
        for _ in 0..100 {
            answers.take(&[b'x'; 1000], &mut out);
            assert!(answers.held.len() <= MAX_LINE + 1000);
        }
        assert!(out.iter().filter(|&&b| b == b'x').count() > 90_000);
    }

    #[test]
    fn a_server_answers_over_a_socket() {
        let address = start("elm").unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"hello\n").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "elm: hello\n");
    }
}
