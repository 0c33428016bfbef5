//! `ring` sections, and the rings that `log` lines name.
//!
//! Decides:  that a ring has one name and every `log ring@NAME` has its ring; `buf0` is always there.
//! Source:   HAProxy's src/sink.c, cfg_parse_ring(), sink_init() and sink_postresolve_logger(),
//!           3.5-dev5.
//! Not here: the keywords (keywords/ring.rs).

use crate::arguments::{Args, Context, invalid_character};
use crate::diagnostic::Diagnostic;
use crate::keyword;
use crate::keywords;
use crate::model::{Config, LogDestination, LogFormat, LogTarget, Ring};
use crate::report::Report;
use crate::suggest::suggest;
use crate::syntax::{Section, SectionKind};

/// The ring that is there without a section.
const BUILT_IN: &str = "buf0";
const BUILT_IN_SIZE: u32 = 1 << 20;
/// HAProxy's BUFSIZE, the size of a ring without `size`.
const DEFAULT_SIZE: u32 = 16_384;

/// Reads the `ring` sections.
pub fn read(sections: &[Section], context: Context<'_>, report: &mut Report) -> Vec<Ring> {
    let mut rings = vec![Ring {
        name: BUILT_IN.to_owned(),
        place: None,
        size: BUILT_IN_SIZE,
        max_length: None,
        format: Some(LogFormat::Timed),
    }];
    for (number, section) in sections.iter().enumerate() {
        if section.kind != SectionKind::Other("ring") {
            continue;
        }
        report.enter(number);
        let mut ring = Ring {
            name: name(section, &rings, report),
            place: Some(section.place()),
            size: DEFAULT_SIZE,
            max_length: None,
            format: None,
        };
        for line in &section.lines {
            let mut args = Args::new(line, section.kind, context, report);
            args.line(&mut ring, keywords::RING, keyword::RING);
        }
        rings.push(ring);
    }
    rings
}

fn name(section: &Section, rings: &[Ring], report: &mut Report) -> String {
    if let Some(word) = section.extra.first() {
        let message = format!("`{}` cannot stand on this line", word.text);
        report.push(Diagnostic::error("extra-argument", word.place, message));
    }
    let Some(name) = &section.name else {
        let finding = Diagnostic::error(
            "missing-argument",
            section.keyword.place,
            "`ring` needs a name",
        );
        report.push(finding.label("expected `ring NAME`"));
        return String::new();
    };
    if let Some((_, character)) = invalid_character(&name.text, ".:_-") {
        let message = format!("the name of a ring cannot hold `{character}`");
        report.push(Diagnostic::error("bad-value", name.place, message));
    }
    if let Some(other) = rings.iter().find(|ring| ring.name == name.text) {
        let message = format!("there is a ring `{}` already", name.text);
        let finding = Diagnostic::error("duplicate-name", name.place, message);
        report.push(match other.place {
            Some(place) => finding.note_at(place, "this one"),
            None => finding.label("it is always there"),
        });
    }
    name.text.clone()
}

/// Reports each `log` line whose ring is not there, once.
pub fn check_targets(config: &Config, report: &mut Report) {
    let frontends = config.frontends.iter().map(|it| &it.log.targets);
    let backends = config.backends.iter().map(|it| &it.log.targets);
    let global = [&config.global.logs];
    let mut said = Vec::new();
    let all = global.into_iter().chain(frontends).chain(backends);
    for target in all.flatten() {
        if !said.contains(&target.place) && !is_there(target, &config.rings) {
            said.push(target.place);
            report.push(unknown(target, &config.rings));
        }
    }
}

fn is_there(target: &LogTarget, rings: &[Ring]) -> bool {
    match &target.to {
        LogDestination::Ring(name) => rings.iter().any(|ring| ring.name == *name),
        _ => true,
    }
}

fn unknown(target: &LogTarget, rings: &[Ring]) -> Diagnostic {
    let name = match &target.to {
        LogDestination::Ring(name) => name.as_str(),
        _ => "",
    };
    let known = rings.iter().map(|ring| ring.name.as_str());
    let message = format!("there is no `ring` section `{name}`");
    Diagnostic::error("unknown-ring", target.place, message).suggest(suggest(name, known))
}
