//! The sysctls of a fresh host, and writes to them: which text is taken, and what it sets.
//!
//! Decides:  on which values a fresh host's releases differ; how the kernel reads numbers and lists of
//!           ports; the bounds of each sysctl; that the range of ports and the first unprivileged port
//!           keep out of each other's way.
//! Kernel:   kernel/sysctl.c, proc_get_long(), proc_dointvec_minmax(), proc_dou8vec_minmax(),
//!           proc_do_large_bitmap(), proc_dointvec_jiffies(); net/ipv4/sysctl_net_ipv4.c,
//!           ipv4_local_port_range(), ipv4_privileged_ports(); net/core/sysctl_net_core.c;
//!           net/ipv6/sysctl_net_ipv6.c, 4.4 to 6.18
//! Not here: who may write (gaps.toml), what a sysctl does.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::bind::refuse;
use crate::errno::Errno;
use crate::explain::{NoTrace, Trace};
use crate::host::{NetId, Sysctls};
use crate::rules::Rule;
use crate::version::{Change, Kernel};
use crate::world::World;

/// A sysctl that decides something here.
#[derive(Debug, Clone, Copy)]
pub struct Sysctl {
    /// Its name, `net.ipv4.ip_local_port_range`; the file under /proc/sys has slashes.
    pub name: &'static str,
    takes: Takes,
    show: fn(&Sysctls) -> String,
}

/// What a sysctl takes.
#[derive(Debug, Clone, Copy)]
enum Takes {
    /// A number from the least to the most.
    Number(i64, i64, fn(&mut Sysctls, i64)),
    /// An unsigned number from the least to the most, of a file that came with this change.
    Unsigned(Change, i64, i64, fn(&mut Sysctls, i64)),
    /// A byte, and once any number; of a file that came with this change, if not there from the beginning.
    Byte(Bytes, Option<Change>, fn(&mut Sysctls, i64)),
    /// `somaxconn`.
    Somaxconn,
    /// `ip_local_port_range`.
    PortRange,
    /// `ip_unprivileged_port_start`.
    FirstPort,
    /// `ip_local_reserved_ports`.
    Ports,
}

/// Since when a sysctl is a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bytes {
    /// One of IPv4: [`Change::ByteSysctls`].
    V4,
    /// One of IPv6: the same release, but no update of an older one.
    V6,
    /// `tcp_tw_reuse`, which has had bounds for longer.
    TwReuse,
    /// One that was never more than 0 or 1.
    Switch,
}

/// Whether a number may have a minus, even `-0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Taken,
    Refused,
}

/// Ends of a number among numbers, before and behind the dash of a range.
const BETWEEN_NUMBERS: &[u8] = b" \t\n";
const AFTER_FIRST: &[u8] = b"-,\n";
const AFTER_SECOND: &[u8] = b",\n";
/// The longest number with its sign, in characters (`TMPBUFLEN` - 2).
const DIGITS_MAX: usize = 20;
/// `TCP_PAWS_MSL` in milliseconds.
const TW_REUSE_DELAY_MAX: i64 = 60_000;
const INT_MIN: i64 = i32::MIN as i64;
const INT_MAX: i64 = i32::MAX as i64;
const PORT_MAX: i64 = u16::MAX as i64;

macro_rules! number {
    ($name:literal, $least:expr, $most:expr, $field:ident as $type:ty) => {
        Sysctl {
            name: $name,
            takes: Takes::Number($least, $most, |sysctls, value| {
                sysctls.$field = value as $type
            }),
            show: |sysctls| sysctls.$field.to_string(),
        }
    };
}

macro_rules! switch {
    ($name:literal, $bytes:ident, $since:expr, $field:ident) => {
        Sysctl {
            name: $name,
            takes: Takes::Byte(Bytes::$bytes, $since, |sysctls, value| {
                sysctls.$field = value != 0
            }),
            show: |sysctls| u8::from(sysctls.$field).to_string(),
        }
    };
}

/// A switch from its first day.
macro_rules! bounded {
    ($name:literal, $since:expr, $field:ident) => {
        Sysctl {
            name: $name,
            takes: Takes::Unsigned($since, 0, 1, |sysctls, value| sysctls.$field = value != 0),
            show: |sysctls| u8::from(sysctls.$field).to_string(),
        }
    };
}

