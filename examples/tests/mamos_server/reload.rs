//! SIGHUP reads the whitelist and the certificate anew.

use rustix::process::Signal;
use sha2::{Digest, Sha256};

use super::place::{Place, dev};

/// Puts a new certificate in the place of the old one, and gives its fingerprint.
fn certify(place: &Place) -> String {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    place.write("server.pem", &made.cert.pem());
    place.write("server.key", &made.signing_key.serialize_pem());
    let digest: String = Sha256::digest(made.cert.der()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digest}")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whitelist_is_read_anew_and_a_bad_one_changes_nothing() {
    let place = Place::new();
    let (mut server, key, _) = dev(&place).await;
    place.write("whitelist.toml", "version = 9\n");
    server.program.send(Signal::HUP);
    server.program.until("the whitelist was not replaced").await;
    let listed = place.ctl(&server, &key, &["commands", "list"], "").await.out;
    assert!(listed.contains("hello"), "{listed}");

    let other =
        "version = 1\n[commands.other]\nprogram = \"/usr/bin/true\"\nallow = { roles = [\"operator\"] }\n";
    place.write("whitelist.toml", other);
    server.program.send(Signal::HUP);
    server.program.until("the whitelist was read anew").await;
    let listed = place.ctl(&server, &key, &["commands", "list"], "").await.out;
    assert!(listed.contains("other") && !listed.contains("hello"), "{listed}");
    let refused = place.ctl(&server, &key, &["run", "hello", "whom=ann"], "").await;
    assert!(refused.code == 2 && refused.err.contains("not on the whitelist"), "{}", refused.err);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_read_anew_and_a_bad_one_changes_nothing() {
    let place = Place::new();
    let old = certify(&place);
    let (certificate, key) = (place.path("server.pem"), place.path("server.key"));
    let mut server = place.start(&["--tls-certificate", &certificate, "--tls-key", &key]).await;
    server.url = server.url.replace("127.0.0.1", "localhost");
    let pinned = async |server: &_, pin: &str| {
        let who = place.ctl(server, "no_token", &["whoami", "--pin", pin, "--timeout", "1s"], "").await;
        // Whoever is not known is told so, by the right one.
        (who.code, who.err)
    };
    server.program.until("setup --user admin").await;
    let (code, said) = pinned(&server, &old).await;
    assert_eq!(code, 5, "{said}");

    place.write("server.key", "no key");
    server.program.send(Signal::HUP);
    server.program.until("the certificate was not replaced").await;
    assert_eq!(pinned(&server, &old).await.0, 5);

    let new = certify(&place);
    server.program.send(Signal::HUP);
    server.program.until("the certificate was read again").await;
    assert_eq!(pinned(&server, &new).await.0, 5);
    let (code, said) = pinned(&server, &old).await;
    assert!(code == 6 && said.contains("is pinned"), "{code}: {said}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own_is_enough() {
    let place = Place::new();
    certify(&place);
    let (certificate, key) = (place.path("server.pem"), place.path("server.key"));
    let arguments =
        ["--tls-certificate", &certificate, "--tls-key", &key, "--public-url", "https://localhost:1"];
    let mut server = place.start(&arguments).await;
    assert_eq!(server.url, "https://localhost:1", "what is set is shown");
    let port = server.program.word("127.0.0.1:").rsplit(':').next().unwrap().to_owned();
    server.url = format!("https://localhost:{port}");
    let stranger = place.ctl(&server, "x", &["whoami", "--timeout", "1s"], "").await;
    assert_eq!(stranger.code, 6, "the system does not know it: {}", stranger.err);
    let trusting = place.ctl(&server, "x", &["whoami", "--ca", &certificate], "").await;
    assert_eq!(trusting.code, 5, "it answers, and knows no such token: {}", trusting.err);
    server.stop().await;
}
