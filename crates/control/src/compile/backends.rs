//! Backends and servers of the plan.
//!
//! Decides:  the address of each server (`init-addr`), and the target of its check.
//! Source:   HAProxy's manual, `server`, `init-addr`, `port`, `addr`; `srv_init_addr()`.
//! Not here: choosing among them (the balance crate).

use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use portcullis_balance::{
    AddressHash, Affinity, Algorithm, HashFunction, HashInput, HashTable, Limits, Member, Tier,
};
use portcullis_config::model::{
    self, Balance, Capability, Check, Config, Family, Host, Id, InitAddr, InitState, Server,
    ServerPort, Splice,
};
use portcullis_proxy::proxy_protocol::Version;
use portcullis_proxy::snapshot::ServerAddress;

use super::lookup::{Lookup, host, in_family};
use super::numbers::Numbers;
use super::problems::Problems;
use super::{BackendPlan, CheckPlan, ServerPlan, keepalive, milliseconds};
use crate::privileges::Wanted;

/// The bytes of `sun_path`: the kernel's, not ours to choose.
const SUN_PATH: usize = 108;

/// The enabled backends; and for each backend of the file, its index in the plan.
pub(super) fn plan(
    config: &Config,
    lookup: &dyn Lookup,
    problems: &mut Problems,
) -> (Vec<BackendPlan>, Vec<Option<usize>>) {
    let mut plans = Vec::new();
    let mut index = Vec::with_capacity(config.backends.len());
    for backend in &config.backends {
        if backend.disabled {
            index.push(None);
            continue;
        }
        index.push(Some(plans.len()));
        let mut numbers = Numbers::taken_by(backend.servers.iter().map(|server| server.id));
        let servers = backend
            .servers
            .iter()
            .map(|server| (server, numbers.next(server.id)))
            .filter_map(|(server, id)| server_plan(backend, server, id, lookup, problems))
            .collect();
        plans.push(BackendPlan {
            name: backend.name.clone(),
            algorithm: algorithm(backend),
            hash: hash(backend),
            fullconn: backend.fullconn,
            all_backups: backend.all_backups,
            servers,
            queue_timeout_ms: milliseconds(backend.timeout_queue.or(backend.timeout_connect)),
            connect_timeout_ms: milliseconds(backend.timeout_connect),
            server_timeout_ms: milliseconds(backend.timeout_server),
            server_fin_timeout_ms: milliseconds(backend.timeout_server_fin),
            tunnel_timeout_ms: milliseconds(backend.timeout_tunnel),
            check_timeout: backend.timeout_check,
            retries: backend.retries,
            redispatch: backend.redispatch.unwrap_or(0),
            keepalive: keepalive(backend.keepalive),
            no_linger: backend.flow.no_linger,
            independent: backend.flow.independent_streams,
            splice: !config.global.no_splice && backend.flow.splice == Splice::Auto,
            abort_on_close: backend.abort_on_close,
            smart_connect: backend.smart_connect,
            log: backend.log.clone(),
            log_health_checks: backend.log_health_checks,
        });
    }
    (plans, index)
}

/// `usesrc` is asked for at each connection: whoever runs by then must be allowed to.
pub(super) fn may_be_foreign(config: &Config, privileges: &Wanted, problems: &mut Problems) {
    let becomes_another = matches!(privileges.user, Some(Id::Number(uid)) if uid != 0);
    let keeps = [Capability::NetAdmin, Capability::NetRaw];
    if !becomes_another || privileges.keep.iter().any(|kept| keeps.contains(kept)) {
        return;
    }
    for backend in config.backends.iter().filter(|backend| !backend.disabled) {
        let foreign = |server: &&Server| source(backend, server).is_some_and(|s| s.seen.is_some());
        if let Some(server) = backend.servers.iter().find(foreign) {
            let message = format!(
                "`usesrc` of `{}/{}` needs a capability that `user` gives up",
                backend.name, server.name
            );
            problems
                .error("missing-capability", Some(server.place), message)
                .label = Some("add `setcap cap_net_raw` to `global`".to_owned());
        }
    }
}

/// What a hash is made of, where one chooses.
fn hash(backend: &model::Backend) -> Option<AddressHash> {
    let input = match backend.balance {
        Balance::Source => HashInput::Source,
        Balance::HashSource { v4, v6 } => HashInput::Masked { v4, v6 },
        _ => return None,
    };
    Some(AddressHash {
        input,
        function: match backend.hash_type.function {
            model::HashFunction::Sdbm => HashFunction::Sdbm,
            model::HashFunction::Djb2 => HashFunction::Djb2,
            model::HashFunction::Wt6 => HashFunction::Wt6,
            model::HashFunction::Crc32 => HashFunction::Crc32,
            model::HashFunction::None => HashFunction::None,
        },
        avalanche: backend.hash_type.avalanche,
    })
}

