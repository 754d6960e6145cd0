//! AES-256-GCM as SOPS uses it.
