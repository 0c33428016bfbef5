//! A watched call as its caller wrote it, right or wrong.
//!
//! Decides:  how numbers, registers and bytes of another process become a typed call.
//! Kernel:   net/socket.c, __sys_socket(), __sys_bind(), __sys_setsockopt(); 5.3 to 6.18
//! Not here: which calls are watched (filter.rs), what the kernel answered (recorder.rs).

use std::ffi::c_long;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_kernel_model::{AF_INET, AF_INET6, SOCKADDR_MAX_LEN, SockAddr};
use portcullis_sys::trace::Entered;

use crate::filter::{COMPAT, IO_URING_SETUP, NATIVE, OURS, X32_BIT};

/// The most bytes of an option's value that are read: a device's name and every structure of interest fit.
pub const VALUE_MAX: usize = 64;

/// A watched call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `socket`, of a stream.
    Socket {
        /// `AF_INET` or `AF_INET6`.
        domain: i32,
        /// 0, or IPPROTO_TCP, IPPROTO_MPTCP, IPPROTO_SCTP …
        protocol: i32,
    },
    /// `setsockopt`.
    SetOption {
        /// The descriptor.
        fd: i32,
        /// The option's level.
        level: i32,
        /// Its number there.
        number: i32,
        /// The value's bytes, at most [`VALUE_MAX`]; `None` where they cannot be read.
        value: Option<Vec<u8>>,
    },
    /// `bind`.
    Bind {
        /// The descriptor.
        fd: i32,
        /// Where to.
        address: Address,
    },
    /// `listen`.
    Listen {
        /// The descriptor.
        fd: i32,
        /// The backlog as it was written.
        backlog: i32,
    },
    /// `io_uring_setup`: from now on sockets can be made and bound without a call that is seen.
    IoUring,
    /// The program filters its own calls: those that it refuses are not seen.
    Sandbox,
    /// The program wants to watch another, or to be watched.
    Ptrace,
    /// A call about sockets of a 32-bit or x32 program: seen, not read.
    Foreign(Abi),
}

/// How a program makes calls, if not as this one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Abi {
    /// As 32-bit programs do on this processor.
    Compat,
    /// As x32 programs do: 64-bit registers, 32-bit pointers.
    X32,
}

/// The address argument of `bind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// IPv4 or IPv6, perhaps too short or too long.
    Inet(SockAddr),
    /// A Unix socket's name; an abstract one begins with a NUL.
    Unix(Vec<u8>),
    /// Another family, which is not followed.
    Other(u16),
    /// Nothing could be read there, or its length makes no sense.
    Unreadable {
        /// The length that was passed.
        len: i32,
    },
}

impl Call {
    /// The descriptor that it is about, where there is one already.
    pub fn fd(&self) -> Option<i32> {
        match *self {
            Call::SetOption { fd, .. } | Call::Bind { fd, .. } | Call::Listen { fd, .. } => {
                Some(fd)
            }
            _ => None,
        }
    }
}

/// Reads a call. `memory` reads the caller's memory: how many bytes were there, `None` for none. `None`
/// where the stop is not one of our filter's, or the call is of no interest after all.
pub fn read(entered: &Entered, memory: impl Fn(u64, &mut [u8]) -> Option<usize>) -> Option<Call> {
    if entered.data != OURS {
        return None;
    }
    if entered.number == u64::from(IO_URING_SETUP) {
        return Some(Call::IoUring);
    }
    if entered.arch == COMPAT {
        return Some(Call::Foreign(Abi::Compat));
    }
    if entered.arch != NATIVE {
        return None;
    }
    if cfg!(target_arch = "x86_64") && entered.number & X32_BIT != 0 {
        return Some(Call::Foreign(Abi::X32));
    }
    // Registers hold more than an int: the kernel cuts as this does.
    let int = |index: usize| entered.arguments[index] as i32;
    Some(match c_long::try_from(entered.number).ok()? {
        libc::SYS_socket => Call::Socket {
            domain: int(0),
            protocol: int(2),
        },
        libc::SYS_setsockopt => Call::SetOption {
            fd: int(0),
            level: int(1),
            number: int(2),
            value: value(entered.arguments[3], int(4), memory),
        },
        libc::SYS_bind => Call::Bind {
            fd: int(0),
            address: address(entered.arguments[1], int(2), memory),
        },
        libc::SYS_listen => Call::Listen {
            fd: int(0),
            backlog: int(1),
        },
        libc::SYS_prctl | libc::SYS_seccomp => Call::Sandbox,
        libc::SYS_ptrace => Call::Ptrace,
        _ => return None,
    })
}

