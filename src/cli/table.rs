//! Data to standard output: aligned columns for people, JSON for programs.

use std::io::{self, Write};

use serde::Serialize;
use tabwriter::TabWriter;

use crate::error::{Error, Result};

/// A value that is printed in columns, or as JSON by its `Serialize`.
pub trait Row: Serialize {
    /// The names of the columns, in upper case.
    const HEADER: &'static [&'static str];

    /// One cell a column.
    fn cells(&self) -> Vec<String>;
}

/// Prints a list: a table with a header line, or a JSON array.
pub fn list<T: Row>(rows: &[T], json: bool) -> Result<()> {
    if json {
        return print_json(rows);
    }
    let mut table = TabWriter::new(Vec::new()).padding(2);
    let mut lines = vec![T::HEADER.join("\t")];
    lines.extend(rows.iter().map(|row| row.cells().join("\t")));
    writeln!(table, "{}", lines.join("\n")).and_then(|()| table.flush()).map_err(unprinted)?;
    print(&table.into_inner().unwrap_or_default())
}

/// Prints one value: a line a column, or a JSON object.
pub fn show<T: Row>(row: &T, json: bool) -> Result<()> {
    if json {
        return print_json(row);
    }
    let mut table = TabWriter::new(Vec::new()).padding(2);
    for (name, cell) in T::HEADER.iter().zip(row.cells()) {
        writeln!(table, "{}:\t{cell}", name.to_lowercase()).map_err(unprinted)?;
    }
    table.flush().map_err(unprinted)?;
    print(&table.into_inner().unwrap_or_default())
}

/// Prints what a command made, as JSON for programs; people were told in words.
pub fn made<T: Row>(row: &T, json: bool) -> Result<()> {
    if json { print_json(row) } else { Ok(()) }
}

/// A time as people read it, in UTC to the second.
pub fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Prints bytes as they are.
pub fn print(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        // The reader has seen enough: `atelier … | head` isn't a failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(unprinted),
    }
}

/// Tells the user what happened, on standard error.
pub fn say(line: impl AsRef<str>) {
    // Nothing can be done about a standard error that is gone.
    let _ = writeln!(io::stderr(), "{}", line.as_ref());
}

fn print_json<T: Serialize + ?Sized>(value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::from).map_err(unprinted)?;
    text.push(b'\n');
    print(&text)
}

fn unprinted(error: io::Error) -> Error {
    Error::io(error, "the output can't be written")
}
