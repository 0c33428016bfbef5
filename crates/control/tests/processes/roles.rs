//! The programs that scenarios start: each has one thread, says what it sees, and ends by itself.
//!
//! Decides:  nothing; a role does what a scenario tells it and prints the outcome, one line each.
//! Not here: what is expected (scenarios.rs).
//!
//! A role that waits does so for its standard input to end, or for a minute: none outlives its
//! scenario.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use portcullis_config::model::{Capability, Chroot, Id};
use portcullis_control::daemon::{Launch, Readiness, launch};
use portcullis_control::limits::{self, Demand, Pipes, Strictness, Wishes};
use portcullis_control::pidfile::Pidfile;
use portcullis_control::privileges::{self, HostNames, Wanted};
use portcullis_listener::opener::{ChildEnd, InProcess, Opener, Parent, Split, permit_all, split};
use portcullis_listener::{Address, Listener, ListenerSpec};
use portcullis_sys::process::{self, Signals};
use portcullis_testkit::Signal;
use rustix::event::{PollFd, PollFlags, Timespec};

/// No role lives longer.
const LIFE: Duration = Duration::from_secs(60);
/// Where the roles that listen at a fixed place do.
pub const ADDRESS: &str = "127.0.0.1:8080";
/// A port below 1024.
pub const PRIVILEGED: &str = "127.0.0.1:80";

/// Runs a role by name.
pub fn play(arguments: &[String]) -> ExitCode {
    portcullis_testkit::loopback_up().unwrap();
    let (name, rest) = arguments.split_first().unwrap();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let code = match name.as_str() {
        "fork" => fork(),
        "fork-with-threads" => fork_with_threads(),
        "split-exit" => split_exit(rest[0].parse().unwrap()),
        "split-killed" => split_killed(),
        "split-signals" => split_signals(),
        "split-orphan" => split_orphan(),
        "split-many" => split_many(rest[0].parse().unwrap()),
        "split-short" => split_short(),
        "shard-after-drop" => shard_after_drop(),
        "shard-without-fchown" => shard_without_fchown(),
        "drop" => drop_everything(),
        "drop-twice" => drop_twice(),
        "drop-refused" => drop_refused(),
        "chroot-as-ordinary-user" => chroot_as_ordinary_user(),
        "daemon-ready" => daemon_ready(rest[0].into()),
        "daemon-failed" => daemon_fails(Some("cannot bind 0.0.0.0:443")),
        "daemon-silent" => daemon_fails(None),
        "daemon-killed" => daemon_killed(),
        "limits" => limits(rest[0], rest[1].parse().unwrap(), rest[2]),
        other => panic!("no role {other}"),
    };
    ExitCode::from(code)
}

fn fork() -> u8 {
    match process::fork().unwrap() {
        process::Fork::Child => std::process::exit(7),
        process::Fork::Parent(pid) => {
            let (_, status) =
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
                    .unwrap()
                    .unwrap();
            u8::try_from(status.exit_status().unwrap()).unwrap()
        }
    }
}

fn fork_with_threads() -> u8 {
    // A thread that has just been joined does not count.
    std::thread::spawn(|| ()).join().unwrap();
    assert!(process::is_single_threaded().unwrap());
    let (tell, wait) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || wait.recv().is_err());
    println!("split: {}", split().unwrap_err());
    println!("launch: {}", launch().unwrap_err());
    drop(tell);
    other.join().unwrap();
    0
}

/// The opener's side: serves and ends as the worker does.
fn serve(process: portcullis_listener::opener::OpenerProcess, opener: &mut InProcess) -> ChildEnd {
    println!("worker {}", process.child().as_raw_nonzero());
    process.serve(opener, &mut permit_all).unwrap()
}

/// Splits; the opener never comes back from here.
fn worker(opener: &mut InProcess) -> Parent {
    match split().unwrap() {
        Split::Opener(process) => std::process::exit(serve(process, opener).exit_code().into()),
        Split::Worker(parent) => parent,
    }
}

