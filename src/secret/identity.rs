//! Identities: the private age keys of a user, kept in a file that `sops` and `age` share.

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use age::secrecy::ExposeSecret;
use age::x25519;
use zeroize::Zeroizing;

use crate::crypto::Hold;
use crate::error::{Error, ErrorKind, IoContext, Result};

/// Larger files aren't read: a key takes 75 bytes, so this is thousands of them.
const MAX_FILE: u64 = 1 << 20;

/// Kinds of keys that `sops` and `age` know and that are passed over here.
const FOREIGN: &[&str] = &["AGE-PLUGIN-", "AGE-SECRET-KEY-PQ-"];

/// The age X25519 identities of a user, in the order of their file; never none.
pub struct Identities {
    // In this order: the memory is let go of before it is given back. It never grows, since that
    // would move it.
    _hold: Hold,
    keys: Box<[x25519::Identity]>,
}

impl From<Vec<x25519::Identity>> for Identities {
    fn from(keys: Vec<x25519::Identity>) -> Self {
        let keys = keys.into_boxed_slice();
        Self { _hold: Hold::of(&*keys), keys }
    }
}

impl Clone for Identities {
    fn clone(&self) -> Self {
        self.keys.to_vec().into()
    }
}

impl Identities {
    /// Reads the identities of `file`, an age key file: a key a line, `#` begins a comment.
    ///
    /// # Errors
    /// `NoIdentity` when the file isn't there or holds none; `InvalidInput` when a line is no
    /// key, which is named by its number only.
    pub fn load(file: &Path) -> Result<Self> {
        let size = match fs::metadata(file) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(none_in(file, "isn't there"));
            }
            Err(error) => return Err(Error::io(error, unreadable(file))),
        };
        if size > MAX_FILE {
            return Err(Error::new(ErrorKind::InvalidInput, unreadable(file))
                .with_source(format!("it has more than {MAX_FILE} bytes")));
        }
        let text = Zeroizing::new(fs::read(file).context(|| unreadable(file))?);
        Self::parse(&text, file)
    }

    /// Reads the identities of `file`, and makes the file with one new identity if there is none.
    ///
    /// What is there is never overwritten. The file gets mode 0600, directories that are made on
    /// the way 0700.
    ///
    /// # Errors
    /// As [`Identities::load`], and what the file system answers.
    pub fn load_or_create(file: &Path) -> Result<Self> {
        if !file.try_exists().context(|| unreadable(file))? {
            create(file)?;
        }
        Self::load(file)
    }

    /// Puts a new identity in front of those of `file`, whose lines all stay: other files may be
    /// encrypted to them.
    ///
    /// # Errors
    /// As [`Identities::load`], and what the file system answers; then the file is as it was.
    pub fn renew(file: &Path) -> Result<Self> {
        let failed = || format!("the age identities in {} can't be changed", file.display());
        Self::load(file)?;
        // A link to the file stays one.
        let file = fs::canonicalize(file).context(failed)?;
        let before = Zeroizing::new(fs::read(&file).context(failed)?);
        let key = new_key_file();
        let mut text = Zeroizing::new(Vec::with_capacity(key.len() + before.len()));
        text.extend_from_slice(key.as_bytes());
        text.extend_from_slice(&before);
        let draft = draft_of(&file)?;
        let replaced = write_private(&draft, &text).and_then(|()| fs::rename(&draft, &file));
        if replaced.is_err() {
            // The first error is the one to tell of.
            let _ = fs::remove_file(&draft);
        }
        replaced.context(failed)?;
        Self::load(&file)
    }

    /// These, then `others`.
    #[must_use]
    pub fn and(&self, others: &Self) -> Self {
        [&*self.keys, &*others.keys].concat().into()
    }

    /// The recipient of the first identity: the one by which others know this user.
    pub fn recipient(&self) -> String {
        self.keys.first().map(|identity| identity.to_public().to_string()).unwrap_or_default()
    }

    /// The recipients of all identities, in order.
    pub fn recipients(&self) -> Vec<String> {
        self.keys.iter().map(|identity| identity.to_public().to_string()).collect()
    }

    /// The identity that opens what is encrypted to `recipient`.
    pub(super) fn matching(&self, recipient: &x25519::Recipient) -> Option<&x25519::Identity> {
        self.keys.iter().find(|identity| identity.to_public() == *recipient)
    }

    fn parse(text: &[u8], file: &Path) -> Result<Self> {
        let mut identities = Vec::new();
        for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            let foreign = FOREIGN.iter().any(|prefix| line.starts_with(prefix.as_bytes()));
            if line.is_empty() || line.starts_with(b"#") || foreign {
                continue;
            }
            let identity = str::from_utf8(line).ok().and_then(|line| line.parse().ok());
            identities.push(identity.ok_or_else(|| {
                let message = format!("line {} of {} is no age key", number + 1, file.display());
                Error::new(ErrorKind::InvalidInput, message)
                    .with_hint("an age key begins with AGE-SECRET-KEY-1")
            })?);
        }
        if identities.is_empty() {
            return Err(none_in(file, "holds none"));
        }
        Ok(identities.into())
    }
}

