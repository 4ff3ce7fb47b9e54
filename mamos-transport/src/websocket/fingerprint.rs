//! The fingerprint of a certificate.

use std::fmt;

use mamos_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

/// SHA-256 of a certificate in DER. Written as `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a certificate in DER.
    pub(super) fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// Reads one. Between the digits may be colons, as `openssl x509 -fingerprint` writes them.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = || {
            let message = format!(
                "{text:?} is no fingerprint; write sha256: and the 64 hexadecimal digits of the certificate's"
            );
            Error::new(ErrorKind::Config, "websocket.build", message)
        };
        let digits = text.strip_prefix("sha256:").ok_or_else(invalid)?.chars().filter(|c| *c != ':');
        let digits: Option<Vec<u32>> = digits.map(|c| c.to_digit(16)).collect();
        let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(invalid)?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            // Two hexadecimal digits fit in a byte.
            *byte = (pair[0] << 4 | pair[1]) as u8;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From FIPS 180-2, appendix B.1: the SHA-256 of "abc".
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_fingerprint_is_the_sha256_in_hexadecimal() {
        assert_eq!(Fingerprint::of(b"abc").to_string(), ABC);
        assert_eq!(Fingerprint::parse(ABC).unwrap(), Fingerprint::of(b"abc"));
    }

    #[test]
    fn colons_and_capitals_are_read_as_well() {
        let pairs: Vec<_> = ABC.as_bytes()[7..].chunks(2).map(|pair| str::from_utf8(pair).unwrap()).collect();
        let written = format!("sha256:{}", pairs.join(":").to_uppercase());
        assert_eq!(Fingerprint::parse(&written).unwrap(), Fingerprint::of(b"abc"));
    }

    #[test]
    fn what_is_no_fingerprint_is_a_wrong_setting() {
        let (short, long) = (&ABC[..ABC.len() - 1], format!("{ABC}0"));
        let odd = ABC.replace("ba78", "+a78");
        for wrong in ["", "sha256:", "sha1:ba78", &ABC[7..], short, &long, &odd, "sha256:ä"] {
            assert_eq!(Fingerprint::parse(wrong).unwrap_err().kind(), ErrorKind::Config, "{wrong}");
        }
    }
}
