//! Classic BPF on sockets: a group's program, a socket's filter, and waiting until no packet sees the old one.
//!
//! Decides:  how many instructions are passed on: as many as the kernel takes (`BPF_MAXINSNS`), and one at least.
//! Kernel:   net/core/sock.c, sk_setsockopt() and sk_getsockopt(); net/core/filter.c, sk_attach_filter(),
//!           sk_reuseport_attach_filter(), sk_get_filter(); net/core/sock_reuseport.c, reuseport_attach_prog(),
//!           reuseport_detach_prog(); kernel/sched/membarrier.c, 4.6 to 6.18
//! Not here: which program is for what (crate `listener`, steer.rs and pause.rs).

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::{Errno, Result};

/// The longest classic BPF program (`BPF_MAXINSNS`).
pub const PROGRAM_MAX: usize = 4096;

/// `SO_DETACH_REUSEPORT_BPF`, 5.3.
const SO_DETACH_REUSEPORT_BPF: c_int = 68;
/// `MEMBARRIER_CMD_GLOBAL`, 4.3.
const MEMBARRIER_CMD_GLOBAL: c_int = 1;

/// One instruction of classic BPF: code, jump if true, jump if false, operand.
pub type Instruction = (u16, u8, u8, u32);

/// `SO_ATTACH_REUSEPORT_CBPF`: this program picks the member of the group that a SYN goes to.
///
/// It stays when the process ends, as long as the group does. `EINVAL` where the socket has no
/// `SO_REUSEPORT`, `EOPNOTSUPP` for Multipath TCP.
pub fn attach_group_program(fd: impl AsFd, program: &[Instruction]) -> Result<()> {
    attach(fd.as_fd(), libc::SO_ATTACH_REUSEPORT_CBPF, program)
}

/// `SO_DETACH_REUSEPORT_BPF`: the group goes by its hash again. `ENOENT` where it had no program.
pub fn detach_group_program(fd: impl AsFd) -> Result<()> {
    crate::sockopt::set_int(fd, libc::SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)
}

/// `SO_ATTACH_FILTER`: this program says of each packet for the socket how many bytes of it to keep; of
/// none the socket never hears. What a listener accepts begins with its filter.
///
/// `EPERM` where `SO_LOCK_FILTER` is on; `EOPNOTSUPP` for Multipath TCP.
pub fn attach_filter(fd: impl AsFd, program: &[Instruction]) -> Result<()> {
    attach(fd.as_fd(), libc::SO_ATTACH_FILTER, program)
}

/// `SO_DETACH_FILTER`. `ENOENT` where there was none.
pub fn detach_filter(fd: impl AsFd) -> Result<()> {
    crate::sockopt::set_int(fd, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0)
}

/// `SO_GET_FILTER`: the filter's instructions; empty where there is none. `EACCES` for a filter of
/// extended BPF, which cannot be read back.
pub fn filter(fd: impl AsFd) -> Result<Vec<Instruction>> {
    let mut code = vec![NOTHING; PROGRAM_MAX];
    // The length is a number of instructions here, not of bytes.
    let mut len = PROGRAM_MAX as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` instructions, as many as there is place for, all integers.
    let done = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_GET_FILTER,
            code.as_mut_ptr().cast::<c_void>(),
            &mut len,
        )
    };
    check(done)?;
    code.truncate(len as usize);
    let plain = |one: libc::sock_filter| (one.code, one.jt, one.jf, one.k);
    Ok(code.into_iter().map(plain).collect())
}

/// `membarrier(MEMBARRIER_CMD_GLOBAL)`: returns when every packet that was being received at the call is
/// done with (the kernel waits for its readers, `synchronize_rcu()`), so that none of them still goes by a
/// program, a filter or a member of before. It takes some 10 to 30 ms and sleeps meanwhile.
///
/// `EINVAL` on a host with `nohz_full` processors, `ENOSYS` where the kernel was built without.
pub fn wait_for_packets() -> Result<()> {
    // SAFETY: plain integers.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    check(done as c_int)
}

const NOTHING: libc::sock_filter = libc::sock_filter {
    code: 0,
    jt: 0,
    jf: 0,
    k: 0,
};

fn attach(fd: BorrowedFd<'_>, option: c_int, program: &[Instruction]) -> Result<()> {
    if program.len() > PROGRAM_MAX {
        return Err(Errno::INVAL);
    }
    let raw = |&(code, jt, jf, k): &Instruction| libc::sock_filter { code, jt, jf, k };
    let mut code: Vec<libc::sock_filter> = program.iter().map(raw).collect();
    let value = libc::sock_fprog {
        len: code.len() as u16,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: `value` points to `len` initialised instructions; the kernel checks and copies them.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast::<c_void>(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    check(done)
}

fn check(done: c_int) -> Result<()> {
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    const RETURN_CONSTANT: u16 = 6;

    #[test]
    fn a_filter_is_read_back_as_it_was_attached() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(filter(&listener), Ok(Vec::new()));
        assert_eq!(detach_filter(&listener), Err(Errno::NOENT));
        let program = [
            (0x30, 0, 0, 13),
            (0x15, 0, 0, 2),
            (RETURN_CONSTANT, 0, 0, 9),
        ];
        attach_filter(&listener, &program).unwrap();
        assert_eq!(filter(&listener), Ok(program.to_vec()));
        detach_filter(&listener).unwrap();
        assert_eq!(filter(&listener), Ok(Vec::new()));
    }

    #[test]
    fn the_longest_program_is_taken_and_none_longer_nor_empty() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // The kernel wants a return at the end of every way.
        let longest = vec![(RETURN_CONSTANT, 0, 0, 0); PROGRAM_MAX];
        match attach_filter(&listener, &longest) {
            Ok(()) => assert_eq!(filter(&listener).unwrap().len(), PROGRAM_MAX),
            // More than net.core.optmem_max, which was 20 KiB until 6.6.
            Err(errno) => assert_eq!(errno, Errno::NOMEM),
        }
        let longer = vec![(RETURN_CONSTANT, 0, 0, 0); PROGRAM_MAX + 1];
        assert_eq!(attach_filter(&listener, &longer), Err(Errno::INVAL));
        assert_eq!(attach_filter(&listener, &[]), Err(Errno::INVAL));
    }

    #[test]
    fn a_group_program_is_taken_away_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let program = [(RETURN_CONSTANT, 0, 0, 0)];
        assert_eq!(attach_group_program(&listener, &program), Err(Errno::INVAL));
        let family = rustix::net::AddressFamily::INET;
        let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None).unwrap();
        crate::sockopt::set_int(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1).unwrap();
        assert_eq!(detach_group_program(&socket), Err(Errno::NOENT));
        assert_eq!(attach_group_program(&socket, &program), Ok(()));
        assert_eq!(detach_group_program(&socket), Ok(()));
        assert_eq!(detach_group_program(&socket), Err(Errno::NOENT));
    }

    #[test]
    fn packets_are_waited_for_or_the_kernel_says_that_it_cannot() {
        let answer = wait_for_packets();
        assert!(
            [Ok(()), Err(Errno::INVAL), Err(Errno::NOSYS)].contains(&answer),
            "{answer:?}"
        );
    }
}
