//! Is the condition of an `.if` or `.elif` true?
//!
//! Decides:  the grammar of conditions, every predicate, and which faults are errors.
//! Source:   HAProxy's manual, chapter 2.4; src/cfgcond.c, src/arg.c, make_arg_list(), 3.5-dev5.
//! Not here: which lines a condition takes away (load.rs), what we say we are (features.rs).

use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::environment::Environment;
use crate::features::{Features, Version};
use crate::source::Place;
use crate::suggest::suggest;
use crate::syntax::Word;

/// Parentheses in parentheses.
const MAX_DEPTH: usize = 100;

/// What conditions ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World<'a> {
    pub environment: &'a Environment,
    pub features: &'a Features,
}

/// Evaluates the words after `.if`. No words are false.
pub(crate) fn evaluate(words: &[Word], world: World<'_>) -> Result<bool, Diagnostic> {
    let Some(expression) = join(words) else {
        return Ok(false);
    };
    let mut parser = Parser {
        text: &expression.text,
        at: 0,
        world,
        depth: 0,
    };
    let result = parser.whole();
    result.map_err(|fault| {
        let place = expression.place_of(fault.at);
        let error = Diagnostic::error("bad-condition", place, fault.message);
        match fault.label {
            Some(label) => error.label(label),
            None => error,
        }
    })
}

/// The words as one, parted by single spaces, which is what HAProxy reads.
fn join(words: &[Word]) -> Option<Word> {
    let (first, last) = (words.first()?, words.last()?);
    let mut text = String::new();
    let mut origins: Vec<(u32, u32)> = Vec::new();
    for word in words {
        if !text.is_empty() || !origins.is_empty() {
            text.push(' ');
            let after = origins.last().map_or(word.place.start, |last| last.1);
            origins.push((after, word.place.start));
        }
        let bytes = 0..word.text.len();
        origins.extend(bytes.map(|at| range_of(word.place_of(at..at + 1))));
        text.push_str(&word.text);
    }
    (!text.is_empty()).then(|| Word {
        text,
        place: first.place.to(last.place),
        raw: None,
        origins: Some(origins.into_boxed_slice()),
    })
}

fn range_of(place: Place) -> (u32, u32) {
    (place.start, place.end)
}

struct Fault {
    at: Range<usize>,
    message: String,
    label: Option<String>,
}

impl Fault {
    fn new(at: Range<usize>, message: impl Into<String>) -> Fault {
        Fault {
            at,
            message: message.into(),
            label: None,
        }
    }

    fn label(mut self, label: impl Into<String>) -> Fault {
        self.label = Some(label.into());
        self
    }
}

/// Is the value of this part needed? One that is not may fail only by its grammar.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Value,
    Grammar,
}

