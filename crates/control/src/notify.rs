//! Telling systemd how the start went (`Type=notify`).
//!
//! Decides:  which states are told: READY=1, RELOADING=1, STOPPING=1 and one line of status; how
//!           often the watchdog wants to hear something.
//! Source:   sd_notify(3): one datagram to the socket named by NOTIFY_SOCKET; `@` is abstract.
//! Not here: when they are told (run).

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

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

    /// Reading the configuration again; [`Notifier::ready`] tells that it is over
    /// (`Type=notify-reload`, which wants the time).
    pub fn reloading(&self, status: &str) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let usec = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000;
        self.send(&format!(
            "RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS={status}\n"
        ));
    }

    /// All is well, still (`WatchdogSec=`).
    pub fn alive(&self) {
        self.send("WATCHDOG=1\n");
    }

    /// Another process is the service's main one from now on.
    pub fn main_pid(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}\n"));
    }

    /// Stopping.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}\n"));
    }

    /// How often [`Notifier::alive`] is wanted: at half the time that the service manager waits.
    pub fn watchdog(&self) -> Option<Duration> {
        self.socket.as_ref()?;
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
        let ours = [i64::from(std::process::id()), parent.map_or(0, i64::from)];
        watchdog(number("WATCHDOG_USEC"), number("WATCHDOG_PID"), &ours)
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket {
            // A service manager that does not read is its own problem.
            let _ = socket.send(message.as_bytes());
        }
    }
}

/// `pid` is that of the process that was started; with an opener we are its child.
fn watchdog(usec: Option<u64>, pid: Option<u64>, ours: &[i64]) -> Option<Duration> {
    let meant = pid.is_none_or(|pid| ours.iter().any(|&it| i64::try_from(pid) == Ok(it)));
    let usec = usec.filter(|&usec| usec > 0 && meant)?;
    Some(Duration::from_micros(usec / 2).max(Duration::from_millis(1)))
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
        notifier.alive();
        assert_eq!(heard(&manager), "WATCHDOG=1\n");
        notifier.reloading("reading");
        let told = heard(&manager);
        let rest = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        let (usec, rest) = rest.split_once('\n').unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0);
        assert_eq!(rest, "STATUS=reading\n");
        notifier.main_pid(77);
        assert_eq!(heard(&manager), "MAINPID=77\n");
        notifier.stopping("draining");
        assert_eq!(heard(&manager), "STOPPING=1\nSTATUS=draining\n");
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_was_started_or_its_child() {
        let half = Some(Duration::from_millis(500));
        for (usec, pid, expected) in [
            (Some(1_000_000), None, half),
            (Some(1_000_000), Some(7), half),
            (Some(1_000_000), Some(8), half),
            (Some(1_000_000), Some(9), None),
            (Some(0), None, None),
            (None, Some(7), None),
        ] {
            assert_eq!(watchdog(usec, pid, &[7, 8]), expected, "{usec:?} {pid:?}");
        }
        assert_eq!(Notifier::default().watchdog(), None);
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
