//! The load of `scripts/bench`: makes the data, reads it and measures, and proxies a server that
//! is far away.
//!
//! Each command prints one line of JSON. What is read is compared with what was made, so that no
//! speed is ever that of wrong bytes.

// Counts become figures of a few digits.
#![allow(clippy::cast_precision_loss)]

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

mod data;
mod epoch;
mod large;
mod proxy;
mod walk;

/// What a command returns: its line of JSON.
type Outcome = Result<serde_json::Value, Box<dyn Error + Send + Sync>>;

/// Makes data, reads it as programs do, and measures
#[derive(Parser)]
struct Load {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the data below a directory: large.bin, small/ and tree/
    Make(data::Make),
    /// Read a file from its start to its end; several readers share it, a part each
    Sequential(large::Sequential),
    /// Read blocks of a file, none twice
    Random(large::Random),
    /// List a tree of small files, then read each once
    Epoch(epoch::Epoch),
    /// Visit a tree and its attributes, as `find -size` does
    Walk(walk::Walk),
    /// Pass connections on to a server, late, and count
    Proxy(proxy::Proxy),
}

/// How long and by how many.
#[derive(Args)]
struct Effort {
    /// How many threads read
    #[arg(long, default_value_t = 1)]
    readers: usize,
    /// Stop after this time
    #[arg(long, default_value = "3600")]
    seconds: f64,
}

impl Effort {
    fn limit(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// A file or a directory of a mount.
#[derive(Args)]
struct Place {
    path: PathBuf,
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // cargo bench would add --bench.
    let arguments = std::env::args_os().filter(|argument| argument != "--bench");
    let line = match Load::parse_from(arguments).command {
        Command::Make(command) => command.run(),
        Command::Sequential(command) => command.run(),
        Command::Random(command) => command.run(),
        Command::Epoch(command) => command.run(),
        Command::Walk(command) => command.run(),
        Command::Proxy(command) => command.run(),
    }?;
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}
