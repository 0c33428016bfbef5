//! Who is measured: Portcullis, HAProxy, nginx; their configurations, versions, processes.
//!
//! Decides:  Portcullis and HAProxy are given the same file; all have their timers on and write no
//!           logs; nginx gets 16 KiB buffers, its default, and 64 KiB for bulk; who listens where.
//! Source:   doc/configuration.txt of HAProxy 2.6; nginx.org, ngx_stream_proxy_module.
//! Not here: the load (rig.rs), what a run does (measure.rs).

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::process;
use crate::rig::Service;

/// How long a contender may take to listen, and to end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once: what the workloads need; the descriptors for them fit a limit of 20,000.
const MAXCONN: u32 = 9500;
/// Pipes for splicing: what the workloads need, and more.
const MAXPIPES: u32 = 64;
/// Where Debian puts nginx's stream module.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Which program, and how it is configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Portcullis.
    Portcullis,
    /// HAProxy.
    Haproxy {
        /// `tune.pipesize`, if it is set.
        pipe_size: Option<u32>,
    },
    /// nginx's stream proxy.
    Nginx,
}

/// A program to measure.
#[derive(Debug, Clone)]
pub struct Contender {
    /// Its name in tables.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The program.
    pub program: PathBuf,
    /// What it says of itself.
    pub version: String,
}

/// How it is to run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Workers, or threads.
    pub workers: usize,
    /// The processors that it may use.
    pub processors: Vec<usize>,
    /// Are its buffers to be for bulk?
    pub bulk: bool,
    /// Its first port.
    pub port: u16,
    /// The backend's first port.
    pub backend: u16,
}

impl Contender {
    /// Finds its version. `None`: the program cannot be run.
    pub fn find(name: &str, kind: Kind, program: &Path) -> Option<Contender> {
        let argument = match kind {
            Kind::Portcullis => "--version",
            Kind::Haproxy { .. } | Kind::Nginx => "-v",
        };
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let version = String::from_utf8_lossy(&text).lines().next()?.to_owned();
        Some(Contender {
            name: name.to_owned(),
            kind,
            program: program.to_owned(),
            version,
        })
    }

    /// The text of its configuration.
    pub fn configuration(&self, setup: &Setup, directory: &Path) -> String {
        match self.kind {
            Kind::Portcullis => haproxy_cfg(setup, None),
            Kind::Haproxy { pipe_size } => haproxy_cfg(setup, pipe_size),
            Kind::Nginx => nginx_conf(setup, directory),
        }
    }

    /// Starts it and waits until it serves.
    pub fn start(&self, setup: &Setup, directory: &Path) -> io::Result<Running> {
        let label = format!(
            "{}-{}{}",
            self.name,
            setup.workers,
            if setup.bulk { "-bulk" } else { "" }
        );
        let file = directory.join(format!("{label}.conf"));
        fs::write(&file, self.configuration(setup, directory))?;
        let log = File::create(directory.join(format!("{label}.log")))?;
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::Portcullis => command.args(["run", "-f"]).arg(&file),
            Kind::Haproxy { .. } => command.args(["-db", "-f"]).arg(&file),
            Kind::Nginx => command.arg("-p").arg(directory).arg("-c").arg(&file),
        };
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let child = spawn_on(&setup.processors, &mut command)?;
        let mut running = Running {
            child,
            name: label,
            port: setup.port,
        };
        running.wait()?;
        running.check_processors(&setup.processors)?;
        Ok(running)
    }
}

/// A child inherits the processors of the thread that starts it.
fn spawn_on(processors: &[usize], command: &mut Command) -> io::Result<Child> {
    let before = rustix::thread::sched_getaffinity(None)?;
    pin(processors)?;
    let child = command.spawn();
    sched_setaffinity(None, &before)?;
    child
}

