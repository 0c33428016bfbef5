//! The runtime sockets: `stats socket`, who may use it, and what it answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use portcullis_testkit::{eventually, forgo_net_admin, private_network, private_network_as_root};

use super::clients::{ask, connect};
use super::harness::{Balancer, DEFAULTS, Peer, Place, SOON, command, local, ours_only, peer};
use super::reload::Reloaded;
use super::servers::Server;

/// A configuration with these lines in `global`.
fn config(global: &str) -> String {
    let defaults = DEFAULTS.replace("nbthread 2", &format!("nbthread 2\n{global}"));
    format!(
        "{defaults}\nfrontend front\n    bind 127.0.0.1:8000\n    default_backend back\n\
         backend back\n    server s1 127.0.0.1:9001\n"
    )
}

/// What is answered to this, until the other side closes.
pub(super) fn say(path: &Path, text: &str) -> String {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    exchange(stream, text)
}

fn exchange(mut stream: impl Read + Write, text: &str) -> String {
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn commands_are_answered_in_haproxys_words_at_the_level_of_the_socket() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let at = |name: &str| place.path().join(name);
        let text = config(&format!(
            "    stats socket {} mode 640 level admin severity-output string\n\
             \x20   stats socket {}\n    stats socket {} level user\n    stats timeout 1s",
            at("admin").display(),
            at("plain").display(),
            at("user").display()
        ));
        let file = place.write("test.cfg", &text);
        let (admin, plain, user) = (at("admin"), at("plain"), at("user"));
        let balancer = Balancer::spawn(&mut command(&file), place, &[local(8000)]);
        assert_eq!(ask(&mut connect(local(8000)), "x"), "one x");
        let metadata = std::fs::metadata(&admin).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o640);
        for (socket, line, expected) in [
            (&admin, "show cli level\n", "[info]: admin\n\n"),
            (&plain, "show cli level\n", "operator\n\n"),
            (&user, "show cli level\n", "user\n\n"),
            (&user, "operator\n", "Permission denied\n\n"),
            (&plain, "operator;show cli level\n", "\noperator\n\n"),
            (&plain, "disable frontend front\n", "Permission denied\n\n"),
            (
                &admin,
                "disable frontend\n",
                "[err]: A frontend name is expected.\n\n",
            ),
            (
                &admin,
                "disable frontend nope\n",
                "[err]: No such frontend.\n\n",
            ),
            (
                &admin,
                "enable frontend front\n",
                "[notice]: All sockets are already enabled.\n\n",
            ),
            (&plain, "set timeout cli x\n", "Invalid timeout value.\n\n"),
            (&plain, "set timeout cli 5s\n", "\n"),
            (&plain, "_getsocks\n", ""),
            (&plain, "quit\n", ""),
        ] {
            if peer() == Peer::Haproxy && expected.starts_with("[notice]") {
                continue;
            }
            assert_eq!(say(socket, line), expected, "{line:?} at {socket:?}");
        }
        let asked = say(
            &plain,
            "prompt\nshow cli level\nuser;show cli level\nquit\n",
        );
        assert_eq!(asked, "\n> operator\n\n> \n> user\n\n> ");
        let unknown = say(&plain, "show nonsense\n");
        assert!(
            unknown.starts_with("Unknown command, but maybe one of"),
            "{unknown}"
        );
        let sockets = say(&plain, "show cli sockets\n");
        let expected = [&admin, &plain, &user]
            .iter()
            .zip(["admin", "operator", "user"])
            .map(|(path, level)| format!("unix@{} {level} all\n", path.display()))
            .collect::<String>();
        assert_eq!(sockets, format!("# socket lvl processes\n{expected}\n"));
        balancer.stop();
    });
}

