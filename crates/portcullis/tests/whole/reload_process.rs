//! Reloads of a process with an opener, of a daemon, and under a service manager.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use portcullis_testkit::{Signal, eventually, listening, private_network, private_network_as_root};

use super::clients::{ask, connect};
use super::harness::{Balancer, Place, SOON, command, local, ours_only};
use super::reload::{FRONT, ONE, Reloaded, TWO, answers, with};
use super::servers::Server;

#[test]
fn an_unprivileged_worker_in_a_chroot_reloads_files_that_it_cannot_read() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let _servers = [
            Server::echo(local(9001), "one"),
            Server::echo(local(9002), "two"),
        ];
        let place = Place::new();
        let cell = place.path().join("empty");
        std::fs::create_dir(&cell).unwrap();
        let drop = format!(
            "nbthread 2\n    user nobody\n    group nogroup\n    chroot {}",
            cell.display()
        );
        let config = |bind: &str, server: &str| with(bind, &[server]).replace("nbthread 2", &drop);
        let file = place.write("test.cfg", &config("127.0.0.1:80", ONE));
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let balancer = Balancer::spawn(&mut command(&file), place, &[local(80)]);
        let mut it = Reloaded::from(balancer, file);
        let mut session = connect(local(80));
        assert_eq!(ask(&mut session, "before"), "one before");
        // A low port, whose sockets only the opener can open, by a name that the chroot hides.
        it.to(&config("127.0.0.1:80,localhost:81", TWO));
        assert_eq!(ask(&mut connect(local(81)), "x"), "two x");
        assert_eq!(ask(&mut connect(local(80)), "x"), "two x");
        assert_eq!(ask(&mut session, "after"), "one after");

        let said = it.refused(&config("127.0.0.1:80", "s1 nonsense"));
        assert!(
            said.contains("nonsense") && said.contains("test.cfg:"),
            "{said}"
        );
        let held = std::net::TcpListener::bind(local(82)).unwrap();
        let said = it.refused(&config("127.0.0.1:82", ONE));
        assert!(said.contains("EADDRINUSE"), "{said}");
        std::mem::drop(held);
        assert_eq!(ask(&mut connect(local(81)), "x"), "two x");
        let root = config("127.0.0.1:80", ONE).replace("user nobody", "user root");
        assert!(it.refused(&root).contains("`user` cannot change"));

        it.to(&config("127.0.0.1:82", ONE));
        assert!(eventually(SOON, || !listening(local(80)) && !listening(local(81))));
        assert_eq!(ask(&mut connect(local(82)), "x"), "one x");
        assert_eq!(ask(&mut session, "at last"), "one at last");
        it.balancer.stop();
    });
}

#[test]
fn the_service_manager_is_told_of_each_reload_and_of_its_end() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = [
            Server::echo(local(9001), "one"),
            Server::echo(local(9002), "two"),
        ];
        let place = Place::new();
        let path = place.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(SOON)).unwrap();
        let heard = || {
            let mut buffer = [0; 4096];
            loop {
                let length = manager.recv(&mut buffer).unwrap();
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                if text != "WATCHDOG=1\n" {
                    return text;
                }
            }
        };
        let file = place.write("test.cfg", &with("127.0.0.1:8000", &[ONE]));
        let mut starting = command(&file);
        starting.env("NOTIFY_SOCKET", &path);
        starting.env("WATCHDOG_USEC", "200000");
        let balancer = Balancer::spawn(&mut starting, place, &[FRONT]);
        let mut it = Reloaded::from(balancer, file);
        assert!(heard().starts_with("READY=1\nSTATUS=serving 2 "));
        it.to(&with("127.0.0.1:8000", &[TWO]));
        let reloading = heard();
        let rest = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        let usec: u64 = rest.split('\n').next().unwrap().parse().unwrap();
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000;
        assert!(usec <= now && now - usec < 60_000_000, "{usec} {now}");
        assert!(heard().starts_with("READY=1\nSTATUS=reloaded in "));
        it.refused("listen nonsense\n");
        assert!(heard().starts_with("RELOADING=1\n"));
        assert!(heard().starts_with("READY=1\nSTATUS=reload refused: nothing was changed\n"));
        assert_eq!(answers(2), ["two".to_owned()].into());

        // The watchdog hears of it while all workers come by.
        let (began, mut signs) = (Instant::now(), 0);
        let mut buffer = [0; 64];
        while began.elapsed() < Duration::from_secs(1) {
            let length = manager.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"WATCHDOG=1\n");
            signs += 1;
        }
        assert!(signs >= 3, "{signs}");
        it.balancer.stop();
        let mut buffer = [0; 4096];
        let mut last = String::new();
        while !last.starts_with("STOPPING=1\n") {
            let length = manager.recv(&mut buffer).unwrap();
            last = String::from_utf8(buffer[..length].to_vec()).unwrap();
        }
    });
}

