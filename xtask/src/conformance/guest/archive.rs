//! The archive that a kernel unpacks into its first file system.
//!
//! Decides:  the bytes of a cpio archive of the form "newc".
//! Kernel:   Documentation/driver-api/early-userspace/buffer-format.rst; init/initramfs.c, do_header()
//! Not here: what is in it (mod.rs).

/// Header and name, and contents, begin at multiples of this.
const ALIGNMENT: usize = 4;
const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// The name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// `/dev/console`: major 5, minor 1. Without it the first process has no output.
const CONSOLE: (u32, u32) = (5, 1);

/// An archive on its way. A directory comes before what is in it.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A directory.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, (0, 0), b"");
    }

    /// A file.
    pub fn file(&mut self, path: &str, contents: &[u8]) {
        self.entry(path, FILE, (0, 0), contents);
    }

    /// A file that can be run.
    pub fn program(&mut self, path: &str, contents: &[u8]) {
        self.entry(path, PROGRAM, (0, 0), contents);
    }

    /// `dev/console`.
    pub fn console(&mut self) {
        self.entry("dev/console", CHARACTER_DEVICE, CONSOLE, b"");
    }

    /// The whole.
    pub fn end(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, (0, 0), b"");
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let fields = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            contents.len() as u32,
            0, // device of the file, major and minor
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // checksum, of another form
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(contents);
        self.align();
    }

    fn align(&mut self) {
        let end = self.bytes.len().next_multiple_of(ALIGNMENT);
        self.bytes.resize(end, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_of_one_file_has_these_bytes() {
        let mut archive = Archive::default();
        archive.file("a", b"hello");
        let bytes = archive.end();
        let header = "070701\
            00000001000081A400000000000000000000000100000000\
            00000005000000000000000000000000000000000000000200000000";
        assert_eq!(&bytes[..110], header.as_bytes());
        assert_eq!(&bytes[110..112], b"a\0");
        assert_eq!(&bytes[112..120], b"hello\0\0\0");
        assert!(bytes[120..].starts_with(b"070701"));
        assert_eq!(bytes.len() % ALIGNMENT, 0);
    }

    #[test]
    fn the_archive_is_one_that_cpio_lists() {
        let mut archive = Archive::default();
        archive.directory("dev");
        archive.console();
        archive.program("init", b"#!");
        let mut child = match std::process::Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
        {
            Ok(child) => child,
            Err(error) => {
                println!("skipped: cpio cannot be run here: {error}");
                return;
            }
        };
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, &archive.end()).unwrap();
        drop(input);
        let listed = child.wait_with_output().unwrap();
        let text = String::from_utf8(listed.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" dev"));
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("5,   1"));
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].ends_with(" init"));
    }
}
