//! Files to sections: conditionals, messages, variables, and where each section begins.
//!
//! Decides:  which lines count, which section a line belongs to, and what `setenv` and its like
//!           change for the lines after them.
//! Source:   HAProxy's manual, chapters 2.3 to 2.5; src/cfgparse.c, parse_cfg(), 3.5-dev5.
//! Not here: words (lexer.rs), conditions (condition.rs), what a keyword means.

use std::path::{Path, PathBuf};

use crate::condition::{self, World};
use crate::diagnostic::{Diagnostic, Severity};
use crate::environment::Environment;
use crate::features::Features;
use crate::files::{self, Files};
use crate::lexer::{self, Context, Lexed, Pseudo};
use crate::source::Place;
use crate::suggest::suggest;
use crate::syntax::{Document, Line, Section, SectionKind, Word};

/// `.if` in `.if`.
pub const MAX_NESTED_CONDITIONS: usize = 100;
/// After as many errors the rest of a file is not read.
pub const MAX_ERRORS: usize = 500;
/// After as many warnings and notices of a file the rest of them is not told.
pub const MAX_WARNINGS: usize = 500;

/// Reads all files (a directory stands for its `*.cfg`), in order, into sections.
///
/// Every file is read to its end whatever is wrong in it. `environment` is changed by the `setenv`
/// of `global` sections; the values at the end are kept in [`Document::environment`], for words
/// that are expanded when they are understood (addresses).
pub fn load_document(
    paths: &[PathBuf],
    files: &dyn Files,
    environment: &mut Environment,
    features: &Features,
) -> Document {
    let mut document = Document::default();
    let paths = files::expand(paths, files, &mut document.diagnostics);
    environment.announce(features);
    let names: Vec<_> = paths.iter().map(|p| p.to_string_lossy()).collect();
    environment.set("HAPROXY_CFGFILES", names.join(";"));
    for path in &paths {
        match files::read(path, files) {
            Ok(bytes) => read_file(path, bytes, environment, features, &mut document),
            Err(diagnostic) => document.diagnostics.push(diagnostic),
        }
    }
    document.environment = environment.clone();
    document
}

fn read_file(
    path: &Path,
    mut bytes: Vec<u8>,
    environment: &mut Environment,
    features: &Features,
    document: &mut Document,
) {
    let marked = bytes.starts_with(b"\xef\xbb\xbf");
    if marked {
        bytes.drain(..3);
    }
    let open_end = bytes.last().is_some_and(|byte| *byte != b'\n');
    let name = path.to_string_lossy().into_owned();
    let file = document.sources.add(name.clone(), bytes);
    let mut reader = Reader {
        name,
        file,
        line: 0,
        environment,
        features,
        blocks: Vec::new(),
        section: None,
        sections: Vec::new(),
        diagnostics: Vec::new(),
        errors: 0,
        warnings: 0,
        stopped: false,
    };
    if marked {
        let message = "the file begins with a byte order mark, which HAProxy refuses";
        reader.warn("byte-order-mark", reader.at(1, 0, 0), message);
    }
    let lines = document.sources.lines(file);
    while reader.line < lines && !reader.stopped {
        reader.line += 1;
        reader.read_line(document.sources.line_bytes(file, reader.line));
    }
    if open_end && !reader.stopped {
        let end = document.sources.line_bytes(file, lines).len() as u32;
        let message = "the last line has no line feed: the file may be cut short";
        reader.warn("missing-line-feed", reader.at(lines, end, end), message);
    }
    reader.finish();
    document.sections.append(&mut reader.sections);
    document.diagnostics.append(&mut reader.diagnostics);
}

/// How an `.if` block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Branch {
    /// This branch counts.
    Taken,
    /// No branch has counted yet.
    Waiting,
    /// No further branch can count: one did, or the whole block is in one that does not, or its
    /// condition is faulty.
    Over,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    branch: Branch,
    opened: Place,
    has_else: bool,
}

struct Reader<'a> {
    name: String,
    file: u32,
    line: u32,
    environment: &'a mut Environment,
    features: &'a Features,
    blocks: Vec<Block>,
    section: Option<Section>,
    sections: Vec<Section>,
    diagnostics: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    stopped: bool,
}