/// Prints how many there are, never a key.
impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identities(*** × {})", self.keys.len())
    }
}

/// Makes a key file with one new identity, complete or not at all; leaves one that is there.
fn create(file: &Path) -> Result<()> {
    let failed = || format!("the age identity {} can't be made", file.display());
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(dir) = dir {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).context(failed)?;
    }
    let draft = draft_of(file)?;
    let linked = write_private(&draft, new_key_file().as_bytes())
        // A link, unlike a rename, never replaces a key that came up meanwhile.
        .and_then(|()| fs::hard_link(&draft, file));
    let removed = fs::remove_file(&draft);
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.and(removed).context(failed),
    }
}

fn draft_of(file: &Path) -> Result<PathBuf> {
    let Some(name) = file.file_name() else {
        let message = format!("{} can't be the name of a key file", file.display());
        return Err(Error::new(ErrorKind::InvalidInput, message));
    };
    let mut draft = name.to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    Ok(file.with_file_name(draft))
}

fn write_private(file: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(text)?;
    file.sync_all()
}

/// The text of a key file, laid out as `age-keygen` does.
fn new_key_file() -> Zeroizing<String> {
    let identity = x25519::Identity::generate();
    let created = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let recipient = identity.to_public();
    let key = identity.to_string();
    let key = key.expose_secret();
    Zeroizing::new(format!("# created: {created}\n# public key: {recipient}\n{key}\n"))
}

fn unreadable(file: &Path) -> String {
    format!("the age identities in {} can't be read", file.display())
}

fn none_in(file: &Path, why: &str) -> Error {
    let message = format!("there is no age identity: {} {why}", file.display());
    Error::new(ErrorKind::NoIdentity, message)
        .with_hint("`atelier init` makes one; SOPS_AGE_KEY_FILE names another file")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
    const RECIPIENT: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn parse(text: &str) -> Result<Identities> {
        Identities::parse(text.as_bytes(), Path::new("keys.txt"))
    }

    #[test]
    fn a_new_identity_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sops/age/keys.txt");
        let made = Identities::load_or_create(&file).unwrap();
        assert_eq!(mode_of(&file), 0o600);
        assert_eq!(mode_of(file.parent().unwrap()), 0o700);
        assert_eq!(mode_of(&dir.path().join("sops")), 0o700);
        let again = Identities::load_or_create(&file).unwrap();
        assert_eq!(made.recipients(), again.recipients());
        assert_eq!(fs::read_dir(file.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn comments_empty_lines_and_several_keys_are_read() {
        let text = format!("# mine\r\n{KEY}\r\n\n  \n#x\nAGE-PLUGIN-YUBIKEY-1QQQ\n{KEY}");
        assert_eq!(parse(&text).unwrap().recipients(), [RECIPIENT, RECIPIENT]);
        assert_eq!(parse(&text).unwrap().recipient(), RECIPIENT);
    }

    #[test]
    fn a_file_without_a_key_is_no_identity() {
        assert_eq!(parse("# nothing\n").unwrap_err().kind(), ErrorKind::NoIdentity);
        let error = Identities::load(Path::new("/nonexistent/keys.txt")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoIdentity);
    }

    #[test]
    fn a_broken_line_is_named_and_never_shown() {
        let error = parse(&format!("\n{}X\n", &KEY[..40])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(error.to_string(), "line 2 of keys.txt is no age key");
        assert!(!format!("{error:?}").contains("SECRET-KEY-1GQ"));
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.txt");
        fs::write(&file, "# empty\n").unwrap();
        assert!(Identities::load_or_create(&file).is_err());
        create(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "# empty\n");
    }

    #[test]
    fn a_renewed_file_has_a_new_key_in_front_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys.txt");
        fs::write(&file, format!("# mine\n{KEY}\n")).unwrap();
        let renewed = Identities::renew(&file).unwrap();
        assert_eq!(renewed.recipients()[1..], [RECIPIENT]);
        assert_ne!(renewed.recipient(), RECIPIENT);
        assert!(fs::read_to_string(&file).unwrap().ends_with(&format!("# mine\n{KEY}\n")));
        assert_eq!(mode_of(&file), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(Identities::renew(&dir.path().join("absent")).is_err());
        let both = parse(KEY).unwrap().and(&renewed);
        assert_eq!(both.recipients()[..2], [RECIPIENT.to_owned(), renewed.recipient()]);
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", parse(KEY).unwrap()), "Identities(*** × 1)");
    }
}
