//! Whom a bus believes to be the broker.

use std::sync::Arc;

use mamos_core::{Error, ErrorKind, Result};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// TLS 1.2 or 1.3, as brokers have it, with trust in these authorities (PEM), or in the system's.
pub(super) fn client_config(ca: Option<&[u8]>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| {
                    wrong("the CA's certificates are not PEM").with_source(error.to_string())
                })?;
                let added = roots.add(certificate);
                added.map_err(|error| wrong("a certificate of the CA is broken").with_source(error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(wrong(
            "there is no authority to trust; give the CA's certificate as PEM in the settings, or install the \
             system's CA certificates",
        ));
    }
    // Passed on by hand: which provider a process uses by default is not ours to say.
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("TLS is not to be had").with_source(error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Config, "bus.connect", message)
}
