//! The model beside the system calls: how long the same calls take on each.
//!
//! Decides:  which rounds and crowds are measured, and that both sides make exactly the same calls.
//! Not here: whether the answers agree beyond success (compare.rs).
//!
//! `cargo xtask conformance -- --speed` prints the table of `docs/conformance.md`.

use std::fmt::Write as _;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use portcullis_kernel_model::{
    Answer, Call, Family, Host, Kernel, Opt, ProcessId, SockAddr, SocketId, World,
};
use portcullis_sys::bare;
use portcullis_sys::process::{Fork, fork};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process,
    set_parent_process_death_signal, setrlimit, waitpid,
};

use crate::live::{bytes, set};
use crate::worker::running_kernel;
use crate::{host, netlink};

/// Each row is measured so often; the best time counts.
const TURNS: u32 = 3;
/// Rounds of a small row.
const ROUNDS: usize = 20_000;
/// Sockets on one port.
const CROWD: usize = 10_000;
/// Owners that a walk passes one by one.
const WALKED: usize = 4_000;
const PORTS: u16 = 65_000;
const CONNECTIONS: usize = 30_000;
/// Descriptors for other things than sockets.
const SPARE_DESCRIPTORS: usize = 64;
const RANGE: (u16, u16) = (1024, 65_535);
const PORT: u16 = 700;

/// One of the two sides.
trait Side {
    fn socket(&mut self) -> io::Result<usize>;
    fn call(&mut self, socket: usize, call: Call) -> io::Result<()>;
    /// Answers the new socket.
    fn accept(&mut self, socket: usize) -> io::Result<usize>;
    fn close(&mut self, socket: usize) -> io::Result<()>;
    /// Closes every socket, the oldest first.
    fn close_all(&mut self) -> io::Result<()>;
}

/// The live kernel, with as little around its calls as can be.
///
/// A process has not descriptors enough for the largest rows. Then a copy of the process keeps what there
/// is, and it goes on with the first socket alone (a listener, if there is one).
struct Calls {
    fds: Vec<Option<OwnedFd>>,
    keepers: Vec<Pid>,
    kept_elsewhere: usize,
    room: usize,
}

impl Calls {
    fn fd(&self, socket: usize) -> io::Result<&OwnedFd> {
        let fd = self.fds.get(socket).and_then(Option::as_ref);
        fd.ok_or_else(|| io::Error::other("a closed socket"))
    }

    fn new() -> Calls {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Calls {
            room: usize::try_from(limit).unwrap_or(usize::MAX) - SPARE_DESCRIPTORS,
            fds: Vec::new(),
            keepers: Vec::new(),
            kept_elsewhere: 0,
        }
    }

