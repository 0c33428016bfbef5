//! How long functions and files are.
//!
//! Decides:  a function counts from `fn` to its last brace; a file counts without its test items;
//!           test code has no limit, since a table of cases may be long.
//! Source:   STYLE.md 1 and 6.

use std::collections::BTreeMap;

use proc_macro2::Span;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use super::source::{Source, is_cfg_test, lines};

/// The most lines a function may have.
pub const FUNCTION_LIMIT: usize = 70;
/// The most lines a file may have before its tests.
pub const FILE_LIMIT: usize = 600;

/// What is above a limit.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// `path::function` → lines, and the line where it begins.
    pub functions: BTreeMap<String, (usize, usize)>,
    /// `path` → lines.
    pub files: BTreeMap<String, usize>,
}

/// Everything above its limit in these sources.
pub fn measure(sources: &[Source]) -> Sizes {
    let mut sizes = Sizes::default();
    for source in sources.iter().filter(|source| !source.is_test) {
        let path = source.path.display().to_string();
        let tests: usize = source
            .test_lines()
            .iter()
            .map(|(first, last)| last - first + 1)
            .sum();
        let count = source.text.lines().count() - tests;
        if count > FILE_LIMIT {
            sizes.files.insert(path.clone(), count);
        }
        let mut visitor = Functions {
            names: Vec::new(),
            long: Vec::new(),
        };
        visitor.visit_file(&source.syntax);
        for (name, line, count) in visitor.long {
            let entry = sizes
                .functions
                .entry(format!("{path}::{name}"))
                .or_default();
            if count > entry.0 {
                *entry = (count, line);
            }
        }
    }
    sizes
}

struct Functions {
    names: Vec<String>,
    long: Vec<(String, usize, usize)>,
}

impl Functions {
    fn measure(&mut self, name: &syn::Ident, signature: Span, body: Span) {
        let (first, _) = lines(signature);
        let (_, last) = lines(body);
        let count = last - first + 1;
        if count > FUNCTION_LIMIT {
            let path: String = self
                .names
                .iter()
                .map(|outer| format!("{outer}::"))
                .collect();
            self.long.push((format!("{path}{name}"), first, count));
        }
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_cfg_test(&item.attrs) {
            self.measure(&item.sig.ident, item.sig.span(), item.block.span());
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig.ident, item.sig.span(), item.block.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig.ident, item.sig.span(), block.span());
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_cfg_test(&item.attrs) {
            self.names.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.names.pop();
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let name = match &*item.self_ty {
            syn::Type::Path(path) => path
                .path
                .segments
                .last()
                .map_or(String::new(), |last| last.ident.to_string()),
            _ => String::from("impl"),
        };
        self.names.push(name);
        visit::visit_item_impl(self, item);
        self.names.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn source(text: String) -> Source {
        Source::parse(Path::new("crates/x/src/y.rs"), text).unwrap()
    }

    #[test]
    fn a_long_function_is_named_with_its_type_and_a_short_one_is_not() {
        let body = "    g();\n".repeat(69);
        let text = format!(
            "//! x\nfn just() {{\n{}}}\nimpl T {{\nfn long() {{\n{body}}}\n}}\n",
            &body[9..]
        );
        let sizes = measure(&[source(text)]);
        let names: Vec<_> = sizes.functions.iter().collect();
        assert_eq!(
            names,
            [(&"crates/x/src/y.rs::T::long".to_owned(), &(71, 73))]
        );
    }

    #[test]
    fn tests_do_not_count() {
        let lines = "    g();\n".repeat(700);
        let inside = format!("#[cfg(test)]\nmod tests {{\nfn t() {{\n{lines}}}\n}}\n");
        assert_eq!(measure(&[source(inside)]), Sizes::default());
        let outside = "const A: u8 = 0;\n".repeat(601);
        assert_eq!(measure(&[source(outside)]).files["crates/x/src/y.rs"], 601);
    }
}
