//! Which system calls a watched program stops at: a classic BPF program for seccomp.
//!
//! Decides:  the calls, and the arguments that a stop depends on; every other call runs at full speed.
//! Kernel:   kernel/seccomp.c, seccomp_check_filter(), __seccomp_filter(); include/uapi/linux/audit.h;
//!           arch/x86/entry/syscalls/syscall_32.tbl, arch/arm64/tools/syscall_32.tbl, 5.3 to 6.18
//! Not here: what a stop means (call.rs).
//!
//! `close`, `dup` and `fcntl` are not watched: a socket is known by its cookie, not by its number, so
//! nothing has to follow the numbers, and a program that closes a million of them is not slowed down.

use std::mem::offset_of;

use portcullis_sys::bare::Instruction;

/// The 16 bits by which a stop is known to be of this filter, and not of one of the program's own.
pub const OURS: u32 = 0x5043;

/// How this program makes calls.
pub const NATIVE: u32 = if cfg!(target_arch = "x86_64") {
    0xc000_003e // AUDIT_ARCH_X86_64
} else {
    0xc000_00b7 // AUDIT_ARCH_AARCH64
};
/// How 32-bit programs make calls on this processor.
pub const COMPAT: u32 = if cfg!(target_arch = "x86_64") {
    0x4000_0003 // AUDIT_ARCH_I386
} else {
    0x4000_0028 // AUDIT_ARCH_ARM
};
/// x32 programs make native calls with this bit in the number (`__X32_SYSCALL_BIT`).
pub const X32_BIT: u64 = 0x4000_0000;

/// Calls of 32-bit programs that deal with sockets: `socketcall`, `socket`, `bind`, `listen`, `setsockopt`.
pub const COMPAT_CALLS: &[u32] = if cfg!(target_arch = "x86_64") {
    &[102, 359, 361, 363, 366]
} else {
    &[281, 282, 284, 294]
};
/// `io_uring_setup` has one number everywhere.
pub const IO_URING_SETUP: u32 = 425;
/// The same of x32 programs, without the bit; `setsockopt` has a number of its own there.
const X32_CALLS: &[u32] = &[41, 49, 50, 541];

/// Options that servers set on every connection, and that have no part in opening a listener: watched,
/// they would cost two stops a connection.
const QUIET: &[(i32, &[i32])] = &[
    (
        libc::SOL_SOCKET,
        &[
            libc::SO_KEEPALIVE,
            libc::SO_LINGER,
            libc::SO_OOBINLINE,
            libc::SO_PRIORITY,
            libc::SO_RCVBUF,
            libc::SO_RCVLOWAT,
            libc::SO_RCVTIMEO,
            libc::SO_SNDBUF,
            libc::SO_SNDTIMEO,
            libc::SO_ZEROCOPY,
            SO_MAX_PACING_RATE,
            libc::SO_BUSY_POLL,
        ],
    ),
    (
        libc::IPPROTO_TCP,
        &[
            libc::TCP_CORK,
            libc::TCP_KEEPCNT,
            libc::TCP_KEEPIDLE,
            libc::TCP_KEEPINTVL,
            libc::TCP_LINGER2,
            libc::TCP_NODELAY,
            TCP_NOTSENT_LOWAT,
            libc::TCP_QUICKACK,
            libc::TCP_ULP,
            libc::TCP_USER_TIMEOUT,
        ],
    ),
    (libc::IPPROTO_IP, &[libc::IP_TOS]),
    (libc::IPPROTO_IPV6, &[libc::IPV6_TCLASS]),
];
const SO_MAX_PACING_RATE: i32 = 47;
const TCP_NOTSENT_LOWAT: i32 = 25;

/// Bits of `socket`'s second argument that are a type, without SOCK_CLOEXEC and SOCK_NONBLOCK.
const TYPE_BITS: u32 = 0xf;

/// A place in the program, to jump to.
type Label = usize;

/// A program whose jumps are still by label.
#[derive(Default)]
struct Assembler {
    code: Vec<(u16, u32, Label, Label)>,
    /// Where each label stands.
    places: Vec<Option<usize>>,
}

impl Assembler {
    fn label(&mut self) -> Label {
        self.places.push(None);
        self.places.len() - 1
    }

    fn place(&mut self, label: Label) {
        self.places[label] = Some(self.code.len());
    }

    fn load(&mut self, offset: usize) {
        let code = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
        self.code.push((code as u16, offset as u32, 0, 0));
    }

    /// Loads the low half of an argument.
    fn load_argument(&mut self, index: usize) {
        let low = if cfg!(target_endian = "big") { 4 } else { 0 };
        self.load(offset_of!(libc::seccomp_data, args) + 8 * index + low);
    }

    fn and(&mut self, mask: u32) {
        let code = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
        self.code.push((code as u16, mask, 0, 0));
    }

    fn jump(&mut self, operation: u32, value: u32, yes: Label, no: Label) {
        let code = libc::BPF_JMP | operation | libc::BPF_K;
        self.code.push((code as u16, value, yes, no));
    }

    fn go(&mut self, label: Label) {
        self.jump(libc::BPF_JEQ, 0, label, label);
    }

