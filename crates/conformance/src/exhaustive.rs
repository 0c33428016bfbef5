//! Every small script, by number.
//!
//! Decides:  the families of scripts of up to three sockets, their alphabets, and which script a number
//!           stands for; so that a run can be cut into parts and taken up again.
//! Not here: longer scripts (random.rs), forms about one thing each (forms.rs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_kernel_model::{Call, Family, Opt, SockAddr, Uid};

use crate::host::{self, CALLERS};
use crate::step::{ORDINARY, Op, RANGE, Script, Step};
use crate::{encounters, forms};

/// Scripts of one form.
pub struct Form {
    /// How a command names it.
    pub name: &'static str,
    /// What its scripts are.
    pub about: &'static str,
    /// How many there are.
    pub size: fn() -> u64,
    /// The script of a number below the size.
    pub script: fn(u64) -> Script,
}

/// All forms: the small ones first, which every run does whole.
pub fn forms() -> impl Iterator<Item = &'static Form> {
    let (small, large): (Vec<_>, Vec<_>) = forms::FORMS
        .iter()
        .chain(encounters::FORMS)
        .chain(FORMS)
        .partition(|form| (form.size)() <= SMALL_MAX);
    small.into_iter().chain(large)
}

/// A form of no more scripts is small.
const SMALL_MAX: u64 = 60_000;

/// How many scripts the small forms have together: the lowest numbers.
#[must_use]
pub fn small() -> u64 {
    forms()
        .map(|form| (form.size)())
        .filter(|&size| size <= SMALL_MAX)
        .sum()
}

/// A long stride takes only some of the small forms' scripts too: every so manieth.
fn small_stride(stride: u64) -> u64 {
    spreading(stride / 50)
}

/// The next stride that no digit's radix divides, so that all values of all digits come up.
#[must_use]
pub fn spreading(stride: u64) -> u64 {
    let prime_to = |n: &u64| {
        [2, 3, 5, 7, 13]
            .iter()
            .all(|&prime| !n.is_multiple_of(prime))
    };
    (stride.max(1)..).find(prime_to).unwrap_or(1)
}

/// The number of the script that is `at` places behind `from`, where of the large forms only every so
/// manieth is taken.
#[must_use]
pub fn number(from: u64, stride: u64, at: u64) -> u64 {
    let step = small_stride(stride);
    let places = small().saturating_sub(from).div_ceil(step);
    if at < places {
        from + at * step
    } else {
        from.max(small()) + (at - places) * stride
    }
}

const FORMS: &[Form] = &[
    Form {
        name: "shapes",
        about: "three sockets one after the other: options (4) x addresses (10) x users (2) x \
                fates (bind; bind, listen; bind, close; bind, listen, close), the last one always \
                bind, listen; also each pair and each alone",
        size: || SHAPES * SHAPES * LAST + SHAPES * LAST + LAST,
        script: shapes,
    },
    Form {
        name: "orders",
        about: "three sockets of options (4) x addresses (3), and every order of their binds, listens \
                and closes (1680)",
        size: || PLAIN * PLAIN * PLAIN * ORDERS,
        script: orders,
    },
    Form {
        name: "changes",
        about: "a socket (options 4 x addresses 2 x listening or not), a change of it (14), a second \
                socket, a change of either (29), a third that binds and listens",
        size: || 16 * CHANGES * 16 * (2 * CHANGES + 1) * 8,
        script: changes,
    },
    Form {
        name: "receivers",
        about: "three listeners of options (4) x addresses (6) x device or not (2), a client to one of \
                4 addresses, who accepts; the receiver's side closes, and a second client",
        size: || LISTENERS * LISTENERS * LISTENERS * 4,
        script: receivers,
    },
    Form {
        name: "choices",
        about: "three sockets of options (4) x addresses (3) whose port the kernel chooses in 6 ways, \
                on 5 sets of sysctls with a range of few ports",
        size: || CHOOSERS * CHOOSERS * CHOOSERS * 5,
        script: choices,
    },
];

const ADDRESSES: u64 = 10;
const SHAPES: u64 = 4 * ADDRESSES * 2 * 4;
const LAST: u64 = 4 * ADDRESSES * 2;
const PLAIN: u64 = 12;
const ORDERS: u64 = 1680;
const CHANGES: u64 = 14;
const LISTENERS: u64 = 48;
const CHOOSERS: u64 = 72;

