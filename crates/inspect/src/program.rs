//! The two programs that read sockets inside the kernel, put together instruction by instruction.
//!
//! Decides:  what the programs do: copy fields of each TCP socket, of its port's bucket and of its group into
//!           a record, and write that. They change nothing, hold nothing, and follow no list.
//! Kernel:   kernel/bpf/verifier.c; Documentation/bpf/standardization/instruction-set.rst;
//!           net/ipv4/tcp_ipv4.c, bpf_iter_tcp (5.9); kernel/bpf/task_iter.c, bpf_iter_task_file (5.8);
//!           bpf_sock_from_file() (5.11)
//! Not here: where the fields are (layout.rs); running it (iter.rs).

use crate::diag::Ports;
use crate::layout::{At, Layout, Piece, RECORD, Record};

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
/// What a program is given.
const CONTEXT: u8 = 6;
const SOCK: u8 = 7;
/// What a group of fields is read from.
const BASE: u8 = 8;
const FRAME: u8 = 10;

const PROBE_READ_KERNEL: i32 = 113;
const SEQ_WRITE: i32 = 127;
const SOCK_FROM_FILE: i32 = 162;

const TIME_WAIT: i32 = 6;
const CLOSE: i32 = 7;
const NEW_SYN_RECV: i32 = 12;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const IPPROTO_TCP: i32 = 6;

/// A place in the program that is jumped to from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

/// A program in the making.
#[derive(Default)]
struct Code {
    words: Vec<u64>,
    /// Jumps whose distance is not known yet.
    open: Vec<(usize, Label)>,
    labels: usize,
}

impl Code {
    fn put(&mut self, code: u8, to: u8, from: u8, offset: i16, value: i32) {
        let word = u64::from(code)
            | u64::from(to) << 8
            | u64::from(from) << 12
            | u64::from(offset as u16) << 16
            | u64::from(value as u32) << 32;
        self.words.push(word);
    }

    fn set(&mut self, to: u8, value: i32) {
        self.put(0xb7, to, 0, 0, value);
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.put(0xbf, to, from, 0, 0);
    }

    fn add(&mut self, to: u8, value: i32) {
        self.put(0x07, to, 0, 0, value);
    }

    fn load64(&mut self, to: u8, from: u8, offset: i16) {
        self.put(0x79, to, from, offset, 0);
    }

    fn load16(&mut self, to: u8, from: u8, offset: i16) {
        self.put(0x69, to, from, offset, 0);
    }

    fn load8(&mut self, to: u8, from: u8, offset: i16) {
        self.put(0x71, to, from, offset, 0);
    }

    fn zero64(&mut self, at: i16) {
        self.put(0x7a, FRAME, 0, at, 0);
    }

    fn call(&mut self, helper: i32) {
        self.put(0x85, 0, 0, 0, helper);
    }

    fn label(&mut self) -> Label {
        self.labels += 1;
        Label(self.labels)
    }

    fn jump_if(&mut self, register: u8, equals: i32, to: Label) {
        self.open.push((self.words.len(), to));
        self.put(0x15, register, 0, 0, equals);
    }

    fn jump_unless(&mut self, register: u8, equals: i32, to: Label) {
        self.open.push((self.words.len(), to));
        self.put(0x55, register, 0, 0, equals);
    }

    fn jump_above(&mut self, register: u8, than: i32, to: Label) {
        self.open.push((self.words.len(), to));
        self.put(0x25, register, 0, 0, than);
    }

    fn jump_below(&mut self, register: u8, than: i32, to: Label) {
        self.open.push((self.words.len(), to));
        self.put(0xa5, register, 0, 0, than);
    }

    fn jump(&mut self, to: Label) {
        self.open.push((self.words.len(), to));
        self.put(0x05, 0, 0, 0, 0);
    }

    /// Here it is.
    fn here(&mut self, label: Label) {
        let here = self.words.len();
        for &(at, _) in self.open.iter().filter(|&&(_, to)| to == label) {
            self.words[at] |= ((here - at - 1) as u64 & 0xffff) << 16;
        }
        self.open.retain(|&(_, to)| to != label);
    }

    fn exit(&mut self) {
        self.set(R0, 0);
        self.put(0x95, 0, 0, 0, 0);
    }

    /// Reads fields behind a register into the record. What cannot be read is zero.
    fn read(&mut self, base: u8, pieces: &[Piece]) {
        for piece in pieces {
            self.copy(R1, FRAME);
            self.add(R1, i32::from(on_stack(piece.to)));
            self.set(R2, i32::from(piece.length));
            self.copy(R3, base);
            self.add(R3, piece.from as i32);
            self.call(PROBE_READ_KERNEL);
        }
    }

