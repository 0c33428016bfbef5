//! What the lines of a section have said so far.
//!
//! Decides:  which settings a proxy takes over from its `defaults`.
//! Source:   HAProxy's src/proxy.c, alloc_new_proxy() and defaults_px_detach(), 3.5-dev5.
//! Not here: what the settings mean together (the other files of build/).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::arguments::{Args, Seen};
use crate::diagnostic::Diagnostic;
use crate::model::{
    Balance, Bind, BindOptions, Global, HashType, Host, Id, InitAddr, InitState, Ipv6Bind,
    Keepalive, LogTarget, OnError, ServerAddress, Source, StatsOptions,
};
use crate::source::{At, Place};
use crate::syntax::SectionKind;

/// `global`, all of them together.
#[derive(Debug)]
pub struct GlobalDraft {
    /// What the model takes as it is.
    pub config: Global,
    /// `unix-bind`
    pub unix: UnixDefaults,
    /// Keywords of which the first holds.
    pub seen: Seen,
}

impl Default for GlobalDraft {
    fn default() -> Self {
        GlobalDraft {
            config: Global {
                strict_limits: true,
                ..Global::default()
            },
            unix: UnixDefaults::default(),
            seen: Seen::new(),
        }
    }
}

/// `unix-bind`
#[derive(Debug, Clone, Default)]
pub struct UnixDefaults {
    /// `prefix`
    pub prefix: Option<String>,
    /// `mode`
    pub mode: Option<u32>,
    /// `user`, `uid`
    pub user: Option<At<Id>>,
    /// `group`, `gid`
    pub group: Option<At<Id>>,
}

/// The parameters of a `bind` line.
#[derive(Debug, Default)]
pub struct BindDraft {
    /// What the model takes as it is.
    pub options: BindOptions,
    /// `v4v6`
    pub v4v6: bool,
    /// `v6only`
    pub v6only: bool,
    /// What only a `stats socket` has a use for.
    pub stats: StatsOptions,
    /// Where `tcp-md5sig-peers` says its prefixes.
    pub md5_peers_place: Option<Place>,
}

impl BindDraft {
    /// A line without parameters.
    pub fn new(unix: &UnixDefaults) -> BindDraft {
        BindDraft {
            options: BindOptions {
                mode: unix.mode,
                user: unix.user.clone(),
                group: unix.group.clone(),
                ..BindOptions::default()
            },
            ..BindDraft::default()
        }
    }

    /// What the parameters mean together.
    pub fn finish(self, args: &mut Args<'_>) -> BindOptions {
        let mut options = self.options;
        options.ipv6 = match (self.v6only, self.v4v6) {
            (true, _) => Some(Ipv6Bind::V6Only),
            (false, true) => Some(Ipv6Bind::V4V6),
            (false, false) => None,
        };
        if let (Some(place), None) = (self.md5_peers_place, &options.md5_secret) {
            args.push(
                Diagnostic::error(
                    "missing-keyword",
                    place,
                    "`tcp-md5sig-peers` needs `tcp-md5sig`",
                )
                .label("these peers have no password"),
            );
        }
        options
    }
}

