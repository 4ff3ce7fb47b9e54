//! From the settings to a connector.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use mamos_core::auth::{PublicKey, Secret};
use mamos_core::transport::Connector;
use mamos_transport::link_over_bus::LinkName;
use mamos_transport::socket::{TcpFrameConnector, UnixFrameConnector};
use mamos_transport::{AnyOf, WebSocketConnector};

use super::over_bus::OverBus;
use super::settings::Settings;
use crate::program::{BUSES, Trouble, without_credentials};

/// What the pin of a certificate begins with; the others are keys of links over a bus.
const FINGERPRINT: &str = "sha256:";
/// The longest name of a link, in bytes.
const MAX_LINK_NAME_BYTES: usize = 64;

/// The way to whichever of the addresses answers. Agents begin at different ones.
pub(super) fn connector(settings: &Settings) -> Result<Arc<dyn Connector>, Trouble> {
    let mut ways =
        settings.server.iter().map(|address| one(settings, address)).collect::<Result<Vec<_>, _>>()?;
    if ways.is_empty() {
        return Err(Trouble::usage("no orchestrator is named")
            .next("set `server` in the file of settings, MAMOS_AGENT_SERVER, or --server wss://HOST"));
    }
    check_pins(settings)?;
    if ways.len() == 1 {
        return Ok(ways.remove(0));
    }
    // Good enough to spread: it need not be the same in the next version.
    let mut hasher = DefaultHasher::new();
    settings.name.hash(&mut hasher);
    let start = usize::try_from(hasher.finish() % ways.len() as u64).unwrap_or(0);
    Ok(Arc::new(AnyOf::new(ways)?.beginning_at(start)))
}

fn one(settings: &Settings, address: &Secret) -> Result<Arc<dyn Connector>, Trouble> {
    let text = address.expose();
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "wss" | "ws" => web_socket(settings, text),
        "tcp" => tcp(settings, text),
        "unix" => {
            let path = text.trim_start_matches("unix:");
            Ok(Arc::new(UnixFrameConnector::new(path.strip_prefix("//").unwrap_or(path))))
        }
        scheme if BUSES.contains(&scheme) => over_bus(settings, address),
        _ => {
            let shown = without_credentials(text);
            Err(Trouble::usage(format!("`server`: {shown:?} is no address of an orchestrator")).next(
                "write wss://HOST, ws://HOST, tcp://HOST:PORT, unix:PATH, or a bus: nats://HOST, redis://HOST or \
                 amqp://HOST",
            ))
        }
    }
}

/// What is trusted must be of use for one of the addresses: else somebody believes to be safe who is not.
fn check_pins(settings: &Settings) -> Result<(), Trouble> {
    let has = |schemes: &[&str]| {
        settings.server.iter().any(|address| {
            address.expose().split_once(':').is_some_and(|(scheme, _)| schemes.contains(&scheme))
        })
    };
    let is_tls = has(&["wss"]);
    let useless = match &settings.pin[..] {
        _ if settings.ca.is_some() && !is_tls => {
            Some("`ca` is for wss://; a bus has it in its URL (?ca=FILE)")
        }
        pins if pins.iter().any(|pin| pin.starts_with(FINGERPRINT)) && !is_tls => {
            Some("a `pin` that begins with sha256: is that of a certificate, for wss://")
        }
        pins if pins.iter().any(|pin| !pin.starts_with(FINGERPRINT)) && !has(&BUSES) => {
            Some("a `pin` for wss:// begins with sha256:; others are keys of links over a bus")
        }
        _ => None,
    };
    useless.map_or(Ok(()), |message| {
        Err(Trouble::usage(format!("{message}, and `server` names none")).next("see docs/operating.md"))
    })
}

fn web_socket(settings: &Settings, address: &str) -> Result<Arc<dyn Connector>, Trouble> {
    let mut builder = WebSocketConnector::builder(address);
    if let Some(path) = &settings.ca {
        let pem = std::fs::read(path)
            .map_err(|error| Trouble::usage(format!("`ca`: {} cannot be read: {error}", path.display())))?;
        builder = builder.ca(pem);
    }
    let mut fingerprints = settings.pin.iter().filter(|pin| pin.starts_with(FINGERPRINT));
    if let Some(pin) = fingerprints.next() {
        builder = builder.pinned_fingerprint(pin);
    }
    if fingerprints.next().is_some() {
        return Err(Trouble::usage("`pin` has more than one fingerprint of a certificate")
            .next("pin one, or trust the authority that signs them all with `ca`"));
    }
    if settings.allow_plain_text {
        builder = builder.allow_plain_text();
    }
    Ok(Arc::new(builder.build()?))
}

fn tcp(settings: &Settings, address: &str) -> Result<Arc<dyn Connector>, Trouble> {
    let place = address.trim_start_matches("tcp://").trim_end_matches('/');
    if place.starts_with("tcp:") {
        return Err(
            Trouble::usage(format!("`server`: {address:?} names no host")).next("write tcp://HOST:PORT")
        );
    }
    if !settings.allow_plain_text && !is_here(place) {
        return Err(plain_text(address));
    }
    Ok(Arc::new(TcpFrameConnector::new(place)))
}

