//! A new process in the place of the old one: nobody is lost, whoever dies, at whatever moment.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use portcullis_control::take_over::TakeOver;
use portcullis_listener::handover::{Link, Message};
use portcullis_listener::{ListenerSpec, OpenContext, Pool, open_set};
use portcullis_testkit::{
    Process, Signal, eventually, private_network, private_network_as_root, wait_for,
};
use rustix::process::{Pid, kill_process, test_kill_process};

use super::clients::{ask, connect};
use super::harness::{Place, SOON, local, ours_only, portcullis};
use super::reload::{FRONT, ONE, TWO, with};
use super::reload_load::Crowd;
use super::servers::Server;

/// A process with a pid file, and those that come after it.
pub struct Line {
    pub first: Process,
    place: Place,
    pub file: PathBuf,
    pidfile: PathBuf,
}

impl Line {
    #[track_caller]
    pub fn start(config: &str) -> Line {
        Line::start_with(config, |_| {})
    }

    #[track_caller]
    pub fn start_with(config: &str, edit: impl FnOnce(&mut Command)) -> Line {
        let mut command = portcullis();
        edit(command.arg("run"));
        Line::spawn(Place::new(), command, config)
    }

    /// This program, which is told its file and its pid file here.
    #[track_caller]
    fn spawn(place: Place, mut command: Command, config: &str) -> Line {
        let file = place.write("test.cfg", config);
        let pidfile = place.path().join("pid");
        command.arg("-f").arg(&file).arg("-p").arg(&pidfile);
        let mut first = Process::spawn(&mut command);
        first.wait_port(FRONT, SOON);
        let line = Line {
            first,
            place,
            file,
            pidfile,
        };
        wait_for("the socket", SOON, || line.socket().exists());
        line
    }

    pub fn socket(&self) -> PathBuf {
        self.pidfile
            .with_extension("sock")
            .with_file_name("pid.sock")
    }

    /// The process that the pid file names.
    pub fn pid(&self) -> u32 {
        let text = std::fs::read_to_string(&self.pidfile).unwrap();
        text.trim().parse().unwrap()
    }

    fn upgrade(&self) -> Output {
        let mut command = portcullis();
        command.arg("upgrade").arg("-p").arg(&self.pidfile);
        command.output().unwrap()
    }

    #[track_caller]
    pub fn upgraded(&self) {
        let before = self.pid();
        let done = self.upgrade();
        assert!(
            done.status.success(),
            "{}\n{}",
            String::from_utf8_lossy(&done.stderr),
            self.first.transcript()
        );
        assert_ne!(self.pid(), before, "{}", self.first.transcript());
    }

    #[track_caller]
    pub fn reloaded(&self) {
        let mut command = portcullis();
        command.arg("reload").arg("-p").arg(&self.pidfile);
        let done = command.output().unwrap();
        assert!(done.status.success(), "{}", self.first.transcript());
    }

    /// Nothing came of it, and this is what was said.
    #[track_caller]
    fn not_upgraded(&self) -> String {
        let before = self.pid();
        let done = self.upgrade();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(1), "{said}");
        assert!(
            said.ends_with("the running process goes on as it was\n"),
            "{said}"
        );
        assert_eq!(self.pid(), before);
        said
    }

    /// Ends the last of them.
    #[track_caller]
    pub fn stop(self) {
        let said = self.first.transcript();
        assert!(!said.contains("panicked"), "{said}");
        let pid = self.pid();
        signal(pid, Signal::TERM);
        wait_for("the end of the last one", SOON, || is_gone(pid));
        assert!(!self.pidfile.exists() && !self.socket().exists());
    }
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

pub fn signal(pid: u32, signal: Signal) {
    kill_process(pid_of(pid), signal).unwrap();
}