    /// To `yes` where the value is one of these; else behind.
    fn any_of(&mut self, values: &[u32], yes: Label) {
        for &value in values {
            let next = self.label();
            self.jump(libc::BPF_JEQ, value, yes, next);
            self.place(next);
        }
    }

    fn give(&mut self, value: u32) {
        let code = libc::BPF_RET | libc::BPF_K;
        self.code.push((code as u16, value, 0, 0));
    }

    /// With distances instead of labels. All jumps go forward, and none further than 255.
    fn finish(self) -> Vec<Instruction> {
        let distance = |at: usize, label: Label| {
            let place = self.places[label].map_or(0, |place| place.wrapping_sub(at + 1));
            u8::try_from(place).unwrap_or_else(|_| unreachable!("a jump of {place}"))
        };
        let is_jump = |code: u16| u32::from(code) & 0x07 == libc::BPF_JMP;
        let instructions = self.code.iter().enumerate();
        instructions
            .map(|(at, &(code, k, yes, no))| match is_jump(code) {
                true => (code, distance(at, yes), distance(at, no), k),
                false => (code, 0, 0, k),
            })
            .collect()
    }
}

/// The filter.
pub fn program() -> Vec<Instruction> {
    let mut a = Assembler::default();
    let (stop, allow) = (a.label(), a.label());
    let (native, foreign, compat) = (a.label(), a.label(), a.label());
    a.load(offset_of!(libc::seccomp_data, arch));
    a.jump(libc::BPF_JEQ, NATIVE, native, foreign);
    a.place(foreign);
    a.jump(libc::BPF_JEQ, COMPAT, compat, allow);
    a.place(compat);
    a.load(offset_of!(libc::seccomp_data, nr));
    a.any_of(COMPAT_CALLS, stop);
    a.any_of(&[IO_URING_SETUP], stop);
    let own = a.label();
    a.go(allow);
    a.place(native);
    a.load(offset_of!(libc::seccomp_data, nr));
    if cfg!(target_arch = "x86_64") {
        let x32 = a.label();
        a.jump(libc::BPF_JGE, X32_BIT as u32, x32, own);
        a.place(x32);
        a.and(!(X32_BIT as u32));
        a.any_of(X32_CALLS, stop);
        a.go(allow);
    }
    a.place(own);
    native_calls(&mut a, stop, allow);
    a.place(allow);
    a.give(libc::SECCOMP_RET_ALLOW);
    a.place(stop);
    a.give(libc::SECCOMP_RET_TRACE | OURS);
    a.finish()
}

/// The number is loaded.
fn native_calls(a: &mut Assembler, stop: Label, allow: Label) {
    let numbers = [libc::SYS_bind, libc::SYS_listen];
    a.any_of(&numbers.map(|number| number as u32), stop);
    a.any_of(&[IO_URING_SETUP], stop);
    let branches = [
        (libc::SYS_socket, socket as fn(&mut Assembler, Label, Label)),
        (libc::SYS_setsockopt, set_option),
        (libc::SYS_prctl, prctl),
        (libc::SYS_seccomp, seccomp),
        (libc::SYS_ptrace, ptrace),
    ];
    for (number, rest) in branches {
        let (here, next) = (a.label(), a.label());
        a.jump(libc::BPF_JEQ, number as u32, here, next);
        a.place(here);
        rest(a, stop, allow);
        a.place(next);
    }
}

/// Streams of IPv4 and IPv6, MPTCP's among them.
fn socket(a: &mut Assembler, stop: Label, allow: Label) {
    let inet = a.label();
    a.load_argument(0);
    a.any_of(&[libc::AF_INET as u32, libc::AF_INET6 as u32], inet);
    a.go(allow);
    a.place(inet);
    a.load_argument(1);
    a.and(TYPE_BITS);
    a.jump(libc::BPF_JEQ, libc::SOCK_STREAM as u32, stop, allow);
}

fn set_option(a: &mut Assembler, stop: Label, allow: Label) {
    for &(level, quiet) in QUIET {
        let (here, next) = (a.label(), a.label());
        a.load_argument(1);
        a.jump(libc::BPF_JEQ, level as u32, here, next);
        a.place(here);
        a.load_argument(2);
        let quiet: Vec<u32> = quiet.iter().map(|&number| number as u32).collect();
        a.any_of(&quiet, allow);
        a.go(stop);
        a.place(next);
    }
    a.go(allow);
}

/// A filter of the program's own refuses calls before this one sees them.
fn prctl(a: &mut Assembler, stop: Label, allow: Label) {
    a.load_argument(0);
    a.jump(libc::BPF_JEQ, libc::PR_SET_SECCOMP as u32, stop, allow);
}

fn seccomp(a: &mut Assembler, stop: Label, allow: Label) {
    a.load_argument(0);
    a.jump(
        libc::BPF_JGE,
        libc::SECCOMP_SET_MODE_FILTER + 1,
        allow,
        stop,
    );
}

