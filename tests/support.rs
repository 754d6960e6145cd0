//! What several integration tests need.

pub(crate) mod directory;
pub(crate) mod generated;
pub(crate) mod home;
pub(crate) mod kernel;
pub(crate) mod moto;
pub(crate) mod mounted;
pub(crate) mod paged;
pub(crate) mod place;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod root;
pub(crate) mod seaweed;
