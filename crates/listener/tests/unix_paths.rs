//! Unix sockets: what is at the path before, during and after.
//!
//! Decides:  nothing.
//! Not here: refused system calls (refusals.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use portcullis_listener::spec::{AbstractForm, Address};
use portcullis_listener::{
    Cause, Flags, ListenerSpec, LocalAddress, OpenContext, Step, open, open_set, set,
};

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn entries(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn held_port() -> (TcpListener, ListenerSpec) {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = ListenerSpec::tcp(held.local_addr().unwrap());
    (held, spec)
}

/// A path of exactly this many bytes.
fn long_path(directory: &Path, length: usize) -> PathBuf {
    let missing = length - directory.as_os_str().len() - 1;
    directory.join("p".repeat(missing))
}

#[test]
fn a_new_path_is_taken_and_nothing_else_is_left() {
    let directory = directory();
    let path = directory.path().join("door");
    let opened = open(&ListenerSpec::unix(&path)).unwrap();
    assert_eq!(opened.reports, []);
    assert_eq!(entries(directory.path()), ["door"]);
    let listener = &opened.listeners[0];
    assert_eq!(*listener.local(), LocalAddress::UnixPath(path.clone()));
    UnixStream::connect(&path).unwrap();
    assert!(listener.remove_path().unwrap());
    assert_eq!(entries(directory.path()), [""; 0]);
    assert!(!listener.remove_path().unwrap());
}

#[test]
fn mode_and_owner_are_those_asked_for() {
    let directory = directory();
    let path = directory.path().join("door");
    let mut spec = ListenerSpec::unix(&path);
    let own = fs::metadata(directory.path()).unwrap();
    let root = rustix::process::geteuid().is_root();
    spec.unix_permissions.mode = Some(0o640);
    // Only root may give a file away; its own ids anybody may set.
    spec.unix_permissions.uid = Some(if root { 12_345 } else { own.uid() });
    spec.unix_permissions.gid = Some(if root { 23_456 } else { own.gid() });
    open(&spec).unwrap();
    let file = fs::symlink_metadata(&path).unwrap();
    assert_eq!(file.permissions().mode() & 0o7777, 0o640);
    assert_eq!(Some(file.uid()), spec.unix_permissions.uid);
    assert_eq!(Some(file.gid()), spec.unix_permissions.gid);
}

#[test]
fn a_stale_socket_and_a_live_one_are_replaced_and_told_apart() {
    let directory = directory();
    let path = directory.path().join("door");
    drop(UnixListener::bind(&path).unwrap());
    let over_stale = open(&ListenerSpec::unix(&path)).unwrap();
    assert_eq!(over_stale.reports[0].cause, Cause::Replaced { live: false });
    assert!(over_stale.flags().is_empty());
    let over_live = open(&ListenerSpec::unix(&path)).unwrap();
    assert_eq!(over_live.reports[0].cause, Cause::Replaced { live: true });
    assert_eq!(entries(directory.path()), ["door"]);
    let old = UnixListener::try_from(over_stale.listeners.into_iter().next().unwrap()).unwrap();
    UnixStream::connect(&path).unwrap();
    // Neither the client nor the look whether it lives reached the old one.
    assert_eq!(old.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_replaced_listener_does_not_remove_the_path_of_its_successor() {
    let directory = directory();
    let path = directory.path().join("door");
    let old = open(&ListenerSpec::unix(&path)).unwrap();
    let new = open(&ListenerSpec::unix(&path)).unwrap();
    assert!(!old.listeners[0].remove_path().unwrap());
    assert_eq!(entries(directory.path()), ["door"]);
    assert!(set::remove_paths(&new.listeners).is_empty());
    assert_eq!(entries(directory.path()), [""; 0]);
}

#[test]
fn clients_find_a_socket_at_every_moment_of_many_replacements() {
    let directory = directory();
    let path = directory.path().join("door");
    let mut current = open(&ListenerSpec::unix(&path)).unwrap();
    let stop = AtomicBool::new(false);
    let connected = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match UnixStream::connect(&path) {
                    Ok(_) => connected.fetch_add(1, Ordering::Relaxed),
                    // The old socket was found by its path and closed before it was reached; a
                    // client waits in the queue of a full one.
                    Err(error) => match error.kind() {
                        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => 0,
                        _ => panic!("no socket at the path: {error}"),
                    },
                };
            }
        });
        for _ in 0..200 {
            current = open(&ListenerSpec::unix(&path)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(connected.load(Ordering::Relaxed) > 0);
    assert_eq!(current.listeners.len(), 1);
    assert_eq!(entries(directory.path()), ["door"]);
}

#[test]
fn anything_but_a_socket_is_left_alone() {
    let directory = directory();
    let file = directory.path().join("file");
    fs::write(&file, "precious").unwrap();
    let folder = directory.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    for path in [&file, &folder, &link] {
        let error = open(&ListenerSpec::unix(path)).unwrap_err();
        assert_eq!(error.step(), Step::UnixPath);
        assert!(matches!(error.cause(), Cause::NotASocket { .. }), "{error}");
        assert!(error.flags().contains(Flags::FATAL | Flags::ALERT));
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
    assert_eq!(entries(directory.path()), ["file", "folder", "link"]);
}

#[test]
fn a_file_in_the_place_of_the_temporary_name_is_left_alone_too() {
    let directory = directory();
    let path = directory.path().join("door");
    let beside = directory
        .path()
        .join(format!("door.{}.tmp", std::process::id()));
    fs::write(&beside, "precious").unwrap();
    let error = open(&ListenerSpec::unix(&path)).unwrap_err();
    assert_eq!(error.step(), Step::UnixPath);
    assert_eq!(fs::read_to_string(&beside).unwrap(), "precious");

    fs::remove_file(&beside).unwrap();
    drop(UnixListener::bind(&beside).unwrap());
    open(&ListenerSpec::unix(&path)).unwrap();
    assert_eq!(entries(directory.path()), ["door"]);
}

#[test]
fn a_set_that_fails_gives_every_path_back() {
    let directory = directory();
    let (old_path, new_path) = (directory.path().join("old"), directory.path().join("new"));
    let old = UnixListener::bind(&old_path).unwrap();
    let before = fs::symlink_metadata(&old_path).unwrap().ino();
    let (_held, refused) = held_port();
    let set = [
        ListenerSpec::unix(&old_path),
        ListenerSpec::unix(&new_path),
        refused,
    ];
    let error = open_set(&set, &OpenContext::default()).unwrap_err();
    assert_eq!(error.errors.len(), 1);
    assert_eq!(error.errors[0].step(), Step::Bind);
    assert_eq!(entries(directory.path()), ["old"]);
    assert_eq!(fs::symlink_metadata(&old_path).unwrap().ino(), before);
    UnixStream::connect(&old_path).unwrap();
    old.accept().unwrap();
}

#[test]
fn a_path_that_cannot_be_taken_gives_back_those_taken_before_it() {
    let directory = directory();
    let (first, second) = (directory.path().join("a"), directory.path().join("b"));
    let old = UnixListener::bind(&first).unwrap();
    let set = [ListenerSpec::unix(&first), ListenerSpec::unix(&second)];
    // The second path is a directory by the time it is taken: between the look at it and the
    // taking there is only the kernel, so the filter refuses the exchange without a target.
    let error = std::thread::spawn({
        let set = set.clone();
        move || {
            const RENAME_NOREPLACE: u32 = 1;
            let refusal = portcullis_sys::testing::Refusal::of(libc::SYS_renameat2, libc::EROFS)
                .with_argument(4, RENAME_NOREPLACE);
            portcullis_sys::testing::refuse(&[refusal]).unwrap();
            open_set(&set, &OpenContext::default()).unwrap_err()
        }
    })
    .join()
    .unwrap();
    assert_eq!(error.errors[0].step(), Step::UnixReplace);
    assert_eq!(error.errors[0].errno(), Some(libc::EROFS));
    assert_eq!(entries(directory.path()), ["a"]);
    UnixStream::connect(&first).unwrap();
    old.accept().unwrap();
}

#[test]
fn a_file_system_that_cannot_exchange_names_replaces_and_gives_back_all_the_same() {
    let directory = directory();
    let (old_path, new_path) = (directory.path().join("old"), directory.path().join("new"));
    let old = UnixListener::bind(&old_path).unwrap();
    let before = fs::symlink_metadata(&old_path).unwrap().ino();
    let (_held, refused) = held_port();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // As NFS answers: both flags of renameat2, and not a rename without flags.
            let refusals = [1, 2].map(|flag| {
                portcullis_sys::testing::Refusal::of(libc::SYS_renameat2, libc::EINVAL)
                    .with_argument(4, flag)
            });
            portcullis_sys::testing::refuse(&refusals).unwrap();
            let both = [ListenerSpec::unix(&old_path), ListenerSpec::unix(&new_path)];
            let refused = [both[0].clone(), both[1].clone(), refused];
            open_set(&refused, &OpenContext::default()).unwrap_err();
            assert_eq!(entries(directory.path()), ["old"]);

            open_set(&both, &OpenContext::default()).unwrap();
            assert_eq!(entries(directory.path()), ["new", "old"]);
            UnixStream::connect(&old_path).unwrap_err();
            UnixStream::connect(&new_path).unwrap_err();
        });
    });
    assert_ne!(fs::symlink_metadata(&old_path).unwrap().ino(), before);
    drop(old);
}

