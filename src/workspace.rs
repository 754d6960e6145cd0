//! Opens everything a command works on, from a [`Config`](crate::config::Config).