    fn keep(&mut self, fd: OwnedFd) -> io::Result<usize> {
        self.fds.push(Some(fd));
        if self.fds.len() - self.kept_elsewhere < self.room {
            return Ok(self.fds.len() - 1);
        }
        match fork()? {
            Fork::Child => {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                loop {
                    std::thread::sleep(Duration::from_secs(3600));
                }
            }
            Fork::Parent(pid) => self.keepers.push(pid),
        }
        let newest = self.fds.len() - 1;
        self.fds[1..newest].fill_with(|| None);
        self.kept_elsewhere = newest - 1;
        Ok(newest)
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        for pid in self.keepers.drain(..) {
            // Nothing can be done about a keeper that has gone by itself.
            let _ = kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}

impl Side for Calls {
    fn socket(&mut self) -> io::Result<usize> {
        let (family, flags) = (AddressFamily::INET, SocketFlags::CLOEXEC);
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        self.keep(fd)
    }

    fn call(&mut self, socket: usize, call: Call) -> io::Result<()> {
        let fd = self.fd(socket)?;
        match call {
            Call::Bind(addr) => bare::bind(fd, &bytes(&addr), addr.len)?,
            Call::Connect(addr) => bare::connect(fd, &bytes(&addr), addr.len)?,
            Call::Listen(backlog) => rustix::net::listen(fd, backlog)?,
            Call::Set(option) => set(std::os::fd::AsFd::as_fd(fd), option)?,
            _ => return Err(io::Error::other("not a call of this table")),
        }
        Ok(())
    }

    fn accept(&mut self, socket: usize) -> io::Result<usize> {
        let fd = rustix::net::accept_with(self.fd(socket)?, SocketFlags::CLOEXEC)?;
        self.keep(fd)
    }

    fn close(&mut self, socket: usize) -> io::Result<()> {
        self.fds[socket] = None;
        if socket + 1 == self.fds.len() {
            self.fds.pop();
        }
        Ok(())
    }

    fn close_all(&mut self) -> io::Result<()> {
        for pid in self.keepers.drain(..) {
            kill_process(pid, Signal::KILL)?;
            waitpid(Some(pid), WaitOptions::empty())?;
        }
        self.fds.drain(..).for_each(drop);
        Ok(())
    }
}

/// The model.
struct Model {
    world: World,
    ids: Vec<SocketId>,
}

impl Model {
    fn new(kernel: Kernel) -> Model {
        let mut host = Host::new(kernel);
        host.namespaces[0].sysctls.ip_local_port_range = RANGE;
        host.namespaces[0].sysctls.somaxconn = u32::from(PORTS);
        Model {
            world: World::new(host),
            ids: Vec::new(),
        }
    }
}

impl Side for Model {
    fn socket(&mut self) -> io::Result<usize> {
        self.ids.push(self.world.socket(ProcessId(0), Family::Inet));
        Ok(self.ids.len() - 1)
    }

    fn call(&mut self, socket: usize, call: Call) -> io::Result<()> {
        match self.world.call(self.ids[socket], call) {
            Answer::Err(errno) => Err(io::Error::from_raw_os_error(errno.number())),
            _ => Ok(()),
        }
    }

    fn accept(&mut self, socket: usize) -> io::Result<usize> {
        let Answer::Accepted(child) = self.world.call(self.ids[socket], Call::Accept) else {
            return Err(io::Error::other("the model accepted nothing"));
        };
        self.ids.push(child);
        Ok(self.ids.len() - 1)
    }

    fn close(&mut self, socket: usize) -> io::Result<()> {
        self.call(socket, Call::Close)?;
        if socket + 1 == self.ids.len() {
            self.ids.pop();
        }
        Ok(())
    }

    fn close_all(&mut self) -> io::Result<()> {
        for id in core::mem::take(&mut self.ids) {
            self.world.call(id, Call::Close);
        }
        Ok(())
    }
}

fn address(host: u32, port: u16) -> SockAddr {
    SockAddr::new(IpAddr::V4(Ipv4Addr::from_bits(0x7f00_0000 | host)), port)
}

const LOOPBACK: u32 = 1;

/// What is measured: how many of what, and the calls. Answers the time of those that count.
struct Row {
    what: &'static str,
    count: usize,
    run: fn(&mut dyn Side) -> io::Result<Duration>,
}

fn timed(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}

/// Rounds of a socket, these calls, and its close.
fn rounds(side: &mut dyn Side, calls: &[Call]) -> io::Result<Duration> {
    timed(|| {
        for _ in 0..ROUNDS {
            let socket = side.socket()?;
            for &call in calls {
                side.call(socket, call)?;
            }
            side.close(socket)?;
        }
        Ok(())
    })
}

/// A crowd: each with an option or none, on an address of its own or not, listening or not.
fn crowd(
    side: &mut dyn Side,
    count: usize,
    option: Option<Opt>,
    host: fn(usize) -> u32,
    listens: bool,
) -> io::Result<()> {
    for number in 0..count {
        let socket = side.socket()?;
        if let Some(option) = option {
            side.call(socket, Call::Set(option))?;
        }
        side.call(socket, Call::Bind(address(host(number), PORT)))?;
        if listens {
            side.call(socket, Call::Listen(1))?;
        }
    }
    Ok(())
}

/// A crowd comes and, the oldest first, goes.
fn come_and_go(
    side: &mut dyn Side,
    option: Option<Opt>,
    host: fn(usize) -> u32,
) -> io::Result<Duration> {
    timed(|| {
        crowd(side, CROWD, option, host, true)?;
        side.close_all()
    })
}

fn listener(side: &mut dyn Side) -> io::Result<usize> {
    let socket = side.socket()?;
    side.call(socket, Call::Bind(address(LOOPBACK, PORT)))?;
    side.call(socket, Call::Listen(i32::from(PORTS)))?;
    Ok(socket)
}

/// A client and its server's side; both end by a reset, so that nothing waits a minute.
fn connection(side: &mut dyn Side, listener: usize, from: u32) -> io::Result<(usize, usize)> {
    let client = side.socket()?;
    side.call(client, Call::Set(Opt::Linger(Some(0))))?;
    side.call(client, Call::Set(Opt::BindAddressNoPort(true)))?;
    side.call(client, Call::Bind(address(from, 0)))?;
    side.call(client, Call::Connect(address(LOOPBACK, PORT)))?;
    Ok((client, side.accept(listener)?))
}

const ROWS: &[Row] = &[
    Row {
        what: "rounds of socket, bind, listen, close",
        count: ROUNDS,
        run: |side| {
            rounds(
                side,
                &[Call::Bind(address(LOOPBACK, PORT)), Call::Listen(5)],
            )
        },
    },
    Row {
        what: "rounds of socket, bind to port 0, close",
        count: ROUNDS,
        run: |side| rounds(side, &[Call::Bind(address(LOOPBACK, 0))]),
    },
    Row {
        what: "rounds of connect, accept, close both",
        count: ROUNDS,
        run: |side| {
            let listener = listener(side)?;
            timed(|| {
                for _ in 0..ROUNDS {
                    let (client, server) = connection(side, listener, 2)?;
                    side.close(server)?;
                    side.close(client)?;
                }
                Ok(())
            })
        },
    },
    Row {
        what: "65,000 ports, bound and closed",
        count: PORTS as usize,
        run: |side| {
            timed(|| {
                all_ports(side, PORTS)?;
                side.close_all()
            })
        },
    },
    Row {
        what: "bind to port 0 in vain, all 64,512 ports of the range in use",
        count: 1,
        run: |side| {
            all_ports(side, RANGE.1)?;
            let late = side.socket()?;
            timed(|| {
                let answer = side.call(late, Call::Bind(address(LOOPBACK, 0)));
                match answer {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
                    other => Err(io::Error::other(format!(
                        "a vain search answered {other:?}"
                    ))),
                }
            })
        },
    },
    Row {
        what: "10,000 listeners with SO_REUSEPORT on one address and port, opened and closed",
        count: CROWD,
        run: |side| come_and_go(side, Some(Opt::ReusePort(true)), |_| LOOPBACK),
    },
    Row {
        what: "10,000 listeners on one port of different 127/8 addresses, opened and closed",
        count: CROWD,
        run: |side| come_and_go(side, None, |number| number as u32 + 1),
    },
    Row {
        what: "10,000 listeners with SO_REUSEPORT, every other on an address of its own, opened and closed",
        count: CROWD,
        run: |side| {
            come_and_go(side, Some(Opt::ReusePort(true)), |number| {
                match number % 2 {
                    0 => LOOPBACK,
                    _ => number as u32 + 1,
                }
            })
        },
    },
    Row {
        what: "4,000 binds with SO_REUSEADDR to one address and port: each walks all before it",
        count: WALKED,
        run: |side| {
            timed(|| {
                let option = Some(Opt::ReuseAddr(true));
                crowd(side, WALKED, option, |_| LOOPBACK, false)
            })
        },
    },
    Row {
        what: "30,000 connections to one listener, opened and closed",
        count: CONNECTIONS,
        run: |side| {
            let listener = listener(side)?;
            timed(|| {
                for number in 0..CONNECTIONS {
                    connection(side, listener, number as u32 % 2 + 2)?;
                }
                side.close_all()
            })
        },
    },
];

/// One socket on each port up to this one.
fn all_ports(side: &mut dyn Side, last: u16) -> io::Result<()> {
    for port in 1..=last {
        let socket = side.socket()?;
        side.call(socket, Call::Bind(address(LOOPBACK, port)))?;
    }
    Ok(())
}

/// The best of some turns, each on a side without sockets.
fn best<S: Side>(row: &Row, fresh: impl Fn() -> S) -> io::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..TURNS {
        let mut side = fresh();
        best = best.min((row.run)(&mut side)?);
    }
    Ok(best)
}

fn pretty(time: Duration) -> String {
    match time.as_nanos() {
        nanos @ 0..10_000 => format!("{nanos} ns"),
        nanos @ 10_000..10_000_000 => format!("{:.1} µs", nanos as f64 / 1e3),
        nanos => format!("{:.1} ms", nanos as f64 / 1e6),
    }
}

/// Measures every row, in a network of its own, on one processor; answers the table.
pub fn table() -> io::Result<String> {
    let kernel = running_kernel()?;
    bare::enter_network_namespace()?;
    netlink::up(host::LOOPBACK)?;
    let (low, high) = RANGE;
    let net = "/proc/sys/net";
    std::fs::write(
        format!("{net}/ipv4/ip_local_port_range"),
        format!("{low} {high}"),
    )?;
    std::fs::write(format!("{net}/ipv4/ip_unprivileged_port_start"), "0")?;
    std::fs::write(format!("{net}/core/somaxconn"), PORTS.to_string())?;
    let most = getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: most,
            maximum: most,
        },
    )?;
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(0);
    rustix::thread::sched_setaffinity(None, &cpus)?;
    let mut text = String::from(
        "| what | model | a second | kernel | a second | ratio |\n|---|---|---|---|---|---|\n",
    );
    for row in ROWS {
        let model = best(row, || Model::new(kernel))?;
        let calls = best(row, Calls::new)?;
        let rate = |time: Duration| row.count as f64 / time.as_secs_f64();
        let each = |time: Duration| time / row.count as u32;
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {} | {:.0} | {:.1} |",
            row.what,
            pretty(each(model)),
            rate(model),
            pretty(each(calls)),
            rate(calls),
            calls.as_secs_f64() / model.as_secs_f64()
        );
        eprintln!("{}", text.lines().last().unwrap_or_default());
    }
    Ok(text)
}