fn hash_table(hash_type: &model::HashType) -> HashTable {
    match hash_type.method {
        model::HashMethod::Map => HashTable::Map,
        model::HashMethod::Consistent => HashTable::Ring {
            balance_factor: hash_type.balance_factor,
            affinity: match hash_type.affinity {
                model::HashAffinity::Always => Affinity::Always,
                model::HashAffinity::MaxConn => Affinity::MaxConn,
                model::HashAffinity::MaxQueue => Affinity::MaxQueue,
            },
        },
    }
}

fn algorithm(backend: &model::Backend) -> Algorithm {
    match backend.balance {
        Balance::Random { draws } => Algorithm::Random {
            draws: draws.max(1),
        },
        Balance::RoundRobin => Algorithm::RoundRobin,
        Balance::StaticRoundRobin => Algorithm::StaticRoundRobin,
        Balance::LeastConn => Algorithm::LeastConn,
        Balance::First => Algorithm::First,
        Balance::Source | Balance::HashSource { .. } => {
            Algorithm::Hash(hash_table(&backend.hash_type))
        }
    }
}

fn server_plan(
    backend: &model::Backend,
    server: &Server,
    id: u32,
    lookup: &dyn Lookup,
    problems: &mut Problems,
) -> Option<ServerPlan> {
    let address = match address(server, lookup) {
        Ok(found) => found,
        Err(why) => {
            problems.error(
                "unusable-address",
                Some(server.address.place),
                format!("server `{}/{}`: {why}", backend.name, server.name),
            );
            return None;
        }
    };
    let check = check_plan(backend, server, address.as_ref(), lookup, problems);
    Some(ServerPlan {
        member: Member {
            name: server.name.clone(),
            id,
            weight: server.weight,
            tier: if server.backup {
                Tier::Backup
            } else {
                Tier::Active
            },
            usable: !server.disabled && address.is_some() && !waits(server),
            limits: Limits {
                maxconn: server.maxconn,
                minconn: server.minconn,
                maxqueue: server.maxqueue,
            },
        },
        address,
        user_timeout_ms: milliseconds(server.user_timeout),
        congestion_control: server
            .congestion_control
            .as_ref()
            .map(|cc| cc.value.clone()),
        source: source(backend, server),
        header: server.send_proxy.map(version),
        fast_open: server.fast_open,
        slow_start_s: server
            .slow_start
            .map_or(0, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX)),
        ends_sessions_when_down: server.ends_sessions_when_down,
        ends_backup_sessions_when_up: server.ends_backup_sessions_when_up,
        init_state: server.init_state,
        // A server in maintenance is not checked: a check would bring it back.
        check: check.filter(|_| !server.disabled),
    })
}

/// Is it down with `init-state`, and no check of its own will ever bring it up?
fn waits(server: &Server) -> bool {
    let down = matches!(server.init_state, InitState::Down | InitState::FullyDown);
    down && server.check.is_none()
}

/// How a server is checked, where it is.
fn check_plan(
    backend: &model::Backend,
    server: &Server,
    address: Option<&ServerAddress>,
    lookup: &dyn Lookup,
    problems: &mut Problems,
) -> Option<CheckPlan> {
    let (settings, address) = (server.check.as_ref()?, address?);
    match check_target(address, settings, lookup) {
        Ok(target) => Some(CheckPlan {
            target: target?,
            settings: settings.clone(),
            header: check_header(server, settings),
            source: source(backend, server),
        }),
        Err(why) => {
            problems.error(
                "unusable-check",
                Some(server.place),
                format!("the check of `{}/{}`: {why}", backend.name, server.name),
            );
            None
        }
    }
}

/// The server's own `source`, else the backend's.
fn source(backend: &model::Backend, server: &Server) -> Option<model::Source> {
    server.source.clone().or_else(|| backend.source.clone())
}

fn version(header: model::SendProxy) -> Version {
    match header {
        model::SendProxy::V1 => Version::V1,
        model::SendProxy::V2 { checksum } => Version::V2 { checksum },
    }
}

/// A check begins with the header that sessions begin with, if it goes where they go, or is told to;
/// with one of version 1 if they have none (HAProxy's src/check.c, init_srv_check()).
fn check_header(server: &Server, check: &Check) -> Option<Version> {
    let same_place = check.addr.is_none() && check.port.is_none();
    match (check.send_proxy, server.send_proxy) {
        (true, header) => Some(header.map_or(Version::V1, version)),
        (false, Some(header)) if same_place => Some(version(header)),
        (false, _) => None,
    }
}

