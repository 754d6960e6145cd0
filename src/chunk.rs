//! Content-addressed bytes: frames in packs, and pages of metadata.
