//! Environment files: secrets in the SOPS dotenv format.
