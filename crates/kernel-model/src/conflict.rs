//! Does a newcomer conflict with the owners of a port?
//!
//! Decides:  for two sockets, whether both may own one port; which owners are asked (all, or those of
//!           the address and of the wildcard).
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_bind_conflict(), inet_csk_bind_conflict(),
//!           inet_bhash2_addr_any_conflict(), ipv6_rcv_saddr_equal(), 3.9 to 6.18
//! Not here: the bucket's memory, which can skip all of it (bucket.rs, port.rs).

use crate::addr::{Family, is_mapped, mapped};
use crate::bucket::{BucketIx, OwnersIx};
use crate::call::State;
use crate::explain::Trace;
use crate::rules::Rule;
use crate::socket::{Reuse, Sock, SockIx};
use crate::version::Change;
use crate::world::World;

/// How strictly the owners are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Strictness {
    /// Two SO_REUSEADDR sockets that do not listen may share.
    pub share_reuseaddr: bool,
    /// SO_REUSEPORT sockets of one user may share.
    pub share_reuseport: bool,
}

impl Strictness {
    /// The user named the port.
    pub(crate) const NAMED: Strictness = Strictness {
        share_reuseaddr: true,
        share_reuseport: true,
    };
    /// The kernel looks for a free port.
    pub(crate) const CHOOSING: Strictness = Strictness {
        share_reuseaddr: false,
        share_reuseport: false,
    };
    /// The kernel looked for a free port, until 4.9: a group's port will do.
    pub(crate) const ROVER: Strictness = Strictness {
        share_reuseaddr: false,
        share_reuseport: true,
    };
    /// The kernel looks for a port, none is free, and `ip_autobind_reuse` is on; in 4.10 always.
    pub(crate) const LAST_RESORT: Strictness = Strictness {
        share_reuseaddr: true,
        share_reuseport: false,
    };
}

impl World {
    /// Whether the socket is checked against the owners of its address and of the wildcard only.
    pub(crate) fn uses_second_hash(&self, ix: SockIx) -> bool {
        let sock = &self.socks[ix];
        if !self.host.kernel.has(Change::Bhash2) {
            return false;
        }
        match sock.family {
            Family::Inet6 if sock.rcv6 == 0 => false,
            Family::Inet6 if !is_mapped(sock.rcv6) => true,
            Family::Inet6 if !self.host.kernel.has(Change::MappedByAddress) => false,
            _ => sock.rcv4 != 0,
        }
    }

    /// Whether an owner stands against this socket.
    pub(crate) fn conflicts<T: Trace>(
        &self,
        ix: SockIx,
        bucket: BucketIx,
        how: Strictness,
        trace: &mut T,
    ) -> bool {
        let group_ok = self.group_allows(ix);
        if self.uses_second_hash(ix) {
            return self.conflicts_at_address(ix, bucket, how, group_ok, trace);
        }
        for list in self.lists_of(bucket) {
            for other in self.owners_in(list) {
                let Some(rule) = self.pair(ix, other, how, group_ok) else {
                    continue;
                };
                if addresses_meet(&self.socks[ix], &self.socks[other]) {
                    trace.blame(rule, self.handle(other));
                    return true;
                }
            }
        }
        false
    }

    /// The second hash: owners of the wildcard, then of the address itself.
    fn conflicts_at_address<T: Trace>(
        &self,
        ix: SockIx,
        bucket: BucketIx,
        how: Strictness,
        group_ok: bool,
        trace: &mut T,
    ) -> bool {
        let sock = &self.socks[ix];
        // The IPv4 wildcard does not cover a true IPv6 address.
        let wild4 = Some(mapped(0)).filter(|_| self.meets_ipv4_wildcard(sock, bucket));
        let mut wild = [Some(0), wild4].map(|addr| self.owners_at(bucket, addr?));
        if !self.host.kernel.has(Change::EveryWildcard) {
            wild = [self.newer_list(bucket, wild), None];
        }
        let own = self.owners_at(bucket, sock.hash_addr());
        for list in wild.into_iter().chain([own]).flatten() {
            for other in self.owners_in(list) {
                let them = &self.socks[other];
                let v4 = sock.family == Family::Inet || is_mapped(sock.rcv6);
                if them.v6only && v4 {
                    continue;
                }
                if let Some(rule) = self.pair(ix, other, how, group_ok) {
                    trace.blame(rule, self.handle(other));
                    return true;
                }
            }
        }
        false
    }

    /// Of two lists the one that was begun later, which a walk of the port's lists meets first.
    fn newer_list(&self, bucket: BucketIx, two: [Option<OwnersIx>; 2]) -> Option<OwnersIx> {
        match two {
            [Some(_), Some(_)] => self.lists_of(bucket).find(|&l| two.contains(&Some(l))),
            [one, other] => one.or(other),
        }
    }

