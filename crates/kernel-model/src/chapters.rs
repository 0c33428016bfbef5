//! In which chapter of docs/bind-rules.md each rule stands, and until which release it holds.
//!
//! Decides:  the order in which a reader asks; what is said before the rules of a chapter.
//! Not here: the rules' own texts (rules.rs).

use core::fmt;

use crate::rules::Rule;
use crate::version::{Change, Kernel};

macro_rules! chapters {
    ($($name:ident $title:literal $intro:literal;)*) => {
        /// A chapter of the account of bind and listen, in the order of a reader's questions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Chapter { $(#[doc = $title] $name,)* }

        impl Chapter {
            /// Every chapter, in order.
            pub const ALL: &'static [Chapter] = &[$(Chapter::$name,)*];

            /// Its heading.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Chapter::$name => $title,)* }
            }

            /// What to know before its rules.
            #[must_use]
            pub const fn intro(self) -> &'static str {
                match self { $(Chapter::$name => $intro,)* }
            }
        }
    };
}

chapters! {
    Bind "May this socket be bound at all?"
        "The kernel goes through these questions in order, and the first that is answered with no gives the \
         error. A socket that is wrong in two ways gets the error of the earlier one, and the two families \
         do not ask in the same order.\n\n\
         | | IPv4 | IPv6 |\n|---|---|---|\n\
         | 1 | Is the descriptor open? | the same |\n\
         | 2 | Is the length of the address argument between 0 and 128? | the same |\n\
         | 3 | Does it cover the structure (16 bytes)? | Does it cover the structure without its scope (24)? |\n\
         | 4 | Is it of the socket's family, or AF_UNSPEC with 0.0.0.0? | Is it of the socket's family? |\n\
         | 5 | Is the address ours? | Is it no multicast address? |\n\
         | 6 | May this user have the port? | the same |\n\
         | 7 | Is the socket new: without a port, not listening, not connected? | the same |\n\
         | 8 | | Is the address ours, on the interface that its scope names? |\n\
         | 9 | Is the port free, or may it be shared? | the same |\n\n\
         A bind that is refused leaves the socket as it was, and can be tried again.";
    Address "Is the address one of ours?"
        "An IPv4 address is ours if the local routing table says so: assigned to an interface that is up, \
         anywhere in 127.0.0.0/8, a broadcast address of ours, any multicast address. An IPv6 address is ours \
         if an interface that is up has it and duplicate address detection has ended. The wildcard (0.0.0.0, \
         ::) always is.";
    Privilege "May this user have the port?"
        "Only the number counts, not whether anybody has the port. The capability is asked for over the user \
         namespace that owns the network namespace: root in a container need not have it.";
    Port "The port is given: is it free?"
        "A port of one network namespace that has an owner has a *bucket*: the list of its owners, and what \
         the kernel remembers of those who came. Without a bucket the port is free. With one, the memory is \
         asked first; only if it lets nobody in are the owners looked at, one after the other.";
    Conflict "May two sockets own one port?"
        "They may if they are bound to different devices; or to addresses of which neither covers the other; \
         or if both have SO_REUSEADDR and the older does not listen; or if both have SO_REUSEPORT and one \
         user id. Everything else is EADDRINUSE. The options count as they are now, the older socket's too, \
         not as they were when it was bound.\n\n\
         Owners need not be sockets that anybody can still close: a connection that was accepted owns the \
         listener's port, and so does what is left of it in TIME_WAIT.";
    Memory "What does the bucket remember?"
        "The bucket keeps an answer that was true once, and it is not taken back when the socket that it was \
         true of closes or changes. So the order in which sockets came decides, and a socket that no longer \
         exists can let another in. The memory goes with the last owner.";
    PortZero "Port 0: which one is chosen?"
        "The kernel draws a place in `ip_local_port_range` at random and searches from there: first every \
         port at an odd distance from the lower end, then every one at an even distance, so that the even \
         half is left to connect. Reserved ports are skipped. A socket with SO_REUSEADDR looks through the \
         lower half of the range first. Until 4.10 it shared the port with the fewest owners where all, or every \
         other one, were taken, and until 4.5 it went one by one from a random port.";
    Listen "Why does listen fail, and what does the backlog mean?"
        "listen enters the state LISTEN first and then asks for the port again, with the same rules, as a \
         listener: SO_REUSEADDR, which lets two sockets bind, does not let both listen. A backlog of N lets \
         N + 1 connections wait.";
    Connect "Where does connect call from?"
        "A socket without an address gets the one that the route prefers; one without a port gets a port that \
         bind does not hold and that is not in use towards the same peer. Many connections can share one \
         local port, as long as no two have the same four numbers.";
    Lookup "Who gets the SYN?"
        "A connection with the same four numbers comes first. Then the listeners of the exact address, then \
         those of the wildcard; among equals a listener bound to the device, then IPv4's own, then the one \
         that SO_INCOMING_CPU names, then the one that listened last (IPv6 SO_REUSEPORT listeners: first). \
         The first SO_REUSEPORT listener that is better than what was found ends the search: its group \
         decides. Until 4.20 all listeners of the port were scored at once; from 4.16 on only where they are few.";
    Groups "Who shares with SO_REUSEPORT?"
        "Listeners with SO_REUSEPORT and one address, device, family, user and IPV6_V6ONLY form a group, in \
         the order of listen. Each connection goes to the member that a hash of its addresses and ports \
         names, or that an attached program names by its index. A member that leaves is replaced by the \
         last one.";
    HalfOpen "What lies between the SYN and the queue?"
        "A listener that answers a SYN keeps a *half-open connection* until the handshake's last \
         acknowledgement. Between sockets of one host that comes at once, unless TCP_DEFER_ACCEPT ignores \
         it, or the answer is lost. Half-open connections count against the backlog by themselves, besides \
         those that wait in the queue; since 4.4 they outlive their listener, and hold their four numbers. Nobody \
         tells the client when one ends.";
    Accept "What waits in the queue?"
        "A connection is complete before anybody accepts it. It waits in the listener's queue; when the queue \
         is full, further SYNs are dropped, and their senders try again.";
    Closing "What does closing do?"
        "The last descriptor closes the socket. A port that bind was asked for stays with the socket until \
         then; one that connect or listen chose goes back as soon as the connection or the listening ends.";
    TimeWait "What is left in TIME_WAIT?"
        "The side that closes first leaves a socket without a descriptor, for 60 seconds. It owns the port \
         and can stand against bind. SO_REUSEADDR on both the old socket and the new one passes it; for \
         SO_REUSEPORT the user does not matter there.";
    Options "Which options can be set when?"
        "Most options can be set at any time, and take effect at the next question that reads them.";
    Sysctls "What do the sysctls take?"
        "A write to a file under /proc/sys that is refused changes nothing. Of a number, white space before \
         it and whatever follows white space behind it is not read: `1 2` is 1.";
}

