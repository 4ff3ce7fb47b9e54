//! Whom an agent believes to be the orchestrator.

use std::sync::Arc;

use mamos_core::{Error, ErrorKind, Result};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::fingerprint::Fingerprint;

/// The settings of TLS: version 1.3, and trust in the given authorities, the pinned certificate, or, where
/// both are given, only in what satisfies both. Where neither is, in the system's authorities.
pub(super) fn client_config(ca: Option<&[u8]>, pin: Option<Fingerprint>) -> Result<ClientConfig> {
    // Passed on by hand: which provider a process uses by default is not ours to say.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let authorities = match (ca, pin) {
        (Some(pem), _) => Some(read_authorities(pem)?),
        (None, None) => Some(system_authorities()?),
        (None, Some(_)) => None,
    };
    let chain = authorities.map(|roots| chain_verifier(roots, &provider)).transpose()?;
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| wrong("TLS 1.3 is not to be had").with_source(error))?;
    let mut config = match (chain, pin) {
        (chain, Some(pin)) => {
            let verifier = Arc::new(PinVerifier { pin, chain, provider });
            config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        }
        (Some(chain), None) => config.with_webpki_verifier(chain).with_no_client_auth(),
        (None, None) => return Err(wrong("there is nobody to trust")),
    };
    // Of a proxy that also speaks HTTP/2, this asks for the version that has upgrades.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read_authorities(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| {
            wrong("the certificates of the CA are not PEM").with_source(error.to_string())
        })?;
        roots
            .add(certificate)
            .map_err(|error| wrong("a certificate of the CA is broken").with_source(error))?;
    }
    if roots.is_empty() {
        return Err(wrong("the file of the CA has no certificate; it should have PEM blocks CERTIFICATE"));
    }
    Ok(roots)
}

/// The system's authorities, not a list of our own: its administrator adds those of the house and removes
/// those that lost trust.
fn system_authorities() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(target: "mamos::websocket", added, ignored, errors = ?found.errors, "read the system's authorities");
    if roots.is_empty() {
        let message =
            "the system trusts no authority; install its CA certificates, or give a CA or a fingerprint";
        return Err(wrong(message));
    }
    Ok(roots)
}

fn chain_verifier(roots: RootCertStore, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| wrong("the certificates of the CA cannot be used").with_source(error))
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Config, "websocket.build", message)
}

/// Takes one certificate only, and that one from whoever has its key.
#[derive(Debug)]
struct PinVerifier {
    pin: Fingerprint,
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = Fingerprint::of(end_entity);
        if shown != self.pin {
            let message = format!("the server shows {shown}, and {} is pinned", self.pin);
            return Err(rustls::Error::General(message));
        }
        match &self.chain {
            Some(chain) => {
                chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Ok(ServerCertVerified::assertion()),
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
