//! Telling systemd how the start went (`Type=notify`).
//!
//! Decides:  which states are told: READY=1, STOPPING=1 and one line of status.
//! Source:   sd_notify(3): one datagram to the socket named by NOTIFY_SOCKET; `@` is abstract.
//! Not here: when they are told (run).

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;

/// A connection to whoever waits for the start; nothing happens where nobody does.
#[derive(Debug, Clone, Default)]
pub struct Notifier {
    socket: Option<Arc<UnixDatagram>>,
}

impl Notifier {
    /// Connects to NOTIFY_SOCKET, where it is set: before a chroot hides it. Where the process
    /// has an opener parent, the unit needs `NotifyAccess=all`.
    pub fn from_environment() -> Notifier {
        match std::env::var_os("NOTIFY_SOCKET") {
            Some(name) if !name.is_empty() => Notifier::connect(&name).unwrap_or_default(),
            _ => Notifier::default(),
        }
    }

    fn connect(name: &OsString) -> io::Result<Notifier> {
        let bytes = name.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(name)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Notifier {
            socket: Some(Arc::new(socket)),
        })
    }

    /// Serving.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// Stopping.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}\n"));
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket {
            // A service manager that does not read is its own problem.
            let _ = socket.send(message.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn the_service_manager_hears_ready_and_stopping() {
        let directory = std::env::temp_dir().join(format!("pc-notify-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::connect(&path.clone().into_os_string()).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        notifier.ready("serving");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving\n");
        notifier.stopping("draining");
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=draining\n");
    }

    #[test]
    fn an_abstract_name_is_found_and_a_missing_one_is_no_failure() {
        let name = format!("pc-notify-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let notifier = Notifier::connect(&OsString::from(format!("@{name}"))).unwrap();
        notifier.ready("serving");
        assert_eq!(heard(&manager), "READY=1\nSTATUS=serving\n");
        assert!(Notifier::connect(&OsString::from("/nowhere/at/all")).is_err());
        Notifier::default().ready("nobody hears");
    }
}
