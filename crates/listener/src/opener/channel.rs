//! One end of the socket pair between the opener and the process that it opens for.
//!
//! Decides:  how long to wait for the other side.
//! Kernel:   net/unix/af_unix.c, net/core/scm.c (`too_many_unix_fds`); 6.1 to 6.18
//! Not here: which packets are a message (codec.rs), what it says (message.rs).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use portcullis_sys::pass;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::OpenerError;
use super::codec::{self, Assembler, MAX_PACKET, Message};

/// How long the other side may take to read a message before it counts as hung.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// While the kernel says `ETOOMANYREFS`, how long until the next attempt.
const TOO_MANY_ON_THE_WAY_DELAY: Duration = Duration::from_millis(5);

/// One end.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    assembler: Assembler<OwnedFd>,
    buffer: Vec<u8>,
}

/// What one packet brought.
#[derive(Debug)]
pub(super) enum Arrival {
    /// Nothing waits, or a part of a message came.
    NotYet,
    /// A whole message.
    Message(Message<OwnedFd>),
    /// The other side is gone.
    Gone,
}

impl Channel {
    /// Both ends: `SOCK_SEQPACKET`, so that packets keep their bounds and each knows of the
    /// other's end.
    pub(crate) fn pair() -> io::Result<(Channel, Channel)> {
        let (one, other) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Channel::new(one), Channel::new(other)))
    }

    pub(crate) fn new(socket: OwnedFd) -> Channel {
        Channel {
            socket,
            assembler: Assembler::default(),
            buffer: vec![0; MAX_PACKET + 1], // one more, so that an oversized packet shows
        }
    }

    /// Sends a whole message. Fails when the other side is gone or does not read.
    pub(crate) fn send(
        &mut self,
        id: u32,
        text: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), OpenerError> {
        self.send_within(SEND_TIMEOUT, id, text, descriptors)
    }

    /// The time is for the whole message: one who reads a packet now and then would otherwise
    /// hold the opener, and the signals that it passes on, for as long as there are packets.
    fn send_within(
        &mut self,
        patience: Duration,
        id: u32,
        text: &[u8],
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), OpenerError> {
        let deadline = Instant::now() + patience;
        let mut bytes = Vec::with_capacity(MAX_PACKET);
        for packet in codec::packets(id, text.len(), descriptors.len())? {
            bytes.clear();
            bytes.extend_from_slice(&packet.header);
            bytes.extend_from_slice(&text[packet.text]);
            if !self.send_packet(&bytes, &descriptors[packet.descriptors], deadline)? {
                return Err(OpenerError::TimedOut { waited: patience });
            }
        }
        Ok(())
    }

    /// Sends one packet; `false` if the deadline passed.
    fn send_packet(
        &self,
        bytes: &[u8],
        descriptors: &[BorrowedFd<'_>],
        deadline: Instant,
    ) -> Result<bool, OpenerError> {
        loop {
            let error = match pass::send(&self.socket, bytes, descriptors) {
                Ok(()) => return Ok(true),
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::AGAIN) => {
                    if !wait(&self.socket, PollFlags::OUT, deadline)? {
                        return Ok(false);
                    }
                }
                // More descriptors of ours are on their way than RLIMIT_NOFILE: the other side
                // has to read some first, and no event says that it did.
                Some(Errno::TOOMANYREFS) => {
                    if Instant::now() >= deadline {
                        return Ok(false);
                    }
                    std::thread::sleep(TOO_MANY_ON_THE_WAY_DELAY);
                }
                Some(Errno::PIPE | Errno::CONNRESET) => return Err(OpenerError::Gone),
                _ => return Err(OpenerError::io("cannot send to the other process", error)),
            }
        }
    }

    /// Reads one packet, without waiting for it.
    pub(super) fn arrival(&mut self) -> Result<Arrival, OpenerError> {
        self.arrival_of(None)
    }

    /// The same; packets of other messages than the wanted one are dropped, and the descriptors
    /// that came with them are closed.
    fn arrival_of(&mut self, wanted: Option<u32>) -> Result<Arrival, OpenerError> {
        let received = match pass::receive(&self.socket, &mut self.buffer) {
            Ok(received) => received,
            Err(error) => {
                return match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::AGAIN) => Ok(Arrival::NotYet),
                    Some(Errno::CONNRESET | Errno::PIPE) => Ok(Arrival::Gone),
                    _ => Err(OpenerError::io(
                        "cannot receive from the other process",
                        error,
                    )),
                };
            }
        };
        if received.length == 0 && received.descriptors.is_empty() {
            return Ok(Arrival::Gone);
        }
        let packet = &self.buffer[..received.length];
        if let (Some(wanted), Some(id)) = (wanted, codec::message_id(packet))
            && wanted != id
        {
            return Ok(Arrival::NotYet);
        }
        if received.lost_descriptors {
            return Err(OpenerError::io(
                "cannot receive descriptors from the other process",
                Errno::MFILE.into(),
            ));
        }
        Ok(match self.assembler.push(packet, received.descriptors)? {
            Some(message) => Arrival::Message(message),
            None => Arrival::NotYet,
        })
    }

    /// Waits for the message of this number; others are dropped: answers that came too late, and
    /// the rest of one that could not be read (no descriptors were left for what it brought).
    pub(crate) fn wait_for(
        &mut self,
        id: u32,
        patience: Duration,
    ) -> Result<Message<OwnedFd>, OpenerError> {
        let deadline = Instant::now() + patience;
        loop {
            match self.arrival_of(Some(id))? {
                Arrival::Message(message) => return Ok(message),
                Arrival::Gone => return Err(OpenerError::Gone),
                Arrival::NotYet => {}
            }
            if !wait(&self.socket, PollFlags::IN, deadline)? {
                return Err(OpenerError::TimedOut { waited: patience });
            }
        }
    }
}

