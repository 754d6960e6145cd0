//! Jupyter notebooks: cells and output.
