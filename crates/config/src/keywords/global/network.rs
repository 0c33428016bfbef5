//! Sockets of the whole process: shards, buffers, splicing, Unix sockets, event polling.
//!
//! Decides:  what holds for every listener and connection.
//! Source:   HAProxy's manual, chapters 3.1 `unix-bind` and 3.2 `tune.*`; src/cfgparse-global.c and
//!           src/listener.c, cfg_parse_tune_listener_shards(), 3.5-dev5.
//! Not here: what one `bind` line says (bind/).

use crate::arguments::Args;
use crate::build::draft::GlobalDraft;
use crate::keyword::{Entry, Prefixes, entries};
use crate::keywords::bind::unix::unix_mode;
use crate::keywords::global::process::{id_by_name, id_by_number};
use crate::model::Shards;

const POLLER: &str = "the worker polls with epoll";
const DATAGRAM: &str = "a socket that is not connected";

/// The family's entries.
pub const ENTRIES: &[Entry<GlobalDraft>] = entries! {
    "noreuseport" "" G supported(noreuseport) "no SO_REUSEPORT, hence no shards";
    "nosplice" "" G supported(nosplice) "no splice(2)";
    "unix-bind" "[prefix <path>] [mode <mode>] [user <name>] [uid <number>] [group <name>] [gid <number>]" G supported(unix_bind) "what holds for every Unix socket that is opened";
    "tune.listener.default-shards" "by-process|by-thread|by-group" G supported(default_shards) "sockets for each address of a `bind` line" default("one a worker") note("HAProxy: `by-group`");
    "tune.listener.multi-queue" "on|fair|off" G warned("the kernel spreads connections over the shards") "how threads share connections" default("on");
    "tune.maxaccept" "<number>" G supported(maxaccept) "connections accepted at a stretch" default("the worker's choice");
    "tune.bufsize" "<bytes>" G supported(bufsize) "the size of a buffer" default("16384");
    "tune.pipesize" "<bytes>" G supported(pipesize) "the size of a pipe for splicing" default("1m where the system allows it");
    "tune.rcvbuf.client" "<bytes>" G supported(rcvbuf_client) "SO_RCVBUF of accepted connections" default("the system's");
    "tune.rcvbuf.server" "<bytes>" G supported(rcvbuf_server) "SO_RCVBUF of connections to servers" default("the system's");
    "tune.sndbuf.client" "<bytes>" G supported(sndbuf_client) "SO_SNDBUF of accepted connections" default("the system's");
    "tune.sndbuf.server" "<bytes>" G supported(sndbuf_server) "SO_SNDBUF of connections to servers" default("the system's");
    "tune.rcvbuf.frontend" "<bytes>" G inert(DATAGRAM) "SO_RCVBUF of datagram sockets of a frontend";
    "tune.rcvbuf.backend" "<bytes>" G inert(DATAGRAM) "SO_RCVBUF of datagram sockets of a backend";
    "tune.sndbuf.frontend" "<bytes>" G inert(DATAGRAM) "SO_SNDBUF of datagram sockets of a frontend";
    "tune.sndbuf.backend" "<bytes>" G inert(DATAGRAM) "SO_SNDBUF of datagram sockets of a backend";
    "tune.notsent-lowat.client" "<bytes>" G warned("it is not set yet") "TCP_NOTSENT_LOWAT of accepted connections" default("off");
    "tune.notsent-lowat.server" "<bytes>" G warned("it is not set yet") "TCP_NOTSENT_LOWAT of connections to servers" default("off");
    "dns-accept-family" "<families>" G refused("it changes the addresses that names resolve to") "which addresses a name may have" default("ipv4,ipv6");
    "nogetaddrinfo" "" G warned("names are resolved with getaddrinfo(3)") "resolve names the old way";
    "pp2-never-send-local" "" G inert("`check-send-proxy`") "what PROXY v2 says of a check";
    "busy-polling" "" G warned(POLLER) "poll without sleeping" prefixes(Prefixes::NoAndDefault);
    "noepoll" "" G warned(POLLER) "no epoll(7)";
    "nopoll" "" G warned(POLLER) "no poll(2)";
    "nokqueue" "" G warned(POLLER) "no kqueue(2)";
    "noevports" "" G warned(POLLER) "no event ports";
    "noktls" "" G inert("`ssl`") "no kernel TLS";
};

fn noreuseport(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.no_reuse_port = true;
    args.end()
}

fn nosplice(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.no_splice = true;
    args.end()
}

fn unix_bind(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    const WORDS: [&str; 6] = ["prefix", "mode", "user", "uid", "group", "gid"];
    while let Some(word) = args.optional() {
        match word.text.as_str() {
            "prefix" => global.unix.prefix = Some(args.word("a path")?.text.clone()),
            "mode" => global.unix.mode = Some(unix_mode(args)?),
            "user" => global.unix.user = Some(id_by_name(args, "a user's name")?),
            "uid" => global.unix.user = Some(id_by_number(args)?),
            "group" => global.unix.group = Some(id_by_name(args, "a group's name")?),
            "gid" => global.unix.group = Some(id_by_number(args)?),
            _ => return args.unknown_choice(word, "a parameter of `unix-bind`", &WORDS),
        }
    }
    Some(())
}

const SHARDS: [(&str, Shards); 3] = [
    ("by-process", Shards::Number(1)),
    ("by-thread", Shards::ByThread),
    ("by-group", Shards::ByGroup),
];

fn default_shards(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.default_shards = Some(args.choice("a way to shard", &SHARDS)?.value);
    args.end()
}

fn maxaccept(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    // -1 and 0 are HAProxy's words for no limit of its own.
    let number = args.integer(-1..=i64::from(i32::MAX))?;
    args.end()?;
    global.config.max_accept = (number.value > 0).then_some(number.value as u32);
    Some(())
}

/// A buffer must hold a log line's worth, and two of them are held by each blocked session.
const BUFFER_BYTES: std::ops::RangeInclusive<i64> = 1024..=(64 << 20);

fn bufsize(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.buffer_size = Some(args.size(BUFFER_BYTES)?.value);
    args.end()
}

fn pipesize(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.pipe_size = Some(args.size(0..=i64::from(i32::MAX))?.value);
    args.end()
}

fn socket_size(args: &mut Args<'_>) -> Option<Option<u32>> {
    let size = args.size(0..=i64::from(i32::MAX))?.value;
    args.end()?;
    Some((size > 0).then_some(size))
}

fn rcvbuf_client(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.socket_buffers.client_receive = socket_size(args)?;
    Some(())
}

fn rcvbuf_server(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.socket_buffers.server_receive = socket_size(args)?;
    Some(())
}

fn sndbuf_client(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.socket_buffers.client_send = socket_size(args)?;
    Some(())
}

fn sndbuf_server(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.socket_buffers.server_send = socket_size(args)?;
    Some(())
}
