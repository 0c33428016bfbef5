//! The name of a Unix socket, byte for byte.
//!
//! Decides:  where the bytes of an address end, in all of the kernel's forms.
//! Kernel:   net/unix/af_unix.c, unix_getname(), unix_mkname_bsd(): a path of 108 bytes has no room
//!           for its closing NUL, and the length that is told then is one more than the structure
//! Not here: addresses of IP (rustix). rustix 1.1 takes an unnamed socket for one with an abstract
//!           name of no bytes, and panics at a path of 108.

use std::ffi::c_void;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::{Errno, Result};

/// The longest path: `sun_path` without a closing NUL.
const PATH_MAX: usize = 108;
const NAME_AT: usize = offset_of!(libc::sockaddr_un, sun_path);

/// What a Unix socket is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnixName {
    /// Nothing.
    Unnamed,
    /// A path in the file system.
    Path(Vec<u8>),
    /// An abstract name, without the leading NUL.
    Abstract(Vec<u8>),
}

/// The name that a Unix socket is bound to. `EAFNOSUPPORT` for sockets of other families.
pub fn unix_name(fd: impl AsFd) -> Result<UnixName> {
    // One byte more than the structure, for the NUL behind the longest path.
    let mut bytes = [0u8; size_of::<libc::sockaddr_un>() + 1];
    let mut len = bytes.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the array's own length, and an address may
    // begin at any alignment for it.
    let done = unsafe {
        libc::getsockname(
            fd.as_fd().as_raw_fd(),
            bytes.as_mut_ptr().cast::<c_void>().cast(),
            &mut len,
        )
    };
    if done != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    let family = libc::sa_family_t::from_ne_bytes([bytes[0], bytes[1]]);
    if i32::from(family) != libc::AF_UNIX {
        return Err(Errno::AFNOSUPPORT);
    }
    let end = (len as usize).clamp(NAME_AT, bytes.len());
    Ok(name_of(&bytes[NAME_AT..end]))
}

fn name_of(name: &[u8]) -> UnixName {
    match name {
        [] => UnixName::Unnamed,
        [0, name @ ..] => UnixName::Abstract(name.to_vec()),
        path => {
            let end = path.iter().position(|b| *b == 0).unwrap_or(path.len());
            UnixName::Path(path[..end.min(PATH_MAX)].to_vec())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketType, socket};
    use std::os::unix::net::UnixListener;

    #[test]
    fn an_unnamed_socket_is_told_from_an_abstract_one() {
        let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        assert_eq!(unix_name(&fd), Ok(UnixName::Unnamed));
    }

    #[test]
    fn names_end_where_they_end() {
        assert_eq!(name_of(b""), UnixName::Unnamed);
        assert_eq!(name_of(b"/a\0"), UnixName::Path(b"/a".to_vec()));
        assert_eq!(name_of(b"/a"), UnixName::Path(b"/a".to_vec()));
        assert_eq!(name_of(b"\0a\0"), UnixName::Abstract(b"a\0".to_vec()));
        let longest = [b'p'; 109];
        assert_eq!(name_of(&longest), UnixName::Path(vec![b'p'; 108]));
    }

    #[test]
    fn a_path_that_fills_the_structure_is_whole() {
        let directory = std::env::temp_dir().join(format!("portcullis-sys-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let missing = PATH_MAX - directory.as_os_str().len() - 1;
        let path = directory.join("p".repeat(missing));
        let fd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind_bytes(&fd, path.as_os_str().as_encoded_bytes());
        let name = unix_name(&fd);
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(
            name,
            Ok(UnixName::Path(path.into_os_string().into_encoded_bytes()))
        );
    }

    /// rustix and std refuse to bind to 108 bytes; another program may have.
    fn bind_bytes(fd: impl AsFd, path: &[u8]) {
        let mut address = [0u8; size_of::<libc::sockaddr_un>()];
        address[..2].copy_from_slice(&(libc::AF_UNIX as libc::sa_family_t).to_ne_bytes());
        address[NAME_AT..NAME_AT + path.len()].copy_from_slice(path);
        // SAFETY: the address is initialised bytes of the length given; the kernel copies them.
        let done = unsafe {
            libc::bind(
                fd.as_fd().as_raw_fd(),
                address.as_ptr().cast::<c_void>().cast(),
                (NAME_AT + path.len()) as libc::socklen_t,
            )
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    #[test]
    fn another_family_is_refused() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(unix_name(&tcp), Err(Errno::AFNOSUPPORT));
        let directory = std::env::temp_dir();
        let path = directory.join(format!("portcullis-name-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        let name = unix_name(&unix);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            name,
            Ok(UnixName::Path(path.into_os_string().into_encoded_bytes()))
        );
    }
}
