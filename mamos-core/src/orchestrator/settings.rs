//! The numbers that an embedder may choose.

use std::time::Duration;

use crate::{Error, ErrorKind, Result};

/// Agents keep some thousands of jobs waiting and give back what is beyond that.
const MAX_PREFETCH: u32 = 1024;

/// See the methods of [`Builder`](super::Builder), one for each.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) lease_ttl: Duration,
    pub(crate) heartbeat_every: Duration,
    pub(crate) sweep_every: Duration,
    pub(crate) prefetch: u32,
    pub(crate) max_payload_bytes: usize,
    pub(crate) max_log_bytes: u64,
    pub(crate) keep_ended: Option<Duration>,
    pub(crate) keep_audit: Option<Duration>,
    pub(crate) max_connections: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: "main".to_owned(),
            lease_ttl: Duration::from_secs(30),
            heartbeat_every: Duration::from_secs(10),
            sweep_every: Duration::from_secs(1),
            prefetch: 16,
            max_payload_bytes: 1024 * 1024,
            max_log_bytes: 64 * 1024 * 1024,
            keep_ended: Some(Duration::from_secs(7 * 24 * 3600)),
            keep_audit: Some(Duration::from_secs(400 * 24 * 3600)),
            max_connections: 20_000,
        }
    }
}

impl Settings {
    /// Do the settings fit together?
    pub(crate) fn check(&self) -> Result<()> {
        let config = |message: String| Err(Error::new(ErrorKind::Config, "orchestrator.build", message));
        if self.name.is_empty() || self.name.len() > 128 {
            return config("the name must have 1 to 128 bytes".to_owned());
        }
        if self.heartbeat_every * 2 >= self.lease_ttl {
            return config(format!(
                "two heartbeats of {:?} do not fit into a lease of {:?}; make the lease at least three heartbeats long",
                self.heartbeat_every, self.lease_ttl
            ));
        }
        if self.heartbeat_every.is_zero() || self.sweep_every.is_zero() {
            return config("heartbeat_every and sweep_every must be longer than zero".to_owned());
        }
        if self.prefetch > MAX_PREFETCH {
            return config(format!(
                "a prefetch of {} is over {MAX_PREFETCH}, what an agent keeps waiting",
                self.prefetch
            ));
        }
        if self.max_payload_bytes == 0 || self.max_payload_bytes > crate::transport::MAX_FRAME_BYTES / 4 {
            return config("max_payload_bytes must be 1 byte to 2 MiB, so that frames hold it".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_fit_together() {
        Settings::default().check().unwrap();
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let base = Settings::default;
        let second = Duration::from_secs(1);
        for broken in [
            Settings { lease_ttl: 20 * second, heartbeat_every: 10 * second, ..base() },
            Settings { heartbeat_every: Duration::ZERO, ..base() },
            Settings { prefetch: 1025, ..base() },
            Settings { max_payload_bytes: 0, ..base() },
            Settings { max_payload_bytes: 8 << 20, ..base() },
            Settings { name: String::new(), ..base() },
        ] {
            assert_eq!(broken.check().unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
