//! Compact JWS (RFC 7515) with EdDSA and nothing else.
//!
//! Not a JWT library on purpose: the well-kept one takes its cryptography from a process-wide default, which
//! belongs to the program that embeds this crate and panics when two are compiled in. The tests compare
//! with it.

use std::marker::PhantomData;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::TokenFault;
use crate::auth::keys::{KeyPair, PublicKey, Signature};
use crate::auth::{MAX_SECRET_BYTES, Secret};
use crate::{Error, ErrorKind, Result};

/// The only header that is taken: a field that is not known here may not be ignored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

const ALGORITHM: &str = "EdDSA";
const TYPE: &str = "JWT";

/// Signs claims.
pub(super) fn sign<C: Serialize>(key_id: &str, claims: &C, pair: &KeyPair) -> Result<Secret> {
    let failed = |error: serde_json::Error| {
        Error::new(ErrorKind::Invalid, "token.issue", "the claims cannot be written down").with_source(error)
    };
    let header = Header { alg: ALGORITHM.to_owned(), typ: TYPE.to_owned(), kid: key_id.to_owned() };
    let header = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&header).map_err(failed)?);
    let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(claims).map_err(failed)?);
    let signed = format!("{header}.{claims}");
    let signature = pair.sign(signed.as_bytes());
    Ok(Secret::new(format!("{signed}.{signature}")))
}

/// A token whose signature was not checked yet: only the id of its key can be seen.
pub(super) struct Unchecked<'a, C> {
    signed: &'a str,
    claims: &'a str,
    signature: Signature,
    key_id: String,
    kind: PhantomData<C>,
}

impl<'a, C: DeserializeOwned> Unchecked<'a, C> {
    pub(super) fn parse(token: &'a Secret) -> Result<Self, TokenFault> {
        let text = token.expose();
        if text.len() > MAX_SECRET_BYTES {
            return Err(TokenFault::Malformed);
        }
        let (signed, signature) = text.rsplit_once('.').ok_or(TokenFault::Malformed)?;
        let (header, claims) = signed.split_once('.').ok_or(TokenFault::Malformed)?;
        let header: Header = decode(header)?;
        if header.alg != ALGORITHM || header.typ != TYPE {
            return Err(TokenFault::Malformed);
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| TokenFault::Malformed)?;
        let signature =
            signature.try_into().map(Signature::from_bytes).map_err(|_| TokenFault::BadSignature)?;
        Ok(Self { signed, claims, signature, key_id: header.kid, kind: PhantomData })
    }

    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The claims, if that key signed them.
    pub(super) fn check(self, key: &PublicKey) -> Result<C, TokenFault> {
        if !key.verifies(self.signed.as_bytes(), &self.signature) {
            return Err(TokenFault::BadSignature);
        }
        decode(self.claims)
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, TokenFault> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenFault::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenFault::Malformed)
}