impl Sysctl {
    /// Every sysctl that decides something here.
    pub const ALL: &'static [Sysctl] = &[
        Sysctl {
            name: "net.ipv4.ip_local_port_range",
            takes: Takes::PortRange,
            show: |sysctls| {
                let (low, high) = sysctls.ip_local_port_range;
                format!("{low} {high}")
            },
        },
        Sysctl {
            name: "net.ipv4.ip_local_reserved_ports",
            takes: Takes::Ports,
            show: |sysctls| {
                let ranges = sysctls.ip_local_reserved_ports.iter();
                let ranges = ranges.map(|&(low, high)| match low == high {
                    true => low.to_string(),
                    false => format!("{low}-{high}"),
                });
                ranges.collect::<Vec<_>>().join(",")
            },
        },
        Sysctl {
            name: "net.ipv4.ip_unprivileged_port_start",
            takes: Takes::FirstPort,
            show: |sysctls| sysctls.ip_unprivileged_port_start.to_string(),
        },
        switch!("net.ipv4.ip_nonlocal_bind", V4, None, ip_nonlocal_bind),
        switch!(
            "net.ipv6.ip_nonlocal_bind",
            V6,
            Some(Change::NonlocalBind6),
            ip6_nonlocal_bind
        ),
        bounded!(
            "net.ipv4.ip_autobind_reuse",
            Change::AutobindReuse,
            ip_autobind_reuse
        ),
        switch!("net.ipv6.bindv6only", V6, None, bindv6only),
        Sysctl {
            name: "net.core.somaxconn",
            takes: Takes::Somaxconn,
            show: |sysctls| (sysctls.somaxconn as i32).to_string(),
        },
        number!(
            "net.ipv4.tcp_max_syn_backlog",
            INT_MIN,
            INT_MAX,
            tcp_max_syn_backlog as i32
        ),
        Sysctl {
            name: "net.ipv4.tcp_syncookies",
            takes: Takes::Byte(Bytes::V4, None, |sysctls, value| {
                sysctls.tcp_syncookies = byte_of(value);
            }),
            show: |sysctls| sysctls.tcp_syncookies.to_string(),
        },
        Sysctl {
            name: "net.ipv4.tcp_fastopen",
            takes: Takes::Number(INT_MIN, INT_MAX, |sysctls, value| {
                sysctls.tcp_fastopen = value as u32;
            }),
            show: |sysctls| (sysctls.tcp_fastopen as i32).to_string(),
        },
        Sysctl {
            name: "net.ipv4.tcp_tw_reuse",
            takes: Takes::Byte(Bytes::TwReuse, None, |sysctls, value| {
                sysctls.tcp_tw_reuse = byte_of(value);
            }),
            show: |sysctls| sysctls.tcp_tw_reuse.to_string(),
        },
        Sysctl {
            name: "net.ipv4.tcp_tw_reuse_delay",
            takes: Takes::Unsigned(
                Change::TwReuseDelay,
                1,
                TW_REUSE_DELAY_MAX,
                |sysctls, value| sysctls.tcp_tw_reuse_delay = value as u32,
            ),
            show: |sysctls| sysctls.tcp_tw_reuse_delay.to_string(),
        },
        // Any number of seconds whose ticks fit an int; those beyond the model's are in gaps.toml.
        number!(
            "net.ipv4.tcp_fin_timeout",
            -INT_MAX / 1000,
            INT_MAX / 1000,
            tcp_fin_timeout as u32
        ),
        switch!(
            "net.ipv4.tcp_abort_on_overflow",
            V4,
            None,
            tcp_abort_on_overflow
        ),
        switch!(
            "net.ipv4.tcp_no_metrics_save",
            V4,
            None,
            tcp_no_metrics_save
        ),
        bounded!(
            "net.ipv4.tcp_migrate_req",
            Change::MigrateReq,
            tcp_migrate_req
        ),
        Sysctl {
            name: "net.ipv4.tcp_l3mdev_accept",
            takes: Takes::Byte(
                Bytes::Switch,
                Some(Change::L3mdevAccept),
                |sysctls, value| sysctls.tcp_l3mdev_accept = value != 0,
            ),
            show: |sysctls| u8::from(sysctls.tcp_l3mdev_accept).to_string(),
        },
    ];

    /// The sysctl of a name; its last part is enough where no other ends the same.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Sysctl> {
        let exact = Sysctl::ALL.iter().find(|sysctl| sysctl.name == name);
        let mut short = Sysctl::ALL
            .iter()
            .filter(|sysctl| sysctl.name.rsplit('.').next() == Some(name));
        exact.or_else(|| short.next().filter(|_| short.next().is_none()))
    }

    /// Its value as the file has it, but for the space between two.
    #[must_use]
    pub fn show(&self, sysctls: &Sysctls) -> String {
        (self.show)(sysctls)
    }

    /// `write` of a line to its file; what is refused changes nothing.
    pub fn write<T: Trace>(
        &self,
        kernel: Kernel,
        sysctls: &mut Sysctls,
        line: &str,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let missing = match self.takes {
            Takes::Unsigned(change, ..) | Takes::Byte(_, Some(change), _) => !kernel.has(change),
            Takes::FirstPort => !kernel.has(Change::UnprivilegedPortStart),
            _ => false,
        };
        if missing {
            return refuse(trace, Rule::NoSuchSysctl, Errno::ENOENT);
        }
        let text = line.as_bytes();
        let taken = match self.takes {
            Takes::Number(least, most, put) => {
                one(text, Sign::Taken, least, most).map(|value| put(sysctls, value))
            }
            Takes::Unsigned(_, least, most, put) => {
                one(text, Sign::Refused, least, most).map(|value| put(sysctls, value))
            }
            Takes::Byte(bytes, _, put) => {
                let (sign, least, most) = bytes.bounds(kernel);
                one(text, sign, least, most).map(|value| put(sysctls, value))
            }
            Takes::Somaxconn => {
                let (least, most) = bounds_of_somaxconn(kernel);
                one(text, Sign::Taken, least, most).map(|value| sysctls.somaxconn = value as u32)
            }
            Takes::PortRange => return write_range(kernel, sysctls, text, trace),
            Takes::FirstPort => return write_first_port(sysctls, text, trace),
            Takes::Ports => ports(text).map(|ports| sysctls.ip_local_reserved_ports = ports),
        };
        match taken {
            Some(()) => Ok(()),
            None => refuse(trace, Rule::SysctlValue, Errno::EINVAL),
        }
    }
}

