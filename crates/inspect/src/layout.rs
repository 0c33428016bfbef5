//! Which fields of which structures are read, and where they are in a record.
//!
//! Decides:  what is asked of this kernel's BTF; which of it may be missing in an older one.
//! Kernel:   include/net/sock.h, struct sock_common and sock; include/net/inet_timewait_sock.h;
//!           include/net/inet_hashtables.h, struct inet_bind_bucket; include/net/sock_reuseport.h;
//!           include/linux/tcp.h, struct tcp_sock, 5.11 to 6.18
//! Not here: how they are read (program.rs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_sys::netlink::{u16_at, u32_at, u64_at};

use crate::btf::{Btf, Field};

/// A place in the record.
pub(crate) type At = u16;

/// The length of a record.
pub(crate) const RECORD: u16 = 208;

/// One copy: from so many bytes behind the structure's beginning, to a place in the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub from: u32,
    pub to: At,
    pub length: u16,
}

/// What a program needs to know of this kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The functions that stand for the iterators, by type number.
    pub iter_tcp: u32,
    pub iter_task_file: Option<u32>,
    pub socket_sk: u32,
    /// A socket's own port.
    pub port: Piece,
    /// What tells a TCP socket from others, and its state.
    pub kind: Vec<Piece>,
    pub common: Vec<Piece>,
    pub full: Vec<Piece>,
    pub time_wait: Vec<Piece>,
    pub bucket: Vec<Piece>,
    pub group: Vec<Piece>,
    pub net: Vec<Piece>,
    bits: Bits,
}

/// Fields that are a few bits of a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bits {
    reuse: (u32, u32),
    reuseport: (u32, u32),
    v6only: (u32, u32),
    locks: (u32, u32),
    repair: (u32, u32),
}

/// The structures and functions that are looked up.
const WANTED: &[&str] = &[
    "sock",
    "tcp_sock",
    "inet_connection_sock",
    "inet_timewait_sock",
    "inet_bind_bucket",
    "sock_reuseport",
    "net",
    "socket",
    "bpf_iter_tcp",
    "bpf_iter_task_file",
    "bpf_sock_from_file",
];

/// A record's parts, by their places. Pointers come first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record<'a>(pub &'a [u8]);

impl Record<'_> {
    pub(crate) const NET: At = 0;
    pub(crate) const GROUP: At = 8;
    pub(crate) const BUCKET: At = 16;
    pub(crate) const SCRATCH: At = 24;
    const COOKIE: At = 32;
    const RCV6: At = 40;
    const PEER6: At = 56;
    const RCV4: At = 72;
    const PEER4: At = 76;
    const DEVICE: At = 80;
    pub(crate) const FAMILY: At = 84;
    const NUM: At = 86;
    const DPORT: At = 88;
    pub(crate) const PROTOCOL: At = 90;
    pub(crate) const STATE: At = 92;
    const REUSE: At = 93;
    const REUSEPORT: At = 94;
    const V6ONLY: At = 95;
    const LOCKS: At = 96;
    const REPAIR: At = 97;
    const SUBSTATE: At = 98;
    const UID: At = 100;
    const CPU: At = 104;
    const INUM: At = 108;
    const FAST6: At = 112;
    const FAST4: At = 128;
    const FASTUID: At = 132;
    const L3MDEV: At = 136;
    const FASTFAMILY: At = 140;
    const PORT: At = 142;
    const FASTREUSE: At = 144;
    const FASTREUSEPORT: At = 145;
    const FASTV6ONLY: At = 146;
    const MEMBERS: At = 148;
    const CLOSED: At = 150;
    const PROGRAM: At = 152;
    const BACKLOG: At = 160;
    const QUEUE: At = 164;
}

/// A socket as a program wrote it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub cookie: u64,
    pub net: u32,
    pub state: u8,
    pub half_closed: bool,
    pub local: (IpAddr, u16),
    pub peer: (IpAddr, u16),
    pub device: u32,
    pub uid: u32,
    pub reuse: u8,
    pub reuseport: bool,
    pub v6only: bool,
    pub locks: u8,
    pub repair: bool,
    pub incoming_cpu: i32,
    pub backlog: u32,
    pub queue: u32,
    /// The group's address in the kernel: nothing but a name for it, and never told to anybody.
    pub group: u64,
    pub members: u16,
    pub closed: u16,
    pub program: bool,
    pub bucket: Option<SeenBucket>,
}

/// What a bucket remembers, as a program wrote it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SeenBucket {
    pub port: u16,
    pub vrf: u32,
    pub fastreuse: i8,
    pub fastreuseport: i8,
    pub uid: u32,
    pub address: IpAddr,
    pub v6only: bool,
}

