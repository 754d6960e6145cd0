//! Notebooks: JSON of users.
#![no_main]

use atelier::notebook::Notebook;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = Notebook::parse("fuzz.ipynb", bytes);
});
