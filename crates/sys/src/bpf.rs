//! `bpf(2)`: an iterator program is loaded, linked and opened; programs on control groups are told.
//!
//! Decides:  which commands are made; that nothing is pinned: every descriptor ends what it names.
//! Kernel:   kernel/bpf/syscall.c, bpf_prog_load(), link_create(), bpf_iter_create(), 5.8 to 6.18;
//!           include/uapi/linux/bpf.h, union bpf_attr; kernel/bpf/cgroup.c, __cgroup_bpf_query()
//! Not here: the programs (crates/inspect/src/iter.rs). The kernel's verifier checks each: none can harm
//!           more than it lets through.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_ITER_CREATE: libc::c_int = 33;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_TRACE_ITER: u32 = 28;
const BPF_PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const BPF_CGROUP_INET4_BIND: u32 = 8;
/// The verifier's report is cut to this.
const LOG: usize = 64 * 1024;
/// More programs on one hook of one group are not told.
const PROGRAMS_MAX: usize = 64;

/// The beginning of `union bpf_attr` as `BPF_PROG_LOAD` has it.
#[repr(C)]
#[derive(Default)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
    attach_btf_obj_fd: u32,
    core_relo_cnt: u32,
}

/// As `BPF_LINK_CREATE` has it, without what an iterator may be told.
#[repr(C)]
#[derive(Default)]
struct Link {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    padding: u32,
}

/// As `BPF_ITER_CREATE` has it.
#[repr(C)]
#[derive(Default)]
struct Iter {
    link_fd: u32,
    flags: u32,
}

/// As `BPF_PROG_QUERY` has it.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Why a program was not loaded.
#[derive(Debug)]
pub struct Refused {
    /// The error.
    pub error: io::Error,
    /// The end of the verifier's report, where it gave one.
    pub report: String,
}

/// Loads a program that an iterator of this kernel runs: `target` is the type number of its
/// `bpf_iter_…` function in the kernel's BTF.
///
/// Needs CAP_BPF and CAP_PERFMON (before 5.8 CAP_SYS_ADMIN) in the host's own user namespace.
///
/// # Errors
///
/// EPERM without the capabilities; what the verifier says otherwise.
pub fn load_iterator(name: &str, code: &[u64], target: u32) -> Result<OwnedFd, Refused> {
    let mut attr = Load {
        prog_type: BPF_PROG_TYPE_TRACING,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        expected_attach_type: BPF_TRACE_ITER,
        attach_btf_id: target,
        ..Load::default()
    };
    let name = name.as_bytes();
    let room = attr.prog_name.len() - 1;
    let name = &name[..name.len().min(room)];
    attr.prog_name[..name.len()].copy_from_slice(name);
    // SAFETY: `code` is valid for its length, the licence ends with a zero byte; the kernel copies both.
    let first = unsafe { bpf_fd(BPF_PROG_LOAD, &attr) };
    let error = match first {
        Ok(program) => return Ok(program),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            return Err(Refused {
                error,
                report: String::new(),
            });
        }
        Err(error) => error,
    };
    // Again, for the report.
    let mut log = vec![0u8; LOG];
    attr.log_level = 1;
    attr.log_size = LOG as u32;
    attr.log_buf = log.as_mut_ptr() as u64;
    // SAFETY: as above; the kernel writes at most `log_size` bytes of `log`.
    if let Ok(program) = unsafe { bpf_fd(BPF_PROG_LOAD, &attr) } {
        return Ok(program);
    }
    let end = log.iter().position(|&byte| byte == 0).unwrap_or(LOG);
    let report = String::from_utf8_lossy(&log[..end]);
    let tail = report.lines().rev().take(6).collect::<Vec<_>>();
    Err(Refused {
        error,
        report: tail.into_iter().rev().collect::<Vec<_>>().join("; "),
    })
}