impl Layout {
    /// Looks everything up.
    pub(crate) fn find(btf: &[u8]) -> Result<Layout, String> {
        let btf = Btf::parse(btf, WANTED)?;
        let finder = Finder(&btf);
        let bits = Bits {
            reuse: finder.bits("sock", "__sk_common.skc_reuse")?.1,
            reuseport: finder.bits("sock", "__sk_common.skc_reuseport")?.1,
            v6only: finder.bits("sock", "__sk_common.skc_ipv6only")?.1,
            locks: finder.bits("sock", "sk_userlocks")?.1,
            repair: finder.bits("tcp_sock", "repair")?.1,
        };
        let family = finder.piece("sock", "__sk_common.skc_family", Record::FAMILY, 2)?;
        let task_file = btf
            .function("bpf_sock_from_file")
            .and(btf.function("bpf_iter_task_file"));
        Ok(Layout {
            iter_tcp: btf
                .function("bpf_iter_tcp")
                .ok_or("this kernel has no iterator over TCP")?,
            iter_task_file: task_file,
            socket_sk: finder.field("socket", "sk")?.byte(),
            port: finder.piece("sock", "__sk_common.skc_num", Record::SCRATCH, 2)?,
            kind: vec![
                family,
                finder.piece("sock", "sk_protocol", Record::PROTOCOL, 2)?,
                finder.piece("sock", "__sk_common.skc_state", Record::STATE, 1)?,
            ],
            common: finder.common()?,
            full: vec![
                finder.piece("sock", "sk_reuseport_cb", Record::GROUP, 8)?,
                finder.piece("inet_connection_sock", "icsk_bind_hash", Record::BUCKET, 8)?,
                finder.bit("sock", "sk_userlocks", Record::LOCKS)?,
                finder.bit("tcp_sock", "repair", Record::REPAIR)?,
                finder.piece("sock", "sk_uid", Record::UID, 4)?,
                finder.piece("sock", "__sk_common.skc_incoming_cpu", Record::CPU, 4)?,
                finder.piece("sock", "sk_max_ack_backlog", Record::BACKLOG, 4)?,
                finder.piece("sock", "sk_ack_backlog", Record::QUEUE, 4)?,
            ],
            time_wait: vec![
                finder.piece("inet_timewait_sock", "tw_tb", Record::BUCKET, 8)?,
                finder.piece("inet_timewait_sock", "tw_substate", Record::SUBSTATE, 1)?,
            ],
            bucket: finder.bucket()?,
            group: finder.group()?,
            net: vec![finder.piece("net", "ns.inum", Record::INUM, 4)?],
            bits,
        })
    }

    /// Reads a record.
    pub(crate) fn read(&self, bytes: &[u8]) -> Option<Seen> {
        if bytes.len() != usize::from(RECORD) {
            return None;
        }
        let record = Record(bytes);
        let v6 = match record.u16(Record::FAMILY) {
            2 => false,
            10 => true,
            _ => return None,
        };
        let ip = |four, sixteen| record.ip(v6, four, sixteen);
        let of = |at: At, (shift, bits): (u32, u32)| {
            (record.u8(at) >> shift) & (u8::MAX.checked_shr(8 - bits).unwrap_or(0))
        };
        let bucket = record.u64(Record::BUCKET) != 0 && record.u16(Record::PORT) != 0;
        Some(Seen {
            cookie: record.u64(Record::COOKIE),
            net: record.u32(Record::INUM),
            state: record.u8(Record::STATE),
            half_closed: record.u8(Record::SUBSTATE) == 5,
            local: (ip(Record::RCV4, Record::RCV6), record.u16(Record::NUM)),
            peer: (
                ip(Record::PEER4, Record::PEER6),
                u16::from_be(record.u16(Record::DPORT)),
            ),
            device: record.u32(Record::DEVICE),
            uid: record.u32(Record::UID),
            reuse: of(Record::REUSE, self.bits.reuse),
            reuseport: of(Record::REUSEPORT, self.bits.reuseport) != 0,
            v6only: of(Record::V6ONLY, self.bits.v6only) != 0,
            locks: of(Record::LOCKS, self.bits.locks),
            repair: of(Record::REPAIR, self.bits.repair) != 0,
            incoming_cpu: record.u32(Record::CPU) as i32,
            backlog: record.u32(Record::BACKLOG),
            queue: record.u32(Record::QUEUE),
            group: record.u64(Record::GROUP),
            members: record.u16(Record::MEMBERS),
            closed: record.u16(Record::CLOSED),
            program: record.u64(Record::PROGRAM) != 0,
            bucket: bucket.then(|| record.bucket()),
        })
    }
}

