//! The cipher of a record (an AEAD, RFC 5116), by the library that is faster on this processor.
//!
//! aws-lc-rs is what all else here is made with. Where a processor has AES for wide registers (VAES) but not AVX-512 (AMD Zen 3,
//! Intel's client processors), its AES-GCM does without, and takes twice of ring's time: 4.1 and 2.2 µs for a full record on an
//! EPYC 7003, where that is a quarter of all that a byte of bulk costs. With AVX-512 it is wide as well, and without VAES
//! neither library is.

use aws_lc_rs::aead as aws;
#[cfg(target_arch = "x86_64")]
use ring::aead as ring;
use rustls::Error;

/// Length of a nonce. It is the same for all ciphers of TLS 1.3 that we know, as is that of a tag.
pub(super) const NONCE: usize = 12;
/// Length of a tag.
pub(super) const TAG: usize = 16;

/// The ciphers of TLS 1.3 (RFC 8446, B.4) that peers may choose.
#[derive(Clone, Copy, Debug)]
pub(super) enum Algorithm {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

/// A key, and with what it is used.
pub(super) enum Cipher {
    AwsLc(aws::LessSafeKey),
    #[cfg(target_arch = "x86_64")]
    Ring(Box<ring::LessSafeKey>),
}

impl Cipher {
    pub(super) fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, Error> {
        #[cfg(target_arch = "x86_64")]
        if ring_is_faster() {
            return Self::with_ring(algorithm, key);
        }
        Self::with_aws_lc(algorithm, key)
    }

    fn with_aws_lc(algorithm: Algorithm, key: &[u8]) -> Result<Self, Error> {
        let algorithm = match algorithm {
            Algorithm::Aes128Gcm => &aws::AES_128_GCM,
            Algorithm::Aes256Gcm => &aws::AES_256_GCM,
            Algorithm::Chacha20Poly1305 => &aws::CHACHA20_POLY1305,
        };
        let key = aws::UnboundKey::new(algorithm, key).map_err(|_| wrong_length())?;
        Ok(Self::AwsLc(aws::LessSafeKey::new(key)))
    }

    #[cfg(target_arch = "x86_64")]
    fn with_ring(algorithm: Algorithm, key: &[u8]) -> Result<Self, Error> {
        let algorithm = match algorithm {
            Algorithm::Aes128Gcm => &ring::AES_128_GCM,
            Algorithm::Aes256Gcm => &ring::AES_256_GCM,
            Algorithm::Chacha20Poly1305 => &ring::CHACHA20_POLY1305,
        };
        let key = ring::UnboundKey::new(algorithm, key).map_err(|_| wrong_length())?;
        Ok(Self::Ring(Box::new(ring::LessSafeKey::new(key))))
    }

    /// Seals `plain` where it lies, and returns its tag. The nonce must be new under this key.
    pub(super) fn seal(&self, nonce: [u8; NONCE], aad: &[u8], plain: &mut [u8]) -> Result<[u8; TAG], Error> {
        match self {
            Self::AwsLc(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, aws::Aad::from(aad), plain);
                tag.ok().and_then(|tag| tag.as_ref().try_into().ok()).ok_or(Error::EncryptError)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                let tag = key.seal_in_place_separate_tag(nonce, ring::Aad::from(aad), plain);
                tag.ok().and_then(|tag| tag.as_ref().try_into().ok()).ok_or(Error::EncryptError)
            }
        }
    }

    /// Opens what was sealed, its tag behind it, where it lies: the plaintext.
    pub(super) fn open<'a>(
        &self,
        nonce: [u8; NONCE],
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Error> {
        match self {
            Self::AwsLc(key) => {
                let nonce = aws::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, aws::Aad::from(aad), sealed).map_err(|_| Error::DecryptError)
            }
            #[cfg(target_arch = "x86_64")]
            Self::Ring(key) => {
                let nonce = ring::Nonce::assume_unique_for_key(nonce);
                key.open_in_place(nonce, ring::Aad::from(aad), sealed).map_err(|_| Error::DecryptError)
            }
        }
    }
}

/// Whether ring's AES-GCM is wide on this processor, and that of aws-lc-rs is not: the conditions of the two libraries for theirs.
/// The answer is remembered by the standard library.
#[cfg(target_arch = "x86_64")]
fn ring_is_faster() -> bool {
    let wide = is_x86_feature_detected!("vaes")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("avx2");
    let wider = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512ifma")
        && is_x86_feature_detected!("avx512vl");
    wide && !wider
}

fn wrong_length() -> Error {
    Error::General("a key of the wrong length".into())
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALGORITHMS: [(Algorithm, usize); 3] =
        [(Algorithm::Aes128Gcm, 16), (Algorithm::Aes256Gcm, 32), (Algorithm::Chacha20Poly1305, 32)];

    proptest! {
        #[test]
        fn each_library_opens_what_the_other_sealed(
            plain in proptest::collection::vec(any::<u8>(), 0..17_000),
            key: [u8; 32],
            nonce: [u8; NONCE],
            aad: [u8; 5],
            flipped in any::<proptest::sample::Index>(),
        ) {
            for (algorithm, length) in ALGORITHMS {
                let key = &key[..length];
                let both = [Cipher::with_aws_lc(algorithm, key).unwrap(), Cipher::with_ring(algorithm, key).unwrap()];
                for (sealer, opener) in [(&both[0], &both[1]), (&both[1], &both[0])] {
                    let mut sealed = plain.clone();
                    let tag = sealer.seal(nonce, &aad, &mut sealed).unwrap();
                    sealed.extend(tag);
                    let mut opened = sealed.clone();
                    prop_assert_eq!(opener.open(nonce, &aad, &mut opened).unwrap(), &plain[..]);
                    prop_assert!(opener.open(nonce, b"other", &mut sealed.clone()).is_err() || &aad == b"other");
                    let at = flipped.index(sealed.len());
                    sealed[at] ^= 1;
                    prop_assert!(opener.open(nonce, &aad, &mut sealed).is_err());
                }
            }
        }
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        for (algorithm, length) in ALGORITHMS {
            for with in [Cipher::with_aws_lc, Cipher::with_ring] {
                assert!(with(algorithm, &[0; 48][..length]).is_ok());
                assert!(with(algorithm, &[0; 48][..length - 1]).is_err());
                assert!(with(algorithm, &[0; 48][..length + 1]).is_err());
            }
        }
    }
}