/// How many scripts there are in all.
#[must_use]
pub fn size() -> u64 {
    forms().map(|form| (form.size)()).sum()
}

/// The script of a number over all forms.
#[must_use]
pub fn script(mut number: u64) -> Script {
    for form in forms() {
        let size = (form.size)();
        if number < size {
            return (form.script)(number);
        }
        number -= size;
    }
    Script::default()
}

/// Takes digits of a number, the lowest first.
pub(crate) struct Digits(pub(crate) u64);

impl Digits {
    pub(crate) fn below(&mut self, radix: u64) -> u64 {
        let digit = self.0 % radix;
        self.0 /= radix;
        digit
    }
}

/// Writes a script.
pub(crate) struct Pen {
    pub(crate) script: Script,
    pub(crate) process: u8,
}

impl Pen {
    pub(crate) fn new(profile: u8) -> Pen {
        Pen {
            script: Script {
                profile,
                steps: Vec::with_capacity(32),
            },
            process: 0,
        }
    }

    pub(crate) fn socket(&mut self, slot: u8, family: Family) {
        self.step(slot, slot, Op::Socket(family));
    }

    pub(crate) fn call(&mut self, slot: u8, call: Call) {
        self.step(slot, slot, Op::Call(call));
    }

    pub(crate) fn accept(&mut self, slot: u8, into: u8) {
        self.step(slot, into, Op::Call(Call::Accept));
    }

    pub(crate) fn step(&mut self, slot: u8, into: u8, op: Op) {
        self.script.steps.push(Step {
            slot,
            into,
            process: self.process,
            op,
        });
    }

    /// A socket of a family with reuse options: bit 0 SO_REUSEADDR, bit 1 SO_REUSEPORT.
    pub(crate) fn socket_with(&mut self, slot: u8, place: Place, options: u64) {
        self.socket(slot, place.family);
        if options & 1 != 0 {
            self.call(slot, Call::Set(Opt::ReuseAddr(true)));
        }
        if options & 2 != 0 {
            self.call(slot, Call::Set(Opt::ReusePort(true)));
        }
        if place.v6only {
            self.call(slot, Call::Set(Opt::V6Only(true)));
        }
    }
}

/// An address and the socket that is bound to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) family: Family,
    pub(crate) v6only: bool,
    pub(crate) ip: IpAddr,
}

impl Place {
    pub(crate) fn at(self, port: u16) -> SockAddr {
        SockAddr::new(self.ip, port)
    }
}

const fn v4(ip: Ipv4Addr) -> Place {
    Place {
        family: Family::Inet,
        v6only: false,
        ip: IpAddr::V4(ip),
    }
}

const fn v6(ip: Ipv6Addr) -> Place {
    Place {
        family: Family::Inet6,
        v6only: false,
        ip: IpAddr::V6(ip),
    }
}

/// The places of the scripts here; the first ones are those that meet most.
pub(crate) const PLACES: [Place; ADDRESSES as usize] = [
    v4(Ipv4Addr::UNSPECIFIED),
    v4(Ipv4Addr::LOCALHOST),
    v6(Ipv6Addr::UNSPECIFIED),
    v6(Ipv6Addr::LOCALHOST),
    Place {
        family: Family::Inet6,
        v6only: true,
        ip: IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    },
    v6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()),
    v6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped()),
    v4(Ipv4Addr::new(127, 0, 0, 2)),
    v4(host::ON_LO),
    v6(host::ON_LO6),
];

/// The caller of a digit: root, or a user without capabilities.
fn caller(digit: u64) -> u8 {
    debug_assert!(!CALLERS[1].capable);
    digit as u8
}

fn shapes(number: u64) -> Script {
    let mut digits = Digits(number);
    let triples = SHAPES * SHAPES * LAST;
    let pairs = SHAPES * LAST;
    let count = if number < triples {
        3
    } else if number < triples + pairs {
        digits = Digits(number - triples);
        2
    } else {
        digits = Digits(number - triples - pairs);
        1
    };
    let mut pen = Pen::new(0);
    // The last socket's shape is in the lowest digits, so that neighbours share their beginning.
    let mut shapes = [(0, 0, 0, 1); 3];
    for at in (0..count).rev() {
        let options = digits.below(4);
        let place = digits.below(ADDRESSES);
        let user = digits.below(2);
        let fate = if at + 1 == count { 1 } else { digits.below(4) };
        shapes[at] = (options, place, user, fate);
    }
    for (slot, &(options, place, user, fate)) in shapes.iter().enumerate().take(count) {
        let (slot, place) = (slot as u8, PLACES[place as usize]);
        pen.process = caller(user);
        pen.socket_with(slot, place, options);
        pen.call(slot, Call::Bind(place.at(ORDINARY)));
        if fate & 1 != 0 {
            pen.call(slot, Call::Listen(5));
        }
        if fate & 2 != 0 {
            pen.call(slot, Call::Close);
        }
    }
    pen.script
}