impl Record<'_> {
    fn u8(self, at: At) -> u8 {
        self.0.get(usize::from(at)).copied().unwrap_or(0)
    }

    fn u16(self, at: At) -> u16 {
        u16_at(self.0, usize::from(at)).unwrap_or(0)
    }

    fn u32(self, at: At) -> u32 {
        u32_at(self.0, usize::from(at)).unwrap_or(0)
    }

    fn u64(self, at: At) -> u64 {
        u64_at(self.0, usize::from(at)).unwrap_or(0)
    }

    fn ip(self, v6: bool, four: At, sixteen: At) -> IpAddr {
        if !v6 {
            return IpAddr::V4(Ipv4Addr::from(self.u32(four).to_ne_bytes()));
        }
        let mut bytes = [0; 16];
        let from = usize::from(sixteen);
        if let Some(part) = self.0.get(from..from + 16) {
            bytes.copy_from_slice(part);
        }
        IpAddr::V6(Ipv6Addr::from(bytes))
    }

    fn bucket(self) -> SeenBucket {
        let v6 = self.u16(Self::FASTFAMILY) == 10;
        SeenBucket {
            port: self.u16(Self::PORT),
            vrf: self.u32(Self::L3MDEV),
            fastreuse: self.u8(Self::FASTREUSE) as i8,
            fastreuseport: self.u8(Self::FASTREUSEPORT) as i8,
            uid: self.u32(Self::FASTUID),
            address: self.ip(v6, Self::FAST4, Self::FAST6),
            v6only: self.u8(Self::FASTV6ONLY) != 0,
        }
    }
}

struct Finder<'a>(&'a Btf<'a>);

impl Finder<'_> {
    fn field(&self, structure: &str, path: &str) -> Result<Field, String> {
        let found = self.0.field(structure, path);
        found.ok_or_else(|| format!("this kernel's BTF has no {structure}.{path}"))
    }

    /// A field of this length, or a shorter one: an older kernel's count of 16 bits is no fault.
    fn piece(&self, structure: &str, path: &str, to: At, length: u16) -> Result<Piece, String> {
        let field = self.field(structure, path)?;
        let bytes = u16::try_from(field.bits / 8).unwrap_or(u16::MAX);
        if field.bit % 8 != 0 || bytes == 0 || bytes > length {
            return Err(format!(
                "{structure}.{path} is {} bits in this kernel",
                field.bits
            ));
        }
        Ok(Piece {
            from: field.byte(),
            to,
            length: bytes,
        })
    }

    /// The byte of a bit field, its first bit there and its bits.
    fn bits(&self, structure: &str, path: &str) -> Result<(u32, (u32, u32)), String> {
        let field = self.field(structure, path)?;
        let shift = field.bit % 8;
        if shift + field.bits > 8 {
            return Err(format!(
                "{structure}.{path} lies across bytes in this kernel"
            ));
        }
        Ok((field.byte(), (shift, field.bits)))
    }

    /// The byte of a bit field, to be copied.
    fn bit(&self, structure: &str, path: &str, to: At) -> Result<Piece, String> {
        let (from, _) = self.bits(structure, path)?;
        Ok(Piece {
            from,
            to,
            length: 1,
        })
    }

    fn common(&self) -> Result<Vec<Piece>, String> {
        let of =
            |path: &str, to, length| self.piece("sock", &format!("__sk_common.{path}"), to, length);
        let bit = |path: &str, to| self.bit("sock", path, to);
        Ok(vec![
            of("skc_net.net", Record::NET, 8)?,
            of("skc_cookie", Record::COOKIE, 8)?,
            of("skc_v6_rcv_saddr", Record::RCV6, 16)?,
            of("skc_v6_daddr", Record::PEER6, 16)?,
            of("skc_rcv_saddr", Record::RCV4, 4)?,
            of("skc_daddr", Record::PEER4, 4)?,
            of("skc_bound_dev_if", Record::DEVICE, 4)?,
            of("skc_family", Record::FAMILY, 2)?,
            of("skc_num", Record::NUM, 2)?,
            of("skc_dport", Record::DPORT, 2)?,
            of("skc_state", Record::STATE, 1)?,
            bit("__sk_common.skc_reuse", Record::REUSE)?,
            bit("__sk_common.skc_reuseport", Record::REUSEPORT)?,
            bit("__sk_common.skc_ipv6only", Record::V6ONLY)?,
        ])
    }

    fn bucket(&self) -> Result<Vec<Piece>, String> {
        let of = |path, to, length| self.piece("inet_bind_bucket", path, to, length);
        Ok(vec![
            of("fast_v6_rcv_saddr", Record::FAST6, 16)?,
            of("fast_rcv_saddr", Record::FAST4, 4)?,
            of("fastuid", Record::FASTUID, 4)?,
            of("l3mdev", Record::L3MDEV, 4)?,
            of("fast_sk_family", Record::FASTFAMILY, 2)?,
            of("port", Record::PORT, 2)?,
            of("fastreuse", Record::FASTREUSE, 1)?,
            of("fastreuseport", Record::FASTREUSEPORT, 1)?,
            of("fast_ipv6_only", Record::FASTV6ONLY, 1)?,
        ])
    }

    /// Closed members are counted since 5.14.
    fn group(&self) -> Result<Vec<Piece>, String> {
        let of = |path, to, length| self.piece("sock_reuseport", path, to, length);
        let mut pieces = vec![
            of("num_socks", Record::MEMBERS, 2)?,
            of("prog", Record::PROGRAM, 8)?,
        ];
        pieces.extend(of("num_closed_socks", Record::CLOSED, 2));
        Ok(pieces)
    }
}