impl Need {
    fn only_if(self, condition: bool) -> Need {
        if condition { self } else { Need::Grammar }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    world: World<'a>,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t']).len();
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        if found {
            self.at += text.len();
        }
        found
    }

    /// One character from here, or the end of the text.
    fn here(&self) -> Range<usize> {
        let length = self.rest().chars().next().map_or(0, char::len_utf8);
        self.at..self.at + length
    }

    fn whole(&mut self) -> Result<bool, Fault> {
        let value = self.any_of(Need::Value)?;
        self.skip_spaces();
        if self.rest().is_empty() {
            return Ok(value);
        }
        let end = self.text.len();
        Err(
            Fault::new(self.at..end, "a condition goes on after its end")
                .label("expected `&&`, `||` or the end of the line"),
        )
    }

    /// `A && B || C && D`
    fn any_of(&mut self, need: Need) -> Result<bool, Fault> {
        let mut value = self.all_of(need)?;
        loop {
            self.skip_spaces();
            if !self.eat("||") {
                return Ok(value);
            }
            let other = self.all_of(need.only_if(!value))?;
            value = value || other;
        }
    }

    /// `A && B`
    fn all_of(&mut self, need: Need) -> Result<bool, Fault> {
        let mut value = self.term(need)?;
        loop {
            self.skip_spaces();
            if !self.eat("&&") {
                return Ok(value);
            }
            let other = self.term(need.only_if(value))?;
            value = value && other;
        }
    }

    /// `!`s, then a number, a predicate or parentheses.
    fn term(&mut self, need: Need) -> Result<bool, Fault> {
        let mut negated = false;
        self.skip_spaces();
        while self.eat("!") {
            negated = !negated;
            self.skip_spaces();
        }
        let value = if let Some(number) = self.number() {
            number
        } else if self.rest().starts_with('(') {
            self.parentheses(need)?
        } else {
            self.predicate(need)?
        };
        Ok(value != negated)
    }

    /// A whole number as strtol(3) reads it in base 0; not zero is true.
    fn number(&mut self) -> Option<bool> {
        let text = self.rest();
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let hex = unsigned.strip_prefix("0x").or(unsigned.strip_prefix("0X"));
        let (body, radix) = match hex {
            Some(body) if body.starts_with(|c: char| c.is_ascii_hexdigit()) => (body, 16),
            _ if unsigned.starts_with('0') => (unsigned, 8),
            _ => (unsigned, 10),
        };
        let length = body.chars().take_while(|c| c.is_digit(radix)).count();
        if length == 0 {
            return None;
        }
        self.at += text.len() - body.len() + length;
        Some(body[..length].chars().any(|c| c != '0'))
    }

    fn parentheses(&mut self, need: Need) -> Result<bool, Fault> {
        let open = self.here();
        if self.depth == MAX_DEPTH {
            return Err(Fault::new(open, "too many parentheses in parentheses"));
        }
        self.at += 1;
        self.depth += 1;
        let value = self.any_of(need)?;
        self.depth -= 1;
        self.skip_spaces();
        if !self.eat(")") {
            return Err(
                Fault::new(open, "a parenthesis is not closed").label("expected `)` for this one")
            );
        }
        Ok(value)
    }

    fn predicate(&mut self, need: Need) -> Result<bool, Fault> {
        let rest = self.rest();
        let length = rest.find([' ', '(']).unwrap_or(rest.len());
        let name = &rest[..length];
        let whole = self.at..self.at + length;
        let Some(predicate) = PREDICATES.iter().find(|p| p.name == name) else {
            return Err(unknown(name, whole));
        };
        self.at += length;
        let arguments = self.arguments(predicate, whole.clone())?;
        if need == Need::Grammar {
            return Ok(false);
        }
        (predicate.holds)(self.world, &arguments)
            .map_err(|(message, label)| Fault::new(whole.start..self.at, message).label(label))
    }

    /// `(a,b)` with as many arguments as the predicate takes.
    fn arguments(&mut self, of: &Predicate, name: Range<usize>) -> Result<Vec<String>, Fault> {
        let count = of.arguments;
        let expected = || format!("expected {}({})", of.name, ["", "…", "…,…"][count.min(2)]);
        if !self.eat("(") {
            if count == 0 {
                return Ok(Vec::new());
            }
            return Err(
                Fault::new(name, format!("`{}` without its arguments", of.name)).label(expected()),
            );
        }
        let open = self.at - 1;
        let mut arguments = Vec::new();
        loop {
            let argument = self.argument(open)?;
            let nothing = arguments.is_empty() && argument.is_empty() && count == 0;
            if !nothing {
                arguments.push(argument);
            }
            if self.eat(")") {
                break;
            }
            self.at += 1;
        }
        if arguments.len() != count {
            let message = format!(
                "`{}` takes {count} argument{}, not {}",
                of.name,
                if count == 1 { "" } else { "s" },
                arguments.len()
            );
            return Err(Fault::new(open..self.at, message).label(expected()));
        }
        Ok(arguments)
    }

    /// One argument, up to the comma or parenthesis after it.
    fn argument(&mut self, open: usize) -> Result<String, Fault> {
        let mut text = String::new();
        let mut quote = None;
        loop {
            let mut letters = self.rest().chars();
            let Some(letter) = letters.next() else {
                return Err(Fault::new(open..open + 1, "arguments without an end")
                    .label("expected `)` for this one"));
            };
            match (letter, quote) {
                (',' | ')', None) => return Ok(text),
                ('"' | '\'', None) => quote = Some(letter),
                ('"' | '\'', Some(open)) if open == letter => quote = None,
                ('\\', None | Some('"')) => {
                    let escaped = match letters.next() {
                        Some(c @ ('\\' | ' ' | '"' | '\'')) => Some(c),
                        Some('n') => Some('\n'),
                        Some('r') => Some('\r'),
                        Some('t') => Some('\t'),
                        _ => None,
                    };
                    text.push(escaped.unwrap_or('\\'));
                    self.at += usize::from(escaped.is_some());
                }
                _ => text.push(letter),
            }
            self.at += letter.len_utf8();
        }
    }
}

