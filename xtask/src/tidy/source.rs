//! A Rust file, read and parsed once for all rules.
//!
//! Decides:  what counts as test code: `tests/` and `benches/` directories, files reached only by a
//!           `#[cfg(test)] mod`, and items under `#[cfg(test)]`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned as _;

use super::links::normal;
use crate::workspace::Failure;

/// A parsed file.
pub struct Source {
    /// Below the root.
    pub path: PathBuf,
    /// As read.
    pub text: String,
    /// As parsed.
    pub syntax: syn::File,
    /// The whole file is test code.
    pub is_test: bool,
}

impl Source {
    /// Reads and parses the Rust files among `files`.
    pub fn read_all(root: &Path, files: &[PathBuf]) -> Result<Vec<Source>, Failure> {
        let rust = files
            .iter()
            .filter(|file| file.extension().is_some_and(|end| end == "rs"));
        let mut sources = Vec::new();
        for file in rust {
            let text = std::fs::read_to_string(root.join(file))?;
            sources.push(Source::parse(file, text)?);
        }
        let mut tests = BTreeSet::new();
        for source in &sources {
            for (files, is_test) in source.modules() {
                if is_test || source.is_test {
                    tests.extend(files);
                }
            }
        }
        for source in &mut sources {
            source.is_test |= tests.contains(&source.path);
        }
        Ok(sources)
    }

    /// Parses one file.
    pub fn parse(path: &Path, text: String) -> Result<Source, Failure> {
        let syntax = syn::parse_file(&text).map_err(|error| {
            format!("{}:{}: {error}", path.display(), error.span().start().line)
        })?;
        let mut parts = path.components().map(|part| part.as_os_str());
        let is_test = parts.any(|part| part == "tests" || part == "benches");
        Ok(Source {
            path: path.to_owned(),
            text,
            syntax,
            is_test,
        })
    }

    /// For each out-of-line module declared here: where it may live, and whether it is for tests only.
    pub fn modules(&self) -> Vec<(Vec<PathBuf>, bool)> {
        let mut found = Vec::new();
        declared(
            &self.path,
            &self.syntax.items,
            Path::new(""),
            false,
            &mut found,
        );
        found
    }

    /// Lines of items under `#[cfg(test)]`, first to last, attributes included.
    pub fn test_lines(&self) -> Vec<(usize, usize)> {
        let items = self.syntax.items.iter();
        items
            .filter(|item| is_cfg_test(attributes(item)))
            .map(|item| lines(item.span()))
            .collect()
    }

    /// Is this line test code?
    pub fn in_test(&self, line: usize) -> bool {
        self.is_test
            || self
                .test_lines()
                .iter()
                .any(|&(first, last)| (first..=last).contains(&line))
    }

    /// Its tokens, doc comments left out.
    pub fn tokens(&self) -> Vec<(String, usize)> {
        let mut flat = Vec::new();
        if let Ok(stream) = self.text.parse::<TokenStream>() {
            flatten(stream, &mut flat);
        }
        flat
    }
}

/// Where `mod name;` in `file` may live.
fn module_files(file: &Path, name: &Path) -> Vec<PathBuf> {
    let directory = file.parent().unwrap_or(Path::new(""));
    let stem = file
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let is_root = matches!(stem, "lib" | "main" | "mod") || is_target_root(file);
    let base = if is_root {
        directory.to_owned()
    } else {
        directory.join(stem)
    };
    vec![
        base.join(name).with_extension("rs"),
        base.join(name).join("mod.rs"),
    ]
}

/// A file directly in `tests/`, `examples/`, `benches/`, `src/bin/` is a crate root.
fn is_target_root(file: &Path) -> bool {
    let directory = file
        .parent()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let is_target = matches!(
        directory,
        Some("tests" | "examples" | "benches" | "bin" | "fuzz_targets")
    );
    is_target
        && !file
            .components()
            .any(|part| part.as_os_str() == "src" && directory == Some("tests"))
}

/// First and last line of a span.
pub fn lines(span: Span) -> (usize, usize) {
    (span.start().line, span.end().line)
}

/// Does `#[cfg(test)]`, or a `cfg` that needs it, stand on the item?
pub fn is_cfg_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| {
                let condition = list.tokens.to_string();
                condition == "test" || condition.starts_with("all (test")
            })
    })
}

/// The attributes of an item.
pub fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn declared(
    file: &Path,
    items: &[syn::Item],
    inside: &Path,
    is_test: bool,
    found: &mut Vec<(Vec<PathBuf>, bool)>,
) {
    for item in items {
        let syn::Item::Mod(module) = item else {
            continue;
        };
        let is_test = is_test || is_cfg_test(&module.attrs);
        let path = inside.join(module.ident.to_string());
        match (&module.content, named_path(module)) {
            (Some((_, items)), _) => declared(file, items, &path, is_test, found),
            (None, Some(named)) => {
                let directory = file.parent().unwrap_or(Path::new(""));
                found.push((vec![normal(&directory.join(named))], is_test));
            }
            (None, None) => found.push((module_files(file, &path), is_test)),
        }
    }
}

/// `#[path = "x.rs"] mod y;` is beside the file that says it.
fn named_path(module: &syn::ItemMod) -> Option<PathBuf> {
    let attribute = module
        .attrs
        .iter()
        .find(|attribute| attribute.path().is_ident("path"))?;
    let value = &attribute.meta.require_name_value().ok()?.value;
    let syn::Expr::Lit(syn::ExprLit {
        lit: syn::Lit::Str(text),
        ..
    }) = value
    else {
        return None;
    };
    Some(PathBuf::from(text.value()))
}

fn flatten(stream: TokenStream, flat: &mut Vec<(String, usize)>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let line = tree.span().start().line;
        if is_doc(&tree, trees.peek()) {
            trees.next();
            continue;
        }
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                    proc_macro2::Delimiter::Brace => ("{", "}"),
                    proc_macro2::Delimiter::Bracket => ("[", "]"),
                    proc_macro2::Delimiter::None => ("", ""),
                };
                flat.push((open.to_owned(), line));
                flatten(group.stream(), flat);
                flat.push((close.to_owned(), group.span_close().start().line));
            }
            TokenTree::Literal(_) => flat.push(("\"\"".to_owned(), line)),
            other => flat.push((other.to_string(), line)),
        }
    }
}

/// A `#` before `[doc = "…"]`.
fn is_doc(tree: &TokenTree, next: Option<&TokenTree>) -> bool {
    matches!(tree, TokenTree::Punct(punct) if punct.as_char() == '#')
        && matches!(next, Some(TokenTree::Group(group))
            if group.stream().into_iter().next().is_some_and(|first| first.to_string() == "doc"))
}
