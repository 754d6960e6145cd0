//! Environment files: secrets in the SOPS dotenv format.

pub mod identity;