/// The parameters of a server, and those of `default-server` up to here.
#[derive(Debug, Clone, Default)]
pub struct ServerDraft {
    /// `weight`
    pub weight: Option<u16>,
    /// `backup`
    pub backup: bool,
    /// `disabled`
    pub disabled: bool,
    /// `id`
    pub id: Option<At<u32>>,
    /// `maxconn`
    pub maxconn: u32,
    /// `minconn`
    pub minconn: u32,
    /// `maxqueue`
    pub maxqueue: u32,
    /// `slowstart`
    pub slow_start: Option<Duration>,
    /// `on-marked-down`
    pub on_marked_down: bool,
    /// `on-marked-up`
    pub on_marked_up: bool,
    /// `init-state`
    pub init_state: InitState,
    /// `observe`
    pub observe: bool,
    /// `error-limit`
    pub error_limit: Option<u32>,
    /// `on-error`
    pub on_error: OnError,
    /// `check`
    pub check: bool,
    /// `inter`
    pub inter: Option<Duration>,
    /// `fastinter`
    pub fast_inter: Option<Duration>,
    /// `downinter`
    pub down_inter: Option<Duration>,
    /// `rise`
    pub rise: Option<u32>,
    /// `fall`
    pub fall: Option<u32>,
    /// `port`
    pub check_port: Option<u16>,
    /// `addr`
    pub check_addr: Option<Host>,
    /// `init-addr`
    pub init_addr: Vec<InitAddr>,
    /// `source`
    pub source: Option<Source>,
    /// `send-proxy`
    pub send_proxy: bool,
    /// `send-proxy-v2`
    pub send_proxy_v2: bool,
    /// `proxy-v2-options crc32c`
    pub proxy_checksum: bool,
    /// `check-send-proxy`
    pub check_send_proxy: bool,
    /// `tfo`
    pub fast_open: bool,
    /// `tcp-ut`
    pub user_timeout: Option<Duration>,
    /// `cc`
    pub congestion_control: Option<At<String>>,
}

/// One server, before its backend is put together.
#[derive(Debug, Clone)]
pub struct ServerLine {
    /// Its name.
    pub name: String,
    /// The line.
    pub place: Place,
    /// The word that says the name.
    pub name_place: Place,
    /// Where it is.
    pub address: At<ServerAddress>,
    /// Its parameters, `default-server` taken in.
    pub settings: ServerDraft,
}

/// `mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `tcp`
    Tcp,
    /// `http`
    Http,
    /// `log`
    Log,
    /// `spop`
    Spop,
}

impl Mode {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Tcp => "tcp",
            Mode::Http => "http",
            Mode::Log => "log",
            Mode::Spop => "spop",
        }
    }
}

/// An option that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Toggle {
    /// `option dontlognull`
    SkipNull,
    /// `option dontlog-normal`
    SkipNormal,
    /// `option logasap`
    LogEarly,
    /// `option log-separate-errors`
    SeparateErrors,
    /// `option log-health-checks`
    LogChecks,
    /// `option tcpka`
    Keepalive,
    /// `option clitcpka`
    ClientKeepalive,
    /// `option srvtcpka`
    ServerKeepalive,
    /// `option nolinger`
    NoLinger,
    /// `option splice-auto`
    SpliceAuto,
    /// `option splice-request`
    SpliceRequest,
    /// `option splice-response`
    SpliceResponse,
    /// `option independent-streams`
    IndependentStreams,
    /// `option tcp-smart-accept`
    SmartAccept,
    /// `option tcp-smart-connect`
    SmartConnect,
    /// `option abortonclose`
    AbortOnClose,
    /// `option allbackups`
    AllBackups,
}

/// Which log option was said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogShape {
    /// `option tcplog`
    Tcp,
    /// `option tcplog clf`
    TcpClf,
    /// `option httplog`, `option httpslog`
    Http,
}

/// A `log` line of a proxy.
#[derive(Debug, Clone)]
pub enum LogLine {
    /// `log global`
    Global(Place),
    /// A target of its own.
    Target(LogTarget),
}

/// `timeout …`
#[derive(Debug, Clone, Copy, Default)]
pub struct Timeouts {
    /// `timeout client`
    pub client: Option<At<Duration>>,
    /// `timeout client-fin`
    pub client_fin: Option<At<Duration>>,
    /// `timeout connect`
    pub connect: Option<At<Duration>>,
    /// `timeout server`
    pub server: Option<At<Duration>>,
    /// `timeout server-fin`
    pub server_fin: Option<At<Duration>>,
    /// `timeout tunnel`
    pub tunnel: Option<At<Duration>>,
    /// `timeout check`
    pub check: Option<At<Duration>>,
    /// `timeout queue`
    pub queue: Option<At<Duration>>,
    /// `timeout lifetime`
    pub lifetime: Option<At<Duration>>,
    /// `timeout drain-age`
    pub drain_age: Option<At<Duration>>,
    /// `timeout client-hs`
    pub client_hs: Option<At<Duration>>,
}

