//! Versions: a directory as a root hash.
//!
//! [`Capture`] turns directories, archives and buckets into a version, [`Version`] reads it, [`restore()`] turns it into
//! a directory again; [`format`](mod@format) describes what is stored. A version never changes,
//! and versions share what they have in common.

pub mod capture;
pub mod collect;
mod compact;
pub mod diff;
pub mod export;
pub mod format;
mod neighbours;
pub mod number;
mod read;
pub mod record;
pub mod restore;
pub mod scrub;
mod seal;
mod survey;
pub mod verify;
pub mod warm;

pub use capture::{Archive, Capture, Captured, Changes, Depth, Progress, Skipped, Total};
pub use format::{Content, Entry, Mtime, Totals};
pub use read::{Named, Pages, Version};
pub use restore::{Restored, restore, restore_changes, restore_scratch};
pub use verify::Verified;