#[test]
fn a_backup_link_goes_back_to_its_path_when_a_later_path_cannot_be_taken() {
    let directory = directory();
    let (first, second) = (directory.path().join("a"), directory.path().join("b"));
    let old = UnixListener::bind(&first).unwrap();
    let set = [ListenerSpec::unix(&first), ListenerSpec::unix(&second)];
    let error = std::thread::spawn(move || {
        let refusal = |flag, errno| {
            portcullis_sys::testing::Refusal::of(libc::SYS_renameat2, errno).with_argument(4, flag)
        };
        let refusals = [refusal(2, libc::EINVAL), refusal(1, libc::EROFS)];
        portcullis_sys::testing::refuse(&refusals).unwrap();
        open_set(&set, &OpenContext::default()).unwrap_err()
    })
    .join()
    .unwrap();
    assert_eq!(error.errors[0].step(), Step::UnixReplace);
    assert_eq!(entries(directory.path()), ["a"]);
    UnixStream::connect(&first).unwrap();
    old.accept().unwrap();
}

#[test]
fn one_path_twice_in_a_set_is_an_error() {
    let directory = directory();
    let path = directory.path().join("door");
    let set = [ListenerSpec::unix(&path), ListenerSpec::unix(&path)];
    let error = open_set(&set, &OpenContext::default()).unwrap_err();
    assert_eq!(error.errors[0].step(), Step::Distinct);
    assert_eq!(*error.errors[0].cause(), Cause::UsedTwice { by: 0 });
    assert_eq!(entries(directory.path()), [""; 0]);
}