    /// Whether the owners of 0.0.0.0 are asked about a socket with an address.
    ///
    /// Before 6.8 a list knows the family of who began it instead of the kind of its address, and an
    /// IPv6 socket is not compared with the wildcard of IPv4 in a list that an IPv6 socket began
    /// (`inet_bind2_bucket_match_addr_any()`).
    fn meets_ipv4_wildcard(&self, sock: &Sock, bucket: BucketIx) -> bool {
        if sock.family == Family::Inet {
            return true;
        }
        let knows_kind = self.host.kernel.has(Change::AddressKind);
        let list = self.owners_at(bucket, mapped(0));
        let begun_by_v4 = |list: OwnersIx| self.owners[list.0].family == Family::Inet;
        is_mapped(sock.rcv6) && (knows_kind || list.is_some_and(begun_by_v4))
    }

    /// May the socket share through SO_REUSEPORT at all? One that is in a group already (it listened
    /// before) may only while the group remembers a closed member.
    fn group_allows(&self, ix: SockIx) -> bool {
        let closed_counts = self.host.kernel.has(Change::MigrateReq);
        match self.socks[ix].group {
            None => true,
            Some(group) => closed_counts && self.groups[group.0].closed() > 0,
        }
    }

    /// The rule by which two sockets may not own one port, were their addresses to meet.
    fn pair(&self, ix: SockIx, other: SockIx, how: Strictness, group_ok: bool) -> Option<Rule> {
        if ix == other {
            return None;
        }
        let (new, old) = (&self.socks[ix], &self.socks[other]);
        if new.device != 0 && old.device != 0 && new.device != old.device {
            return None;
        }
        let same_user = old.state == State::TimeWait || new.uid == self.user_of(other);
        let both_reuseport = new.reuseport && old.reuseport;
        let both_reuse = new.reuse != Reuse::No && old.reuse != Reuse::No;
        if both_reuse && old.state != State::Listen {
            if !how.share_reuseaddr {
                return Some(Rule::ChoosingSharesNothing);
            }
            // The last resort of a choice must not take a port that a group would share.
            let spares = !how.share_reuseport && self.host.kernel.has(Change::AutobindReuse);
            let would_share = spares && both_reuseport && group_ok && same_user;
            return would_share.then_some(Rule::LastResortSparesGroups);
        }
        if how.share_reuseport && both_reuseport && group_ok && same_user {
            return None;
        }
        Some(self.why(new, old, how, group_ok))
    }

    fn why(&self, new: &Sock, old: &Sock, how: Strictness, group_ok: bool) -> Rule {
        if !how.share_reuseport {
            return Rule::ChoosingSharesNothing;
        }
        if new.reuseport && old.reuseport {
            return if group_ok {
                Rule::ReuseportOtherUser
            } else {
                Rule::ReuseportAlreadyGrouped
            };
        }
        if new.reuse != Reuse::No && old.reuse != Reuse::No {
            return Rule::ReuseaddrBesideListener;
        }
        match old.state {
            State::TimeWait => Rule::TimeWaitHolds,
            State::Close | State::Listen => Rule::PortHeld,
            _ => Rule::ConnectionHolds,
        }
    }

    /// The user that the port check sees. Until 6.17, what a closed descriptor leaves counts as root's.
    fn user_of(&self, ix: SockIx) -> crate::host::Uid {
        let sock = &self.socks[ix];
        if sock.holders == 0 && !self.host.kernel.has(Change::OrphanKeepsUser) {
            return crate::host::Uid(0);
        }
        sock.uid
    }
}

/// Whether two sockets can receive on one address. Wildcards of either meet everything they cover.
pub(crate) fn addresses_meet(new: &Sock, old: &Sock) -> bool {
    addresses_equal(new, old, true)
}

/// The same; without `wildcards`, only like addresses are equal.
pub(crate) fn addresses_equal(new: &Sock, old: &Sock, wildcards: bool) -> bool {
    let v4 =
        !old.v6only && (new.rcv4 == old.rcv4 || (wildcards && (new.rcv4 == 0 || old.rcv4 == 0)));
    if new.family == Family::Inet {
        return v4;
    }
    let theirs = match old.family {
        Family::Inet => None,
        Family::Inet6 => Some(old.rcv6),
    };
    let theirs_mapped = theirs.is_none_or(is_mapped);
    let ours_mapped = is_mapped(new.rcv6);
    if ours_mapped && theirs_mapped {
        return v4;
    }
    let (ours_any, theirs_any) = (new.rcv6 == 0, theirs == Some(0));
    if ours_any && theirs_any {
        return true;
    }
    if theirs_any && wildcards && !(old.v6only && ours_mapped) {
        return true;
    }
    if ours_any && wildcards && !(new.v6only && theirs_mapped) {
        return true;
    }
    theirs == Some(new.rcv6)
}
