//! An environment file whose values are known: they can be read, changed and sealed again.

use age::x25519;
use jiff::Timestamp;

use super::dotenv::{self, Body, Line};
use super::environment::mac_of;
use super::metadata::{self, MAX_RECIPIENTS, Metadata};
use super::wrap::{self, Wrap};
use super::{Value, name};
use crate::crypto::DataKey;
use crate::error::{Error, ErrorKind, Result};

/// An opened environment file.
#[derive(Clone, Debug)]
pub struct OpenEnvironment {
    name: String,
    key: DataKey,
    pub(super) entries: Vec<Entry>,
    wraps: Vec<Wrap>,
    /// When the version was sealed that was opened.
    sealed: Timestamp,
}

/// A line and what it says.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) line: Line,
    /// The plaintext of the value or the comment.
    pub(super) value: Value,
}

impl OpenEnvironment {
    /// Makes an empty environment with a new data key.
    ///
    /// # Errors
    /// `Io` when the system has no random numbers.
    pub fn create(name: &str) -> Result<Self> {
        let (entries, wraps) = (Vec::new(), Vec::new());
        let (name, sealed) = (name.to_owned(), Timestamp::UNIX_EPOCH);
        Ok(Self { name, key: DataKey::generate()?, entries, wraps, sealed })
    }

    pub(super) fn opened(
        name: String,
        key: DataKey,
        entries: Vec<Entry>,
        metadata: Metadata,
    ) -> Self {
        Self { name, key, entries, wraps: metadata.wraps, sealed: metadata.modified }
    }

    /// The name by which messages tell of it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// When the version was sealed that was opened; the epoch for a new one.
    pub fn sealed(&self) -> Timestamp {
        self.sealed
    }

    /// Encrypts a value for a key, or a comment for none.
    pub(super) fn entry(&self, key: Option<&str>, value: Value) -> Result<Entry> {
        let sealed = self.key.seal(value.expose(), &dotenv::context(key))?;
        Ok(Entry { line: Line { key: key.map(str::to_owned), body: Body::Sealed(sealed) }, value })
    }

    /// The value of a secret; `None` when there is none, or it isn't encrypted.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.values().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// The secrets, in the order of the file.
    ///
    /// Empty and clear values are left out: whoever can write the file can add them without any
    /// key.
    pub fn values(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .filter(|entry| matches!(entry.line.body, Body::Sealed(_)))
            .filter_map(|entry| Some((entry.line.key.as_deref()?, &entry.value)))
    }

    /// Gives a secret a value, and says whether it had another one.
    ///
    /// # Errors
    /// `InvalidInput` for a name that can't be one, and for a value that is empty, which nothing
    /// could vouch for, or holds NUL, which no environment can.
    pub fn set(&mut self, key: &str, value: Value) -> Result<bool> {
        check(key, &value)?;
        let place = self.entries.iter().position(|entry| entry.line.key.as_deref() == Some(key));
        if let Some(place) = place
            && self.entries[place].value == value
        {
            return Ok(false);
        }
        let entry = self.entry(Some(key), value)?;
        match place {
            Some(place) => self.entries[place] = entry,
            None => self.entries.push(entry),
        }
        Ok(true)
    }

    /// Removes a key, and says whether it was there.
    pub fn delete(&mut self, key: &str) -> bool {
        let before = self.entries.len();
        self.entries.retain(|entry| entry.line.key.as_deref() != Some(key));
        self.entries.len() != before
    }

    /// Draws a new data key and encrypts everything anew, so that those who knew the old one are
    /// shut out of what is sealed from now on.
    ///
    /// # Errors
    /// `Io` when the system has no random numbers.
    pub fn rotate(&mut self) -> Result<()> {
        self.key = DataKey::generate()?;
        self.wraps.clear();
        for Entry { line, value } in &mut self.entries {
            if matches!(line.body, Body::Sealed(_)) {
                line.body = Body::Sealed(self.key.seal(value.expose(), &line.context())?);
            }
        }
        Ok(())
    }

    /// Whether the file is encrypted to somebody who isn't among `recipients`.
    pub fn has_stranger(&self, recipients: &[String]) -> bool {
        self.wraps.iter().any(|wrap| !recipients.contains(&wrap.recipient.to_string()))
    }

