//! The sysctls that a script may set.
//!
//! Decides:  each one's name, file and place in the model's host, once.
//! Not here: what a sysctl does (the model).

use portcullis_kernel_model::Sysctls;

/// One sysctl.
#[derive(Debug, Clone, Copy)]
pub struct Sysctl {
    /// Its name, `net.ipv4.ip_local_port_range`; the file under /proc/sys has slashes.
    pub name: &'static str,
    set: fn(&mut Sysctls, &[u32]) -> Option<()>,
    show: fn(&Sysctls) -> String,
}

impl Sysctl {
    /// The sysctl of a name; its last part is enough where no other ends the same.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Sysctl> {
        let exact = ALL.iter().find(|sysctl| sysctl.name == name);
        let mut short = ALL
            .iter()
            .filter(|sysctl| sysctl.name.rsplit('.').next() == Some(name));
        exact.or_else(|| short.next().filter(|_| short.next().is_none()))
    }

    /// Sets it in the model's host: `None` for a value that it does not take.
    pub fn set(&self, sysctls: &mut Sysctls, text: &str) -> Option<()> {
        (self.set)(sysctls, &numbers(text)?)
    }

    /// Its value as the file has it.
    #[must_use]
    pub fn show(&self, sysctls: &Sysctls) -> String {
        (self.show)(sysctls)
    }
}

/// `1`, `32768 60999`, `8080,9000-9010` (pairs of ends then).
fn numbers(text: &str) -> Option<Vec<u32>> {
    if !text.contains([',', '-']) {
        return text
            .split_whitespace()
            .map(|word| word.parse().ok())
            .collect();
    }
    let mut out: Vec<u32> = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        out.push(low.trim().parse().ok()?);
        out.push(high.trim().parse().ok()?);
    }
    Some(out)
}

fn one(values: &[u32]) -> Option<u32> {
    match values {
        [value] => Some(*value),
        _ => None,
    }
}

fn switch(values: &[u32]) -> Option<bool> {
    one(values)
        .filter(|&value| value <= 1)
        .map(|value| value == 1)
}

fn port(value: u32) -> Option<u16> {
    u16::try_from(value).ok()
}

macro_rules! plain {
    ($name:literal, $field:ident, $read:expr) => {
        Sysctl {
            name: $name,
            set: |sysctls, values| {
                sysctls.$field = $read(values)?;
                Some(())
            },
            show: |sysctls| u32::from(sysctls.$field).to_string(),
        }
    };
}

/// Every sysctl that a script may set.
pub const ALL: &[Sysctl] = &[
    Sysctl {
        name: "net.ipv4.ip_local_port_range",
        set: |sysctls, values| match values {
            &[low, high] if 0 < low && low <= high => {
                sysctls.ip_local_port_range = (port(low)?, port(high)?);
                Some(())
            }
            _ => None,
        },
        show: |sysctls| {
            let (low, high) = sysctls.ip_local_port_range;
            format!("{low} {high}")
        },
    },
    Sysctl {
        name: "net.ipv4.ip_local_reserved_ports",
        set: |sysctls, values| {
            // One port without comma or dash comes as one number.
            let pairs: Vec<u32> = match values {
                &[port] => vec![port, port],
                values => values.to_vec(),
            };
            let mut ranges = Vec::new();
            for pair in pairs.chunks(2) {
                let &[low, high] = pair else { return None };
                if low > high {
                    return None;
                }
                ranges.push((port(low)?, port(high)?));
            }
            ranges.sort_unstable();
            sysctls.ip_local_reserved_ports = ranges;
            Some(())
        },
        show: |sysctls| {
            let ranges = sysctls.ip_local_reserved_ports.iter();
            ranges
                .map(|(low, high)| format!("{low}-{high}"))
                .collect::<Vec<_>>()
                .join(",")
        },
    },
    plain!(
        "net.ipv4.ip_unprivileged_port_start",
        ip_unprivileged_port_start,
        |v| one(v).and_then(port)
    ),
    plain!("net.ipv4.ip_nonlocal_bind", ip_nonlocal_bind, switch),
    plain!("net.ipv6.ip_nonlocal_bind", ip6_nonlocal_bind, switch),
    plain!("net.ipv4.ip_autobind_reuse", ip_autobind_reuse, switch),
    plain!("net.ipv6.bindv6only", bindv6only, switch),
    plain!("net.core.somaxconn", somaxconn, one),
    plain!("net.ipv4.tcp_max_syn_backlog", tcp_max_syn_backlog, one),
    plain!("net.ipv4.tcp_syncookies", tcp_syncookies, |v| one(v)
        .and_then(|n| u8::try_from(n).ok())),
    plain!("net.ipv4.tcp_fastopen", tcp_fastopen, one),
    plain!("net.ipv4.tcp_tw_reuse", tcp_tw_reuse, |v| one(v)
        .and_then(|n| u8::try_from(n).ok())),
    plain!("net.ipv4.tcp_tw_reuse_delay", tcp_tw_reuse_delay, one),
    plain!("net.ipv4.tcp_fin_timeout", tcp_fin_timeout, |v| one(v)
        .filter(|seconds| (1..=60).contains(seconds))),
    plain!(
        "net.ipv4.tcp_abort_on_overflow",
        tcp_abort_on_overflow,
        switch
    ),
    plain!("net.ipv4.tcp_no_metrics_save", tcp_no_metrics_save, switch),
    plain!("net.ipv4.tcp_migrate_req", tcp_migrate_req, switch),
    plain!("net.ipv4.tcp_l3mdev_accept", tcp_l3mdev_accept, switch),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shown_as_it_was_set_and_a_bad_one_is_refused() {
        let mut sysctls = Sysctls::default();
        let cases = [
            ("ip_local_port_range", "40000 40003", Some("40000 40003")),
            ("ip_local_port_range", "5 4", None),
            (
                "ip_local_reserved_ports",
                "9000-9010, 8080",
                Some("8080-8080,9000-9010"),
            ),
            ("ip_local_reserved_ports", "80", Some("80-80")),
            ("net.ipv6.ip_nonlocal_bind", "1", Some("1")),
            ("net.ipv4.ip_nonlocal_bind", "2", None),
            ("somaxconn", "16", Some("16")),
        ];
        for (name, value, shown) in cases {
            let sysctl = Sysctl::find(name).unwrap();
            let set = sysctl.set(&mut sysctls, value);
            let now = set.map(|()| sysctl.show(&sysctls));
            assert_eq!(now.as_deref(), shown, "{name} = {value}");
        }
        assert!(
            Sysctl::find("ip_nonlocal_bind").is_none(),
            "two families have one"
        );
    }
}
