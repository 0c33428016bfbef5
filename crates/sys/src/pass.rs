//! Messages with descriptors over a Unix socket (`SCM_RIGHTS`).
//!
//! Decides:  that nothing is lost silently: a message that was cut is an error, lost descriptors are
//!           said, and every received descriptor is close-on-exec.
//! Kernel:   net/core/scm.c (`SCM_MAX_FD`), net/unix/af_unix.c (`unix_stream_sendmsg`); 6.1 to 6.18
//! Not here: what the messages mean (listener/opener/).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

/// `SCM_MAX_FD`: the most descriptors that the kernel takes in one message.
pub const MAX_DESCRIPTORS: usize = 253;

/// Room for the control message of `MAX_DESCRIPTORS` descriptors.
const CONTROL_SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS));

/// A message as it was received.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer it filled. 0 on a connected socket: the other side is gone.
    pub length: usize,
    /// The descriptors that came with it, close-on-exec.
    pub descriptors: Vec<OwnedFd>,
    /// Whether there were more, which the kernel could not give and has closed: this process's
    /// limit is reached.
    pub lost_descriptors: bool,
}

/// Sends one message with its descriptors (`sendmsg`, `MSG_NOSIGNAL`).
///
/// On a `SOCK_SEQPACKET` or datagram socket it goes as a whole or not at all. More than
/// [`MAX_DESCRIPTORS`] are refused with `EINVAL`, as the kernel does. `ETOOMANYREFS`: this user
/// has more descriptors on their way than `RLIMIT_NOFILE`, and may try again when the other side
/// has read some.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::from(rustix::io::Errno::INVAL));
    }
    loop {
        let sent = rustix::net::sendmsg(
            &socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        );
        match sent {
            Ok(length) if length == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message with its descriptors (`recvmsg`, `MSG_CMSG_CLOEXEC`).
///
/// A message longer than `buffer` is `EMSGSIZE`, and its descriptors are closed. For descriptors
/// that the kernel could not give see [`Received::lost_descriptors`].
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); CONTROL_SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let received = rustix::net::recvmsg(
            &socket,
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    // Taken out first, so that they are owned, and closed, whatever comes below.
    let mut descriptors = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            descriptors.extend(rights);
        }
    }
    if message.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::from(rustix::io::Errno::MSGSIZE));
    }
    Ok(Received {
        length: message.bytes,
        descriptors,
        lost_descriptors: message.flags.contains(ReturnFlags::CTRUNC),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_getfd};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap()
    }

    #[test]
    fn a_full_message_of_descriptors_arrives_close_on_exec_and_alive() {
        let (here, there) = pair();
        let (read, write) = rustix::pipe::pipe().unwrap();
        let many = vec![write.as_fd(); MAX_DESCRIPTORS];
        send(&here, b"take these", &many).unwrap();
        let mut buffer = [0; 64];
        let received = receive(&there, &mut buffer).unwrap();
        assert_eq!(&buffer[..received.length], b"take these");
        assert_eq!(received.descriptors.len(), MAX_DESCRIPTORS);
        assert!(!received.lost_descriptors);
        for fd in &received.descriptors {
            assert!(fcntl_getfd(fd).unwrap().contains(FdFlags::CLOEXEC));
        }
        rustix::io::write(received.descriptors.last().unwrap(), b"x").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&read, &mut byte).unwrap(), 1);
    }

    #[test]
    fn one_descriptor_more_than_the_kernel_takes_is_refused() {
        let (here, _there) = pair();
        let (_read, write) = rustix::pipe::pipe().unwrap();
        let many = vec![write.as_fd(); MAX_DESCRIPTORS + 1];
        let error = send(&here, b"x", &many).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn a_message_longer_than_the_buffer_is_an_error_and_its_descriptors_are_closed() {
        let (here, there) = pair();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(&here, b"0123456789", &[write.as_fd()]).unwrap();
        drop(write);
        let error = receive(&there, &mut [0; 4]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
        // The only writing end was in the message: end of file says that it is closed.
        assert_eq!(rustix::io::read(&read, &mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn the_other_side_gone_is_an_empty_message_and_a_broken_pipe() {
        let (here, there) = pair();
        drop(there);
        assert_eq!(receive(&here, &mut [0; 4]).unwrap().length, 0);
        let error = send(&here, b"x", &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
