//! Secrets sealed with a key that stands elsewhere: whoever has only one of both has nothing.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

use crate::CaError;

/// A key of AES-256-GCM. Each sealing draws a nonce of its own, of which 2^32 are safe; a node seals some thousand times.
pub struct SealingKey {
    bytes: [u8; SealingKey::LENGTH],
    key: RandomizedNonceKey,
}

impl SealingKey {
    /// Bytes of a key.
    pub const LENGTH: usize = 32;

    /// A new one.
    ///
    /// # Errors
    /// The kernel gives no randomness.
    pub fn fresh() -> Result<Self, CaError> {
        let mut bytes = [0; Self::LENGTH];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| CaError::Crypto("make a sealing key"))?;
        Self::of(&bytes).ok_or(CaError::Crypto("use a sealing key"))
    }

    /// The key of these bytes; `None` where they are none.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let bytes = <[u8; Self::LENGTH]>::try_from(bytes).ok()?;
        Some(Self { bytes, key: RandomizedNonceKey::new(&AES_256_GCM, &bytes).ok()? })
    }

    /// Its bytes, to be put where only we can read.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Seals a text, bound to `about`, which has to be known to open it.
    ///
    /// # Errors
    /// The text is larger than the cipher takes (64 GiB).
    pub fn seal(&self, about: &[u8], mut text: Vec<u8>) -> Result<Vec<u8>, CaError> {
        let sealed = self.key.seal_in_place_append_tag(Aad::from(about), &mut text);
        let nonce = sealed.map_err(|_| CaError::Crypto("seal"))?;
        let nonce: &[u8; NONCE_LEN] = nonce.as_ref();
        text.extend_from_slice(nonce);
        Ok(text)
    }

    /// The text of what [`SealingKey::seal`] gave; `None` where it was sealed with another key, about something else, or changed.
    pub fn open(&self, about: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let nonce = sealed.split_off(sealed.len().checked_sub(NONCE_LEN)?);
        let nonce = Nonce::try_assume_unique_for_key(&nonce).ok()?;
        let length = self.key.open_in_place(nonce, Aad::from(about), &mut sealed).ok()?.len();
        sealed.truncate(length);
        Some(sealed)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_opens_what_was_sealed_and_only_unchanged() {
        let key = SealingKey::fresh().unwrap();
        let again = SealingKey::of(key.bytes()).unwrap();
        let sealed = key.seal(b"node a", b"secret".to_vec()).unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_ne!(key.seal(b"node a", b"secret".to_vec()).unwrap(), sealed);
        assert_eq!(again.open(b"node a", sealed.clone()).unwrap(), b"secret");
        assert!(again.open(b"node b", sealed.clone()).is_none());
        assert!(SealingKey::fresh().unwrap().open(b"node a", sealed.clone()).is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(again.open(b"node a", changed).is_none(), "byte {at}");
            assert!(again.open(b"node a", sealed[..at].to_vec()).is_none(), "{at} bytes");
        }
        assert!(SealingKey::of(b"short").is_none());
        assert_eq!(format!("{key:?}"), "SealingKey");
    }
}
