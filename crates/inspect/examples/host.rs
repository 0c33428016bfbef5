//! Writes this host down, and tells how long that took: `host [PORT] [--all-netns] [--no-bpf] [--quiet]`.

use std::io::Write as _;
use std::time::Instant;

use portcullis_inspect::{Focus, Means, Others, Wanted, Worlds, read};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut wanted = Wanted::default();
    let mut quiet = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--all-netns" => wanted.others = Others::Yes,
            "--no-bpf" => wanted.means = Means::Descriptors,
            "--quiet" => quiet = true,
            port => wanted.port = Some(port.parse()?),
        }
    }
    let start = Instant::now();
    let snapshot = read(&wanted)?;
    let reading = start.elapsed();
    if !quiet {
        std::io::stdout().write_all(snapshot.render()?.as_bytes())?;
    }
    let start = Instant::now();
    let focus = Focus {
        port: wanted.port,
        near: 100,
    };
    let worlds = Worlds::of(&snapshot, focus)?;
    let modelling = start.elapsed();
    let sockets: usize = snapshot
        .namespaces
        .iter()
        .map(|net| net.sockets.len())
        .sum();
    writeln!(
        std::io::stderr(),
        "{sockets} sockets, {} processes: read in {:.1} ms; {} worlds in {:.1} ms",
        snapshot.processes.len(),
        reading.as_secs_f64() * 1e3,
        worlds.possible.len(),
        modelling.as_secs_f64() * 1e3,
    )?;
    Ok(())
}
