//! The checker is checked: every condition and every statement of the model is broken in turn, and the
//! run must notice. The same build counts which sides of the conditions a run reaches.
//!
//! Decides:  which places of the sources are broken and how: a comparison or a condition is turned
//!           round, a comparison of sizes is moved by one (`>` for `>=`), an errno becomes another one, a statement is left out (statements.rs). One build
//!           holds all of them, each behind a number; a tape of the kernel's answers serves all.
//! Not here: the replay (crates/conformance/src/replay.rs).

mod statements;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use proc_macro2::Span;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::workspace::{self, Failure};

/// Parts of a run that have a tape each, in the order in which the replay takes them.
const PARTS: [&str; 4] = ["exhaustive", "random", "time", "draws"];
/// The one that takes no processor.
const WAITS: &str = "time";
/// Crates of the copied workspace.
const CRATES: &[&str] = &["sys", "kernel-model", "conformance", "testkit"];
/// Put beside the copied model: the switch that the broken conditions ask.
const SWITCH: &str = "
#[doc(hidden)]
pub mod mutants {
    //! One deliberate error at a time.
    #![allow(missing_docs)]
    use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
    pub const COUNT: usize = %COUNT%;
    pub static ACTIVE: AtomicU32 = AtomicU32::new(0);
    pub static SEEN: [AtomicU8; COUNT + 1] = [const { AtomicU8::new(0) }; COUNT + 1];
    #[inline(always)]
    pub fn on(number: u32) -> bool {
        ACTIVE.load(Ordering::Relaxed) == number
    }
    #[inline(always)]
    fn note(number: u32, value: bool) {
        let (cell, bit) = (&SEEN[number as usize], 1 << u8::from(value));
        if cell.load(Ordering::Relaxed) & bit == 0 {
            cell.fetch_or(bit, Ordering::Relaxed);
        }
    }
    #[inline(always)]
    pub fn flip(number: u32, value: bool) -> bool {
        note(number, value);
        value != on(number)
    }
    /// The left side of a comparison of sizes, which counts what is equal as well or no longer.
    pub struct Moved<'a, A>(u32, &'a A);
    #[inline(always)]
    pub fn moved<A>(number: u32, left: &A) -> Moved<'_, A> {
        Moved(number, left)
    }
    impl<A: PartialOrd> Moved<'_, A> {
        #[inline(always)]
        fn by_one(&self, right: &A, value: bool) -> bool {
            let equal = self.1 == right;
            if equal { note(self.0, true) }
            value != (equal && on(self.0))
        }
    }
    impl<A: PartialOrd> PartialEq<A> for Moved<'_, A> {
        fn eq(&self, right: &A) -> bool { self.1 == right }
    }
    impl<A: PartialOrd> PartialOrd<A> for Moved<'_, A> {
        fn partial_cmp(&self, right: &A) -> Option<core::cmp::Ordering> { self.1.partial_cmp(right) }
        #[inline(always)]
        fn lt(&self, right: &A) -> bool { self.by_one(right, self.1 < right) }
        #[inline(always)]
        fn le(&self, right: &A) -> bool { self.by_one(right, self.1 <= right) }
        #[inline(always)]
        fn gt(&self, right: &A) -> bool { self.by_one(right, self.1 > right) }
        #[inline(always)]
        fn ge(&self, right: &A) -> bool { self.by_one(right, self.1 >= right) }
    }
    #[inline(always)]
    pub fn stays(number: u32) -> bool {
        note(number, true);
        !on(number)
    }
    #[inline(always)]
    pub fn errno(number: u32, value: crate::Errno) -> crate::Errno {
        note(number, true);
        if !on(number) { value } else if value as u8 == crate::Errno::EBADF as u8 { crate::Errno::EINVAL } else { crate::Errno::EBADF }
    }
}
";

/// One deliberate error.
struct Mutant {
    file: String,
    line: usize,
    function: String,
    what: String,
    /// From where to where: line and column.
    span: ((usize, usize), (usize, usize)),
    text: String,
}

/// What is done with a build whose conditions are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Break each in turn; tapes of the kernel and the scenarios must notice.
    Break,
    /// The same with the scenarios alone, which needs no kernel.
    BreakForScenarios,
    /// Run as usual, and tell which sides of which conditions never came up.
    Count,
}

/// What of the model gets a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Conditions and errnos: a run reaches their sides or does not.
    Conditions,
    /// Statements too: where one is reached, a condition before it says so.
    All,
}