/// Stops a process, and waits until none of its threads runs any more.
pub fn stop_all_threads(pid: u32) {
    signal(pid, Signal::STOP);
    wait_for("all threads to stop", SOON, || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        tasks.flatten().all(|task| {
            let stat = std::fs::read_to_string(task.path().join("stat"));
            stat.is_ok_and(|text| text.contains(") T "))
        })
    });
}

/// Gone, or a child of somebody who does not ask for it.
pub fn is_gone(pid: u32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    test_kill_process(pid_of(pid)).is_err() || state.is_ok_and(|text| text.contains(") Z "))
}

pub fn two_servers() -> [Server; 2] {
    [
        Server::echo(local(9001), "one"),
        Server::echo(local(9002), "two"),
    ]
}

#[test]
fn a_hundred_upgrades_under_load_refuse_reset_and_cut_short_nobody() {
    if ours_only() {
        return;
    }
    private_network(|| upgrades_under_load(100));
}

fn upgrades_under_load(rounds: usize) {
    let servers = two_servers();
    let line = Line::start(&with("127.0.0.1:8000", &[ONE, TWO]));
    let mut session = connect(FRONT);
    let name = ask(&mut session, "before");
    let name = name.split(' ').next().unwrap().to_owned();
    let crowd = Crowd::start(8);
    let first = line.pid();
    for round in 1..=rounds {
        line.upgraded();
        let before = crowd.served();
        wait_for("some more to be served", SOON, || {
            crowd.served() > before + 20
        });
        assert_eq!(
            ask(&mut session, &format!("{round}")),
            format!("{name} {round}")
        );
    }
    let served = crowd.served();
    assert_eq!(crowd.stop(), Vec::<String>::new(), "of {served} served");
    eprintln!("{rounds} upgrades, {served} served");
    assert!(served > 160, "{served}");
    // The first one lives as long as its session does.
    assert!(!is_gone(first));
    drop(session);
    wait_for("the first one's end", SOON, || is_gone(first));
    servers.iter().for_each(Server::assert_well);
    line.stop();
}

#[test]
fn another_number_of_workers_and_other_options_take_the_same_sockets() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let line = Line::start(&with("127.0.0.1:8000", &[ONE]));
        let crowd = Crowd::start(4);
        for (workers, bind) in [
            (4, "127.0.0.1:8000 backlog 2000"),
            (1, "127.0.0.1:8000,127.0.0.1:8001 mss 900"),
            (3, "127.0.0.1:8000"),
        ] {
            let config = with(bind, &[ONE]).replace("nbthread 2", &format!("nbthread {workers}"));
            std::fs::write(&line.file, config).unwrap();
            line.upgraded();
            let before = crowd.served();
            wait_for("some more to be served", SOON, || {
                crowd.served() > before + 20
            });
        }
        assert_eq!(crowd.stop(), Vec::<String>::new());
        line.stop();
    });
}

#[test]
fn a_new_one_that_cannot_start_changes_nothing_and_says_why() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let place = Place::new();
        // A program of its own, that can be replaced.
        let program = place.path().join("portcullis");
        let binary = Path::new(env!("CARGO_BIN_EXE_portcullis"));
        std::fs::hard_link(binary, &program)
            .or_else(|_| std::fs::copy(binary, &program).map(drop))
            .unwrap();
        let mut command = Command::new(&program);
        command.arg("run");
        let line = Line::spawn(place, command, &with("127.0.0.1:8000", &[ONE]));
        let crowd = Crowd::start(4);

        std::fs::write(&line.file, "listen nonsense\n    bind what\n").unwrap();
        let said = line.not_upgraded();
        assert!(said.contains("test.cfg:2"), "{said}");

        let taken = TcpListener::bind(local(8001)).unwrap();
        let config = with("127.0.0.1:8000,127.0.0.1:8001 backlog 99", &[ONE]);
        std::fs::write(&line.file, config).unwrap();
        let said = line.not_upgraded();
        assert!(said.contains("EADDRINUSE"), "{said}");
        drop(taken);

        let replace = |text: &str| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::remove_file(&program).unwrap();
            line.place.write("portcullis", text);
            let all = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(&program, all).unwrap();
        };
        replace("#!/bin/sh\nexit 7\n");
        let said = line.not_upgraded();
        assert!(said.contains("exit status: 7"), "{said}");
        replace("#!/bin/sh\nkill -SEGV $$\n");
        let said = line.not_upgraded();
        assert!(said.contains("signal: 11"), "{said}");
        replace("no program");
        let said = line.not_upgraded();
        assert!(said.contains("cannot be started"), "{said}");

        std::fs::remove_file(&program).unwrap();
        std::fs::hard_link(binary, &program)
            .or_else(|_| std::fs::copy(binary, &program).map(drop))
            .unwrap();
        line.upgraded();
        assert_eq!(crowd.stop(), Vec::<String>::new());
        line.stop();
    });
}

