//! `cargo xtask conformance --kernel NAME`: the run on another kernel, in an emulated machine.
//!
//! Decides:  how the machine is made: the program, linked statically, is its first process, the archive
//!           that it starts from holds nothing else but modules, scenarios and options; that it ends in
//!           time; what of its output is the result.
//! Kernel:   Documentation/admin-guide/kernel-parameters.txt: `console`, `panic`, `quiet`
//! Not here: which packages a kernel is in (packages.rs); what happens inside (crates/conformance,
//!           guest.rs). CI does not run this: emulation is slow, and it fetches packages.

mod archive;
mod packages;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use archive::Archive;
use packages::Unpacked;

use crate::workspace::{self, Failure};

const EMULATOR: &str = "qemu-system-x86_64";
/// The target of this host, named so that a static program does not make proc macros static too.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Where the scenarios are, in the sources and in the machine.
const CASES: &str = "crates/kernel-model/cases";
/// What interfaces are made of. What a kernel has built in is no module.
const MODULES: &[&str] = &["veth", "dummy", "vrf"];
const MEMORY: &str = "1024";
const PROCESSORS: &str = "2";
/// A restart ends the machine (`-no-reboot`), and so does a panic.
const PARAMETERS: &str = "console=ttyS0 quiet panic=-1";
/// Lines of the machine's console that are shown where it ended early.
const CONSOLE_LINES: usize = 25;
/// Written by crates/conformance, guest.rs.
const ENDED: &str = "guest: exit status ";

/// Fetches the kernel, builds the program, runs the machine with the run's options.
pub fn run(
    name: &str,
    mirror: Option<&str>,
    limit: Duration,
    options: &[String],
) -> Result<(), Failure> {
    let root = workspace::root();
    let directory = root.join("target/guest");
    fs::create_dir_all(&directory)?;
    let kernel = packages::unpacked(name, mirror, &directory)?;
    let program = build(&root)?;
    println!("{}: {}", kernel.package, kernel.version);
    let archive = directory.join(format!("{}.cpio", kernel.package));
    fs::write(&archive, contents(&root, &kernel, &program, options)?)?;
    emulate(&kernel, &archive, limit)
}

/// The program for the machine, which has no shared libraries.
fn build(root: &Path) -> Result<PathBuf, Failure> {
    let mut cargo = workspace::cargo(root);
    cargo.args(["build", "--release", "--quiet", "-p"]);
    cargo.args(["portcullis-conformance", "--target", TARGET]);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("cargo build: {status}").into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join(TARGET).join("release/conformance"))
}

/// The archive that becomes the machine's file system.
fn contents(
    root: &Path,
    kernel: &Unpacked,
    program: &Path,
    options: &[String],
) -> Result<Vec<u8>, Failure> {
    let mut archive = Archive::default();
    for name in ["dev", "proc", "sys", "modules"] {
        archive.directory(name);
    }
    archive.console();
    archive.program("init", &fs::read(program)?);
    let mut list = String::new();
    for (name, module) in kernel.modules(MODULES)? {
        let path = format!("modules/{name}.ko");
        archive.file(&path, &module);
        list += &format!("/{path}\n");
    }
    archive.file("modules.list", list.as_bytes());
    let options: String = options.iter().map(|option| format!("{option}\n")).collect();
    archive.file("options", options.as_bytes());
    let mut above = String::new();
    for part in CASES.split('/') {
        above += part;
        archive.directory(&above);
        above.push('/');
    }
    let mut cases: Vec<PathBuf> = fs::read_dir(root.join(CASES))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    cases.sort();
    for case in cases {
        let name = case.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("{above}{name}"), &fs::read(&case)?);
    }
    Ok(archive.end())
}

/// Runs the machine; its result is what it writes on its second serial line.
fn emulate(kernel: &Unpacked, archive: &Path, limit: Duration) -> Result<(), Failure> {
    let console = archive.with_extension("console");
    let mut qemu = Command::new(EMULATOR);
    // No KVM: a host that is a machine itself may offer one that does not work.
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults"]);
    qemu.args(["-smp", PROCESSORS, "-m", MEMORY, "-no-reboot"]);
    qemu.args(["-display", "none", "-monitor", "none"]);
    qemu.arg("-serial");
    qemu.arg(format!("file:{}", console.display()));
    qemu.args(["-serial", "stdio", "-append", PARAMETERS]);
    qemu.arg("-kernel").arg(&kernel.image);
    qemu.arg("-initrd").arg(archive);
    qemu.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut machine = qemu.spawn().map_err(|error| {
        format!("cannot run {EMULATOR}: {error} (Debian's package is qemu-system-x86)")
    })?;
    let lines = lines_of(&mut machine)?;
    let status = follow(&lines, limit);
    // It ends by itself once the result is out, unless something is wrong.
    if status.is_err() {
        machine.kill()?;
    }
    machine.wait()?;
    match status {
        Ok(code) => super::ended("conformance in the machine", Some(code)),
        Err(why) => Err(format!("{why}; its console ends:\n{}", tail(&console)).into()),
    }
}

/// The lines that the machine writes, read by a thread so that waiting for one has a limit.
fn lines_of(machine: &mut Child) -> Result<Receiver<String>, Failure> {
    let output = machine.stdout.take().ok_or("the machine has no output")?;
    let (to, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            if to.send(line.trim_end_matches('\r').to_owned()).is_err() {
                return;
            }
        }
    });
    Ok(lines)
}

/// Shows the machine's lines as they come, up to the one with its exit status.
fn follow(lines: &Receiver<String>, limit: Duration) -> Result<i32, String> {
    let end = Instant::now() + limit;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => match line.strip_prefix(ENDED) {
                Some(code) => {
                    let code = code.trim().parse();
                    return code.map_err(|_| format!("no exit status: {line}"));
                }
                None => println!("{line}"),
            },
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!("the machine did not end within {limit:?}"));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err("the machine ended without a result".to_owned());
            }
        }
    }
}

fn tail(console: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = fs::File::open(console) {
        // What was read before an error is shown.
        let _ = file.read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Result<i32, String> {
        let (to, from) = channel();
        for line in lines {
            to.send((*line).to_owned()).unwrap();
        }
        drop(to);
        follow(&from, Duration::from_secs(5))
    }

    #[test]
    fn the_machines_exit_status_is_the_runs() {
        assert_eq!(said(&["steps=1", "guest: exit status 0"]), Ok(0));
        assert_eq!(said(&["guest: exit status 1"]), Ok(1));
    }

    #[test]
    fn a_machine_without_a_result_has_failed() {
        assert!(said(&["steps=1 disagreements=0"]).is_err());
        assert!(said(&["guest: exit status x"]).is_err());
    }

    #[test]
    fn a_machine_that_does_not_end_is_not_waited_for() {
        let (_open, from) = channel();
        assert!(follow(&from, Duration::from_millis(10)).is_err());
    }
}
