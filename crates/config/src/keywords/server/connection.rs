//! Connections to a server.
//!
//! Decides:  the arguments of these parameters; what changes the bytes or the path is refused.
//! Source:   HAProxy's manual, chapter 5.2; src/server.c and src/cfgparse-tcp.c, 3.5-dev5.
//! Not here: TLS (tls.rs).

use crate::arguments::Args;
use crate::build::draft::ServerDraft;
use crate::keyword::{Entry, entries};
use crate::keywords::bind::tcp::congestion_control;

const PROXY: &str = "the server would not see the header that it waits for";

/// The family's entries.
pub const ENTRIES: &[Entry<ServerDraft>] = entries! {
    "tcp-ut" "<time>" SD supported(tcp_ut) "TCP_USER_TIMEOUT: how long sent data may stay unacknowledged" default("the system's");
    "cc" "<algorithm>" SD supported(cc) "TCP_CONGESTION" default("the system's");
    "proto" "none" SD supported(proto) "the protocol that is forced; only `none` in a TCP proxy";
    "tfo" "" SD warned("connections are opened without it") "TCP_FASTOPEN_CONNECT";
    "no-tfo" "" SD inert("`tfo`") "takes `tfo` back";
    "send-proxy" "" SD refused(PROXY) "a PROXY header, version 1";
    "no-send-proxy" "" SD inert("`send-proxy`") "takes `send-proxy` back";
    "send-proxy-v2" "" SD refused(PROXY) "a PROXY header, version 2";
    "no-send-proxy-v2" "" SD inert("`send-proxy-v2`") "takes `send-proxy-v2` back";
    "send-proxy-v2-ssl" "" SD refused(PROXY) "a PROXY header that tells of TLS";
    "no-send-proxy-v2-ssl" "" SD inert("`send-proxy-v2-ssl`") "takes `send-proxy-v2-ssl` back";
    "send-proxy-v2-ssl-cn" "" SD refused(PROXY) "a PROXY header that tells of the certificate";
    "no-send-proxy-v2-ssl-cn" "" SD inert("`send-proxy-v2-ssl-cn`") "takes `send-proxy-v2-ssl-cn` back";
    "proxy-v2-options" "<option>,…" SD inert("`send-proxy-v2`") "what the PROXY header tells";
    "set-proxy-v2-tlv-fmt" "<format>" SD inert("`send-proxy-v2`") "a value of the PROXY header";
    "socks4" "<address>:<port>" SD refused("the server would be reached by another path") "connect through a SOCKS proxy";
    "source" "<address>" SD refused("the server would see another address") "our own address towards it";
    "usesrc" "<address>|client|clientip" SD refused("it belongs to `source`") "the address it sees";
    "interface" "<name>" SD refused("it belongs to `source`") "the device of `source`";
    "namespace" "<name>" SD refused("the server would be looked for in another network") "the network namespace it is in";
    "tcp-md5sig" "<password>" SD refused("segments would not be signed") "TCP_MD5SIG";
    "quic-cc-algo" "<algorithm>" SD inert("QUIC") "QUIC's congestion control";
};

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