/// The new process's side, as far as it gets.
struct Newcomer {
    pool: Pool,
    taking: TakeOver,
}

impl Newcomer {
    fn come(line: &Line) -> Newcomer {
        let pool = Pool::default();
        let taking = TakeOver::begin(&line.socket(), &pool).unwrap();
        Newcomer { pool, taking }
    }

    /// The listening socket of the front door, as it came.
    fn front(&self) -> TcpListener {
        let mut spec = ListenerSpec::tcp(FRONT);
        spec.name = "front".to_owned();
        let mut context = OpenContext::default();
        context.pool = self.pool.clone();
        let mut opened = open_set(&[spec], &context).unwrap().listeners;
        assert!(opened.iter().all(|one| one.facts().adopted));
        opened.remove(0).try_into().unwrap()
    }
}

/// A conversation, message by message; the descriptors are dropped.
fn raw(line: &Line) -> Link {
    let mut stream = UnixStream::connect(line.socket()).unwrap();
    stream.write_all(b"_hand-over\n").unwrap();
    let received = portcullis_sys::pass::receive(&stream, &mut [0]).unwrap();
    Link::of(received.descriptors.into_iter().next().unwrap())
}

#[test]
fn a_new_one_that_dies_at_any_message_leaves_the_old_one_as_it_was() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let config = with("127.0.0.1:8000 backlog 77", &[ONE]);
        let line = Line::start(&config);
        let crowd = Crowd::start(4);
        let hello = || Message::Hello {
            version: 1,
            notes: true,
        };
        let stories: [Vec<Message>; 4] = [
            vec![],
            vec![hello()],
            vec![hello(), Message::Ready { pid: 77 }],
            vec![hello(), Message::Refused("it is not my day".to_owned())],
        ];
        for (number, story) in stories.into_iter().enumerate() {
            let mut link = raw(&line);
            for message in story {
                link.say(&message, &[]).unwrap();
                let _ = link.listen(Duration::from_millis(200));
            }
            drop(link);
            let failed = || {
                let said = line.first.stderr();
                said.matches("nobody has taken over").count()
            };
            wait_for("the old one to go on", SOON, || failed() > number);
            let before = crowd.served();
            wait_for("some more to be served", SOON, || {
                crowd.served() > before + 20
            });
        }
        // With another one's options on the sockets.
        let newcomer = Newcomer::come(&line);
        let front = newcomer.front();
        portcullis_listener::pause::pause(&front).unwrap();
        drop((front, newcomer));
        let before = crowd.served();
        wait_for("some more to be served", SOON, || {
            crowd.served() > before + 20
        });
        // The pid file was nobody's but the old one's all the time, and an upgrade works.
        assert_eq!(line.pid(), line.first.pid());
        line.upgraded();
        assert_eq!(crowd.stop(), Vec::<String>::new());
        line.stop();
    });
}

