//! The grammar of an encrypted environment file: lines of comments, pairs and metadata.
//!
//! It is anchored: a line is exactly what `sops` writes, or the file is refused by the line's
//! number. A message never holds the line, since a broken one may be plaintext.

use std::collections::HashSet;
use std::fmt::{self, Write as _};

use data_encoding::BASE64;

use super::metadata::{self, Metadata};
use super::{MAX_FILE, name};
use crate::crypto::{IV_LEN, Sealed, TAG_LEN};

/// Files with more lines are refused: ten thousand secrets are a mistake or an attack.
const MAX_LINES: usize = 10_000;

/// What is wrong, and in which line, counted from 1; 0 is the file as a whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) what: &'static str,
}

/// A line that isn't metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The key of a pair; `None` for a comment.
    pub(super) key: Option<String>,
    pub(super) body: Body,
}

/// What follows `KEY=` or `#`.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing: neither encrypted nor authenticated.
    Empty,
    /// The value of a key that ends in `_unencrypted`, as it is written.
    Clear(String),
    /// An encrypted value or comment.
    Sealed(Sealed),
}

impl Line {
    /// What the encryption of this line is bound to.
    pub(super) fn context(&self) -> Vec<u8> {
        context(self.key.as_deref())
    }
}

/// Binds a value to its key, and a comment to nothing.
pub(super) fn context(key: Option<&str>) -> Vec<u8> {
    format!("{}:", key.unwrap_or_default()).into_bytes()
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Clear(_) => "Clear(***)",
            Self::Sealed(_) => "Sealed(***)",
        })
    }
}

/// Reads a whole file.
pub(super) fn parse(bytes: &[u8]) -> Result<(Vec<Line>, Metadata), Fault> {
    let whole = |what| Fault { line: 0, what };
    if bytes.len() > MAX_FILE {
        return Err(whole("it has more than 1 MiB"));
    }
    let text = str::from_utf8(bytes).map_err(|_| whole("it isn't UTF-8"))?;
    if text.split('\n').count() > MAX_LINES {
        return Err(whole("it has more than 10000 lines"));
    }
    let (mut lines, mut found) = (Vec::new(), metadata::Found::default());
    let mut keys = HashSet::new();
    for (index, line) in text.split('\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let fault = |what| Fault { line: index + 1, what };
        check_characters(line).map_err(fault)?;
        if let Some((key, value)) = metadata_pair(line) {
            found.add(key, value).map_err(fault)?;
            continue;
        }
        if !found.is_empty() {
            return Err(fault("data follows the metadata"));
        }
        let line = parse_line(line).map_err(fault)?;
        if let Some(key) = &line.key
            && !keys.insert(key.clone())
        {
            return Err(fault("its key is there already"));
        }
        lines.push(line);
    }
    Ok((lines, found.finish().map_err(whole)?))
}

/// Checks lines by themselves, wherever they stand; of the last one a part may be missing, unless
/// it ends with a line feed.
pub(super) fn check_lines(bytes: &[u8]) -> Result<(), &'static str> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        // The last character may be incomplete, too.
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return Err("it isn't UTF-8"),
    };
    let (whole, rest) = text.rsplit_once('\n').map_or(("", text), |(whole, rest)| (whole, rest));
    for line in whole.split('\n').filter(|line| !line.is_empty()) {
        check_characters(line)?;
        match metadata_pair(line) {
            Some((key, value)) => metadata::Found::default().add(key, value)?,
            None => drop(parse_line(line)?),
        }
    }
    check_characters(rest)?;
    can_begin_line(rest).then_some(()).ok_or("it isn't encrypted")
}

/// Whether a line that is accepted can begin like this.
fn can_begin_line(text: &str) -> bool {
    const BEGIN: &str = "ENC[AES256_GCM,data:";
    let can_begin_sealed = |value: &str| {
        let of_sealed = |c: char| c.is_ascii_alphanumeric() || "+/=,:_]".contains(c);
        BEGIN.starts_with(value)
            || value.strip_prefix(BEGIN).is_some_and(|rest| rest.chars().all(of_sealed))
    };
    if let Some(comment) = text.strip_prefix('#') {
        return can_begin_sealed(comment);
    }
    match text.split_once('=') {
        Some((key, _)) if key.starts_with(metadata::PREFIX) => true,
        Some((key, value)) => {
            name::is_key(key) && (name::stays_clear(key) || can_begin_sealed(value))
        }
        None => text.is_empty() || text.starts_with(metadata::PREFIX) || name::is_key(text),
    }
}

fn check_characters(line: &str) -> Result<(), &'static str> {
    if line.contains(|c: char| c.is_control() && c != '\t') || line.starts_with('\u{feff}') {
        return Err("it holds a control character or a byte order mark");
    }
    Ok(())
}

/// Writes a whole file: the lines, then the metadata.
pub(super) fn emit(lines: &[Line], metadata: &Metadata) -> String {
    let mut text = String::new();
    for Line { key, body } in lines {
        match key {
            Some(key) => {
                text.push_str(key);
                text.push('=');
            }
            None => text.push('#'),
        }
        match body {
            Body::Empty => {}
            Body::Clear(value) => text.push_str(value),
            Body::Sealed(sealed) => {
                let kind = if key.is_some() { "str" } else { "comment" };
                text.push_str(&emit_sealed(sealed, kind));
            }
        }
        text.push('\n');
    }
    for (key, value) in metadata.pairs() {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}{key}={value}", metadata::PREFIX);
    }
    text
}