fn value(at: u64, len: i32, memory: impl Fn(u64, &mut [u8]) -> Option<usize>) -> Option<Vec<u8>> {
    let len = usize::try_from(len).ok()?.min(VALUE_MAX);
    let mut bytes = vec![0; len];
    let read = if len == 0 { 0 } else { memory(at, &mut bytes)? };
    bytes.truncate(read);
    (read == len).then_some(bytes)
}

fn address(at: u64, len: i32, memory: impl Fn(u64, &mut [u8]) -> Option<usize>) -> Address {
    let unreadable = Address::Unreadable { len };
    if !(2..=SOCKADDR_MAX_LEN).contains(&len) {
        return unreadable;
    }
    let mut bytes = [0_u8; SOCKADDR_MAX_LEN as usize];
    let wanted = len as usize;
    match memory(at, &mut bytes[..wanted]) {
        Some(read) if read == wanted => parse(&bytes, len),
        _ => unreadable,
    }
}

/// The bytes of an address argument; behind `len` there are zeros.
fn parse(bytes: &[u8; SOCKADDR_MAX_LEN as usize], len: i32) -> Address {
    let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let (ip, scope) = match family {
        // AF_UNSPEC is taken for AF_INET where the address is the wildcard.
        AF_INET | 0 => {
            let ip = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
            (IpAddr::V4(ip), 0)
        }
        AF_INET6 => {
            let mut ip = [0; 16];
            ip.copy_from_slice(&bytes[8..24]);
            let scope = u32::from_ne_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
            (IpAddr::V6(Ipv6Addr::from(ip)), scope)
        }
        family if i32::from(family) == libc::AF_UNIX => {
            let name = &bytes[2..len as usize];
            // A path ends at its first NUL; an abstract name is all that was passed.
            let end = match name.first() {
                Some(0) => name.len(),
                _ => name.iter().position(|&b| b == 0).unwrap_or(name.len()),
            };
            return Address::Unix(name[..end].to_vec());
        }
        other => return Address::Other(other),
    };
    Address::Inet(SockAddr {
        family,
        len,
        port,
        ip,
        scope,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(number: c_long, arguments: [u64; 6]) -> Entered {
        Entered {
            arch: NATIVE,
            number: number as u64,
            arguments,
            data: OURS,
        }
    }

    /// A caller whose memory from 4096 on is these bytes.
    fn memory(bytes: &[u8]) -> impl Fn(u64, &mut [u8]) -> Option<usize> + '_ {
        move |at, into| {
            let start = usize::try_from(at.checked_sub(4096)?).ok()?;
            let there = bytes.get(start..)?;
            let len = there.len().min(into.len());
            into[..len].copy_from_slice(&there[..len]);
            (len > 0).then_some(len)
        }
    }

    fn bind(bytes: &[u8], len: u64) -> Address {
        let entered = entered(libc::SYS_bind, [3, 4096, len, 0, 0, 0]);
        match read(&entered, memory(bytes)) {
            Some(Call::Bind { fd: 3, address }) => address,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn addresses_are_read_as_they_were_written() {
        let mut v4 = [0_u8; 16];
        v4[..2].copy_from_slice(&2_u16.to_ne_bytes());
        v4[2..8].copy_from_slice(&[0x01, 0xbb, 10, 0, 0, 5]);
        let expected = SockAddr::new("10.0.0.5".parse().unwrap(), 443);
        assert_eq!(bind(&v4, 16), Address::Inet(expected));
        let short = SockAddr {
            len: 4,
            ip: "0.0.0.0".parse().unwrap(),
            ..expected
        };
        assert_eq!(bind(&v4, 4), Address::Inet(short), "cut short");
        assert_eq!(
            bind(&v4, 17),
            Address::Unreadable { len: 17 },
            "beyond the memory"
        );
        assert_eq!(bind(&v4, 1), Address::Unreadable { len: 1 });
        let negative = u64::from(u32::MAX);
        assert_eq!(bind(&v4, negative), Address::Unreadable { len: -1 });

        let mut v6 = [0_u8; 28];
        v6[..2].copy_from_slice(&10_u16.to_ne_bytes());
        v6[2..4].copy_from_slice(&80_u16.to_be_bytes());
        v6[8] = 0xfe;
        v6[9] = 0x80;
        v6[23] = 1;
        v6[24..28].copy_from_slice(&7_u32.to_ne_bytes());
        let expected = SockAddr {
            scope: 7,
            ..SockAddr::new("fe80::1".parse().unwrap(), 80)
        };
        assert_eq!(bind(&v6, 28), Address::Inet(expected));
    }

    #[test]
    fn names_of_unix_sockets_end_at_a_nul_unless_they_are_abstract() {
        let with = |name: &[u8]| [&1_u16.to_ne_bytes(), name].concat();
        let path = with(b"/run/a.sock\0rest");
        let len = path.len() as u64;
        assert_eq!(bind(&path, len), Address::Unix(b"/run/a.sock".to_vec()));
        let hidden = with(b"\0name\0x");
        assert_eq!(bind(&hidden, 9), Address::Unix(b"\0name\0x".to_vec()));
        assert_eq!(bind(&with(b""), 2), Address::Unix(Vec::new()));
        let netlink = [&16_u16.to_ne_bytes()[..], &[0; 10]].concat();
        assert_eq!(bind(&netlink, 12), Address::Other(16));
    }

    #[test]
    fn an_options_value_is_read_whole_or_not_at_all() {
        let set = |at: u64, len: i32, bytes: &[u8]| {
            let entered = entered(libc::SYS_setsockopt, [5, 1, 15, at, len as u64, 0]);
            match read(&entered, memory(bytes)) {
                Some(Call::SetOption {
                    fd: 5,
                    level: 1,
                    number: 15,
                    value,
                }) => value,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(set(4096, 4, &[1, 0, 0, 0]), Some(vec![1, 0, 0, 0]));
        assert_eq!(set(4096, 8, &[1, 0, 0, 0]), None);
        assert_eq!(set(0, 4, &[1, 0, 0, 0]), None);
        assert_eq!(set(0, 0, &[]), Some(vec![]));
        assert_eq!(set(4096, -1, &[1]), None);
        assert_eq!(set(4096, 1000, &[1; 100]), Some(vec![1; VALUE_MAX]));
    }

    #[test]
    fn a_stop_of_another_filter_is_not_read_and_a_foreign_call_is_not_misread() {
        let native = entered(libc::SYS_listen, [3, 128, 0, 0, 0, 0]);
        assert_eq!(
            read(&native, |_, _| None),
            Some(Call::Listen {
                fd: 3,
                backlog: 128
            })
        );
        let theirs = Entered { data: 1, ..native };
        assert_eq!(read(&theirs, |_, _| None), None);
        let compat = Entered {
            arch: COMPAT,
            ..native
        };
        assert_eq!(read(&compat, |_, _| None), Some(Call::Foreign(Abi::Compat)));
        if cfg!(target_arch = "x86_64") {
            let x32 = Entered {
                number: native.number | X32_BIT,
                ..native
            };
            assert_eq!(read(&x32, |_, _| None), Some(Call::Foreign(Abi::X32)));
        }
    }
}
