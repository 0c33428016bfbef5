//! What the process's exit code says.
//!
//! Decides:  the codes, once: `--help` and docs/exit-codes.md are made from this list.
//! Source:   sysexits is not followed; HAProxy's 0 and 1 keep their meaning.
//! Not here: which error is of which kind (the control crate's errors say it).

/// One exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// The number.
    pub code: u8,
    /// What it means, in one line.
    pub meaning: &'static str,
}

/// Done, or stopped because it was asked to.
pub const OK: Exit = Exit {
    code: 0,
    meaning: "done; for `run`: stopped by TERM, INT or USR1; for `check`: the configuration is valid; for `reload` and `upgrade`: the new one serves",
};
/// The configuration is refused.
pub const CONFIGURATION: Exit = Exit {
    code: 1,
    meaning: "the configuration is refused; nothing was opened; for `reload` and `upgrade`: nothing was changed; for `sim`: an expectation does not hold, model and kernel differ, or a scenario is not understood",
};
/// The command line is wrong.
pub const USAGE: Exit = Exit {
    code: 2,
    meaning: "the command line is wrong, or what it asks for cannot be written",
};
/// A listener cannot be opened.
pub const LISTENER: Exit = Exit {
    code: 3,
    meaning: "a listening socket cannot be opened; none is left open; for `check`: this host would refuse one",
};
/// Limits or privileges cannot be had, or not be dropped.
pub const PRIVILEGES: Exit = Exit {
    code: 4,
    meaning: "a limit cannot be raised, a privilege not be dropped, or a file of the process not be written; for `check`: this host has too few descriptors, or not the directory of `chroot`",
};
/// A fault of ours, or of the host.
pub const INTERNAL: Exit = Exit {
    code: 5,
    meaning: "the program or the host failed while running; for `reload` and `upgrade`: nobody answers; for `run -x`: nothing is handed over",
};

/// A supervisor's workers crash, one after the other.
pub const CRASHES: Exit = Exit {
    code: 6,
    meaning: "workers of `run --supervise` crashed again and again, and no other one is started",
};

/// `why -- COMMAND`: the program was not started, because it cannot be watched.
pub const NOT_WATCHED: Exit = Exit {
    code: 125,
    meaning: "the program cannot be watched, or its report not be written",
};
/// `why -- COMMAND`: as env(1) and nohup(1) have it.
pub const NOT_EXECUTABLE: Exit = Exit {
    code: 126,
    meaning: "the program was found, and cannot be executed",
};
/// `why -- COMMAND`: as env(1) and nohup(1) have it.
pub const NOT_FOUND: Exit = Exit {
    code: 127,
    meaning: "there is no such program",
};
/// `why ADDR`: it would work.
pub const WHY_WORKS: Exit = Exit {
    code: 0,
    meaning: "it would work now; for `--no-traffic`: connections are served; for `--save` alone: written",
};
/// `why ADDR`: it would not.
pub const WHY_REFUSED: Exit = Exit {
    code: 1,
    meaning: "it would be refused; for `--no-traffic`: some connections, or all, are not served",
};
/// `why ADDR`: the command line is wrong.
pub const WHY_USAGE: Exit = Exit {
    code: 2,
    meaning: "the command line is wrong, or a file that it names cannot be used",
};
/// `why ADDR`: nobody can say.
pub const WHY_UNKNOWN: Exit = Exit {
    code: 3,
    meaning: "it depends on what cannot be seen, or the host cannot be read",
};
/// What `why ADDR` ends with.
pub const ASKED: [Exit; 4] = [WHY_WORKS, WHY_REFUSED, WHY_USAGE, WHY_UNKNOWN];

/// What `why -- COMMAND` adds to the program's own code.
pub const WATCHED: [Exit; 3] = [NOT_WATCHED, NOT_EXECUTABLE, NOT_FOUND];

/// The end of a program that `why` ran: its own code, or 128 and the signal's number.
pub fn of_program(code: u8) -> Exit {
    Exit {
        code,
        meaning: "the end of the program that was watched",
    }
}

/// All of them, in order.
pub const ALL: [Exit; 7] = [
    OK,
    CONFIGURATION,
    USAGE,
    LISTENER,
    PRIVILEGES,
    INTERNAL,
    CRASHES,
];

/// The code of another process of ours, which has told what it means.
pub fn of_child(code: u8) -> Exit {
    ALL.into_iter()
        .find(|exit| exit.code == code)
        .unwrap_or(Exit {
            code,
            meaning: "a process of ours was ended by a signal: 128 and its number",
        })
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit.code)
    }
}

/// The list as `--help` shows it.
pub fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for exit in ALL {
        text += &format!("  {}  {}\n", exit.code, exit.meaning);
    }
    text += "`why ADDR` ends with:\n";
    for exit in ASKED {
        text += &format!("  {}  {}\n", exit.code, exit.meaning);
    }
    text +=
        "`why -- COMMAND` ends as the program does (128 and the number for a signal), or with:\n";
    for exit in WATCHED {
        text += &format!("  {}  {}\n", exit.code, exit.meaning);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_their_page_says_the_same() {
        let page = include_str!("../../../docs/exit-codes.md");
        for (number, exit) in ALL.iter().enumerate() {
            assert_eq!(usize::from(exit.code), number);
            let row = format!("| {} | {} |", exit.code, exit.meaning);
            assert!(page.contains(&row), "docs/exit-codes.md lacks: {row}");
        }
        for exit in ASKED.into_iter().chain(WATCHED) {
            let row = format!("| {} | {} |", exit.code, exit.meaning);
            assert!(page.contains(&row), "docs/exit-codes.md lacks: {row}");
        }
    }
}
