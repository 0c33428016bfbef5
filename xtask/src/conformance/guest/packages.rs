//! A kernel from a distribution's packages.
//!
//! Decides:  which package a name means; that packages come through apt, with lists of our own, checked
//!           with the distribution's keys, and are unpacked under target/, never installed.
//! Source:   apt-get(8), `indextargets` and `download`; sources.list(5); dpkg-deb(1)
//! Not here: what is done with a kernel (mod.rs).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::workspace::Failure;

/// Debian's releases that have kernels of interest, oldest first.
const DEBIAN: &[&str] = &[
    "bullseye",
    "bookworm",
    "bookworm-backports",
    "trixie",
    "trixie-backports",
];
/// Those of its security archive.
const SECURITY: &[&str] = &["bullseye-security", "bookworm-security", "trixie-security"];
/// Ubuntu's, which have kernels from 4.4 on.
const UBUNTU: &[&str] = &[
    "xenial",
    "xenial-updates",
    "bionic-updates",
    "focal-updates",
    "jammy-updates",
    "noble-updates",
];
const DEBIAN_KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// In Debian's package of them, which is not installed.
const UBUNTU_KEYS: &str = "usr/share/keyrings/ubuntu-archive-keyring.gpg";
const UBUNTU_KEYS_PACKAGE: &str = "ubuntu-keyring";
/// The series that `debian` alone means.
const DEFAULT_SERIES: &str = "6.1";
/// Lists are fetched afresh when they are older.
const LISTS_AGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Debian's kernels without drivers for real hardware; Ubuntu's usual ones.
const DEBIAN_FLAVOUR: &str = "-cloud-amd64";
const UBUNTU_FLAVOUR: &str = "-generic";
/// What kernels are split into; each has some of them.
const PARTS: &[&str] = &["linux-image-", "linux-binary-", "linux-modules-"];

/// A kernel that was unpacked.
#[derive(Debug)]
pub struct Unpacked {
    /// The release with its flavour, as `uname -r` says.
    pub package: String,
    /// The package's version.
    pub version: String,
    /// The bootable image.
    pub image: PathBuf,
    /// Module files by name.
    modules: BTreeMap<String, PathBuf>,
}

/// Fetches and unpacks the newest kernel of a name: `debian`, `debian-6.12`, or `ubuntu-4.4`, whose
/// mirror must be given.
pub fn unpacked(name: &str, mirror: Option<&str>, directory: &Path) -> Result<Unpacked, Failure> {
    let (distribution, series) = name.split_once('-').unwrap_or((name, DEFAULT_SERIES));
    let known = series.starts_with(|c: char| c.is_ascii_digit());
    let debian = || Apt::debian(&directory.join("apt"));
    let apt = match distribution {
        "debian" if known => debian()?,
        "ubuntu" if known => {
            let mirror = mirror.ok_or("Ubuntu's kernels need `--mirror URI`, of its archive")?;
            Apt::ubuntu(&directory.join("apt-ubuntu"), mirror, &debian()?)?
        }
        _ => {
            let known = "debian, debian-6.12 or ubuntu-4.4, or another series";
            return Err(format!("no kernel `{name}`: {known}").into());
        }
    };
    let package = apt.newest(series)?;
    let place = directory.join(&package);
    if !place.join("version").exists() {
        apt.unpack(&package, &place)?;
    }
    let mut files = Vec::new();
    walk(&place, &mut files)?;
    let image = files
        .iter()
        .find(|file| file_name(file).starts_with("vmlinuz"));
    let image = image.ok_or("the package holds no vmlinuz")?.clone();
    let modules = files.into_iter().filter_map(|file| {
        let name = file_name(&file);
        let name = name.split_once(".ko")?.0.replace('-', "_");
        Some((name, file))
    });
    Ok(Unpacked {
        modules: modules.collect(),
        version: fs::read_to_string(place.join("version"))?,
        package,
        image,
    })
}

impl Unpacked {
    /// The contents of these modules and of those that they need, which come first. One that the
    /// package does not have is built in.
    pub fn modules(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let mut found: Vec<(String, Vec<u8>)> = Vec::new();
        for name in wanted {
            self.module(name, &mut found)?;
        }
        Ok(found)
    }