/// Whether a file of this text would be read again, as far as its size goes.
pub(super) fn check_size(text: &str) -> Result<(), &'static str> {
    if text.len() > MAX_FILE {
        return Err("it would have more than 1 MiB");
    }
    if text.split('\n').count() > MAX_LINES {
        return Err("it would have more than 10000 lines");
    }
    Ok(())
}

/// Reads `ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]` of the given type.
pub(super) fn parse_sealed(text: &str, kind: &str) -> Option<Sealed> {
    let mut fields = text.strip_prefix("ENC[AES256_GCM,")?.strip_suffix(']')?.split(',');
    let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix(':');
    let (data, iv, tag, stated) = (field("data")?, field("iv")?, field("tag")?, field("type")?);
    if stated != kind || fields.next().is_some() || data.is_empty() {
        return None;
    }
    let decode = |field: &str| BASE64.decode(field.as_bytes()).ok();
    Some(Sealed {
        data: decode(data)?,
        iv: <[u8; IV_LEN]>::try_from(decode(iv)?).ok()?,
        tag: <[u8; TAG_LEN]>::try_from(decode(tag)?).ok()?,
    })
}

/// Writes an encrypted value as [`parse_sealed`] reads it.
pub(super) fn emit_sealed(sealed: &Sealed, kind: &str) -> String {
    let [data, iv, tag] = [&sealed.data[..], &sealed.iv, &sealed.tag].map(|b| BASE64.encode(b));
    format!("ENC[AES256_GCM,data:{data},iv:{iv},tag:{tag},type:{kind}]")
}

/// The two characters `\n` stand for a line feed.
pub(super) fn unescape(text: &str) -> String {
    text.replace("\\n", "\n")
}

/// Undoes [`unescape`].
pub(super) fn escape(text: &str) -> String {
    text.replace('\n', "\\n")
}

fn metadata_pair(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix(metadata::PREFIX)?.split_once('=')
}

fn parse_line(line: &str) -> Result<Line, &'static str> {
    if let Some(comment) = line.strip_prefix('#') {
        let body = match comment {
            "" => Body::Empty,
            _ => Body::Sealed(parse_sealed(comment, "comment").ok_or("its comment is clear")?),
        };
        return Ok(Line { key: None, body });
    }
    let (key, value) = line.split_once('=').ok_or("it is neither a pair nor a comment")?;
    if !name::is_key(key) {
        return Err("its key isn't a name of letters, digits and _");
    }
    let body = match value {
        "" => Body::Empty,
        _ if name::stays_clear(key) => Body::Clear(value.to_owned()),
        _ => Body::Sealed(parse_sealed(value, "str").ok_or("its value isn't encrypted")?),
    };
    Ok(Line { key: Some(key.to_owned()), body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Sealed {
        Sealed { data: b"abc".to_vec(), iv: [7; IV_LEN], tag: [9; TAG_LEN] }
    }

    #[test]
    fn a_sealed_value_is_read_only_in_its_exact_form() {
        let text = emit_sealed(&sealed(), "str");
        assert_eq!(parse_sealed(&text, "str"), Some(sealed()));
        assert_eq!(parse_sealed(&text, "comment"), None);
        for bad in [
            format!("{text} "),
            format!(" {text}"),
            format!("{text}x"),
            text.replace("str", "int"),
            text.replace(",iv:", ",iv:A"),
            text.replace(",tag:", ",tags:"),
            text.replace("data:YWJj", "data:"),
            text.replace("data:YWJj", "data:YWJ"),
            text.replace("data:YWJj", "data:YWI"),
            text.replace("data:YWJj", "data:YWJ="),
            text.replace("AES256_GCM", "AES128_GCM"),
            text.replace("type:str", "type:str,x:y"),
        ] {
            assert_eq!(parse_sealed(&bad, "str"), None, "{bad}");
        }
    }

    #[test]
    fn a_line_is_a_comment_or_a_pair() {
        let value = emit_sealed(&sealed(), "str");
        let comment = emit_sealed(&sealed(), "comment");
        assert!(parse_line(&format!("A_1={value}")).is_ok());
        assert!(parse_line(&format!("#{comment}")).is_ok());
        assert!(parse_line("A=").is_ok() && parse_line("#").is_ok());
        assert!(parse_line("A_unencrypted=clear").is_ok());
        for bad in ["A=clear", "#clear", "A", "=x", "1A=", "a b=", "A =", "export A=", "A-B="] {
            assert!(parse_line(bad).is_err(), "{bad}");
        }
        assert!(parse_line(&format!("A={comment}")).is_err());
        assert!(parse_line(&format!("#{value}")).is_err());
    }

    #[test]
    fn a_fault_names_the_line_and_never_shows_it() {
        let fault = parse(b"A=\n\npassword hunter2\n").unwrap_err();
        assert_eq!(fault, Fault { line: 3, what: "it is neither a pair nor a comment" });
        for bad in [&b"A=\r\n"[..], b"\xef\xbb\xbfA=\n", b"A_unencrypted=\0\n", b"\xff=\n"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse(b"A=\nA=\n").unwrap_err().line, 2);
    }

    #[test]
    fn too_much_is_refused() {
        assert_eq!(parse(&vec![b'#'; MAX_FILE + 1]).unwrap_err().line, 0);
        assert_eq!(parse("#\n".repeat(MAX_LINES).as_bytes()).unwrap_err().line, 0);
        let key = "K".repeat(257);
        assert_eq!(parse(format!("{key}=\n").as_bytes()).unwrap_err().line, 1);
    }
}
