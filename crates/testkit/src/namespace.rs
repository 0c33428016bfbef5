//! Runs a test again in a network namespace of its own.
//!
//! Decides:  the test's executable is started anew for this one test, single-threaded, under
//!           `unshare`; the first run only waits and passes output and verdict on.
//! Kernel:   user_namespaces(7), network_namespaces(7).
//! Not here: what happens inside; see lo.rs for addresses.

use std::io::{Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use rustix::thread;

/// Names the test that a child runs; its presence says that this process is the child.
const GUARD: &str = "PORTCULLIS_TEST_IN_NAMESPACE";
/// Longest life of such a child: a test that hangs fails.
const DEADLINE: Duration = Duration::from_secs(180);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A user and a network namespace; inside, the user is root, and the only one.
    User,
    /// A network namespace only; needs root, and all users exist inside.
    Root,
}

/// Runs `test` in a user and network namespace of its own, as that namespace's root, with loopback
/// up. Fixed ports, ports below 1024, sysctls and added addresses clash with nobody. The closure must
/// be written directly in the `#[test]` function, and be all of it that has effects.
///
/// Where the host forbids user namespaces, root gets a plain network namespace; others skip visibly.
#[track_caller]
pub fn private_network<F: FnOnce()>(test: F) {
    if running_inside() {
        return inside(test);
    }
    if works(Kind::User) {
        run_again(Kind::User, &test_name::<F>());
    } else if works(Kind::Root) {
        run_again(Kind::Root, &test_name::<F>());
    } else {
        crate::skip("this host forbids user namespaces (`unshare -Urn true` fails)");
    }
}

/// The same for a test that needs the real root, because it uses a second user id: a network
/// namespace only. Skips visibly for ordinary users.
#[track_caller]
pub fn private_network_as_root<F: FnOnce()>(test: F) {
    if running_inside() {
        return inside(test);
    }
    if !rustix::process::geteuid().is_root() {
        crate::skip("needs the real root, for a second user id");
    } else if works(Kind::Root) {
        run_again(Kind::Root, &test_name::<F>());
    } else {
        crate::skip("this host forbids network namespaces (`unshare -n true` fails)");
    }
}

/// Writes a `net.…` sysctl of the private network: `set_sysctl("net.ipv4.tcp_syncookies", "0")`.
///
/// # Panics
///
/// Outside a private network, so that no test changes the host; and when the kernel refuses.
#[track_caller]
pub fn set_sysctl(name: &str, value: &str) {
    assert!(running_inside(), "set_sysctl only in a private network");
    assert!(
        name.starts_with("net."),
        "only net.* is the namespace's own"
    );
    // A dot inside an interface name is no case here.
    let path = Path::new("/proc/sys").join(name.replace('.', "/"));
    if let Err(error) = std::fs::write(&path, value) {
        panic!("cannot write {value:?} to {}: {error}", path.display());
    }
}

/// From now on this thread, and whatever it starts, has no CAP_NET_ADMIN, as an ordinary user's programs have
/// none: the root of a private network would get it back when it starts a program.
///
/// # Panics
///
/// Outside a private network.
#[track_caller]
pub fn forgo_net_admin() {
    assert!(
        running_inside(),
        "forgo_net_admin only in a private network"
    );
    let forgone = thread::CapabilitySet::NET_ADMIN;
    let forgo = || {
        thread::remove_capability_from_bounding_set(forgone)?;
        let mut sets = thread::capabilities(None)?;
        for set in [
            &mut sets.effective,
            &mut sets.permitted,
            &mut sets.inheritable,
        ] {
            set.remove(forgone);
        }
        thread::set_capabilities(None, sets)
    };
    if let Err(error) = forgo() {
        panic!("cannot forgo CAP_NET_ADMIN: {error}");
    }
}

/// The name that libtest gave this thread, if it did (not with `--test-threads=1`).
pub(crate) fn thread_test_name() -> Option<String> {
    if let Ok(name) = std::env::var(GUARD) {
        return Some(name);
    }
    let name = std::thread::current().name()?.to_owned();
    (name != "main").then_some(name)
}

fn running_inside() -> bool {
    std::env::var_os(GUARD).is_some()
}

fn inside(test: impl FnOnce()) {
    if let Err(error) = crate::loopback_up() {
        panic!("cannot bring loopback up in the private network: {error}");
    }
    test();
}

