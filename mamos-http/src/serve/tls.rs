//! The certificate of a server. It can be read again while the server runs, so that a renewed one needs no
//! restart.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use mamos_core::{Error, ErrorKind, Result};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A certificate and its key, from PEM files.
pub struct Tls {
    certificates: PathBuf,
    key: PathBuf,
    provider: Arc<CryptoProvider>,
    current: Arc<Current>,
    acceptor: TlsAcceptor,
}

/// The certificate that new connections get.
struct Current(RwLock<Arc<CertifiedKey>>);

impl Tls {
    /// Reads a chain of certificates, the server's own first, and its private key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`]: a file cannot be read, holds none, or the two do not fit together.
    pub fn from_files(certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self> {
        let (certificates, key) = (certificates.into(), key.into());
        // The provider is this server's own: that of the program around it is not touched.
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pair = read(&certificates, &key, &provider)?;
        let current = Arc::new(Current(RwLock::new(Arc::new(pair))));
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|error| wrong("TLS 1.3 is not to be had").with_source(error))?;
        let resolver = Arc::clone(&current) as Arc<dyn ResolvesServerCert>;
        let mut config = config.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        Ok(Self { certificates, key, provider, current, acceptor })
    }

    /// Reads the files again. Connections from now on get the new certificate; those that are open go on.
    ///
    /// # Errors
    ///
    /// As [`Tls::from_files`]; the certificate from before then stays.
    pub fn reload(&self) -> Result<()> {
        let pair = read(&self.certificates, &self.key, &self.provider)?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
        tracing::info!(target: "mamos::http", file = %self.certificates.display(), "the certificate was read again");
        Ok(())
    }

    pub(super) async fn accept<I>(&self, io: I) -> io::Result<TlsStream<I>>
    where
        I: AsyncRead + AsyncWrite + Unpin,
    {
        self.acceptor.accept(io).await
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("certificates", &self.certificates).finish_non_exhaustive()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn read(certificates: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey> {
    let of = |path: &Path, what: &str| {
        wrong(format!("{} holds no {what} in PEM that can be read", path.display()))
    };
    let chain: std::result::Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(certificates).and_then(Iterator::collect);
    let chain = chain.map_err(|error| of(certificates, "certificate").with_source(error))?;
    if chain.is_empty() {
        return Err(of(certificates, "certificate"));
    }
    let der = PrivateKeyDer::from_pem_file(key).map_err(|error| of(key, "private key").with_source(error))?;
    let signer = provider.key_provider.load_private_key(der);
    let signer = signer.map_err(|error| of(key, "private key of a known sort").with_source(error))?;
    let pair = CertifiedKey::new(chain, signer);
    pair.keys_match().map_err(|error| {
        let message = format!("{} is not the key of {}", key.display(), certificates.display());
        wrong(message).with_source(error)
    })?;
    Ok(pair)
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, "http.tls", message)
}