impl Bytes {
    fn bounds(self, kernel: Kernel) -> (Sign, i64, i64) {
        let is_byte = match self {
            Bytes::V4 | Bytes::TwReuse | Bytes::Switch => kernel.has(Change::ByteSysctls),
            Bytes::V6 => kernel >= Change::ByteSysctls.since(),
        };
        let sign = if is_byte { Sign::Refused } else { Sign::Taken };
        match self {
            Bytes::Switch => (sign, 0, 1),
            Bytes::TwReuse if kernel.has(Change::TwReuseLoopback) => (sign, 0, 2),
            _ if is_byte => (sign, 0, i64::from(u8::MAX)),
            _ => (sign, INT_MIN, INT_MAX),
        }
    }
}

impl Sysctls {
    /// Those of a fresh host of this kernel.
    #[must_use]
    pub fn of(kernel: Kernel) -> Sysctls {
        let mut sysctls = Sysctls::default();
        sysctls.begin_as(kernel, |_| false);
        sysctls
    }

    /// Puts the values on which releases differ as a fresh host of this kernel has them, but for the
    /// sysctls that were set, by name.
    pub fn begin_as(&mut self, kernel: Kernel, is_set: impl Fn(&str) -> bool) {
        let own = |name: &str, change| (!is_set(name)).then(|| kernel.has(change));
        if let Some(even) = own("net.ipv4.ip_local_port_range", Change::EvenConnect) {
            self.ip_local_port_range = (32768, if even { 60999 } else { 61000 });
        }
        if let Some(long) = own("net.core.somaxconn", Change::SomaxconnDefault) {
            self.somaxconn = if long { 4096 } else { 128 };
        }
        if let Some(loopback) = own("net.ipv4.tcp_tw_reuse", Change::TwReuseLoopback) {
            self.tcp_tw_reuse = if loopback { 2 } else { 0 };
        }
    }
}

