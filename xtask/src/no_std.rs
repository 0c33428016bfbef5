//! The kernel model needs no `std`.
//!
//! Decides:  a program with a panic handler and an allocator of its own is built on the model, and run. The
//!           compiler refuses two panic handlers, and `std` brings one: so it stays away, and what brings it.
//! Not here: what the model answers; one bind is refused, to show that it is the model that was linked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::workspace::{self, Failure};

/// As the program calls it.
const LIBRARY: &str = "portcullis_kernel_model";
/// Ends with 0 where the second bind to a port is refused.
const PROGRAM: &str = r#"
use portcullis_kernel_model::*;

fn run() -> bool {
    let mut world = World::new(Host::new(Kernel::V6_18));
    let Ok(ip) = "127.0.0.1".parse() else {
        return false;
    };
    let first = world.socket(ProcessId(0), Family::Inet);
    let second = world.socket(ProcessId(0), Family::Inet);
    let bind = Call::Bind(SockAddr::new(ip, 443));
    world.call(first, bind) == Answer::Ok
        && world.call(second, bind) == Answer::Err(Errno::EADDRINUSE)
}
"#;
/// What a program without `std` brings itself. The C library is there for its start and for memcpy.
const GROUND: &str = r#"#![no_std]
#![no_main]
use core::alloc::{GlobalAlloc, Layout};
use core::sync::atomic::{AtomicUsize, Ordering};

/// Hands out what is left of its room, and takes nothing back.
struct Bump(AtomicUsize);
const ROOM: usize = 1 << 22;
static mut MEMORY: [u8; ROOM] = [0; ROOM];

unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let wanted = layout.size() + layout.align();
        let at = self.0.fetch_add(wanted, Ordering::Relaxed);
        if at + wanted > ROOM {
            return core::ptr::null_mut();
        }
        let start = (&raw mut MEMORY).cast::<u8>().wrapping_add(at);
        start.wrapping_add(start.align_offset(layout.align()))
    }
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static ALLOCATOR: Bump = Bump(AtomicUsize::new(0));

#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The compiler's own libraries were built to unwind, and ask for it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn main() -> i32 {
    if run() { 0 } else { 1 }
}
"#;

/// Builds the model and the program with nothing but `core` and `alloc`, and runs it.
pub fn check() -> Result<(), Failure> {
    let root = workspace::root();
    let model = root.join("crates/kernel-model/src/lib.rs");
    build_and_run(&model, PROGRAM, &root.join("target/no-std"))?;
    println!("a program of `core`, `alloc` and the kernel model was built, and ran");
    Ok(())
}

fn build_and_run(library: &Path, program: &str, room: &Path) -> Result<(), Failure> {
    fs::create_dir_all(room)?;
    let built: PathBuf = room.join(format!("lib{LIBRARY}.rlib"));
    let mut first = rustc(room, library);
    first.args(["--crate-type", "rlib", "--crate-name", LIBRARY]);
    must(&mut first)?;
    let (text, name) = (room.join("program.rs"), room.join("program"));
    fs::write(&text, format!("{GROUND}{program}"))?;
    let mut second = rustc(room, &text);
    second.args(["--crate-type", "bin", "--crate-name", "program"]);
    second
        .arg("--extern")
        .arg(format!("{LIBRARY}={}", built.display()));
    must(second.args(["-l", "c", "-l", "gcc_s"]))?;
    must(&mut Command::new(name))
}

/// The compiler of this toolchain. It is given no crate, so that the library has no dependencies either.
fn rustc(room: &Path, source: &Path) -> Command {
    let program = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(program);
    // The `rustc` that rustup installs takes a toolchain from the directory.
    command.current_dir(workspace::root());
    command.args(["--edition", "2024", "-C", "panic=abort", "--cap-lints"]);
    command
        .arg("allow")
        .arg("--out-dir")
        .arg(room)
        .arg(source)
        .env_remove("RUSTC_WRAPPER");
    command
}

fn must(command: &mut Command) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if done.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("{name}: {}\n{said}", done.status).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKS: &str = "fn run() -> bool { portcullis_kernel_model::seven().len() == 7 }";

    /// Whether a program on this library is built and runs, or why not.
    fn built(name: &str, library: &str) -> Result<(), String> {
        let room = workspace::root().join("target/no-std-tests").join(name);
        fs::create_dir_all(&room).unwrap();
        let file = room.join("lib.rs");
        fs::write(&file, library).unwrap();
        build_and_run(&file, ASKS, &room).map_err(|error| error.to_string())
    }

    #[test]
    fn a_library_of_core_and_alloc_alone_is_accepted() {
        let library = "#![no_std]\nextern crate alloc;\n\
             pub fn seven() -> alloc::vec::Vec<u8> { alloc::vec![1; 7] }";
        assert_eq!(built("without", library), Ok(()));
    }

    #[test]
    fn a_library_that_brings_std_is_refused() {
        let rows = [
            (
                "crate",
                "#![no_std]\nextern crate alloc;\nextern crate std;\n\
                 pub fn seven() -> alloc::vec::Vec<u8> { alloc::vec![1; 7] }",
            ),
            ("whole", "pub fn seven() -> Vec<u8> { vec![1; 7] }"),
        ];
        for (name, library) in rows {
            let why = built(name, library).unwrap_err();
            assert!(why.contains("panic_impl"), "{name}: {why}");
        }
    }

    #[test]
    fn a_program_that_answers_otherwise_is_told() {
        let library = "#![no_std]\npub fn seven() -> &'static [u8] { &[] }";
        let why = built("other", library).unwrap_err();
        assert!(why.contains("exit status: 1"), "{why}");
    }
}
