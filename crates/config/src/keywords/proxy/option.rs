//! `option …`, checks and HTTP left out.
//!
//! Decides:  which options are honoured, and that `no` turns one off and `default` forgets it.
//! Source:   HAProxy's manual, chapter 4.2 `option …`; src/proxy.c, cfg_opts[] and cfg_opts2[], 3.5-dev5.
//! Not here: `option tcp-check` and its like (checks.rs), HTTP options (http.rs).

use crate::arguments::Args;
use crate::build::draft::{LogShape, ProxyDraft, Toggle};
use crate::keyword::{Entry, HttpOnly, Prefixes, entries};
use crate::source::At;

const BOTH: Prefixes = Prefixes::NoAndDefault;
const COUNTERS: &str = "counters are kept per proxy, as they happen";

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "option tcplog" "[clf]" DFL supported(tcplog) "one line a session, at its end" default("one line at the start");
    "option httplog" "[clf]" DFL supported(httplog) "the HTTP log line; a TCP proxy falls back to `option tcplog`, with a warning";
    "option httpslog" "" DFL supported(httplog) "the HTTPS log line; a TCP proxy falls back to `option tcplog`, with a warning";
    "option dontlognull" "" DFL supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::SkipNull)) "no line for a session without a byte" prefixes(BOTH) default("off");
    "option dontlog-normal" "" DFL supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::SkipNormal)) "only lines for sessions that went wrong" prefixes(BOTH) default("off");
    "option logasap" "" DFL supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::LogEarly)) "log as soon as the server is connected" prefixes(BOTH) default("off");
    "option log-separate-errors" "" DFL supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::SeparateErrors)) "failed sessions at level err" prefixes(BOTH) default("off");
    "option log-health-checks" "" DLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::LogChecks)) "log every change of a check's result" prefixes(BOTH) default("off");
    "option tcpka" "" DFLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::Keepalive)) "SO_KEEPALIVE on both sides" default("off");
    "option clitcpka" "" DFL supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::ClientKeepalive)) "SO_KEEPALIVE towards clients" prefixes(BOTH) default("off");
    "option srvtcpka" "" DLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::ServerKeepalive)) "SO_KEEPALIVE towards servers" prefixes(BOTH) default("off");
    "option nolinger" "" DFLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::NoLinger)) "SO_LINGER 0: reset on close" prefixes(BOTH) default("off");
    "option splice-auto" "" DFLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::SpliceAuto)) "splice(2) both ways where it pays" prefixes(BOTH) default("the worker splices bulk data") note("HAProxy: off; here `no option splice-auto` forbids it");
    "option splice-request" "" DFLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::SpliceRequest)) "splice(2) towards servers" prefixes(BOTH) default("the worker splices bulk data") note("as `option splice-auto`");
    "option splice-response" "" DFLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::SpliceResponse)) "splice(2) towards clients" prefixes(BOTH) default("the worker splices bulk data") note("as `option splice-auto`");
    "option independent-streams" "" DFLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::IndependentStreams)) "what is sent does not count against a silent side's timeout" prefixes(BOTH) default("off");
    "option tcp-smart-accept" "" DFL supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::SmartAccept)) "TCP_QUICKACK off on accepted connections" prefixes(BOTH) default("off");
    "option tcp-smart-connect" "" DLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::SmartConnect)) "TCP_QUICKACK off on connections to servers" prefixes(BOTH) default("off");
    "option abortonclose" "" DFLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::AbortOnClose)) "give up connecting for a client that has closed" prefixes(BOTH) default("off");
    "option allbackups" "" DLB supported(|p: &mut ProxyDraft, a: &mut Args<'_>| toggle(p, a, Toggle::AllBackups)) "use all backup servers together" prefixes(BOTH) default("the first that is up");
    "option redispatch" "[<interval>]" DLB supported(redispatch) "a failed attempt may go to another server" prefixes(BOTH) default("off");
    "option persist" "" DLB inert("persistence") "stay with a server that is down" prefixes(BOTH);
    "option socket-stats" "" DFL warned(COUNTERS) "counters of each socket" prefixes(BOTH);
    "option contstats" "" DFL warned(COUNTERS) "counters while a session lasts" prefixes(BOTH);
    "option use-small-buffers" "[queue] [l7-retries] [check]" DLB warned("it tunes the insides of HAProxy") "small buffers where they do" prefixes(BOTH);
    "option prefer-last-server" "" DLB http(HttpOnly::Ignored) "stay with the last server" prefixes(BOTH);
    "option transparent" "" DLB removed("left HAProxy in 3.5: use `server NAME 0.0.0.0`") "connect to where the client meant to go" prefixes(BOTH);
};

/// Sets, unsets or forgets an option that is on or off.
fn toggle(proxy: &mut ProxyDraft, args: &mut Args<'_>, which: Toggle) -> Option<()> {
    args.end()?;
    if args.defaulted() {
        proxy.toggles.remove(&which);
    } else {
        let value = At::new(!args.negated(), args.place());
        proxy.toggles.insert(which, value);
    }
    Some(())
}

fn tcplog(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let shape = match args.take("clf") {
        true => LogShape::TcpClf,
        false => LogShape::Tcp,
    };
    proxy.log_shape = Some(At::new(shape, args.place()));
    args.end()
}

fn httplog(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    if args.name() == "option httplog" {
        args.take("clf");
    }
    proxy.log_shape = Some(At::new(LogShape::Http, args.place()));
    args.end()
}

fn redispatch(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    if args.negated() || args.defaulted() {
        proxy.redispatch = None;
        return args.end();
    }
    // Without a number: on the last attempt only, which HAProxy keeps as -1.
    let interval = match args.more() {
        true => {
            args.integer(i64::from(i32::MIN)..=i64::from(i32::MAX))?
                .value as i32
        }
        false => -1,
    };
    proxy.redispatch = (interval != 0).then_some(interval);
    args.end()
}
