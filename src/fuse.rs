//! FUSE: requests in, replies out.
//!
//! Thin on purpose: each request becomes a call of [`Vfs`](crate::vfs::Vfs), each result goes through
//! one `Answer`. A request is polled once on the thread that took it. What is ready goes back
//! without a thread switch; what has to wait is spawned, so that a slow store holds none of the few
//! FUSE threads.

pub use self::admission::{Accounts, AskRoles};
pub use self::device::{Unmount, unmount};
pub use self::session::{Access, Flag, MountOptions, Session, mount, mount_frozen};

mod admission;
mod answer;
mod device;
mod dispatch;
mod errno;
mod filesystem;
mod forget;
mod frozen;
pub mod mounts;
mod passthrough;
mod push;
mod request;
mod session;
