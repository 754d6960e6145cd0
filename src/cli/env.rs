//! `atelier env`: secrets as text that a shell or a program reads.

use std::collections::BTreeMap;
use std::process::ExitCode;

use zeroize::Zeroizing;

use super::variables::Selection;
use super::{Context, table};
use crate::error::{Error, ErrorKind, Result};
use crate::secret::Value;

/// Print secrets for a shell or another program.
///
/// `atelier run` is the better way: what is printed can end up in a file or a log. Whatever a
/// value holds, a shell that reads the output runs nothing of it.
#[derive(Debug, clap::Args)]
pub struct Env {
    #[command(flatten)]
    selection: Selection,

    /// How to write them
    #[arg(long, value_enum, default_value_t = Format::Shell)]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// For `eval "$(atelier env)"`
    Shell,
    /// An object of strings
    Json,
    /// For programs that read `.env` files
    Dotenv,
}

impl Env {
    /// Prints the secrets.
    pub async fn run(self, context: &Context) -> Result<ExitCode> {
        let variables = self.selection.variables(context).await?;
        let format = if context.json { Format::Json } else { self.format };
        table::print(&written(format, &variables)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn written(format: Format, variables: &BTreeMap<String, Value>) -> Result<Zeroizing<Vec<u8>>> {
    let quoted = variables.iter().map(|(key, value)| {
        Ok(match format {
            Format::Shell => format!("export {key}={}\n", shell(text(key, value)?)),
            Format::Dotenv => format!("{key}={}\n", dotenv(key, text(key, value)?)?),
            Format::Json => format!("  \"{key}\": {}", json(text(key, value)?)),
        })
    });
    let lines = Zeroizing::new(quoted.collect::<Result<Vec<String>>>()?);
    let all = match format {
        Format::Json if lines.is_empty() => "{}\n".to_owned(),
        Format::Json => format!("{{\n{}\n}}\n", Zeroizing::new(lines.join(",\n")).as_str()),
        Format::Shell | Format::Dotenv => lines.concat(),
    };
    Ok(Zeroizing::new(all.into_bytes()))
}

fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str> {
    str::from_utf8(value.expose()).map_err(|_| {
        Error::new(ErrorKind::InvalidInput, format!("the value of {key} isn't text"))
            .with_hint("`atelier run` passes it on as it is")
    })
}

/// Between single quotes a shell takes everything as it is, see POSIX.1-2024 section 2.2.2.
fn shell(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// Readers of `.env` files agree with shells on what single quotes do, but neither on how to
/// write one nor on backslashes.
fn dotenv(key: &str, value: &str) -> Result<String> {
    if !value.contains(['\'', '\\']) {
        return Ok(format!("'{value}'"));
    }
    if !value.contains(['"', '$', '`', '\\', '\n']) {
        return Ok(format!("\"{value}\""));
    }
    let message = format!("the value of {key} can't be written in a .env file");
    Err(Error::new(ErrorKind::InvalidInput, message)
        .with_hint("`--format json` and `atelier run` can do it"))
}

/// A JSON string in which also a shell finds nothing to expand.
fn json(value: &str) -> String {
    let string = serde_json::Value::from(value).to_string();
    string.replace('$', "\\u0024").replace('`', "\\u0060")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, Value> {
        let value = |text: &str| Value::new(text.as_bytes().to_vec());
        pairs.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect()
    }

    fn text_of(format: Format, pairs: &[(&str, &str)]) -> String {
        String::from_utf8(written(format, &variables(pairs)).unwrap().to_vec()).unwrap()
    }

    const NASTY: &[(&str, &str)] = &[("A", "$(touch /x) `id` \\ \"q\"\n; b"), ("B", "it's")];

    #[test]
    fn a_shell_gets_back_each_value() {
        let script = text_of(Format::Shell, NASTY) + "printf '%s|%s' \"$A\" \"$B\"";
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.stdout, format!("{}|{}", NASTY[0].1, NASTY[1].1).into_bytes());
    }

    #[test]
    fn a_json_reader_gets_back_each_value() {
        let json: serde_json::Value = serde_json::from_str(&text_of(Format::Json, NASTY)).unwrap();
        assert_eq!((json["A"].as_str(), json["B"].as_str()), (Some(NASTY[0].1), Some("it's")));
        assert_eq!(text_of(Format::Json, &[]), "{}\n");
    }

    #[test]
    fn a_shell_runs_nothing_of_any_format() {
        let dir = tempfile::tempdir().unwrap();
        let nasty =
            format!("$(touch {0}) `touch {0}` \"$(touch {0})", dir.path().join("x").display());
        for format in [Format::Shell, Format::Json, Format::Dotenv] {
            let script = text_of(format, &[("A", &nasty)]);
            std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{script}");
        }
    }

    #[test]
    fn what_a_format_can_not_hold_is_refused_by_name() {
        let error = written(Format::Dotenv, &variables(&[("KEY", "'$")])).unwrap_err();
        assert!(error.to_string().contains("KEY"));
        let bytes = BTreeMap::from([("KEY".to_owned(), Value::new(vec![0xff]))]);
        assert!(written(Format::Shell, &bytes).is_err());
        assert_eq!(
            text_of(Format::Dotenv, &[("A", "it's"), ("B", "x y")]),
            "A=\"it's\"\nB='x y'\n"
        );
    }
}
