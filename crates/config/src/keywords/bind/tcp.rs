//! Options of TCP listening sockets.
//!
//! Decides:  the arguments of these parameters.
//! Source:   HAProxy's manual, chapter 5.1; src/cfgparse-tcp.c, bind_parse_*(), 3.5-dev5.
//! Not here: what the options do (the listener library).

use std::net::IpAddr;

use crate::arguments::Args;
use crate::build::draft::BindDraft;
use crate::diagnostic::Diagnostic;
use crate::keyword::{Entry, entries};
use crate::model::ForeignBind;
use crate::report::NO_EFFECT;
use crate::source::At;

/// The family's entries.
pub const ENTRIES: &[Entry<BindDraft>] = entries! {
    "interface" "<name>" BIND supported(interface) "SO_BINDTODEVICE: only what comes in by this device" note("HAProxy opens the port on every device if it cannot be applied; here the listener fails");
    "transparent" "" BIND supported(transparent) "IP_TRANSPARENT, else IP_FREEBIND: an address that is not ours";
    "freebind" "" BIND supported(freebind) "IP_FREEBIND: an address that is not there yet" note("ours");
    "v4v6" "" BIND supported(v4v6) "IPV6_V6ONLY off: IPv4 too" default("net.ipv6.bindv6only");
    "v6only" "" BIND supported(v6only) "IPV6_V6ONLY on; it wins over `v4v6`" default("net.ipv6.bindv6only");
    "mss" "<number>" BIND supported(mss) "TCP_MAXSEG: the MSS that is advertised" default("the system's") note("below 0 has no effect, as Linux does not lower the MSS of a connection that is made: a warning");
    "defer-accept" "" BIND supported(defer_accept) "TCP_DEFER_ACCEPT: connections count once data came" default("off");
    "tfo" "" BIND supported(tfo) "TCP_FASTOPEN, with the backlog as its queue" default("off");
    "tcp-ut" "<time>" BIND supported(tcp_ut) "TCP_USER_TIMEOUT: how long sent data may stay unacknowledged" default("the system's");
    "cc" "<algorithm>" BIND supported(cc) "TCP_CONGESTION" default("the system's");
    "tcp-md5sig" "<password>" BIND supported(tcp_md5sig) "TCP_MD5SIG: peers must sign their segments" note("HAProxy's key is for its own address, and unsigned clients get in; here every peer must sign");
    "tcp-md5sig-peers" "<prefix>[,…]" BIND supported(tcp_md5sig_peers) "which peers must sign" default("every peer") note("ours; needs `tcp-md5sig`");
    "tcp-ss" "0|1|2" BIND warned("nothing reads the saved SYN yet") "TCP_SAVE_SYN: keep the client's SYN" default("0");
    "namespace" "<name>" BIND supported(namespace) "the network namespace to listen in" default("ours");
};

fn interface(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    // IFNAMSIZ, its final NUL included.
    const LONGEST: usize = 15;
    let name = args.word("a device's name")?;
    if name.text.is_empty() || name.text.len() > LONGEST {
        let message = format!("`{}` is no device's name", name.text);
        return args.bad_at(name.place, &message, "a device's name has 1 to 15 bytes");
    }
    bind.options.interface = Some(At::new(name.text.clone(), name.place));
    Some(())
}

fn transparent(bind: &mut BindDraft, _: &mut Args<'_>) -> Option<()> {
    bind.options.foreign = Some(ForeignBind::Transparent);
    Some(())
}

fn freebind(bind: &mut BindDraft, _: &mut Args<'_>) -> Option<()> {
    // `transparent` falls back to it by itself.
    bind.options.foreign.get_or_insert(ForeignBind::Freebind);
    Some(())
}

fn v4v6(bind: &mut BindDraft, _: &mut Args<'_>) -> Option<()> {
    bind.v4v6 = true;
    Some(())
}

fn v6only(bind: &mut BindDraft, _: &mut Args<'_>) -> Option<()> {
    bind.v6only = true;
    Some(())
}

