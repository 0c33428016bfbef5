//! The kernel's answers on a tape, so that a changed model can be tried without the kernel.
//!
//! Decides:  the bytes of an answer. The scripts are not on the tape: its header says which they are, and
//!           seed and index make them again.
//! Not here: when a script differs (compare.rs).

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use portcullis_kernel_model::Bytes;

use crate::compare::Source;
use crate::run::Part;
use crate::step::{Op, Outcome, Script, Seen, Step};
use crate::times::Ended;

/// How a tape begins. Another number, where the bytes of an answer or the scripts of a seed change.
const MAGIC: &[u8; 8] = b"tape 2\r\n";
const NOTHING: u8 = 0xff;
const WINDOW: u8 = 0xfe;
const END: u8 = 0xfd;
const LEFT_OUT: u8 = 0xfc;
/// Behind the last of the scripts that are one, run many times: their answers are not all there are.
const UNCLEAR: u8 = 0xfb;
const HAS_NAME: u8 = 0x10;
const HAS_STATE: u8 = 0x20;
const HAS_RECEIVER: u8 = 0x40;

/// Writes a tape.
pub struct Writer {
    file: BufWriter<File>,
    window: Option<u16>,
    script: Vec<u8>,
}

/// On which host a tape was recorded, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The kernel's release.
    pub kernel: (u8, u8),
    /// The user that ran it.
    pub user: u32,
    /// The processor of the run.
    pub cpu: i32,
    /// Several users existed.
    pub several_users: bool,
    /// Which scripts.
    pub part: Part,
}

impl Header {
    fn bytes(self) -> io::Result<Vec<u8>> {
        let (kind, numbers) = match self.part {
            Part::Exhaustive { from, stride } => (0, [from, stride]),
            Part::Random { seed, from } => (1, [seed, from]),
            Part::Time { seed, from } => (2, [seed, from]),
            Part::Draws { seed, from } => (3, [seed, from]),
            Part::Processes { .. } => {
                return Err(io::Error::other("scenarios are kept on no tape"));
            }
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend([self.kernel.0, self.kernel.1, self.several_users.into()]);
        bytes.extend(self.user.to_le_bytes());
        bytes.extend(self.cpu.to_le_bytes());
        bytes.push(kind);
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        Ok(bytes)
    }

    fn read(reader: &mut Reader<'_>) -> io::Result<Header> {
        let foreign = || io::Error::other("not a tape, or of another version");
        if reader.take().ok() != Some(*MAGIC) {
            return Err(foreign());
        }
        let [major, minor, several] = reader.take()?;
        let user = u32::from_le_bytes(reader.take()?);
        let cpu = i32::from_le_bytes(reader.take()?);
        let [kind] = reader.take()?;
        let first = u64::from_le_bytes(reader.take()?);
        let second = u64::from_le_bytes(reader.take()?);
        let (seed, from) = (first, second);
        let part = match kind {
            0 if second > 0 => Part::Exhaustive {
                from: first,
                stride: second,
            },
            1 => Part::Random { seed, from },
            2 => Part::Time { seed, from },
            3 => Part::Draws { seed, from },
            _ => return Err(foreign()),
        };
        Ok(Header {
            kernel: (major, minor),
            several_users: several != 0,
            user,
            cpu,
            part,
        })
    }
}

impl Writer {
    /// A new tape.
    pub fn create(path: &Path, header: Header) -> io::Result<Writer> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&header.bytes()?)?;
        Ok(Writer {
            file,
            window: None,
            script: Vec::new(),
        })
    }

    /// The scripts that follow run on the ports of this window.
    pub fn window(&mut self, window: u16) -> io::Result<()> {
        if self.window == Some(window) {
            return Ok(());
        }
        self.window = Some(window);
        self.file
            .write_all(&[WINDOW, window as u8, (window >> 8) as u8])
    }

    /// A script is over. One on which the worlds differed is left out, so that a replay tells only of
    /// what changed since.
    pub fn end_script(&mut self, agreed: bool) -> io::Result<()> {
        if agreed {
            self.file.write_all(&self.script)?;
        } else {
            self.file.write_all(&[LEFT_OUT])?;
        }
        self.script.clear();
        self.file.write_all(&[END])
    }

    /// The answer to a step.
    pub fn seen(&mut self, seen: Option<&Seen>) {
        match seen {
            None => self.script.push(NOTHING),
            Some(seen) => encode(seen, &mut self.script),
        }
    }

    /// Of the script that was run many times until now, the kernel has other answers besides.
    pub fn unclear(&mut self) -> io::Result<()> {
        self.file.write_all(&[UNCLEAR])
    }

    /// A script that is over already, with all answers.
    pub fn whole(&mut self, script: &Script, ended: &Ended) -> io::Result<()> {
        self.window(ended.window)?;
        for (step, seen) in script.steps.iter().zip(&ended.said) {
            // Waiting is no answer; a step that made no sense was not asked.
            if !matches!(step.op, Op::Wait(_)) && seen.is_some() {
                self.seen(seen.as_ref());
            }
        }
        self.end_script(ended.difference.is_none())
    }

    /// Everything is written.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn encode(seen: &Seen, to: &mut Vec<u8>) {
    let kind = match seen.outcome {
        Outcome::Ok => 0,
        Outcome::Err(_) => 1,
        Outcome::Value(_) => 2,
        Outcome::Address(_) => 3,
        Outcome::Accepted => 4,
        Outcome::Blocks => 5,
        Outcome::Bytes(_) => 6,
    };
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    to.push(
        kind | flag(seen.name.is_some(), HAS_NAME)
            | flag(seen.state != 0, HAS_STATE)
            | flag(seen.receiver.is_some(), HAS_RECEIVER),
    );
    match seen.outcome {
        Outcome::Err(errno) => to.push(errno as u8),
        Outcome::Value(value) => to.extend(value.to_le_bytes()),
        Outcome::Bytes(bytes) => {
            let bytes = bytes.as_slice();
            to.push(bytes.len() as u8);
            to.extend(bytes);
        }
        Outcome::Address(address) => encode_address(address, to),
        Outcome::Ok | Outcome::Accepted | Outcome::Blocks => {}
    }
    if let Some(name) = seen.name {
        encode_address(name, to);
    }
    if seen.state != 0 {
        to.push(seen.state);
    }
    if let Some(receiver) = seen.receiver {
        to.push(receiver);
    }
}

