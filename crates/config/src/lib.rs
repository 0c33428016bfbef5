//! haproxy.cfg to a typed configuration, with diagnostics. Opens nothing.

pub mod diagnostic;
pub mod model;
pub mod source;

pub use diagnostic::{Diagnostic, Severity};
pub use model::Config;
pub use source::{Place, Sources};
