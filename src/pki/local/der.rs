//! Writes the leaf certificates of RFC 5280 in DER.
//!
//! Written here because the issuer's name must be carried over byte for byte: verifiers compare the bytes, and a name
//! that was parsed and written again (as `rcgen` does) loses repeated attributes and multi-valued parts.

use std::time::SystemTime;

use rustls::sign::Signer;
use x509_parser::time::ASN1Time;

use crate::CaError;
use crate::clock::seconds;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const TRUE: [u8; 3] = [0x01, 0x01, 0xff];

/// 2.5.29.N, the arc of the standard extensions.
const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 15];
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 17];
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 19];
const AUTHORITY_KEY_ID: [u8; 3] = [0x55, 0x1d, 35];
const EXTENDED_KEY_USAGE: [u8; 3] = [0x55, 0x1d, 37];
/// 1.3.6.1.5.5.7.3.1
const SERVER_AUTH: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 1];
/// 1.3.6.1.5.5.7.3.2
const CLIENT_AUTH: [u8; 8] = [0x2b, 6, 1, 5, 5, 7, 3, 2];

/// What differs from leaf to leaf.
pub(super) struct Leaf<'a> {
    /// Positive, at most 20 bytes, first bit clear (RFC 5280 §4.1.2.2).
    pub(super) serial: &'a [u8],
    /// The issuer's subject in DER.
    pub(super) issuer: &'a [u8],
    /// The issuer's subject key identifier, where it has one.
    pub(super) issuer_key_id: Option<&'a [u8]>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// SubjectPublicKeyInfo in DER.
    pub(super) public_key: &'a [u8],
    /// The name: ASCII.
    pub(super) uri: &'a str,
    /// Host names besides, ASCII; none on what workloads have.
    pub(super) hosts: &'a [&'a str],
}

impl Leaf<'_> {
    /// The signed certificate. `algorithm` is the content of the AlgorithmIdentifier that goes with the signer.
    pub(super) fn sign(&self, signer: &dyn Signer, algorithm: &[u8]) -> Result<Vec<u8>, CaError> {
        let algorithm = tlv(SEQUENCE, &[algorithm]);
        let to_be_signed = self.to_be_signed(&algorithm)?;
        let signature = signer.sign(&to_be_signed).map_err(|_| CaError::Crypto("sign a certificate"))?;
        Ok(tlv(SEQUENCE, &[&to_be_signed, &algorithm, &tlv(BIT_STRING, &[&[0], &signature])]))
    }

    fn to_be_signed(&self, algorithm: &[u8]) -> Result<Vec<u8>, CaError> {
        let version_3 = tlv(0xa0, &[&tlv(INTEGER, &[&[2]])]);
        let validity = tlv(SEQUENCE, &[&time(self.not_before)?, &time(self.not_after)?]);
        let extensions = tlv(0xa3, &[&tlv(SEQUENCE, &[&self.extensions()])]);
        Ok(tlv(
            SEQUENCE,
            &[
                &version_3,
                &tlv(INTEGER, &[self.serial]),
                algorithm,
                self.issuer,
                &validity,
                // No subject: the URI name says it all, and is critical for that (RFC 5280 §4.2.1.6).
                &tlv(SEQUENCE, &[]),
                self.public_key,
                &extensions,
            ],
        ))
    }

    fn extensions(&self) -> Vec<u8> {
        // digitalSignature: the first bit of one byte, seven unused.
        let usage = tlv(BIT_STRING, &[&[7, 0x80]]);
        let purposes = tlv(SEQUENCE, &[&tlv(OID, &[&SERVER_AUTH]), &tlv(OID, &[&CLIENT_AUTH])]);
        // uniformResourceIdentifier [6], dNSName [2] (RFC 5280 §4.2.1.6).
        let mut names = tlv(0x86, &[self.uri.as_bytes()]);
        self.hosts.iter().for_each(|host| names.extend(tlv(0x82, &[host.as_bytes()])));
        let name = tlv(SEQUENCE, &[&names]);
        let mut all = extension(&KEY_USAGE, true, &usage);
        all.extend(extension(&EXTENDED_KEY_USAGE, false, &purposes));
        all.extend(extension(&BASIC_CONSTRAINTS, true, &tlv(SEQUENCE, &[])));
        if let Some(id) = self.issuer_key_id {
            all.extend(extension(&AUTHORITY_KEY_ID, false, &tlv(SEQUENCE, &[&tlv(0x80, &[id])])));
        }
        all.extend(extension(&SUBJECT_ALT_NAME, true, &name));
        all
    }
}

fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &TRUE } else { &[] };
    tlv(SEQUENCE, &[&tlv(OID, &[oid]), critical, &tlv(OCTET_STRING, &[value])])
}

/// UTCTime until 2049, then GeneralizedTime (RFC 5280 §4.1.2.5).
fn time(at: SystemTime) -> Result<Vec<u8>, CaError> {
    let unwritable = || CaError::Unusable(format!("its validity would reach {} s after 1970", seconds(at)));
    let t = ASN1Time::from_timestamp(seconds(at)).map_err(|_| unwritable())?.to_datetime();
    let rest =
        format!("{:02}{:02}{:02}{:02}{:02}Z", u8::from(t.month()), t.day(), t.hour(), t.minute(), t.second());
    match t.year() {
        year @ 1950..=2049 => Ok(tlv(UTC_TIME, &[format!("{:02}{rest}", year % 100).as_bytes()])),
        year @ 2050..=9999 => Ok(tlv(GENERALIZED_TIME, &[format!("{year:04}{rest}").as_bytes()])),
        _ => Err(unwritable()),
    }
}

/// Tag, length in the shortest form, value (X.690 §8.1, §10.1).
pub(super) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = Vec::with_capacity(length + 6);
    out.push(tag);
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let skip = bytes.iter().take_while(|b| **b == 0).count();
            out.push(0x80 | (bytes.len() - skip) as u8);
            out.extend_from_slice(&bytes[skip..]);
        }
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        assert_eq!(tlv(4, &[&[0; 127]])[..2], [4, 127]);
        assert_eq!(tlv(4, &[&[0; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[&[0; 300]])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn the_form_of_a_time_changes_in_2050() {
        let at = |s| time(crate::clock::from_seconds(s)).unwrap();
        assert_eq!(at(2_524_607_999), tlv(UTC_TIME, &[b"491231235959Z"]));
        assert_eq!(at(2_524_608_000), tlv(GENERALIZED_TIME, &[b"20500101000000Z"]));
        assert_eq!(at(0), tlv(UTC_TIME, &[b"700101000000Z"]));
    }
}