fn encode_address(address: SocketAddr, to: &mut Vec<u8>) {
    match address {
        SocketAddr::V4(v4) => {
            to.push(4);
            to.extend(v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            to.push(6);
            to.extend(v6.ip().octets());
            to.push(v6.scope_id() as u8);
        }
    }
    to.extend(address.port().to_le_bytes());
}

/// Reads a tape.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// From the first script on.
    pub fn open(bytes: &'a [u8]) -> io::Result<(Header, Reader<'a>)> {
        let mut reader = Reader { bytes };
        let header = Header::read(&mut reader)?;
        Ok((header, reader))
    }

    /// Whether it is over.
    #[must_use]
    pub fn at_end(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The window that stands here, if one does.
    pub fn window(&mut self) -> Option<u16> {
        match *self.bytes {
            [WINDOW, low, high, ref rest @ ..] => {
                self.bytes = rest;
                Some(u16::from_le_bytes([low, high]))
            }
            _ => None,
        }
    }

    /// Whether it says here that the answers until now are not all that there are.
    pub fn unclear(&mut self) -> bool {
        let unclear = self.bytes.first() == Some(&UNCLEAR);
        self.bytes = &self.bytes[usize::from(unclear)..];
        unclear
    }

    /// Whether the script that begins here was left out.
    #[must_use]
    pub fn left_out(&self) -> bool {
        self.bytes.first() == Some(&LEFT_OUT)
    }

    /// Goes to the next script, whatever is left of this one.
    pub fn next_script(&mut self) -> io::Result<()> {
        loop {
            match self.bytes.first() {
                Some(&END) => {
                    self.bytes = &self.bytes[1..];
                    return Ok(());
                }
                Some(&LEFT_OUT) => self.bytes = &self.bytes[1..],
                _ => {
                    self.seen()?;
                }
            }
        }
    }

    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (head, rest) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        self.bytes = rest;
        Ok(*head)
    }

    fn seen(&mut self) -> io::Result<Option<Seen>> {
        let [flags] = self.take()?;
        if flags == NOTHING {
            return Ok(None);
        }
        let outcome = match flags & 0xf {
            0 => Outcome::Ok,
            1 => Outcome::Err(i32::from(self.take::<1>()?[0])),
            2 => Outcome::Value(i32::from_le_bytes(self.take()?)),
            3 => Outcome::Address(self.address()?),
            4 => Outcome::Accepted,
            5 => Outcome::Blocks,
            6 => {
                let [len] = self.take()?;
                let len = usize::from(len);
                if len > Bytes::MAX || len > self.bytes.len() {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                let (bytes, rest) = self.bytes.split_at(len);
                self.bytes = rest;
                Outcome::Bytes(Bytes::new(bytes))
            }
            _ => return Err(io::Error::other("not a tape, or of another version")),
        };
        let name = if flags & HAS_NAME != 0 {
            Some(self.address()?)
        } else {
            None
        };
        let state = if flags & HAS_STATE != 0 {
            self.take::<1>()?[0]
        } else {
            0
        };
        let receiver = if flags & HAS_RECEIVER != 0 {
            Some(self.take::<1>()?[0])
        } else {
            None
        };
        Ok(Some(Seen {
            outcome,
            name,
            state,
            receiver,
        }))
    }

    fn address(&mut self) -> io::Result<SocketAddr> {
        if self.take::<1>()? == [4] {
            let ip: [u8; 4] = self.take()?;
            return Ok(SocketAddr::new(
                IpAddr::from(ip),
                u16::from_le_bytes(self.take()?),
            ));
        }
        let ip: [u8; 16] = self.take()?;
        let [scope] = self.take()?;
        let port = u16::from_le_bytes(self.take()?);
        Ok(SocketAddr::V6(SocketAddrV6::new(
            Ipv6Addr::from(ip),
            port,
            0,
            scope.into(),
        )))
    }
}

impl Source for Reader<'_> {
    fn answer(&mut self, _: &Step) -> io::Result<Option<Seen>> {
        self.seen()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_on_what_host_and_of_which_scripts_the_tape_is() {
        let (seed, from) = (7, u64::MAX);
        for part in [
            Part::Exhaustive { from, stride: 3 },
            Part::Random { seed, from },
            Part::Time { seed, from },
            Part::Draws { seed, from },
        ] {
            let header = Header {
                kernel: (6, 18),
                user: 1000,
                cpu: 1,
                several_users: true,
                part,
            };
            let mut bytes = header.bytes().unwrap();
            assert_eq!(Reader::open(&bytes).unwrap().0, header);
            assert!(Reader::open(&bytes[..bytes.len() - 1]).is_err());
            bytes[5] += 1;
            assert!(Reader::open(&bytes).is_err());
        }
        assert!(Reader::open(b"").is_err());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let v4: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let v6: SocketAddr = "[fe80::2%3]:65535".parse().unwrap();
        let table = [
            Seen::default(),
            Seen {
                outcome: Outcome::Err(98),
                name: Some(v4),
                state: 7,
                receiver: None,
            },
            Seen {
                outcome: Outcome::Value(-1),
                ..Seen::default()
            },
            Seen {
                outcome: Outcome::Address(v6),
                ..Seen::default()
            },
            Seen {
                outcome: Outcome::Accepted,
                name: Some(v6),
                state: 1,
                receiver: Some(3),
            },
            Seen {
                outcome: Outcome::Blocks,
                ..Seen::default()
            },
            Seen {
                outcome: Outcome::Bytes(Bytes::new(b"eth0\0")),
                ..Seen::default()
            },
        ];
        let mut bytes = Vec::new();
        for seen in &table {
            encode(seen, &mut bytes);
        }
        bytes.extend([NOTHING, END, UNCLEAR, WINDOW, 1, 2]);
        let mut reader = Reader { bytes: &bytes };
        for seen in table {
            assert_eq!(reader.seen().unwrap(), Some(seen));
        }
        assert_eq!(reader.seen().unwrap(), None);
        reader.next_script().unwrap();
        assert!(reader.unclear() && !reader.unclear());
        assert_eq!(reader.window(), Some(0x201));
        assert!(reader.at_end());
        assert!(reader.seen().is_err());
    }
}
