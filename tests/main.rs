//! All integration tests in one binary, since linking the AWS SDK once takes long enough.

// A test that panics has failed, as it should; clippy.toml covers only `#[test]` functions.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
// Checks take what they check, whole, and match it out.
#![allow(
    clippy::needless_pass_by_value,
    clippy::single_match_else,
    clippy::trivially_copy_pass_by_ref
)]

mod bucket;
mod bucket_model;
mod catalog_contract;
mod checkpoint;
mod cli;
mod crash;
mod dataset;
mod disk_cache;
mod draft;
mod faults;
mod floors;
mod hostile;
mod ingest;
mod kernel;
mod libraries;
mod mount;
mod namespace;
mod object_contract;
mod observe;
mod promises;
mod quickstart;
mod quota;
mod restore;
mod s3_cli;
mod scale;
mod secrets;
mod serving;
mod snapshot;
mod storage;
mod store;
mod store_leases;
mod store_model;
mod support;
mod tracked;
mod tree_contract;
mod versions;
mod vfs_model;
mod zoo;
