//! Records of TLS 1.3 (RFC 8446, 5): sealed and opened where they lie.

use rustls::{ConnectionTrafficSecrets, Error};

use super::cipher::{Algorithm, Cipher, NONCE, TAG};

/// Most plaintext of one record, in bytes (RFC 8446, 5.1).
pub(crate) const MAX_PLAIN: usize = 16 << 10;
/// What stands before the ciphertext of a record.
pub(crate) const RECORD_HEADER: usize = 5;
/// What stands after the content: its type, and the tag. All three ciphers of TLS 1.3 that we know have tags of 16 bytes.
pub(crate) const RECORD_TAIL: usize = 1 + TAG;
/// What a record adds to its plaintext.
pub(crate) const RECORD_OVERHEAD: usize = RECORD_HEADER + RECORD_TAIL;

/// Most ciphertext of one record that a peer may send (RFC 8446, 5.2).
const MAX_CIPHER: usize = MAX_PLAIN + 256;
/// Records under one key, after which it is updated: AES-GCM is good for 2^24.5 full ones (RFC 8446, 5.5).
const REKEY_AFTER: u64 = 1 << 24;

/// Types of content (RFC 8446, 5.1).
pub(crate) mod content {
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const DATA: u8 = 23;
}

/// The key of one direction, and the number of its next record.
struct Key {
    cipher: Cipher,
    iv: [u8; NONCE],
    sequence: u64,
}

impl Key {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Algorithm::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Algorithm::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Algorithm::Chacha20Poly1305, key, iv),
            _ => return Err(Error::General("a cipher suite that the record layer does not know".into())),
        };
        let iv = iv.as_ref().try_into().map_err(|_| Error::General("an IV of the wrong length".into()))?;
        Ok(Self { cipher: Cipher::new(algorithm, key.as_ref())?, iv, sequence })
    }

    /// The nonce of the next record (RFC 8446, 5.3). Each number is used once: it only grows, and never wraps.
    fn nonce(&mut self) -> Result<[u8; NONCE], Error> {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence = self.sequence.checked_add(1).ok_or(Error::EncryptError)?;
        Ok(nonce)
    }
}

/// Seals what this side sends.
pub(crate) struct Sealer(Key);

impl Sealer {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        Key::new(secrets).map(Self)
    }

    /// Whether the key has sealed about as many records as it may.
    pub(crate) fn worn(&self) -> bool {
        self.0.sequence >= REKEY_AFTER
    }

    /// Seals `record`: room for the header, the content, room for the tail. Content is at most [`MAX_PLAIN`] long.
    pub(crate) fn seal(&mut self, record: &mut [u8], kind: u8) -> Result<(), Error> {
        let Some(content) = record.len().checked_sub(RECORD_OVERHEAD).filter(|content| *content <= MAX_PLAIN)
        else {
            return Err(Error::EncryptError);
        };
        let (header, body) = record.split_at_mut(RECORD_HEADER);
        let [a, b] = ((content + RECORD_TAIL) as u16).to_be_bytes();
        // An opaque type and a version of the past, which middleboxes know (RFC 8446, 5.2).
        header.copy_from_slice(&[content::DATA, 3, 3, a, b]);
        let (inner, tag) = body.split_at_mut(content + 1);
        inner[content] = kind;
        let nonce = self.0.nonce()?;
        tag.copy_from_slice(&self.0.cipher.seal(nonce, header, inner)?);
        Ok(())
    }
}

/// Opens what the peer sent.
pub(crate) struct Opener(Key);

impl Opener {
    pub(crate) fn new(secrets: (u64, ConnectionTrafficSecrets)) -> Result<Self, Error> {
        Key::new(secrets).map(Self)
    }

    /// Length of the record at the start of `bytes`, header included; `None` while even that is not known.
    pub(crate) fn length(bytes: &[u8]) -> Result<Option<usize>, Error> {
        let &[kind, _, _, a, b, ..] = bytes else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([a, b]));
        if kind != content::DATA {
            return Err(Error::InappropriateMessage {
                expect_types: vec![rustls::ContentType::ApplicationData],
                got_type: kind.into(),
            });
        }
        if length > MAX_CIPHER {
            return Err(Error::PeerSentOversizedRecord);
        }
        Ok(Some(RECORD_HEADER + length))
    }

    /// Opens one whole record: its content type and content.
    pub(crate) fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(u8, &'a [u8]), Error> {
        if record.len() < RECORD_HEADER {
            return Err(Error::DecryptError);
        }
        let (header, body) = record.split_at_mut(RECORD_HEADER);
        let nonce = self.0.nonce().map_err(|_| Error::DecryptError)?;
        let inner = self.0.cipher.open(nonce, header, body)?;
        // The type is the last byte that is not padding.
        let end = inner
            .iter()
            .rposition(|byte| *byte != 0)
            .ok_or(rustls::PeerMisbehaved::IllegalTlsInnerPlaintext)?;
        if end > MAX_PLAIN {
            return Err(Error::PeerSentOversizedRecord);
        }
        Ok((inner[end], &inner[..end]))
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("sequence", &self.0.sequence).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener").field("sequence", &self.0.sequence).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secrets() -> (u64, ConnectionTrafficSecrets) {
        let key = rustls::crypto::cipher::AeadKey::from([7; 32]);
        (5, ConnectionTrafficSecrets::Aes256Gcm { key, iv: [9; 12].into() })
    }

    fn sealed(sealer: &mut Sealer, plain: &[u8], kind: u8) -> Vec<u8> {
        let mut record = vec![0; plain.len() + RECORD_OVERHEAD];
        record[RECORD_HEADER..RECORD_HEADER + plain.len()].copy_from_slice(plain);
        sealer.seal(&mut record, kind).unwrap();
        record
    }

    proptest! {
        #[test]
        fn what_is_sealed_is_opened_in_order(plains in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6)) {
            let (mut sealer, mut opener) = (Sealer::new(secrets()).unwrap(), Opener::new(secrets()).unwrap());
            for plain in plains {
                let mut record = sealed(&mut sealer, &plain, content::DATA);
                prop_assert_eq!(Opener::length(&record).unwrap(), Some(record.len()));
                prop_assert_eq!(opener.open(&mut record).unwrap(), (content::DATA, &plain[..]));
            }
        }

        #[test]
        fn a_changed_bit_is_found(plain in proptest::collection::vec(any::<u8>(), 0..100), at in any::<proptest::sample::Index>(), bit in 0..8u32) {
            let mut record = sealed(&mut Sealer::new(secrets()).unwrap(), &plain, content::DATA);
            let at = at.index(record.len());
            record[at] ^= 1u8 << bit;
            prop_assert!(Opener::new(secrets()).unwrap().open(&mut record).is_err());
        }

        #[test]
        fn garbage_is_no_record(mut bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Opener::length(&bytes);
            prop_assert!(Opener::new(secrets()).unwrap().open(&mut bytes).is_err());
        }
    }

    #[test]
    fn a_record_that_comes_again_is_not_opened() {
        let record = sealed(&mut Sealer::new(secrets()).unwrap(), b"once", content::DATA);
        let mut opener = Opener::new(secrets()).unwrap();
        opener.open(&mut record.clone()).unwrap();
        assert_eq!(opener.open(&mut record.clone()), Err(Error::DecryptError));
    }

    #[test]
    fn too_much_for_a_record_is_not_sealed() {
        let mut record = vec![0; MAX_PLAIN + 1 + RECORD_OVERHEAD];
        assert!(Sealer::new(secrets()).unwrap().seal(&mut record, content::DATA).is_err());
    }
}