/// Ties this thread to these processors.
pub fn pin(processors: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    processors.iter().for_each(|&cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

fn haproxy_cfg(setup: &Setup, pipe_size: Option<u32>) -> String {
    let mut text = format!(
        "global\n    nbthread {}\n    maxconn {MAXCONN}\n    maxpipes {MAXPIPES}\n",
        setup.workers
    );
    if let Some(size) = pipe_size {
        text += &format!("    tune.pipesize {size}\n");
    }
    text += &format!(
        "defaults\n    mode tcp\n    maxconn {MAXCONN}\n    backlog 4096\n    \
         timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n    \
         option splice-auto\n"
    );
    if setup.bulk {
        text += "    option splice-request\n    option splice-response\n";
    }
    for (index, service) in Service::ALL.iter().enumerate() {
        let name = service.name();
        let (port, backend) = (setup.port + index as u16, setup.backend + index as u16);
        text += &format!(
            "listen {name}\n    bind 127.0.0.1:{port}\n    server s1 127.0.0.1:{backend}\n"
        );
    }
    text
}

fn nginx_conf(setup: &Setup, directory: &Path) -> String {
    let mut text = String::new();
    if Path::new(STREAM_MODULE).exists() {
        text += &format!("load_module {STREAM_MODULE};\n");
    }
    let place = directory.display();
    let buffer = if setup.bulk { "64k" } else { "16k" };
    text += &format!(
        "daemon off;\nworker_processes {};\n\
         pid {place}/nginx-{}.pid;\nerror_log {place}/nginx-error.log crit;\n\
         events {{\n    worker_connections 19500;\n}}\nstream {{\n    \
         proxy_connect_timeout 5s;\n    proxy_timeout 60s;\n    proxy_buffer_size {buffer};\n",
        setup.workers, setup.port,
    );
    // With one worker sharding gives nothing; with more it is how nginx is meant to be run.
    let shards = if setup.workers > 1 { " reuseport" } else { "" };
    for (index, service) in Service::ALL.iter().enumerate() {
        let name = service.name();
        let (port, backend) = (setup.port + index as u16, setup.backend + index as u16);
        text += &format!(
            "    upstream {name} {{\n        server 127.0.0.1:{backend};\n    }}\n    server {{\n        \
             listen 127.0.0.1:{port} backlog=4096{shards};\n        proxy_pass {name};\n    }}\n"
        );
    }
    text + "}\n"
}

/// A contender that runs; ended when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    name: String,
    port: u16,
}

impl Running {
    /// Where it offers a service.
    pub fn address(&self, service: Service) -> SocketAddr {
        let index = Service::ALL.iter().position(|kind| *kind == service);
        SocketAddr::from(([127, 0, 0, 1], self.port + index.unwrap_or(0) as u16))
    }

    /// Its processes.
    pub fn pids(&self) -> Vec<u32> {
        process::family(self.child.id())
    }

    /// Until its last port answers. The connections of this go to a backend that does not answer
    /// yet, and are closed at once.
    fn wait(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let last = self.address(Service::Bulk);
        while TcpStream::connect(last).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "{} ended at its start ({status}); see its log with --keep",
                    self.name
                )));
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("{} does not listen", self.name)));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// A contender that unties itself would be measured with more processors than the others.
    fn check_processors(&self, wanted: &[usize]) -> io::Result<()> {
        let wanted: BTreeSet<usize> = wanted.iter().copied().collect();
        let used = process::processors(&self.pids())?;
        if used.is_subset(&wanted) {
            return Ok(());
        }
        let name = &self.name;
        let message = format!("{name} runs on processors {used:?}, not only on {wanted:?}");
        Err(io::Error::other(message))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        for signal in [Signal::TERM, Signal::KILL] {
            if matches!(self.child.try_wait(), Ok(None)) {
                let _ = kill_process(pid, signal);
            }
            let deadline = Instant::now() + PATIENCE / 5;
            while Instant::now() < deadline {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(workers: usize, bulk: bool) -> Setup {
        Setup {
            workers,
            processors: vec![0],
            bulk,
            port: 8000,
            backend: 7000,
        }
    }

    #[test]
    fn portcullis_and_haproxy_are_given_the_same_file() {
        let here = Path::new("/tmp");
        let make = |kind| Contender {
            name: "x".into(),
            kind,
            program: "x".into(),
            version: String::new(),
        };
        let one = setup(1, false);
        let ours = make(Kind::Portcullis).configuration(&one, here);
        let theirs = make(Kind::Haproxy { pipe_size: None }).configuration(&one, here);
        assert_eq!(ours, theirs);
        let pipes = make(Kind::Haproxy {
            pipe_size: Some(1 << 20),
        })
        .configuration(&one, here);
        let added: Vec<&str> = pipes.lines().filter(|line| !ours.contains(line)).collect();
        assert_eq!(added, ["    tune.pipesize 1048576"]);
        for text in [
            "timeout connect",
            "timeout client",
            "timeout server",
            "nbthread 1",
        ] {
            assert!(ours.contains(text), "{text}");
        }
        let logs = |line: &str| line.trim_start().starts_with("log ");
        assert!(!ours.lines().any(logs));
    }

    #[test]
    fn haproxy_and_nginx_accept_their_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let table: [(&str, Kind, &[&str]); 2] = [
            (
                "haproxy",
                Kind::Haproxy {
                    pipe_size: Some(1 << 20),
                },
                &["-c", "-f"],
            ),
            ("nginx", Kind::Nginx, &["-t", "-p", ".", "-c"]),
        ];
        for (program, kind, arguments) in table {
            let Some(contender) = Contender::find(program, kind, Path::new(program)) else {
                portcullis_testkit::skip(&format!("no {program} on PATH"));
                continue;
            };
            for (workers, bulk) in [(1, false), (2, true)] {
                let file = path.join(format!("{program}.conf"));
                let text = contender.configuration(&setup(workers, bulk), path);
                fs::write(&file, &text).unwrap();
                let mut command = Command::new(program);
                command.args(arguments).arg(&file).current_dir(path);
                let output = command.output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{program}: {said}\n{text}");
            }
        }
    }
}
