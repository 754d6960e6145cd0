//! The `IPython` extension that gives notebooks their magics.

use std::path::Path;

use serde_json::{Map, Value};

use super::state;

/// The program that installs it, run by the Python that is to have it.
pub const INSTALL: &str = include_str!("python/install.py");

const MAGICS: &str = include_str!("python/magics.py");

/// Its modules by file name; `program` is what the magics run when no other is found.
pub fn modules(program: &Path) -> Map<String, Value> {
    // A JSON string is a Python string, too.
    let program = Value::from(program.to_string_lossy());
    let installed = format!("\"\"\"Who installed this.\"\"\"\n\nPROGRAM = {program}\n");
    let modules =
        [("__init__.py", MAGICS), ("state.py", state::CODE), ("installed.py", &installed)];
    modules.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect()
}
