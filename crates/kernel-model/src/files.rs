//! Descriptor tables: which process holds which socket.
//!
//! Decides:  which number a new descriptor gets; that the last holder's close releases a socket; in
//!           which order a process that ends closes its sockets.
//! Kernel:   fs/file.c, alloc_fd(), dup_fd(), close_files(); kernel/task_work.c, task_work_run();
//!           net/core/scm.c, scm_detach_fds(), 3.9 to 6.18
//! Not here: what releasing a socket does (close.rs). Descriptors on their way in a message: passing
//!           ends with the receipt.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::explain::{NoTrace, Trace};
use crate::host::{FilesId, ProcessId};
use crate::rules::Rule;
use crate::socket::{NONE, SockIx};
use crate::version::Change;
use crate::world::{SocketId, World};

/// A descriptor table. Numbers count its sockets alone: no file, pipe or terminal is in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    /// The socket of each number; [`NONE`] where it is free.
    open: Vec<SockIx>,
    /// The free numbers below the end.
    free: BinaryHeap<Reverse<u32>>,
}

impl Table {
    /// The lowest free number is the socket's.
    fn take(&mut self, ix: SockIx) -> u32 {
        if let Some(Reverse(number)) = self.free.pop() {
            self.open[number as usize] = ix;
            return number;
        }
        self.open.push(ix);
        (self.open.len() - 1) as u32
    }

    fn give_back(&mut self, number: u32) {
        self.open[number as usize] = NONE;
        self.free.push(Reverse(number));
    }
}

impl World {
    /// A new process with the identity of this one and a copy of its descriptors (`fork`).
    pub fn fork(&mut self, parent: ProcessId) -> ProcessId {
        let Some(&of_parent) = self.host.processes.get(usize::from(parent.0)) else {
            return parent;
        };
        let files = self.host.fresh_files();
        let copy = self.table(of_parent.files).clone();
        for (number, &ix) in copy.open.iter().enumerate() {
            if ix != NONE {
                self.socks[ix].holders += 1;
                self.socks[ix].held.push((files, number as u32));
            }
        }
        *self.table(files) = copy;
        self.host
            .processes
            .push(crate::host::Process { files, ..of_parent });
        ProcessId((self.host.processes.len() - 1) as u16)
    }

    /// The process ends: what it holds is closed, from the highest number to the lowest (before 4.3 from
    /// the lowest). Where others share its table, as threads do, nothing is.
    pub fn exit(&mut self, process: ProcessId) {
        self.exit_traced(process, &mut NoTrace);
    }

    /// The process ends; `trace` hears the rules.
    pub fn exit_traced<T: Trace>(&mut self, process: ProcessId, trace: &mut T) {
        let Some(files) = self.files_of(process) else {
            return;
        };
        let sharing = self.host.processes.iter();
        if sharing.filter(|other| other.files == files).count() > 1 {
            return;
        }
        let count = self.table(files).open.len();
        let backwards = self.host.kernel.has(Change::ExitBackwards);
        for at in 0..count {
            let number = if backwards { count - 1 - at } else { at };
            let ix = self.table(files).open[number];
            if ix != NONE {
                trace.blame(Rule::ProcessEnds, self.handle(ix));
                self.drop_number(files, number as u32, ix);
                self.close(ix, trace);
            }
        }
    }

    /// Who holds a descriptor of this socket; several where they share a table.
    #[must_use]
    pub fn holders(&self, socket: SocketId) -> Vec<ProcessId> {
        let Some(ix) = self.existing(socket) else {
            return Vec::new();
        };
        let all = self.host.processes.iter().enumerate();
        all.filter(|(_, process)| self.holds(process.files, ix))
            .map(|(at, _)| ProcessId(at as u16))
            .collect()
    }

    pub(crate) fn files_of(&self, process: ProcessId) -> Option<FilesId> {
        let process = self.host.processes.get(usize::from(process.0))?;
        Some(process.files)
    }

    /// One more descriptor of the socket, in this table.
    pub(crate) fn hold(&mut self, files: FilesId, ix: SockIx) {
        let number = self.table(files).take(ix);
        let sock = &mut self.socks[ix];
        sock.holders += 1;
        sock.held.push((files, number));
    }

    pub(crate) fn holds(&self, files: FilesId, ix: SockIx) -> bool {
        self.socks[ix].held.iter().any(|&(by, _)| by == files)
    }

    /// Takes the newest of the table's descriptors of this socket away.
    pub(crate) fn drop_newest(&mut self, files: FilesId, ix: SockIx) {
        let mut held = self.socks[ix].held.iter().rev();
        if let Some(&(_, number)) = held.find(|&&(by, _)| by == files) {
            self.drop_number(files, number, ix);
        }
    }

    fn drop_number(&mut self, files: FilesId, number: u32, ix: SockIx) {
        let held = &mut self.socks[ix].held;
        if let Some(at) = held.iter().rposition(|&one| one == (files, number)) {
            held.remove(at);
            self.table(files).give_back(number);
        }
    }

    fn table(&mut self, files: FilesId) -> &mut Table {
        let at = usize::from(files.0);
        if self.tables.len() <= at {
            self.tables.resize_with(at + 1, Table::default);
        }
        &mut self.tables[at]
    }
}