fn orders(number: u64) -> Script {
    let mut digits = Digits(number);
    let order = digits.below(ORDERS);
    let mut pen = Pen::new(0);
    let mut places = [PLACES[0]; 3];
    for (slot, place) in places.iter_mut().enumerate() {
        let options = digits.below(4);
        *place = PLACES[digits.below(3) as usize];
        pen.socket_with(slot as u8, *place, options);
    }
    let mut done = [0_u8; 3];
    for slot in interleaving(order) {
        let at = usize::from(slot);
        match done[at] {
            0 => pen.call(slot, Call::Bind(places[at].at(ORDINARY))),
            1 => pen.call(slot, Call::Listen(5)),
            _ => pen.call(slot, Call::Close),
        }
        done[at] += 1;
    }
    pen.script
}

/// The order of a number: each of three things three times, in every way.
fn interleaving(mut number: u64) -> [u8; 9] {
    let mut left = [3_u64; 3];
    let mut order = [0; 9];
    for place in &mut order {
        for thing in 0..3 {
            if left[thing] == 0 {
                continue;
            }
            left[thing] -= 1;
            let ways = multinomial(left);
            if number < ways {
                *place = thing as u8;
                break;
            }
            number -= ways;
            left[thing] += 1;
        }
    }
    order
}

fn multinomial(left: [u64; 3]) -> u64 {
    let factorial = |n: u64| (1..=n).product::<u64>();
    let below: u64 = left.iter().map(|&n| factorial(n)).product();
    factorial(left.iter().sum()) / below
}

fn changes(number: u64) -> Script {
    let mut digits = Digits(number);
    let third = (digits.below(4), digits.below(2));
    let second_change = digits.below(2 * CHANGES + 1);
    let second = (digits.below(4), digits.below(2), digits.below(2));
    let first_change = digits.below(CHANGES);
    let first = (digits.below(4), digits.below(2), digits.below(2));
    let mut pen = Pen::new(0);
    let bind = |pen: &mut Pen, slot, (options, place, listens): (u64, u64, u64)| {
        let place = PLACES[place as usize];
        pen.socket_with(slot, place, options);
        pen.call(slot, Call::Bind(place.at(ORDINARY)));
        if listens != 0 {
            pen.call(slot, Call::Listen(5));
        }
    };
    bind(&mut pen, 0, first);
    change(&mut pen, 0, first_change);
    bind(&mut pen, 1, second);
    match second_change.checked_sub(1) {
        None => {}
        Some(kind) => change(&mut pen, (kind / CHANGES) as u8, kind % CHANGES),
    }
    bind(&mut pen, 2, (third.0, third.1, 1));
    pen.script
}

fn change(pen: &mut Pen, slot: u8, kind: u64) {
    let call = match kind {
        0 => Call::Set(Opt::ReuseAddr(false)),
        1 => Call::Set(Opt::ReuseAddr(true)),
        2 => Call::Set(Opt::ReusePort(false)),
        3 => Call::Set(Opt::ReusePort(true)),
        4 => Call::Fchown(Uid(CALLERS[1].uid)),
        5 => Call::Listen(1),
        6 => Call::Shutdown(0),
        7 => Call::Shutdown(1),
        8 => Call::Connect(SockAddr::unspecified()),
        9 => Call::Close,
        10 => {
            pen.call(slot, Call::Dup);
            Call::Close
        }
        11 => Call::Set(Opt::Repair(1)),
        12 => Call::Set(Opt::BindToDevice(host::LEFT)),
        _ => {
            pen.call(slot, Call::Close);
            let caller = std::mem::replace(&mut pen.process, 1);
            pen.socket_with(slot + 3, PLACES[1], 2);
            pen.call(slot + 3, Call::Bind(PLACES[1].at(ORDINARY)));
            pen.process = caller;
            return;
        }
    };
    pen.call(slot, call);
}

