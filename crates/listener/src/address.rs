//! The address of a socket as the kernel has it, and addresses as people write them.
//!
//! Decides:  the text of an address in messages: `ADDR:PORT` as in haproxy.cfg, IPv6 without brackets.
//! Kernel:   net/unix/af_unix.c, unix_mkname(); unix(7) on the length of abstract names
//! Not here: what a caller asks for (spec.rs).

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use portcullis_sys::socket::{UnixName, unix_name};
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, SocketAddrUnix, getsockname};
use serde::{Deserialize, Serialize};

use crate::spec::{AbstractForm, Address};

/// How many bytes of a name fit behind the leading NUL of an abstract address.
pub const ABSTRACT_NAME_MAX: usize = 107;
/// How many bytes of a path fit, the closing NUL not counted.
pub const UNIX_PATH_MAX: usize = 107;

/// The address that a socket is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LocalAddress {
    /// IPv4 or IPv6, with the port.
    Inet(SocketAddr),
    /// A Unix socket with a name in the file system.
    UnixPath(#[serde(with = "path_as_text")] PathBuf),
    /// A Unix socket with an abstract name, given without the leading NUL.
    UnixAbstract(Vec<u8>),
    /// A Unix socket without a name.
    UnixUnnamed,
}

impl LocalAddress {
    /// The address that a socket is bound to now. `EAFNOSUPPORT` for other families.
    pub fn of(socket: impl AsFd) -> Result<LocalAddress> {
        let address = getsockname(&socket)?;
        match address.address_family() {
            AddressFamily::INET | AddressFamily::INET6 => {
                let inet = SocketAddr::try_from(address).map_err(|_| Errno::AFNOSUPPORT)?;
                Ok(LocalAddress::Inet(inet))
            }
            AddressFamily::UNIX => unix_address(socket),
            _ => Err(Errno::AFNOSUPPORT),
        }
    }

    /// The IP address and port, where it is such an address.
    pub fn inet(&self) -> Option<SocketAddr> {
        match self {
            LocalAddress::Inet(address) => Some(*address),
            _ => None,
        }
    }
}

fn unix_address(socket: impl AsFd) -> Result<LocalAddress> {
    Ok(match unix_name(socket)? {
        UnixName::Unnamed => LocalAddress::UnixUnnamed,
        UnixName::Abstract(name) => LocalAddress::UnixAbstract(name),
        UnixName::Path(path) => LocalAddress::UnixPath(PathBuf::from(OsString::from_vec(path))),
    })
}

/// The kernel's form of an abstract name. `ENAMETOOLONG` where it does not fit.
pub(crate) fn abstract_address(name: &[u8], form: AbstractForm) -> Result<SocketAddrUnix> {
    if name.len() > ABSTRACT_NAME_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    match form {
        AbstractForm::Exact => SocketAddrUnix::new_abstract_name(name),
        AbstractForm::Padded => {
            let mut padded = [0u8; ABSTRACT_NAME_MAX];
            padded[..name.len()].copy_from_slice(name);
            SocketAddrUnix::new_abstract_name(&padded)
        }
    }
}

impl fmt::Display for LocalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocalAddress::Inet(address) => write_inet(f, *address),
            LocalAddress::UnixPath(path) => write_bytes(f, path.as_os_str().as_bytes()),
            LocalAddress::UnixAbstract(name) => {
                f.write_str("abns@")?;
                let end = name
                    .iter()
                    .rposition(|b| *b != 0)
                    .map_or(0, |last| last + 1);
                write_bytes(f, &name[..end])
            }
            LocalAddress::UnixUnnamed => f.write_str("unix@"),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write_inet(f, *address),
            Address::Mptcp(address) => {
                f.write_str("mptcp@")?;
                write_inet(f, *address)
            }
            Address::UnixPath(path) => write_bytes(f, path.as_os_str().as_bytes()),
            Address::UnixAbstract { name, form } => {
                f.write_str(match form {
                    AbstractForm::Padded => "abns@",
                    AbstractForm::Exact => "abnsz@",
                })?;
                write_bytes(f, name)
            }
            Address::Inherited(number) => write!(f, "fd@{number}"),
            Address::Activated(name) => write!(f, "LISTEN_FDNAMES={name}"),
        }
    }
}

