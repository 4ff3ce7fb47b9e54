//! Whom the command line believes to be the orchestrator.

use std::fmt;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest, Sha256};

use super::trouble::Trouble;

/// TLS that trusts the given authorities, the pinned certificate, or, where both are given, only what
/// satisfies both. Where neither is, the authorities of the system.
pub(super) fn client_config(ca: Option<&[u8]>, pin: Option<&str>) -> Result<ClientConfig, Trouble> {
    // Passed on by hand: a program may have several, and which one is the default is not ours to say.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let pin = pin.map(Fingerprint::parse).transpose()?;
    let roots = match (ca, pin) {
        (Some(pem), _) => Some(given(pem)?),
        (None, None) => Some(of_the_system()),
        (None, Some(_)) => None,
    };
    let chain = match roots {
        Some(roots) => Some(
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(|error| {
                    Trouble::usage(format!("no authority can be trusted: {error}"))
                        .next("give one with --ca, or --pin the certificate")
                })?,
        ),
        None => None,
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Trouble::usage(format!("TLS is not to be had: {error}")))?;
    let verifier = Arc::new(Verifier { pin, chain, provider });
    Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn given(pem: &[u8]) -> Result<RootCertStore, Trouble> {
    let wrong = |why: String| Trouble::usage(format!("the file of --ca cannot be used: {why}"));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(wrong("it has no PEM block CERTIFICATE".to_owned()));
    }
    Ok(roots)
}

fn of_the_system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// SHA-256 of a certificate in DER.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }

    /// `sha256:` and 64 hexadecimal digits, with colons between them or not.
    fn parse(text: &str) -> Result<Self, Trouble> {
        let wrong = || {
            Trouble::usage(format!("{text:?} is no fingerprint; write sha256: and 64 hexadecimal digits"))
                .next("`openssl x509 -in cert.pem -noout -fingerprint -sha256` prints it")
        };
        let digits: String =
            text.strip_prefix("sha256:").ok_or_else(wrong)?.chars().filter(|c| *c != ':').collect();
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).map_err(|_| wrong())?;
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

/// Asks for the pinned certificate, for a chain to an authority, or for both.
#[derive(Debug)]
struct Verifier {
    pin: Option<Fingerprint>,
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(end_entity);
        match (self.pin, &self.chain) {
            (Some(pin), _) if pin != shown => {
                Err(rustls::Error::General(format!("the server shows {shown}, and {pin} is pinned")))
            }
            (_, Some(chain)) => {
                chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            (Some(_), None) => Ok(ServerCertVerified::assertion()),
            (None, None) => Err(rustls::Error::General("there is nobody to trust".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
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
        let pairs: Vec<_> = ABC.as_bytes()[7..].chunks(2).map(|pair| str::from_utf8(pair).unwrap()).collect();
        let written = format!("sha256:{}", pairs.join(":").to_uppercase());
        assert_eq!(Fingerprint::parse(&written).unwrap(), Fingerprint::of(b"abc"));
    }

    #[test]
    fn what_is_no_fingerprint_is_wrong_usage() {
        for wrong in
            ["", "sha256:", "sha1:ba78", &ABC[7..], &ABC[..ABC.len() - 1], &ABC.replace("ba78", "+a78")]
        {
            assert!(Fingerprint::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_wrong_usage() {
        assert!(client_config(Some(b"no certificate"), None).is_err());
        assert!(client_config(None, Some(ABC)).is_ok());
    }
}