fn mss(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    // HAProxy: up to 65535 either way, and 0 is nothing.
    let number = args.integer(-65535..=65535)?;
    if number.value == 0 {
        return args.bad_at(
            number.place,
            "`mss 0` is no segment size",
            "expected 1 to 65535, or -65535 to -1",
        );
    }
    if number.value < 0 {
        // HAProxy lowers the MSS of each accepted connection, which Linux takes and ignores:
        // net/ipv4/tcp.c, do_tcp_setsockopt(), TCP_MAXSEG matters before the handshake only (6.18).
        let message = format!("`mss {}` has no effect", number.value);
        let finding = Diagnostic::warning(NO_EFFECT, number.place, message);
        args.push(finding.label("Linux does not lower the MSS of a connection that is made"));
        return Some(());
    }
    bind.options.mss = Some(number.value as i32);
    Some(())
}

fn defer_accept(bind: &mut BindDraft, _: &mut Args<'_>) -> Option<()> {
    bind.options.defer_accept = true;
    Some(())
}

fn tfo(bind: &mut BindDraft, _: &mut Args<'_>) -> Option<()> {
    bind.options.fast_open = true;
    Some(())
}

fn tcp_ut(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    bind.options.user_timeout = Some(args.time()?.value);
    Some(())
}

fn cc(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    bind.options.congestion_control = Some(congestion_control(args)?);
    Some(())
}

/// An algorithm's name, for `bind` and `server`.
pub(crate) fn congestion_control(args: &mut Args<'_>) -> Option<At<String>> {
    // TCP_CA_NAME_MAX, its final NUL included.
    const LONGEST: usize = 15;
    let name = args.word("a congestion control algorithm")?;
    if name.text.is_empty() || name.text.len() > LONGEST {
        let message = format!("`{}` is no congestion control algorithm", name.text);
        return args.bad_at(
            name.place,
            &message,
            "a name has 1 to 15 bytes, like `cubic`",
        );
    }
    Some(At::new(name.text.clone(), name.place))
}

fn tcp_md5sig(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    // TCP_MD5SIG_MAXKEYLEN
    const LONGEST: usize = 80;
    let secret = args.word("a password")?;
    if secret.text.is_empty() || secret.text.len() > LONGEST {
        return args.bad_at(
            secret.place,
            "the password has a wrong length",
            "the kernel takes 1 to 80 bytes",
        );
    }
    bind.options.md5_secret = Some(At::new(secret.text.clone(), secret.place));
    Some(())
}

fn tcp_md5sig_peers(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    let list = args.word("prefixes, like `10.0.0.0/8`")?;
    for (part, place) in args.comma_parts(list) {
        match prefix(part) {
            Some(prefix) => bind.options.md5_peers.push(prefix),
            None => {
                let message = format!("`{part}` is no prefix");
                return args.bad_at(
                    place,
                    &message,
                    "expected an address, or one like `10.0.0.0/8`",
                );
            }
        }
    }
    bind.md5_peers_place = Some(list.place);
    Some(())
}

fn prefix(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(most), |text| text.parse().ok())?;
    (length <= most).then_some((address, length))
}

fn namespace(bind: &mut BindDraft, args: &mut Args<'_>) -> Option<()> {
    let name = args.word("a network namespace's name")?;
    if name.text.is_empty() || name.text.contains('/') || name.text == "." || name.text == ".." {
        let message = format!("`{}` is no network namespace's name", name.text);
        return args.bad_at(
            name.place,
            &message,
            "expected the name of a file in /run/netns",
        );
    }
    bind.options.namespace = Some(At::new(name.text.clone(), name.place));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_a_length_that_fits_their_family() {
        let v4: IpAddr = "10.0.0.0".parse().unwrap();
        let v6: IpAddr = "2001:db8::".parse().unwrap();
        assert_eq!(prefix("10.0.0.0/8"), Some((v4, 8)));
        assert_eq!(prefix("10.0.0.0"), Some((v4, 32)));
        assert_eq!(prefix("2001:db8::/32"), Some((v6, 32)));
        for wrong in [
            "10.0.0.0/33",
            "2001:db8::/129",
            "10.0.0/8",
            "10.0.0.0/",
            "",
            "/8",
        ] {
            assert_eq!(prefix(wrong), None, "{wrong}");
        }
    }
}
