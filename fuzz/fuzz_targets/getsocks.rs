//! Any bytes as the messages of a process that gives its sockets as HAProxy does.
//!
//! Decides:  nothing but the input, and what must hold: what is taken can be given again, and is the
//!           same; as many descriptors as were announced, or an error.
//! Not here: the protocol (the control crate's admin/getsocks.rs).

#![no_main]

use portcullis_control::admin::getsocks::{MOST_IN_MESSAGE, Taking, announcement, messages};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((count, mut rest)) = bytes.split_first_chunk() else {
        return;
    };
    let Ok(mut taking) = Taking::new(*count) else {
        return;
    };
    let mut next = 0u32;
    // A message: how many descriptors, how many bytes, and these.
    while let [descriptors, length, after @ ..] = rest {
        let (now, later) = after.split_at(usize::from(*length).min(after.len()));
        rest = later;
        let numbers = (next..).take(usize::from(*descriptors)).collect();
        next += u32::from(*descriptors);
        if taking.message(now, numbers).is_err() {
            return;
        }
    }
    let Ok(taken) = taking.finish() else {
        return;
    };
    assert_eq!(announcement(taken.len()), *count);
    let (numbers, names): (Vec<u32>, Vec<_>) = taken.into_iter().unzip();
    assert!(numbers.iter().copied().eq(0..next));
    let Ok(again) = messages(&names) else {
        return;
    };
    let mut second = Taking::new(announcement(names.len())).expect("so many were taken");
    let mut given = 0;
    for (count, bytes) in again {
        assert!(count <= MOST_IN_MESSAGE);
        second.message(&bytes, (given..given + count).collect()).expect("it is ours");
        given += count;
    }
    let second = second.finish().expect("it is ours");
    let second: Vec<_> = second.into_iter().map(|(_, names)| names).collect();
    assert_eq!(second, names);
});
