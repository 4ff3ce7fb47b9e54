//! What can be set. `docs/operating.md` has the table.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mamos_core::AgentKind;
use mamos_core::auth::Secret;
use mamos_core::job::labels::Labels;
use serde::Deserialize;

use super::cli::Flags;
use crate::config::{self, Loaded, Sources};
use crate::program::{Trouble, state_directory};

/// The settings of an agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    /// Where orchestrators are, on one store; every order but `service` needs one. May hold passwords.
    #[serde(with = "config::secret_texts")]
    pub(super) server: Vec<Secret>,
    pub(super) ca: Option<PathBuf>,
    /// Fingerprints of certificates, and keys of links over a bus.
    #[serde(with = "config::texts")]
    pub(super) pin: Vec<String>,
    /// The name of links over a bus; else made of that of the agent.
    pub(super) bus_name: Option<String>,
    pub(super) allow_plain_text: bool,
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) slots: u32,
    pub(super) state_directory: Option<PathBuf>,
    pub(super) whitelist: Option<PathBuf>,
    pub(super) registration_token: Option<Secret>,
    pub(super) log: String,
    pub(super) report_load: bool,
    #[serde(with = "config::duration")]
    pub(super) drain_timeout: Duration,
    /// How long a command that must stop may take to end by itself.
    #[serde(with = "config::duration")]
    pub(super) stop_grace: Duration,
    pub(super) when_cut_off: WhenCutOff,
}

/// What becomes of running commands when their lease ran out because the link is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WhenCutOff {
    KeepRunning,
    Stop,
}

impl Default for Settings {
    fn default() -> Self {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let slots = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            server: Vec::new(),
            ca: None,
            pin: Vec::new(),
            bus_name: None,
            allow_plain_text: false,
            name,
            kind: "agent".to_owned(),
            labels: BTreeMap::new(),
            slots: u32::try_from(slots).unwrap_or(1),
            state_directory: None,
            whitelist: None,
            registration_token: None,
            log: "info".to_owned(),
            report_load: true,
            drain_timeout: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
            when_cut_off: WhenCutOff::KeepRunning,
        }
    }
}

impl Settings {
    pub(super) fn kind(&self) -> Result<AgentKind, Trouble> {
        AgentKind::new(self.kind.as_str()).map_err(|error| Trouble::usage(format!("`kind`: {error}")))
    }

    pub(super) fn labels(&self) -> Result<Labels, Trouble> {
        Labels::try_from(self.labels.clone()).map_err(|error| Trouble::usage(format!("`labels`: {error}")))
    }

    /// Where the identity and the journal are kept: as set, as systemd says, or where such things belong.
    pub(super) fn state_directory(&self) -> Result<PathBuf, Trouble> {
        state_directory("mamos-agent", self.state_directory.clone())
    }
}

/// Reads the settings from flags, the environment and the file.
pub(super) fn load(flags: &Flags) -> Result<Loaded<Settings>, Trouble> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let own = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or(home);
    let places = own.map(|own| own.join("mamos")).into_iter().chain([PathBuf::from("/etc/mamos")]);
    let usual = places.flat_map(|place| ["toml", "yaml"].map(|ending| place.join(format!("agent.{ending}"))));
    let sources = Sources::new()
        .file(flags.config.clone())
        .usual_files(usual)
        .environment()
        .secret("registration_token")
        .secret("server")
        .flag_list("--server", "server", &flags.server)
        .flag("--server-file", "server_file", flags.server_file.as_ref())
        .flag("--ca", "ca", flags.ca.as_ref())
        .flag_list("--pin", "pin", &flags.pin)
        .flag("--bus-name", "bus_name", flags.bus_name.as_ref())
        .flag("--allow-plain-text", "allow_plain_text", flags.allow_plain_text)
        .flag("--name", "name", flags.name.as_ref())
        .flag("--kind", "kind", flags.kind.as_ref())
        .flag_pairs("--label", "labels", &flags.labels)
        .flag("--slots", "slots", flags.slots)
        .flag("--state-directory", "state_directory", flags.state_directory.as_ref())
        .flag("--whitelist", "whitelist", flags.whitelist.as_ref())
        .flag("--registration-token", "registration_token", flags.registration_token.as_ref())
        .flag("--registration-token-file", "registration_token_file", flags.registration_token_file.as_ref())
        .flag("--log", "log", flags.log.as_ref())
        .flag("--report-load", "report_load", flags.report_load)
        .flag("--drain-timeout", "drain_timeout", flags.drain_timeout.as_ref());
    Ok(config::load("agent", &sources)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_says_what_is_so_anyway_and_names_everything() {
        let sample = include_str!("../../agent.toml");
        let as_it_is = config::sample::<Settings>("agent", sample);
        assert_eq!((as_it_is.server.len(), as_it_is.labels.len()), (1, 1));
        let plain = Settings { server: Vec::new(), labels: BTreeMap::new(), ..as_it_is };
        assert_eq!(format!("{plain:?}"), format!("{:?}", Settings::default()));
        let all = config::sample::<Settings>("agent", &config::uncommented(sample));
        assert!([&all.ca, &all.whitelist, &all.state_directory].into_iter().all(Option::is_some));
        assert!(!all.pin.is_empty() && all.registration_token.is_some() && all.bus_name.is_some());
        let rest = Settings {
            ca: None,
            pin: Vec::new(),
            bus_name: None,
            whitelist: None,
            state_directory: None,
            registration_token: None,
            // These depend on the machine.
            name: plain.name.clone(),
            slots: plain.slots,
            server: Vec::new(),
            labels: BTreeMap::new(),
            ..all
        };
        assert_eq!(format!("{rest:?}"), format!("{plain:?}"));
    }
}