#[test]
fn the_process_tells_of_itself_as_haproxy_does() {
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let path = place.path().join("s");
        let global = format!("    maxconn 77\n    stats socket {}", path.display());
        let file = place.write("test.cfg", &config(&global));
        let balancer = Balancer::spawn(&mut command(&file), place, &[local(8000)]);
        let _client = connect(local(8000));
        assert_eq!(ask(&mut connect(local(8000)), "x"), "one x");
        let pid = balancer.pid();
        for (line, expected) in [
            ("show info\n", format!("\nPid: {pid}\n")),
            ("show info\n", "\nNbthread: 2\n".to_owned()),
            ("show info\n", "\nMaxconn: 77\n".to_owned()),
            ("show info\n", "\nStopping: 0\n".to_owned()),
            ("show info typed\n", format!("\n6.Pid.1:SGP:u32:{pid}\n")),
            (
                "show info typed\n",
                "\n70.Start_time_sec.1:MDP:u32:1".to_owned(),
            ),
            (
                "show info typed\n",
                "\n15.Maxconn.1:CLP:u32:77\n".to_owned(),
            ),
            (
                "show info typed desc\n",
                "\n4.Nbproc.1:CGS:u32:1:\"".to_owned(),
            ),
            (
                "show info json\n",
                format!(
                    "{{\"field\":{{\"pos\":6,\"name\":\"Pid\"}},\"processNum\":1,\"tags\":{{\"origin\":\"Status\",\
                     \"nature\":\"Gauge\",\"scope\":\"Process\"}},\"value\":{{\"type\":\"u32\",\"value\":{pid}}}}}"
                ),
            ),
        ] {
            let answer = say(&path, line);
            assert!(answer.contains(&expected), "{line:?}: {answer}");
        }
        if peer() == Peer::Portcullis {
            let now = || say(&path, "show info\n").contains("\nCurrConns: 1\n");
            assert!(eventually(SOON, now), "{}", say(&path, "show info\n"));
        }
        balancer.stop();
    });
}

fn disable_and_enable() {
    let _server = Server::echo(local(9001), "one");
    let place = Place::new();
    let path = place.path().join("s");
    let global = format!("    stats socket {} level admin", path.display());
    let text = config(&global).replace(":8000", ":8000 defer-accept");
    let file = place.write("test.cfg", &text);
    let mut balancer = Balancer::spawn(&mut command(&file), place, &[local(8000)]);
    let mut before = connect(local(8000));
    assert_eq!(ask(&mut before, "x"), "one x");
    let mut half_open = connect(local(8000));
    assert_eq!(say(&path, "disable frontend front\n"), "\n");
    let again = say(&path, "disable frontend front\n");
    assert_eq!(again, "All sockets are already disabled.\n\n");
    let short = Duration::from_millis(200);
    assert!(TcpStream::connect_timeout(&local(8000), short).is_err());
    assert_eq!(ask(&mut before, "still"), "one still");
    for word in ["silent", "until", "now"] {
        assert_eq!(ask(&mut half_open, word), format!("one {word}"));
    }
    assert_eq!(say(&path, "enable frontend front\n"), "\n");
    assert_eq!(ask(&mut connect(local(8000)), "x"), "one x");
    for said in ["Paused frontend front.", "Resumed frontend front."] {
        balancer.process.wait_line(said, SOON);
    }
    balancer.stop();
}

#[test]
fn a_frontend_is_disabled_without_a_reset_and_enabled_again() {
    if ours_only() {
        return;
    }
    private_network(disable_and_enable);
}

#[test]
fn an_ordinary_user_disables_a_frontend_too() {
    if ours_only() {
        return;
    }
    private_network(|| {
        forgo_net_admin();
        disable_and_enable();
    });
}

#[test]
fn there_are_so_many_clients_at_once_and_each_may_be_silent_for_so_long() {
    private_network(|| {
        let place = Place::new();
        let path = place.path().join("s");
        let global = format!(
            "    stats socket {}\n    stats maxconn 2\n    stats timeout 400ms",
            path.display()
        );
        let file = place.write("test.cfg", &config(&global));
        let balancer = Balancer::spawn(&mut command(&file), place, &[local(8000)]);
        // More than a socket of the default backlog holds at once, most of whom say nothing.
        let silent: Vec<UnixStream> = (0..6)
            .map(|_| UnixStream::connect(&path).unwrap())
            .collect();
        for mut one in silent {
            one.set_read_timeout(Some(SOON)).unwrap();
            let mut nothing = Vec::new();
            one.read_to_end(&mut nothing).unwrap();
            assert!(nothing.is_empty());
        }
        assert_eq!(say(&path, "show cli level\n"), "operator\n\n");
        balancer.stop();
    });
}

