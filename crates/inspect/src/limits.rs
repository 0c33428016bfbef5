//! What numbers a file can hold: those that a kernel can have.
//!
//! Decides:  which numbers of a file that was edited by hand are refused, and how the field is named.
//! Kernel:   net/ipv4/sysctl_net_ipv4.c, ipv4_local_port_range(), ipv4_privileged_ports(), ipv4_net_table[];
//!           net/core/sysctl_net_core.c; kernel/sysctl.c, proc_do_large_bitmap(), 4.6 to 6.18
//! Not here: what cannot be together (world.rs, [`Nonsense`](crate::Nonsense)).

use std::ops::RangeInclusive;

use crate::snapshot::{Snapshot, Sysctls};

/// Sysctls that are numbers are an `int`, or less.
const INT_MAX: u32 = i32::MAX as u32;
/// `tcp_fin_timeout` is kept in ticks, of which there are at most 1000 a second.
const SECONDS_MAX: u32 = INT_MAX / 1000;
/// `TCP_PAWS_MSL`, in milliseconds.
const TW_REUSE_DELAY_MAX: u32 = 60_000;

/// What a number of the file is that no kernel has: the field, and what it takes.
pub(crate) fn out_of_bounds(snapshot: &Snapshot) -> Option<String> {
    let mut all = snapshot.namespaces.iter().enumerate();
    all.find_map(|(at, namespace)| {
        let found = of_sysctls(&namespace.sysctls)?;
        Some(format!("namespaces[{at}].sysctls.{found}"))
    })
}

fn of_sysctls(sysctls: &Sysctls) -> Option<String> {
    if let Some((low, high)) = sysctls.ip_local_port_range
        && (low == 0 || low > high)
    {
        return Some(format!(
            "ip_local_port_range: [{low}, {high}] is no range of ports: expected 1 <= low <= high <= 65535"
        ));
    }
    let mut reserved = sysctls.ip_local_reserved_ports.iter();
    if let Some((low, high)) = reserved.find(|(low, high)| low > high) {
        return Some(format!(
            "ip_local_reserved_ports: [{low}, {high}] is no range of ports: expected low <= high"
        ));
    }
    numbers(sysctls)
        .into_iter()
        .find_map(|(name, value, range)| {
            let value = value.filter(|value| !range.contains(value))?;
            Some(format!(
                "{name}: {value} is no value of it: expected {} to {}",
                range.start(),
                range.end()
            ))
        })
}

/// Every other one, with what it takes. Switches were any number before 5.13.
fn numbers(sysctls: &Sysctls) -> [(&'static str, Option<u32>, RangeInclusive<u32>); 15] {
    let ports = 0..=u32::from(u16::MAX);
    let any = 0..=INT_MAX;
    macro_rules! row {
        ($field:ident, $range:expr) => {
            (stringify!($field), sysctls.$field, $range)
        };
    }
    [
        row!(ip_unprivileged_port_start, ports),
        row!(ip_nonlocal_bind, any.clone()),
        row!(ip6_nonlocal_bind, any.clone()),
        row!(ip_autobind_reuse, any.clone()),
        row!(bindv6only, any.clone()),
        row!(somaxconn, any.clone()),
        row!(tcp_syncookies, any.clone()),
        row!(tcp_fastopen, any.clone()),
        row!(tcp_no_metrics_save, any.clone()),
        row!(tcp_tw_reuse, any.clone()),
        row!(tcp_tw_reuse_delay, 1..=TW_REUSE_DELAY_MAX),
        row!(tcp_fin_timeout, 0..=SECONDS_MAX),
        row!(tcp_abort_on_overflow, any.clone()),
        row!(tcp_migrate_req, any.clone()),
        row!(tcp_l3mdev_accept, any),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Sysctls);

    #[test]
    fn what_a_kernel_can_have_is_taken_and_its_neighbour_is_not() {
        let table: [(&str, Change, Option<&str>); 12] = [
            (
                "one port",
                |all| all.ip_local_port_range = Some((1, 1)),
                None,
            ),
            (
                "all ports",
                |all| all.ip_local_port_range = Some((1, 65535)),
                None,
            ),
            (
                "port 0",
                |all| all.ip_local_port_range = Some((0, 9)),
                Some("ip_local_port_range"),
            ),
            (
                "a range that ends before it begins",
                |all| all.ip_local_port_range = Some((65535, 65534)),
                Some("ip_local_port_range"),
            ),
            (
                "reserved ports",
                |all| all.ip_local_reserved_ports = vec![(0, 0), (80, 90)],
                None,
            ),
            (
                "reserved ports that end before they begin",
                |all| all.ip_local_reserved_ports = vec![(80, 80), (9, 8)],
                Some("ip_local_reserved_ports"),
            ),
            (
                "no port is privileged",
                |all| all.ip_unprivileged_port_start = Some(0),
                None,
            ),
            (
                "a port beyond the last",
                |all| all.ip_unprivileged_port_start = Some(65536),
                Some("ip_unprivileged_port_start"),
            ),
            ("the largest int", |all| all.somaxconn = Some(INT_MAX), None),
            (
                "more than an int",
                |all| all.somaxconn = Some(INT_MAX + 1),
                Some("somaxconn"),
            ),
            (
                "no delay",
                |all| all.tcp_tw_reuse_delay = Some(0),
                Some("tcp_tw_reuse_delay"),
            ),
            (
                "more seconds than ticks",
                |all| all.tcp_fin_timeout = Some(u32::MAX),
                Some("tcp_fin_timeout"),
            ),
        ];
        for (label, change, field) in table {
            let mut sysctls = Sysctls::default();
            change(&mut sysctls);
            let found = of_sysctls(&sysctls);
            let named = found.as_deref().and_then(|text| text.split(':').next());
            assert_eq!(named, field, "{label}: {found:?}");
        }
    }
}
