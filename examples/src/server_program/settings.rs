//! What can be set. `docs/operating.md` has the table.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use mamos_core::auth::Secret;
use serde::Deserialize;

use super::cli::Flags;
use crate::config::{self, Loaded, Sources};
use crate::program::{BUSES, Trouble, state_directory};

/// What the URL of a store on a server begins with.
const SERVERS: [&str; 4] = ["postgres", "postgresql", "redis", "rediss"];

/// The settings of a server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    pub(super) dev: bool,
    pub(super) listen: SocketAddr,
    /// How others reach it; only shown.
    pub(super) public_url: Option<String>,
    pub(super) tls_certificate: Option<PathBuf>,
    pub(super) tls_key: Option<PathBuf>,
    pub(super) allow_plain_text: bool,
    /// May hold a password.
    store: Option<Secret>,
    /// Over which agents may come as well. May hold a password.
    pub(super) bus: Option<Secret>,
    /// A link over the bus on which nothing was heard for so long has ended.
    #[serde(with = "config::duration")]
    pub(super) bus_silence: Duration,
    pub(super) durability: Durability,
    state_directory: Option<PathBuf>,
    pub(super) whitelist: Option<PathBuf>,
    pub(super) unix: Option<PathBuf>,
    pub(super) tcp: Option<SocketAddr>,
    pub(super) name: String,
    #[serde(with = "config::duration")]
    pub(super) lease_ttl: Duration,
    #[serde(with = "config::duration")]
    pub(super) heartbeat_every: Duration,
    /// For how long ended jobs are kept.
    #[serde(with = "config::duration")]
    pub(super) keep_jobs: Duration,
    #[serde(with = "config::duration")]
    pub(super) keep_audit: Duration,
    pub(super) max_agents: usize,
    pub(super) trusted_proxies: Vec<IpNet>,
    pub(super) public_metrics: bool,
    /// How often one caller may ask, in a second; 0 for as often as they like.
    pub(super) requests_per_second: u32,
    pub(super) log: String,
}

/// What an answer of the SQLite store survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Durability {
    Full,
    Normal,
    Off,
}

/// Where everything is kept.
#[derive(Debug, Clone)]
pub(super) enum StoreChoice {
    Memory,
    Sqlite(PathBuf),
    /// On a server, by its URL.
    Server(Secret),
}

impl Default for Settings {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self {
            dev: false,
            listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7117),
            public_url: None,
            tls_certificate: None,
            tls_key: None,
            allow_plain_text: false,
            store: None,
            bus: None,
            bus_silence: Duration::from_secs(3),
            durability: Durability::Full,
            state_directory: None,
            whitelist: None,
            unix: None,
            tcp: None,
            name: "main".to_owned(),
            lease_ttl: Duration::from_secs(30),
            heartbeat_every: Duration::from_secs(10),
            keep_jobs: 7 * day,
            keep_audit: 400 * day,
            max_agents: 20_000,
            trusted_proxies: Vec::new(),
            public_metrics: false,
            requests_per_second: 200,
            log: "info".to_owned(),
        }
    }
}

