//! What differs between two states of a notebook.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};

/// A cell that isn't the same in both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CellDifference {
    /// Its place in the notebook that has it, the later one if both do; the first is 1.
    pub cell: usize,
    /// What became of it.
    pub change: CellChange,
    /// The first line of its text, or of what it was.
    pub text: String,
}

/// What became of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CellChange {
    /// Only the later one has it.
    Added,
    /// Only the earlier one has it.
    Removed,
    /// Its text or its kind is another.
    Changed,
    /// Its output alone is another.
    Output,
}

#[derive(Deserialize)]
struct Cells {
    cells: Vec<Cell>,
}

#[derive(Deserialize)]
struct Cell {
    id: Option<String>,
    #[serde(rename = "cell_type")]
    kind: String,
    source: Text,
    #[serde(default)]
    outputs: Value,
}

/// Text as nbformat has it: whole, or in lines.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Whole(String),
    Lines(Vec<String>),
}

impl Cell {
    fn text(&self) -> String {
        match &self.source {
            Text::Whole(text) => text.clone(),
            Text::Lines(lines) => lines.concat(),
        }
    }
}

/// Compares the bytes of two notebooks. Cells are known by their ids, or where a notebook has none
/// (before nbformat 4.5), by their place.
///
/// # Errors
/// `InvalidInput` when one isn't a notebook.
pub fn cells(before: &[u8], after: &[u8]) -> Result<Vec<CellDifference>> {
    let (before, after) = (parse(before)?, parse(after)?);
    let known: HashMap<_, _> = before.iter().map(|(id, place, cell)| (id, (place, cell))).collect();
    let mut found = Vec::new();
    for (id, place, cell) in &after {
        let change = match known.get(id) {
            None => Some(CellChange::Added),
            Some((_, old)) if old.text() != cell.text() || old.kind != cell.kind => {
                Some(CellChange::Changed)
            }
            Some((_, old)) if old.outputs != cell.outputs => Some(CellChange::Output),
            Some(_) => None,
        };
        found.extend(change.map(|change| difference(*place, change, cell)));
    }
    let stay: HashSet<_> = after.iter().map(|(id, ..)| id).collect();
    let removed = before.iter().filter(|(id, ..)| !stay.contains(id));
    found.extend(removed.map(|(_, place, cell)| difference(*place, CellChange::Removed, cell)));
    Ok(found)
}

fn difference(cell: usize, change: CellChange, of: &Cell) -> CellDifference {
    let text = of.text().lines().next().unwrap_or_default().to_owned();
    CellDifference { cell, change, text }
}

/// The cells with what each is known by and its place.
fn parse(bytes: &[u8]) -> Result<Vec<(String, usize, Cell)>> {
    let Cells { cells } = serde_json::from_slice(bytes).map_err(|error| {
        Error::new(ErrorKind::InvalidInput, "the saved notebook can't be read").with_source(error)
    })?;
    let numbered = cells.into_iter().zip(1..);
    Ok(numbered
        .map(|(cell, place)| {
            let id = cell.id.clone().unwrap_or_else(|| format!("cell {place}"));
            (id, place, cell)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notebook(cells: &Value) -> Vec<u8> {
        serde_json::json!({"nbformat": 4, "metadata": {}, "cells": cells}).to_string().into_bytes()
    }

    fn changes(before: &Value, after: &Value) -> Vec<(usize, CellChange, String)> {
        let found = cells(&notebook(before), &notebook(after)).unwrap();
        found.into_iter().map(|found| (found.cell, found.change, found.text)).collect()
    }

    #[test]
    fn cells_are_known_by_their_ids_wherever_they_are() {
        let cell = |id: &str, text: &str, output: &str| {
            serde_json::json!({"id": id, "cell_type": "code", "source": [text, "\nmore"],
                               "outputs": [{"text": output}]})
        };
        let before =
            Value::from(vec![cell("a", "x = 1", ""), cell("b", "x", "1"), cell("c", "y", "")]);
        let after =
            Value::from(vec![cell("d", "new", ""), cell("a", "x = 2", ""), cell("b", "x", "2")]);
        assert_eq!(
            changes(&before, &after),
            [
                (1, CellChange::Added, "new".to_owned()),
                (2, CellChange::Changed, "x = 2".to_owned()),
                (3, CellChange::Output, "x".to_owned()),
                (3, CellChange::Removed, "y".to_owned()),
            ]
        );
        assert_eq!(changes(&before, &before), []);
    }

    #[test]
    fn cells_without_ids_are_known_by_their_place() {
        let cells = |texts: &[&str]| {
            let cell = |text: &&str| serde_json::json!({"cell_type": "raw", "source": text});
            Value::from(texts.iter().map(cell).collect::<Vec<_>>())
        };
        assert_eq!(
            changes(&cells(&["a", "b"]), &cells(&["a", "c", "d"])),
            [(2, CellChange::Changed, "c".to_owned()), (3, CellChange::Added, "d".to_owned())]
        );
    }
}
