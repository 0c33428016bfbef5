//! The errors that a socket call can answer.
//!
//! Decides:  nothing; it names the numbers (Linux, all architectures that Portcullis runs on).
//! Source:   include/uapi/asm-generic/errno.h, errno-base.h
//! Not here: which rule gave the error (explain.rs).

use core::fmt;

macro_rules! errnos {
    ($($(#[$doc:meta])* $name:ident = $number:literal $text:literal;)*) => {
        /// An error number, by its C name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(clippy::upper_case_acronyms)]
        #[repr(u8)]
        pub enum Errno { $($(#[$doc])* $name = $number,)* }

        impl Errno {
            /// Every error that the model can answer.
            pub const ALL: &'static [Errno] = &[$(Errno::$name,)*];

            /// The C name, `EADDRINUSE`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Errno::$name => stringify!($name),)* }
            }

            /// What strerror(3) says.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Errno::$name => $text,)* }
            }
        }
    };
}

errnos! {
    /// The caller lacks a capability.
    EPERM = 1 "operation not permitted";
    /// No classic BPF program is attached.
    ENOENT = 2 "no such file or directory";
    /// The descriptor is closed.
    EBADF = 9 "bad file descriptor";
    /// Nothing to accept on a non-blocking socket.
    EAGAIN = 11 "resource temporarily unavailable";
    /// A reuseport group is full.
    ENOMEM = 12 "cannot allocate memory";
    /// A privileged port without the capability.
    EACCES = 13 "permission denied";
    /// The socket is in another reuseport group already.
    EBUSY = 16 "device or resource busy";
    /// No such interface.
    ENODEV = 19 "no such device";
    /// The wrong state, length or value.
    EINVAL = 22 "invalid argument";
    /// The connection was broken by this side or the other.
    EPIPE = 32 "broken pipe";
    /// The option does not belong to this kind of socket.
    ENOPROTOOPT = 92 "protocol not available";
    /// The operation does not belong to this kind of socket.
    EOPNOTSUPP = 95 "operation not supported";
    /// The address family does not fit the socket.
    EAFNOSUPPORT = 97 "address family not supported by protocol";
    /// Another socket holds the port.
    EADDRINUSE = 98 "address already in use";
    /// The address is not this host's, or no port is left.
    EADDRNOTAVAIL = 99 "cannot assign requested address";
    /// No route.
    ENETUNREACH = 101 "network is unreachable";
    /// The connection was given up.
    ECONNABORTED = 103 "software caused connection abort";
    /// The peer reset the connection.
    ECONNRESET = 104 "connection reset by peer";
    /// The socket is connected, or listening.
    EISCONN = 106 "transport endpoint is already connected";
    /// The socket is not connected.
    ENOTCONN = 107 "transport endpoint is not connected";
    /// Nobody answered.
    ETIMEDOUT = 110 "connection timed out";
    /// Nobody listens there.
    ECONNREFUSED = 111 "connection refused";
    /// A neighbour does not answer.
    EHOSTUNREACH = 113 "no route to host";
    /// A non-blocking connect is under way.
    EALREADY = 114 "operation already in progress";
    /// A non-blocking connect began.
    EINPROGRESS = 115 "operation now in progress";
}

impl Errno {
    /// The number that the kernel returns, positive.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// The error of a number, if the model can answer it.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Errno> {
        Errno::ALL
            .iter()
            .copied()
            .find(|errno| errno.number() == number)
    }

    /// The error of a C name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Errno> {
        Errno::ALL
            .iter()
            .copied()
            .find(|errno| errno.name() == name)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text(), self.name())
    }
}
