//! Text of a host as a terminal may be given it.
//!
//! Decides:  that no character of a name that somebody else chose moves a cursor, colours a line or begins one.
//! Kernel:   fs/proc/array.c, proc_task_name(): of what is in `comm` only line ends are escaped
//! Not here: names of Unix sockets, by which they are found: who prints one calls [`plain`].

use crate::snapshot::{Known, Process, Snapshot};

/// The text with `?` for each control character.
#[must_use]
pub fn plain(text: &str) -> String {
    let one = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(one).collect()
}

fn clean(text: &mut String) {
    if text.contains(char::is_control) {
        *text = plain(text);
    }
}

/// Every text of a snapshot that an answer may show.
pub(crate) fn make_plain(snapshot: &mut Snapshot) {
    let sources = &mut snapshot.sources;
    for known in [
        &mut sources.bpf,
        &mut sources.descriptors,
        &mut sources.bound,
        &mut sources.processes,
    ] {
        if let Known::Partly(why) | Known::No(why) = known {
            clean(why);
        }
    }
    sources.notes.iter_mut().for_each(clean);
    for namespace in &mut snapshot.namespaces {
        namespace.names.iter_mut().for_each(clean);
        let devices = namespace.interfaces.iter_mut();
        devices.for_each(|device| clean(&mut device.name));
        let sockets = namespace.sockets.iter_mut();
        let congestion = sockets.filter_map(|socket| socket.congestion.as_mut());
        congestion.for_each(clean);
    }
    snapshot.processes.iter_mut().for_each(of_process);
    let users = snapshot.users.iter_mut();
    users.for_each(|user| clean(&mut user.name));
    let refusers = &mut snapshot.refusers;
    refusers.modules.iter_mut().for_each(clean);
    for program in &mut refusers.cgroup_programs {
        clean(&mut program.cgroup);
        clean(&mut program.hook);
    }
}

fn of_process(process: &mut Process) {
    clean(&mut process.name);
    process.command.iter_mut().for_each(clean);
    let texts = [
        &mut process.user,
        &mut process.cgroup,
        &mut process.unit,
        &mut process.container,
        &mut process.label,
    ];
    texts.into_iter().flatten().for_each(clean);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::unknown;

    #[test]
    fn a_file_s_text_holds_no_control_character_when_it_is_read() {
        let bad = "x\u{1b}[2Jy\nz";
        let mut process = unknown(7);
        process.name = bad.into();
        process.command = vec![bad.into()];
        process.unit = Some(bad.into());
        process.container = Some(bad.into());
        process.user = Some(bad.into());
        let mut snapshot = Snapshot::new();
        snapshot.processes.push(process);
        snapshot.sources.notes.push(bad.into());
        snapshot.sources.bpf = Known::No(bad.into());
        let text = snapshot.render().unwrap();
        assert!(text.contains("\\u001b") && text.contains("\\n"), "{text}");
        let read = Snapshot::parse(text.as_bytes()).unwrap();
        assert_eq!(read.processes[0].name, "x?[2Jy?z");
        let text = read.render().unwrap();
        assert!(!text.contains("\\u001b") && !text.contains("\\n"), "{text}");
    }
}
