//! Health checks of a server.
//!
//! Decides:  the arguments of the connect check's parameters; a check that says something is
//!           refused, for it would decide otherwise.
//! Source:   HAProxy's manual, chapter 5.2; src/check.c, srv_parse_*(), 3.5-dev5.
//! Not here: rules of checks (proxy/checks.rs), running one (the proxy crate).

use crate::arguments::Args;
use crate::build::draft::ServerDraft;
use crate::keyword::{Entry, entries};
use crate::model::OnError;

const AGENT: &str = "`agent-check`";
const SSL: &str = "`check-ssl`";

/// The family's entries.
pub const ENTRIES: &[Entry<ServerDraft>] = entries! {
    "check" "" SD supported(|s: &mut ServerDraft, _| { s.check = true; Some(()) }) "connect to it now and then, to know whether it is up" default("no check: always up");
    "no-check" "" SD supported(|s: &mut ServerDraft, _| { s.check = false; Some(()) }) "takes `check` back";
    "inter" "<time>" SD supported(inter) "the time between checks" default("2s");
    "fastinter" "<time>" SD supported(fastinter) "the same while it goes up or down" default("`inter`");
    "downinter" "<time>" SD supported(downinter) "the same while it is down" default("`inter`");
    "rise" "<number>" SD supported(rise) "good checks that bring it up" default("2");
    "fall" "<number>" SD supported(fall) "bad checks that bring it down" default("3");
    "port" "<port>" SD supported(port) "where to connect for a check" default("its own port");
    "addr" "<address>" SD supported(addr) "where to connect for a check" default("its own address");
    "agent-check" "" SD refused("an agent's word would not be heard") "ask an agent for its state and weight";
    "no-agent-check" "" SD inert(AGENT) "takes `agent-check` back";
    "agent-addr" "<address>" SD inert(AGENT) "the agent's address";
    "agent-inter" "<time>" SD inert(AGENT) "the time between questions";
    "agent-port" "<port>" SD inert(AGENT) "the agent's port";
    "agent-send" "<text>" SD inert(AGENT) "what is sent to the agent";
    "healthcheck" "<name>" SD refused("the check would be another one") "a check by name";
    "check-ssl" "" SD refused("the check would say less") "a check by a TLS handshake";
    "no-check-ssl" "" SD inert(SSL) "takes `check-ssl` back";
    "check-alpn" "<protocols>" SD inert(SSL) "the protocols of that handshake";
    "check-sni" "<name>" SD inert(SSL) "the name of that handshake";
    "check-sni-auto" "" SD inert(SSL) "the name of that handshake, by itself";
    "no-check-sni-auto" "" SD inert(SSL) "takes `check-sni-auto` back";
    "check-send-proxy" "" SD supported(|s: &mut ServerDraft, _| { s.check_send_proxy = true; Some(()) }) "a PROXY header in a check" default("with `send-proxy`, if the check has no `addr` and `port`");
    "no-check-send-proxy" "" SD supported(|s: &mut ServerDraft, _| { s.check_send_proxy = false; Some(()) }) "takes `check-send-proxy` back";
    "check-via-socks4" "" SD inert("`socks4`") "a check through the SOCKS proxy";
    "check-proto" "none" SD supported(proto) "the protocol of checks; only `none` in a TCP proxy";
    "check-reuse-pool" "" SD inert("HTTP") "a check on an idle connection";
    "no-check-reuse-pool" "" SD inert("HTTP") "takes `check-reuse-pool` back";
    "check-pool-conn-name" "<name>" SD inert("HTTP") "which idle connection";
    "observe" "layer4" SD supported(observe) "watch connections for errors, besides checks" default("no") note("`layer7` needs HTTP, and is refused");
    "error-limit" "<number>" SD supported(error_limit) "errors in a row until `on-error`" default("10");
    "on-error" "fastinter|fail-check|sudden-death|mark-down" SD supported(on_error) "what they lead to" default("`fail-check`");
};

fn inter(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.inter = Some(args.positive_time()?);
    Some(())
}

fn fastinter(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.fast_inter = Some(args.positive_time()?);
    Some(())
}

fn downinter(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.down_inter = Some(args.positive_time()?);
    Some(())
}

fn rise(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.rise = Some(args.integer(1..=i64::from(i32::MAX))?.value as u32);
    Some(())
}

fn fall(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.fall = Some(args.integer(1..=i64::from(i32::MAX))?.value as u32);
    Some(())
}

fn port(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.check_port = Some(args.integer(1..=65535)?.value as u16);
    Some(())
}

fn addr(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    let (host, port) = args.check_address()?;
    server.check_addr = Some(host);
    server.check_port = port.or(server.check_port);
    Some(())
}

fn observe(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    if args.peek_is("layer7") {
        let place = args.peek_place();
        args.take("layer7");
        return args.not_supported(
            place,
            "`observe layer7`",
            "a TCP proxy has `observe layer4`",
        );
    }
    args.choice("what to observe", &[("layer4", ())])?;
    server.observe = true;
    Some(())
}

fn error_limit(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    server.error_limit = Some(args.integer(1..=i64::from(i32::MAX))?.value as u32);
    Some(())
}

fn on_error(server: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    const CHOICES: [(&str, OnError); 4] = [
        ("fastinter", OnError::FastInter),
        ("fail-check", OnError::FailCheck),
        ("sudden-death", OnError::SuddenDeath),
        ("mark-down", OnError::MarkDown),
    ];
    server.on_error = args.choice("what errors lead to", &CHOICES)?.value;
    Some(())
}

fn proto(_: &mut ServerDraft, args: &mut Args<'_>) -> Option<()> {
    args.choice("a protocol of a TCP proxy", &[("none", ())])?;
    Some(())
}