impl Reader<'_> {
    fn at(&self, line: u32, start: u32, end: u32) -> Place {
        Place {
            file: self.file,
            line,
            start,
            end,
        }
    }

    fn push(&mut self, diagnostic: Diagnostic) {
        if diagnostic.severity != Severity::Error {
            return self.push_mild(diagnostic);
        }
        self.errors += 1;
        self.stopped |= diagnostic.code == "nul-byte";
        self.diagnostics.push(diagnostic);
        if self.errors == MAX_ERRORS && !self.stopped {
            self.stopped = true;
            let message = format!("{MAX_ERRORS} errors; the rest of the file is not read");
            let place = self.at(self.line, 0, 0);
            let error = Diagnostic::error("too-many-errors", place, message);
            self.diagnostics.push(error);
        }
    }

    /// A warning or a notice: the file is read to its end whatever their number.
    fn push_mild(&mut self, diagnostic: Diagnostic) {
        self.warnings += 1;
        if self.warnings <= MAX_WARNINGS {
            self.diagnostics.push(diagnostic);
        } else if self.warnings == MAX_WARNINGS + 1 {
            let message = format!("more than {MAX_WARNINGS} warnings; the rest is not told");
            let place = self.at(self.line, 0, 0);
            let warning = Diagnostic::warning("too-many-warnings", place, message);
            self.diagnostics.push(warning);
        }
    }

    fn error(&mut self, code: &'static str, place: Place, message: impl Into<String>) {
        self.push(Diagnostic::error(code, place, message));
    }

    fn warn(&mut self, code: &'static str, place: Place, message: impl Into<String>) {
        self.push(Diagnostic::warning(code, place, message));
    }

    fn read_line(&mut self, bytes: &[u8]) {
        if bytes.trim_ascii_start().starts_with(b"[") {
            let start = (bytes.len() - bytes.trim_ascii_start().len()) as u32;
            let place = self.at(self.line, start, bytes.len() as u32);
            return self.scope(bytes.trim_ascii(), place);
        }
        let lexed = match self.lex(bytes) {
            Ok(lexed) => lexed,
            Err(diagnostic) => return self.push(diagnostic),
        };
        let Some(first) = lexed.words.first() else {
            return;
        };
        match first.text.as_str() {
            ".if" => self.open_if(&lexed.words),
            ".elif" => self.elif(&lexed.words),
            ".else" => self.or_else(&lexed.words),
            ".endif" => self.end_if(&lexed.words),
            _ if self.is_masked() => {}
            text if text.starts_with('.') => self.message(&lexed.words),
            _ => self.plain_line(lexed),
        }
    }

    fn lex(&self, bytes: &[u8]) -> Result<Lexed, Diagnostic> {
        let section = self.section.as_ref();
        let section = section.map(|s| s.name.as_ref().unwrap_or(&s.keyword).text.as_str());
        let pseudo = Pseudo {
            file: &self.name,
            section,
        };
        let context = Context {
            environment: self.environment,
            pseudo,
            file: self.file,
            line: self.line,
        };
        lexer::lex(bytes, context)
    }

    /// `[name]`: the lines after it are for the filter of that name, in a file of its own.
    fn scope(&mut self, line: &[u8], place: Place) {
        if self.is_masked() {
            return;
        }
        let close = line.iter().position(|byte| *byte == b']');
        let after = close.map_or(&line[..0], |at| line[at + 1..].trim_ascii());
        let alone = after.is_empty() || after.starts_with(b"#");
        if close.is_none_or(|at| at < 2) || !alone {
            let message = "a bad scope: expected `[name]` alone on its line";
            return self.error("bad-scope", place, message);
        }
        let message = "a scope is for the files of HAProxy's filters; it does nothing here";
        self.warn("scope", place, message);
    }

    /// Is this line in a branch that does not count?
    fn is_masked(&self) -> bool {
        self.blocks
            .last()
            .is_some_and(|block| block.branch != Branch::Taken)
    }

    fn open_if(&mut self, words: &[Word]) {
        let place = words[0].place;
        if self.blocks.len() == MAX_NESTED_CONDITIONS {
            let message = format!("more than {MAX_NESTED_CONDITIONS} `.if` in each other");
            self.error("too-many-conditions", place, message);
            self.stopped = true;
            return;
        }
        let branch = match self.is_masked() {
            true => Branch::Over,
            false => self.decide(words),
        };
        self.blocks.push(Block {
            branch,
            opened: place,
            has_else: false,
        });
    }

    fn decide(&mut self, words: &[Word]) -> Branch {
        let world = World {
            environment: self.environment,
            features: self.features,
        };
        match condition::evaluate(&words[1..], world) {
            Ok(true) => Branch::Taken,
            Ok(false) => Branch::Waiting,
            Err(diagnostic) => {
                self.push(diagnostic);
                Branch::Over
            }
        }
    }

    /// The innermost block, if this directive may stand there.
    fn block(&mut self, word: &Word) -> Option<Block> {
        let Some(block) = self.blocks.last().copied() else {
            let message = format!("`{}` without an `.if`", word.text);
            self.error("lone-directive", word.place, message);
            return None;
        };
        if block.has_else && word.text != ".endif" {
            let message = format!("`{}` after `.else`", word.text);
            self.push(
                Diagnostic::error("misplaced-directive", word.place, message)
                    .note_at(block.opened, "the block begins here"),
            );
            return None;
        }
        Some(block)
    }

    fn set_branch(&mut self, branch: Branch) {
        if let Some(block) = self.blocks.last_mut() {
            block.branch = branch;
        }
    }

    fn elif(&mut self, words: &[Word]) {
        let Some(block) = self.block(&words[0]) else {
            return;
        };
        let branch = match block.branch {
            Branch::Waiting => self.decide(words),
            Branch::Taken | Branch::Over => Branch::Over,
        };
        self.set_branch(branch);
    }

    fn or_else(&mut self, words: &[Word]) {
        self.no_arguments(words);
        let Some(block) = self.block(&words[0]) else {
            return;
        };
        let branch = match block.branch {
            Branch::Waiting => Branch::Taken,
            Branch::Taken | Branch::Over => Branch::Over,
        };
        self.set_branch(branch);
        if let Some(block) = self.blocks.last_mut() {
            block.has_else = true;
        }
    }

    fn end_if(&mut self, words: &[Word]) {
        self.no_arguments(words);
        if self.block(&words[0]).is_some() {
            self.blocks.pop();
        }
    }

    fn no_arguments(&mut self, words: &[Word]) {
        if let [directive, extra, ..] = words {
            let last = words.last().map_or(extra.place, |word| word.place);
            let message = format!("`{}` takes no arguments", directive.text);
            self.error("unexpected-argument", extra.place.to(last), message);
        }
    }

    /// `.notice`, `.warning`, `.alert`, `.diag`
    fn message(&mut self, words: &[Word]) {
        const DIRECTIVES: [&str; 8] = [
            ".if", ".elif", ".else", ".endif", ".notice", ".warning", ".alert", ".diag",
        ];
        let directive = &words[0];
        let (severity, code) = match directive.text.as_str() {
            ".alert" => (Severity::Error, "alert"),
            ".warning" => (Severity::Warning, "warning"),
            ".notice" => (Severity::Notice, "notice"),
            ".diag" => (Severity::Notice, "diag"),
            other => {
                let message = format!("unknown directive `{other}`");
                let error = Diagnostic::error("unknown-directive", directive.place, message);
                return self.push(error.suggest(suggest(other, DIRECTIVES)));
            }
        };
        if let Some(extra) = words.get(2).filter(|word| !word.text.is_empty()) {
            let message = format!("`{}` takes one argument", directive.text);
            let error = Diagnostic::error("unexpected-argument", extra.place, message);
            return self.push(error.label("quote a message that has spaces"));
        }
        let text = words.get(1).map_or("", |word| &word.text);
        let place = words.get(1).map_or(directive.place, |word| word.place);
        self.push(Diagnostic::new(severity, code, text).at(place));
    }

    fn plain_line(&mut self, lexed: Lexed) {
        for warning in lexed.warnings {
            self.push(warning);
        }
        if let Some(n) = lexed.words.iter().position(|word| word.bytes().is_empty()) {
            let unset = lexed.unset.iter().find(|(word, _)| *word == n);
            let unset = unset.map(|(_, name)| name.as_slice());
            let diagnostic = self.empty_word(&lexed.words[n], unset);
            return self.push(diagnostic);
        }
        let words = lexed.words;
        if let Some(kind) = SectionKind::from_word(&words[0].text) {
            return self.begin_section(kind, words);
        }
        let place = words[0].place.to(words[words.len() - 1].place);
        let line = Line { words, place };
        if self.section.is_none() {
            return self.outside(&line);
        }
        self.change_environment(&line);
        if let Some(section) = &mut self.section {
            section.lines.push(line);
        }
    }

    fn outside(&mut self, line: &Line) {
        let word = line.keyword();
        let message = format!("`{}` stands before any section", word.text);
        let error = Diagnostic::error("outside-section", word.place, message);
        let error = error.suggest(suggest(&word.text, SectionKind::words()));
        self.push(match error.label {
            Some(_) => error,
            None => error.label("expected a section: global, defaults, frontend, backend, listen"),
        });
    }

    fn empty_word(&self, word: &Word, unset: Option<&[u8]>) -> Diagnostic {
        let error = Diagnostic::error("empty-word", word.place, "an empty word");
        let Some(name) = unset else {
            return error.label("HAProxy would ignore all that follows; take it away or fill it");
        };
        let name = String::from_utf8_lossy(name);
        let known: Vec<_> = self
            .environment
            .names()
            .map(String::from_utf8_lossy)
            .collect();
        let near = suggest(&name, known.iter().map(|known| known.as_ref()));
        let error = error.label(format!("the variable {name} is not set"));
        match near {
            Some(near) => error.note(format!("did you mean {near}?")),
            None => error.note(format!("`${{{name}-value}}` gives it a default")),
        }
    }

    /// `setenv`, `presetenv`, `unsetenv`, `resetenv` of `global`.
    fn change_environment(&mut self, line: &Line) {
        let global = self.section.as_ref().map(|s| s.kind) == Some(SectionKind::Global);
        let keyword = line.text(0);
        let names = || -> Vec<&[u8]> { line.arguments().iter().map(Word::bytes).collect() };
        match (global, keyword) {
            (true, "setenv" | "presetenv") => self.set_variable(line),
            (true, "unsetenv") if line.words.len() == 1 => {
                let message = "`unsetenv` without a name";
                let error = Diagnostic::error("missing-argument", line.place, message);
                self.push(error.label("expected the names of variables"));
            }
            (true, "unsetenv") => {
                for name in names() {
                    self.environment.unset(name);
                }
            }
            (true, "resetenv") => self.environment.reset(&names()),
            _ => {}
        }
    }

    fn set_variable(&mut self, line: &Line) {
        let keyword = line.text(0);
        let [name, value] = line.arguments() else {
            let (code, place) = match line.words.get(3) {
                Some(extra) => ("unexpected-argument", extra.place),
                None => ("missing-argument", line.place),
            };
            let message = format!("`{keyword}` takes a name and a value");
            return self.error(code, place, message);
        };
        if let Some(equals) = name.text.find('=') {
            let place = name.place_of(equals..equals + 1);
            let message = format!("`{}` is no name of a variable", name.text);
            let error = Diagnostic::error("bad-variable-name", place, message);
            return self.push(error.label(format!("expected `{keyword} NAME VALUE`")));
        }
        match keyword {
            "setenv" => self.environment.set(name.bytes(), value.bytes()),
            _ => self.environment.preset(name.bytes(), value.bytes()),
        }
    }

    /// `frontend NAME [from DEFAULTS]` and its like.
    fn begin_section(&mut self, kind: SectionKind, words: Vec<Word>) {
        self.end_section();
        let mut words = words.into_iter().peekable();
        let Some(keyword) = words.next() else {
            return;
        };
        let mut rest: Vec<Word> = words.collect();
        let bare_from = kind == SectionKind::Defaults && rest.len() == 2 && rest[0].is("from");
        let named = kind != SectionKind::Global && !rest.is_empty() && !bare_from;
        let name = named.then(|| rest.remove(0));
        let mut from = None;
        if kind.takes_from() && rest.first().is_some_and(|word| word.is("from")) {
            let word = rest.remove(0);
            if rest.is_empty() {
                let message = "`from` without the name of a `defaults` section";
                self.error("missing-argument", word.place, message);
            } else {
                from = Some(rest.remove(0));
            }
        }
        self.section = Some(Section {
            kind,
            keyword,
            name,
            from,
            extra: rest,
            lines: Vec::new(),
        });
    }

    fn end_section(&mut self) {
        self.sections.extend(self.section.take());
    }

    fn finish(&mut self) {
        self.end_section();
        if self.stopped {
            return;
        }
        for block in std::mem::take(&mut self.blocks) {
            let message = "an `.if` without its `.endif`";
            self.error("unclosed-condition", block.opened, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::MemoryFiles;

    fn load(text: &str) -> Document {
        load_with(text, &mut Environment::default())
    }

    fn load_with(text: &str, environment: &mut Environment) -> Document {
        let files = MemoryFiles::single(text);
        let paths = [PathBuf::from("haproxy.cfg")];
        load_document(&paths, &files, environment, &Features::default())
    }

    /// Every line of every section as `section: words`.
    fn lines(document: &Document) -> Vec<String> {
        let mut lines = Vec::new();
        for section in &document.sections {
            for line in &section.lines {
                let words: Vec<_> = line.words.iter().map(|w| w.text.as_str()).collect();
                lines.push(format!("{}: {}", section.kind.word(), words.join(" ")));
            }
        }
        lines
    }

    /// Every finding as `line:code`.
    fn codes(document: &Document) -> Vec<String> {
        let place = |d: &Diagnostic| d.place.map_or(0, |p| p.line);
        let each = document.diagnostics.iter();
        each.map(|d| format!("{}:{}", place(d), d.code)).collect()
    }

    #[test]
    fn section_lines_are_taken_apart() {
        let document = load(
            "global\ndefaults from base\ndefaults d from base\ndefaults from\n\
             frontend f from d x\nlisten l\npeers p from q\nbackend\nfrontend g from\n",
        );
        let show = |word: &Option<Word>| word.as_ref().map_or("-".into(), |w| w.text.clone());
        let found: Vec<_> = document
            .sections
            .iter()
            .map(|s| {
                let extra: Vec<_> = s.extra.iter().map(|w| w.text.as_str()).collect();
                let (name, from) = (show(&s.name), show(&s.from));
                format!("{} {name} {from} {}", s.kind.word(), extra.join(" "))
            })
            .collect();
        let expected = [
            "global - - ",
            "defaults - base ",
            "defaults d base ",
            "defaults from - ",
            "frontend f d x",
            "listen l - ",
            "peers p - from q",
            "backend - - ",
            "frontend g - ",
        ];
        assert_eq!(found, expected);
        assert_eq!(codes(&document), ["9:missing-argument"]);
    }

    #[test]
    fn only_the_lines_of_true_branches_count() {
        let text = "global\n.if 1\n a\n.if 0\n b\n.elif 1\n c\n.else\n d\n.endif\n.elif 1\n e\n\
                    .else\n f\n.endif\n.if 0\n g\n.if 1\n h\n.endif\n.bogus\n.elif 0\n i\n.else\n j\n\
                    .endif\n.if\n k\n.endif\nlast\n";
        let document = load(text);
        assert_eq!(
            lines(&document),
            ["global: a", "global: c", "global: j", "global: last"]
        );
        assert_eq!(codes(&document), Vec::<String>::new());
    }

    #[test]
    fn misplaced_directives_are_errors_and_reading_goes_on() {
        let text = "global\n.endif\n.else\n.elif 1\n.if 1\n.else x\n.else\n.elif 1\n.endif y\n\
                    .if bad(\n a\n.else\n b\n.endif\n.fi\n.if 1\nkept\n";
        let document = load(text);
        let expected = [
            "2:lone-directive",
            "3:lone-directive",
            "4:lone-directive",
            "6:unexpected-argument",
            "7:misplaced-directive",
            "8:misplaced-directive",
            "9:unexpected-argument",
            "10:bad-condition",
            "15:unknown-directive",
            "16:unclosed-condition",
        ];
        assert_eq!(codes(&document), expected);
        assert_eq!(lines(&document), ["global: kept"]);
    }

    #[test]
    fn variables_set_in_global_hold_for_the_lines_after() {
        let text = "global\nx \"$V\"\nsetenv V one\nx \"$V\"\npresetenv V two\npresetenv W two\n\
                    x \"$V$W\"\nunsetenv V W\nx \"$V\"\nsetenv V 1\nsetenv W 2\nresetenv W\n\
                    x \"${V-gone}$W\"\n.if defined(W) && !defined(V)\nyes\n.endif\n\
                    defaults\nsetenv W 3\nx \"$W\"\n";
        let mut environment = Environment::default();
        let document = load_with(text, &mut environment);
        let words: Vec<_> = lines(&document)
            .into_iter()
            .filter(|line| line.contains(": x") || line.contains("yes"))
            .collect();
        assert_eq!(
            words,
            [
                "global: x one",
                "global: x onetwo",
                "global: x gone2",
                "global: yes",
                "defaults: x 2"
            ]
        );
        assert_eq!(codes(&document), ["2:empty-word", "9:empty-word"]);
        assert_eq!(environment.get("W"), Some(&b"2"[..]));
        assert_eq!(document.environment, environment);
    }

    #[test]
    fn pseudo_variables_know_file_line_and_section() {
        let text = "global\nx \"${.FILE}:${.LINE}:${.SECTION}\"\nbackend b1\nx \"${.SECTION}\"\n";
        let expected = ["global: x haproxy.cfg:2:global", "backend: x b1"];
        assert_eq!(lines(&load(text)), expected);
    }

    #[test]
    fn messages_of_the_file_are_findings() {
        let text = "global\n.notice \"hello $U\"\n.warning careful\n.alert 'no way'\n.diag d\n\
                    .notice two words\n.if 0\n.alert never\n.endif\n";
        let mut environment = Environment::default();
        environment.set("U", "you");
        let document = load_with(text, &mut environment);
        let expected = [
            "2:notice",
            "3:warning",
            "4:alert",
            "5:diag",
            "6:unexpected-argument",
        ];
        assert_eq!(codes(&document), expected);
        assert_eq!(document.diagnostics[0].message, "hello you");
        assert_eq!(document.diagnostics[2].severity, Severity::Error);
    }

    #[test]
    fn each_file_begins_outside_any_section() {
        let files = MemoryFiles::default()
            .with("a.cfg", "global\n a\n.if 0\n")
            .with("b.cfg", "globl\ndefaults\n b\n");
        let paths = ["a.cfg", "b.cfg", "c.cfg"].map(PathBuf::from);
        let features = Features::default();
        let document = load_document(&paths, &files, &mut Environment::default(), &features);
        assert_eq!(lines(&document), ["global: a", "defaults: b"]);
        assert_eq!(
            codes(&document),
            [
                "0:unreadable-file",
                "3:unclosed-condition",
                "1:outside-section"
            ]
        );
        let label = document.diagnostics[2].label.as_deref();
        assert_eq!(label, Some("did you mean `global`?"));
        assert_eq!(document.diagnostics[2].place.unwrap().file, 1);
    }

    #[test]
    fn odd_files_are_read_as_far_as_they_make_sense() {
        let table: [(&[u8], &[&str], &[&str]); 8] = [
            (b"", &[], &[]),
            (b"\n\n# x\n", &[], &[]),
            (
                b"\xef\xbb\xbfglobal\n a\n",
                &["global: a"],
                &["1:byte-order-mark"],
            ),
            (b"global\r\n a b\r\n", &["global: a b"], &[]),
            (b"global\n a", &["global: a"], &["2:missing-line-feed"]),
            (b"global\n a\0b\n c\n", &[], &["2:nul-byte"]),
            (
                b"global\n \xff\n[spoe]\n[]\n",
                &["global: \u{fffd}"],
                &["3:scope", "4:bad-scope"],
            ),
            (b"global\n x '' y\n z\n", &["global: z"], &["2:empty-word"]),
        ];
        for (bytes, expected_lines, expected_codes) in table {
            let files = MemoryFiles::single(bytes);
            let paths = [PathBuf::from("haproxy.cfg")];
            let mut environment = Environment::default();
            let document = load_document(&paths, &files, &mut environment, &Features::default());
            assert_eq!(lines(&document), expected_lines, "{bytes:?}");
            assert_eq!(codes(&document), expected_codes, "{bytes:?}");
        }
    }

    #[test]
    fn errors_and_nesting_are_bounded() {
        let document = load(&"x\n".repeat(MAX_ERRORS * 2));
        assert_eq!(document.diagnostics.len(), MAX_ERRORS + 1);
        let document = load(&format!("global\n{} kept\n", ".warning x\n".repeat(2000)));
        assert_eq!(document.diagnostics.len(), MAX_WARNINGS + 1);
        assert_eq!(lines(&document), ["global: kept"]);
        let document = load(&".if 1\n".repeat(MAX_NESTED_CONDITIONS + 5));
        assert_eq!(codes(&document), ["101:too-many-conditions"]);
    }

    #[test]
    fn a_variable_that_is_not_set_gets_a_hint() {
        let mut environment = Environment::default();
        environment.set("BIND_ADDRESS", "::1");
        let document = load_with(
            "global\nx \"$BIND_ADRESS\"\nx \"$OTHER_THING\"\n",
            &mut environment,
        );
        let notes: Vec<_> = document
            .diagnostics
            .iter()
            .map(|d| &d.notes[0].message)
            .collect();
        assert_eq!(
            notes,
            [
                "did you mean BIND_ADDRESS?",
                "`${OTHER_THING-value}` gives it a default"
            ]
        );
    }
}