fn split_exit(code: u8) -> u8 {
    let mut parent = worker(&mut InProcess::new());
    assert_eq!(
        Some(parent.pid()),
        rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().try_into().unwrap())
    );
    let opened = parent.open(&[spec("127.0.0.1:0", 1)]).unwrap();
    TcpStream::connect(local(&opened.listeners[0])).unwrap();
    code
}

fn split_killed() -> u8 {
    worker(&mut InProcess::new());
    rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
    unreachable!("killed");
}

fn split_signals() -> u8 {
    worker(&mut InProcess::new());
    let all = [
        Signal::INT,
        Signal::QUIT,
        Signal::HUP,
        Signal::USR1,
        Signal::USR2,
        Signal::TTIN,
        Signal::TTOU,
        Signal::TERM,
    ];
    let signals = Signals::block(&all).unwrap();
    println!("ready");
    let end = Instant::now() + LIFE;
    while wait_for(&signals, end) {
        while let Some(received) = signals.next().unwrap() {
            println!("got {:?}", received.signal);
            if received.signal == Signal::TERM {
                return 5;
            }
        }
    }
    99
}

fn split_orphan() -> u8 {
    let mut parent = worker(&mut InProcess::new());
    let opened = parent.open(&[spec(ADDRESS, 1)]).unwrap();
    println!("serving");
    // Until the opener is gone, which its descriptor shows.
    assert!(wait_for(&parent, Instant::now() + LIFE));
    TcpStream::connect(local(&opened.listeners[0])).unwrap();
    println!("still serving");
    println!("{}", parent.open(&[spec("127.0.0.1:0", 1)]).unwrap_err());
    0
}

fn split_many(count: usize) -> u8 {
    let mut parent = worker(&mut InProcess::new());
    let mut specs: Vec<ListenerSpec> = (0..count).map(|_| spec("127.0.0.1:0", 1)).collect();
    for (index, spec) in specs.iter_mut().enumerate() {
        spec.name = format!("a listener with a name of its own, number {index}");
    }
    let opened = parent.open(&specs).unwrap();
    let ports: HashSet<u16> = opened
        .listeners
        .iter()
        .map(|one| local(one).port())
        .collect();
    println!(
        "{} listeners on {} ports",
        opened.listeners.len(),
        ports.len()
    );
    // A second question is answered when the first is done with.
    parent.open(&[]).unwrap();
    println!(
        "opener holds {} sockets",
        portcullis_testkit::sockets(parent.pid())
    );
    // All or nothing, also when there are many: the last of these is taken.
    specs.push(spec(&local(&opened.listeners[0]).to_string(), 1));
    specs.last_mut().unwrap().reuse_port = false;
    let before = portcullis_testkit::sockets(std::process::id());
    println!("{}", parent.open(&specs).unwrap_err());
    parent.open(&[]).unwrap();
    println!(
        "left over: {} here, {} there",
        portcullis_testkit::sockets(std::process::id()) - before,
        portcullis_testkit::sockets(parent.pid())
    );
    0
}

/// The worker has room for fewer descriptors than it asks for.
fn split_short() -> u8 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let mut parent = worker(&mut InProcess::new());
    let before = getrlimit(Resource::Nofile);
    let short = Rlimit {
        current: Some(100),
        maximum: before.maximum,
    };
    let specs: Vec<ListenerSpec> = (0..600).map(|_| spec("127.0.0.1:0", 1)).collect();
    setrlimit(Resource::Nofile, short).unwrap();
    println!("{}", parent.open(&specs).unwrap_err());
    let opened = parent.open(&specs[..10]).unwrap();
    println!("then {}", opened.listeners.len());
    drop(opened);
    setrlimit(Resource::Nofile, before).unwrap();
    println!(
        "sockets {}",
        portcullis_testkit::sockets(std::process::id())
    );
    println!("all {}", parent.open(&specs).unwrap().listeners.len());
    0
}