fn receivers(number: u64) -> Script {
    let mut digits = Digits(number);
    let target = [PLACES[1], PLACES[3], PLACES[7], PLACES[9]][digits.below(4) as usize];
    let mut pen = Pen::new(0);
    for slot in 0..3 {
        let place = [0, 1, 2, 3, 4, 5].map(|at: usize| PLACES[at])[digits.below(6) as usize];
        let options = digits.below(4);
        pen.socket_with(slot, place, options);
        if digits.below(2) != 0 {
            pen.call(slot, Call::Set(Opt::BindToDevice(host::LOOPBACK)));
        }
        pen.call(slot, Call::Bind(place.at(ORDINARY)));
        pen.call(slot, Call::Listen(5));
    }
    for client in [3, 4] {
        pen.socket(client, target.family);
        pen.call(client, Call::Connect(target.at(ORDINARY)));
        for listener in 0..3 {
            pen.accept(listener, 5 + client - 3);
        }
        // The newest goes, and a second client asks again.
        pen.call(2, Call::Close);
    }
    pen.script
}

fn choices(number: u64) -> Script {
    let mut digits = Digits(number);
    // The profiles of few ports, by their place in host::PROFILES.
    // In the highest digit: a change of sysctls costs more than a script.
    let profile = [0, 3, 5, 10, 11][(number / (CHOOSERS * CHOOSERS * CHOOSERS)) as usize];
    let mut pen = Pen::new(profile);
    for slot in 0..3 {
        let options = digits.below(4);
        let place = PLACES[digits.below(3) as usize];
        pen.socket_with(slot, place, options);
        match digits.below(6) {
            0 => pen.call(slot, Call::Bind(place.at(0))),
            1 => pen.call(slot, Call::Bind(place.at(RANGE))),
            2 => {
                pen.call(slot, Call::Set(Opt::BindAddressNoPort(true)));
                pen.call(slot, Call::Bind(place.at(0)));
            }
            3 => {}
            4 => {
                let one = u32::from(RANGE) | u32::from(RANGE) << 16;
                pen.call(slot, Call::Set(Opt::LocalPortRange(one)));
                pen.call(slot, Call::Bind(place.at(0)));
            }
            _ => {
                let two = u32::from(RANGE) | u32::from(RANGE + 1) << 16;
                pen.call(slot, Call::Set(Opt::LocalPortRange(two)));
            }
        }
        pen.call(slot, Call::Listen(5));
    }
    pen.script
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_order_of_three_times_three_calls_has_its_number() {
        let all: BTreeSet<_> = (0..ORDERS).map(interleaving).collect();
        assert_eq!(all.len() as u64, ORDERS);
        for order in all {
            let counts = [0, 1, 2].map(|thing| order.iter().filter(|&&at| at == thing).count());
            assert_eq!(counts, [3, 3, 3]);
        }
    }

    #[test]
    fn the_last_number_of_each_form_uses_up_its_digits() {
        for form in forms() {
            let size = (form.size)();
            let ends = [0, 1, size / 2, size - 1].map(|at| (form.script)(at));
            assert!(
                ends.iter().all(|script| !script.steps.is_empty()),
                "{}",
                form.name
            );
            assert_ne!(ends[0], ends[3], "{}", form.name);
        }
    }

    #[test]
    fn a_stride_reaches_every_form_and_no_script_twice() {
        for (from, stride) in [(0, 1), (0, 311), (7, 4001), (small() + 5, 311)] {
            let numbers: Vec<u64> = (0..200_000).map(|at| number(from, stride, at)).collect();
            assert_eq!(numbers[0], from);
            assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{stride}");
        }
        let mut end = 0;
        for form in forms() {
            let begin = end;
            end += (form.size)();
            let inside = |n: &u64| (begin..end).contains(n);
            let taken = (0..).map(|at| number(0, 311, at)).take_while(|&n| n < end);
            assert!(taken.into_iter().any(|n| inside(&n)), "{}", form.name);
        }
    }

    #[test]
    fn small_forms_have_no_script_twice() {
        // The pairs and single sockets of the first form: the end of its numbers.
        let first = SHAPES * SHAPES * LAST;
        let scripts: BTreeSet<String> = (first..first + SHAPES * LAST + LAST)
            .map(|number| format!("{:?}", shapes(number).steps))
            .collect();
        assert_eq!(scripts.len() as u64, SHAPES * LAST + LAST);
    }
}