    fn module(&self, name: &str, found: &mut Vec<(String, Vec<u8>)>) -> Result<(), Failure> {
        let Some(file) = self.modules.get(&name.replace('-', "_")) else {
            return Ok(());
        };
        if found.iter().any(|module| module.0 == name) {
            return Ok(());
        }
        let contents = decompressed(file)?;
        for needed in depends(&contents) {
            self.module(&needed, found)?;
        }
        found.push((name.to_owned(), contents));
        Ok(())
    }
}

/// The modules that a module says it needs (`.modinfo`, `depends=A,B`).
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let rest = &module[at + KEY.len()..];
    let end = rest.iter().position(|&byte| byte == 0);
    let text = String::from_utf8_lossy(&rest[..end.unwrap_or(0)]);
    let names = text.split(',').filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn decompressed(file: &Path) -> Result<Vec<u8>, Failure> {
    let tool = match file.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return Ok(fs::read(file)?),
    };
    output(Command::new(tool).arg("-dc").arg(file))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// Apt with lists and a cache of its own; the system's are only read.
struct Apt {
    directory: PathBuf,
    flavour: &'static str,
}

impl Apt {
    /// Debian, from the mirrors that this host has for it.
    fn debian(directory: &Path) -> Result<Apt, Failure> {
        let apt = Apt::new(directory, DEBIAN_FLAVOUR)?;
        apt.update(&debian_sources()?)?;
        Ok(apt)
    }

    /// Ubuntu, from a mirror; its keys come from Debian.
    fn ubuntu(directory: &Path, mirror: &str, debian: &Apt) -> Result<Apt, Failure> {
        let apt = Apt::new(directory, UBUNTU_FLAVOUR)?;
        let keys = directory.join(UBUNTU_KEYS);
        if !keys.exists() {
            debian.extract(UBUNTU_KEYS_PACKAGE, directory)?;
        }
        let keys = fs::canonicalize(keys)?;
        let lines = UBUNTU.iter().map(|suite| {
            let keys = keys.display();
            format!("deb [signed-by={keys}] {mirror} {suite} main\n")
        });
        apt.update(&lines.collect::<String>())?;
        Ok(apt)
    }

    fn new(directory: &Path, flavour: &'static str) -> Result<Apt, Failure> {
        for name in ["lists/partial", "cache/archives/partial", "parts", "deb"] {
            fs::create_dir_all(directory.join(name))?;
        }
        Ok(Apt {
            directory: directory.to_owned(),
            flavour,
        })
    }

    /// Fetches the lists, unless those here are of the same sources and young.
    fn update(&self, sources: &str) -> Result<(), Failure> {
        let list = self.directory.join("sources.list");
        let stamp = self.directory.join("fetched");
        let age = fs::metadata(&stamp).and_then(|file| file.modified());
        let young = age.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < LISTS_AGE_MAX));
        if young && fs::read_to_string(&list).is_ok_and(|old| old == sources) {
            return Ok(());
        }
        fs::write(list, sources)?;
        output(self.command("apt-get").arg("update"))?;
        fs::write(stamp, "")?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |name: &str| self.directory.join(name).display().to_string();
        for (key, value) in [
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", at("parts")),
            ("Dir::State::lists", at("lists")),
            ("Dir::Cache", at("cache")),
            ("APT::Sandbox::User", "root".to_owned()),
            (
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
                "false".to_owned(),
            ),
            ("Acquire::Languages", "none".to_owned()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command
    }

    /// The newest release of a series, `6.1.0-56-cloud-amd64`.
    fn newest(&self, series: &str) -> Result<String, Failure> {
        let pattern = format!("^linux-image-{}[.+-]", series.replace('.', "\\."));
        let mut search = self.command("apt-cache");
        let found = text(search.args(["--names-only", "search", &pattern]))?;
        let releases = found.lines().filter_map(|line| {
            let name = line.split_whitespace().next()?;
            let release = name.strip_prefix("linux-image-")?;
            // The packages that only name the newest have no number behind the series.
            let number = release.strip_suffix(self.flavour)?;
            (number != series).then(|| release.to_owned())
        });
        let newest = releases.max_by(|a, b| natural(a, b));
        newest.ok_or_else(|| format!("no kernel {series} is offered").into())
    }

    fn unpack(&self, release: &str, place: &Path) -> Result<(), Failure> {
        let mut version = String::new();
        for part in PARTS {
            let package = format!("{part}{release}");
            let mut show = self.command("apt-cache");
            show.args(["show", "--no-all-versions", &package]);
            let Ok(shown) = text(&mut show) else {
                continue;
            };
            if let Some(line) = shown.lines().find_map(|l| l.strip_prefix("Version: ")) {
                version = line.to_owned();
            }
            self.extract(&package, place)?;
        }
        fs::write(place.join("version"), version)?;
        Ok(())
    }

    /// Fetches one package and unpacks it.
    fn extract(&self, package: &str, place: &Path) -> Result<(), Failure> {
        println!("fetching {package}");
        let debs = self.directory.join("deb");
        let mut download = self.command("apt-get");
        output(download.args(["download", package]).current_dir(&debs))?;
        for entry in fs::read_dir(&debs)? {
            let deb = entry?.path();
            if file_name(&deb).starts_with(&format!("{package}_")) {
                output(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(place))?;
                fs::remove_file(&deb)?;
            }
        }
        Ok(())
    }
}

