//! AES-256-GCM as SOPS uses it: initialization vectors of 32 random bytes, tags of 16; and the
//! memory that keys are in.

use std::fmt;

use aes_gcm::aead::consts::U32;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aes::Aes256;
use aes_gcm::{AeadInOut, AesGcm, KeyInit};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};

mod locked;

pub use locked::{Hold, Locked};

/// Length of a data key in bytes.
pub const KEY_LEN: usize = 32;
/// Length of an initialization vector in bytes. GCM prefers 12; SOPS has always drawn 32.
pub const IV_LEN: usize = 32;
/// Length of an authentication tag in bytes.
pub const TAG_LEN: usize = 16;

/// The key that encrypts the values of one environment file.
#[derive(Clone)]
pub struct DataKey(Locked<[u8; KEY_LEN]>);

/// An encrypted value: ciphertext of the same length, what it was encrypted with, and its proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The ciphertext.
    pub data: Vec<u8>,
    /// The initialization vector.
    pub iv: [u8; IV_LEN],
    /// The authentication tag.
    pub tag: [u8; TAG_LEN],
}

impl DataKey {
    /// Draws a new key from the system's random numbers.
    ///
    /// # Errors
    /// `Io` when the system has none to give.
    pub fn generate() -> Result<Self> {
        let mut key = Self::empty();
        fill_random(&mut key.0[..])?;
        Ok(key)
    }

    /// Takes the bytes of a key; `None` when they aren't [`KEY_LEN`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut key = Self::empty();
        (bytes.len() == KEY_LEN).then(|| key.0.copy_from_slice(bytes))?;
        Some(key)
    }

    /// Room for a key.
    fn empty() -> Self {
        Self(Box::new([0; KEY_LEN]).into())
    }

    /// The bytes of the key, to be wrapped for a recipient.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Encrypts `plaintext` under a new initialization vector, bound to `context`.
    ///
    /// # Errors
    /// `Io` when the system has no random numbers; `FileTooLarge` past 64 GiB.
    pub fn seal(&self, plaintext: &[u8], context: &[u8]) -> Result<Sealed> {
        let mut iv = [0; IV_LEN];
        fill_random(&mut iv)?;
        let mut data = plaintext.to_vec();
        let buffer = InOutBuf::from(&mut data[..]);
        let tag = self
            .cipher()
            .encrypt_inout_detached(&iv.into(), context, buffer)
            .map_err(|_| Error::new(ErrorKind::FileTooLarge, "the value is too long to encrypt"))?;
        Ok(Sealed { data, iv, tag: tag.into() })
    }

    /// Decrypts what was sealed with this key and this `context`; `None` when it wasn't.
    pub fn open(&self, sealed: &Sealed, context: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut plaintext = Zeroizing::new(sealed.data.clone());
        let buffer = InOutBuf::from(&mut plaintext[..]);
        self.cipher()
            .decrypt_inout_detached(&sealed.iv.into(), context, buffer, &sealed.tag.into())
            .ok()?;
        Some(plaintext)
    }

    fn cipher(&self) -> AesGcm<Aes256, U32> {
        AesGcm::new((&*self.0).into())
    }
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(***)")
    }
}

/// The SHA-512 of the values one after another, in upper-case hexadecimal digits.
pub fn digest<'a>(values: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha512::new();
    values.for_each(|value| hash.update(value));
    data_encoding::HEXUPPER.encode(&hash.finalize())
}

fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|error| {
        Error::new(ErrorKind::Io, "the system gives no random numbers").with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_and_context_only() {
        let key = DataKey::generate().unwrap();
        let sealed = key.seal(b"value", b"KEY:").unwrap();
        assert_eq!(key.open(&sealed, b"KEY:").unwrap()[..], b"value"[..]);
        assert!(key.open(&sealed, b"YEK:").is_none());
        assert!(DataKey::generate().unwrap().open(&sealed, b"KEY:").is_none());
    }

    #[test]
    fn a_flipped_bit_is_noticed_wherever_it_is() {
        let key = DataKey::generate().unwrap();
        let sealed = key.seal(b"v", b"").unwrap();
        for bit in 0..8 * IV_LEN {
            let mut bad = sealed.clone();
            bad.iv[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(&bad, b"").is_none());
        }
        for bit in 0..8 * TAG_LEN {
            let mut bad = sealed.clone();
            bad.tag[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(&bad, b"").is_none());
        }
    }

    #[test]
    fn two_seals_of_a_value_differ() {
        let key = DataKey::generate().unwrap();
        assert_ne!(key.seal(b"v", b"").unwrap(), key.seal(b"v", b"").unwrap());
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", DataKey::generate().unwrap()), "DataKey(***)");
    }
}