impl Settings {
    /// Which store: as set, else a file in the state directory, or with `dev` the memory.
    pub(super) fn store(&self) -> Result<StoreChoice, Trouble> {
        match self.store.as_ref().map(Secret::expose) {
            Some("memory" | "memory:") => Ok(StoreChoice::Memory),
            None if self.dev => Ok(StoreChoice::Memory),
            None => {
                let directory = state_directory("mamos-server", self.state_directory.clone())?;
                Ok(StoreChoice::Sqlite(directory.join("mamos.db")))
            }
            Some(text) => match text.split_once(':') {
                Some(("sqlite", path)) if !path.is_empty() => {
                    Ok(StoreChoice::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path))))
                }
                Some((scheme, _)) if SERVERS.contains(&scheme) => {
                    Ok(StoreChoice::Server(Secret::new(text.to_owned())))
                }
                // Not the text itself: it may hold a password.
                _ => Err(Trouble::usage("`store` is no store that this program has")
                    .next("write sqlite:FILE, postgres://USER@HOST/DATABASE, redis://HOST or memory")),
            },
        }
    }

    /// Do the settings fit together?
    pub(super) fn check(&self) -> Result<(), Trouble> {
        let here = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
        if self.dev && !here(&self.listen) {
            return Err(Trouble::usage(format!(
                "`dev` shows keys to whoever starts it, and {} can be reached from other machines",
                self.listen
            ))
            .next("listen on 127.0.0.1, or leave --dev out"));
        }
        if self.tls_certificate.is_some() != self.tls_key.is_some() {
            return Err(Trouble::usage("a certificate needs its key, and a key its certificate")
                .next("set both `tls_certificate` and `tls_key`"));
        }
        if self.tls_certificate.is_none() && !here(&self.listen) && !self.allow_plain_text {
            return Err(Trouble::usage(format!(
                "other machines reach {}, and keys would cross the network in plain text",
                self.listen
            ))
            .next(
                "set `tls_certificate` and `tls_key`, listen on 127.0.0.1, or set `allow_plain_text` if something \
                 else encrypts",
            ));
        }
        let scheme =
            |url: &Secret| url.expose().split(':').next().is_some_and(|scheme| BUSES.contains(&scheme));
        if self.bus.as_ref().is_some_and(|url| !scheme(url)) {
            // Not the text itself: it may hold a password.
            return Err(Trouble::usage("`bus` is no bus that this program has").next(
                "write nats://HOST, redis://HOST or amqp://HOST, or tls://, rediss:// or amqps:// with TLS",
            ));
        }
        if let Some(tcp) = self.tcp.as_ref().filter(|tcp| !here(tcp) && !self.allow_plain_text) {
            return Err(Trouble::usage(format!("`tcp`: agents would send credentials unencrypted to {tcp}"))
                .next(
                    "listen on 127.0.0.1, or set `allow_plain_text` if the network is protected otherwise",
                ));
        }
        Ok(())
    }
}

