//! The certificate must be signed by whom one trusts, or be the pinned one.

use std::fs;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::stub::{Ended, ctl};

const ANSWER: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";

/// A server with a certificate of its own; gives its address, the certificate as PEM, and its fingerprint.
async fn server() -> (String, String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let fingerprint: String =
        Sha256::digest(made.cert.der()).iter().map(|byte| format!("{byte:02x}")).collect();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A caller who does not trust the certificate ends the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                stream.write_all(ANSWER.as_bytes()).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        }
    });
    (url, made.cert.pem(), format!("sha256:{fingerprint}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_good_if_it_is_pinned_or_its_authority_is_given() {
    let home = tempfile::tempdir().unwrap();
    let (url, pem, pin) = server().await;
    let (_, other_pem, other_pin) = server().await;
    let file = |name: &str, pem: &str| {
        let path = home.path().join(name);
        fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (ca, other_ca) = (file("ca.pem", &pem), file("other.pem", &other_pem));
    let ask = async |trust: &[&str]| -> Ended {
        let mut arguments = vec!["--server", &url, "--json", "--timeout", "5s"];
        arguments.extend(trust);
        arguments.push("whoami");
        ctl(home.path(), &arguments, &[("MAMOS_TOKEN", "mamos_key_1")], "").await
    };
    for good in [&["--pin", &pin][..], &["--ca", &ca], &["--ca", &ca, "--pin", &pin]] {
        let ended = ask(good).await;
        assert_eq!((ended.code, ended.out.as_str()), (0, "{}\n"), "{good:?}: {}", ended.err);
    }
    for bad in [&["--pin", &other_pin][..], &["--ca", &other_ca], &["--ca", &ca, "--pin", &other_pin]] {
        let ended = ask(bad).await;
        assert_eq!(ended.code, 6, "{bad:?}: {}", ended.err);
    }
    let told = ask(&["--pin", &other_pin]).await.err;
    assert!(told.contains(&format!("the server shows {pin}, and {other_pin} is pinned")), "{told}");
}
