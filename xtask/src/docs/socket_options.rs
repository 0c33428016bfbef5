//! docs/reference/socket-options.md, from the entries of the `sockopt` crate.
//!
//! Decides:  how an entry reads: facts in one line, then its consequences.
//! Source:   `portcullis_sockopt::all()`.

use std::fmt::Write as _;

use portcullis_sockopt::{Inherited, Level, Phase, Privilege, SockOpt, Value, all};

const HEAD: &str = "\
# Socket options

Made from the entries of `crates/sockopt/src/` by `cargo xtask docs`: change them there.

For each option: what it holds, when it may be set, who may, whether a connection that a listener
accepts begins with the listener's value, and what follows from setting it.

| option | level | number | set by, in haproxy.cfg |
|---|---|---|---|
";

/// The whole document.
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for option in all() {
        let (name, level) = (option.name, option.level.name());
        let link = name.to_lowercase();
        let keywords = keywords(option);
        let _ = writeln!(
            text,
            "| [`{name}`](#{link}) | {level} | {} | {keywords} |",
            option.number
        );
    }
    for level in [Level::Socket, Level::Ip, Level::Ipv6, Level::Tcp] {
        let _ = write!(text, "\n## {}\n", level.name());
        for option in all().iter().filter(|option| option.level == level) {
            entry(&mut text, option);
        }
    }
    text
}

fn entry(text: &mut String, option: &SockOpt) {
    let mut facts = vec![value(option.value), phase(option.phase)];
    if option.phase != Phase::ReadOnly {
        facts.push(who(option.privilege).to_owned());
    }
    let _ = write!(
        text,
        "\n### {}\n\n{}; {}.\n\n{}\n\nKernel: {}.\n",
        option.name,
        facts.join("; "),
        inherited(option.inherited),
        option.doc,
        code(option.kernel),
    );
}

fn keywords(option: &SockOpt) -> String {
    let keywords: Vec<_> = option
        .keywords
        .iter()
        .map(|word| format!("`{word}`"))
        .collect();
    keywords.join(", ")
}

/// A place in the kernel, with names that Markdown must not read as emphasis.
fn code(kernel: &str) -> String {
    kernel.replace('_', "\\_").replace('*', "\\*")
}

fn value(value: Value) -> String {
    match value {
        Value::Switch => "0 or 1".into(),
        Value::Int => "A number (`int`)".into(),
        Value::Text => "Text".into(),
        Value::Struct(name) => format!("`{name}`"),
    }
}

fn phase(phase: Phase) -> String {
    let when = match phase {
        Phase::BeforeBind => "set before `bind`",
        Phase::Listening => "has effect on a listener, and may be changed while it listens",
        Phase::Unconnected => "set while not connected",
        Phase::Any => "set at any time",
        Phase::ReadOnly => "can only be read",
    };
    when.into()
}

fn who(privilege: Privilege) -> &'static str {
    match privilege {
        Privilege::None => "by anyone",
        Privilege::NetRaw => "with `CAP_NET_RAW`",
        Privilege::NetRawToChange => "by anyone, and with `CAP_NET_RAW` to change it",
        Privilege::NetAdminOrRaw => "with `CAP_NET_ADMIN` or `CAP_NET_RAW`",
        Privilege::NetAdminForMore => {
            "by anyone, and with `CAP_NET_ADMIN` beyond what everyone may have"
        }
    }
}

fn inherited(inherited: Inherited) -> &'static str {
    match inherited {
        Inherited::Yes => "accepted connections begin with it",
        Inherited::No => "it does not reach accepted connections",
        Inherited::ForThePeer => "an accepted connection keeps it for its own peer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_an_entry_that_its_row_leads_to() {
        let text = markdown();
        for option in all() {
            assert!(
                text.contains(&format!("\n### {}\n", option.name)),
                "{}",
                option.name
            );
            let link = format!("(#{})", option.name.to_lowercase());
            assert!(text.contains(&link), "{}", option.name);
        }
    }
}