/// Start as root, user nobody: shards first, then the drop, then another shard and port 80.
fn shard_after_drop() -> u8 {
    let nobody = process::user_by_name("nobody").unwrap().unwrap();
    let mut parent = worker(&mut InProcess::for_user(nobody.uid));
    let mut opened = parent.open(&[spec(ADDRESS, 2)]).unwrap().listeners;
    println!("{} shards", opened.len());
    drop_to_nobody(Some(Chroot::Auto), Vec::new());

    println!(
        "here: {}",
        InProcess::new().open(&[spec(PRIVILEGED, 1)]).unwrap_err()
    );
    opened.extend(parent.open(&[spec(ADDRESS, 1)]).unwrap().listeners);
    opened.extend(parent.open(&[spec(PRIVILEGED, 1)]).unwrap().listeners);
    // A sibling opened without the opener belongs to the same user, and so to the same group.
    opened.extend(
        InProcess::new()
            .open(&[spec(ADDRESS, 1)])
            .unwrap()
            .listeners,
    );
    println!("{} listeners", opened.len());
    for listener in &opened {
        assert_eq!(rustix::fs::fstat(listener).unwrap().st_uid, nobody.uid);
    }
    let shards = |listener: &&Listener| local(listener).port() == 8080;
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(TcpStream::connect(ADDRESS).unwrap());
    }
    let waiting = opened
        .iter()
        .filter(shards)
        .filter(|one| has_connection(one))
        .count();
    println!("{waiting} shards have connections");
    TcpStream::connect(PRIVILEGED).unwrap();
    0
}

/// The same without giving the sockets away: what the kernel says then.
fn shard_without_fchown() -> u8 {
    let mut parent = worker(&mut InProcess::new());
    let _roots = parent.open(&[spec(ADDRESS, 2)]).unwrap();
    let nobody = process::user_by_name("nobody").unwrap().unwrap();
    let mut given = spec("127.0.0.1:8081", 1);
    given.owner_uid = Some(nobody.uid);
    let _nobodys = parent.open(&[given.clone()]).unwrap();
    drop_to_nobody(None, Vec::new());
    println!(
        "nobody beside root: {}",
        InProcess::new().open(&[spec(ADDRESS, 1)]).unwrap_err()
    );
    println!(
        "root beside nobody: {}",
        parent.open(&[spec("127.0.0.1:8081", 1)]).unwrap_err()
    );
    println!(
        "given beside nobody: {}",
        parent.open(&[given]).unwrap().listeners.len()
    );
    0
}

fn wanted(chroot: Option<Chroot>, keep: Vec<Capability>) -> Wanted {
    Wanted {
        user: Some(Id::Name("nobody".into())),
        group: Some(Id::Name("nogroup".into())),
        chroot,
        keep,
    }
}

fn drop_to_nobody(chroot: Option<Chroot>, keep: Vec<Capability>) {
    let identity = privileges::resolve(&wanted(chroot, keep), &HostNames).unwrap();
    let plan = privileges::plan(&identity, &privileges::present().unwrap());
    assert_eq!(privileges::apply(&plan).unwrap(), []);
}