impl World {
    /// A line is written to the file of a sysctl in a network namespace, by somebody who may.
    ///
    /// ```
    /// # use portcullis_kernel_model::*;
    /// let mut world = World::new(Host::new(Kernel::V6_18));
    /// let start = Sysctl::find("ip_unprivileged_port_start").unwrap();
    /// assert_eq!(world.write_sysctl(NetId(0), start, "80"), Ok(()));
    /// // The range that the kernel chooses ports from begins at 32768.
    /// assert_eq!(world.write_sysctl(NetId(0), start, "40000"), Err(Errno::EINVAL));
    /// assert_eq!(start.show(&world.host().namespaces[0].sysctls), "80");
    /// ```
    pub fn write_sysctl(&mut self, net: NetId, sysctl: &Sysctl, line: &str) -> Result<(), Errno> {
        self.write_sysctl_traced(net, sysctl, line, &mut NoTrace)
    }

    /// [`World::write_sysctl`]; `trace` hears the rules.
    pub fn write_sysctl_traced<T: Trace>(
        &mut self,
        net: NetId,
        sysctl: &Sysctl,
        line: &str,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let kernel = self.host.kernel;
        let Some(namespace) = self.host.namespaces.get_mut(usize::from(net.0)) else {
            return refuse(trace, Rule::NoSuchSysctl, Errno::ENOENT);
        };
        sysctl.write(kernel, &mut namespace.sysctls, line, trace)
    }
}

fn bounds_of_somaxconn(kernel: Kernel) -> (i64, i64) {
    if kernel.has(Change::WideBacklog) {
        (0, INT_MAX)
    } else if kernel.has(Change::SomaxconnBounded) {
        (0, i64::from(u16::MAX))
    } else {
        (INT_MIN, INT_MAX)
    }
}

/// A number that is only compared with 0, 1 and 2.
fn byte_of(value: i64) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

fn write_range<T: Trace>(
    kernel: Kernel,
    sysctls: &mut Sysctls,
    text: &[u8],
    trace: &mut T,
) -> Result<(), Errno> {
    let (low, high) = sysctls.ip_local_port_range;
    // The second number may be left out, and stays as it is.
    let Some([low, high]) = several(text, Sign::Taken, [low.into(), high.into()], (1, PORT_MAX))
    else {
        return refuse(trace, Rule::SysctlValue, Errno::EINVAL);
    };
    if high < low {
        return refuse(trace, Rule::SysctlValue, Errno::EINVAL);
    }
    let keeps_out = kernel.has(Change::UnprivilegedPortStart);
    if keeps_out && low < i64::from(sysctls.ip_unprivileged_port_start) {
        return refuse(trace, Rule::SysctlPrivileged, Errno::EINVAL);
    }
    sysctls.ip_local_port_range = (low as u16, high as u16);
    Ok(())
}

fn write_first_port<T: Trace>(
    sysctls: &mut Sysctls,
    text: &[u8],
    trace: &mut T,
) -> Result<(), Errno> {
    let Some(start) = one(text, Sign::Taken, 0, PORT_MAX) else {
        return refuse(trace, Rule::SysctlValue, Errno::EINVAL);
    };
    if i64::from(sysctls.ip_local_port_range.0) < start {
        return refuse(trace, Rule::SysctlPrivileged, Errno::EINVAL);
    }
    sysctls.ip_unprivileged_port_start = start as u16;
    Ok(())
}

fn one(text: &[u8], sign: Sign, least: i64, most: i64) -> Option<i64> {
    several(text, sign, [0], (least, most)).map(|[value]| value)
}

/// The numbers at the beginning of a line, one at least; what stands behind them is not read.
fn several<const N: usize>(
    text: &[u8],
    sign: Sign,
    now: [i64; N],
    (least, most): (i64, i64),
) -> Option<[i64; N]> {
    let mut rest = text;
    let mut values = now;
    for (at, value) in values.iter_mut().enumerate() {
        let blank = rest.iter().take_while(|byte| is_space(**byte)).count();
        rest = &rest[blank..];
        if rest.is_empty() {
            return (at > 0).then_some(values);
        }
        let (number, behind) = number(rest, BETWEEN_NUMBERS)?;
        if rest[0] == b'-' && sign == Sign::Refused {
            return None;
        }
        if !(i128::from(least)..=i128::from(most)).contains(&number) {
            return None;
        }
        *value = number as i64;
        rest = behind;
    }
    Some(values)
}

