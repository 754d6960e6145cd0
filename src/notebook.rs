//! Jupyter notebooks: cells, output, and the variables of their kernels.
//!
//! The format is nbformat 4, see <https://nbformat.readthedocs.io/en/latest/format_description.html>.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Error, ErrorKind, Result};

pub mod difference;
pub mod extension;
pub mod kernel;
pub mod servers;
pub mod state;
mod wire;

/// What a notebook holds, as far as a checkpoint tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notebook {
    /// Its cells, from the top.
    pub cells: Vec<Cell>,
    /// The name of the kernel that runs it, such as `python3`, if it names one.
    pub kernel: Option<String>,
}

/// A cell of a notebook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// What it holds.
    pub kind: CellKind,
    /// How many pieces of output it shows.
    pub outputs: usize,
    /// The number its last run had in its kernel; `None` when it was never run.
    pub execution_count: Option<u64>,
}

/// What a cell holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CellKind {
    /// Code for the kernel.
    Code,
    /// Text to be rendered.
    Markdown,
    /// Text for a converter.
    Raw,
}

impl Notebook {
    /// Reads a notebook from the bytes of its file, which messages call `name`.
    ///
    /// # Errors
    /// `InvalidInput` when the bytes aren't a notebook of nbformat 4.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        let not_one = |error: serde_json::Error| {
            Error::new(ErrorKind::InvalidInput, format!("{name} isn't a Jupyter notebook"))
                .with_source(error)
        };
        // The version comes first: it decides what the rest means.
        let Version { nbformat } = serde_json::from_slice(bytes).map_err(not_one)?;
        if nbformat != 4 {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("{name} is a notebook of format {nbformat}, not 4"),
            )
            .with_hint(format!("`jupyter nbconvert --to notebook {name}` converts it")));
        }
        let written: Written = serde_json::from_slice(bytes).map_err(not_one)?;
        Ok(Self {
            cells: written.cells.into_iter().map(Cell::from).collect(),
            kernel: written.metadata.kernelspec.map(|kernelspec| kernelspec.name),
        })
    }

    /// How many pieces of output its cells show.
    pub fn outputs(&self) -> usize {
        self.cells.iter().map(|cell| cell.outputs).sum()
    }
}

#[derive(Deserialize)]
struct Version {
    nbformat: i64,
}

/// A notebook as it is written; what isn't named here isn't looked at.
#[derive(Deserialize)]
struct Written {
    cells: Vec<WrittenCell>,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct WrittenCell {
    cell_type: CellKind,
    #[serde(default)]
    outputs: Vec<IgnoredAny>,
    #[serde(default)]
    execution_count: Option<u64>,
}

#[derive(Deserialize)]
struct Metadata {
    kernelspec: Option<Kernelspec>,
}

#[derive(Deserialize)]
struct Kernelspec {
    name: String,
}

impl From<WrittenCell> for Cell {
    fn from(cell: WrittenCell) -> Self {
        let WrittenCell { cell_type, outputs, execution_count } = cell;
        Self { kind: cell_type, outputs: outputs.len(), execution_count }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::CellKind::{Code, Markdown, Raw};
    use super::*;

    const NOTEBOOK: &str = r##"{
      "nbformat": 4, "nbformat_minor": 5,
      "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "x": [1]},
      "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Title"]},
        {"cell_type": "code", "id": "b", "metadata": {}, "source": "1+1", "execution_count": 7,
         "outputs": [{"output_type": "execute_result", "data": {"text/plain": "2"}},
                     {"output_type": "stream", "name": "stdout", "text": ["x\n"]}]},
        {"cell_type": "code", "id": "c", "metadata": {}, "source": [], "execution_count": null,
         "outputs": []},
        {"cell_type": "raw", "id": "d", "metadata": {}, "source": ""}
      ]
    }"##;

    fn refused(bytes: &[u8]) -> String {
        let error = Notebook::parse("files/x.ipynb", bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        format!("{error:?}")
    }

    #[test]
    fn cells_output_and_kernel_are_read() {
        let notebook = Notebook::parse("x", NOTEBOOK.as_bytes()).unwrap();
        assert_eq!(notebook.kernel.as_deref(), Some("python3"));
        let kinds: Vec<_> = notebook.cells.iter().map(|cell| cell.kind).collect();
        assert_eq!(kinds, [Markdown, Code, Code, Raw]);
        assert_eq!(notebook.outputs(), 2);
        let counts: Vec<_> = notebook.cells.iter().map(|cell| cell.execution_count).collect();
        assert_eq!(counts, [None, Some(7), None, None]);
    }

    #[test]
    fn a_new_notebook_has_no_kernel_and_no_cells() {
        let bytes = br#"{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 2}"#;
        let notebook = Notebook::parse("x", bytes).unwrap();
        assert_eq!(notebook, Notebook { cells: Vec::new(), kernel: None });
    }

    #[test]
    fn what_is_no_notebook_is_refused_with_the_reason() {
        assert!(refused(b"print('hello')").contains("files/x.ipynb isn't a Jupyter notebook"));
        assert!(refused(b"").contains("EOF"));
        assert!(refused(b"\xff\xfe").contains("isn't a Jupyter notebook"));
        assert!(refused(br#"{"a": 1}"#).contains("missing field `nbformat`"));
        assert!(refused(br#"{"nbformat": 4, "metadata": {}}"#).contains("missing field `cells`"));
        let worksheets = br#"{"nbformat": 3, "worksheets": []}"#;
        assert!(refused(worksheets).contains("a notebook of format 3, not 4"));
        let nested = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(refused(nested.as_bytes()).contains("isn't a Jupyter notebook"));
        let cut = &NOTEBOOK.as_bytes()[..NOTEBOOK.len() / 2];
        assert!(refused(cut).contains("EOF"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            start in 0..NOTEBOOK.len(),
            len in 0..40_usize,
            instead in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = NOTEBOOK.as_bytes().to_vec();
            let end = (start + len).min(bytes.len());
            bytes.splice(start..end, instead);
            let _ = Notebook::parse("x", &bytes);
        }
    }
}
