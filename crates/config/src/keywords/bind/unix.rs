//! Who owns a Unix path socket, and who may connect.
//!
//! Decides:  the arguments of these parameters.
//! Source:   HAProxy's manual, chapter 5.1; src/cfgparse-unix.c, 3.5-dev5.
//! Not here: `unix-bind` (global/network.rs), looking users up (the control plane).

use crate::arguments::Args;
use crate::build::draft::BindDraft;
use crate::keyword::{Entry, entries};
use crate::keywords::global::process::{id_by_name, id_by_number};

/// The family's entries.
pub const ENTRIES: &[Entry<BindDraft>] = entries! {
    "mode" "<octal>" BIND supported(mode) "the permissions of a Unix path socket" default("`unix-bind`, then the umask's");
    "user" "<name>" BIND supported(user) "its owner, by name" default("`unix-bind`, then the process's");
    "uid" "<number>" BIND supported(uid) "its owner, by number" default("`unix-bind`, then the process's");
    "group" "<name>" BIND supported(group) "its group, by name" default("`unix-bind`, then the process's");
    "gid" "<number>" BIND supported(gid) "its group, by number" default("`unix-bind`, then the process's");
};

fn mode(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    bind.options.mode = Some(unix_mode(args)?);
    Some(())
}

/// Permissions in octal, as `mode` has them here and in `unix-bind`.
pub(crate) fn unix_mode(args: &mut Args<'_>) -> Option<u32> {
    let word = args.word("permissions in octal, like 660")?;
    let digits = !word.text.is_empty() && word.text.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u32::from_str_radix(&word.text, 8) {
        Ok(mode) if digits && mode <= 0o7777 => Some(mode),
        _ => {
            let message = format!("`{}` are no permissions", word.text);
            args.bad_at(word.place, &message, "expected octal digits, like 660")
        }
    }
}

fn user(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    bind.options.user = Some(id_by_name(args, "a user's name")?);
    Some(())
}

fn uid(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    bind.options.user = Some(id_by_number(args)?);
    Some(())
}

fn group(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    bind.options.group = Some(id_by_name(args, "a group's name")?);
    Some(())
}

fn gid(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    bind.options.group = Some(id_by_number(args)?);
    Some(())
}
