//! haproxy.cfg to a typed configuration, with diagnostics. Opens nothing.

pub mod address;
pub(crate) mod arguments;
pub mod build;
mod condition;
pub mod diagnostic;
pub mod environment;
pub mod features;
pub mod files;
pub(crate) mod keyword;
pub(crate) mod keywords;
pub mod lexer;
pub mod load;
pub mod model;
pub mod reference;
pub mod render;
pub(crate) mod report;
pub mod source;
pub mod suggest;
pub mod syntax;
mod understand;
pub mod units;

pub use build::{Outcome, build, load};
pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use environment::Environment;
pub use features::Features;
pub use files::{Files, HostFiles, MemoryFiles};
pub use load::load_document;
pub use model::Config;
pub use source::{At, Place, Sources};
pub use syntax::{Document, Line, Section, SectionKind, Word};
