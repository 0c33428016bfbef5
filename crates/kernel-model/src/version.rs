//! Kernel versions as data: which algorithm each release has.
//!
//! Decides:  for each question on which kernels differ, since when the answer is what it is.
//! Kernel:   read in 6.12.117 and 6.18.24; the older rows from the release in which the change landed
//! Not here: the algorithms (each in its own file, asking [`Kernel::has`]).
//!
//! Only what a live kernel has been compared with is verified: 6.18. The rest is transcribed.

use core::fmt;

/// A kernel release, `6.18`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kernel {
    /// The first number.
    pub major: u8,
    /// The second number.
    pub minor: u8,
}

impl Kernel {
    /// The release that the model has been compared with, live.
    pub const V6_18: Kernel = Kernel::new(6, 18);
    /// The oldest release that is modelled: SO_REUSEPORT appeared in it.
    pub const OLDEST: Kernel = Kernel::new(3, 9);

    /// A release by its numbers.
    #[must_use]
    pub const fn new(major: u8, minor: u8) -> Kernel {
        Kernel { major, minor }
    }

    /// Whether this release contains the change.
    #[must_use]
    pub const fn has(self, change: Change) -> bool {
        let since = change.since();
        self.major > since.major || (self.major == since.major && self.minor >= since.minor)
    }

    /// Reads `6.18`, `6.18.44-generic`, `5.4`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Kernel> {
        let mut parts = text.split(['.', '-', '+']);
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        Some(Kernel { major, minor })
    }

    /// Whether a live kernel of this release has agreed with the model.
    #[must_use]
    pub const fn verified(self) -> bool {
        self.major == 6 && self.minor == 18
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

macro_rules! changes {
    ($($(#[$doc:meta])* $name:ident $major:literal . $minor:literal $text:literal;)*) => {
        /// A change in what the kernel answers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Change { $($(#[$doc])* $name,)* }

        impl Change {
            /// Every change, oldest first.
            pub const ALL: &'static [Change] = &[$(Change::$name,)*];

            /// The first release with it.
            #[must_use]
            pub const fn since(self) -> Kernel {
                match self { $(Change::$name => Kernel::new($major, $minor),)* }
            }

            /// What changed, in one sentence.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Change::$name => $text,)* }
            }
        }
    };
}

changes! {
    /// `IP_BIND_ADDRESS_NO_PORT`.
    BindAddressNoPort 4 . 2 "IP_BIND_ADDRESS_NO_PORT lets bind leave the port to connect.";
    /// The order in which a process that ends closes (`kernel/task_work.c`, `task_work_run`).
    ExitBackwards 4 . 3 "A process that ends closes its sockets from the highest descriptor to the lowest; before, from the lowest.";
    /// `net.ipv4.ip_unprivileged_port_start`.
    UnprivilegedPortStart 4 . 11 "The first unprivileged port is a sysctl; before, it is 1024.";
    /// connect favours even ports.
    EvenConnect 4 . 2 "connect begins its search at an even offset, to leave the odd ports to bind.";
    /// The rover looks through the lower half first.
    RoverHalves 4 . 2 "bind to port 0 with SO_REUSEADDR looks through the lower half of the range first.";
    /// The modern port scan of bind and connect.
    OddEvenBind 4 . 6 "bind to port 0 scans odd ports, then even ones, and connect the other way round; bind's random rover is gone.";
    /// Groups of SO_REUSEPORT listeners.
    ReuseportGroups 4 . 6 "SO_REUSEPORT listeners form a group that a hash or a program chooses from.";
    /// `FASTREUSEPORT_STRICT` and the address that a bucket remembers.
    StrictReuseport 4 . 13 "A bucket remembers the address of the SO_REUSEPORT socket that its cached answer is true for.";
    /// `tcp_tw_reuse` 2.
    TwReuseLoopback 4 . 19 "tcp_tw_reuse 2, since then the default, is for loopback connections only.";
    /// 0.0.0.0/8 is ordinary.
    ZeronetIsOneAddress 5 . 3 "Only 0.0.0.0 counts as this network; the rest of 0.0.0.0/8 may be assigned.";
    /// `net.ipv4.ip_autobind_reuse`.
    AutobindReuse 5 . 8 "ip_autobind_reuse lets the last resort of bind to port 0 share ports.";
    /// `net.ipv4.tcp_migrate_req`.
    MigrateReq 5 . 14 "Connections can move to another listener of the group when one closes.";
    /// The exact address is looked up before the wildcard.
    AddressFirst 5 . 0 "A listener on the exact address wins over a wildcard one, whatever their scores.";
    /// A bound device counts in the score again.
    DeviceScore 5 . 15 "A listener bound to the device wins over one that is not, on the same address.";
    /// The second hash, by port and address.
    Bhash2 6 . 1 "A bind to one address walks only the owners of that address and of the wildcard.";
    /// `IP_LOCAL_PORT_RANGE`.
    LocalPortRange 6 . 3 "IP_LOCAL_PORT_RANGE narrows the range of one socket.";
    /// connect tries every port of `IP_LOCAL_PORT_RANGE` in turn.
    OwnRangeWhole 6 . 8 "In a socket's own range connect tries each port in turn, instead of even ones first.";
    /// The bucket's cached `fastreuse` is never set any more.
    NoFastreuse 6 . 8 "A new bucket already lists the address when its cached answer is computed, so SO_REUSEADDR alone never skips the walk.";
    /// `net.ipv4.tcp_tw_reuse_delay`.
    TwReuseDelay 6 . 14 "How old a TIME_WAIT connection must be for connect's own choice is a sysctl; before, a second.";
    /// Ports return to connect's use when only connect's own sockets are left.
    ConnectBind 6 . 18 "A bucket whose remaining owners all got their port from connect can be used by connect again.";
    /// The user of an orphan is remembered.
    OrphanKeepsUser 6 . 17 "A closed socket's remains keep their user; before, they count as root's.";
}
