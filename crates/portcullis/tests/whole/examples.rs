//! Every file of `examples/` is checked and run, in front of stand-in servers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use portcullis_testkit::{
    Process, add_address, private_network, private_network_as_root, wait_for,
};

use super::clients::{ask, connect};
use super::harness::{Balancer, Peer, Place, SOON, command, local, peer, portcullis};
use super::servers::Server;

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "cfg"))
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{files:?}");
    files
}

/// The addresses of `bind` and `server` lines. The examples use plain ones only.
fn addresses(text: &str, keyword: &str) -> Vec<SocketAddr> {
    let word = usize::from(keyword == "server") + 1;
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .filter(|words| words.first() == Some(&keyword))
        .map(|words| {
            let (host, port) = words[word].rsplit_once(':').unwrap();
            let host = match host {
                "" | "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                host => host.parse().unwrap(),
            };
            SocketAddr::new(host, port.parse().unwrap())
        })
        .collect()
}

/// Drops privileges: needs a second user id.
fn changes_user(text: &str) -> bool {
    text.lines()
        .any(|line| line.trim_start().starts_with("user "))
}

#[test]
fn every_example_passes_the_check() {
    for file in files() {
        let mut checking = match peer() {
            Peer::Portcullis => {
                Process::spawn(portcullis().args(["check", "--offline", "-f"]).arg(&file))
            }
            Peer::Haproxy => Process::spawn(command(&file).arg("-c")),
        };
        let code = checking.exit_code(SOON);
        assert_eq!(code, 0, "{}:\n{}", file.display(), checking.transcript());
        assert!(
            !checking.transcript().to_lowercase().contains("warning"),
            "{}",
            checking.transcript()
        );
    }
}

#[test]
fn every_example_serves() {
    private_network(|| serve(|text| !changes_user(text)));
}

#[test]
fn every_example_that_drops_privileges_serves() {
    private_network_as_root(|| serve(changes_user));
}

/// Runs all examples that are `wanted`, one after the other.
fn serve(wanted: fn(&str) -> bool) {
    let mut count = 0;
    let mut servers = BTreeSet::new();
    for file in files() {
        let text = std::fs::read_to_string(&file).unwrap();
        if wanted(&text) {
            count += 1;
            run(&file, &text, &mut servers);
        }
    }
    assert!(count > 0, "no example of this kind");
}

fn run(file: &Path, text: &str, servers: &mut BTreeSet<SocketAddr>) {
    let (binds, targets) = (addresses(text, "bind"), addresses(text, "server"));
    assert!(
        !binds.is_empty() && !targets.is_empty(),
        "{}",
        file.display()
    );
    for address in binds.iter().chain(&targets) {
        if !address.ip().is_unspecified() {
            add_address(address.ip()).unwrap();
        }
    }
    for target in targets {
        // One machine may serve several lines and several examples.
        if servers.insert(target) {
            Server::echo(target, &target.to_string());
        }
    }
    let balancer = Balancer::spawn(&mut command(file), Place::new(), &binds);
    for bind in binds {
        let front = reachable(bind);
        for _ in 0..4 {
            let answer = ask(&mut connect(front), "hello");
            assert!(
                answer.ends_with(" hello"),
                "{}: {bind}: {answer:?}",
                file.display()
            );
        }
    }
    balancer.stop();
    wait_for("the ports to be free", SOON, || {
        addresses(text, "bind")
            .iter()
            .all(|bind| !portcullis_testkit::listening(*bind))
    });
}

/// An address by which a client reaches what is bound here.
fn reachable(bind: SocketAddr) -> SocketAddr {
    match bind.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => local(bind.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], bind.port()))
        }
        _ => bind,
    }
}
