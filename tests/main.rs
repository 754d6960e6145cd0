//! All integration tests in one binary, since linking the AWS SDK once takes long enough.

// A test that can't go on says so by panicking, in its helpers too.
#![allow(clippy::unwrap_used)]

mod floors;
mod object_contract;
mod secrets;
mod support;
mod tree_contract;
