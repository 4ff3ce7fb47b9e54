//! The key pair that an agent proves itself with: Ed25519 (RFC 8032).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{Error, ErrorKind, Result};

/// What an agent signs begins with this, so that the signature is good for nothing else.
const PURPOSE: &[u8] = b"mamos agent hello 1\0";
/// The same on a connection with a [`Binding`]. Another text, so that no orchestrator can get the one by
/// asking for the other.
const BOUND_PURPOSE: &[u8] = b"mamos agent bound 1\0";

macro_rules! key_bytes {
    ($(#[$docs:meta])* $name:ident, $length:literal) => {
        $(#[$docs])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name([u8; $length]);

        impl $name {
            /// Takes the bytes.
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// Reads base64url without padding.
            fn from_str(text: &str) -> Result<Self> {
                let bytes = URL_SAFE_NO_PAD.decode(text.as_bytes()).ok();
                bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| {
                    let message = concat!("expected ", $length, " bytes in base64url without padding");
                    Error::new(ErrorKind::Invalid, "key.read", message)
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(|error: Error| de::Error::custom(error.message()))
            }
        }
    };
}

key_bytes! {
    /// The public half of a [`KeyPair`]. In frames and documents: base64url without padding.
    PublicKey, 32
}
key_bytes! {
    /// What a [`KeyPair`] signed. In frames: base64url without padding.
    Signature, 64
}
key_bytes! {
    /// Bytes that are used once: an orchestrator sends them to an agent to sign. In frames: base64url
    /// without padding.
    Nonce, 32
}
key_bytes! {
    /// What the two ends of an encrypted connection know of it, and nobody between them can make the same
    /// on two connections. See [`Connection::binding`](crate::transport::Connection::binding). Never sent.
    Binding, 32
}

impl PublicKey {
    /// Was the message signed with the other half?
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0).verify(message, &signature.0).is_ok()
    }

    /// The thumbprint of RFC 7638, with which a token names the key that it is bound to.
    pub fn thumbprint(&self) -> String {
        let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{self}"}}"#);
        URL_SAFE_NO_PAD.encode(Sha256::digest(jwk.as_bytes()))
    }
}

/// An Ed25519 key pair. The private half never prints, and is wiped when dropped.
pub struct KeyPair {
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
}

impl KeyPair {
    /// Makes a key pair from the random numbers of the operating system.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] if the system has none to give.
    pub fn generate() -> Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(seed.as_mut()).map_err(|_| {
            Error::new(ErrorKind::Unavailable, "key.generate", "the system gives no random numbers")
        })?;
        Self::from_seed(*seed)
    }

    /// The key pair that belongs to a seed, which is the private key of RFC 8032.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if the seed cannot be used.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self> {
        let seed = Zeroizing::new(seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref())
            .map_err(|_| Error::new(ErrorKind::Invalid, "key.read", "not a seed of an Ed25519 key"))?;
        Ok(Self { seed, pair })
    }

    /// The seed, to be kept. The name is long so that uses stand out in a review.
    pub fn expose_seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        PublicKey(bytes)
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        Signature(bytes)
    }

    /// Proves on the connection with that nonce that this key belongs to what is shown. For connections
    /// without a [`Binding`].
    pub fn prove(&self, nonce: &Nonce, shown: &str) -> Signature {
        self.sign(&proof_message(nonce, None, shown))
    }

    /// The same on a connection with that [`Binding`], if it has one.
    pub fn prove_bound(&self, nonce: &Nonce, binding: Option<&Binding>, shown: &str) -> Signature {
        self.sign(&proof_message(nonce, binding, shown))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair(public {})", self.public_key())
    }
}

/// What an agent signs: a fixed text, the nonce of the connection, the SHA-256 of the token that it shows,
/// and the binding of the connection if it has one.
pub fn proof_message(nonce: &Nonce, binding: Option<&Binding>, shown: &str) -> Vec<u8> {
    let mut message = Vec::with_capacity(PURPOSE.len() + 96);
    message.extend_from_slice(if binding.is_some() { BOUND_PURPOSE } else { PURPOSE });
    message.extend_from_slice(&nonce.0);
    message.extend_from_slice(&Sha256::digest(shown.as_bytes()));
    if let Some(binding) = binding {
        message.extend_from_slice(&binding.0);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        let bytes: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn the_second_example_of_rfc_8032_is_kept() {
        let pair =
            KeyPair::from_seed(bytes("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
                .unwrap();
        let public = bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
        assert_eq!(pair.public_key().as_bytes(), &public);
        let signature = bytes::<64>(
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
             085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        );
        assert_eq!(pair.sign(&[0x72]).as_bytes(), &signature);
        assert!(pair.public_key().verifies(&[0x72], &Signature(signature)));
        assert!(!pair.public_key().verifies(&[0x73], &Signature(signature)));
    }

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_8037() {
        // RFC 8037, appendix A.3.
        let x: PublicKey = serde_json::from_str(r#""11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo""#).unwrap();
        assert_eq!(x.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_proof_is_good_for_one_connection_and_one_token() {
        let pair = KeyPair::generate().unwrap();
        let (nonce, other) = (Nonce([1; 32]), Nonce([2; 32]));
        let proof = pair.prove(&nonce, "token");
        assert!(pair.public_key().verifies(&proof_message(&nonce, None, "token"), &proof));
        assert!(!pair.public_key().verifies(&proof_message(&other, None, "token"), &proof));
        assert!(!pair.public_key().verifies(&proof_message(&nonce, None, "token2"), &proof));
        let stranger = KeyPair::generate().unwrap().public_key();
        assert!(!stranger.verifies(&proof_message(&nonce, None, "token"), &proof));
    }

    #[test]
    fn a_bound_proof_is_good_for_one_binding_and_nowhere_without() {
        let pair = KeyPair::generate().unwrap();
        let (nonce, binding, other) = (Nonce([1; 32]), Binding([2; 32]), Binding([3; 32]));
        let bound = pair.prove_bound(&nonce, Some(&binding), "token");
        let verifies =
            |binding, proof| pair.public_key().verifies(&proof_message(&nonce, binding, "token"), proof);
        assert!(verifies(Some(&binding), &bound));
        assert!(!verifies(Some(&other), &bound) && !verifies(None, &bound));
        let free = pair.prove(&nonce, "token");
        assert_eq!(free, pair.prove_bound(&nonce, None, "token"));
        assert!(verifies(None, &free) && !verifies(Some(&binding), &free));
    }

    #[test]
    fn a_key_pair_does_not_print_its_private_half() {
        let pair = KeyPair::from_seed([7; 32]).unwrap();
        let private = URL_SAFE_NO_PAD.encode([7; 32]);
        assert!(!format!("{pair:?}").contains(&private) && !format!("{pair:?}").contains("7, 7"));
    }

    #[test]
    fn hostile_keys_are_refused() {
        for text in
            [r#""""#, r#""AAAA""#, r#""!!""#, "5", r#""11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=""#]
        {
            assert!(serde_json::from_str::<PublicKey>(text).is_err(), "{text}");
        }
    }
}
