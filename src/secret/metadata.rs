//! The metadata of an environment file: who can open it, when it was sealed, and its seal.

use std::collections::BTreeMap;
use std::str::FromStr;

use age::x25519;
use jiff::Timestamp;

use super::dotenv::{emit_sealed, escape, parse_sealed, unescape};
use super::wrap::{self, Wrap};
use crate::crypto::Sealed;

/// What the key of a metadata line begins with.
pub(super) const PREFIX: &str = "sops_";

/// The only rule of what stays clear that is accepted: that of `sops` itself.
const CLEAR_SUFFIX: (&str, &str) = ("unencrypted_suffix", "_unencrypted");

/// The version of the format that is written.
const VERSION: &str = "3.11.0";

/// More recipients aren't accepted.
pub(super) const MAX_RECIPIENTS: usize = 64;

/// The metadata of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Metadata {
    /// The data key, wrapped for each recipient; the index of a recipient is its place here.
    pub(super) wraps: Vec<Wrap>,
    /// When the file was sealed, to the second; the seal is bound to it.
    pub(super) modified: Timestamp,
    /// The digest of all values, encrypted.
    pub(super) mac: Sealed,
}

impl Metadata {
    /// The lines, in byte order, their keys without [`PREFIX`].
    pub(super) fn pairs(&self) -> BTreeMap<String, String> {
        let mut pairs = BTreeMap::from([
            ("lastmodified".to_owned(), seconds(self.modified)),
            ("mac".to_owned(), emit_sealed(&self.mac, "str")),
            (CLEAR_SUFFIX.0.to_owned(), CLEAR_SUFFIX.1.to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
        ]);
        for (index, wrap) in self.wraps.iter().enumerate() {
            let key = |field| format!("age__list_{index}__map_{field}");
            pairs.insert(key("enc"), escape(&wrap.armored));
            pairs.insert(key("recipient"), wrap.recipient.to_string());
        }
        pairs
    }
}

/// A time as the metadata holds it and the seal is bound to it, such as `2026-11-23T22:00:00Z`.
pub(super) fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Metadata lines as they are found, each at most once.
#[derive(Default)]
pub(super) struct Found {
    lines: BTreeMap<String, String>,
    recipients: BTreeMap<usize, x25519::Recipient>,
    armored: BTreeMap<usize, String>,
}

impl Found {
    /// Whether there was none so far.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.recipients.is_empty() && self.armored.is_empty()
    }

    /// Takes a line, its key without [`PREFIX`].
    pub(super) fn add(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        const TWICE: &str = "this metadata is there already";
        const UNKNOWN: &str = "this metadata isn't known";
        if let Some(rest) = key.strip_prefix("age__list_") {
            let (index, field) = rest.split_once("__map_").ok_or(UNKNOWN)?;
            let index = parse_index(index).ok_or("the number of a recipient is wrong")?;
            let first = match field {
                "recipient" => {
                    let recipient = parse_recipient(value).ok_or("it names no age recipient")?;
                    self.recipients.insert(index, recipient).is_none()
                }
                "enc" => {
                    let armored = unescape(value);
                    if !wrap::is_armored(&armored) {
                        return Err("it holds no armored age file");
                    }
                    self.armored.insert(index, armored).is_none()
                }
                _ => return Err(UNKNOWN),
            };
            return first.then_some(()).ok_or(TWICE);
        }
        match key {
            "lastmodified" | "mac" => {}
            "version" if is_version(value) => {}
            "version" => return Err("its version isn't three numbers"),
            _ if key == CLEAR_SUFFIX.0 && value == CLEAR_SUFFIX.1 => {}
            _ if key == CLEAR_SUFFIX.0 => return Err("only _unencrypted is accepted here"),
            _ => return Err(UNKNOWN),
        }
        let before = self.lines.insert(key.to_owned(), value.to_owned());
        before.is_none().then_some(()).ok_or(TWICE)
    }

    /// Checks that nothing is missing.
    pub(super) fn finish(mut self) -> Result<Metadata, &'static str> {
        let count = self.recipients.len();
        let wraps: Vec<_> = (0..count)
            .map_while(|index| {
                let recipient = self.recipients.remove(&index)?;
                Some(Wrap { recipient, armored: self.armored.remove(&index)? })
            })
            .collect();
        if count == 0 || wraps.len() != count || !self.armored.is_empty() {
            return Err("its recipients are missing or not counted from 0 without a gap");
        }
        let twice = |wrap: &Wrap| wraps.iter().filter(|w| w.recipient == wrap.recipient).count();
        if wraps.iter().any(|wrap| twice(wrap) > 1) {
            return Err("it names a recipient twice");
        }
        let line = |key| self.lines.get(key).map(String::as_str);
        line("version").ok_or("it has no sops_version")?;
        let modified = line("lastmodified").ok_or("it has no sops_lastmodified")?;
        let mac = line("mac").ok_or("it has no sops_mac")?;
        Ok(Metadata {
            wraps,
            modified: parse_seconds(modified).ok_or("its sops_lastmodified isn't a time")?,
            mac: parse_sealed(mac, "str").ok_or("its sops_mac isn't encrypted")?,
        })
    }
}

