//! Buffers and pipes that wait for their next use.
//!
//! Decides:  how many are kept, and that all workers together make no more pipes than allowed.
//! Not here: who uses them (relay.rs).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::relay::{Buffer, LoadedPipe};
use crate::limits;
use crate::net::Net;
use crate::state::ProcessState;

/// Buffers kept for reuse; more are given back to the allocator.
const KEPT_BUFFERS: usize = 32;
/// Pipes kept for reuse; more are closed.
const KEPT_PIPES: usize = 32;

/// Buffers for what short writes leave.
#[derive(Debug, Default)]
pub struct BufferPool {
    #[allow(
        clippy::vec_box,
        reason = "sessions hold the boxes; the pool keeps them whole"
    )]
    free: Vec<Box<Buffer>>,
    in_use: usize,
}

impl BufferPool {
    /// A buffer with a copy of `bytes`.
    pub fn take(&mut self, bytes: &[u8]) -> Box<Buffer> {
        let mut buffer = self.free.pop().unwrap_or_else(|| {
            Box::new(Buffer {
                bytes: Vec::new(),
                start: 0,
            })
        });
        buffer.bytes.clear();
        buffer.bytes.extend_from_slice(bytes);
        buffer.start = 0;
        self.in_use += 1;
        buffer
    }

    /// Takes a buffer back.
    pub fn give_back(&mut self, buffer: Box<Buffer>) {
        self.in_use -= 1;
        if self.free.len() < KEPT_BUFFERS {
            self.free.push(buffer);
        }
    }

    /// How many sessions hold one.
    pub fn in_use(&self) -> usize {
        self.in_use
    }
}

/// Pipes.
#[derive(Debug)]
pub struct PipePool<P> {
    #[allow(
        clippy::vec_box,
        reason = "sessions hold the boxes; the pool keeps them whole"
    )]
    free: Vec<Box<LoadedPipe<P>>>,
    in_use: usize,
    size: u32,
    limit: u32,
    process: Option<Arc<ProcessState>>,
}

impl<P> PipePool<P> {
    /// A pool that makes no pipes.
    pub fn none() -> Self {
        PipePool {
            free: Vec::new(),
            in_use: 0,
            size: 0,
            limit: 0,
            process: None,
        }
    }

    /// From now on pipes of `size` bytes, at most `limit` in the process; 0 of either is none.
    pub fn configure(&mut self, size: u32, limit: u32, process: &Arc<ProcessState>) {
        self.size = size;
        self.limit = limit;
        self.process.get_or_insert_with(|| Arc::clone(process));
    }

    /// An empty pipe, if there is one or may be.
    pub fn take<N: Net<Pipe = P>>(&mut self, net: &mut N) -> Option<Box<LoadedPipe<P>>> {
        if let Some(pipe) = self.free.pop() {
            self.in_use += 1;
            return Some(pipe);
        }
        let process = self.process.as_ref()?;
        if self.size == 0 || self.limit == 0 || !limits::take(&process.pipes, self.limit) {
            return None;
        }
        match net.pipe(self.size) {
            Ok((pipe, capacity)) => {
                self.in_use += 1;
                Some(Box::new(LoadedPipe {
                    pipe,
                    capacity,
                    load: 0,
                }))
            }
            Err(_) => {
                process.pipes.fetch_sub(1, Ordering::SeqCst);
                None
            }
        }
    }

    /// Takes an empty pipe back.
    pub fn give_back(&mut self, pipe: Box<LoadedPipe<P>>) {
        debug_assert_eq!(pipe.load, 0, "a pooled pipe must be empty");
        if self.free.len() < KEPT_PIPES {
            self.in_use -= 1;
            self.free.push(pipe);
        } else {
            self.close(pipe);
        }
    }

    /// Closes a pipe with whatever is in it.
    pub fn close(&mut self, pipe: Box<LoadedPipe<P>>) {
        drop(pipe);
        self.in_use -= 1;
        self.forget(1);
    }

    /// How many sessions hold one.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    fn forget(&self, pipes: u32) {
        if let Some(process) = &self.process {
            process.pipes.fetch_sub(pipes, Ordering::SeqCst);
        }
    }

    /// Closes the pipes that nobody uses: descriptors have run out.
    pub fn shrink(&mut self) {
        let free = self.free.len() as u32;
        self.free.clear();
        self.forget(free);
    }
}

impl<P> Drop for PipePool<P> {
    fn drop(&mut self) {
        self.shrink();
    }
}
