//! What a proxy is, and who it is.
//!
//! Decides:  the arguments of `mode`, `disabled`, `id` and the like.
//! Source:   HAProxy's manual, chapter 4.2; src/cfgparse-listen.c, cfg_parse_listen(), 3.5-dev5.
//! Not here: what a `mode http` proxy means for the rest of its keywords (build/).

use crate::arguments::Args;
use crate::build::draft::{Mode, ProxyDraft};
use crate::keyword::{Entry, entries};
use crate::source::At;

pub(crate) const NUMBER: &str = "checked, that no other has it; nothing shows it yet";
const UNPUBLISHED: &str = "a backend cannot be hidden yet";

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "mode" "tcp" DFLB supported(mode) "what the proxy carries; only `tcp` is served" default("tcp") note("`http`, `log` and `spop` are refused, once a proxy");
    "disabled" "" DFLB supported(disabled) "the proxy is read but not started";
    "enabled" "" DFLB supported(enabled) "takes `disabled` back" default("enabled");
    "description" "<text>" FLB inert("the statistics page") "a text for people";
    "id" "<number>" FLB supported(id) "the proxy's number" default("the next that is free") note(NUMBER);
    "guid" "<text>" FLB inert("`stats-file`") "a name that outlives a reload";
    "be-unpublished" "" LB refused(UNPUBLISHED) "no rule chooses this backend";
    "force-be-switch" "<condition>" FL inert("`be-unpublished`") "choose it nevertheless";
};

const MODES: [(&str, Mode); 4] = [
    ("tcp", Mode::Tcp),
    ("http", Mode::Http),
    ("log", Mode::Log),
    ("spop", Mode::Spop),
];

fn mode(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    if args.peek_is("health") {
        let place = args.peek_place();
        proxy.mode = Some(At::new(Mode::Tcp, place));
        return args.bad_at(place, "`mode health` left HAProxy in 2.2", "use `mode tcp`");
    }
    let place = args.peek_place();
    let mode = args.choice("a mode", &MODES);
    // A wrong word does not leave the mode of `defaults`: one finding is enough.
    proxy.mode = Some(mode.unwrap_or(At::new(Mode::Tcp, place)));
    mode?;
    args.end()
}

fn disabled(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    proxy.disabled = Some(At::new(true, args.place()));
    args.end()
}

fn enabled(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    proxy.disabled = Some(At::new(false, args.place()));
    args.end()
}

fn id(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    let number = args.integer(1..=i64::from(i32::MAX))?;
    proxy.id = Some(At::new(number.value as u32, number.place));
    args.end()
}