/// A number below [`MAX_RECIPIENTS`] in its one form, without leading zeroes or a sign.
fn parse_index(text: &str) -> Option<usize> {
    let index: usize = text.parse().ok()?;
    (index < MAX_RECIPIENTS && index.to_string() == text).then_some(index)
}

fn parse_recipient(text: &str) -> Option<x25519::Recipient> {
    let recipient = x25519::Recipient::from_str(text).ok()?;
    (recipient.to_string() == text).then_some(recipient)
}

fn parse_seconds(text: &str) -> Option<Timestamp> {
    let time: Timestamp = text.parse().ok()?;
    (seconds(time) == text).then_some(time)
}

fn is_version(text: &str) -> bool {
    let parts: Vec<_> = text.split('.').collect();
    parts.len() == 3
        && parts.iter().all(|part| part.parse::<u16>().is_ok_and(|n| n.to_string() == *part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
    const ARMORED: &str =
        "-----BEGIN AGE ENCRYPTED FILE-----\\nYWJj\\n-----END AGE ENCRYPTED FILE-----\\n";
    const MAC: &str = "ENC[AES256_GCM,data:YWJj,\
        iv:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=,tag:CQkJCQkJCQkJCQkJCQkJCQ==,type:str]";

    fn read(lines: &[(&str, &str)]) -> Result<Metadata, &'static str> {
        let mut found = Found::default();
        for (key, value) in lines {
            found.add(key, value)?;
        }
        found.finish()
    }

    fn good() -> Vec<(&'static str, &'static str)> {
        vec![
            ("age__list_0__map_enc", ARMORED),
            ("age__list_0__map_recipient", RECIPIENT),
            ("lastmodified", "2026-11-23T22:00:00Z"),
            ("mac", MAC),
            ("unencrypted_suffix", "_unencrypted"),
            ("version", "3.11.0"),
        ]
    }

    fn with(key: &str, value: &'static str) -> Vec<(&'static str, &'static str)> {
        good().into_iter().map(|(k, v)| (k, if k == key { value } else { v })).collect()
    }

    #[test]
    fn what_is_read_is_written_again() {
        let pairs = read(&good()).unwrap().pairs();
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, good());
    }

    #[test]
    fn each_line_is_needed_once_but_the_rule() {
        for index in 0..good().len() {
            let mut lines = good();
            let (key, _) = lines.remove(index);
            assert_eq!(read(&lines).is_ok(), key == "unencrypted_suffix", "{key}");
            let mut lines = good();
            lines.push(lines[index]);
            assert!(read(&lines).is_err(), "{key}");
        }
    }

    #[test]
    fn other_rules_keys_and_values_are_refused() {
        for (key, value) in [
            ("unencrypted_suffix", ""),
            ("unencrypted_suffix", "_X"),
            ("encrypted_regex", "^A$"),
            ("mac_only_encrypted", "true"),
            ("pgp__list_0__map_fp", "x"),
            ("kms__list_0__map_arn", "x"),
            ("shamir_threshold", "2"),
            ("age__list_00__map_enc", ARMORED),
            ("age__list_64__map_enc", ARMORED),
            ("age__list_99999999999999999999__map_enc", ARMORED),
            ("age__list_+1__map_enc", ARMORED),
            ("age__list_1__map_enc", ARMORED),
            ("age__list_1__map_recipient", RECIPIENT),
            ("age__list_1__map_other", "x"),
            ("age__list_", "x"),
        ] {
            let mut lines = good();
            lines.push((key, value));
            assert!(read(&lines).is_err(), "{key}");
        }
        for (key, value) in [
            ("lastmodified", "2026-11-23T22:00:00.5Z"),
            ("lastmodified", "2026-11-23T22:00:00+00:00"),
            ("lastmodified", "2026-13-23T22:00:00Z"),
            ("mac", "x"),
            ("version", "3.11"),
            ("version", "3.011.0"),
            ("age__list_0__map_recipient", "age1x"),
            ("age__list_0__map_enc", "x"),
        ] {
            assert!(read(&with(key, value)).is_err(), "{key}={value}");
        }
    }
}
