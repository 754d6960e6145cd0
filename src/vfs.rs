//! Inodes, handles and lookup counts over any tree.