/// Generates and builds; then records tapes and replays them against each error, or runs and counts.
pub fn run(purpose: Purpose, options: &[String]) -> Result<(), Failure> {
    let root = workspace::root();
    let copy = root.join("target/mutants");
    copy_workspace(&root, &copy)?;
    let what = if purpose == Purpose::Count {
        What::Conditions
    } else {
        What::All
    };
    let mutants = break_model(&copy.join("crates/kernel-model/src"), what)?;
    write_switch(&copy, mutants.len())?;
    let list_file = copy.join("mutants.txt");
    fs::write(&list_file, list(&mutants))?;
    println!("{} places in {}", mutants.len(), list_file.display());
    let mut build = workspace::cargo(&copy);
    build.args([
        "build",
        "--release",
        "-p",
        "portcullis-conformance",
        "--target-dir",
    ]);
    // It is built more often than it runs for long.
    for (setting, value) in [("LTO", "off"), ("CODEGEN_UNITS", "16"), ("DEBUG", "false")] {
        build.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    build.env("CARGO_INCREMENTAL", "1");
    must(build.arg(copy.join("target")))?;
    let program = copy.join("target/release/conformance");
    if purpose == Purpose::Count {
        let mut count = Command::new(&program);
        count.arg("--branches").arg(&list_file);
        count
            .arg("--cases")
            .arg(root.join("crates/kernel-model/cases"));
        return must(count.arg("--found").arg(super::found()).args(options));
    }
    let mut replay = Command::new(&program);
    replay.arg("--mutants").arg(&list_file);
    replay
        .arg("--cases")
        .arg(copy.join("crates/kernel-model/cases"));
    replay
        .arg("--reasons")
        .arg(root.join("crates/conformance/mutants.txt"));
    if purpose == Purpose::Break {
        replay
            .arg("--tapes")
            .args(record(&copy, &program, options)?);
    }
    must(replay.args(options))
}

/// A line for each: its number, place, function, what is broken, and its text. Where a function has the
/// same more than once, which of them it is.
fn list(mutants: &[Mutant]) -> String {
    let name = |m: &Mutant| {
        (
            m.file.clone(),
            m.function.clone(),
            m.what.clone(),
            m.text.clone(),
        )
    };
    let mut of_name: BTreeMap<_, usize> = BTreeMap::new();
    for mutant in mutants {
        *of_name.entry(name(mutant)).or_default() += 1;
    }
    let mut met: BTreeMap<_, usize> = BTreeMap::new();
    let mut list = String::new();
    for (at, m) in mutants.iter().enumerate() {
        let name = name(m);
        let all = of_name.get(&name).copied().unwrap_or(1);
        let ordinal = met.entry(name).or_default();
        *ordinal += 1;
        let which = match all {
            1 => String::new(),
            _ => format!(" [{ordinal} of {all}]"),
        };
        let (number, place) = (at + 1, format!("{}:{}", m.file, m.line));
        let (function, what, text) = (&m.function, &m.what, &m.text);
        list += &format!("{number}\t{place}\t{function}\t{what}\t{text}{which}\n");
    }
    list
}

/// The kernel's answers, a tape for each part. The one of time mostly waits, for more than a minute: the
/// others are made meanwhile.
fn record(copy: &Path, program: &Path, options: &[String]) -> Result<[PathBuf; 4], Failure> {
    let tapes = PARTS.map(|name| copy.join(format!("{name}.tape")));
    let command = |part: &str, tape: &Path| {
        let mut record = Command::new(program);
        record.args(["--part", part, "--workers", "1", "--record"]);
        record.arg(tape).args(options);
        record
    };
    // Scripts on which model and kernel differ are left out of the tape: they are not what is asked.
    let recorded = |status: ExitStatus| match status.code() {
        Some(0 | 1) => Ok(()),
        _ => Err(format!("recording: {status}")),
    };
    let all = PARTS.into_iter().zip(&tapes);
    let (waits, works): (Vec<_>, Vec<_>) = all.partition(|(part, _)| *part == WAITS);
    let mut waiting = Vec::new();
    for (part, tape) in waits {
        waiting.push(command(part, tape).spawn()?);
    }
    let mut done = Ok(());
    for (part, tape) in works {
        done = done.and(recorded(command(part, tape).status()?));
    }
    for mut record in waiting {
        done = done.and(recorded(record.wait()?));
    }
    done?;
    Ok(tapes)
}

fn must(command: &mut Command) -> Result<(), Failure> {
    let status = command.status()?;
    super::ended(&command.get_program().to_string_lossy(), status.code())
}

fn copy_workspace(root: &Path, copy: &Path) -> Result<(), Failure> {
    let crates = copy.join("crates");
    if crates.exists() {
        fs::remove_dir_all(&crates)?;
    }
    fs::create_dir_all(&crates)?;
    for name in CRATES {
        copy_directory(&root.join("crates").join(name), &crates.join(name))?;
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let manifest = manifest
        .replace(
            "members = [\"crates/*\", \"xtask\"]",
            "members = [\"crates/*\"]",
        )
        .replace("default-members = [\"crates/portcullis\"]\n", "");
    fs::write(copy.join("Cargo.toml"), manifest)?;
    fs::copy(root.join("Cargo.lock"), copy.join("Cargo.lock"))?;
    Ok(())
}

fn copy_directory(from: &Path, to: &Path) -> Result<(), Failure> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn write_switch(copy: &Path, count: usize) -> Result<(), Failure> {
    let lib = copy.join("crates/kernel-model/src/lib.rs");
    let text = fs::read_to_string(&lib)? + &SWITCH.replace("%COUNT%", &count.to_string());
    fs::write(lib, text)?;
    let file = copy.join("crates/conformance/src/mutant.rs");
    let text = fs::read_to_string(&file)?;
    let begin = text
        .find("mod build {")
        .ok_or("mutant.rs has no module `build`")?;
    let end = text[begin..]
        .find("\n}\n")
        .ok_or("the module `build` does not end")?;
    let switch = "mod build {
    use std::sync::atomic::Ordering;
    use portcullis_kernel_model::mutants::{ACTIVE, SEEN};
    pub(super) const COUNT: u32 = portcullis_kernel_model::mutants::COUNT as u32;
    pub(super) fn activate(number: u32) {
        ACTIVE.store(number, Ordering::Relaxed);
    }
    pub(super) fn seen(number: u32) -> u8 {
        SEEN[number as usize].load(Ordering::Relaxed)
    }";
    let text = [&text[..begin], switch, &text[begin + end..]].concat();
    fs::write(file, text)?;
    Ok(())
}

/// Rewrites every file of the model's rules; files of plain data have no conditions to break, and what is tried
/// as a way out of a refusal is no rule of the kernel's: the model's own answer decides over it.
fn break_model(sources: &Path, what: What) -> Result<Vec<Mutant>, Failure> {
    const DATA: &[&str] = &[
        "lib.rs",
        "rules.rs",
        "errno.rs",
        "explain.rs",
        "call.rs",
        "slab.rs",
        "chapters.rs",
        "guide.rs",
        "view.rs",
        // What releases call a place: its own tests compare the words.
        "places.rs",
        // Advice: each way out is tried on the model itself, by tests of its own (tests/ways_out.rs).
        "attempt.rs",
        "difference.rs",
        "ways_out.rs",
        // A world's beginning and no rule: its own tests find every world of a history again.
        "found.rs",
        // What the other crates ask of a model: nothing that the kernel decides.
        "ask.rs",
        // The names of releases are read and written there, by tests of its own; what each release
        // has is a table.
        "version.rs",
    ];
    let mut files: Vec<PathBuf> = fs::read_dir(sources)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect();
    files.sort();
    let mut mutants = Vec::new();
    for path in files {
        let file = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if DATA.contains(&file.as_str()) {
            continue;
        }
        let text = fs::read_to_string(&path)?;
        let broken = break_text(&text, &file, what, &mut mutants)?;
        fs::write(&path, broken)?;
    }
    Ok(mutants)
}

fn break_text(
    text: &str,
    file: &str,
    what: What,
    mutants: &mut Vec<Mutant>,
) -> Result<String, Failure> {
    let parsed = syn::parse_file(text)?;
    let known = mutants.len();
    let mut finder = Finder {
        file,
        function: String::new(),
        frozen: 0,
        what,
        left_out: BTreeSet::new(),
        mutants,
        edits: BTreeMap::new(),
    };
    finder.visit_file(&parsed);
    let edits = finder.edits;
    let starts: Vec<usize> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    // Columns count characters.
    let place = |(line, column): (usize, usize)| {
        let start = starts[line - 1];
        let mut indices = text[start..].char_indices();
        indices.nth(column).map_or(text.len(), |(at, _)| start + at)
    };
    for mutant in &mut mutants[known..] {
        let (from, to) = mutant.span;
        let words: Vec<&str> = text[place(from)..place(to)].split_whitespace().collect();
        mutant.text = words.join(" ");
    }
    let mut broken = String::with_capacity(text.len() * 2);
    let mut done = 0;
    for (position, edit) in edits {
        let at = place(position);
        broken.push_str(&text[done..at]);
        broken.push_str(&edit.close);
        broken.push_str(&edit.open);
        done = at;
    }
    broken.push_str(&text[done..]);
    Ok(broken)
}

/// What is put in at one place: what ends there first, then what begins.
#[derive(Default)]
struct Edit {
    close: String,
    open: String,
}

struct Finder<'a> {
    file: &'a str,
    function: String,
    frozen: u32,
    what: What,
    /// Where statements begin that have their number.
    left_out: BTreeSet<(usize, usize)>,
    mutants: &'a mut Vec<Mutant>,
    edits: BTreeMap<(usize, usize), Edit>,
}

impl Finder<'_> {
    fn number(&mut self, at: Span, what: String) -> usize {
        self.mutants.push(Mutant {
            file: self.file.to_owned(),
            line: at.start().line,
            function: self.function.clone(),
            what,
            span: (
                (at.start().line, at.start().column),
                (at.end().line, at.end().column),
            ),
            text: String::new(),
        });
        self.mutants.len()
    }

    /// Puts a call around an expression. Outer ones are met first: their openings stay in front.
    fn wrap(&mut self, at: Span, open: &str, close: &str) {
        let (start, end) = (at.start(), at.end());
        self.edits
            .entry((start.line, start.column))
            .or_default()
            .open
            .push_str(open);
        let edit = self.edits.entry((end.line, end.column)).or_default();
        edit.close.insert_str(0, close);
    }

    fn flip(&mut self, at: Span, what: &str) {
        let number = self.number(at, what.to_owned());
        self.wrap(at, &format!("crate::mutants::flip({number}, "), ")");
    }

    /// A comparison of sizes counts what is equal as well, or no longer.
    fn move_by_one(&mut self, node: &syn::ExprBinary) {
        let number = self.number(node.span(), "comparison moved by one".to_owned());
        let open = format!("crate::mutants::moved({number}, &(");
        self.wrap(node.left.span(), &open, "))");
    }

    /// A condition that is no comparison and no combination of conditions is turned round as a whole.
    fn condition(&mut self, condition: &syn::Expr) {
        match condition {
            syn::Expr::Let(_) | syn::Expr::Binary(_) => {}
            syn::Expr::Paren(inner) => self.condition(&inner.expr),
            other => self.flip(other.span(), "condition turned round"),
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        if node.ident != "tests" {
            visit::visit_item_mod(self, node);
        }
    }

    fn visit_item_fn(&mut self, node: &'ast syn::ItemFn) {
        self.enter(&node.sig, |finder| {
            finder.body(&node.sig, &node.block);
            visit::visit_item_fn(finder, node);
        });
    }

    fn visit_impl_item_fn(&mut self, node: &'ast syn::ImplItemFn) {
        self.enter(&node.sig, |finder| {
            finder.body(&node.sig, &node.block);
            visit::visit_impl_item_fn(finder, node);
        });
    }

    fn visit_item_const(&mut self, _: &'ast syn::ItemConst) {}

    fn visit_macro(&mut self, _: &'ast syn::Macro) {}

    fn visit_block(&mut self, node: &'ast syn::Block) {
        self.statements(node);
        visit::visit_block(self, node);
    }

    fn visit_expr_for_loop(&mut self, node: &'ast syn::ExprForLoop) {
        self.without_value(&node.body);
        visit::visit_expr_for_loop(self, node);
    }

    fn visit_expr_while(&mut self, node: &'ast syn::ExprWhile) {
        self.without_value(&node.body);
        visit::visit_expr_while(self, node);
    }

    fn visit_expr_loop(&mut self, node: &'ast syn::ExprLoop) {
        self.without_value(&node.body);
        visit::visit_expr_loop(self, node);
    }

    fn visit_expr_if(&mut self, node: &'ast syn::ExprIf) {
        if self.frozen == 0 {
            self.condition(&node.cond);
        }
        if node.else_branch.is_none() {
            self.without_value(&node.then_branch);
        }
        visit::visit_expr_if(self, node);
    }

    fn visit_pat_guard(&mut self, node: &'ast syn::PatGuard) {
        if self.frozen == 0 {
            self.condition(&node.guard);
        }
        visit::visit_pat_guard(self, node);
    }

    fn visit_expr_binary(&mut self, node: &'ast syn::ExprBinary) {
        use syn::BinOp::{And, Eq, Ge, Gt, Le, Lt, Ne, Or};
        if self.frozen == 0 {
            match node.op {
                Eq(_) | Ne(_) | Lt(_) | Le(_) | Gt(_) | Ge(_) => {
                    self.flip(node.span(), "comparison turned round");
                    if self.what == What::All && !matches!(node.op, Eq(_) | Ne(_)) {
                        self.move_by_one(node);
                    }
                }
                And(_) | Or(_) => {
                    for side in [&node.left, &node.right] {
                        if !has_let(side) {
                            self.condition(side);
                        }
                    }
                }
                _ => {}
            }
        }
        visit::visit_expr_binary(self, node);
    }

    fn visit_expr_path(&mut self, node: &'ast syn::ExprPath) {
        let mut segments = node.path.segments.iter();
        let errno = segments.next().is_some_and(|first| first.ident == "Errno");
        if errno && self.frozen == 0 && node.path.segments.len() == 2 {
            let name = node.path.segments[1].ident.to_string();
            if name.starts_with('E') && name.to_uppercase() == name {
                let number = self.number(node.span(), format!("{name} becomes another"));
                self.wrap(
                    node.span(),
                    &format!("crate::mutants::errno({number}, "),
                    ")",
                );
            }
        }
        visit::visit_expr_path(self, node);
    }
}

impl Finder<'_> {
    /// A `const fn` can ask no switch.
    fn enter(&mut self, signature: &syn::Signature, visit: impl FnOnce(&mut Self)) {
        let frozen = u32::from(signature.constness.is_some());
        let outer = std::mem::replace(&mut self.function, signature.ident.to_string());
        self.frozen += frozen;
        visit(self);
        self.frozen -= frozen;
        self.function = outer;
    }
}

fn has_let(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_comparisons_and_errors_are_broken_each_behind_a_number() {
        let text = "fn f(a: u8, b: bool) -> Result<(), Errno> {\n    if a == 1 && b { return Err(Errno::EINVAL); }\n    Ok(())\n}\n";
        let mut mutants = Vec::new();
        let broken = break_text(text, "x.rs", What::Conditions, &mut mutants).unwrap();
        let texts: Vec<&str> = mutants.iter().map(|m| m.text.as_str()).collect();
        assert_eq!(texts, ["b", "a == 1", "Errno::EINVAL"]);
        assert!(
            broken.contains("crate::mutants::flip(2, a == 1)"),
            "{broken}"
        );
        assert!(broken.contains("crate::mutants::flip(1, b)"), "{broken}");
        assert!(
            broken.contains("Err(crate::mutants::errno(3, Errno::EINVAL))"),
            "{broken}"
        );
        assert!(syn::parse_file(&broken).is_ok());
    }

    #[test]
    fn comparisons_of_sizes_are_moved_by_one_too_and_those_of_equals_are_not() {
        let text = "fn f(a: u8) -> bool { a + 1 >= 2 && a != 3 && 0 < g(a > 5) }\n";
        let mut mutants = Vec::new();
        let broken = break_text(text, "x.rs", What::All, &mut mutants).unwrap();
        let moved = mutants
            .iter()
            .filter(|m| m.what == "comparison moved by one");
        let texts: Vec<&str> = moved.map(|m| m.text.as_str()).collect();
        assert_eq!(texts, ["a + 1 >= 2", "0 < g(a > 5)", "a > 5"]);
        for part in [
            "crate::mutants::flip(1, crate::mutants::moved(2, &(a + 1)) >= 2)",
            "crate::mutants::flip(3, a != 3)",
            "crate::mutants::moved(5, &(0)) < g(crate::mutants::flip(6, crate::mutants::moved(7, &(a)) > 5))",
        ] {
            assert!(broken.contains(part), "{part} is not in {broken}");
        }
        assert!(syn::parse_file(&broken).is_ok());
        // A run that counts sides counts them once.
        let mut counted = Vec::new();
        break_text(text, "x.rs", What::Conditions, &mut counted).unwrap();
        assert!(counted.iter().all(|m| m.what == "comparison turned round"));
    }

    #[test]
    fn two_of_one_text_in_a_function_are_told_apart() {
        let text = "fn f(a: u8) -> bool { a == 1 || a == 2 || a == 1 }\n";
        let mut mutants = Vec::new();
        break_text(text, "x.rs", What::Conditions, &mut mutants).unwrap();
        let list = list(&mutants);
        let texts: Vec<&str> = list
            .lines()
            .filter_map(|line| line.rsplit('\t').next())
            .collect();
        assert_eq!(texts, ["a == 1 [1 of 2]", "a == 2", "a == 1 [2 of 2]"]);
    }

    #[test]
    fn what_cannot_ask_a_switch_is_left_alone() {
        let text =
            "const fn f(a: u8) -> bool { a == 1 }\nfn g(o: Option<u8>) { if let Some(1) = o {} }\n";
        let mut mutants = Vec::new();
        assert_eq!(
            break_text(text, "x.rs", What::Conditions, &mut mutants).unwrap(),
            text
        );
        assert!(mutants.is_empty());
    }
}
