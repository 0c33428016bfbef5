//! `portcullis why ADDR`: situations that people meet, with real processes, beside what the kernel then does.
//!
//! Decides:  that each answer of docs/why.md is what the program says today, word for word but for numbers
//!           that differ from run to run; and that the verdict is the kernel's.
//! Not here: the agreement over the whole library of scenarios (tests/agreement.rs).

use std::io::{Read as _, Write as _};
use std::process::Command;
use std::time::Duration;

use portcullis_testkit::{
    Process, Signal, need_program, private_network_as_root, set_sysctl, wait_for,
};

use super::harness::{Place, SOON, portcullis};

const PAGE: &str = include_str!("../../../../docs/why.md");
const NOBODY: &str = "65534";
/// What begins the lines about another network namespace.
const ELSEWHERE: &str = "  note:   the port is taken in ";

/// Serves as it is told: `ADDR PORT [OPTION…]`, says `up`, and waits.
const SERVE: &str = r#"
import os, socket, sys, time
ip, port, how = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
if 'nobody' in how: os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_INET6 if ':' in ip else socket.AF_INET)
if 'reuseport' in how: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.bind((ip, port))
if 'late' in how: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
s.listen(1 if 'stuck' in how else 64)
if 'crash' in how:
    c = socket.create_connection((ip, port)); a, _ = s.accept(); a.close(); c.recv(1); c.close(); s.close()
if 'stuck' in how:
    kept = [socket.create_connection((ip, port)) for _ in range(2)]
    late = socket.socket(); late.setblocking(False); late.connect_ex((ip, port)); time.sleep(0.1)
print('up', flush=True)
time.sleep(0 if 'crash' in how else 120)
"#;

/// One worker, in the foreground; nothing of it is outside of its place.
const NGINX: &str = "
daemon off;
user root root;
worker_processes 1;
pid NAME.pid;
error_log stderr notice;
events { worker_connections 16; }
http {
    access_log off;
    client_body_temp_path NAME-body;
    proxy_temp_path NAME-proxy;
    fastcgi_temp_path NAME-fastcgi;
    uwsgi_temp_path NAME-uwsgi;
    scgi_temp_path NAME-scgi;
    server { listen LISTEN; return 200 NAME; }
}
";

/// Opens a port and leaves it to a child that outlives it.
const ORPHAN: &str = r#"
import socket, subprocess, sys
s = socket.socket(); s.bind(('0.0.0.0', int(sys.argv[1]))); s.listen(64); s.set_inheritable(True)
subprocess.Popen(['sleep', '120'], close_fds=False, stdout=subprocess.DEVNULL)
print('up', flush=True)
"#;

/// Has as many descriptors open as it may; then tries to make a socket at each SIGUSR1.
const FULL: &str = r#"
import errno, os, resource, signal, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 256))
kept = []
try:
    while True: kept.append(open('/dev/null'))
except OSError as e: assert e.errno == errno.EMFILE
tries = 0
def again(*_):
    global tries
    tries += 1
    try: socket.socket().close(); print(tries, 'ok', flush=True)
    except OSError as e: print(tries, errno.errorcode[e.errno], flush=True)
signal.signal(signal.SIGUSR1, again)
os.write(1, b'up\n')
while True: signal.pause()
"#;

/// Does what was asked about: `ADDR PORT [OPTION…]`; says `ok` or the error's name.
const TRY: &str = r#"
import errno, os, socket, sys
ip, port, how = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
if 'nobody' in how: os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_INET6 if ':' in ip else socket.AF_INET)
if '--reuseaddr' in how: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
if '--reuseport' in how: s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
if '--freebind' in how: s.setsockopt(0, 15, 1)
try:
    s.bind((ip, port)); s.listen(64); print('ok')
except OSError as e: print(errno.errorcode[e.errno])
"#;

/// A place with the scripts, and the processes that are begun there.
struct Scene {
    place: Place,
    processes: Vec<Process>,
}

