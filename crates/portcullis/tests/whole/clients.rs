//! Clients: plain sockets with deadlines, so that no test hangs.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::harness::SOON;

/// Longest wait of a read or a write.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How a stream of bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The other side said that it is done.
    Closed,
    /// The other side reset the connection.
    Reset,
}

/// Connects, with deadlines set.
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = match TcpStream::connect_timeout(&address, SOON) {
        Ok(stream) => stream,
        Err(error) => panic!("cannot connect to {address}: {error}"),
    };
    with_deadlines(stream)
}

pub fn with_deadlines(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Writes a line and reads one.
#[track_caller]
pub fn ask(stream: &mut TcpStream, line: &str) -> String {
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    read_line(stream)
}

/// Reads a line, byte by byte so that nothing after it is taken; empty at the end.
#[track_caller]
pub fn read_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte == *b"\n" => break,
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("no line: {error}"),
        }
    }
    String::from_utf8_lossy(&line).into_owned()
}

/// Reads until the stream ends, and says how and after how many bytes.
///
/// # Panics
///
/// When it does not end.
#[track_caller]
pub fn drain(stream: &mut TcpStream) -> (usize, End) {
    let mut total = 0;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (total, End::Closed),
            Ok(count) => total += count,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                return (total, End::Reset);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("the stream does not end: {error}"),
        }
    }
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

/// Lets this process have as many descriptors as it may.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    limit.current.unwrap_or(u64::MAX)
}

/// Connects from this address.
#[track_caller]
pub fn connect_from(source: std::net::Ipv4Addr, address: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from((source, 0))).unwrap();
    if let Err(error) = rustix::net::connect(&socket, &address) {
        panic!("cannot connect to {address} from {source}: {error}");
    }
    with_deadlines(TcpStream::from(socket))
}
