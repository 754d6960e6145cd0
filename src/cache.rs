//! Blocks of objects in memory: bounded by bytes, each fetched once.
