//! haproxy.cfg to a typed configuration, with diagnostics. Opens nothing.

pub mod address;
mod condition;
pub mod diagnostic;
pub mod environment;
pub mod features;
pub mod files;
pub mod lexer;
pub mod load;
pub mod model;
pub mod render;
pub mod source;
pub mod suggest;
pub mod syntax;
pub mod units;

pub use diagnostic::{Diagnostic, Diagnostics, Severity};
pub use environment::Environment;
pub use features::Features;
pub use files::{Files, HostFiles, MemoryFiles};
pub use load::load_document;
pub use model::Config;
pub use source::{At, Place, Sources};
pub use syntax::{Document, Line, Section, SectionKind, Word};
