//! How the allocator of a process that serves a mount keeps what is freed.

use libc::{M_MMAP_THRESHOLD, c_int};

/// Buffers of this many bytes and more are mappings of their own, see `mallopt(3)`.
const MAPPED_FROM: c_int = 128 << 10;

/// Gives a buffer's memory back to the system when it is freed.
///
/// By itself glibc keeps larger and larger buffers among the small ones, and what lies between
/// those stays with the process: half as much again as the blocks that it holds.
pub(super) fn return_buffers() {
    // SAFETY: mallopt(3) sets a number of the allocator's, under the allocator's lock.
    #[allow(unsafe_code)]
    let accepted = unsafe { libc::mallopt(M_MMAP_THRESHOLD, MAPPED_FROM) };
    if accepted != 1 {
        tracing::debug!("the allocator decides by itself which buffers it gives back");
    }
}
