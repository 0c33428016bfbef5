//! The commands: words, level, what they answer, and the help that is made from them.
//!
//! Decides:  which commands there are, who may use them, and every word that is answered without
//!           asking the process. Answers are HAProxy's to the letter where it has the command.
//! Source:   HAProxy's management guide, chapter 9.3; src/cli.c, src/proxy.c, 2.6; `reload` is of
//!           its master socket (chapter 9.4).
//! Not here: where a command ends (dialect.rs), what only the process knows (run/), `show info`'s
//!           fields (info.rs).

use std::fmt::Write as _;
use std::time::Duration;

use portcullis_config::model::{SeverityOutput, StatsLevel, StatsOptions};
use portcullis_config::units::{self, TimeUnit};

use super::dialect::Command;
use super::info::Form;

/// What a client has said of itself so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What it may do.
    pub level: StatsLevel,
    /// How severities are shown.
    pub severity: SeverityOutput,
    /// May it take the listeners?
    pub exposes_listeners: bool,
    /// Does it want to be asked for the next command?
    pub interactive: bool,
    /// How long it may be silent.
    pub timeout: Duration,
}

impl Session {
    /// A client that has just come.
    pub fn new(options: StatsOptions, timeout: Duration) -> Session {
        Session {
            level: options.level,
            severity: options.severity,
            exposes_listeners: options.exposes_listeners,
            interactive: false,
            timeout,
        }
    }
}

/// How serious a message is: syslog's numbers and HAProxy's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// 3
    Error,
    /// 5
    Notice,
    /// 6
    Info,
}

/// What is to be done about a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// This is the answer; empty: it is done, in silence.
    Text(String),
    /// A message, which has a severity.
    Message(Severity, String),
    /// Ask the process.
    Ask(Question),
    /// Hand the listeners over, in HAProxy's way, and end.
    GiveSockets,
    /// Hand everything over to another process of ours, and end.
    HandOver,
    /// End, without an answer.
    Close,
}

/// What only the process can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Reload, and tell how it went.
    Reload,
    /// Start a new program in this one's place, and tell how it went.
    Upgrade,
    /// `show info`
    Info(Form),
    /// `show cli sockets`
    Sockets,
    /// `disable frontend`
    Disable(String),
    /// `enable frontend`
    Enable(String),
}

/// One command.
struct Entry {
    /// The words that it begins with.
    words: &'static [&'static str],
    /// Its words with its arguments, as help shows them; empty: help does not show it.
    usage: &'static str,
    doc: &'static str,
    level: StatsLevel,
    run: fn(&mut Session, &[String]) -> Reply,
}

