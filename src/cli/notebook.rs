//! `atelier notebook`: the magics that notebooks have checkpoints and secrets by.

use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use clap::Subcommand;
use serde_json::{Value, json};

use super::{Context, shield, table};
use crate::error::{Error, ErrorKind, IoContext as _, Result};
use crate::notebook::extension::{INSTALL, modules};

/// Magics for notebooks: %checkpoint, %restore, %checkpoints, %secrets
#[derive(Debug, Subcommand)]
pub enum Notebook {
    /// Add the magics to the Python that runs your kernels
    ///
    /// `%load_ext atelier` loads them in a notebook. They are a package of that Python, which `pip
    /// uninstall atelier-notebook` removes.
    Install {
        /// The Python [default: the `python3` that is found first]
        #[arg(long, value_name = "FILE", default_value = "python3", hide_default_value = true)]
        python: PathBuf,
    },
}

impl Notebook {
    /// Runs the command.
    pub fn run(self, context: &Context) -> Result<ExitCode> {
        let Self::Install { python } = self;
        let program = std::env::current_exe()
            .context(|| "where this program is can't be found out".to_owned())?;
        let wanted = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "modules": Value::Object(modules(&program)),
        });
        let shown = python.display();
        let mut install = Command::new(&python);
        install.args(["-c", INSTALL, &wanted.to_string()]);
        install.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        // Whoever else uses that Python reads what is installed there.
        let output = shield::lowered(|| install.spawn())?
            .and_then(Child::wait_with_output)
            .context(|| format!("{shown} can't be started"))?;
        if !output.status.success() {
            return Err(Error::new(
                ErrorKind::Io,
                format!("the magics can't be installed for {shown}"),
            )
            .with_hint("name the Python of a virtual environment with --python"));
        }
        let installed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        table::say(format!("installed for {installed}: `%load_ext atelier` loads it"));
        if context.json {
            table::print(format!("{}\n", json!({ "python": installed })).as_bytes())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
