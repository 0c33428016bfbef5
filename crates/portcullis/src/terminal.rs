//! Writing to the terminal, or to whatever is in its place.
//!
//! Decides:  that a reader who went away (a closed pipe) is no error, and when colours are used.
//! Not here: what is written.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

/// The first failure of [`out`].
static LOST: OnceLock<io::Error> = OnceLock::new();

/// Writes to standard output; a reader that went away is no error, and any other failure is told at the end
/// ([`lost`]).
pub fn out(text: &str) {
    if let Err(error) = try_out(text) {
        LOST.get_or_init(|| error);
    }
}

/// Why something that was written to standard output did not get there.
pub fn lost() -> Option<&'static io::Error> {
    LOST.get()
}

/// Writes to standard output, and says at once where that fails: a reader that went away is no error, and a
/// full disk is.
pub fn try_out(text: &str) -> io::Result<()> {
    try_out_again(text).map(|_| ())
}

/// Writes to standard output as [`try_out`] does, and says whether there is still somebody who reads.
pub fn try_out_again(text: &str) -> io::Result<Reader> {
    let mut stdout = io::stdout().lock();
    let written = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match written {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error),
    }
}

/// Who reads what is written to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    There,
    Gone,
}

/// Writes to standard error; a reader that went away is no error.
pub fn err(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// May colours be used on standard error?
pub fn err_colours() -> bool {
    colours(std::io::stderr().is_terminal())
}

/// May colours be used on standard output?
pub fn out_colours() -> bool {
    colours(std::io::stdout().is_terminal())
}

/// Whether standard output is a terminal.
pub fn out_is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// The columns and lines of the terminal that standard output is.
pub fn out_size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}

/// `NO_COLOR` (<https://no-color.org>): any value but the empty one turns them off.
fn colours(terminal: bool) -> bool {
    terminal
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}