/// Reads the settings from flags, the environment and the file.
pub(super) fn load(flags: &Flags) -> Result<Loaded<Settings>, Trouble> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let places = own.map(|own| own.join("mamos")).into_iter().chain([PathBuf::from("/etc/mamos")]);
    let usual =
        places.flat_map(|place| ["toml", "yaml"].map(|ending| place.join(format!("server.{ending}"))));
    let sources = Sources::new()
        .file(flags.config.clone())
        .usual_files(usual)
        .environment()
        .secret("store")
        .secret("bus")
        .flag("--dev", "dev", flags.dev)
        .flag("--listen", "listen", flags.listen.as_ref())
        .flag("--public-url", "public_url", flags.public_url.as_ref())
        .flag("--tls-certificate", "tls_certificate", flags.tls_certificate.as_ref())
        .flag("--tls-key", "tls_key", flags.tls_key.as_ref())
        .flag("--allow-plain-text", "allow_plain_text", flags.allow_plain_text)
        .flag("--store", "store", flags.store.as_ref())
        .flag("--bus", "bus", flags.bus.as_ref())
        .flag("--store-file", "store_file", flags.store_file.as_ref())
        .flag("--bus-file", "bus_file", flags.bus_file.as_ref())
        .flag("--name", "name", flags.name.as_ref())
        .flag("--durability", "durability", flags.durability.as_ref())
        .flag("--state-directory", "state_directory", flags.state_directory.as_ref())
        .flag("--whitelist", "whitelist", flags.whitelist.as_ref())
        .flag("--unix", "unix", flags.unix.as_ref())
        .flag("--tcp", "tcp", flags.tcp.as_ref())
        .flag("--lease-ttl", "lease_ttl", flags.lease_ttl.as_ref())
        .flag("--heartbeat-every", "heartbeat_every", flags.heartbeat_every.as_ref())
        .flag("--log", "log", flags.log.as_ref());
    let loaded: Loaded<Settings> = config::load("server", &sources)?;
    loaded.settings.check()?;
    Ok(loaded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Ending;

    #[test]
    fn the_store_is_named_or_found() {
        let named = |store: &str| Settings { store: Some(Secret::new(store)), ..Settings::default() }.store();
        let sqlite = |settings: Settings| match settings.store() {
            Ok(StoreChoice::Sqlite(path)) => path,
            other => panic!("expected a file, got {other:?}"),
        };
        assert!(matches!(named("memory"), Ok(StoreChoice::Memory)));
        for text in ["sqlite:/a/b.db", "sqlite:///a/b.db"] {
            let path = sqlite(Settings { store: Some(Secret::new(text)), ..Settings::default() });
            assert_eq!(path, PathBuf::from("/a/b.db"));
        }
        for url in ["postgres://mamos:secret@db/mamos", "redis://:secret@cache", "rediss://cache"] {
            assert!(matches!(named(url), Ok(StoreChoice::Server(kept)) if kept.expose() == url), "{url}");
        }
        for wrong in ["", "sqlite:", "mysql://mamos:secret@x", "/a/b.db"] {
            let trouble = named(wrong).unwrap_err();
            assert_eq!(trouble.ending, Ending::Usage, "{wrong}");
            assert!(!trouble.to_string().contains("secret"), "{trouble}");
        }
        assert!(matches!(Settings { dev: true, ..Settings::default() }.store(), Ok(StoreChoice::Memory)));
        let set = Settings { state_directory: Some("/s".into()), ..Settings::default() };
        assert_eq!(sqlite(set), PathBuf::from("/s/mamos.db"));
    }

    #[test]
    fn settings_that_would_show_secrets_are_refused() {
        let far: SocketAddr = "192.0.2.1:7117".parse().unwrap();
        let refused = |settings: Settings| settings.check().unwrap_err().ending == Ending::Usage;
        assert!(Settings::default().check().is_ok());
        assert!(refused(Settings { dev: true, listen: far, ..Settings::default() }));
        assert!(refused(Settings { tcp: Some(far), ..Settings::default() }));
        assert!(refused(Settings { listen: far, ..Settings::default() }));
        assert!(Settings { listen: far, allow_plain_text: true, ..Settings::default() }.check().is_ok());
        for bus in ["memory:", "localhost", "kafka://u:secret@a"] {
            let trouble =
                Settings { bus: Some(Secret::new(bus)), ..Settings::default() }.check().unwrap_err();
            assert!(trouble.ending == Ending::Usage && !trouble.to_string().contains("secret"), "{trouble}");
        }
        assert!(refused(Settings { tls_key: Some("/k".into()), ..Settings::default() }));
        let allowed = Settings { tcp: Some(far), allow_plain_text: true, ..Settings::default() };
        assert!(allowed.check().is_ok());
    }

    #[test]
    fn the_sample_says_what_is_so_anyway_and_names_everything() {
        let sample = include_str!("../../server.toml");
        let as_it_is = config::sample::<Settings>("server", sample);
        assert_eq!(format!("{as_it_is:?}"), format!("{:?}", Settings::default()));
        let all = config::sample::<Settings>("server", &config::uncommented(sample));
        let shown = [&all.tls_certificate, &all.tls_key, &all.whitelist, &all.unix, &all.state_directory];
        assert!(shown.into_iter().all(Option::is_some));
        assert!(all.public_url.is_some() && all.store.is_some() && all.tcp.is_some() && all.bus.is_some());
        let rest = Settings {
            public_url: None,
            tls_certificate: None,
            tls_key: None,
            store: None,
            bus: None,
            state_directory: None,
            whitelist: None,
            unix: None,
            tcp: None,
            ..all
        };
        assert_eq!(format!("{rest:?}"), format!("{:?}", Settings::default()));
    }
}