    /// Whether these are the recipients that the file is encrypted to already.
    pub fn is_sealed_to(&self, recipients: &[String]) -> bool {
        let present: Vec<_> = self.wraps.iter().map(|wrap| wrap.recipient.to_string()).collect();
        !self.has_stranger(recipients)
            && recipients.iter().all(|recipient| present.contains(recipient))
    }

    /// Encrypts to `recipients` and writes the file; a line whose value is unchanged stays as it
    /// was, byte by byte.
    ///
    /// # Errors
    /// `PermissionDenied` when the file names a recipient that isn't among these, who is named:
    /// somebody was removed, or added by who may not; only [`OpenEnvironment::rotate`] gets rid
    /// of him. `InvalidInput` when there are no recipients, or too many; `FileTooLarge`.
    pub fn seal(&self, recipients: &[String]) -> Result<Vec<u8>> {
        let recipients = self.check_recipients(recipients)?;
        let mut wraps = Vec::with_capacity(recipients.len());
        // Those that are there stay in their places, so that their lines don't change.
        wraps.extend(self.wraps.iter().cloned());
        for recipient in &recipients {
            if !wraps.iter().any(|wrap| wrap.recipient == *recipient) {
                wraps.push(wrap::wrap(&self.key, recipient)?);
            }
        }
        // Where another's clock is ahead: time doesn't go backwards.
        let modified = Timestamp::now().max(self.sealed);
        let mac = mac_of(&self.entries);
        let mac = self.key.seal(mac.as_bytes(), metadata::seconds(modified).as_bytes())?;
        let lines: Vec<_> = self.entries.iter().map(|entry| entry.line.clone()).collect();
        let text = dotenv::emit(&lines, &Metadata { wraps, modified, mac });
        dotenv::check_size(&text).map_err(|why| {
            let message = format!("environment file {} can't be sealed: {why}", self.name);
            Error::new(ErrorKind::FileTooLarge, message)
        })?;
        Ok(text.into_bytes())
    }

    fn check_recipients(&self, recipients: &[String]) -> Result<Vec<x25519::Recipient>> {
        let refuse = |kind, why: String| {
            Error::new(kind, format!("environment file {} can't be sealed: {why}", self.name))
        };
        if recipients.is_empty() || recipients.len() > MAX_RECIPIENTS {
            let why = format!("it has {} recipients, not 1 to {MAX_RECIPIENTS}", recipients.len());
            return Err(refuse(ErrorKind::InvalidInput, why)
                .with_hint("`atelier init` registers your recipient"));
        }
        let known = recipients
            .iter()
            .map(|text| {
                text.parse().map_err(|why: &str| {
                    let message = format!("\"{text}\" is no age recipient");
                    refuse(ErrorKind::InvalidInput, message).with_source(why)
                })
            })
            .collect::<Result<Vec<x25519::Recipient>>>()?;
        match self.wraps.iter().find(|wrap| !known.contains(&wrap.recipient)) {
            Some(stranger) => {
                let why = format!(
                    "it is also encrypted to {}, who is no member of the project",
                    stranger.recipient
                );
                Err(refuse(ErrorKind::PermissionDenied, why).with_hint(format!(
                    "`atelier secret rotate --env {}` shuts him out with a new key; then change \
                     the values that he may have read",
                    self.name
                )))
            }
            None => Ok(known),
        }
    }
}