#[test]
fn runtime_sockets_come_go_and_change_with_a_reload() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let at = |name: &str| place.path().join(name);
        let (first, second) = (at("first"), at("second"));
        let line = |path: &Path, more: &str| format!("    stats socket {} {more}", path.display());
        let file = place.write("test.cfg", &config(&line(&first, "level admin")));
        let balancer = Balancer::spawn(&mut command(&file), place, &[local(8000)]);
        let mut it = Reloaded::from(balancer, file.clone());
        let both = format!(
            "{}\n{}",
            line(&first, "level user"),
            line(&second, "level admin")
        );
        it.to(&config(&both));
        assert_eq!(say(&first, "show cli level\n"), "user\n\n");
        assert_eq!(say(&second, "show cli level\n"), "admin\n\n");
        // What cannot work changes nothing: a path that is a file.
        let third = at_file(&second);
        std::fs::write(&third, "not ours").unwrap();
        let said = it.refused(&config(&line(&third, "")));
        assert!(said.contains("is not a socket"), "{said}");
        assert!(said.contains("`stats socket`"), "{said}");
        assert_eq!(std::fs::read_to_string(&third).unwrap(), "not ours");
        assert_eq!(say(&first, "show cli level\n"), "user\n\n");
        // One goes, and its file with it; another comes over TCP.
        let tcp = format!(
            "{}\n    stats socket 127.0.0.1:9990 level operator",
            line(&second, "level admin")
        );
        it.to(&config(&tcp));
        assert!(eventually(SOON, || !first.exists()));
        assert_eq!(say(&second, "show cli level\n"), "admin\n\n");
        let stream = connect(local(9990));
        assert_eq!(exchange(stream, "show cli level\n"), "operator\n\n");
        // By the runtime socket itself.
        let answer = say(&second, "reload\n");
        assert!(
            answer.starts_with("Success=1\n--\nreloaded in "),
            "{answer}"
        );
        std::fs::write(&file, "nonsense\n").unwrap();
        let answer = say(&second, "reload\n");
        assert!(
            answer.starts_with("Success=0\n--\nerror[outside-section]: "),
            "{answer}"
        );
        assert_eq!(ask(&mut connect(local(8000)), "x"), "one x");
        it.balancer.stop();
    });
}

fn at_file(beside: &Path) -> std::path::PathBuf {
    beside.with_file_name("third")
}

#[test]
fn a_path_that_is_no_socket_or_is_too_long_refuses_the_start_and_stays() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let place = Place::new();
        let path = place.path().join("s");
        for (socket, expected) in [
            (path.display().to_string(), "is not a socket"),
            (
                format!("{}/{}", place.path().display(), "x".repeat(120)),
                "too long",
            ),
            ("/nonexistent/directory/s".to_owned(), "ENOENT"),
        ] {
            std::fs::write(&path, "not ours").unwrap();
            let file = place.write("test.cfg", &config(&format!("    stats socket {socket}")));
            let output = command(&file).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success(), "{said}");
            assert!(said.contains(expected), "{expected}: {said}");
            assert!(said.contains("test.cfg:"), "{said}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "not ours");
        }
    });
}

#[test]
fn an_unprivileged_process_in_a_chroot_has_its_runtime_socket_outside() {
    private_network_as_root(|| {
        let _server = Server::echo(local(9001), "one");
        let place = Place::new();
        let path = place.path().join("s");
        let cell = place.path().join("empty");
        std::fs::create_dir(&cell).unwrap();
        let global = format!(
            "    user nobody\n    group nogroup\n    chroot {}\n    stats socket {} user nobody mode 600 level admin",
            cell.display(),
            path.display()
        );
        let file = place.write("test.cfg", &config(&global));
        let balancer = Balancer::spawn(&mut command(&file), place, &[local(8000)]);
        assert_eq!(say(&path, "show cli level\n"), "admin\n\n");
        let metadata = std::fs::metadata(&path).unwrap();
        use std::os::unix::fs::MetadataExt as _;
        assert_eq!(metadata.uid(), 65_534);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        balancer.stop();
    });
}