/// `defaults` or a proxy.
#[derive(Debug, Clone)]
pub struct ProxyDraft {
    /// Which section it is.
    pub kind: SectionKind,
    /// Its number among all sections.
    pub section: usize,
    /// Its name; empty for `defaults` without one.
    pub name: String,
    /// Its first line.
    pub place: Place,
    /// The `defaults` that it took over: their number among all sections.
    pub defaults: Option<usize>,
    /// `mode`
    pub mode: Option<At<Mode>>,
    /// `disabled`, `enabled`
    pub disabled: Option<At<bool>>,
    /// `id`
    pub id: Option<At<u32>>,
    /// `bind`
    pub binds: Vec<Bind>,
    /// `default_backend`
    pub default_backend: Option<At<String>>,
    /// `maxconn`
    pub maxconn: Option<At<u32>>,
    /// `backlog`
    pub backlog: Option<At<u32>>,
    /// `timeout …`
    pub timeouts: Timeouts,
    /// `log`
    pub logs: Vec<LogLine>,
    /// `log-tag`
    pub log_tag: Option<String>,
    /// `option tcplog` and its like
    pub log_shape: Option<At<LogShape>>,
    /// Options that are on or off.
    pub toggles: BTreeMap<Toggle, At<bool>>,
    /// `clitcpka-…`
    pub client_keepalive: Keepalive,
    /// `srvtcpka-…`
    pub server_keepalive: Keepalive,
    /// `balance`
    pub balance: Option<At<Balance>>,
    /// `hash-type` and what belongs to it
    pub hash_type: HashType,
    /// `fullconn`
    pub fullconn: Option<u32>,
    /// `rate-limit sessions`
    pub session_rate: Option<u32>,
    /// `tcp-request connection expect-proxy layer4`
    pub expect_proxy: bool,
    /// `retries`
    pub retries: Option<u32>,
    /// `option redispatch`
    pub redispatch: Option<i32>,
    /// `source`
    pub source: Option<Source>,
    /// `default-server`
    pub default_server: ServerDraft,
    /// `server`, `server-template`
    pub servers: Vec<ServerLine>,
}

impl ProxyDraft {
    /// A section that has said nothing.
    pub fn new(kind: SectionKind, section: usize, name: String, place: Place) -> ProxyDraft {
        ProxyDraft {
            kind,
            section,
            name,
            place,
            defaults: None,
            mode: None,
            disabled: None,
            id: None,
            binds: Vec::new(),
            default_backend: None,
            maxconn: None,
            backlog: None,
            timeouts: Timeouts::default(),
            logs: Vec::new(),
            log_tag: None,
            log_shape: None,
            toggles: BTreeMap::new(),
            client_keepalive: Keepalive::default(),
            server_keepalive: Keepalive::default(),
            balance: None,
            hash_type: HashType::default(),
            fullconn: None,
            session_rate: None,
            expect_proxy: false,
            retries: None,
            redispatch: None,
            source: None,
            default_server: ServerDraft::default(),
            servers: Vec::new(),
        }
    }

    /// A section that begins with everything that its `defaults` say.
    pub fn from_defaults(
        kind: SectionKind,
        section: usize,
        name: String,
        place: Place,
        defaults: &ProxyDraft,
    ) -> ProxyDraft {
        ProxyDraft {
            kind,
            section,
            name,
            place,
            defaults: Some(defaults.section),
            ..defaults.clone()
        }
    }

    /// Has it a front half?
    pub fn listens(&self) -> bool {
        matches!(self.kind, SectionKind::Frontend | SectionKind::Listen)
    }

    /// Has it a back half?
    pub fn serves(&self) -> bool {
        matches!(self.kind, SectionKind::Backend | SectionKind::Listen)
    }

    /// Is the option on?
    pub fn is_on(&self, toggle: Toggle) -> bool {
        self.toggles.get(&toggle).is_some_and(|at| at.value)
    }

    /// What it carries.
    pub fn mode(&self) -> Mode {
        self.mode.map_or(Mode::Tcp, |at| at.value)
    }

    /// Is it read but not started?
    pub fn is_disabled(&self) -> bool {
        self.disabled.is_some_and(|at| at.value)
    }
}
