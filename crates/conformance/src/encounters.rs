//! Forms of scripts about one connection: what becomes of it, of both its ports, and of its listener.
//!
//! Decides:  the events, and which script a number stands for; those in which time passes too.
//! Not here: other forms (forms.rs), the numbers over all forms (exhaustive.rs).

use portcullis_kernel_model::{Call, Opt, OptName, SockAddr, Uid};

use crate::exhaustive::{Digits, Form, PLACES, Pen, Place};
use crate::host::{CALLERS, TW_REUSE_EVERYWHERE, TW_REUSE_NOWHERE};
use crate::random::RARE;
use crate::step::{OF_SLOT, ORDINARY, Op, Script};

/// The forms of this file.
pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "meetings",
        about: "a listener, a client and its connection (6 places x options 4 x ways of the client's \
                port 3), every three of 26 events, and who may have the port then; 3 sets of sysctls",
        size: || EVENTS * EVENTS * EVENTS * 72 * 3,
        script: meetings,
    },
    Form {
        name: "lives",
        about: "the same with 4 kinds of connection and every four of 26 events",
        size: || EVENTS * EVENTS * EVENTS * EVENTS * 4,
        script: lives,
    },
];

const EVENTS: u64 = 26;

/// A listener (slot 0), a client (1) of a place and options, and by `events` the connection's end (2).
fn meeting(pen: &mut Pen, (listener, to): (Place, Place), backlog: i32, options: u64, port: u64) {
    pen.socket_with(0, listener, options);
    pen.call(0, Call::Bind(listener.at(ORDINARY)));
    pen.call(0, Call::Listen(backlog));
    pen.socket_with(1, to, options & 1);
    match port {
        1 => pen.call(1, Call::Bind(to.at(ORDINARY + 1))),
        2 => {
            pen.call(1, Call::Set(Opt::BindAddressNoPort(true)));
            pen.call(1, Call::Bind(to.at(0)));
        }
        _ => {}
    }
    pen.call(1, Call::Connect(to.at(ORDINARY)));
}

fn event(pen: &mut Pen, to: Place, kind: u64) {
    let target = to.at(ORDINARY);
    match kind {
        0 | 1 => pen.accept(0, 2),
        2 => pen.call(0, Call::Close),
        3 => pen.call(0, Call::Shutdown(0)),
        4 => pen.call(0, Call::Listen(0)),
        5..20 => {
            let slot = if kind < 13 { 1 } else { 2 };
            let call = match (kind - 5) % 8 {
                0 => Call::Close,
                1 => Call::Shutdown(1),
                2 => Call::Shutdown(0),
                3 => Call::Connect(SockAddr::unspecified()),
                4 => Call::Set(Opt::Linger(Some(0))),
                5 => Call::Connect(target),
                6 => Call::Listen(1),
                _ => Call::Shutdown(2),
            };
            pen.call(slot, call);
        }
        20 => pen.call(1, Call::Bind(to.at(ORDINARY + 1))),
        21 => {
            pen.socket(3, to.family);
            pen.call(3, Call::Connect(target));
        }
        22 => {
            pen.socket_with(4, to, 1);
            pen.call(4, Call::Bind(to.at(OF_SLOT + 1)));
            pen.call(4, Call::Connect(target));
        }
        23 => {
            pen.socket_with(5, to, 3);
            pen.call(5, Call::Bind(target));
            pen.call(5, Call::Listen(1));
        }
        24 => pen.call(2, Call::Fchown(Uid(CALLERS[1].uid))),
        _ => pen.accept(5, 6),
    }
}

/// Who may have the port of the listener and that of the client.
fn afterwards(pen: &mut Pen, to: Place) {
    for slot in 0..3 {
        pen.call(slot, Call::Get(OptName::State));
    }
    pen.call(1, Call::Get(OptName::Error));
    for (slot, options, port) in [(7, 0, ORDINARY), (8, 1, ORDINARY), (9, 0, OF_SLOT + 1)] {
        pen.socket_with(slot, to, options);
        pen.call(slot, Call::Bind(to.at(port)));
    }
    pen.call(8, Call::Listen(5));
}

fn meetings(number: u64) -> Script {
    let mut digits = Digits(number);
    let events = [0, 1, 2].map(|_| digits.below(EVENTS));
    let port = digits.below(3);
    let options = digits.below(4);
    let (listener, to) = [
        (PLACES[1], PLACES[1]),
        (PLACES[0], PLACES[1]),
        (PLACES[2], PLACES[1]),
        (PLACES[3], PLACES[3]),
        (PLACES[2], PLACES[5]),
        (PLACES[0], RARE[0]),
    ][digits.below(6) as usize];
    // In the highest digit: a change of sysctls costs more than a script.
    let mut pen = Pen::new([0, 4, 9][digits.below(3) as usize]);
    meeting(&mut pen, (listener, to), 1, options, port);
    for kind in events {
        event(&mut pen, to, kind);
    }
    afterwards(&mut pen, to);
    pen.script
}

/// How many scripts [`waiting`] has.
pub(crate) const WAITING: u64 = 5 * 4 * 4 * 3 * EVENTS * EVENTS * EVENTS * EVENTS;

/// A connection, three events, half a minute, one more event, and again half a minute: TIME_WAIT and an
/// orphan's FIN_WAIT2 are there the first time and have ended the second time, unless they came late.
pub(crate) fn waiting(number: u64) -> Script {
    let mut digits = Digits(number);
    let events = [0, 1, 2, 3].map(|_| digits.below(EVENTS));
    let options = digits.below(4);
    let port = digits.below(3);
    let (listener, to) = [
        (PLACES[1], PLACES[1]),
        (PLACES[3], PLACES[3]),
        (PLACES[2], PLACES[5]),
        (PLACES[0], RARE[0]),
    ][digits.below(4) as usize];
    // TIME_WAIT is taken over by connect on the loopback alone, everywhere, or nowhere.
    let mut pen =
        Pen::new([0, 0, 0, TW_REUSE_EVERYWHERE, TW_REUSE_NOWHERE][digits.below(5) as usize]);
    meeting(&mut pen, (listener, to), 5, options, port);
    for (at, &kind) in events.iter().enumerate() {
        if at == 3 {
            pen.step(0, 0, Op::Wait(FIRST_WAIT_S));
        }
        event(&mut pen, to, kind);
    }
    // A tuple in TIME_WAIT is asked for again: by name, and by connect's own choice.
    pen.socket_with(10, to, 1);
    pen.call(10, Call::Bind(to.at(OF_SLOT + 1)));
    pen.call(10, Call::Connect(to.at(ORDINARY)));
    pen.call(10, Call::Close);
    pen.step(0, 0, Op::Wait(SECOND_WAIT_S));
    afterwards(&mut pen, to);
    pen.script
}

/// Well away from the minute that TIME_WAIT lasts, so that a late step changes nothing.
const FIRST_WAIT_S: u32 = 30;
/// The same.
const SECOND_WAIT_S: u32 = 38;

fn lives(number: u64) -> Script {
    let mut digits = Digits(number);
    let events = [0, 1, 2, 3].map(|_| digits.below(EVENTS));
    let options = digits.below(2);
    let (listener, to) = [(PLACES[1], PLACES[1]), (PLACES[2], PLACES[3])][digits.below(2) as usize];
    let mut pen = Pen::new(0);
    meeting(&mut pen, (listener, to), 1, options, 0);
    for kind in events {
        event(&mut pen, to, kind);
    }
    afterwards(&mut pen, to);
    pen.script
}