fn over_bus(settings: &Settings, address: &Secret) -> Result<Arc<dyn Connector>, Trouble> {
    let shown = without_credentials(address.expose());
    let is_encrypted = ["tls:", "rediss:", "amqps:"].iter().any(|scheme| shown.starts_with(scheme));
    // The links themselves are sealed, but not what the broker is shown.
    if !is_encrypted && !settings.allow_plain_text && !shown.split(',').all(is_here) {
        return Err(plain_text(&shown));
    }
    let keys = settings.pin.iter().filter(|pin| !pin.starts_with(FINGERPRINT));
    let keys = keys.map(|pin| pin.parse::<PublicKey>()).collect::<Result<Vec<_>, _>>().map_err(|error| {
        Trouble::usage(format!("`pin`: {error}"))
            .next("`mamos-server check` shows the key that agents pin over a bus")
    })?;
    let name = match &settings.bus_name {
        Some(name) => {
            Some(LinkName::new(name).map_err(|error| Trouble::usage(format!("`bus_name`: {error}")))?)
        }
        None => link_name(&settings.name),
    };
    Ok(Arc::new(OverBus::new(address.clone(), shown, name, keys)))
}

/// A name of links that is as near to that of the agent as it can be; `None` if nothing is left of it.
fn link_name(name: &str) -> Option<LinkName> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let allowed: String = name.chars().map(|c| if is_allowed(c) { c } else { '-' }).collect();
    let begins_well = allowed.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    LinkName::new(&begins_well[..begins_well.len().min(MAX_LINK_NAME_BYTES)]).ok()
}

fn plain_text(address: &str) -> Trouble {
    let message = format!("{address} would send credentials unencrypted to another machine");
    let next = "use wss://, tls://, rediss:// or amqps://, or set `allow_plain_text` if the network between is \
                protected otherwise";
    Trouble::usage(message).next(next)
}

/// Does it stay on this machine? Takes HOST:PORT, or a URL.
fn is_here(place: &str) -> bool {
    let place = place.split_once("://").map_or(place, |(_, place)| place);
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    let place = place.split(['/', '?']).next().unwrap_or_default();
    let host = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host,
        None => place.rsplit_once(':').map_or(place, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(server: &str, change: impl FnOnce(&mut Settings)) -> Result<String, Trouble> {
        let mut settings =
            Settings { server: vec![Secret::new(server)], name: "web 7".to_owned(), ..Settings::default() };
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
            ("nats://u:secret@localhost:4222?prefix=a", "link web-7 over nats://localhost:4222"),
            ("tls://far.example,tls://near.example", "link web-7 over tls://far.example,tls://near.example"),
            ("redis://:secret@127.0.0.1/3", "link web-7 over redis://127.0.0.1/3"),
            ("amqps://u:secret@far.example/mamos", "link web-7 over amqps://far.example/mamos"),
        ] {
            // A certificate is named so that the test does not depend on the system's.
            let pin = format!("sha256:{}", "00".repeat(32));
            let is_encrypted = address.starts_with("wss");
            let found =
                described(address, |settings| settings.pin.extend(is_encrypted.then_some(pin))).unwrap();
            assert_eq!(found, described_as);
        }
    }

    #[test]
    fn several_addresses_are_one_way_and_agents_begin_at_different_ones() {
        let two = [Secret::new("unix:/a"), Secret::new("nats://localhost")];
        let settings = Settings { server: two.into(), name: "one".to_owned(), ..Settings::default() };
        assert_eq!(connector(&settings).unwrap().describe(), "unix:/a or link one over nats://localhost");
    }

    #[test]
    fn credentials_leave_the_machine_unencrypted_only_if_that_is_allowed() {
        for address in [
            "ws://far.example",
            "tcp://far.example:1",
            "tcp://localhost.far.example:1",
            "nats://localhost@far.example",
            "nats://localhost,nats://far.example",
            "redis://u:secret@192.0.2.1",
            "amqp://u:secret@[2001:db8::1]:5672/localhost",
        ] {
            let trouble = described(address, |_| {}).unwrap_err();
            assert!(!trouble.to_string().contains("secret"), "{trouble}");
            assert!(described(address, |settings| settings.allow_plain_text = true).is_ok(), "{address}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_wrong_usage() {
        for address in ["https://u:secret@a", "secret@a.example", "", "tcp:a", "kafka:secret@a"] {
            let trouble = described(address, |_| {}).unwrap_err();
            assert!(!trouble.to_string().contains("secret"), "{trouble}");
        }
        let pinned = |address, pin: &str| described(address, |settings| settings.pin.push(pin.to_owned()));
        let key = "A6EHv_POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg";
        assert!(pinned("unix:/a", "sha256:1").is_err());
        assert!(pinned("unix:/a", key).is_err() && pinned("nats://localhost", key).is_ok());
        assert!(pinned("nats://localhost", "sha256:1").is_err());
        assert!(pinned("nats://localhost", "no key").is_err());
        assert!(described("wss://a", |settings| settings.ca = Some("/nowhere".into())).is_err());
        assert!(described("nats://localhost", |settings| settings.bus_name = Some("a.b".into())).is_err());
        assert!(connector(&Settings::default()).is_err(), "no address");
    }

    #[test]
    fn a_name_of_links_is_made_of_that_of_the_agent() {
        let named = |name: &str| link_name(name).map(|name| name.as_str().to_owned());
        assert_eq!(named("web-7.example").as_deref(), Some("web-7-example"));
        assert_eq!(named("_é_a").as_deref(), Some("a"));
        assert_eq!(named(&"é".repeat(50)), None);
        assert_eq!(named(&"a".repeat(128)).map(|name| name.len()), Some(64));
    }
}