/// Where the server is; `None` where it may start without an address.
fn address(server: &Server, lookup: &dyn Lookup) -> Result<Option<ServerAddress>, String> {
    match &server.address.value {
        model::ServerAddress::Tcp {
            host: to,
            port,
            mptcp,
        } => {
            let ip = first_address(to, &server.init_addr, lookup)?;
            Ok(ip.map(|ip| tcp(ip, *port, *mptcp)))
        }
        model::ServerAddress::OriginalDestination { port } => {
            let (port, offset) = match *port {
                ServerPort::Fixed(port) => (Some(port), 0),
                ServerPort::Offset(offset) => (None, offset),
            };
            Ok(Some(ServerAddress::OriginalDestination { port, offset }))
        }
        model::ServerAddress::UnixPath(path) => unix_path(path).map(Some),
        model::ServerAddress::Abstract(name) => abstract_name(name, Padding::Full).map(Some),
        model::ServerAddress::AbstractExact(name) => abstract_name(name, Padding::None).map(Some),
    }
}

fn tcp(ip: IpAddr, port: ServerPort, mptcp: bool) -> ServerAddress {
    match port {
        ServerPort::Fixed(port) => ServerAddress::Tcp {
            address: SocketAddr::new(ip, port),
            mptcp,
        },
        ServerPort::Offset(offset) => ServerAddress::TcpMappedPort { ip, offset, mptcp },
    }
}

/// The steps of `init-addr` in order; the first that gives an answer is the server's address.
fn first_address(
    to: &Host,
    steps: &[InitAddr],
    lookup: &dyn Lookup,
) -> Result<Option<IpAddr>, String> {
    let Host::Name(_, family) = to else {
        return host(to, lookup).map(Some);
    };
    let default = [InitAddr::Last, InitAddr::Libc];
    let steps = if steps.is_empty() { &default } else { steps };
    let mut why = "no step of init-addr gave an address".to_owned();
    for step in steps {
        match step {
            InitAddr::Last => {}
            InitAddr::Libc => match host(to, lookup) {
                Ok(ip) => return Ok(Some(ip)),
                Err(reason) => why = reason,
            },
            InitAddr::None => return Ok(None),
            InitAddr::Address(ip) if in_family(*ip, *family) || *family == Family::Any => {
                return Ok(Some(*ip));
            }
            InitAddr::Address(ip) => why = format!("{ip} is not of the family asked for"),
        }
    }
    Err(why)
}

/// How long the address of an abstract name is.
enum Padding {
    /// All of `sun_path`.
    Full,
    /// The name alone.
    None,
}

fn unix_path(path: &Path) -> Result<ServerAddress, String> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() >= SUN_PATH {
        return Err(format!(
            "the path is {} bytes long; a Unix socket's is at most {}",
            bytes.len(),
            SUN_PATH - 1
        ));
    }
    Ok(ServerAddress::Unix(bytes.to_vec()))
}

fn abstract_name(name: &[u8], padding: Padding) -> Result<ServerAddress, String> {
    if name.len() >= SUN_PATH {
        return Err(format!(
            "the name is {} bytes long; an abstract socket's is at most {}",
            name.len(),
            SUN_PATH - 1
        ));
    }
    let mut bytes = vec![0];
    bytes.extend_from_slice(name);
    if let Padding::Full = padding {
        bytes.resize(SUN_PATH, 0);
    }
    Ok(ServerAddress::Unix(bytes))
}

/// Where a check connects: `addr` and `port` where given, else the server's own.
fn check_target(
    address: &ServerAddress,
    check: &Check,
    lookup: &dyn Lookup,
) -> Result<Option<ServerAddress>, String> {
    let elsewhere = check.addr.as_ref().map(|to| host(to, lookup)).transpose()?;
    let (own_ip, own_port, mptcp) = match address {
        ServerAddress::Unix(_) if elsewhere.is_none() && check.port.is_none() => {
            return Ok(Some(address.clone()));
        }
        ServerAddress::Unix(_) => (None, None, false),
        ServerAddress::Tcp { address, mptcp } => (Some(address.ip()), Some(address.port()), *mptcp),
        ServerAddress::TcpMappedPort { ip, mptcp, .. } => (Some(*ip), None, *mptcp),
        ServerAddress::OriginalDestination { port, .. } => (None, *port, false),
    };
    let ip = elsewhere
        .or(own_ip)
        .ok_or("the server has no fixed address: give `addr`")?;
    let port = match (check.port.or(own_port), address) {
        (Some(port), _) => port,
        (None, ServerAddress::Unix(_)) => return Err("a path has no port: give `port`".into()),
        // Said already, of the line as it was read.
        (None, _) => return Ok(None),
    };
    Ok(Some(ServerAddress::Tcp {
        address: SocketAddr::new(ip, port),
        mptcp,
    }))
}
