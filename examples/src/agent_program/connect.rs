//! From the settings to a connector.

use std::net::IpAddr;
use std::sync::Arc;

use mamos_core::transport::Connector;
use mamos_transport::WebSocketConnector;
use mamos_transport::socket::{TcpFrameConnector, UnixFrameConnector};

use super::settings::Settings;
use crate::program::Trouble;

/// The connector for the address that is set.
pub(super) fn connector(settings: &Settings) -> Result<Arc<dyn Connector>, Trouble> {
    let address = settings.server.as_deref().ok_or_else(|| {
        Trouble::usage("no orchestrator is named")
            .next("set `server` in the file of settings, MAMOS_AGENT_SERVER, or --server wss://HOST")
    })?;
    let has_trust = settings.ca.is_some() || settings.pin.is_some();
    let no_trust =
        || Trouble::usage(format!("`ca` and `pin` are for wss:// only, and `server` is {address}"));
    if let Some(path) = address.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if has_trust { Err(no_trust()) } else { Ok(Arc::new(UnixFrameConnector::new(path))) };
    }
    if let Some(place) = address.strip_prefix("tcp://") {
        let place = place.trim_end_matches('/');
        if has_trust {
            return Err(no_trust());
        }
        if !settings.allow_plain_text && !is_here(place) {
            return Err(Trouble::usage(format!(
                "{address} would send credentials unencrypted to another machine"
            ))
            .next("use wss://, or set `allow_plain_text` if the network between is protected otherwise"));
        }
        return Ok(Arc::new(TcpFrameConnector::new(place)));
    }
    if !address.starts_with("wss://") && !address.starts_with("ws://") {
        return Err(Trouble::usage(format!("`server`: {address:?} is no address of an orchestrator"))
            .next("write wss://HOST, ws://HOST, tcp://HOST:PORT or unix:PATH"));
    }
    let mut builder = WebSocketConnector::builder(address);
    if let Some(path) = &settings.ca {
        let pem = std::fs::read(path)
            .map_err(|error| Trouble::usage(format!("`ca`: {} cannot be read: {error}", path.display())))?;
        builder = builder.ca(pem);
    }
    if let Some(pin) = &settings.pin {
        builder = builder.pinned_fingerprint(pin);
    }
    if settings.allow_plain_text {
        builder = builder.allow_plain_text();
    }
    Ok(Arc::new(builder.build()?))
}

/// Does it stay on this machine?
fn is_here(place: &str) -> bool {
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host).trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(server: &str, change: impl FnOnce(&mut Settings)) -> Result<String, Trouble> {
        let mut settings = Settings { server: Some(server.to_owned()), ..Settings::default() };
        change(&mut settings);
        connector(&settings).map(|connector| connector.describe())
    }

    #[test]
    fn each_address_has_its_connector() {
        for (address, described_as) in [
            ("wss://mamos.example", "wss://mamos.example/api/v1/agents/link"),
            ("ws://127.0.0.1:80", "ws://127.0.0.1:80/api/v1/agents/link"),
            ("tcp://[::1]:7117", "tcp:[::1]:7117"),
            ("unix:/run/mamos.sock", "unix:/run/mamos.sock"),
            ("unix:///run/mamos.sock", "unix:/run/mamos.sock"),
        ] {
            // A certificate is named so that the test does not depend on the system's.
            let pin = format!("sha256:{}", "00".repeat(32));
            let is_encrypted = address.starts_with("wss");
            let found = described(address, |settings| settings.pin = is_encrypted.then_some(pin)).unwrap();
            assert_eq!(found, described_as);
        }
    }

    #[test]
    fn credentials_leave_the_machine_unencrypted_only_if_that_is_allowed() {
        for address in ["ws://far.example", "tcp://far.example:1", "tcp://localhost.far.example:1"] {
            assert!(described(address, |_| {}).is_err(), "{address}");
            assert!(described(address, |settings| settings.allow_plain_text = true).is_ok(), "{address}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_wrong_usage() {
        for address in ["https://a", "a.example", "", "tcp:a"] {
            assert!(described(address, |_| {}).is_err(), "{address:?}");
        }
        assert!(described("unix:/a", |settings| settings.pin = Some("sha256:1".into())).is_err());
        assert!(described("wss://a", |settings| settings.ca = Some("/nowhere".into())).is_err());
        assert!(connector(&Settings::default()).is_err(), "no address");
    }
}
