//! Statements of the model that are left out in turn.
//!
//! Decides:  which statements can be: assignments and calls, where they stand for what they do and give
//!           no value. A block, a `let` and a macro stay; so do `return`, `break` and `continue`, which
//!           stand behind conditions that are turned round.
//! Not here: what becomes of them (mutants.rs).

use syn::spanned::Spanned as _;

use super::{Finder, What};

impl Finder<'_> {
    /// The body of a function: without a type it gives no value.
    pub(super) fn body(&mut self, signature: &syn::Signature, block: &syn::Block) {
        if matches!(signature.output, syn::ReturnType::Default) {
            self.without_value(block);
        }
    }

    /// Those of a block that end with a semicolon, and what stands inside those that need none.
    pub(super) fn statements(&mut self, block: &syn::Block) {
        let last = block.stmts.len().saturating_sub(1);
        for (at, statement) in block.stmts.iter().enumerate() {
            match statement {
                syn::Stmt::Expr(expression, Some(_)) if does_something(expression) => {
                    self.leave_out(statement.span());
                }
                syn::Stmt::Expr(expression, None) if at < last => self.effect(expression),
                _ => {}
            }
        }
    }

    /// A block that gives no value: its last expression is a statement too.
    pub(super) fn without_value(&mut self, block: &syn::Block) {
        if let Some(syn::Stmt::Expr(expression, None)) = block.stmts.last() {
            self.effect(expression);
        }
    }

    /// An expression that gives no value.
    fn effect(&mut self, expression: &syn::Expr) {
        match expression {
            syn::Expr::If(node) => {
                self.without_value(&node.then_branch);
                if let Some((_, otherwise)) = &node.else_branch {
                    self.effect(otherwise);
                }
            }
            syn::Expr::Match(node) => {
                for arm in &node.arms {
                    self.effect(&arm.body);
                }
            }
            syn::Expr::Block(node) => self.without_value(&node.block),
            other if does_something(other) => self.leave_out(other.span()),
            _ => {}
        }
    }

    fn leave_out(&mut self, at: proc_macro2::Span) {
        let start = (at.start().line, at.start().column);
        if self.what == What::All && self.frozen == 0 && self.left_out.insert(start) {
            let number = self.number(at, "statement left out".to_owned());
            self.wrap(at, &format!("if crate::mutants::stays({number}) {{ "), " }");
        }
    }
}

/// An assignment or a call, perhaps with a `?`.
fn does_something(expression: &syn::Expr) -> bool {
    use syn::BinOp::{
        AddAssign, BitAndAssign, BitOrAssign, BitXorAssign, DivAssign, MulAssign, RemAssign,
        ShlAssign, ShrAssign, SubAssign,
    };
    match expression {
        syn::Expr::Assign(_) | syn::Expr::MethodCall(_) | syn::Expr::Call(_) => true,
        syn::Expr::Try(node) => does_something(&node.expr),
        syn::Expr::Binary(node) => matches!(
            node.op,
            AddAssign(_)
                | SubAssign(_)
                | MulAssign(_)
                | DivAssign(_)
                | RemAssign(_)
                | BitXorAssign(_)
                | BitAndAssign(_)
                | BitOrAssign(_)
                | ShlAssign(_)
                | ShrAssign(_)
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{What, break_text};

    fn left_out(text: &str) -> (Vec<String>, String) {
        let mut mutants = Vec::new();
        let broken = break_text(text, "x.rs", What::All, &mut mutants).unwrap();
        assert!(syn::parse_file(&broken).is_ok(), "{broken}");
        let statements = mutants
            .into_iter()
            .filter(|m| m.what == "statement left out");
        (statements.map(|m| m.text).collect(), broken)
    }

    #[test]
    fn assignments_and_calls_without_a_value_are_left_out() {
        let (texts, broken) = left_out(
            "fn f(a: &mut A) -> Result<u8, E> {\n    a.x &= !1;\n    a.check()?;\n    a.list.push(a.x);\n    Ok(a.x)\n}\n",
        );
        assert_eq!(texts, ["a.x &= !1;", "a.check()?;", "a.list.push(a.x);"]);
        assert!(
            broken.contains("if crate::mutants::stays(1) { a.x &= !1; }"),
            "{broken}"
        );
    }

    #[test]
    fn the_last_expression_is_a_statement_where_no_value_is_wanted() {
        let (texts, broken) = left_out(
            "fn f(a: &mut A) {\n    for b in a { if b { a.c() } }\n    match a.x {\n        0 => a.x = 1,\n        _ => a.d(),\n    }\n}\n\
             fn g(a: &A) -> u8 { if a.x { a.c() } else { a.d() } }\n",
        );
        assert_eq!(texts, ["a.x = 1", "a.d()", "a.c()"]);
        assert!(
            broken.contains("_ => if crate::mutants::stays(2) { a.d() },"),
            "{broken}"
        );
    }

    #[test]
    fn a_run_that_counts_conditions_leaves_nothing_out() {
        let text = "fn f(a: &mut A) { a.x = 1; }\nconst fn g(a: &mut A) { a.x = 1; }\n";
        let mut mutants = Vec::new();
        let same = break_text(text, "x.rs", What::Conditions, &mut mutants).unwrap();
        assert_eq!(same, text);
        assert_eq!(left_out(text).0, ["a.x = 1;"]);
    }
}
