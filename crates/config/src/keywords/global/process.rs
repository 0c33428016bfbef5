//! The process: who it is, where it lives, how it ends.
//!
//! Decides:  the arguments of these keywords; a second `user`, `maxconn` and the like is a warning
//!           and the first one holds, as in HAProxy.
//! Source:   HAProxy's manual, chapter 3.1; src/cfgparse-global.c, cfg_parse_global(), 3.5-dev5.
//! Not here: whether the user exists, dropping privileges (the control plane).

use std::path::PathBuf;

use crate::arguments::Args;
use crate::build::draft::GlobalDraft;
use crate::keyword::{Entry, Prefixes, entries};
use crate::model::{Capability, Chroot, Id};
use crate::source::At;

const STATISTICS: &str = "the statistics page";
const ENVIRONMENT: &str = "it works while the file is read, in the order of its lines";

/// The family's entries.
pub const ENTRIES: &[Entry<GlobalDraft>] = entries! {
    "daemon" "" G supported(daemon) "go to the background" default("foreground");
    "pidfile" "<file>" G supported(pidfile) "write the process's number into this file";
    "user" "<name>" G supported(user) "the user to become, by name" default("no change");
    "uid" "<number>" G supported(uid) "the user to become, by number" default("no change");
    "group" "<name>" G supported(group) "the group to become, by name" default("no change");
    "gid" "<number>" G supported(gid) "the group to become, by number" default("no change");
    "chroot" "<directory>|auto" G supported(chroot) "the directory to be shut in; `auto` is an empty one" default("none");
    "setcap" "<capability>[,…]" G supported(setcap) "capabilities kept when the user changes" default("none");
    "hard-stop-after" "<time>" G supported(hard_stop_after) "the longest that a soft stop may take" default("no limit");
    "grace" "<time>" G supported(grace) "how long a soft stop goes on accepting" default("0");
    "quiet" "" G supported(quiet) "no messages at start";
    "zero-warning" "" G supported(zero_warning) "a warning refuses the configuration";
    "node" "<name>" G inert(STATISTICS) "this node's name";
    "description" "<text>" G inert(STATISTICS) "a text for people";
    "setenv" "<name> <value>" G supported(environment) "set a variable" note(ENVIRONMENT);
    "presetenv" "<name> <value>" G supported(environment) "set a variable unless it is there" note(ENVIRONMENT);
    "unsetenv" "<name>…" G supported(environment) "take variables away" note(ENVIRONMENT);
    "resetenv" "[<name>…]" G supported(environment) "take all variables away but these" note(ENVIRONMENT);
    "master-worker" "[no-exit-on-failure]" G warned("there is neither a reload nor supervision yet") "a master process that reloads";
    "mworker-max-reloads" "<number>" G inert("`master-worker`") "reloads that a worker may outlive";
    "set-dumpable" "[on|off|libs]" G warned("core dumps are left to the system") "allow core dumps" prefixes(Prefixes::NoAndDefault);
    "insecure-fork-wanted" "" G inert("`external-check`") "let workers start programs" prefixes(Prefixes::NoAndDefault);
    "insecure-setuid-wanted" "" G inert("`external-check`") "let programs change users" prefixes(Prefixes::NoAndDefault);
    "localpeer" "<name>" G inert("`peers`") "this node's name among peers";
    "expose-experimental-directives" "" G inert("an experimental keyword") "allow experimental keywords";
    "expose-deprecated-directives" "" G inert("a deprecated keyword") "allow deprecated keywords";
    "force-cfg-parser-pause" "<time>" G warned("it slows the start down, for tests of HAProxy") "pause while the file is read";
    "default-path" "current|config|parent|origin <directory>" G inert("a keyword that names a file to be read") "where relative paths begin";
};

fn daemon(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.daemon = true;
    args.end()
}

fn pidfile(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let file = args.word("a file")?;
    args.end()?;
    args.first_only(&mut global.seen, "pidfile")?;
    global.config.pidfile = Some(At::new(PathBuf::from(&file.text), file.place));
    Some(())
}

fn user(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let id = id_by_name(args, "a user's name")?;
    args.end()?;
    args.first_only(&mut global.seen, "user")?;
    global.config.user = Some(id);
    Some(())
}

fn uid(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let id = id_by_number(args)?;
    args.end()?;
    args.first_only(&mut global.seen, "user")?;
    global.config.user = Some(id);
    Some(())
}

fn group(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let id = id_by_name(args, "a group's name")?;
    args.end()?;
    args.first_only(&mut global.seen, "group")?;
    global.config.group = Some(id);
    Some(())
}

fn gid(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let id = id_by_number(args)?;
    args.end()?;
    args.first_only(&mut global.seen, "group")?;
    global.config.group = Some(id);
    Some(())
}

/// A user or group by name, as `user` and `group` have it everywhere.
pub(crate) fn id_by_name(args: &mut Args<'_>, what: &str) -> Option<At<Id>> {
    let name = args.word(what)?;
    Some(At::new(Id::Name(name.text.clone()), name.place))
}

/// A user or group by number, as `uid` and `gid` have it everywhere.
pub(crate) fn id_by_number(args: &mut Args<'_>) -> Option<At<Id>> {
    let number = args.integer(0..=i64::from(i32::MAX))?;
    Some(At::new(Id::Number(number.value as u32), number.place))
}

fn chroot(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let directory = args.word("a directory, or `auto`")?;
    args.end()?;
    args.first_only(&mut global.seen, "chroot")?;
    let to = match directory.text.as_str() {
        "auto" => Chroot::Auto,
        path => Chroot::Directory(PathBuf::from(path)),
    };
    global.config.chroot = Some(At::new(to, directory.place));
    Some(())
}

const CAPABILITIES: [(&str, Capability); 4] = [
    ("cap_net_admin", Capability::NetAdmin),
    ("cap_net_bind_service", Capability::NetBindService),
    ("cap_net_raw", Capability::NetRaw),
    ("cap_sys_admin", Capability::SysAdmin),
];

fn setcap(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    let list = args.word("capabilities, separated by commas")?;
    args.end()?;
    args.first_only(&mut global.seen, "setcap")?;
    for (part, place) in args.comma_parts(list) {
        let capability = args.one_of(part, place, "a capability", &CAPABILITIES)?;
        global.config.setcap.push(At::new(capability, place));
    }
    Some(())
}

fn hard_stop_after(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.hard_stop_after = Some(args.time()?.value);
    args.end()
}

fn grace(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.grace = Some(args.time()?.value);
    args.end()
}

fn quiet(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.quiet = true;
    args.end()
}

fn zero_warning(global: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    global.config.zero_warning = true;
    args.end()
}

/// `setenv` and its like did their work while the file was read.
fn environment(_: &mut GlobalDraft, args: &mut Args<'_>) -> Option<()> {
    args.rest();
    Some(())
}
