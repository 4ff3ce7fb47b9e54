//! Whom the bus believes to be the broker.

use std::sync::Arc;

use mamos_core::Result;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::failure::config;

/// TLS 1.2 or 1.3, and trust in the given authorities or else the system's.
pub(super) fn client_config(ca: Option<&[u8]>) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate
                    .map_err(|error| config(format!("the certificates of the CA are not PEM: {error}")))?;
                let added = roots.add(certificate);
                added.map_err(|error| config("a certificate of the CA is broken").with_source(error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        let message = "there is no authority to trust; give the CA's certificate as PEM in the settings, or \
                       install the system's CA certificates";
        return Err(config(message));
    }
    // Passed on by hand: lapin's own way would make its choice the default of the whole process.
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| config("TLS is not to be had").with_source(error))
        .map(|builder| builder.with_root_certificates(roots).with_no_client_auth())
}