#[test]
fn the_command_waits_for_the_outcome_and_ends_with_it() {
    if ours_only() {
        return;
    }
    private_network_as_root(|| {
        let _servers = [
            Server::echo(local(9001), "one"),
            Server::echo(local(9002), "two"),
        ];
        for global in ["", "\n    user nobody\n    group nogroup\n    chroot auto"] {
            let place = Place::new();
            let pidfile = place.path().join("run.pid");
            let socket = place.path().join("run.pid.sock");
            let all = format!("nbthread 2\n    pidfile {}{global}", pidfile.display());
            let config = |server| with("127.0.0.1:8000", &[server]).replace("nbthread 2", &all);
            let file = place.write("test.cfg", &config(ONE));
            let ask_for_it = |by: &str| {
                let mut command = super::harness::portcullis();
                let of = if by == "-p" { &pidfile } else { &file };
                let output = command.arg("reload").arg(by).arg(of).output().unwrap();
                let said = [output.stdout, output.stderr].concat();
                (output.status.code(), String::from_utf8(said).unwrap())
            };
            let balancer = Balancer::spawn(&mut command(&file), place, &[FRONT]);
            let it = Reloaded::from(balancer, file.clone());
            // It comes after the ports.
            assert!(eventually(SOON, || socket.exists()));
            let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            it.write(&config(TWO));
            let (code, said) = ask_for_it("-f");
            assert_eq!(code, Some(0), "{said}");
            assert!(said.contains("reloaded in "), "{said}");
            assert_eq!(
                answers(2),
                ["two".to_owned()].into(),
                "when it ends, it is so"
            );
            it.write("listen nonsense\n    bogus\n");
            let (code, said) = ask_for_it("-p");
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("unknown keyword `bogus`"), "{said}");
            assert_eq!(ask_for_it("-f").0, Some(2), "the pid file is not known");
            assert_eq!(answers(2), ["two".to_owned()].into());
            let mut balancer = it.balancer;
            balancer.signal(Signal::TERM);
            assert_eq!(balancer.process.exit_code(SOON), 0);
            assert!(!socket.exists() && !pidfile.exists(), "{global}");
            let (code, said) = ask_for_it("-p");
            assert_eq!(code, Some(5), "{said}");
        }
    });
}

#[test]
fn a_reload_is_not_begun_by_a_process_that_stops() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let mut it = Reloaded::start(&with("127.0.0.1:8000", &[ONE]), &[FRONT]);
        let mut session = connect(FRONT);
        assert_eq!(ask(&mut session, "before"), "one before");
        it.balancer.signal(Signal::USR1);
        portcullis_testkit::wait_for("the port to close", SOON, || !listening(FRONT));
        it.balancer.signal(Signal::HUP);
        let words = "not reloaded: the process is stopping";
        portcullis_testkit::wait_for("the answer", SOON, || {
            it.balancer.process.stderr().contains(words)
        });
        assert!(!listening(FRONT));
        assert_eq!(ask(&mut session, "after"), "one after");
        drop(session);
        let code = it.balancer.process.exit_code(SOON);
        assert_eq!(code, 0, "{}", it.balancer.process.transcript());
    });
}

#[test]
fn a_unix_path_is_never_without_a_listener_and_goes_with_its_line() {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let path = place.path().join("front.sock");
        let at = |options: &str| {
            let bind = format!("unix@{} {options}", path.display());
            format!(
                "{}listen other\n    bind 127.0.0.1:8000\n    server {ONE}\n",
                with(&bind, &[ONE])
            )
        };
        let say = |stream: &mut UnixStream| {
            stream.write_all(b"x\n").unwrap();
            let mut answer = [0; 6];
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"one x\n");
        };
        let file = place.write("test.cfg", &at("mode 600"));
        let balancer = Balancer::spawn(&mut command(&file), place, &[FRONT]);
        let mut it = Reloaded::from(balancer, file);
        let inode = || std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
        let first = inode();
        let mut session = UnixStream::connect(&path).unwrap();
        say(&mut session);
        it.to(&at("mode 600 backlog 7"));
        assert_eq!(inode(), first, "a backlog needs no other socket");

        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let clients = scope.spawn(|| {
                let mut served = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    say(&mut UnixStream::connect(&path).expect("nobody is refused"));
                    served += 1;
                }
                served
            });
            for mode in ["660", "606", "666"] {
                it.to(&at(&format!("mode {mode}")));
                let now = std::fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(format!("{:o}", now & 0o777), mode);
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(clients.join().unwrap() > 0);
        });
        assert_ne!(inode(), first);
        it.to(&with("127.0.0.1:8000", &[ONE]));
        assert!(!path.exists());
        say(&mut session);
        it.balancer.stop();
    });
}

#[test]
fn log_lines_go_where_the_new_file_says_also_those_of_older_sessions() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let targets = [7001, 7002].map(|port| {
            let socket = std::net::UdpSocket::bind(local(port)).unwrap();
            socket.set_read_timeout(Some(SOON)).unwrap();
            socket
        });
        let line_of = |target: usize| {
            let mut buffer = [0; 2048];
            loop {
                let length = targets[target].recv(&mut buffer).expect("a line");
                let line = String::from_utf8_lossy(&buffer[..length]).into_owned();
                // Lines about the proxy itself go there too.
                if line.contains("front/s1") {
                    return line;
                }
            }
        };
        let config = |port: u16| {
            let log = format!("mode tcp\n    log 127.0.0.1:{port} local0\n    option tcplog");
            with("127.0.0.1:8000", &[ONE]).replace("mode tcp", &log)
        };
        let mut it = Reloaded::start(&config(7001), &[FRONT]);
        let mut old = connect(FRONT);
        assert_eq!(ask(&mut old, "x"), "one x");
        drop(connect_and_ask());
        line_of(0);
        it.to(&config(7002));
        drop(connect_and_ask());
        line_of(1);
        drop(old);
        line_of(1);
        it.balancer.stop();
    });
}

fn connect_and_ask() -> std::net::TcpStream {
    let mut stream = connect(FRONT);
    assert_eq!(ask(&mut stream, "x"), "one x");
    stream
}
