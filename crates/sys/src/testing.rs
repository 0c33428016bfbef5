//! Making the kernel refuse a chosen system call, for tests.
//!
//! Decides:  how a refusal is written as a classic BPF program of a seccomp filter.
//! Kernel:   kernel/seccomp.c, seccomp_set_mode_filter(); Documentation/userspace-api/seccomp_filter.rst
//! Not here: anything that ships; the module exists with the feature `testing` only.

use std::ffi::c_long;
use std::mem::offset_of;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    seccomp_data, sock_filter, sock_fprog,
};
use rustix::io::{Errno, Result};

/// A system call that is to fail, with the arguments that must match and the errno to return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    number: c_long,
    arguments: Vec<(usize, u32)>,
    errno: i32,
}

impl Refusal {
    /// Every call of system call `number` (`libc::SYS_…`) fails with `errno`.
    pub fn of(number: c_long, errno: i32) -> Self {
        Refusal {
            number,
            arguments: Vec::new(),
            errno,
        }
    }

    /// Only where the low 32 bits of argument `index` (0 to 5) are `value`.
    pub fn with_argument(mut self, index: usize, value: u32) -> Self {
        assert!(index < 6, "a system call has six arguments");
        self.arguments.push((index, value));
        self
    }

    /// `setsockopt` of this option fails.
    pub fn of_option(level: i32, number: i32, errno: i32) -> Self {
        Refusal::of(libc::SYS_setsockopt, errno)
            .with_argument(1, level as u32)
            .with_argument(2, number as u32)
    }

    /// `fcntl` of this command fails.
    pub fn of_fcntl(command: i32, errno: i32) -> Self {
        Refusal::of(libc::SYS_fcntl, errno).with_argument(1, command as u32)
    }

    fn assemble(&self, program: &mut Vec<sock_filter>) {
        // Behind the comparison number `k` of `n` there are the load and jump of each later one,
        // and the return: that many instructions are skipped where it does not match.
        let comparisons = 1 + self.arguments.len();
        let skip = |k: usize| (2 * (comparisons - 1 - k) + 1) as u8;
        program.push(load(offset_of!(seccomp_data, nr)));
        program.push(jump_unless(self.number as u32, skip(0)));
        for (k, (index, value)) in self.arguments.iter().enumerate() {
            let low_half = if cfg!(target_endian = "big") { 4 } else { 0 };
            program.push(load(offset_of!(seccomp_data, args) + 8 * index + low_half));
            program.push(jump_unless(*value, skip(k + 1)));
        }
        program.push(give(SECCOMP_RET_ERRNO | (self.errno as u32 & 0xffff)));
    }
}

/// Makes the kernel refuse these calls to the calling thread, and to threads and processes that
/// it starts from now on, for ever. Threads that exist already are not touched.
pub fn refuse(refusals: &[Refusal]) -> Result<()> {
    let mut program = Vec::new();
    for refusal in refusals {
        refusal.assemble(&mut program);
    }
    program.push(give(SECCOMP_RET_ALLOW));
    rustix::thread::set_no_new_privs(true)?;
    let header = sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::TOOBIG)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: `header` points to `len` initialised instructions that live until the call returns;
    // the kernel copies and checks them and keeps no pointer.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const header,
        )
    };
    if done == 0 {
        return Ok(());
    }
    let error = std::io::Error::last_os_error();
    Err(Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

fn load(offset: usize) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset as u32, 0)
}

fn jump_unless(value: u32, skip: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JEQ | BPF_K, value, skip)
}

fn give(value: u32) -> sock_filter {
    instruction(BPF_RET | BPF_K, value, 0)
}

fn instruction(code: u32, k: u32, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sockopt::set_int;

    #[test]
    fn only_the_matching_call_of_this_thread_is_refused() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = socket.try_clone().unwrap();
        std::thread::spawn(move || {
            refuse(&[
                Refusal::of(libc::SYS_getpriority, libc::EXDEV),
                Refusal::of_option(libc::SOL_SOCKET, libc::SO_REUSEPORT, libc::EDOM),
            ])
            .unwrap();
            let set = |number| set_int(&other, libc::SOL_SOCKET, number, 1);
            assert_eq!(set(libc::SO_REUSEPORT), Err(Errno::DOM));
            assert_eq!(set(libc::SO_REUSEADDR), Ok(()));
            assert_eq!(rustix::process::getpriority_process(None), Err(Errno::XDEV));
        })
        .join()
        .unwrap();
        assert_eq!(
            set_int(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1),
            Ok(())
        );
    }
}