#[test]
fn an_old_one_that_is_killed_leaves_every_queue_to_who_has_the_sockets() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let config = with("127.0.0.1:8000", &[ONE]).replace("nbthread 2", "nbthread 1");
        let mut line = Line::start(&config);
        let newcomer = Newcomer::come(&line);
        // It accepts no more, and clients come.
        stop_all_threads(line.first.pid());
        let clients: Vec<_> = (0..5).map(|_| connect(FRONT)).collect();
        line.first.signal(Signal::KILL);
        wait_for("its end", SOON, || is_gone(line.first.pid()));
        let front = newcomer.front();
        front.set_nonblocking(false).unwrap();
        for mut client in clients {
            let (mut served, _) = front.accept().unwrap();
            served.write_all(b"served").unwrap();
            drop(served);
            let mut said = String::new();
            client.read_to_string(&mut said).unwrap();
            assert_eq!(said, "served");
        }
        drop(newcomer.taking);
    });
}

#[test]
fn a_second_one_started_by_hand_takes_over_and_the_first_one_finishes() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let mut line = Line::start(&with("127.0.0.1:8000", &[ONE]));
        let crowd = Crowd::start(4);
        let mut command = portcullis();
        command.arg("run").arg("-f").arg(&line.file);
        command.arg("-p").arg(&line.pidfile);
        command.arg("-x").arg(line.socket());
        command.arg("-sf").arg(line.pid().to_string());
        let mut second = Process::spawn(&mut command);
        let code = line.first.exit_code(SOON);
        assert_eq!(code, 0, "{}", line.first.transcript());
        assert_eq!(line.pid(), second.pid());
        let before = crowd.served();
        wait_for("some more to be served", SOON, || {
            crowd.served() > before + 20
        });
        assert_eq!(
            crowd.stop(),
            Vec::<String>::new(),
            "{}",
            second.transcript()
        );
        assert!(second.running());
        line.stop();
    });
}

#[test]
fn a_reload_that_is_asked_for_while_another_process_takes_over_comes_after_it() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let line = Line::start(&with("127.0.0.1:8000", &[ONE]));
        let newcomer = Newcomer::come(&line);
        let second = TakeOver::begin(&line.socket(), &Pool::default()).unwrap_err();
        assert!(second.to_string().contains("another process"), "{second}");
        std::fs::write(&line.file, with("127.0.0.1:8000", &[TWO])).unwrap();
        let mut reload = portcullis();
        reload.arg("reload").arg("-p").arg(&line.pidfile);
        let mut reload = Process::spawn(&mut reload);
        std::thread::sleep(Duration::from_millis(300));
        assert!(reload.running());
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        newcomer.taking.refuse("not today");
        assert_eq!(reload.exit_code(SOON), 0, "{}", reload.transcript());
        assert_eq!(ask(&mut connect(FRONT), "x"), "two x");
        assert!(line.first.stderr().contains("not today"));
        line.stop();
    });
}

#[test]
fn the_service_manager_hears_of_the_new_main_process_and_of_no_stop() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let directory = Place::new();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(SOON)).unwrap();
        let config = with("127.0.0.1:8000", &[ONE]);
        let mut line = Line::start_with(&config, |command| {
            command.env("NOTIFY_SOCKET", &path);
        });
        let heard = || {
            let mut buffer = [0; 4096];
            let length = manager.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..length]).into_owned()
        };
        assert!(heard().starts_with("READY=1\n"));
        line.upgraded();
        assert_eq!(line.first.exit_code(SOON), 0);
        let mut told = vec![heard(), heard(), heard()];
        assert!(
            told[0].starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{told:?}"
        );
        told.sort();
        assert_eq!(told[0], format!("MAINPID={}\n", line.pid()));
        assert!(told[1].starts_with("READY=1\nSTATUS=serving "), "{told:?}");
        manager.set_nonblocking(true).unwrap();
        assert!(manager.recv(&mut [0; 10]).is_err(), "nothing more was said");
        line.stop();
    });
}