#[test]
fn one_path_in_two_spellings_is_one_path() {
    let directory = directory();
    let door = directory.path().join("real/door");
    fs::create_dir(directory.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", directory.path().join("link")).unwrap();
    let old = UnixListener::bind(&door).unwrap();
    for spelling in ["link/door", "real/../real/door", "real/./door"] {
        let other = directory.path().join(spelling);
        let set = [ListenerSpec::unix(&door), ListenerSpec::unix(&other)];
        let error = open_set(&set, &OpenContext::default()).unwrap_err();
        assert_eq!(error.errors[0].step(), Step::Distinct, "{spelling}");
        UnixStream::connect(&door).unwrap();
        old.accept().unwrap();
    }
    // One name in two directories is two paths.
    let other = directory.path().join("door");
    let set = [ListenerSpec::unix(&door), ListenerSpec::unix(&other)];
    open_set(&set, &OpenContext::default()).unwrap();
}

#[test]
fn many_long_paths_of_one_directory_open_together() {
    let directory = directory();
    let length = 104;
    let paths: Vec<PathBuf> = (0..100)
        .map(|number| {
            let mut path = long_path(directory.path(), length - 3).into_os_string();
            path.push(format!("{number:03}"));
            path.into()
        })
        .collect();
    let set: Vec<ListenerSpec> = paths.iter().map(ListenerSpec::unix).collect();
    let opened = open_set(&set, &OpenContext::default()).unwrap();
    for path in &paths {
        UnixStream::connect(path).unwrap();
    }
    assert_eq!(opened.listeners.len(), 100);
    assert_eq!(entries(directory.path()).len(), 100);
}

#[test]
fn a_temporary_name_in_use_is_not_taken_away() {
    let directory = directory();
    let path = directory.path().join("door");
    // As the first process of another container would have it.
    let beside = format!("door.{}.tmp", std::process::id());
    let other = UnixListener::bind(directory.path().join(&beside)).unwrap();
    open(&ListenerSpec::unix(&path)).unwrap();
    assert_eq!(entries(directory.path()), ["door", &beside]);
    UnixStream::connect(directory.path().join(&beside)).unwrap();
    other.accept().unwrap();
}

#[test]
fn a_path_may_be_as_long_as_clients_can_name_it_and_no_longer() {
    let directory = directory();
    for length in [90, 97, 103, 107] {
        let path = long_path(directory.path(), length);
        open(&ListenerSpec::unix(&path)).unwrap();
        UnixStream::connect(&path).unwrap_err(); // closed again: refused, but named
        assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
        fs::remove_file(&path).unwrap();
    }
    let error = open(&ListenerSpec::unix(long_path(directory.path(), 108))).unwrap_err();
    let wanted = Cause::PathTooLong {
        length: 108,
        max: 107,
    };
    assert_eq!((error.step(), error.cause()), (Step::UnixPath, &wanted));
    assert_eq!(entries(directory.path()), [""; 0]);
}

#[test]
fn a_missing_directory_and_an_empty_path_are_errors_that_name_the_path() {
    let error = open(&ListenerSpec::unix("/nonexistent-portcullis/door")).unwrap_err();
    assert_eq!(error.errno(), Some(libc::ENOENT));
    assert!(
        error.to_string().contains("[/nonexistent-portcullis/door]"),
        "{error}"
    );
    assert_eq!(
        open(&ListenerSpec::unix("")).unwrap_err().errno(),
        Some(libc::ENOENT)
    );
}

#[test]
fn abstract_names_are_padded_or_exact_as_asked() {
    let name = format!("portcullis-test-{}", std::process::id()).into_bytes();
    let spec = |form| {
        ListenerSpec::new(Address::UnixAbstract {
            name: name.clone(),
            form,
        })
    };
    let exact = open(&spec(AbstractForm::Exact)).unwrap();
    let padded = open(&spec(AbstractForm::Padded)).unwrap();
    assert_eq!(
        *exact.listeners[0].local(),
        LocalAddress::UnixAbstract(name.clone())
    );
    let LocalAddress::UnixAbstract(bytes) = padded.listeners[0].local() else {
        panic!("{:?}", padded.listeners[0].local());
    };
    assert_eq!(bytes.len(), 107);
    assert!(bytes.starts_with(&name));

    let again = open(&spec(AbstractForm::Exact)).unwrap_err();
    assert_eq!(
        (again.step(), again.errno()),
        (Step::Bind, Some(libc::EADDRINUSE))
    );
    assert!(again.flags().contains(Flags::RETRYABLE));
}

#[test]
fn tcp_options_on_a_unix_socket_are_warnings_and_errors_when_strict() {
    let directory = directory();
    let mut spec = ListenerSpec::unix(directory.path().join("door"));
    spec.mss = Some(1000);
    spec.interface = Some("lo".to_owned());
    let opened = open(&spec).unwrap();
    let steps: Vec<Step> = opened.reports.iter().map(|r| r.step).collect();
    assert_eq!(steps, [Step::Interface, Step::Mss]);
    assert_eq!(opened.flags(), Flags::WARN);
    spec.strict = true;
    assert_eq!(open(&spec).unwrap_err().step(), Step::Interface);
}