/// `crate::module::test::{{closure}}` without both ends: libtest's name of the test. The thread's
/// name serves first, since only that one is promised.
fn test_name<F>() -> String {
    thread_test_name().unwrap_or_else(|| {
        let path = std::any::type_name::<F>();
        let path = path.split_once("::").map_or(path, |(_, rest)| rest);
        path.trim_end_matches("::{{closure}}").to_owned()
    })
}

fn unshare(kind: Kind) -> Command {
    let mut command = Command::new("unshare");
    command.arg(match kind {
        Kind::User => "-Urn",
        Kind::Root => "-n",
    });
    command
}

fn works(kind: Kind) -> bool {
    static USER: OnceLock<bool> = OnceLock::new();
    static ROOT: OnceLock<bool> = OnceLock::new();
    let known = match kind {
        Kind::User => &USER,
        Kind::Root => &ROOT,
    };
    *known.get_or_init(|| {
        unshare(kind)
            .arg("true")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })
}

#[track_caller]
fn run_again(kind: Kind, name: &str) {
    let (status, output) = match run_child(kind, name) {
        Ok(done) => done,
        Err(error) => panic!("cannot run {name} in a private network: {error}"),
    };
    let lines = output.lines();
    for line in lines.clone().filter(|line| line.starts_with("skipped: ")) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    // Captured by libtest, shown on failure.
    print_captured(&output);
    assert!(
        status.is_some_and(|status| status.success()),
        "{name} failed in its private network ({})",
        status.map_or("it hung, and was ended".into(), |status| status.to_string())
    );
    // A name that matches nothing makes libtest succeed with no test run.
    assert!(
        output.contains("test result: ok. 1 passed"),
        "{name} was not found again: is the closure directly in the #[test] function?"
    );
}

#[allow(clippy::print_stdout)]
fn print_captured(output: &str) {
    print!("{output}");
}

/// `None` where the deadline passed. Output is both streams of the child, mixed as written.
fn run_child(kind: Kind, name: &str) -> std::io::Result<(Option<ExitStatus>, String)> {
    let (mut reader, writer) = std::io::pipe()?;
    let mut command = unshare(kind);
    command
        // Should this process be killed, the child goes too.
        .args(["setpriv", "--pdeathsig", "KILL"])
        .arg(std::env::current_exe()?)
        .args([
            name,
            "--exact",
            "--include-ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(GUARD, name)
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    let mut child = command.spawn()?;
    drop(command); // holds the writers
    let collector = std::thread::spawn(move || {
        let mut output = Vec::new();
        let _ = reader.read_to_end(&mut output);
        String::from_utf8_lossy(&output).into_owned()
    });
    let deadline = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // Whatever the test left behind in its group: without this a forgotten process keeps the pipe.
    let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
    if status.is_none() {
        child.wait()?;
    }
    let output = collector.join().unwrap_or_default();
    Ok((status, output))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn two_private_networks_each_bind_port_80() {
        private_network(|| {
            let listener = TcpListener::bind("127.0.0.1:80").unwrap();
            TcpStream::connect("127.0.0.1:80").unwrap();
            listener.accept().unwrap();
            assert!(rustix::process::geteuid().is_root());
            let interfaces = std::fs::read_dir("/proc/sys/net/ipv4/conf")
                .unwrap()
                .count();
            assert_eq!(interfaces, 3, "all, default and lo: not the host's network");
        });
    }

    #[test]
    fn an_added_address_and_a_sysctl_belong_to_the_private_network() {
        private_network(|| {
            for address in ["192.0.2.7", "2001:db8::7"] {
                let address = address.parse().unwrap();
                assert!(TcpListener::bind((address, 443)).is_err());
                crate::add_address(address).unwrap();
                TcpListener::bind((address, 443)).unwrap();
            }
            set_sysctl("net.ipv4.ip_unprivileged_port_start", "80");
            let start = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
            assert_eq!(start.unwrap().trim(), "80");
        });
    }

    #[test]
    #[should_panic(expected = "failed in its private network")]
    fn a_failure_inside_is_a_failure_outside() {
        if !works(Kind::User) && !works(Kind::Root) {
            panic!("failed in its private network: it has none on this host");
        }
        if running_inside() {
            // libtest sees `should_panic` satisfied inside: end as a failing run does.
            std::process::exit(101);
        }
        private_network(|| ());
    }
}
