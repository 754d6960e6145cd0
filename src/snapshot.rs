//! Versions: a directory as a root hash.