const COMMANDS: &[Entry] = &[
    Entry {
        words: &["disable", "frontend"],
        usage: "disable frontend <frontend>",
        doc: "temporarily disable specific frontend",
        level: StatsLevel::Admin,
        run: |_, rest| frontend(rest, Question::Disable),
    },
    Entry {
        words: &["enable", "frontend"],
        usage: "enable frontend <frontend>",
        doc: "re-enable specific frontend",
        level: StatsLevel::Admin,
        run: |_, rest| frontend(rest, Question::Enable),
    },
    Entry {
        words: &["operator"],
        usage: "operator",
        doc: "lower the level of the current CLI session to operator",
        level: StatsLevel::Operator,
        run: |session, _| lower(session, StatsLevel::Operator),
    },
    Entry {
        words: &["reload"],
        usage: "reload",
        doc: "read the configuration again, and tell how that went",
        level: StatsLevel::Admin,
        run: |_, _| Reply::Ask(Question::Reload),
    },
    Entry {
        words: &["set", "severity-output"],
        usage: "set severity-output [none|number|string]",
        doc: "set presence of severity level in feedback information",
        level: StatsLevel::User,
        run: set_severity,
    },
    Entry {
        words: &["set", "timeout"],
        usage: "set timeout [cli] <delay>",
        doc: "change a timeout setting",
        level: StatsLevel::User,
        run: set_timeout,
    },
    Entry {
        words: &["show", "cli", "level"],
        usage: "show cli level",
        doc: "display the level of the current CLI session",
        level: StatsLevel::User,
        run: |session, _| Reply::Message(Severity::Info, format!("{}\n", session.level.word())),
    },
    Entry {
        words: &["show", "cli", "sockets"],
        usage: "show cli sockets",
        doc: "dump list of cli sockets",
        level: StatsLevel::User,
        run: |_, _| Reply::Ask(Question::Sockets),
    },
    Entry {
        words: &["show", "info"],
        usage: "show info [desc|json|typed|float]*",
        doc: "report information about the running process",
        level: StatsLevel::User,
        run: |_, rest| Reply::Ask(Question::Info(Form::of(rest))),
    },
    Entry {
        words: &["show", "version"],
        usage: "show version",
        doc: "show version of the current process",
        level: StatsLevel::User,
        run: |_, _| Reply::Message(Severity::Info, format!("{}\n", env!("CARGO_PKG_VERSION"))),
    },
    Entry {
        words: &["upgrade"],
        usage: "upgrade",
        doc: "start the program again, which takes the listeners over, and tell how that went",
        level: StatsLevel::Admin,
        run: |_, _| Reply::Ask(Question::Upgrade),
    },
    Entry {
        words: &["user"],
        usage: "user",
        doc: "lower the level of the current CLI session to user",
        level: StatsLevel::User,
        run: |session, _| lower(session, StatsLevel::User),
    },
    Entry {
        words: &["_hand-over"],
        usage: "",
        doc: "hand listeners and name over to another process of this program",
        level: StatsLevel::Admin,
        run: |_, _| Reply::HandOver,
    },
    Entry {
        words: &["_getsocks"],
        usage: "",
        doc: "hand the listeners over to another process",
        level: StatsLevel::User,
        run: |session, _| match session.exposes_listeners {
            true => Reply::GiveSockets,
            // HAProxy says nothing either: who asks is a program.
            false => Reply::Close,
        },
    },
    Entry {
        words: &["help"],
        usage: "help [<command>]",
        doc: "list matching or all commands",
        level: StatsLevel::User,
        run: |_, rest| Reply::Message(Severity::Info, help(rest)),
    },
    Entry {
        words: &["prompt"],
        usage: "prompt",
        doc: "toggle interactive mode with prompt",
        level: StatsLevel::User,
        run: |session, _| {
            session.interactive = !session.interactive;
            Reply::Text(String::new())
        },
    },
    Entry {
        words: &["quit"],
        usage: "quit",
        doc: "disconnect",
        level: StatsLevel::User,
        run: |_, _| Reply::Close,
    },
];

/// What help ends with, whatever was asked.
const ALWAYS: [&str; 3] = ["help", "prompt", "quit"];

/// What a command comes to. A line that begins with `#` is a comment.
pub fn reply(session: &mut Session, command: &Command) -> Reply {
    let words = &command.words;
    if words.first().is_some_and(|word| word.starts_with('#')) {
        return Reply::Text(String::new());
    }
    let found = COMMANDS.iter().find(|entry| {
        let given = words.iter().map(String::as_str);
        entry.words.len() <= words.len() && given.zip(entry.words).all(|(a, b)| a == *b)
    });
    match found {
        Some(entry) if session.level < entry.level => {
            Reply::Message(Severity::Error, "Permission denied\n".to_owned())
        }
        Some(entry) => (entry.run)(session, &words[entry.words.len()..]),
        None => Reply::Message(Severity::Info, unknown(words)),
    }
}

/// A message as the client wants to see it.
pub fn with_severity(session: &Session, severity: Severity, text: &str) -> String {
    let (number, word) = match severity {
        Severity::Error => (3, "err"),
        Severity::Notice => (5, "notice"),
        Severity::Info => (6, "info"),
    };
    match session.severity {
        SeverityOutput::None => text.to_owned(),
        SeverityOutput::Number => format!("[{number}]: {text}"),
        SeverityOutput::String => format!("[{word}]: {text}"),
    }
}

