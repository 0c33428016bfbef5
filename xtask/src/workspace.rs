//! Where the sources are and what the workspace consists of.
//!
//! Decides:  the files of the project are those that git knows or would add.
//! Source:   `cargo metadata --format-version 1`, `git ls-files`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What a chore can fail with: one line for the user.
pub type Failure = Box<dyn std::error::Error>;

/// A failure whose exit code means something.
#[derive(Debug)]
pub struct Ended {
    /// What is said of it.
    pub message: String,
    /// The chore's exit code.
    pub code: u8,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Ended {}

/// With what a chore that failed ends.
pub fn exit_code(failure: &Failure) -> u8 {
    failure.downcast_ref().map_or(1, |ended: &Ended| ended.code)
}

/// A package of the workspace, or of the fuzzing workspace beside it.
#[derive(Debug, Clone, Default)]
pub struct Package {
    /// As in its Cargo.toml.
    pub name: String,
    /// Its directory below the root.
    pub directory: PathBuf,
    /// Root source files of its targets, below the root.
    pub targets: Vec<PathBuf>,
    /// What it depends on.
    pub dependencies: Vec<Dependency>,
}

/// One dependency of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The package depended on.
    pub name: String,
    /// Tests and examples only?
    pub only_tests: bool,
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// All files of the project, below the root, sorted.
pub fn files(root: &Path) -> Result<Vec<PathBuf>, Failure> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listed = output(git.current_dir(root))?;
    let mut files: Vec<PathBuf> = listed
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|file| root.join(file).is_file())
        .collect();
    files.sort();
    files.dedup();
    Ok(files)
}

/// The packages of the workspace and, where it exists, of `fuzz/`.
pub fn packages(root: &Path) -> Result<Vec<Package>, Failure> {
    let mut packages = metadata(root, "Cargo.toml")?;
    if root.join("fuzz/Cargo.toml").exists() {
        packages.extend(metadata(root, "fuzz/Cargo.toml")?);
    }
    Ok(packages)
}

fn metadata(root: &Path, manifest: &str) -> Result<Vec<Package>, Failure> {
    let mut cargo = cargo(root);
    cargo.args([
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
        "--manifest-path",
        manifest,
    ]);
    let parsed: Value = serde_json::from_str(&output(&mut cargo)?)?;
    Ok(list(&parsed, "packages")
        .iter()
        .map(|package| read(root, package))
        .collect())
}

fn read(root: &Path, package: &Value) -> Package {
    let below = |path: &Value| {
        let path = Path::new(path.as_str().unwrap_or_default());
        path.strip_prefix(root).unwrap_or(path).to_owned()
    };
    let manifest = below(&package["manifest_path"]);
    Package {
        name: text(&package["name"]),
        directory: manifest.parent().unwrap_or(Path::new("")).to_owned(),
        targets: list(package, "targets")
            .iter()
            .map(|target| below(&target["src_path"]))
            .collect(),
        dependencies: list(package, "dependencies")
            .iter()
            .map(|dependency| Dependency {
                name: text(&dependency["name"]),
                only_tests: dependency["kind"] == "dev",
            })
            .collect(),
    }
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The cargo that runs this chore, in the root.
pub fn cargo(root: &Path) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root);
    command
}

fn output(command: &mut Command) -> Result<String, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if !done.status.success() {
        return Err(format!("{name} failed: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