impl Channel {
    /// Nothing comes any more than what is there: from now on the other side is refused to send.
    pub(crate) fn stop_hearing(&self) {
        // It fails only where there is no other side any more.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Read);
    }

    /// The descriptor, for another process.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits for an event until the deadline; `false` if it passed.
fn wait(socket: impl AsFd, events: PollFlags, deadline: Instant) -> Result<bool, OpenerError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec::try_from(left).ok();
        let mut fds = [PollFd::new(&socket, events)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => {
                return Err(OpenerError::io(
                    "cannot wait for the other process",
                    error.into(),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_larger_than_the_socket_buffer_passes_while_the_other_side_reads() {
        let (mut one, mut other) = Channel::pair().unwrap();
        let text = vec![b'x'; 3 << 20];
        let expected = text.clone();
        let sender = std::thread::spawn(move || one.send(5, &text, &[]).map(|()| one));
        let message = other.wait_for(5, Duration::from_secs(30)).unwrap();
        assert!(message.text == expected);
        sender.join().unwrap().unwrap();
    }

    #[test]
    fn two_thousand_descriptors_pass_in_several_packets() {
        let (mut one, mut other) = Channel::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        // Two thousand would pass the limit of 1,024 descriptors that tests often have.
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let count = if limit.current.is_none_or(|limit| limit > 2200) {
            2000
        } else {
            600
        };
        let sender = std::thread::spawn(move || {
            let many = vec![write.as_fd(); count];
            one.send(1, b"many", &many).unwrap();
        });
        let message = other.wait_for(1, Duration::from_secs(30)).unwrap();
        sender.join().unwrap();
        assert_eq!(message.descriptors.len(), count);
        drop(message);
        assert_eq!(rustix::io::read(&read, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn the_other_side_gone_is_said_when_sending_and_when_waiting() {
        let (mut one, other) = Channel::pair().unwrap();
        drop(other);
        assert!(matches!(one.send(1, b"x", &[]), Err(OpenerError::Gone)));
        assert!(matches!(
            one.wait_for(1, Duration::from_secs(5)),
            Err(OpenerError::Gone)
        ));
    }

    #[test]
    fn a_silent_other_side_is_waited_for_no_longer_than_said() {
        let (mut one, _other) = Channel::pair().unwrap();
        let patience = Duration::from_millis(20);
        assert!(matches!(
            one.wait_for(1, patience),
            Err(OpenerError::TimedOut { waited }) if waited == patience
        ));
    }

    #[test]
    fn one_who_reads_a_packet_now_and_then_is_not_waited_for_again_and_again() {
        let (mut one, mut other) = Channel::pair().unwrap();
        let patience = Duration::from_millis(200);
        let reader = std::thread::spawn(move || {
            // Slow, but never as slow as the patience; until the sender has given up.
            while !matches!(other.arrival(), Err(_) | Ok(Arrival::Gone)) {
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let error = one.send_within(patience, 1, &vec![b'x'; 4 << 20], &[]);
        assert!(matches!(error, Err(OpenerError::TimedOut { waited }) if waited == patience));
        drop(one);
        reader.join().unwrap();
    }

    #[test]
    fn the_rest_of_a_message_that_was_given_up_does_not_spoil_the_next() {
        let (mut one, mut other) = Channel::pair().unwrap();
        let text = vec![b'x'; 4 * MAX_PACKET];
        let packets = codec::packets(1, text.len(), 0).unwrap();
        // The first packet was lost with an error; these are still to come.
        for packet in &packets[1..] {
            let bytes = [&packet.header[..], &text[packet.text.clone()]].concat();
            let deadline = Instant::now() + SEND_TIMEOUT;
            assert!(other.send_packet(&bytes, &[], deadline).unwrap());
        }
        other.send(2, b"next", &[]).unwrap();
        let message = one.wait_for(2, Duration::from_secs(5)).unwrap();
        assert_eq!(message.text, b"next");
    }

    #[test]
    fn an_answer_that_comes_too_late_is_dropped_and_its_descriptors_closed() {
        let (mut one, mut other) = Channel::pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        other.send(1, b"late", &[write.as_fd()]).unwrap();
        drop(write);
        other.send(2, b"right", &[]).unwrap();
        let message = one.wait_for(2, Duration::from_secs(5)).unwrap();
        assert_eq!(message.text, b"right");
        assert_eq!(rustix::io::read(&read, &mut [0]).unwrap(), 0);
    }
}