impl fmt::Display for Chapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.title())
    }
}

macro_rules! places {
    ($($chapter:ident: $($rule:ident)*;)*) => {
        impl Rule {
            /// Where it stands in docs/bind-rules.md.
            #[must_use]
            pub const fn chapter(self) -> Chapter {
                match self { $($(Rule::$rule)|* => Chapter::$chapter,)* }
            }
        }

        impl Chapter {
            /// Its rules, in the order in which they are told.
            #[must_use]
            pub const fn rules(self) -> &'static [Rule] {
                match self { $(Chapter::$chapter => &[$(Rule::$rule,)*],)* }
            }
        }
    };
}

// A rule that stands nowhere does not compile.
places! {
    Bind: BadDescriptor AddressTooLong AddressTooShort BindFamily AlreadyBound;
    Address: ForeignAddress AnyAddressAllowed MulticastBind6 MappedOnV6Only ScopeMissing
        NoSuchDevice;
    Privilege: PrivilegedPort;
    Port: PortFree PortShared VrfPorts RepairForcesReuse;
    Conflict: PortHeld ConnectionHolds ReuseaddrBesideListener ReuseportOtherUser
        ReuseportAlreadyGrouped;
    Memory: BucketRemembersReuseaddr BucketRemembersReuseport;
    PortZero: PortDeferred ChoosingSharesNothing LastResortSparesGroups ChosenFree ChosenShared
        OwnPortRange NoPortLeft;
    Listen: ListenState ListenAgain BacklogCut FastopenQueue ListenChecksPort;
    Connect: ConnectState ConnectFamily MappedSource MappedForever ForeignSource LoopbackSource
        NoSource ConnectUnderWay ConnectFailed NoRoute TupleTaken ConnectChose ConnectNoPort;
    Lookup: Refused SelfConnect NeighbourSilent SynLost HalfOpen LookupExact LookupWildcard ReplyLost;
    Groups: GroupBegun GroupJoined GroupBusy GroupFull LookupGroup LookupEquals LookupProgram LookupCpu
        ProgramNeedsReuseport ProgramTooLate NoProgram;
    HalfOpen: SynQueueFull SynQueueReserved SynCookie AcceptDeferred LastAckDropped OverflowReset
        RequestReset RequestMigrated RequestForgotten RequestElsewhere;
    Accept: SynDropped AcceptOldest AcceptState AcceptEmpty;
    Closing: LastHolder ProcessEnds QueueReset Migrated ShutdownHow ShutdownUnconnected ShutdownListener
        Disconnected PortKept NotConnected;
    TimeWait: TimeWaitHolds TimeWaitReused;
    Options: OptionForeign V6OnlyTooLate NeedsCapability RepairState DeviceTaken OptionLength BadValue;
    Sysctls: NoSuchSysctl SysctlValue SysctlPrivileged;
}

impl Rule {
    /// The first release without it; `None` for what still holds.
    #[must_use]
    pub const fn until(self) -> Option<Kernel> {
        match self {
            Rule::BucketRemembersReuseaddr => Some(Change::NoFastreuse.since()),
            Rule::LookupEquals => Some(Change::ReuseportGroups.since()),
            _ => None,
        }
    }
}
