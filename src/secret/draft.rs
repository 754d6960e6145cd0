//! An environment file while somebody writes it: what isn't ciphertext doesn't get in.

use std::fmt;

use zeroize::Zeroizing;

use super::{EnvironmentFile, MAX_FILE, dotenv};
use crate::error::{Error, ErrorKind, Result};

/// The bytes of an environment file that is being written, from its start on.
///
/// Each line is checked as soon as it is there, so that whoever writes plaintext is told by the
/// write itself; what was refused is wiped, and never becomes part of the draft.
pub struct Draft {
    name: String,
    bytes: Zeroizing<Vec<u8>>,
}

/// Prints how much there is, never what.
impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Draft({}, {} bytes)", self.name, self.bytes.len())
    }
}

impl Draft {
    /// Begins with what the environment file `name` holds, or with nothing.
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), bytes: Zeroizing::new(bytes.to_vec()) }
    }

    /// What was written so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes bytes at `offset`, all or none of them.
    ///
    /// # Errors
    /// `NotPermitted` for what can't be part of an encrypted file, and behind the end;
    /// `FileTooLarge`.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let len = self.bytes.len();
        let start = usize::try_from(offset).ok().filter(|start| *start <= len);
        let start = start.ok_or_else(|| self.refused("it would have a gap"))?;
        let end = start.checked_add(bytes.len()).filter(|end| *end <= MAX_FILE);
        let end = end.ok_or_else(|| {
            let message = format!("environment file {} would have more than 1 MiB", self.name);
            Error::new(ErrorKind::FileTooLarge, message)
        })?;
        let mut next = Zeroizing::new(Vec::with_capacity(end.max(len)));
        next.extend_from_slice(&self.bytes);
        next.resize(end.max(len), 0);
        next[start..end].copy_from_slice(bytes);
        let first = next[..start].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let last = next[end..].iter().position(|byte| *byte == b'\n');
        let last = last.map_or(next.len(), |at| end + at + 1);
        dotenv::check_lines(&next[first..last]).map_err(|what| self.refused(what))?;
        self.bytes = next;
        Ok(())
    }

    /// Cuts the draft off.
    ///
    /// # Errors
    /// `NotPermitted` for more than there is.
    pub fn set_len(&mut self, len: u64) -> Result<()> {
        match usize::try_from(len).ok().filter(|len| *len <= self.bytes.len()) {
            Some(len) => self.bytes.truncate(len),
            None => return Err(self.refused("it would have a gap")),
        }
        Ok(())
    }

    /// The whole file, once its last line is there.
    ///
    /// # Errors
    /// `NotPermitted` as long as something is missing, or when something is wrong.
    pub fn finish(&self) -> Result<EnvironmentFile> {
        EnvironmentFile::parse(&self.name, &self.bytes)
            .map_err(|error| self.refused("it is no complete encrypted file").with_source(error))
    }

    fn refused(&self, what: &str) -> Error {
        let message = format!("environment file {} can't be written like that: {what}", self.name);
        Error::new(ErrorKind::NotPermitted, message)
            .with_hint("`sops` and `atelier secret set` write encrypted files")
    }
}

#[cfg(test)]
mod tests {
    use super::super::OpenEnvironment;
    use super::super::Value;
    use super::super::identity::Identities;
    use super::*;

    fn sealed() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let ada = Identities::load_or_create(&dir.path().join("keys.txt")).unwrap();
        let mut environment = OpenEnvironment::create("x").unwrap();
        environment.set("A", Value::new(b"1".to_vec())).unwrap();
        environment.set("B_LONGER", Value::new("é".repeat(500).into_bytes())).unwrap();
        environment.seal(&[ada.recipient()]).unwrap()
    }

    fn draft() -> Draft {
        Draft::new("x", b"")
    }

    #[test]
    fn a_file_can_be_written_in_pieces_of_any_size() {
        let mut file = b"#\nFREE_unencrypted=d\xc3\xa9j\xc3\xa0 vu\n".to_vec();
        file.extend(sealed());
        for step in [1, 7, 64, file.len()] {
            let mut draft = draft();
            for (index, piece) in file.chunks(step).enumerate() {
                draft.write((index * step) as u64, piece).unwrap();
                let complete = draft.finish().is_ok();
                assert!(complete || draft.bytes().len() < file.len(), "step {step}");
            }
            assert_eq!(draft.bytes(), file);
        }
    }

    #[test]
    fn plaintext_is_refused_by_the_write_that_brings_it() {
        for plain in [
            "PASSWORD=hunter2\n",
            "PASSWORD=hunter2",
            "PASSWORD=h",
            "# a comment",
            "export A=1",
            "A: 1\n",
            "{\n",
            "A\n",
            "\0",
            "A=ENC[AES256_GCM,data:YWJj,iv:x,tag:y,type:str]\n",
            "A=ENC[plain text",
            "A=ENC[AES256_GCM,data:plain text",
            "sops_kms__list_0__map_arn=x\n",
            "1A=",
        ] {
            let mut draft = draft();
            let error = draft.write(0, plain.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotPermitted, "{plain}");
            assert!(!format!("{error:?}").contains("hunter2"));
            assert_eq!(draft.bytes(), b"");
        }
    }

    #[test]
    fn what_could_still_become_ciphertext_is_refused_at_the_end() {
        for plain in ["PASSWORD", "PASSWORD=", "PASSWORD=\n", "#\n", "sops_mac=x\n", "A=ENC[", ""] {
            let mut draft = draft();
            draft.write(0, plain.as_bytes()).unwrap();
            assert_eq!(draft.finish().unwrap_err().kind(), ErrorKind::NotPermitted, "{plain}");
        }
    }

    #[test]
    fn appended_and_overwritten_plaintext_is_refused_too() {
        let file = sealed();
        let mut draft = Draft::new("x", &file);
        assert!(draft.write(file.len() as u64, b"PLAIN=text\n").is_err());
        assert!(draft.write(0, b"B=plain").is_err());
        assert!(draft.write(file.len() as u64 + 1, b"\n").is_err());
        assert_eq!(draft.bytes(), file);
        assert!(draft.finish().is_ok());
        assert!(draft.set_len(file.len() as u64 + 1).is_err());
        draft.set_len(10).unwrap();
        assert!(draft.finish().is_err());
        let large = vec![b'\n'; MAX_FILE + 1];
        assert_eq!(draft.write(0, &large).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
