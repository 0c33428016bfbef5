//! What to call an errno in a message.
//!
//! Decides:  the C name and the words of an error number, without "(os error N)".
//! Source:   errno(3); the words are the C library's own, first letter lowered.
//! Not here: what an errno means for one system call (each crate's error type).

use rustix::io::Errno;

macro_rules! names {
    ($($name:literal = $errno:ident,)*) => {
        /// The C name of an error number, like `EADDRINUSE`, where it is one of the usual ones.
        pub fn name(errno: i32) -> Option<&'static str> {
            match Errno::from_raw_os_error(errno) {
                $(Errno::$errno => Some($name),)*
                _ => None,
            }
        }
    };
}

names! {
    "EPERM" = PERM, "ENOENT" = NOENT, "ESRCH" = SRCH, "EINTR" = INTR, "EIO" = IO, "ENXIO" = NXIO,
    "EBADF" = BADF, "ECHILD" = CHILD, "EAGAIN" = AGAIN, "ENOMEM" = NOMEM, "EACCES" = ACCESS,
    "EFAULT" = FAULT, "EBUSY" = BUSY, "EEXIST" = EXIST, "EXDEV" = XDEV, "ENODEV" = NODEV,
    "ENOTDIR" = NOTDIR, "EISDIR" = ISDIR, "EINVAL" = INVAL, "ENFILE" = NFILE, "EMFILE" = MFILE,
    "ENOTTY" = NOTTY, "EFBIG" = FBIG, "ENOSPC" = NOSPC, "ESPIPE" = SPIPE, "EROFS" = ROFS,
    "EPIPE" = PIPE, "EDOM" = DOM, "ERANGE" = RANGE, "ENAMETOOLONG" = NAMETOOLONG,
    "ENOSYS" = NOSYS, "ENOTEMPTY" = NOTEMPTY, "ELOOP" = LOOP, "EPROTO" = PROTO,
    "EOVERFLOW" = OVERFLOW, "ENOTSOCK" = NOTSOCK, "EDESTADDRREQ" = DESTADDRREQ,
    "EMSGSIZE" = MSGSIZE, "EPROTOTYPE" = PROTOTYPE, "ENOPROTOOPT" = NOPROTOOPT,
    "EPROTONOSUPPORT" = PROTONOSUPPORT, "ESOCKTNOSUPPORT" = SOCKTNOSUPPORT,
    "EOPNOTSUPP" = OPNOTSUPP, "EPFNOSUPPORT" = PFNOSUPPORT, "EAFNOSUPPORT" = AFNOSUPPORT,
    "EADDRINUSE" = ADDRINUSE, "EADDRNOTAVAIL" = ADDRNOTAVAIL, "ENETDOWN" = NETDOWN,
    "ENETUNREACH" = NETUNREACH, "ENETRESET" = NETRESET, "ECONNABORTED" = CONNABORTED,
    "ECONNRESET" = CONNRESET, "ENOBUFS" = NOBUFS, "EISCONN" = ISCONN, "ENOTCONN" = NOTCONN,
    "ETIMEDOUT" = TIMEDOUT, "ECONNREFUSED" = CONNREFUSED, "EHOSTDOWN" = HOSTDOWN,
    "EHOSTUNREACH" = HOSTUNREACH, "EALREADY" = ALREADY, "EINPROGRESS" = INPROGRESS,
    "EDQUOT" = DQUOT, "ECANCELED" = CANCELED,
}

/// The C library's words for an error number, first letter lowered: `address already in use`.
pub fn text(errno: i32) -> String {
    let full = std::io::Error::from_raw_os_error(errno).to_string();
    let words = full.split(" (os error").next().unwrap_or(&full);
    let mut letters = words.chars();
    match (letters.next(), letters.clone().next()) {
        // "RPC struct is bad" keeps its capital; "Address in use" does not.
        (Some(first), second) if !second.is_some_and(char::is_uppercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => words.to_owned(),
    }
}

/// Words and name together: `address already in use (EADDRINUSE)`.
pub fn describe(errno: i32) -> String {
    match name(errno) {
        Some(name) => format!("{} ({name})", text(errno)),
        None => format!("{} (errno {errno})", text(errno)),
    }
}

/// The same of an error of the standard library, where the kernel gave it; else its own words.
pub fn of(error: &std::io::Error) -> String {
    error
        .raw_os_error()
        .map_or_else(|| error.to_string(), describe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_standard_library_is_described_the_same() {
        let missing = std::fs::read("/no/such").unwrap_err();
        assert_eq!(of(&missing), "no such file or directory (ENOENT)");
        assert_eq!(of(&std::io::Error::other("its own words")), "its own words");
    }

    #[test]
    fn an_errno_is_described_by_words_and_c_name() {
        assert_eq!(
            describe(libc::EADDRINUSE),
            "address already in use (EADDRINUSE)"
        );
        assert_eq!(describe(libc::EACCES), "permission denied (EACCES)");
        assert_eq!(
            describe(libc::ENOPROTOOPT),
            "protocol not available (ENOPROTOOPT)"
        );
    }

    #[test]
    fn an_unusual_errno_keeps_its_number() {
        assert_eq!(name(libc::EL2NSYNC), None);
        assert!(describe(libc::EL2NSYNC).ends_with("(errno 45)"));
        assert!(describe(4095).ends_with("(errno 4095)"));
    }
}
