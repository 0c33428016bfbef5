//! Connections to a server.
//!
//! Decides:  the arguments of these parameters; what changes the bytes or the path is refused.
//! Source:   HAProxy's manual, chapter 5.2; src/server.c and src/cfgparse-tcp.c, 3.5-dev5.
//! Not here: TLS (tls.rs).

use crate::arguments::Args;
use crate::build::draft::ServerDraft;
use crate::keyword::{Entry, entries};
use crate::keywords::bind::tcp::congestion_control;
use crate::keywords::server::source::source;

const PROXY: &str = "the server would not see the header that it waits for";

/// The family's entries.
pub const ENTRIES: &[Entry<ServerDraft>] = entries! {
    "tcp-ut" "<time>" SD supported(tcp_ut) "TCP_USER_TIMEOUT: how long sent data may stay unacknowledged" default("the system's");
    "cc" "<algorithm>" SD supported(cc) "TCP_CONGESTION" default("the system's");
    "proto" "none" SD supported(proto) "the protocol that is forced; only `none` in a TCP proxy";
    "tfo" "" SD supported(|s: &mut ServerDraft, _| set(&mut s.fast_open, true)) "TCP_FASTOPEN_CONNECT: what the client said already goes with the SYN" note("on a session's first attempt; a server that then refuses ends the session, without a retry");
    "no-tfo" "" SD supported(|s: &mut ServerDraft, _| set(&mut s.fast_open, false)) "takes `tfo` back";
    "send-proxy" "" SD supported(|s: &mut ServerDraft, _| set(&mut s.send_proxy, true)) "a PROXY header, version 1";
    "no-send-proxy" "" SD supported(|s: &mut ServerDraft, _| set(&mut s.send_proxy, false)) "takes `send-proxy` back";
    "send-proxy-v2" "" SD supported(|s: &mut ServerDraft, _| set(&mut s.send_proxy_v2, true)) "a PROXY header, version 2";
    "no-send-proxy-v2" "" SD supported(|s: &mut ServerDraft, _| set(&mut s.send_proxy_v2, false)) "takes `send-proxy-v2` back";
    "send-proxy-v2-ssl" "" SD refused(PROXY) "a PROXY header that tells of TLS";
    "no-send-proxy-v2-ssl" "" SD inert("`send-proxy-v2-ssl`") "takes `send-proxy-v2-ssl` back";
    "send-proxy-v2-ssl-cn" "" SD refused(PROXY) "a PROXY header that tells of the certificate";
    "no-send-proxy-v2-ssl-cn" "" SD inert("`send-proxy-v2-ssl-cn`") "takes `send-proxy-v2-ssl-cn` back";
    "proxy-v2-options" "crc32c" SD supported(proxy_options) "what else the PROXY header tells: a checksum" default("nothing") note("`ssl`, `cert-cn`, `ssl-cipher`, `cert-sig`, `cert-key`, `authority` and `unique-id` are refused as not supported yet");
    "set-proxy-v2-tlv-fmt" "<format>" SD refused("the server would not see the value") "a value of the PROXY header";
    "socks4" "<address>:<port>" SD refused("the server would be reached by another path") "connect through a SOCKS proxy";
    "source" "<address>[:<port>[-<port>]] [usesrc client|clientip|<address>[:<port>]] [interface <name>]" SD supported(own_source) "our own address towards it, its ports and its device; `usesrc`: another host's (IP_TRANSPARENT)" default("`source` of the backend") note("`usesrc hdr_ip()` needs `mode http`, and is refused");
    "usesrc" "<address>|client|clientip" SD refused("it belongs to `source`") "the address it sees";
    "interface" "<name>" SD refused("it belongs to `source`") "the device of `source`";
    "namespace" "<name>" SD refused("the server would be looked for in another network") "the network namespace it is in";
    "tcp-md5sig" "<password>" SD refused("segments would not be signed") "TCP_MD5SIG";
    "quic-cc-algo" "<algorithm>" SD inert("QUIC") "QUIC's congestion control";
};

fn set(what: &mut bool, value: bool) -> Option<()> {
    *what = value;
    Some(())
}

fn own_source(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.source = Some(source(args)?);
    Some(())
}

fn proxy_options(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    const LATER: [&str; 7] = [
        "ssl",
        "cert-cn",
        "ssl-cipher",
        "cert-sig",
        "cert-key",
        "authority",
        "unique-id",
    ];
    let list = args.word("options, like `crc32c`")?;
    for (part, place) in args.comma_parts(list) {
        if LATER.contains(&part) {
            let what = format!("`proxy-v2-options {part}`");
            return args.not_supported(place, &what, "the server would not see the value");
        }
        args.one_of(
            part,
            place,
            "an option of the PROXY header",
            &[("crc32c", ())],
        )?;
        server.proxy_checksum = true;
    }
    Some(())
}

fn tcp_ut(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.user_timeout = Some(args.time()?.value);
    Some(())
}

fn cc(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.congestion_control = Some(congestion_control(args)?);
    Some(())
}

fn proto(_: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    args.choice("a protocol of a TCP proxy", &[("none", ())])?;
    Some(())
}
