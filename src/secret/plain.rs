//! Environment files in plaintext, for an editor and from elsewhere.

use std::collections::HashSet;

use zeroize::Zeroizing;

use super::dotenv::{Body, escape, unescape};
use super::open::{Entry, OpenEnvironment, check};
use super::{Value, name};
use crate::error::{Error, ErrorKind, Result};

/// The names of the secrets that a change has set and deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New ones, and those with another value.
    pub set: Vec<String>,
    /// Those that are gone.
    pub deleted: Vec<String>,
}

impl OpenEnvironment {
    /// The whole environment as an editor gets it, and as `sops decrypt` prints it: a pair or a
    /// comment a line, `\n` for a line feed in a value.
    ///
    /// # Errors
    /// `InvalidInput` when a value isn't text.
    pub fn plain(&self) -> Result<Zeroizing<String>> {
        let mut len = 0;
        let lines = self.entries.iter().map(plain_line);
        let lines = lines.inspect(|line| len += line.as_ref().map_or(0, |line| line.len() + 1));
        let lines = lines.collect::<Result<Vec<_>>>()?;
        // Never moved, so that no copy of it stays behind.
        let mut text = Zeroizing::new(String::with_capacity(len));
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        Ok(text)
    }

    /// Takes over what became of [`OpenEnvironment::plain`]; lines that are as they were stay
    /// sealed as they were.
    ///
    /// # Errors
    /// `InvalidInput` with the number of the first line that is wrong; then nothing has changed.
    pub fn rewrite(&mut self, text: &str) -> Result<Changes> {
        let before = self.entries.iter().map(plain_line).collect::<Result<Vec<_>>>()?;
        let mut kept = vec![false; before.len()];
        let (mut entries, mut keys, mut changes) = (Vec::new(), HashSet::new(), Changes::default());
        for (index, line) in text.split('\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let wrong = |why: &str| wrong_line(self.name(), index + 1, why);
            let same = before.iter().zip(&kept).position(|(old, kept)| !kept && **old == *line);
            let entry = if let Some(same) = same {
                kept[same] = true;
                self.entries[same].clone()
            } else if let Some(comment) = line.strip_prefix('#') {
                self.entry(None, Value::new(comment.as_bytes().to_vec()))?
            } else {
                let (key, value) =
                    line.split_once('=').ok_or_else(|| wrong("it is no KEY=VALUE"))?;
                let value = Value::new(unescape(value).into_bytes());
                check(key, &value).map_err(|error| wrong("it can't be kept").with_source(error))?;
                changes.set.push(key.to_owned());
                self.entry(Some(key), value)?
            };
            if let Some(key) = &entry.line.key
                && !keys.insert(key.clone())
            {
                return Err(wrong("its name is there already"));
            }
            entries.push(entry);
        }
        let old = self.entries.iter().filter_map(|entry| entry.line.key.as_ref());
        changes.deleted = old.filter(|key| !keys.contains(*key)).cloned().collect();
        self.entries = entries;
        Ok(changes)
    }
}

fn plain_line(Entry { line, value }: &Entry) -> Result<Zeroizing<String>> {
    let what = line.key.as_deref().unwrap_or("a comment");
    let text = str::from_utf8(value.expose()).map_err(|_| {
        Error::new(ErrorKind::InvalidInput, format!("the value of {what} isn't text"))
            .with_hint("`atelier secret set` and `delete` change the others one by one")
    })?;
    let text = Zeroizing::new(escape(text));
    Ok(Zeroizing::new(match (&line.key, &line.body) {
        (Some(key), _) => format!("{key}={}", *text),
        (None, Body::Empty) => "#".to_owned(),
        (None, _) => format!("#{}", *text),
    }))
}

/// Reads a plain `.env` file as shells and programs write it, without expanding anything.
///
/// `export` in front of a name, blank lines and comments are passed over. A value that begins with
/// a quote is read as a shell reads it, over several lines where it has them; another one is what
/// stands there, up to ` #` or the end of the line.
///
/// # Errors
/// `InvalidInput` with the number of the first line that is wrong, never with what it holds.
pub fn import(name: &str, text: &str) -> Result<Vec<(String, Value)>> {
    let mut pairs: Vec<(String, Value)> = Vec::new();
    let (mut rest, mut number) = (text, 0);
    while !rest.is_empty() {
        number += 1;
        let wrong = |why: &str| wrong_line(name, number, why);
        let line = rest.split('\n').next().unwrap_or_default();
        let shown = line.trim();
        if shown.is_empty() || shown.starts_with('#') {
            rest = rest.get(line.len() + 1..).unwrap_or_default();
            continue;
        }
        let (key, value) = rest
            .split_once('=')
            .filter(|(key, _)| !key.contains('\n'))
            .ok_or_else(|| wrong("it is no KEY=VALUE"))?;
        let key = key.trim();
        let key = key.strip_prefix("export ").map_or(key, str::trim_start);
        name::check(key).map_err(|error| wrong("its name is wrong").with_source(error))?;
        let (value, after) = match value.chars().next() {
            Some('\'' | '"') => quoted(value).ok_or_else(|| wrong("its quotes don't match"))?,
            _ => unquoted(value),
        };
        if pairs.iter().any(|(other, _)| other == key) {
            return Err(wrong("its name is there already"));
        }
        let taken = &rest[..rest.len() - after.len()];
        number += taken.trim_end_matches('\n').matches('\n').count();
        pairs.push((key.to_owned(), Value::new(value)));
        rest = after;
    }
    Ok(pairs)
}

/// The value up to the end of its line, and what comes after that.
fn unquoted(text: &str) -> (Zeroizing<Vec<u8>>, &str) {
    let (line, after) = text.split_once('\n').unwrap_or((text, ""));
    let value = line.split_once(" #").map_or(line, |(value, _)| value).trim();
    (Zeroizing::new(value.as_bytes().to_vec()), after)
}