fn drop_everything() -> u8 {
    process::set_groups(&[0, 4, 27]).unwrap();
    let task = rustix::fs::open(
        "/proc/self",
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    // A thread from before, like a log writer, becomes the other user too.
    let (tell, wait) = std::sync::mpsc::channel::<()>();
    let (ids_tell, ids) = std::sync::mpsc::channel();
    let early = std::thread::spawn(move || {
        let _ = wait.recv();
        let sets = rustix::thread::capabilities(None).unwrap();
        ids_tell
            .send((process::users().unwrap(), sets.permitted))
            .unwrap();
    });
    drop_to_nobody(Some(Chroot::Auto), vec![Capability::NetBindService]);
    println!("pid {}", std::process::id());
    // Unlinked: the directory that is now the root has no name, and nothing can be made in it.
    let root = rustix::fs::stat("/").unwrap();
    println!("root has {} names", root.st_nlink);
    println!("list: {}", std::fs::read_dir("/").unwrap_err());
    println!("write: {}", std::fs::write("/x", "").unwrap_err());
    println!("root again: {}", process::set_user(0).unwrap_err());
    println!("group again: {}", process::set_group(0).unwrap_err());
    println!("groups {}", rustix::process::getgroups().unwrap().len());
    let status = rustix::fs::openat(
        &task,
        "status",
        rustix::fs::OFlags::RDONLY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let status = std::io::read_to_string(std::fs::File::from(status)).unwrap();
    for line in status.lines() {
        if [
            "Uid",
            "Gid",
            "CapPrm",
            "CapEff",
            "CapInh",
            "CapAmb",
            "NoNewPrivs",
        ]
        .iter()
        .any(|key| line.starts_with(key))
        {
            println!("{}", line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    // What was kept works, and in threads that are started later.
    let late = std::thread::spawn(|| InProcess::new().open(&[spec(PRIVILEGED, 1)]).is_ok());
    println!("port 80 from a later thread: {}", late.join().unwrap());
    println!(
        "raw socket: {}",
        rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::RAW,
            Some(rustix::net::ipproto::ICMP)
        )
        .unwrap_err()
    );
    drop(tell);
    let (users, permitted) = ids.recv().unwrap();
    println!(
        "early thread: {} {:?}",
        users.effective,
        permitted.is_empty()
    );
    early.join().unwrap();
    0
}

/// Already who is wanted: nothing to do, and that is fine.
fn drop_twice() -> u8 {
    drop_to_nobody(None, Vec::new());
    drop_to_nobody(None, Vec::new());
    println!("nobody twice");
    0
}

/// What an ordinary user is refused, and how that is said.
fn drop_refused() -> u8 {
    become_ordinary();
    for (what, user, group) in [("user", Some(1), None), ("group", None, Some(1))] {
        let wanted = Wanted {
            user: user.map(Id::Number),
            group: group.map(Id::Number),
            ..Wanted::default()
        };
        println!("{what}: {}", drop_to(&wanted).unwrap_err());
    }
    0
}

/// An ordinary user in a chroot, and in a second one, which no user namespace makes possible.
fn chroot_as_ordinary_user() -> u8 {
    become_ordinary();
    let status = std::process::Command::new("unshare")
        .args(["-U", "true"])
        .status();
    println!("user namespaces: {}", status.unwrap().success());
    let wanted = Wanted {
        user: Some(Id::Name("nobody".into())),
        group: Some(Id::Name("nogroup".into())),
        chroot: Some(Chroot::Auto),
        ..Wanted::default()
    };
    let jail = drop_to(&wanted);
    println!(
        "jail: {}",
        jail.map_or_else(|e| e.to_string(), |w| format!("{} warnings", w.len()))
    );
    println!("root has {} names", rustix::fs::stat("/").unwrap().st_nlink);
    println!("{:?}", process::users().unwrap());
    println!(
        "capabilities: {}",
        !rustix::thread::capabilities(None)
            .unwrap()
            .permitted
            .is_empty()
    );
    println!(
        "listeners: {}",
        InProcess::new()
            .open(&[spec(ADDRESS, 2)])
            .unwrap()
            .listeners
            .len()
    );
    let again = Wanted {
        chroot: Some(Chroot::Directory(".".into())),
        ..Wanted::default()
    };
    println!("again: {}", drop_to(&again).unwrap_err());
    0
}

/// From root to nobody, by hand: it is the start of the scenario, not what is tried.
fn become_ordinary() {
    let nobody = process::user_by_name("nobody").unwrap().unwrap();
    process::set_groups(&[]).unwrap();
    process::set_group(nobody.gid).unwrap();
    process::set_user(nobody.uid).unwrap();
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable).unwrap();
}

fn drop_to(wanted: &Wanted) -> Result<Vec<privileges::Warning>, privileges::PrivilegeError> {
    let identity = privileges::resolve(wanted, &HostNames)?;
    privileges::apply(&privileges::plan(
        &identity,
        &privileges::present().unwrap(),
    ))
}

/// A daemon with an opener and a pid file, as `run` does it. Ends by SIGTERM.
fn daemon_ready(pid_path: PathBuf) -> u8 {
    let readiness = match launch().unwrap() {
        Launch::Launcher(launcher) => return launched(launcher),
        Launch::Daemon(readiness) => readiness,
    };
    let (mut parent, pidfile) = match split().unwrap() {
        Split::Opener(process) => {
            drop(readiness);
            let pidfile = Pidfile::claim(&pid_path, std::process::id()).unwrap();
            let end = process
                .serve(&mut InProcess::new(), &mut permit_all)
                .unwrap();
            pidfile.remove_if_ours();
            return end.exit_code();
        }
        Split::Worker(parent) => {
            let pidfile = Pidfile::write(&pid_path, parent.pid()).unwrap();
            (parent, pidfile)
        }
    };
    let signals = Signals::block(&[Signal::TERM]).unwrap();
    let opened = parent.open(&[spec(ADDRESS, 1)]).unwrap();
    eprintln!("a last word");
    println!(
        "session {} of {} worker {}",
        rustix::process::getsid(None).unwrap().as_raw_nonzero(),
        std::fs::read_to_string(pidfile.path()).unwrap().trim(),
        std::process::id()
    );
    parent.detach().unwrap();
    readiness.ready().unwrap();
    println!("lost");
    wait_for(&signals, Instant::now() + LIFE);
    drop(opened);
    0
}

fn launched(launcher: portcullis_control::daemon::Launcher) -> u8 {
    let end = launcher.wait().unwrap();
    if let Some(message) = end.message {
        eprintln!("{message}");
    }
    end.code
}

fn daemon_of(start: impl FnOnce(Readiness) -> u8) -> u8 {
    match launch().unwrap() {
        Launch::Launcher(launcher) => launched(launcher),
        Launch::Daemon(readiness) => start(readiness),
    }
}

/// The worker fails, with an opener between it and the launcher.
fn daemon_fails(text: Option<&str>) -> u8 {
    daemon_of(|readiness| {
        worker(&mut InProcess::new());
        match text {
            Some(text) => readiness.failed(3, text).unwrap(),
            None => eprintln!("its own words"),
        }
        4
    })
}

fn daemon_killed() -> u8 {
    daemon_of(|_readiness| {
        rustix::process::kill_process(rustix::process::getpid(), Signal::KILL).unwrap();
        0
    })
}

fn limits(user: &str, maxconn: u32, strictness: &str) -> u8 {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let limit = Rlimit {
        current: Some(256),
        maximum: Some(4096),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let sets = rustix::thread::capabilities(None).unwrap();
    let may = sets
        .effective
        .contains(rustix::thread::CapabilitySet::SYS_RESOURCE);
    println!("may raise the hard limit: {may}");
    if user == "nobody" {
        drop_to_nobody(None, Vec::new());
    }
    let demand = Demand {
        listeners: 1,
        checks: 0,
        workers: 1,
        pipes: Pipes::None,
    };
    let wishes = Wishes {
        maxconn: (maxconn > 0).then_some(maxconn),
        strictness: if strictness == "strict" {
            Strictness::Strict
        } else {
            Strictness::Lenient
        },
        ..Wishes::default()
    };
    match limits::apply(&demand, &wishes) {
        Ok(settled) => {
            let now = limits::present();
            println!(
                "maxconn {} soft {} hard {}",
                settled.maxconn, now.soft, now.hard
            );
            if let Some(warning) = settled.warning {
                println!("warning: {warning}");
            }
        }
        Err(error) => println!("error: {error}"),
    }
    0
}

fn spec(address: &str, shards: u16) -> ListenerSpec {
    let mut spec = ListenerSpec::new(Address::Tcp(address.parse().unwrap()));
    spec.shards = shards;
    spec
}

fn local(listener: &Listener) -> SocketAddr {
    rustix::net::getsockname(listener)
        .unwrap()
        .try_into()
        .unwrap()
}

fn has_connection(listener: &Listener) -> bool {
    wait_for(listener, Instant::now() + Duration::from_millis(1))
}

/// Waits until it is readable; `false` if the deadline passes first.
fn wait_for(fd: impl AsFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        let timeout = Timespec::try_from(left).unwrap();
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.unwrap() > 0,
        }
    }
}
