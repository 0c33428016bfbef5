//! Who else may refuse a bind, where the rules of ports allow it: with real processes that are refused so.
//!
//! Decides:  that Landlock and seccomp are named for a process that they refuse, and by what they show; that
//!           SELinux and AppArmor of a host in a file are.
//! Not here: BPF programs of control groups (crates/inspect/tests/host.rs).

use std::process::Command;

use portcullis_testkit::{Process, Signal, need_program, private_network_as_root, skip};
use serde_json::{Value, json};

use super::harness::{Place, SOON, portcullis};

/// Refuses itself `bind` in one way; at SIGUSR1, or at once if told `now`, it binds, and says what came of it.
const REFUSED: &str = r#"
import ctypes, errno, os, signal, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0: print('begun, cannot', errno.errorcode[ctypes.get_errno()], flush=True); sys.exit(0)
    return result
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
if sys.argv[1] == 'landlock':
    rules = check(libc.syscall(444, struct.pack('QQ', 0, 1), 16, 0))
    check(libc.syscall(446, rules, 0))
if sys.argv[1] == 'seccomp':
    number = {'x86_64': 49, 'aarch64': 200}[os.uname().machine]
    one = lambda code, yes, no, k: struct.pack('HBBI', code, yes, no, k)
    code = one(0x20, 0, 0, 0) + one(0x15, 0, 1, number) + one(0x06, 0, 0, 0x50000 | errno.EPERM)
    code += one(0x06, 0, 0, 0x7fff0000)
    text = ctypes.create_string_buffer(code, len(code))
    program = struct.pack('HxxxxxxQ', len(code) // 8, ctypes.addressof(text))
    check(libc.prctl(PR_SET_SECCOMP, 2, program, 0, 0))
def bind(*_):
    s = socket.socket()
    try: s.bind(('127.0.0.1', 8080)); s.listen(9); print('did ok', flush=True)
    except OSError as e: print('did', errno.errorcode[e.errno], flush=True)
    s.close()
if sys.argv[2:] == ['now']: bind(); sys.exit(0)
signal.signal(signal.SIGUSR1, bind)
os.write(1, b'begun\n')  # print() may be in the middle of itself when the signal comes
while True: signal.pause()
"#;

/// The text and the JSON of an answer, and its exit code.
fn why(words: &[&str]) -> (i32, String, Value) {
    let run = |more: &[&str]| {
        let mut command = portcullis();
        command.arg("why").args(words).args(more).output().unwrap()
    };
    let (text, json) = (run(&[]), run(&["--json"]));
    assert_eq!(text.status, json.status);
    (
        text.status.code().unwrap(),
        String::from_utf8(text.stdout).unwrap(),
        serde_json::from_slice(&json.stdout).unwrap(),
    )
}

fn refuser<'a>(json: &'a Value, name: &str) -> Option<&'a Value> {
    let all = json["refusers"].as_array().unwrap();
    all.iter().find(|one| one["name"] == name)
}

/// A process that is refused in this way by `error`, and what is said of it.
#[track_caller]
fn refused_by(way: &str, name: &str, error: &str) {
    let Some(python) = need_program("python3") else {
        return;
    };
    let place = Place::new();
    let mut command = Command::new(python);
    command.arg(place.write("refused.py", REFUSED)).arg(way);
    let mut process = Process::spawn(&mut command);
    let begun = process.wait_line("begun", SOON);
    if begun.contains("cannot") {
        skip(&format!("this kernel has no {name} for ports: {begun}"));
        return;
    }
    process.signal(Signal::USR1);
    process.wait_line(&format!("did {error}"), SOON);
    let pid = process.pid().to_string();
    let (code, text, json) = why(&["127.0.0.1:8080", "--pid", &pid]);
    assert_eq!(code, 0, "no rule of ports refuses: {text}");
    let found = refuser(&json, name).unwrap_or_else(|| panic!("{name}: {json}"));
    assert_eq!(found["likely"], true, "{json}");
    assert!(found["shows"].as_str().unwrap().contains(error), "{json}");
    assert!(text.contains(&format!("{name}: ")), "{text}");
    // It is not said of a process that has none.
    let (_, text, json) = why(&["127.0.0.1:8080", "--pid", &std::process::id().to_string()]);
    let other = refuser(&json, name).is_some_and(|found| found["likely"] == true);
    assert_eq!(other, subject_to(way), "{text}");
}

