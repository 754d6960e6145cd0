//! The catalogue: who owns what, which versions there are, who may do what.