/// Opens the iterator of a program: reading it runs the program for every object, in this thread's
/// network and process namespaces.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn open_iterator(program: impl AsFd) -> io::Result<OwnedFd> {
    let link = Link {
        prog_fd: program.as_fd().as_raw_fd() as u32,
        attach_type: BPF_TRACE_ITER,
        ..Link::default()
    };
    // SAFETY: integers alone.
    let link = unsafe { bpf_fd(BPF_LINK_CREATE, &link)? };
    let iter = Iter {
        link_fd: link.as_raw_fd() as u32,
        flags: 0,
    };
    // SAFETY: integers alone.
    unsafe { bpf_fd(BPF_ITER_CREATE, &iter) }
}

/// The numbers of the programs that are attached to a control group's hook (`enum bpf_attach_type`),
/// with `effective` those of its ancestors that run for it too.
///
/// Needs CAP_NET_ADMIN.
///
/// # Errors
///
/// EINVAL for a hook that this kernel does not know, EPERM without the capability.
pub fn cgroup_programs(group: impl AsFd, hook: u32, effective: bool) -> io::Result<Vec<u32>> {
    let mut numbers = vec![0u32; PROGRAMS_MAX];
    let query = Query {
        target_fd: group.as_fd().as_raw_fd() as u32,
        attach_type: hook,
        query_flags: u32::from(effective),
        prog_ids: numbers.as_mut_ptr() as u64,
        prog_cnt: PROGRAMS_MAX as u32,
        ..Query::default()
    };
    let mut query = query;
    // SAFETY: the kernel writes at most `prog_cnt` numbers to `prog_ids`, and the count to the structure,
    // which is exclusively borrowed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            size_of::<Query>(),
        )
    };
    if done < 0 {
        let error = io::Error::last_os_error();
        // There are more; the room is full.
        return match error.raw_os_error() {
            Some(libc::ENOSPC) => Ok(numbers),
            _ => Err(error),
        };
    }
    numbers.truncate(query.prog_cnt as usize);
    Ok(numbers)
}

/// Has `bind` refused (EPERM) to all IPv4 sockets of a control group, for as long as the answer is open: what
/// a host's own policy may do, for who wants to see how that looks.
///
/// Needs CAP_BPF and CAP_NET_ADMIN; 5.7.
///
/// # Errors
///
/// Where the kernel refuses.
pub fn refuse_ipv4_binds(group: impl AsFd) -> io::Result<OwnedFd> {
    // r0 = 0; exit.
    let code: [u64; 2] = [0xb7, 0x95];
    let attr = Load {
        prog_type: BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        expected_attach_type: BPF_CGROUP_INET4_BIND,
        ..Load::default()
    };
    // SAFETY: `code` is valid for its length, the licence ends with a zero byte; the kernel copies both.
    let program = unsafe { bpf_fd(BPF_PROG_LOAD, &attr)? };
    let link = Link {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: group.as_fd().as_raw_fd() as u32,
        attach_type: BPF_CGROUP_INET4_BIND,
        ..Link::default()
    };
    // SAFETY: integers alone.
    unsafe { bpf_fd(BPF_LINK_CREATE, &link) }
}

/// # Safety
///
/// Every address in `attr` must be valid for what the command does with it.
unsafe fn bpf_fd<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is initialised and `size_of::<T>()` long; the rest is the caller's promise.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for this process, and it is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_long_as_the_kernel_reads_them() {
        // Up to `core_relo_cnt`, up to `iter_info_len` with padding, and whole.
        assert_eq!(size_of::<Load>(), 120);
        assert_eq!(size_of::<Link>(), 32);
        assert_eq!(size_of::<Iter>(), 8);
        assert_eq!(size_of::<Query>(), 64);
    }

    #[test]
    fn a_program_for_no_iterator_is_refused() {
        // `exit` alone, for the type that is none.
        let refused = load_iterator("nothing", &[0x95], 0).unwrap_err();
        assert!(refused.error.raw_os_error().is_some());
    }
}