/// `8080,9000-9010`: ranges in ascending order, those that touch as one.
fn ports(text: &[u8]) -> Option<Vec<(u16, u16)>> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    let mut rest = text;
    loop {
        let lines = rest.iter().take_while(|&&byte| byte == b'\n').count();
        rest = &rest[lines..];
        if rest.is_empty() {
            break;
        }
        let (first, behind) = number(rest, AFTER_FIRST)?;
        let low = u16::try_from(first).ok().filter(|_| rest[0] != b'-')?;
        let (high, behind) = match behind {
            [b'-', range @ ..] => {
                let (second, behind) = number(range, AFTER_SECOND)?;
                let high = u16::try_from(second).ok().filter(|_| range[0] != b'-')?;
                (high, behind)
            }
            _ => (low, behind),
        };
        rest = behind.get(1..).unwrap_or(&[]);
        if low > high {
            return None;
        }
        ranges.push((low, high));
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (low, high) in ranges {
        match merged.last_mut() {
            Some(last) if low <= last.1.saturating_add(1) => last.1 = last.1.max(high),
            _ => merged.push((low, high)),
        }
    }
    Some(merged)
}

/// A number as C writes it, decimal, octal or hexadecimal, up to one of these ends or the end of the
/// text; and what follows.
fn number<'a>(text: &'a [u8], ends: &[u8]) -> Option<(i128, &'a [u8])> {
    let negative = text.len() > 1 && text[0] == b'-';
    let digits = &text[usize::from(negative)..];
    if !digits.first()?.is_ascii_digit() {
        return None;
    }
    let (radix, prefix) = match digits {
        [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => (16, 2),
        [b'0', ..] => (8, 0),
        _ => (10, 0),
    };
    let digit_of = |byte: u8| char::from(byte).to_digit(radix);
    let count = digits[prefix..]
        .iter()
        .take_while(|byte| digit_of(**byte).is_some())
        .count();
    let length = usize::from(negative) + prefix + count;
    if length > DIGITS_MAX {
        return None;
    }
    let mut value: u64 = 0;
    for &byte in &digits[prefix..prefix + count] {
        value = value
            .checked_mul(u64::from(radix))?
            .checked_add(u64::from(digit_of(byte)?))?;
    }
    let rest = &text[length..];
    if rest.first().is_some_and(|end| !ends.contains(end)) {
        return None;
    }
    let value = i128::from(value);
    Some((if negative { -value } else { value }, rest))
}

/// The kernel's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r' | 0xa0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_host_has_the_values_of_its_release() {
        let of = |major, minor| {
            let sysctls = Sysctls::of(Kernel::new(major, minor));
            let range = sysctls.ip_local_port_range;
            (range, sysctls.somaxconn, sysctls.tcp_tw_reuse)
        };
        assert_eq!(of(4, 1), ((32768, 61000), 128, 0));
        assert_eq!(of(4, 2), ((32768, 60999), 128, 0));
        assert_eq!(of(4, 19), ((32768, 60999), 128, 2));
        assert_eq!(of(5, 4), ((32768, 60999), 4096, 2));
        let mut set = Sysctls {
            somaxconn: 7,
            ..Sysctls::default()
        };
        set.begin_as(Kernel::new(4, 1), |name| name == "net.core.somaxconn");
        assert_eq!((set.somaxconn, set.tcp_tw_reuse), (7, 0));
    }

    #[test]
    fn a_value_is_shown_as_the_kernel_shows_it() {
        let cases = [
            ("ip_local_port_range", "40000 40003", Some("40000 40003")),
            ("ip_local_port_range", "5 4", None),
            (
                "ip_local_reserved_ports",
                "9000-9010,8080",
                Some("8080,9000-9010"),
            ),
            ("ip_local_reserved_ports", "80-90,85-99,100", Some("80-100")),
            ("ip_local_reserved_ports", "\n", Some("")),
            ("net.ipv6.ip_nonlocal_bind", "1", Some("1")),
            ("net.ipv4.ip_autobind_reuse", "2", None),
            ("somaxconn", "16", Some("16")),
            ("somaxconn", "", None),
            ("somaxconn", " ", None),
            ("tcp_fastopen", "-1", Some("-1")),
        ];
        for (name, line, shown) in cases {
            let sysctl = Sysctl::find(name).unwrap();
            let mut sysctls = Sysctls::default();
            let set = sysctl.write(Kernel::V6_18, &mut sysctls, line, &mut NoTrace);
            let now = set.ok().map(|()| sysctl.show(&sysctls));
            assert_eq!(now.as_deref(), shown, "{name} = {line}");
        }
        assert!(
            Sysctl::find("ip_nonlocal_bind").is_none(),
            "two families have one"
        );
    }
}