/// The lines of our list of sources: the mirrors that this host has for Debian itself.
fn debian_sources() -> Result<String, Failure> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(REPO_URI) $(LABEL)"]);
    let known = text(apt.arg("Created-By: Packages"))?;
    let mirror = |label: &str| {
        let mut lines = known.lines().filter_map(|line| line.split_once(' '));
        lines.find(|line| line.1 == label).map(|line| line.0)
    };
    let main = mirror("Debian").ok_or("apt knows no mirror of Debian here")?;
    let security = mirror("Debian-Security");
    let mut lines = String::new();
    for suite in DEBIAN {
        lines += &format!("deb [signed-by={DEBIAN_KEYS}] {main} {suite} main\n");
    }
    for suite in security.iter().flat_map(|_| SECURITY) {
        let uri = security.unwrap_or_default();
        lines += &format!("deb [signed-by={DEBIAN_KEYS}] {uri} {suite} main\n");
    }
    Ok(lines)
}

/// Numbers as numbers, all else as text.
fn natural(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        let mut parts = vec![(0, String::new())];
        let mut in_number = false;
        for c in text.chars() {
            if c.is_ascii_digit() && !in_number {
                parts.push((0, String::new()));
            }
            in_number = c.is_ascii_digit();
            if let Some(last) = parts.last_mut() {
                match c.to_digit(10) {
                    Some(digit) => last.0 = last.0 * 10 + u64::from(digit),
                    None => last.1.push(c),
                }
            }
        }
        parts
    };
    parts(a).cmp(&parts(b))
}

fn output(command: &mut Command) -> Result<Vec<u8>, Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command
        .output()
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if !done.status.success() {
        return Err(format!("{name} failed: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    Ok(done.stdout)
}

fn text(command: &mut Command) -> Result<String, Failure> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_their_numbers() {
        let mut releases = [
            "6.12.117+deb12-cloud-amd64",
            "6.1.0-56-cloud-amd64",
            "6.12.94+deb13-cloud-amd64",
            "6.1.0-0.deb11.52-cloud-amd64",
            "5.10.0-46-cloud-amd64",
        ];
        releases.sort_by(|a, b| natural(a, b));
        assert_eq!(
            releases,
            [
                "5.10.0-46-cloud-amd64",
                "6.1.0-0.deb11.52-cloud-amd64",
                "6.1.0-56-cloud-amd64",
                "6.12.94+deb13-cloud-amd64",
                "6.12.117+deb12-cloud-amd64",
            ]
        );
    }

    #[test]
    fn what_a_module_needs_is_in_its_information() {
        let module = b"\x7fELF..license=GPL\0depends=llc,stp\0retpoline=Y\0";
        assert_eq!(depends(module), ["llc", "stp"]);
        assert_eq!(depends(b"license=GPL\0depends=\0name=veth\0"), [""; 0]);
    }

    #[test]
    fn another_name_is_refused() {
        let nowhere = Path::new("/nonexistent");
        let names = [
            "",
            "fedora",
            "debian6.1",
            "debian-",
            "debian-sid",
            "ubuntu-4.4",
        ];
        for name in names {
            assert!(unpacked(name, None, nowhere).is_err(), "{name}");
        }
    }
}