fn write_inet(f: &mut fmt::Formatter<'_>, address: SocketAddr) -> fmt::Result {
    // With brackets around an IPv6 address, and its device: `[fe80::1%2]:80`.
    write!(f, "{address}")
}

/// Bytes of a path or name on one line: what is not printable is escaped.
fn write_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() {
                write!(f, "{}", letter.escape_default())?;
            } else {
                write!(f, "{letter}")?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "\\x{byte:02x}")?;
        }
    }
    Ok(())
}

/// A path on its way to another process: as text where it is text, else as its bytes. Linux has
/// paths that are not UTF-8, and serde takes only those that are.
pub(crate) mod path_as_text {
    use super::*;
    use serde::{Deserializer, Serializer};

    #[derive(Serialize)]
    #[serde(untagged)]
    enum Seen<'a> {
        Text(&'a str),
        Bytes(&'a [u8]),
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Taken {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(
        path: &Path,
        serializer: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => Seen::Text(text).serialize(serializer),
            None => Seen::Bytes(path.as_os_str().as_bytes()).serialize(serializer),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> std::result::Result<PathBuf, D::Error> {
        Ok(match Taken::deserialize(deserializer)? {
            Taken::Text(text) => PathBuf::from(text),
            Taken::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::UnixListener;

    #[test]
    fn addresses_are_written_as_in_the_configuration() {
        let table: &[(Address, &str)] = &[
            (Address::Tcp("0.0.0.0:443".parse().unwrap()), "0.0.0.0:443"),
            (Address::Tcp("[::]:443".parse().unwrap()), "[::]:443"),
            (
                Address::Tcp("[fe80::1%2]:80".parse().unwrap()),
                "[fe80::1%2]:80",
            ),
            (Address::Mptcp("[::1]:1".parse().unwrap()), "mptcp@[::1]:1"),
            (Address::UnixPath("/run/a\nb".into()), "/run/a\\nb"),
            (Address::Inherited(7), "fd@7"),
            (
                Address::UnixAbstract {
                    name: b"x\xff".to_vec(),
                    form: AbstractForm::Exact,
                },
                "abnsz@x\\xff",
            ),
        ];
        for (address, text) in table {
            assert_eq!(address.to_string(), *text);
        }
    }

    #[test]
    fn a_padded_abstract_name_is_shown_without_its_padding() {
        let mut name = b"door".to_vec();
        name.resize(ABSTRACT_NAME_MAX, 0);
        assert_eq!(LocalAddress::UnixAbstract(name).to_string(), "abns@door");
    }

    #[test]
    fn the_kernel_tells_abstract_names_and_inet_addresses() {
        let name = format!("portcullis-address-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let unix = UnixListener::bind_addr(&address).unwrap();
        assert_eq!(
            LocalAddress::of(&unix).unwrap(),
            LocalAddress::UnixAbstract(name.into_bytes())
        );
        let tcp = std::net::TcpListener::bind("[::1]:0").unwrap();
        assert_eq!(
            LocalAddress::of(&tcp).unwrap().inet(),
            Some(tcp.local_addr().unwrap())
        );
    }

    #[test]
    fn a_path_that_is_not_text_crosses_to_another_process_as_it_is() {
        for bytes in [&b"/run/door"[..], b"/run/d\xff\xfer", b""] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let asked = Address::UnixPath(path.clone());
            let text = serde_json::to_string(&asked).unwrap();
            assert_eq!(serde_json::from_str::<Address>(&text).unwrap(), asked);
            let bound = LocalAddress::UnixPath(path);
            let text = serde_json::to_string(&bound).unwrap();
            assert_eq!(serde_json::from_str::<LocalAddress>(&text).unwrap(), bound);
        }
        let text = serde_json::to_string(&Address::UnixPath("/run/door".into())).unwrap();
        assert_eq!(text, r#"{"UnixPath":"/run/door"}"#);
    }

    #[test]
    fn an_abstract_name_that_does_not_fit_is_refused() {
        for form in [AbstractForm::Exact, AbstractForm::Padded] {
            assert!(abstract_address(&[b'a'; 107], form).is_ok());
            assert_eq!(
                abstract_address(&[b'a'; 108], form).unwrap_err(),
                Errno::NAMETOOLONG
            );
        }
    }
}
