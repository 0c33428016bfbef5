//! A process, as /proc tells of it.
//!
//! Decides:  which of its facts are read; that one that ends while it is read is no error; which unit and
//!           which container a control group's path means.
//! Kernel:   proc_pid_status(5), proc_pid_stat(5), cgroups(7), namespaces(7)
//! Not here: its descriptors (owners.rs).

use std::fs::{File, read_link};
use std::io::Read as _;
use std::path::Path;

use portcullis_sys::files;

use crate::snapshot::Process;

/// The longest command line that is kept, in bytes.
const COMMAND_MAX: usize = 4096;
/// Most files of a process are shorter; no more than so much of one is read.
const FILE: usize = 8192;
const FILE_MAX: u64 = 1 << 20;

/// What is known of a process; `None` where there is none of the number.
pub(crate) fn process(proc: &Path, pid: u32) -> Option<Process> {
    let at = proc.join(pid.to_string());
    let status = text_of(&at, "status")?;
    let field = |name: &str| field(&status, name);
    let stat = text_of(&at, "stat");
    let cgroup = text_of(&at, "cgroup").and_then(|text| group_path(&text));
    let uids = field("Uid:").and_then(four);
    Some(Process {
        pid,
        parent: field("PPid:")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0),
        name: field("Name:").unwrap_or_default().to_owned(),
        command: command(&content(&at, "cmdline").unwrap_or_default()),
        uids,
        user: uids.and_then(|uids| user_name(uids[1])),
        started: stat.as_deref().and_then(start_time),
        capabilities: field("CapEff:").and_then(|text| u64::from_str_radix(text, 16).ok()),
        net: namespace(&at.join("ns/net"))
            .or_else(|| namespace(&files::directory(proc, pid).join("ns/net"))),
        user_namespace: namespace(&at.join("ns/user")),
        unit: cgroup.as_deref().and_then(unit_of),
        container: cgroup.as_deref().and_then(container_of),
        cgroup,
        descriptor_limit: text_of(&at, "limits").and_then(|text| descriptor_limit(&text)),
        descriptors: None,
        polls: Vec::new(),
        seccomp: field("Seccomp:").and_then(|text| text.parse().ok()),
        no_new_privs: field("NoNewPrivs:").map(|text| text == "1"),
        stopped: field("State:").is_some_and(|text| text.starts_with('T')),
        label: label(&at),
    })
}

/// A process of which no more than its number is known.
pub(crate) fn unknown(pid: u32) -> Process {
    Process {
        pid,
        parent: 0,
        name: String::new(),
        command: Vec::new(),
        uids: None,
        user: None,
        started: None,
        capabilities: None,
        net: None,
        user_namespace: None,
        cgroup: None,
        unit: None,
        container: None,
        descriptor_limit: None,
        descriptors: None,
        polls: Vec::new(),
        seccomp: None,
        no_new_privs: None,
        stopped: false,
        label: None,
    }
}

/// A file of a process. There are thousands of processes, and /proc tells no lengths: what fills the buffer
/// at most in part is all there is, and one read gets it.
fn content(at: &Path, name: &str) -> Option<Vec<u8>> {
    let mut file = File::open(at.join(name)).ok()?;
    let mut bytes = vec![0; FILE];
    let length = file.read(&mut bytes).ok()?;
    bytes.truncate(length);
    if length == FILE {
        file.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    }
    Some(bytes)
}

fn text_of(at: &Path, name: &str) -> Option<String> {
    let bytes = content(at, name)?;
    // A program may call itself anything.
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The number in `net:[4026531840]`.
pub(crate) fn namespace(link: &Path) -> Option<u64> {
    let target = read_link(link).ok()?;
    number_in_brackets(target.to_str()?)
}

/// The number in `socket:[123]`, `net:[4026531840]`.
pub(crate) fn number_in_brackets(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once(":[")?;
    rest.strip_suffix(']')?.parse().ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim())
}

fn four(text: &str) -> Option<[u32; 4]> {
    let numbers: Vec<u32> = text.split_ascii_whitespace().flat_map(str::parse).collect();
    numbers.try_into().ok()
}

fn command(bytes: &[u8]) -> Vec<String> {
    let bytes = &bytes[..bytes.len().min(COMMAND_MAX)];
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\0');
    if text.is_empty() {
        return Vec::new();
    }
    text.split('\0').map(str::to_owned).collect()
}

