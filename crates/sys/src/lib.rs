//! The system calls Portcullis makes that rustix lacks, one safe function each.

pub mod pass;
pub mod process;