#[test]
fn the_filter_by_which_a_program_is_watched_is_no_suspect() {
    private_network_as_root(|| {
        let Some(python) = need_program("python3") else {
            return;
        };
        let place = Place::new();
        let script = place.write("refused.py", REFUSED);
        let mut command = portcullis();
        command.args(["why", "--"]).arg(python).arg(&script);
        let output = command.args(["landlock", "now"]).output().unwrap();
        let (said, told) = (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        );
        if said.contains("cannot") {
            return skip(&format!("this kernel has no Landlock for ports: {said}"));
        }
        assert!(said.contains("did EACCES"), "{said}{told}");
        assert!(
            told.contains("Landlock (the caller has no_new_privs"),
            "{told}"
        );
        assert!(!told.contains("seccomp"), "{told}");
    });
}

/// Whether this process is subject to it itself, as in a container.
fn subject_to(way: &str) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|text| text.trim().to_owned())
    };
    match way {
        "landlock" => field("NoNewPrivs:").as_deref() == Some("1"),
        _ => field("Seccomp:").as_deref() == Some("2"),
    }
}

#[test]
fn landlock_is_named_for_a_process_that_forbade_itself_all_ports() {
    private_network_as_root(|| refused_by("landlock", "Landlock", "EACCES"));
}

#[test]
fn seccomp_is_named_for_a_process_whose_filter_refuses_bind() {
    private_network_as_root(|| refused_by("seccomp", "seccomp", "EPERM"));
}

#[test]
fn nothing_is_said_to_refuse_a_process_that_may() {
    private_network_as_root(|| {
        let Some(python) = need_program("python3") else {
            return;
        };
        let place = Place::new();
        let mut command = Command::new(python);
        command.arg(place.write("refused.py", REFUSED)).arg("none");
        let mut process = Process::spawn(&mut command);
        process.wait_line("begun", SOON);
        process.signal(Signal::USR1);
        process.wait_line("did ok", SOON);
        let pid = process.pid().to_string();
        let (code, text, json) = why(&["127.0.0.1:8080", "--pid", &pid]);
        assert_eq!(code, 0, "{text}");
        assert!(
            refuser(&json, "seccomp").is_none() || subject_to("seccomp"),
            "{json}"
        );
    });
}

#[test]
fn security_modules_of_a_host_in_a_file_are_named_with_what_tells_them_apart() {
    private_network_as_root(|| {
        let place = Place::new();
        let file = place.path().join("host.json");
        let path = file.to_str().unwrap();
        let saved = portcullis().args(["why", "--save", path]).status().unwrap();
        assert!(saved.success());
        let read = std::fs::read_to_string(&file).unwrap();
        let ask = |refusers: Value, label: Value| {
            let mut host: Value = serde_json::from_str(&read).unwrap();
            host["refusers"] = refusers;
            let pid = host["caller"].clone();
            let all = host["processes"].as_array_mut().unwrap();
            let caller = all.iter_mut().find(|one| one["pid"] == pid).unwrap();
            caller["label"] = label;
            std::fs::write(&file, host.to_string()).unwrap();
            let (code, text, json) = why(&["127.0.0.1:8080", "--host", path]);
            assert_eq!(code, 0, "{text}");
            (text, json)
        };
        let of = |modules: &[&str], enforces: Value| {
            json!({"modules": modules, "selinux_enforcing": enforces, "landlock_abi": null,
                   "cgroup_programs": []})
        };
        let httpd = "system_u:system_r:httpd_t:s0";
        let (text, _) = ask(of(&["selinux"], json!(true)), json!(httpd));
        for part in [
            "SELinux: it enforces, and the caller is system_u",
            "AVC",
            "ausearch",
            "semanage port",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let (text, json) = ask(of(&["selinux"], json!(false)), json!(httpd));
        assert!(
            refuser(&json, "SELinux").is_none(),
            "permissive refuses nothing: {text}"
        );
        let free = "unconfined_u:unconfined_r:unconfined_t:s0";
        let (text, json) = ask(of(&["selinux"], json!(true)), json!(free));
        assert_eq!(refuser(&json, "SELinux").unwrap()["likely"], false);
        assert!(!text.contains("SELinux"), "{text}");
        let (text, _) = ask(
            of(&["apparmor"], Value::Null),
            json!("/usr/sbin/nginx (enforce)"),
        );
        for part in [
            "AppArmor: the caller's profile is /usr/sbin/nginx (enforce)",
            "apparmor=\"DENIED\"",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let (text, json) = ask(
            of(&["apparmor"], Value::Null),
            json!("/usr/sbin/nginx (complain)"),
        );
        assert_eq!(
            refuser(&json, "AppArmor").unwrap()["likely"],
            false,
            "{text}"
        );
        let (_, json) = ask(of(&["apparmor"], Value::Null), json!("unconfined"));
        assert_eq!(refuser(&json, "AppArmor").unwrap()["likely"], false);
        let (_, json) = ask(of(&["capability", "yama"], Value::Null), Value::Null);
        assert_eq!(json["refusers"], json!([]));
    });
}
