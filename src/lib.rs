//! Atelier mounts a machine-learning **project** as a directory.
//!
//! # One idea
//!
//! Everything that can be mounted is a path-addressed [`tree::Tree`], and the router that joins
//! them, [`tree::namespace`], is itself a tree. One [`vfs`] turns any tree into inodes and
//! handles; one [`fuse`] module turns that into FUSE replies. Each layer is tested without the
//! one above it, and a second front end (NFS, WebDAV) would be one module beside `fuse`.
//!
//! # Floors
//!
//! ```text
//!  kernel                                                   commands
//!  fuse     requests in, replies out, errno       cli        a file per command; exit codes
//!  control  a mount's counters, for others to ask
//!  vfs      inodes, handles, lookup counts        workspace  opens everything, from Config
//!  tree     Tree, File; Namespace -> { Snapshot, Bucket, Secrets, Local }
//!  snapshot versions: capture, restore, diff      notebook   cells, output, a kernel's state
//!  chunk    packs of content-addressed frames
//!  cache    LRU blocks        catalog  SQL        secret     environment files
//!  object   ObjectStore: local, S3, memory
//!  crypto   path     config     metrics
//!  error
//! ```
//!
//! Everything points down, and modules on one floor don't know of each other. `tests/floors.rs`
//! reads every `use crate::` and fails on one that climbs; it also pins each foreign package to
//! the one place that may name it.
//!
//! # The way of a `read()`
//!
//! Where a whole local file is behind the one that is read, and the kernel lets us, it was told of
//! that file when this one was opened, and reads and writes it without asking. Else:
//!
//! 1. The kernel puts a `FUSE_READ` on `/dev/fuse`; one of several fuser threads takes it
//!    ([`fuse`]) and asks the [`vfs`] for the open file behind the handle.
//! 2. The file's future is polled once on that thread. A cached answer is ready at once and goes
//!    back without a thread switch; one that has to wait is spawned on tokio, so that a slow
//!    store never holds a FUSE thread.
//! 3. The file belongs to a tree: [`tree::local`] calls `pread`, [`tree::snapshot`] finds the
//!    entry's place in a pack, [`tree::bucket`] the blocks of the object.
//! 4. A bucket's block comes from [`cache`], where a slot enters before its bytes do: whoever
//!    else asks for the block waits for the same fetch.
//! 5. A miss becomes a ranged `GET` with `If-Match` in [`object::s3`], with retries and a
//!    deadline. An error travels up as an [`error::Error`]; one function turns its kind into an
//!    errno.
//!
//! # Glossary
//!
//! - **organization, community, project, resource**: who owns what, see [`catalog`].
//! - **version**: an immutable state of a dataset or a checkpoint; a root hash.
//! - **tag**: a name that somebody gave a version of a dataset.
//! - **draft**: a dataset that a command is filling; it becomes a version or nothing.
//! - **root, page, entry**: the tree of a version: a root lists pages, a page lists entries.
//! - **pack, frame, chunk**: a pack is a file of many frames; a frame is the content-addressed
//!   bytes of one small file or of one chunk of a larger one.
//! - **extent**: a run of a file's bytes.
//! - **block**: a cached range of an object in a bucket.
//! - **journal, mark, epoch**: a journal is what one who changes a project's files writes down: a
//!   mark begins before a change and ends after it; an epoch is for how long journals tell all.
//! - **capture, restore, collect, seal**: a directory becomes a version; a version becomes a
//!   directory; what no version needs is removed; a draft becomes immutable.
//! - **lookup count**: how often the kernel was told of an inode and hasn't forgotten it.
//! - **kernel**: the process that runs a notebook's cells and has its variables; its **state** is
//!   what it writes of them.
//! - **environment file**: a set of secrets, encrypted in the SOPS dotenv format.
//! - **recipient, identity**: the public and the private half of an age X25519 key.

pub mod cache;
pub mod catalog;
pub mod chunk;
pub mod cli;
pub mod config;
pub mod control;
pub mod crypto;
pub mod error;
pub mod fuse;
pub mod metrics;
pub mod notebook;
pub mod object;
pub mod path;
pub mod secret;
pub mod snapshot;
pub mod tree;
pub mod vfs;
pub mod workspace;
