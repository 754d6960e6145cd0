//! The `atelier` program: see the library for what it is made of.

use std::io::Write;
use std::process::ExitCode;

use atelier::cli::{Cli, mount, outcome};
use clap::Parser;

fn main() -> ExitCode {
    match Cli::parse_from(mount::helper::arguments(std::env::args_os())).run() {
        Ok(code) => code,
        Err(error) => {
            // Nothing can be done about a standard error that is gone.
            let _ = std::io::stderr().write_all(outcome::report(&error).as_bytes());
            outcome::exit_code(error.kind())
        }
    }
}