#[test]
fn a_process_that_dropped_its_privileges_is_replaced_with_its_low_port() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let _servers = two_servers();
        let place = Place::new();
        let cell = place.path().join("empty");
        std::fs::create_dir(&cell).unwrap();
        let drop_them = format!(
            "nbthread 2\n    user nobody\n    group nogroup\n    chroot {}",
            cell.display()
        );
        let bind = "127.0.0.1:8000,127.0.0.1:80";
        let config = with(bind, &[ONE]).replace("nbthread 2", &drop_them);
        let line = Line::start(&config);
        let mut session = connect(local(80));
        assert_eq!(ask(&mut session, "before"), "one before");
        let crowd = Crowd::start(4);
        for _ in 0..3 {
            line.upgraded();
            assert_eq!(ask(&mut connect(local(80)), "x"), "one x");
        }
        assert_eq!(ask(&mut session, "after"), "one after");
        let served = crowd.served();
        assert_eq!(crowd.stop(), Vec::<String>::new(), "of {served}");
        drop(session);
        line.stop();
    });
}

#[test]
fn another_user_gets_no_socket() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        use std::os::unix::fs::PermissionsExt as _;
        let _servers = two_servers();
        let line = Line::start(&with("127.0.0.1:8000", &[ONE]));
        let run = || {
            let mut command = portcullis();
            command
                .arg("run")
                .arg("-f")
                .arg(&line.file)
                .arg("-x")
                .arg(line.socket());
            command.uid(65_534).output().unwrap()
        };
        let refused = run();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(5), "{said}");
        assert!(said.contains("EACCES"), "{said}");
        let all = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(line.socket(), all).unwrap();
        let refused = run();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(5), "{said}");
        assert!(said.contains("user 65534 may not have"), "{said}");
        assert_eq!(ask(&mut connect(FRONT), "x"), "one x");
        line.stop();
    });
}

#[test]
fn a_new_one_without_room_for_the_sockets_is_refused_and_the_old_one_goes_on() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let many: Vec<String> = (8000..8060)
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let line = Line::start(&with(&many.join(","), &[ONE]));
        let script = format!(
            "ulimit -n 40; exec {} run -f {} -x {}",
            env!("CARGO_BIN_EXE_portcullis"),
            line.file.display(),
            line.socket().display()
        );
        let refused = Command::new("sh").arg("-c").arg(script).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(5), "{said}");
        assert!(
            said.contains("EMFILE") || said.contains("descriptors"),
            "{said}"
        );
        wait_for("the old one to go on", SOON, || {
            line.first.stderr().contains("nobody has taken over")
        });
        assert_eq!(ask(&mut connect(local(8059)), "x"), "one x");
        line.upgraded();
        line.stop();
    });
}

#[test]
fn what_answers_at_the_socket_may_be_nobody_or_no_portcullis() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let place = Place::new();
        let file = place.write("test.cfg", &with("127.0.0.1:8000", &[ONE]));
        let path = place.path().join("sock");
        let run = || {
            let mut command = portcullis();
            command.arg("run").arg("-f").arg(&file).arg("-x").arg(&path);
            let refused = command.output().unwrap();
            assert_eq!(refused.status.code(), Some(5));
            String::from_utf8_lossy(&refused.stderr).into_owned()
        };
        assert!(run().contains("cannot connect to"));
        std::fs::write(&path, "a file").unwrap();
        assert!(run().contains("cannot connect to"));
        std::fs::remove_file(&path).unwrap();
        let stranger = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = stranger.accept().unwrap();
            stream.read_exact(&mut [0; 11]).unwrap();
            stream
                .write_all(b"Unknown command: `_hand-over`\n")
                .unwrap();
            drop(stream);
            // It is asked in HAProxy's way then; and the next one goes away without a word.
            drop(stranger.accept().unwrap());
            drop(stranger.accept().unwrap());
        });
        let said = run();
        assert!(said.contains("does not hand over"), "{said}");
        let said = run();
        assert!(said.contains("the hand-over broke off"), "{said}");
        server.join().unwrap();
        assert!(eventually(SOON, || TcpListener::bind(FRONT).is_ok()));
    });
}