/// A debugger among the watched: TRACEME, ATTACH, SEIZE.
fn ptrace(a: &mut Assembler, stop: Label, allow: Label) {
    a.load_argument(0);
    let requests = [
        libc::PTRACE_TRACEME,
        libc::PTRACE_ATTACH,
        libc::PTRACE_SEIZE,
    ];
    a.any_of(&requests, stop);
    a.go(allow);
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIND: u32 = libc::SYS_bind as u32;
    const SOCKET: u32 = libc::SYS_socket as u32;
    const SETSOCKOPT: u32 = libc::SYS_setsockopt as u32;

    /// Runs the program as the kernel does, over its own reading of `struct seccomp_data`.
    fn stops(arch: u32, number: u32, arguments: [u64; 3]) -> bool {
        let mut data = [0_u8; 64];
        data[..4].copy_from_slice(&number.to_ne_bytes());
        data[4..8].copy_from_slice(&arch.to_ne_bytes());
        for (index, argument) in arguments.iter().enumerate() {
            data[16 + 8 * index..24 + 8 * index].copy_from_slice(&argument.to_ne_bytes());
        }
        let code = program();
        let (mut at, mut value) = (0, 0_u32);
        for _ in 0..4096 {
            let (code, jt, jf, k) = code[at];
            at += 1;
            let skip = |yes: bool| usize::from(if yes { jt } else { jf });
            match code {
                0x20 => value = u32::from_ne_bytes(data[k as usize..][..4].try_into().unwrap()),
                0x54 => value &= k,
                0x15 => at += skip(value == k),
                0x35 => at += skip(value >= k),
                0x06 if k == 0x7fff_0000 => return false,
                0x06 if k == 0x7ff0_5043 => return true,
                other => panic!("instruction {other:#x} {k:#x}"),
            }
        }
        panic!("the program does not end");
    }

    #[test]
    fn calls_about_listening_stop_and_all_others_do_not() {
        for number in 0..600 {
            let always = [BIND, libc::SYS_listen as u32, IO_URING_SETUP].contains(&number);
            // A first argument that no branch looks for.
            assert_eq!(stops(NATIVE, number, [77, 77, 77]), always, "call {number}");
        }
    }

    #[test]
    fn a_socket_stops_where_it_is_a_stream_of_ip() {
        for domain in 0..46 {
            for kind in 0..11 {
                for flags in [
                    0,
                    libc::SOCK_CLOEXEC,
                    libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
                ] {
                    let expected = [2, 10].contains(&domain) && kind == 1;
                    let arguments = [domain, kind | flags as u64, 0];
                    assert_eq!(stops(NATIVE, SOCKET, arguments), expected, "{arguments:?}");
                }
            }
        }
    }

    #[test]
    fn options_of_connections_do_not_stop_and_options_of_listeners_do() {
        for level in 0..300 {
            for number in 0..120 {
                let quiet = QUIET.iter().find(|(l, _)| *l == level);
                let expected = quiet.is_some_and(|(_, numbers)| !numbers.contains(&number));
                let arguments = [3, level as u64, number as u64];
                assert_eq!(
                    stops(NATIVE, SETSOCKOPT, arguments),
                    expected,
                    "{level} {number}"
                );
            }
        }
        for (level, number) in [(1, 2), (1, 15), (1, 25), (0, 15), (41, 26), (6, 23)] {
            assert!(stops(NATIVE, SETSOCKOPT, [3, level, number]));
        }
    }

    #[test]
    fn upper_halves_of_arguments_that_are_ints_do_not_matter() {
        let high = 7 << 32;
        assert!(stops(NATIVE, SOCKET, [high | 2, high | 1, 0]));
        assert!(stops(NATIVE, SETSOCKOPT, [high | 3, high | 1, high | 15]));
    }

    #[test]
    fn other_calling_conventions_stop_at_their_own_numbers() {
        for number in 0..600 {
            let expected = COMPAT_CALLS.contains(&number) || number == IO_URING_SETUP;
            assert_eq!(
                stops(COMPAT, number, [2, 1, 0]),
                expected,
                "compat {number}"
            );
            if cfg!(target_arch = "x86_64") {
                let x32 = number | X32_BIT as u32;
                let expected = X32_CALLS.contains(&number);
                assert_eq!(stops(NATIVE, x32, [2, 1, 0]), expected, "x32 {number}");
            }
        }
        assert!(!stops(0x8000_0016, BIND, [0; 3]), "an unknown convention");
    }

    #[test]
    fn sandboxes_and_debuggers_of_the_program_are_seen() {
        let table = [
            (libc::SYS_prctl, 22, true),
            (libc::SYS_prctl, 38, false),
            (libc::SYS_seccomp, 0, true),
            (libc::SYS_seccomp, 1, true),
            (libc::SYS_seccomp, 2, false),
            (libc::SYS_ptrace, 0, true),
            (libc::SYS_ptrace, 16, true),
            (libc::SYS_ptrace, 0x4206, true),
            (libc::SYS_ptrace, 3, false),
        ];
        for (number, first, expected) in table {
            let found = stops(NATIVE, number as u32, [first, 0, 0]);
            assert_eq!(found, expected, "call {number}({first})");
        }
    }
}
