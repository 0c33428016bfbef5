//! Every sysctl with every kind of text, in the model and on the live kernel.
//!
//! Decides:  the texts; that a write answers the same in both worlds and leaves the same value behind.
//! Kernel:   kernel/sysctl.c, proc_get_long(); net/ipv4/sysctl_net_ipv4.c
//! Not here: what a value does (the cases); who may write (gaps.toml).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io;

use portcullis_kernel_model::{Host, NetId, Sysctl, Sysctls, World};

/// Texts for any sysctl.
const TEXTS: &[&str] = &[
    "\n",
    " ",
    "0",
    "1",
    "2",
    "3",
    "7",
    "-0",
    "-1",
    "-2",
    "255",
    "256",
    "65535",
    "65536",
    "60000",
    "60001",
    "1024",
    "1023",
    "32767",
    "32768",
    "32769",
    "40000",
    "2147483647",
    "2147483648",
    "-2147483648",
    "-2147483649",
    "4294967295",
    "4294967296",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999",
    "00000000000000000001",
    "000000000000000000001",
    "-0000000000000000001",
    "-00000000000000000001",
    "0x10",
    "0X1F",
    "0x",
    "0xg",
    "010",
    "0377",
    "08",
    "0b1",
    "1 2",
    "1,2",
    "1 x",
    "1x",
    "x",
    "1\tx",
    " 1",
    "\t1",
    "\n1",
    "\u{b}1",
    "1\r",
    "1\n2",
    "+1",
    "--1",
    "- 1",
    "-",
    "1-",
    "1.5",
    "1 65535",
    "0 65535",
    "1024 65535",
    "1023 65535",
    "1024 65536",
    "5000 4000",
    "4000 4000",
    "40000 x",
    "40000\t50000",
    "40000  50000",
    "40000-50000",
    "40000,50000",
    "40000 50000 60000",
    "40000 50000x",
    "0x2000 0x3000",
    "40000 -1",
    "-1 40000",
    "80,90",
    "80, 90",
    "80 ,90",
    "80-90",
    "90-80",
    "80-80",
    "80,",
    ",80",
    "80,,90",
    "80-90-100",
    "80-",
    "-80",
    "80--90",
    "80,90-100,85",
    "80-90,85-95,96",
    "65535-65536",
    "65536-65537",
    "1-65535",
    "0-65535",
    "80\n90",
    "80\n\n90",
    "80-90\n",
    "0x50-0x5a",
    "80-90,",
];

#[test]
fn every_sysctl_takes_and_refuses_what_the_kernel_does() {
    portcullis_testkit::private_network(|| {
        let kernel = portcullis_conformance::worker::running_kernel().unwrap();
        let mut world = World::new(Host::new(kernel));
        for sysctl in Sysctl::ALL {
            // Some of the kernel's own values depend on the memory that there is.
            if std::fs::exists(path(sysctl)).unwrap() {
                write(sysctl, &format!("{}\n", sysctl.show(&Sysctls::default()))).unwrap();
            }
        }
        let mut writes = 0;
        // From the kernel's own values, and from a range and a first port that touch.
        for (range, start) in [
            ("32768 60999", "1024"),
            ("1024 60999", "1024"),
            ("1 60999", "0"),
        ] {
            for sysctl in Sysctl::ALL {
                for text in TEXTS {
                    set(&mut world, "ip_unprivileged_port_start", "0");
                    set(&mut world, "ip_local_port_range", range);
                    set(&mut world, "ip_unprivileged_port_start", start);
                    writes += usize::from(compare(&mut world, sysctl, text));
                }
            }
        }
        assert!(writes > 4_000, "{writes} writes");
    });
}

/// `false` where this kernel has no such file, and the model knows.
fn compare(world: &mut World, sysctl: &Sysctl, text: &str) -> bool {
    let live = write(sysctl, text);
    let model = world.write_sysctl(NetId(0), sysctl, text);
    assert_eq!(
        live.map_err(|error| error.raw_os_error().unwrap()),
        model.map_err(|errno| errno.number()),
        "{} = {text:?}",
        sysctl.name
    );
    let Ok(now) = std::fs::read_to_string(path(sysctl)) else {
        return false;
    };
    // What the file has now means the same as what the model has.
    let mut meant = World::new(world.host().clone());
    meant.write_sysctl(NetId(0), sysctl, &now).unwrap();
    let (meant, has) = (meant.host(), world.host());
    assert_eq!(
        meant.namespaces[0].sysctls, has.namespaces[0].sysctls,
        "{} = {text:?} became {now:?}",
        sysctl.name
    );
    true
}

fn set(world: &mut World, name: &str, text: &str) {
    let sysctl = Sysctl::find(name).unwrap();
    write(sysctl, text).unwrap();
    world.write_sysctl(NetId(0), sysctl, text).unwrap();
}

fn path(sysctl: &Sysctl) -> String {
    format!("/proc/sys/{}", sysctl.name.replace('.', "/"))
}

fn write(sysctl: &Sysctl, text: &str) -> io::Result<()> {
    // Not `fs::write`, which would make the file.
    let mut file = std::fs::OpenOptions::new().write(true).open(path(sysctl))?;
    io::Write::write_all(&mut file, text.as_bytes())
}