/// A word of quoted pieces, as in section 2.2 of POSIX.1-2024, and what comes after its line;
/// `None` when a quote is missing, or more than a comment follows.
///
/// Only `\n` between double quotes is a line feed, as programs that read such files have it.
fn quoted(text: &str) -> Option<(Zeroizing<Vec<u8>>, &str)> {
    let mut value = Zeroizing::new(String::with_capacity(text.len()));
    let mut rest = text;
    loop {
        let mut chars = rest.chars();
        match chars.next() {
            Some('\'') => {
                let (literal, after) = chars.as_str().split_once('\'')?;
                value.push_str(literal);
                rest = after;
            }
            Some('"') => rest = double_quoted(chars.as_str(), &mut value)?,
            Some('\\') => {
                value.push(chars.next().filter(|c| *c != '\n')?);
                rest = chars.as_str();
            }
            _ => break,
        }
    }
    let (line, after) = rest.split_once('\n').unwrap_or((rest, ""));
    let trailing = line.trim();
    let fine =
        trailing.is_empty() || trailing.starts_with('#') && line.starts_with(char::is_whitespace);
    fine.then(|| (Zeroizing::new(value.as_bytes().to_vec()), after))
}

/// Reads up to the closing quote; returns what comes after it.
fn double_quoted<'a>(text: &'a str, value: &mut String) -> Option<&'a str> {
    let mut chars = text.chars();
    loop {
        match chars.next()? {
            '"' => return Some(chars.as_str()),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                c @ ('"' | '\\' | '$' | '`') => value.push(c),
                '\n' => {}
                c => value.extend(['\\', c]),
            },
            c => value.push(c),
        }
    }
}

fn wrong_line(name: &str, number: usize, why: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("line {number} of {name} can't be taken: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Value {
        Value::new(text.as_bytes().to_vec())
    }

    fn opened() -> OpenEnvironment {
        let mut environment = OpenEnvironment::create("x").unwrap();
        for (key, text) in [("A", "1"), ("B", "two\nlines"), ("C", "a\\nb")] {
            environment.set(key, value(text)).unwrap();
        }
        environment
    }

    #[test]
    fn what_an_editor_leaves_as_it_is_stays_sealed_as_it_was() {
        let mut environment = opened();
        let before: Vec<_> = environment.entries.iter().map(|entry| entry.line.clone()).collect();
        let text = environment.plain().unwrap();
        assert_eq!(*text, "A=1\nB=two\\nlines\nC=a\\nb\n");
        assert_eq!(environment.rewrite(&text).unwrap(), Changes::default());
        let after: Vec<_> = environment.entries.iter().map(|entry| entry.line.clone()).collect();
        assert_eq!(before, after);
        assert_eq!(environment.value("C"), Some(&value("a\\nb")));

        let changes = environment.rewrite("# note\nC=a\\nb\nA=2\n\nD=x=y\n").unwrap();
        assert_eq!(
            (changes.set, changes.deleted),
            (vec!["A".into(), "D".into()], vec!["B".into()])
        );
        assert_eq!(environment.entries[1].line, before[2]);
        assert_eq!(environment.value("D"), Some(&value("x=y")));
        assert_eq!(*environment.plain().unwrap(), "# note\nC=a\\nb\nA=2\nD=x=y\n");
    }

    #[test]
    fn an_edit_that_is_wrong_changes_nothing_and_shows_nothing() {
        let mut environment = opened();
        for (text, line) in [
            ("A=1\nhunter2\n", 2),
            ("A=1\nA=hunter2\n", 2),
            ("hunter2 =1\n", 1),
            ("\n\nA=\n", 3),
            ("A_unencrypted=hunter2\n", 1),
        ] {
            let error = environment.rewrite(text).unwrap_err();
            assert!(error.to_string().contains(&format!("line {line} of x")), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
        assert_eq!(environment.values().count(), 3);
    }

    fn pairs(text: &str) -> Vec<(String, String)> {
        let read = import("f", text).unwrap();
        let text = |value: Value| String::from_utf8(value.expose().to_vec()).unwrap();
        read.into_iter().map(|(key, value)| (key, text(value))).collect()
    }

    #[test]
    fn plain_files_are_read_as_shells_write_them() {
        for (line, expected) in [
            ("A=1", "1"),
            ("export A=1", "1"),
            ("  A = 1 # why", "1"),
            ("A=a b=c#d", "a b=c#d"),
            ("A=\\n$HOME", "\\n$HOME"),
            ("A='it'\\''s $x' # note", "it's $x"),
            ("A='two\nlines'", "two\nlines"),
            ("A=\"two\\nlines \\\"q\\\" \\$x \\d\"", "two\nlines \"q\" $x \\d"),
            ("A=\"1\"", "1"),
            ("A=1\r", "1"),
            ("A=", ""),
        ] {
            assert_eq!(pairs(line), [("A".to_owned(), expected.to_owned())], "{line}");
            let both = pairs(&format!("# x\n\n{line}\nB='2'\n"));
            assert_eq!(both[1], ("B".to_owned(), "2".to_owned()), "{line}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_by_its_number() {
        for (text, line) in [
            ("A='\n\n1'\nhunter2\n", 4),
            ("A=1\n\nB='hunter2\n", 3),
            ("A='1' hunter2", 1),
            ("A=1\nA=hunter2", 2),
            ("1A=hunter2", 1),
            ("hunter2\nA=1", 1),
        ] {
            let error = import("f", text).unwrap_err();
            assert!(error.to_string().contains(&format!("line {line} of f")), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}