impl Scene {
    fn new() -> Option<Scene> {
        need_program("python3")?;
        let place = Place::new();
        for (name, text) in [
            ("serve.py", SERVE),
            ("orphan.py", ORPHAN),
            ("try.py", TRY),
            ("full.py", FULL),
        ] {
            place.write(name, text);
        }
        Some(Scene {
            place,
            processes: Vec::new(),
        })
    }

    /// `COMMAND… python3 SCRIPT …`, from the place, as far as `up`.
    #[track_caller]
    fn begin(&mut self, words: &[&str]) -> &mut Process {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.place.path());
        let mut process = Process::spawn(&mut command);
        process.wait_line("up", SOON);
        self.processes.push(process);
        self.processes.last_mut().unwrap()
    }

    /// nginx that listens so; its directories are in the place.
    #[track_caller]
    fn nginx(&mut self, before: &[&str], name: &str, listen: &str) -> &mut Process {
        let text = NGINX.replace("LISTEN", listen).replace("NAME", name);
        let file = format!("{name}.conf");
        self.place.write(&file, &text);
        let words = [before, &["nginx", "-e", "stderr", "-p", ".", "-c", &file]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.place.path());
        self.processes.push(Process::spawn(&mut command));
        self.processes.last_mut().unwrap()
    }

    /// The same, as far as its worker.
    #[track_caller]
    fn begin_nginx(&mut self, before: &[&str], name: &str, listen: &str) -> &mut Process {
        let process = self.nginx(before, name, listen);
        process.wait_line("start worker process ", SOON);
        process
    }

    /// What the kernel does: `ok`, or an error's name.
    #[track_caller]
    fn kernel(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("python3");
        command.arg("try.py").args(arguments);
        command.current_dir(self.place.path());
        let done = command.output().unwrap();
        let told = String::from_utf8(done.stdout).unwrap();
        assert!(
            !told.is_empty(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
        told.trim().to_owned()
    }

    /// Asks, and compares with the page.
    #[track_caller]
    fn why(&self, name: &str, arguments: &str) -> (i32, String) {
        let mut command = portcullis();
        command.arg("why").args(arguments.split(' '));
        let mut process = Process::spawn(command.current_dir(self.place.path()));
        let code = process.exit_code(SOON);
        let said = process.stdout();
        if let Some(directory) = std::env::var_os("PORTCULLIS_WHY_PAGE") {
            // For whoever writes the page.
            let path = std::path::Path::new(&directory).join(name);
            std::fs::write(path, format!("$ portcullis why {arguments}\n{said}")).unwrap();
            return (code, said);
        }
        let shown = on_page(name);
        let (asked, answer) = shown.split_once('\n').unwrap();
        let ask = format!("$ portcullis why {arguments}");
        assert_eq!(plain(asked), plain(&ask), "{name}");
        let compared = match answer.contains(ELSEWHERE) {
            true => said.clone(),
            false => without_others(&said),
        };
        assert_eq!(plain(answer), plain(&compared), "{name}, docs/why.md");
        (code, said)
    }
}

/// Without who has the port in other networks: tests that run beside this one do.
fn without_others(text: &str) -> String {
    let mut inside = false;
    let lines = text.lines().filter(|line| {
        inside = line.starts_with(ELSEWHERE) || (inside && line.starts_with("          "));
        !inside
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// The block of a situation on the page.
#[track_caller]
fn on_page(name: &str) -> &'static str {
    let marker = format!("<!-- situation: {name} -->\n");
    let at = PAGE
        .find(&marker)
        .unwrap_or_else(|| panic!("docs/why.md lacks {name}"));
    let rest = &PAGE[at + marker.len()..];
    let rest = rest.strip_prefix("\n").unwrap_or(rest);
    let rest = rest.strip_prefix("```text\n").expect("a block of text");
    &rest[..rest.find("```").unwrap()]
}

/// Without the numbers that differ from run to run, and of a rule its name alone: its sentence is at home in
/// bind-rules.md, and may be put better there without this page being wrong.
fn plain(text: &str) -> String {
    const BEFORE: [&str; 12] = [
        "pid ",
        "/proc/",
        "fd ",
        "net:[",
        "cookie ",
        "wait ",
        "for ",
        "ListenOverflows ",
        "ListenDrops ",
        "connection with 127.0.0.1:",
        "this user has ",
        "python3.",
    ];
    let mut out = String::new();
    // A process that may not be looked at, as where root is not all-powerful, may be anywhere.
    let everywhere = |line: &&str| !line.contains("is taken in another network namespace: ");
    for line in text.lines().filter(everywhere) {
        let mut line = line.to_owned();
        if let Some(rule) = line.strip_prefix("  rule:   ") {
            line = rule.split(": ").next().unwrap_or_default().to_owned();
        }
        for word in BEFORE {
            let mut from = 0;
            while let Some(at) = line[from..].find(word) {
                let start = from + at + word.len();
                let digits = line[start..].bytes().take_while(u8::is_ascii_digit).count();
                if digits > 0 {
                    line.replace_range(start..start + digits, "N");
                }
                from = start;
            }
        }
        // Wherever python is, and whichever.
        let words = line
            .split(' ')
            .map(|word| match word.rsplit_once("/python3") {
                Some((_, _)) => "python3",
                None => word,
            });
        let line = words
            .collect::<Vec<_>>()
            .join(" ")
            .replace("python3.N", "python3");
        out += line.trim_end();
        out.push('\n');
    }
    out
}

macro_rules! scene {
    (nginx) => {
        match (need_program("nginx"), Scene::new()) {
            (Some(_), Some(scene)) => scene,
            _ => return,
        }
    };
    () => {
        match Scene::new() {
            Some(scene) => scene,
            None => return,
        }
    };
}

#[test]
fn a_second_server_on_the_port() {
    private_network_as_root(|| {
        let mut scene = scene!(nginx);
        scene.begin_nginx(&[], "first", "127.0.0.1:8080");
        // nginx sets SO_REUSEADDR on all that it opens.
        let (code, said) = scene.why("second-server", "*:8080 --reuseaddr");
        assert_eq!(code, 1, "{said}");
        let second = scene.nginx(&[], "second", "8080");
        second.wait_line("bind() to 0.0.0.0:8080 failed (98: ", SOON);
        assert_eq!(scene.kernel(&["0.0.0.0", "8080"]), "EADDRINUSE");
        // What it says would help does.
        scene.begin_nginx(&[], "third", "8081");
        assert_eq!(scene.kernel(&["127.0.0.2", "8080"]), "ok");
    });
}

#[test]
fn time_wait_after_a_crash_without_so_reuseaddr() {
    private_network_as_root(|| {
        let mut scene = scene!();
        let ended = scene.begin(&["python3", "serve.py", "127.0.0.1", "8082", "crash"]);
        ended.exit_code(SOON);
        let (code, said) = scene.why("time-wait", "127.0.0.1:8082");
        assert_eq!(code, 1, "{said}");
        assert_eq!(scene.kernel(&["127.0.0.1", "8082"]), "EADDRINUSE");
        // The newcomer's option alone does not help: the old server had none.
        let (code, said) = scene.why("time-wait-reuseaddr", "127.0.0.1:8082 --reuseaddr");
        assert_eq!(code, 1, "{said}");
        let reuse = ["127.0.0.1", "8082", "--reuseaddr"];
        assert_eq!(scene.kernel(&reuse), "EADDRINUSE");
    });
}

#[test]
fn an_orphan_child_that_holds_the_port() {
    private_network_as_root(|| {
        let mut scene = scene!();
        let parent = scene.begin(&["python3", "orphan.py", "8083"]);
        let parent_ended = parent.exit_code(SOON);
        assert_eq!(parent_ended, 0);
        let (code, said) = scene.why("orphan", "*:8083");
        assert_eq!(code, 1, "{said}");
        assert_eq!(scene.kernel(&["0.0.0.0", "8083"]), "EADDRINUSE");
        // The way out: the child that is named ends.
        let pid = said.split("sleep, pid ").nth(1).unwrap();
        let pid: i32 = pid.split(',').next().unwrap().parse().unwrap();
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        wait_for("the port", SOON, || {
            scene.kernel(&["0.0.0.0", "8083"]) == "ok"
        });
    });
}

#[test]
fn an_ipv6_wildcard_stands_against_ipv4() {
    private_network_as_root(|| {
        let mut scene = scene!(nginx);
        scene.begin_nginx(&[], "six", "[::]:8084 ipv6only=off");
        let (code, said) = scene.why("ipv6-wildcard", "127.0.0.1:8084");
        assert_eq!(code, 1, "{said}");
        assert_eq!(scene.kernel(&["127.0.0.1", "8084"]), "EADDRINUSE");
        // By default nginx sets IPV6_V6ONLY, and both have their port.
        scene.begin_nginx(&[], "only", "[::]:8098");
        assert_eq!(scene.kernel(&["127.0.0.1", "8098"]), "ok");
        let done = portcullis()
            .args(["why", "127.0.0.1:8098"])
            .status()
            .unwrap();
        assert_eq!(done.code(), Some(0));
    });
}

#[test]
fn another_users_reuseport() {
    private_network_as_root(|| {
        let mut scene = scene!();
        let serve = [
            "python3",
            "serve.py",
            "0.0.0.0",
            "8085",
            "reuseport",
            "nobody",
        ];
        scene.begin(&serve);
        let (code, said) = scene.why("other-user", "*:8085 --reuseport");
        assert_eq!(code, 1, "{said}");
        let share = ["0.0.0.0", "8085", "--reuseport"];
        assert_eq!(scene.kernel(&share), "EADDRINUSE");
        let same = ["0.0.0.0", "8085", "--reuseport", "nobody"];
        assert_eq!(scene.kernel(&same), "ok", "the same user may");
    });
}

#[test]
fn a_port_below_1024() {
    private_network_as_root(|| {
        let scene = scene!();
        let (code, said) = scene.why("privileged", "*:80 --as nobody");
        assert_eq!(code, 1, "{said}");
        assert_eq!(scene.kernel(&["0.0.0.0", "80", "nobody"]), "EACCES");
        assert_eq!(scene.kernel(&["0.0.0.0", "1024", "nobody"]), "ok");
    });
}

#[test]
fn an_address_that_has_moved_away() {
    private_network_as_root(|| {
        let scene = scene!();
        let (code, said) = scene.why("moved-address", "192.0.2.7:443");
        assert_eq!(code, 1, "{said}");
        assert_eq!(scene.kernel(&["192.0.2.7", "443"]), "EADDRNOTAVAIL");
        assert_eq!(scene.kernel(&["192.0.2.7", "443", "--freebind"]), "ok");
    });
}

#[test]
fn no_port_is_left_to_choose() {
    private_network_as_root(|| {
        let mut scene = scene!();
        set_sysctl("net.ipv4.ip_local_port_range", "40000 40001");
        scene.begin(&["python3", "serve.py", "127.0.0.1", "40000"]);
        scene.begin(&["python3", "serve.py", "127.0.0.1", "40001"]);
        let (code, said) = scene.why("range-exhausted", "127.0.0.1");
        assert_eq!(code, 1, "{said}");
        assert_eq!(scene.kernel(&["127.0.0.1", "0"]), "EADDRINUSE");
        assert_eq!(scene.kernel(&["127.0.0.2", "0"]), "ok");
    });
}

#[test]
fn a_reserved_port_is_never_chosen_and_may_be_named() {
    private_network_as_root(|| {
        let scene = scene!();
        set_sysctl("net.ipv4.ip_local_port_range", "40000 40001");
        set_sysctl("net.ipv4.ip_local_reserved_ports", "40000-40001");
        let (code, said) = scene.why("reserved", "127.0.0.1");
        assert_eq!(code, 1, "{said}");
        assert_eq!(scene.kernel(&["127.0.0.1", "0"]), "EADDRINUSE");
        let (code, said) = scene.why("reserved-named", "127.0.0.1:40000");
        assert_eq!(code, 0, "{said}");
        assert_eq!(scene.kernel(&["127.0.0.1", "40000"]), "ok");
    });
}

#[test]
fn so_reuseport_that_was_set_after_bind() {
    private_network_as_root(|| {
        let mut scene = scene!();
        scene.begin(&["python3", "serve.py", "127.0.0.1", "8086", "late"]);
        let (code, said) = scene.why("late-reuseport", "127.0.0.1:8086 --reuseport");
        let did = scene.kernel(&["127.0.0.1", "8086", "--reuseport"]);
        assert_eq!(code == 0, did == "ok", "{did}\n{said}");
        assert_ne!(code, 3, "{said}");
    });
}

#[test]
fn a_full_accept_queue() {
    private_network_as_root(|| {
        let mut scene = scene!();
        scene.begin(&["python3", "serve.py", "127.0.0.1", "8087", "stuck"]);
        let (code, said) = scene.why("accept-queue", "--no-traffic 127.0.0.1:8087");
        assert_eq!(code, 1, "{said}");
        let at = "127.0.0.1:8087".parse().unwrap();
        let more = std::net::TcpStream::connect_timeout(&at, Duration::from_millis(300));
        assert!(more.is_err(), "a further SYN is dropped");
    });
}

#[test]
fn a_process_without_a_descriptor_left_is_told_its_limit_and_a_way_out() {
    private_network_as_root(|| {
        let mut scene = scene!();
        if need_program("prlimit").is_none() {
            return;
        }
        scene.begin(&["python3", "serve.py", "127.0.0.1", "8092"]);
        let pid = scene.begin(&["python3", "full.py"]).pid().to_string();
        let full = scene.processes.last_mut().unwrap();
        full.signal(Signal::USR1);
        full.wait_line("1 EMFILE", SOON);
        let (code, said) = scene.why("descriptors", &format!("127.0.0.1:8092 --pid {pid}"));
        assert_eq!(code, 1, "{said}");
        let ask = |what: &str| {
            let mut command = portcullis();
            let done = command.args(["why", what, "--pid", &pid]).output().unwrap();
            let said = String::from_utf8(done.stdout).unwrap();
            (done.status.code().unwrap(), said)
        };
        let (code, said_of_path) = ask("/tmp/portcullis-none.sock");
        assert_eq!((code, said_of_path.contains("EMFILE")), (1, true));
        // The way out, as it is printed.
        let hint = said.split("  hint:   ").nth(1).unwrap();
        let words: Vec<&str> = hint.lines().next().unwrap().split(' ').collect();
        assert_eq!(words[0], "prlimit", "{said}");
        assert!(
            Command::new(words[0])
                .args(&words[1..])
                .status()
                .unwrap()
                .success()
        );
        let (code, said) = ask("127.0.0.1:8093");
        assert_eq!(code, 0, "{said}");
        assert!(ask("127.0.0.1:8092").1.contains("EADDRINUSE"));
        let full = scene.processes.last_mut().unwrap();
        full.signal(Signal::USR1);
        full.wait_line("2 ok", SOON);
    });
}

#[test]
fn limits_on_files_of_a_host_in_a_file_refuse_the_socket() {
    private_network_as_root(|| {
        let scene = scene!();
        let file = scene.place.path().join("host.json");
        let run = |words: &[&str]| {
            let done = portcullis().arg("why").args(words).output().unwrap();
            let text = String::from_utf8(done.stdout).unwrap();
            (done.status.code().unwrap(), text)
        };
        let path = file.to_str().unwrap();
        assert_eq!(run(&["--save", path]).0, 0);
        let read = std::fs::read_to_string(&file).unwrap();
        let ask = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut host: serde_json::Value = serde_json::from_str(&read).unwrap();
            change(&mut host);
            std::fs::write(&file, host.to_string()).unwrap();
            run(&["127.0.0.1:8094", "--host", path])
        };
        fn caller(host: &mut serde_json::Value) -> &mut serde_json::Value {
            let pid = host["caller"].clone();
            let all = host["processes"].as_array_mut().unwrap();
            all.iter_mut().find(|one| one["pid"] == pid).unwrap()
        }
        assert_eq!(ask(&|_| {}).0, 0);
        let (code, said) = ask(&|host| {
            host["files"] = serde_json::json!({"nr_open": 4, "file_max": 9, "open": 5});
            caller(host)["descriptors"] = 4.into();
        });
        assert_eq!(code, 1, "{said}");
        for part in [
            "(EMFILE)",
            "4 of 4 descriptors are open (fs.nr_open)",
            "sysctl fs.nr_open=8",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let full = serde_json::json!({"nr_open": 1000, "file_max": 9, "open": 9});
        let (code, said) = ask(&|host| {
            host["files"] = full.clone();
            caller(host)["capabilities"] = 0.into();
        });
        assert_eq!(code, 1, "{said}");
        for part in [
            "(ENFILE)",
            "9 of 9 files are open on this host",
            "sysctl fs.file-max=18",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        // CAP_SYS_ADMIN goes beyond; a file of an earlier version says nothing of it.
        assert_eq!(ask(&|host| host["files"] = full.clone()).0, 0);
        let (code, said) = ask(&|host| {
            host.as_object_mut().unwrap().remove("files");
            caller(host).as_object_mut().unwrap().remove("descriptors");
        });
        assert_eq!(code, 0, "{said}");
    });
}

#[test]
fn a_more_exact_listener_takes_what_the_wildcard_was_meant_for() {
    private_network_as_root(|| {
        let mut scene = scene!(nginx);
        scene.begin_nginx(&[], "wide", "8088 reuseport");
        scene.begin_nginx(&[], "exact", "127.0.0.1:8088 reuseport");
        let (code, said) = scene.why("more-exact", "--no-traffic *:8088");
        assert_eq!(code, 1, "{said}");
        // Each nginx says its own name.
        let answer = |to: &str| {
            let mut one = std::net::TcpStream::connect(to).unwrap();
            one.set_read_timeout(Some(SOON)).unwrap();
            one.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut text = String::new();
            one.read_to_string(&mut text).unwrap();
            text
        };
        assert!(answer("127.0.0.1:8088").ends_with("exact"));
        portcullis_testkit::add_address("192.0.2.1".parse().unwrap()).unwrap();
        assert!(answer("192.0.2.1:8088").ends_with("wide"));
    });
}

#[test]
fn a_port_that_is_taken_in_another_network_namespace() {
    private_network_as_root(|| {
        let mut scene = scene!(nginx);
        scene.begin_nginx(&["unshare", "-n"], "inner", "18089");
        let (code, said) = scene.why("other-namespace", "*:18089");
        assert_eq!(code, 0, "{said}");
        assert_eq!(scene.kernel(&["0.0.0.0", "18089"]), "ok");
    });
}

#[test]
fn what_an_ordinary_user_cannot_see_is_unknown() {
    private_network_as_root(|| {
        let mut scene = scene!();
        scene.begin(&["python3", "serve.py", "127.0.0.1", "8090", "reuseport"]);
        let place = scene.place.path().join("portcullis");
        std::fs::copy(env!("CARGO_BIN_EXE_portcullis"), &place).unwrap();
        let share = ["127.0.0.1", "8090", "--reuseport", "nobody"];
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", NOBODY, "--clear-groups"])
            .arg(&place);
        command.args(["why", "127.0.0.1:8090", "--reuseport"]);
        let mut process = Process::spawn(&mut command);
        assert_eq!(process.exit_code(SOON), 3, "{}", process.transcript());
        let said = process.stdout();
        for part in [
            "unknown: whether ",
            "EADDRINUSE",
            "a process that cannot be seen",
            "unseen: ",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(scene.kernel(&share), "EADDRINUSE");
        // Root knows.
        let (code, said) = scene.why("known-to-root", "127.0.0.1:8090 --reuseport --as nobody");
        assert_eq!(code, 1, "{said}");
    });
}

#[test]
fn another_process_and_another_network_are_asked_about_in_their_own() {
    private_network_as_root(|| {
        let mut scene = scene!();
        let serve = ["unshare", "-n", "python3", "serve.py", "0.0.0.0", "8091"];
        let pid = scene.begin(&serve).pid().to_string();
        let code = |words: &[&str]| {
            let done = portcullis().arg("why").args(words).output().unwrap();
            let said = String::from_utf8(done.stdout).unwrap();
            (done.status.code().unwrap(), said)
        };
        assert_eq!(code(&["*:8091"]).0, 0);
        let (there, said) = code(&["*:8091", "--pid", &pid]);
        assert_eq!(there, 1, "{said}");
        assert!(said.contains(&format!("pid {pid}, fd ")), "{said}");
        let path = format!("/proc/{pid}/ns/net");
        assert_eq!(code(&["*:8091", "--netns", &path]).0, 1);
        // From there nobody comes to the address that is here.
        let (there, said) = code(&["--no-traffic", "*:8091", "--netns", &path]);
        assert_eq!(there, 1, "its loopback is down: {said}");
        assert!(said.contains("interface-down: no interface"), "{said}");
        let (served, said) = code(&["--no-traffic", "127.0.0.1:8091", "--from", "127.0.0.1"]);
        assert_eq!(
            (served, said.contains("nobody-listens")),
            (1, true),
            "{said}"
        );
        assert_eq!(code(&["*:8091", "--pid", "999999999"]).0, 2);
        assert_eq!(code(&["*:8091", "--netns", "nowhere"]).0, 2);
        assert_eq!(code(&["*:8091", "--as", "nobody-of-this-name"]).0, 2);
        assert_eq!(code(&["--no-traffic", "127.0.0.1"]).0, 2);
    });
}

#[test]
fn a_host_that_was_written_down_answers_as_it_did() {
    private_network_as_root(|| {
        let mut scene = scene!();
        scene.begin(&["python3", "serve.py", "127.0.0.1", "8080"]);
        let file = scene.place.path().join("host.json");
        let run = |words: &[&str]| {
            let done = portcullis().arg("why").args(words).output().unwrap();
            let text = String::from_utf8(done.stdout).unwrap();
            (
                done.status.code().unwrap(),
                text,
                String::from_utf8(done.stderr).unwrap(),
            )
        };
        let path = file.to_str().unwrap();
        let saved = run(&["--save", path]);
        assert_eq!(saved, (0, String::new(), String::new()));
        let (code, live, _) = run(&["*:8080"]);
        assert_eq!(code, 1);
        drop(scene.processes);
        assert_eq!(run(&["*:8080"]).0, 0, "it has ended");
        let (code, told, _) = run(&["*:8080", "--host", path]);
        assert_eq!((code, told.lines().next()), (1, live.lines().next()));
        // The file has all namespaces, those of tests beside this one too.
        let last = live.lines().next_back().unwrap();
        assert!(told.lines().any(|line| line == last), "{told}");
        // Arguments of command lines are not written down unless that is asked for.
        assert!(!std::fs::read_to_string(&file).unwrap().contains("serve.py"));
        let (code, json, _) = run(&["*:8080", "--host", path, "--json"]);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(code, 1);
        assert_eq!(json["format"], 1);
        assert_eq!(json["outcome"], "refused");
        assert_eq!(json["answers"][0]["error"], "EADDRINUSE");
        assert_eq!(
            json["answers"][0]["holders"][0]["address"],
            "127.0.0.1:8080"
        );
        assert_eq!(json["ways"][0]["tried"], true);
        let (code, _, error) = run(&["*:8080", "--host", "/etc/passwd"]);
        assert_eq!(code, 2, "{error}");
        assert!(error.contains("not a host's description"), "{error}");
    });
}