    /// A pointer that stands in the record.
    fn pointer(&mut self, at: At) {
        self.load64(BASE, FRAME, on_stack(at));
    }
}

/// The record is at the end of the stack.
const fn on_stack(at: At) -> i16 {
    at as i16 - RECORD as i16
}

/// Leaves sockets of other ports out, before anything else of them is read.
fn only(code: &mut Code, layout: &Layout, ports: Ports, out: Label) {
    let Ports::Within { first, last } = ports else {
        return;
    };
    code.zero64(on_stack(Record::SCRATCH));
    code.read(SOCK, &[layout.port]);
    code.load16(R1, FRAME, on_stack(Record::SCRATCH));
    code.jump_below(R1, i32::from(first), out);
    code.jump_above(R1, i32::from(last), out);
}

/// For every TCP socket of a network namespace that listens or has a peer.
pub(crate) fn tcp(layout: &Layout, ports: Ports) -> Vec<u64> {
    let mut code = Code::default();
    let out = code.label();
    code.copy(CONTEXT, R1);
    code.load64(SOCK, CONTEXT, 8);
    code.jump_if(SOCK, 0, out);
    only(&mut code, layout, ports, out);
    record(&mut code, layout);
    code.here(out);
    code.exit();
    code.words
}

/// For every descriptor of every process: those TCP sockets are written that the other program does not meet,
/// since they neither listen nor have a peer.
pub(crate) fn task_file(layout: &Layout, ports: Ports) -> Vec<u64> {
    let mut code = Code::default();
    let (out, family) = (code.label(), code.label());
    code.copy(CONTEXT, R1);
    code.load64(R1, CONTEXT, 24);
    code.jump_if(R1, 0, out);
    code.call(SOCK_FROM_FILE);
    code.jump_if(R0, 0, out);
    code.copy(BASE, R0);
    code.zero64(on_stack(Record::SCRATCH));
    code.read(
        BASE,
        &[Piece {
            from: layout.socket_sk,
            to: Record::SCRATCH,
            length: 8,
        }],
    );
    code.load64(SOCK, FRAME, on_stack(Record::SCRATCH));
    code.jump_if(SOCK, 0, out);
    code.read(SOCK, &layout.kind);
    code.load16(R1, FRAME, on_stack(Record::PROTOCOL));
    code.jump_unless(R1, IPPROTO_TCP, out);
    code.load8(R1, FRAME, on_stack(Record::STATE));
    code.jump_unless(R1, CLOSE, out);
    code.load16(R1, FRAME, on_stack(Record::FAMILY));
    code.jump_if(R1, AF_INET, family);
    code.jump_unless(R1, AF_INET6, out);
    code.here(family);
    only(&mut code, layout, ports, out);
    record(&mut code, layout);
    code.here(out);
    code.exit();
    code.words
}

/// Makes the record of the socket, and writes it.
fn record(code: &mut Code, layout: &Layout) {
    for at in (0..RECORD).step_by(8) {
        code.zero64(on_stack(at));
    }
    let (short, remains, bucket) = (code.label(), code.label(), code.label());
    code.read(SOCK, &layout.common);
    code.load8(R1, FRAME, on_stack(Record::STATE));
    code.jump_if(R1, NEW_SYN_RECV, short);
    code.jump_if(R1, TIME_WAIT, remains);
    code.read(SOCK, &layout.full);
    code.pointer(Record::GROUP);
    code.read(BASE, &layout.group);
    code.jump(bucket);
    code.here(remains);
    code.read(SOCK, &layout.time_wait);
    code.here(bucket);
    code.pointer(Record::BUCKET);
    code.read(BASE, &layout.bucket);
    code.here(short);
    code.pointer(Record::NET);
    code.read(BASE, &layout.net);
    // bpf_seq_write(ctx->meta->seq, record, its length)
    code.load64(R1, CONTEXT, 0);
    code.load64(R1, R1, 0);
    code.copy(R2, FRAME);
    code.add(R2, i32::from(on_stack(0)));
    code.set(R3, i32::from(RECORD));
    code.call(SEQ_WRITE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_leads_behind_what_it_leaves_out() {
        let mut code = Code::default();
        let out = code.label();
        code.jump_if(3, 0, out);
        code.set(1, 5);
        code.here(out);
        code.exit();
        // Of the jump: if r3 == 0, one instruction further than the next.
        assert_eq!(code.words[0], 0x15 | 3 << 8 | 1 << 16);
        assert_eq!(code.words[1], 0xb7 | 1 << 8 | 5 << 32);
        assert_eq!(*code.words.last().unwrap(), 0x95);
        assert!(code.open.is_empty());
    }

    #[test]
    fn the_record_fits_the_stack_of_a_program() {
        const { assert!(RECORD <= 512 && RECORD.is_multiple_of(8)) };
    }
}