/// Checks a secret that is about to be set.
pub(super) fn check(key: &str, value: &Value) -> Result<()> {
    name::check(key)?;
    if value.expose().is_empty() || value.expose().contains(&0) {
        let message = format!("the value of {key} is empty or holds a zero byte");
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::identity::Identities;
    use super::super::{EnvironmentFile, reveal};
    use super::*;

    fn somebody() -> Identities {
        let dir = tempfile::tempdir().unwrap();
        Identities::load_or_create(&dir.path().join("keys.txt")).unwrap()
    }

    fn value(text: &str) -> Value {
        Value::new(text.as_bytes().to_vec())
    }

    fn with(pairs: &[(&str, &str)]) -> OpenEnvironment {
        let mut environment = OpenEnvironment::create("project").unwrap();
        for (key, text) in pairs {
            assert!(environment.set(key, value(text)).unwrap());
        }
        environment
    }

    fn open(bytes: &[u8], identities: &Identities) -> Result<OpenEnvironment> {
        EnvironmentFile::parse("project", bytes)?.open(identities)
    }

    #[test]
    fn what_is_sealed_is_opened_by_each_recipient_and_nobody_else() {
        let (ada, bob, eve) = (somebody(), somebody(), somebody());
        let sealed = with(&[("A", "1"), ("B", "a\nb\\n \"$(id)' é")])
            .seal(&[ada.recipient(), bob.recipient()])
            .unwrap();
        for member in [&ada, &bob] {
            let opened = open(&sealed, member).unwrap();
            assert_eq!(opened.value("B"), Some(&value("a\nb\\n \"$(id)' é")));
            assert_eq!(reveal("project", &sealed, member, "A").unwrap(), value("1"));
        }
        assert_eq!(open(&sealed, &eve).unwrap_err().kind(), ErrorKind::NoIdentity);
        let error = reveal("project", &sealed, &ada, "C").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn lines_whose_values_are_unchanged_stay_as_they_are() {
        let ada = somebody();
        let to = [ada.recipient()];
        let first = with(&[("A", "1"), ("B", "2"), ("C", "3")]).seal(&to).unwrap();
        let mut opened = open(&first, &ada).unwrap();
        assert!(!opened.set("A", value("1")).unwrap());
        assert!(opened.set("B", value("two")).unwrap());
        let second = opened.seal(&to).unwrap();
        let [first, second] = [first, second].map(|bytes| String::from_utf8(bytes).unwrap());
        let changed: Vec<_> = first
            .lines()
            .zip(second.lines())
            .filter(|(before, after)| before != after)
            .map(|(before, _)| before.split('=').next().unwrap())
            .filter(|key| *key != "sops_lastmodified")
            .collect();
        assert_eq!(changed, ["B", "sops_mac"]);
    }

    #[test]
    fn a_new_member_is_let_in_and_a_stranger_is_named() {
        let (ada, bob) = (somebody(), somebody());
        let first = with(&[("A", "1")]).seal(&[ada.recipient()]).unwrap();
        let both = [bob.recipient(), ada.recipient()];
        let second = open(&first, &ada).unwrap().seal(&both).unwrap();
        assert!(open(&second, &bob).is_ok());

        let error = open(&second, &ada).unwrap().seal(&[ada.recipient()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains(&bob.recipient()));

        let mut rotated = open(&second, &ada).unwrap();
        rotated.rotate().unwrap();
        let third = rotated.seal(&[ada.recipient()]).unwrap();
        assert_eq!(open(&third, &ada).unwrap().value("A"), Some(&value("1")));
        assert_eq!(open(&third, &bob).unwrap_err().kind(), ErrorKind::NoIdentity);
    }

    #[test]
    fn lines_that_are_swapped_dropped_or_added_break_the_seal() {
        let ada = somebody();
        let sealed = with(&[("A", "1"), ("B", "2")]).seal(&[ada.recipient()]).unwrap();
        let text = String::from_utf8(sealed).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let swapped = [&[lines[1], lines[0]], &lines[2..]].concat().join("\n");
        let dropped = lines[1..].join("\n");
        let added = format!("C_unencrypted=3\n{text}");
        for broken in [swapped, dropped, added] {
            let error = open(broken.as_bytes(), &ada).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::MacMismatch);
        }
        let renamed = text.replacen("A=", "C=", 1);
        let error = open(renamed.as_bytes(), &ada).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DecryptFailed);
        assert!(error.to_string().contains("value of C"));
    }

    #[test]
    fn what_nothing_vouches_for_is_no_secret() {
        let ada = somebody();
        let sealed = with(&[("A", "1")]).seal(&[ada.recipient()]).unwrap();
        let text = format!("LD_PRELOAD=\n{}", String::from_utf8(sealed).unwrap());
        let opened = open(text.as_bytes(), &ada).unwrap();
        assert_eq!(opened.values().map(|(key, _)| key).collect::<Vec<_>>(), ["A"]);
        assert_eq!(opened.value("LD_PRELOAD"), None);
    }

    #[test]
    fn values_that_can_not_be_kept_are_refused_without_being_shown() {
        let mut environment = OpenEnvironment::create("project").unwrap();
        assert!(environment.set("A", value("")).is_err());
        let error = environment.set("A", value("hunter2\0")).unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"));
        assert!(environment.set("A=hunter2", value("x")).is_err());
        let mut environment = with(&[("A", "hunter2")]);
        assert!(!format!("{environment:?}").contains("hunter2"));
        assert!(environment.set("BIG", value(&"x".repeat(1 << 20))).unwrap());
        let error = environment.seal(&[somebody().recipient()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert!(with(&[("A", "1")]).seal(&[]).is_err());
    }

    #[test]
    fn an_emptied_environment_can_be_sealed_and_opened() {
        let ada = somebody();
        let mut environment = with(&[("A", "1")]);
        assert!(environment.delete("A") && !environment.delete("A"));
        let sealed = environment.seal(&[ada.recipient()]).unwrap();
        assert_eq!(open(&sealed, &ada).unwrap().values().count(), 0);
    }

    /// One sealed file and its reader, made once: wrapping a key takes a while.
    fn sample() -> &'static (Identities, Vec<u8>) {
        static SAMPLE: std::sync::OnceLock<(Identities, Vec<u8>)> = std::sync::OnceLock::new();
        SAMPLE.get_or_init(|| {
            let ada = somebody();
            let sealed = with(&[("A", "1"), ("B", "two")]).seal(&[ada.recipient()]).unwrap();
            (ada, sealed)
        })
    }

    #[test]
    fn any_flipped_bit_is_refused() {
        let (ada, sealed) = sample();
        let text = str::from_utf8(sealed).unwrap();
        // Nothing hangs on the version, so nothing vouches for its digits.
        let version = text.find("3.11.0").unwrap();
        for bit in 0..sealed.len() * 8 {
            let place = bit / 8;
            let mut bytes = sealed.clone();
            bytes[place] ^= 1 << (bit % 8);
            let harmless = (version..version + 6).contains(&place);
            assert!(harmless || open(&bytes, ada).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(EnvironmentFile::parse("x", &bytes).is_err());
        }

        #[test]
        fn no_lines_panic(text in "((A|B_unencrypted|sops_mac|sops_age__list_[0-9]{1,3}__map_enc|#)\
            (=|)(ENC\\[AES256_GCM,(data|iv|tag):[A-Za-z0-9=,:]{0,9}\\]|x|)\n){0,20}") {
            prop_assert!(EnvironmentFile::parse("x", text.as_bytes()).is_err());
        }

        #[test]
        fn a_mutated_file_opens_to_nothing_else(
            start in 0..2000_usize, len in 0..40_usize, with in "[ -~\n]{0,20}",
        ) {
            let (ada, sealed) = sample();
            let start = start.min(sealed.len());
            let end = (start + len).min(sealed.len());
            let bytes = [&sealed[..start], with.as_bytes(), &sealed[end..]].concat();
            if let Ok(opened) = open(&bytes, ada) {
                let values: Vec<_> = opened.values().map(|(k, v)| (k, v.expose())).collect();
                prop_assert_eq!(values, [("A", &b"1"[..]), ("B", b"two")]);
            }
        }

        #[test]
        fn any_values_survive(pairs in proptest::collection::btree_map(
            "[A-Za-z_][A-Za-z0-9_]{0,9}", proptest::collection::vec(1..=255_u8, 1..50), 0..5,
        )) {
            let ada = &sample().0;
            let mut environment = OpenEnvironment::create("project").unwrap();
            let pairs: Vec<_> =
                pairs.into_iter().filter(|(key, _)| name::check(key).is_ok()).collect();
            for (key, bytes) in &pairs {
                environment.set(key, Value::new(bytes.clone())).unwrap();
            }
            let opened = open(&environment.seal(&[ada.recipient()]).unwrap(), ada).unwrap();
            let values: Vec<_> =
                opened.values().map(|(k, v)| (k.to_owned(), v.expose().to_vec())).collect();
            prop_assert_eq!(values, pairs);
        }
    }
}