fn unknown(name: &str, at: Range<usize>) -> Fault {
    if name.is_empty() {
        return Fault::new(at, "a condition is missing")
            .label("expected a number, a predicate or a parenthesis");
    }
    let fault = Fault::new(at, format!("unknown predicate `{name}`"));
    match suggest(name, PREDICATES.iter().map(|p| p.name)) {
        Some(known) => fault.label(format!("did you mean `{known}`?")),
        None => fault.label("expected a number, a predicate or a parenthesis"),
    }
}

/// Yes or no, or why neither: a message and a hint.
type Answer = Result<bool, (String, &'static str)>;

/// One predicate.
struct Predicate {
    name: &'static str,
    arguments: usize,
    holds: fn(World<'_>, &[String]) -> Answer,
}

const PREDICATES: [Predicate; 14] = [
    Predicate {
        name: "defined",
        arguments: 1,
        holds: |world, a| Ok(world.environment.get(&a[0]).is_some()),
    },
    Predicate {
        name: "feature",
        arguments: 1,
        holds: |world, a| Ok(world.features.features.contains(&&a[0][..])),
    },
    Predicate {
        name: "streq",
        arguments: 2,
        holds: |_, a| Ok(a[0] == a[1]),
    },
    Predicate {
        name: "strneq",
        arguments: 2,
        holds: |_, a| Ok(a[0] != a[1]),
    },
    Predicate {
        name: "strstr",
        arguments: 2,
        holds: |_, a| Ok(a[0].contains(&a[1])),
    },
    Predicate {
        name: "version_atleast",
        arguments: 1,
        holds: |world, a| is_at_least(world, &a[0]),
    },
    Predicate {
        name: "version_before",
        arguments: 1,
        holds: |world, a| is_at_least(world, &a[0]).map(|is| !is),
    },
    Predicate {
        name: "openssl_version_atleast",
        arguments: 1,
        holds: |_, _| Err(without("OpenSSL", "openssl_version_atleast")),
    },
    Predicate {
        name: "openssl_version_before",
        arguments: 1,
        holds: |_, _| Err(without("OpenSSL", "openssl_version_before")),
    },
    Predicate {
        name: "ssllib_name_startswith",
        arguments: 1,
        holds: |_, _| Ok(false),
    },
    Predicate {
        name: "awslc_api_atleast",
        arguments: 1,
        holds: |_, _| Err(without("AWS-LC", "awslc_api_atleast")),
    },
    Predicate {
        name: "awslc_api_before",
        arguments: 1,
        holds: |_, _| Err(without("AWS-LC", "awslc_api_before")),
    },
    Predicate {
        name: "enabled",
        arguments: 1,
        holds: |world, a| Ok(world.features.enabled.contains(&&a[0][..])),
    },
    Predicate {
        name: "fips_mode",
        arguments: 0,
        holds: |_, _| Ok(false),
    },
];

fn without(library: &str, predicate: &str) -> (String, &'static str) {
    let message = format!("`{predicate}` has no answer without {library}");
    (message, "write it after `feature(OPENSSL) &&`")
}

/// HAProxy takes a text that is no version for an old one, and goes on.
fn is_at_least(world: World<'_>, text: &str) -> Answer {
    match Version::parse(text) {
        Some(version) => Ok(world.features.version >= version),
        None => Err((
            format!("`{text}` is no version"),
            "expected like 3.4 or 3.4.1",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(start: u32, end: u32) -> Place {
        Place {
            file: 0,
            line: 1,
            start,
            end,
        }
    }

    fn eval(text: &str) -> Result<bool, Diagnostic> {
        let mut environment = Environment::default();
        environment.set("SET", "");
        let world = World {
            environment: &environment,
            features: &Features::default(),
        };
        let mut at = 4;
        let mut words = Vec::new();
        for word in text.split(' ') {
            if !word.is_empty() {
                words.push(Word::plain(word, place(at, at + word.len() as u32)));
            }
            at += word.len() as u32 + 1;
        }
        evaluate(&words, world)
    }

    #[test]
    fn conditions_are_true_or_false_as_in_haproxy() {
        let table = [
            ("", false),
            ("0", false),
            ("1", true),
            ("-3", true),
            ("0x10", true),
            ("00", false),
            ("!0", true),
            ("! ! 1", true),
            ("1 && 0", false),
            ("0 || 1", true),
            ("1||0&&0", true),
            ("(1||0)&&0", false),
            ("( 1 ) && !( 0 )", true),
            ("defined(SET)", true),
            ("defined(UNSET)", false),
            ("!defined(UNSET) && 1", true),
            ("streq(a,a)", true),
            ("streq(a,'a')", true),
            ("streq(a,\"b\")", false),
            ("streq(,)", true),
            ("streq('a,b)',\"a,b)\")", true),
            ("streq(a\\ b,'a b')", true),
            ("strneq(a,b)", true),
            ("strstr(haproxy,prox)", true),
            ("strstr(haproxy,)", true),
            ("version_atleast(2.4)", true),
            ("version_atleast(3.4)", true),
            ("version_atleast(3.5-dev5)", false),
            ("version_atleast(10)", false),
            ("version_before(3.5)", true),
            ("version_before(2.6)", false),
            ("feature(THREAD)", true),
            ("feature(PORTCULLIS)", true),
            ("feature(OPENSSL)", false),
            ("feature(THREA)", false),
            ("enabled(EPOLL)", true),
            ("enabled(KQUEUE)", false),
            ("feature(OPENSSL) && openssl_version_atleast(3.0)", false),
            ("1 || openssl_version_before(3.0)", true),
            ("ssllib_name_startswith(OpenSSL)", false),
            ("fips_mode()", false),
            ("!fips_mode", true),
        ];
        for (text, expected) in table {
            assert_eq!(eval(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bad_conditions_are_placed_where_they_go_wrong() {
        // Columns count from the beginning of the line, where `.if ` takes four.
        let table = [
            ("unknown(1)", 4..11),
            ("defind(A)", 4..10),
            ("1 &&", 8..8),
            ("1 && || 1", 9..11),
            ("(1", 4..5),
            ("(1 && (0)", 4..5),
            ("1 1", 6..7),
            ("1)", 5..6),
            ("streq(a)", 9..12),
            ("streq(a,b,c)", 9..16),
            ("streq(a,b", 9..10),
            ("streq", 4..9),
            ("fips_mode(x)", 13..16),
            ("openssl_version_atleast(3.0)", 4..32),
            ("1 && ! x", 11..12),
            ("!", 5..5),
            ("version_atleast(new)", 4..24),
        ];
        for (text, range) in table {
            let error = eval(text).unwrap_err();
            let found = error.place.unwrap();
            assert_eq!(found.start..found.end, range, "{text}: {}", error.message);
            assert_eq!(error.code, "bad-condition");
        }
        let deep = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
        assert!(eval(&deep).is_err());
        assert_eq!(eval(&format!("{}1", "!".repeat(50_001))), Ok(false));
    }
}