fn frontend(rest: &[String], question: fn(String) -> Question) -> Reply {
    match rest.first() {
        Some(name) => Reply::Ask(question(name.clone())),
        None => Reply::Message(Severity::Error, "A frontend name is expected.\n".to_owned()),
    }
}

fn lower(session: &mut Session, to: StatsLevel) -> Reply {
    session.level = to;
    Reply::Text(String::new())
}

fn set_severity(session: &mut Session, rest: &[String]) -> Reply {
    session.severity = match rest.first().map(String::as_str) {
        Some("none") => SeverityOutput::None,
        Some("number") => SeverityOutput::Number,
        Some("string") => SeverityOutput::String,
        _ => {
            let text = "one of 'none', 'number', 'string' is a required argument\n";
            return Reply::Message(Severity::Error, text.to_owned());
        }
    };
    Reply::Text(String::new())
}

/// Seconds where no unit is given.
fn set_timeout(session: &mut Session, rest: &[String]) -> Reply {
    let error = |text: &str| Reply::Message(Severity::Error, text.to_owned());
    if rest.first().map(String::as_str) != Some("cli") {
        return error("'set timeout' only supports 'cli'.\n");
    }
    let Some(text) = rest.get(1) else {
        return error("Expects an integer value.\n");
    };
    match units::time(text, TimeUnit::Seconds) {
        Ok(time) if time.ignored.is_none() && !time.duration.is_zero() => {
            session.timeout = time.duration;
            Reply::Text(String::new())
        }
        _ => error("Invalid timeout value.\n"),
    }
}

fn help(rest: &[String]) -> String {
    list("The following commands are valid at this level:\n", rest)
}

fn unknown(words: &[String]) -> String {
    match words.is_empty() {
        true => list(
            "Unknown command. Please enter one of the following commands only:\n",
            words,
        ),
        false => list(
            "Unknown command, but maybe one of the following ones is a better match:\n",
            words,
        ),
    }
}

