//! The init code of a dataset: the command that filled it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::catalog::Resource;
use crate::cli::mount::shell_word;
use crate::error::{Error, ErrorKind, Result};

/// The longest script that is kept, in bytes.
const LONGEST: u64 = 64 << 10;

/// What the names of scripts end in that don't say by `#!` that they are some.
const EXTENSIONS: &[&str] = &["R", "bash", "jl", "js", "pl", "py", "r", "rb", "sh"];

/// The command that filled a dataset, as the catalogue keeps it in the dataset's spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InitCode {
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// The script that it ran, if it was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) script: Option<Script>,
}

/// A script as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Script {
    /// As the command named it.
    pub(super) path: String,
    /// What it said.
    pub(super) text: String,
}

impl InitCode {
    /// What a command is, with the script if its first or second word names one.
    pub(super) fn new(command: &[OsString]) -> Self {
        let script = command.iter().take(2).find_map(|word| Script::read(Path::new(word)));
        let command = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Self { command, script }
    }

    /// That of a dataset, if a command filled it.
    ///
    /// # Errors
    /// `Damaged`.
    pub(super) fn of(dataset: &Resource) -> Result<Option<Self>> {
        let Some(init) = dataset.spec.get("init") else { return Ok(None) };
        serde_json::from_value(init.clone()).map(Some).map_err(|error| {
            let message = format!("the init code of dataset {} makes no sense", dataset.name);
            Error::new(ErrorKind::Damaged, message).with_source(error)
        })
    }

    /// As it can be typed in a shell.
    pub(super) fn command_line(&self) -> String {
        let words = self.command.iter().map(|word| shell_word(Path::new(word)));
        words.collect::<Vec<_>>().join(" ")
    }
}

impl Script {
    /// Reads a script; `None` for what isn't a short one.
    fn read(path: &Path) -> Option<Self> {
        let short = fs::metadata(path).ok().filter(|file| file.is_file() && file.len() <= LONGEST);
        short?;
        let mut text = String::new();
        File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
        let known =
            path.extension().is_some_and(|end| EXTENSIONS.iter().any(|known| end == *known));
        (known || text.starts_with("#!"))
            .then(|| Self { path: path.to_string_lossy().into_owned(), text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init_code(words: &[&Path]) -> InitCode {
        InitCode::new(&words.iter().map(|word| word.as_os_str().to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn a_script_is_kept_and_its_data_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("fill.py"), "print('hello')\n").unwrap();
        fs::write(path("fill"), "#!/bin/sh\n").unwrap();
        fs::write(path("token"), "secret\n").unwrap();
        fs::write(path("long.sh"), vec![b'x'; 100_000]).unwrap();
        let (python, token) = (Path::new("python3"), path("token"));

        let kept = init_code(&[python, &path("fill.py"), &token]).script.unwrap();
        assert_eq!(kept.text, "print('hello')\n");
        assert_eq!(init_code(&[&path("fill"), &token]).script.unwrap().text, "#!/bin/sh\n");
        assert_eq!(init_code(&[python, &token, &path("fill.py")]).script, None);
        assert_eq!(init_code(&[python, &path("long.sh")]).script, None);
        assert_eq!(init_code(&[python]).script, None);
    }

    #[test]
    fn a_command_can_be_typed_again() {
        let words = [Path::new("sh"), Path::new("-c"), Path::new("echo hi > $X")];
        assert_eq!(init_code(&words).command_line(), "sh -c 'echo hi > $X'");
    }
}