/// The 22nd field; the name before it may hold anything, even a parenthesis.
fn start_time(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The path of the group that says most: the unified one's, else systemd's own, else the longest.
fn group_path(text: &str) -> Option<String> {
    let path = |start: &str| {
        let mut all = text.lines().filter_map(|line| line.strip_prefix(start));
        all.next().filter(|path| *path != "/")
    };
    let of_line = |line: &'_ str| line.splitn(3, ':').nth(2).map(str::to_owned);
    let known = path("0::").map(str::to_owned).or_else(|| {
        let systemd = text.lines().find(|line| line.contains(":name=systemd:"));
        systemd.and_then(of_line).filter(|path| path != "/")
    });
    known.or_else(|| text.lines().filter_map(of_line).max_by_key(String::len))
}

/// The last part of a path that systemd named: `nginx.service`, `session-3.scope`.
fn unit_of(path: &str) -> Option<String> {
    let ends = [".service", ".scope", ".socket", ".mount", ".slice"];
    let named = |part: &&str| ends.iter().any(|end| part.ends_with(end));
    let mut parts = path.split('/').rev();
    let unit = parts.find(named)?;
    (!unit.ends_with(".slice")).then(|| unit.to_owned())
}

/// `docker-HEX.scope`, `crio-HEX.scope`, `libpod-HEX.scope`, `cri-containerd-HEX.scope`, `/docker/HEX`,
/// `/kubepods/…/HEX`, `/lxc/NAME`, `machine-NAME.scope`.
fn container_of(path: &str) -> Option<String> {
    let mut before = "";
    let mut found = None;
    for part in path.split('/') {
        let stem = part.strip_suffix(".scope").unwrap_or(part);
        let id = stem.rsplit_once('-').map_or(stem, |(_, id)| id);
        if id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            found = Some(id[..12].to_owned());
        } else if before == "lxc" || before == "lxc.payload" {
            found = Some(part.to_owned());
        } else if let Some(name) = stem.strip_prefix("lxc.payload.") {
            found = Some(name.to_owned());
        } else if let Some(name) = stem.strip_prefix("machine-").filter(|_| stem != part) {
            found = Some(name.to_owned());
        }
        before = part;
    }
    found
}

/// How many descriptors with numbers below `limit` it has open; `None` where that may not be seen.
pub(crate) fn descriptors_below(proc: &Path, pid: u32, limit: u64) -> Option<u64> {
    let entries = std::fs::read_dir(files::directory(proc, pid).join("fd")).ok()?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let count = numbers.filter(|&number| number < limit).count() as u64;
    // Our own reading of our own took one more.
    Some(count - u64::from(Some(pid) == files::own_number()).min(count))
}

fn descriptor_limit(text: &str) -> Option<(u64, u64)> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_ascii_whitespace().map(|text| match text {
        "unlimited" => Some(u64::MAX),
        text => text.parse().ok(),
    });
    Some((numbers.next()??, numbers.next()??))
}

/// The label that a security module gave it; `unconfined` and nothing else says nothing.
fn label(at: &Path) -> Option<String> {
    let text = text_of(at, "attr/current")?;
    let text = text.trim_end_matches(['\0', '\n']).trim();
    (!text.is_empty()).then(|| text.to_owned())
}

pub(crate) fn user_name(uid: u32) -> Option<String> {
    let found = portcullis_sys::process::user_by_number(uid);
    found.ok().flatten().map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        assert_eq!(
            start_time("7 (a) b) (c)) S 1 7 7 0 -1 1 2 3 4 5 6 7 8 9 20 0 1 0 4242 1 1"),
            Some(4242)
        );
        assert_eq!(four("0\t33\t0\t33"), Some([0, 33, 0, 33]));
        assert_eq!(four("0 33"), None);
        assert_eq!(command(b"nginx: worker\0\0\0"), ["nginx: worker"]);
        assert_eq!(command(b"a\0\0b\0"), ["a", "", "b"]);
        assert!(command(b"").is_empty(), "a kernel thread");
    }

    #[test]
    fn this_very_process_is_found_with_its_own_facts() {
        let own = process(Path::new("/proc"), std::process::id()).unwrap();
        assert_eq!(own.uids.unwrap()[1], rustix::process::geteuid().as_raw());
        assert_eq!(own.net, namespace(Path::new("/proc/self/ns/net")));
        assert!(own.command[0].contains("inspect"), "{:?}", own.command);
        assert!(own.descriptor_limit.unwrap().0 > 0 && own.started.unwrap() > 0);
        assert!(process(Path::new("/proc"), u32::MAX).is_none());
    }

    #[test]
    fn units_and_containers_are_told_from_paths() {
        let id = "0123456789abcdef".repeat(4);
        let table = [
            (
                "/system.slice/nginx.service".to_owned(),
                Some("nginx.service"),
                None,
            ),
            (
                "/user.slice/user-0.slice/session-3.scope".into(),
                Some("session-3.scope"),
                None,
            ),
            ("/user.slice".into(), None, None),
            (
                format!("/system.slice/docker-{id}.scope"),
                None,
                Some("0123456789ab"),
            ),
            (format!("/docker/{id}"), None, Some("0123456789ab")),
            (
                format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
                None,
                Some("0123456789ab"),
            ),
            (
                "/lxc/web/system.slice/a.service".into(),
                Some("a.service"),
                Some("web"),
            ),
            (
                "/machine.slice/machine-db.scope".into(),
                Some("machine-db.scope"),
                Some("db"),
            ),
        ];
        for (path, unit, container) in table {
            assert_eq!(container_of(&path).as_deref(), container, "{path}");
            if let Some(unit) = unit {
                assert_eq!(unit_of(&path).as_deref(), Some(unit), "{path}");
            }
        }
        let text = "12:cpu:/a\n1:name=systemd:/system.slice/x.service\n0::/\n";
        assert_eq!(group_path(text).unwrap(), "/system.slice/x.service");
        assert_eq!(group_path("0::/init.scope\n").unwrap(), "/init.scope");
    }

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit   Soft Limit  Hard Limit  Units\nMax open files            1024                 unlimited            files     \n";
        assert_eq!(descriptor_limit(text), Some((1024, u64::MAX)));
    }
}