/// The commands that begin as `words` do, as far as any does.
fn list(title: &str, words: &[String]) -> String {
    let alike = |entry: &Entry| {
        let pairs = entry.words.iter().zip(words);
        pairs.take_while(|(known, given)| *known == *given).count()
    };
    let most = COMMANDS.iter().map(alike).max().unwrap_or(0);
    let mut shown: Vec<&Entry> = COMMANDS
        .iter()
        .filter(|entry| !entry.usage.is_empty() && !ALWAYS.contains(&entry.words[0]))
        .filter(|entry| alike(entry) == most)
        .collect();
    shown.sort_by_key(|entry| entry.usage);
    let always = COMMANDS.iter();
    shown.extend(always.filter(|entry| ALWAYS.contains(&entry.words[0])));
    let mut text = title.to_owned();
    for entry in shown {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {:<40}: {}", entry.usage, entry.doc);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(level: StatsLevel) -> Session {
        let options = StatsOptions {
            level,
            ..StatsOptions::default()
        };
        Session::new(options, Duration::from_secs(10))
    }

    fn say(session: &mut Session, line: &str) -> Reply {
        let words = line.split_whitespace().map(str::to_owned).collect();
        let payload = None;
        reply(session, &Command { words, payload })
    }

    fn text(reply: Reply) -> String {
        match reply {
            Reply::Text(text) | Reply::Message(_, text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_command_is_refused_below_its_level_and_not_at_it() {
        let levels = [StatsLevel::User, StatsLevel::Operator, StatsLevel::Admin];
        let denied = Reply::Message(Severity::Error, "Permission denied\n".to_owned());
        for entry in COMMANDS {
            for level in levels {
                let answer = say(&mut session(level), &entry.words.join(" "));
                let label = format!("{:?} as {level:?}", entry.words);
                assert_eq!(answer == denied, level < entry.level, "{label}");
            }
        }
    }

    #[test]
    fn a_session_can_lower_its_level_and_not_raise_it() {
        let mut it = session(StatsLevel::Admin);
        for (command, level, answer) in [
            ("show cli level", StatsLevel::Admin, "admin\n"),
            ("operator", StatsLevel::Operator, ""),
            ("reload", StatsLevel::Operator, "Permission denied\n"),
            ("user", StatsLevel::User, ""),
            ("operator", StatsLevel::User, "Permission denied\n"),
            ("show cli level", StatsLevel::User, "user\n"),
        ] {
            assert_eq!(text(say(&mut it, command)), answer, "{command}");
            assert_eq!(it.level, level, "{command}");
        }
    }

    #[test]
    fn answers_are_haproxys_words() {
        let it = || session(StatsLevel::Admin);
        for (command, expected) in [
            ("disable frontend", "A frontend name is expected.\n"),
            ("set timeout cli x", "Invalid timeout value.\n"),
            ("set timeout cli", "Expects an integer value.\n"),
            ("set timeout cli 0", "Invalid timeout value.\n"),
            ("# a comment", ""),
            ("#x", ""),
            (
                "set severity-output loud",
                "one of 'none', 'number', 'string' is a required argument\n",
            ),
        ] {
            assert_eq!(text(say(&mut it(), command)), expected, "{command}");
        }
        let ask = |question| Reply::Ask(question);
        assert_eq!(say(&mut it(), "reload"), ask(Question::Reload));
        let disable = ask(Question::Disable("f".to_owned()));
        assert_eq!(say(&mut it(), "disable frontend f extra"), disable);
        assert_eq!(say(&mut it(), "quit"), Reply::Close);
        let mut changed = it();
        assert_eq!(text(say(&mut changed, "set timeout cli 5")), "");
        assert_eq!(changed.timeout, Duration::from_secs(5));
        assert_eq!(text(say(&mut changed, "set timeout cli 2m")), "");
        assert_eq!(changed.timeout, Duration::from_secs(120));
        say(&mut changed, "prompt");
        assert!(changed.interactive);
    }

    #[test]
    fn the_listeners_are_given_only_where_they_are_exposed() {
        let mut it = session(StatsLevel::Admin);
        assert_eq!(say(&mut it, "_getsocks"), Reply::Close);
        it.exposes_listeners = true;
        assert_eq!(say(&mut it, "_getsocks"), Reply::GiveSockets);
    }

    #[test]
    fn unknown_words_are_answered_with_what_begins_alike() {
        let mut it = session(StatsLevel::User);
        let answer = text(say(&mut it, "show bogus"));
        let title = "Unknown command, but maybe one of the following ones is a better match:\n";
        assert!(answer.starts_with(title), "{answer}");
        assert!(answer.contains(
            "  show version                            : show version of the current process\n"
        ));
        assert!(!answer.contains("disable"), "{answer}");
        assert!(answer.ends_with("  quit                                    : disconnect\n"));
        let answer = text(say(&mut it, ""));
        assert!(answer.starts_with("Unknown command. Please enter one of"));
        let shown = COMMANDS.iter().filter(|entry| !entry.usage.is_empty());
        assert_eq!(answer.lines().count(), 1 + shown.count());
        let answer = text(say(&mut it, "help disable"));
        assert!(answer.starts_with("The following commands are valid at this level:\n"));
        assert_eq!(answer.lines().count(), 2 + ALWAYS.len(), "{answer}");
        assert!(!answer.contains("_getsocks"));
    }

    #[test]
    fn the_document_has_the_answer_to_help() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/runtime-sockets.md");
        let document = std::fs::read_to_string(path).unwrap();
        let answer = text(say(&mut session(StatsLevel::User), "help"));
        assert!(
            document.contains(&format!("```text\n{answer}```\n")),
            "{answer}"
        );
    }

    #[test]
    fn severities_are_shown_as_the_client_wants_them() {
        let mut it = session(StatsLevel::User);
        let shown = |it: &Session| with_severity(it, Severity::Error, "No.\n");
        assert_eq!(shown(&it), "No.\n");
        say(&mut it, "set severity-output number");
        assert_eq!(shown(&it), "[3]: No.\n");
        say(&mut it, "set severity-output string");
        assert_eq!(shown(&it), "[err]: No.\n");
    }
}
