//! Measures the machine that the agent runs on.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use mamos_core::agent::HostLoad;
use mamos_core::{Error, ErrorKind, Result};
use sysinfo::{CpuRefreshKind, DiskRefreshKind, Disks, MemoryRefreshKind, Networks, RefreshKind, System};

use crate::load::LoadSource;

/// The load of this machine, from the operating system.
///
/// What never changes is read once; a sample reads a handful of small files and takes a millisecond or
/// two on Linux (1.6 ms in a debug build). Processor use is the mean since the sample before, so the first one shows the
/// time since [`SystemLoad::new`]. Memory is that of the container, if one with a limit surrounds us.
pub struct SystemLoad {
    os: String,
    inner: Mutex<Inner>,
}

struct Inner {
    system: System,
    disks: Disks,
    networks: Networks,
    received_before: u64,
    sent_before: u64,
}

impl SystemLoad {
    /// Begins to measure.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if the operating system does not tell.
    pub fn new() -> Result<Self> {
        let unsupported = |error: sysinfo::Error| {
            Error::new(ErrorKind::Unsupported, "host.load", "this system cannot be measured; leave it out")
                .with_source(error.to_string())
        };
        let system = System::new_with_specifics(refreshes()).map_err(unsupported)?;
        let disks = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing().with_storage())
            .map_err(unsupported)?;
        let networks = Networks::new_with_refreshed_list().map_err(unsupported)?;
        let (received_before, sent_before) = totals(&networks);
        let os = System::long_os_version().or_else(|_| System::name()).unwrap_or_default();
        Ok(Self { os, inner: Mutex::new(Inner { system, disks, networks, received_before, sent_before }) })
    }
}

fn refreshes() -> RefreshKind {
    RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing().with_usage())
        .with_memory(MemoryRefreshKind::nothing().with_ram())
}

fn totals(networks: &Networks) -> (u64, u64) {
    networks.values().fold((0, 0), |(received, sent), network| {
        (received + network.total_received(), sent + network.total_transmitted())
    })
}

impl LoadSource for SystemLoad {
    fn sample(&self) -> HostLoad {
        // A sample that panicked half-way left numbers that are old, not wrong.
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *inner;
        inner.system.refresh_specifics(refreshes());
        inner.disks.refresh_specifics(true, DiskRefreshKind::nothing().with_storage());
        inner.networks.refresh(true);
        let (received, sent) = totals(&inner.networks);
        let (disk_total_bytes, disk_used_bytes) = disk_space(&inner.disks);
        let cgroup = inner.system.cgroup_limits().filter(|limits| limits.total_memory > 0);
        let (memory_total_bytes, memory_used_bytes) = match cgroup {
            Some(limits) => (limits.total_memory, limits.total_memory.saturating_sub(limits.free_memory)),
            None => (inner.system.total_memory(), inner.system.used_memory()),
        };
        HostLoad {
            cpu_percent: inner.system.global_cpu_usage().clamp(0.0, 100.0),
            memory_used_bytes,
            memory_total_bytes,
            disk_used_bytes,
            disk_total_bytes,
            // An interface that went away takes its bytes along.
            network_received_bytes: received.saturating_sub(inner.received_before),
            network_sent_bytes: sent.saturating_sub(inner.sent_before),
            os: self.os.clone(),
            uptime_seconds: System::uptime().unwrap_or_default(),
        }
    }
}

/// All and used space. A device that is mounted in several places counts once.
fn disk_space(disks: &Disks) -> (u64, u64) {
    let mut seen = std::collections::BTreeSet::new();
    disks.iter().filter(|disk| seen.insert(disk.name().to_owned())).fold((0, 0), |(total, used), disk| {
        let free = disk.available_space();
        (total + disk.total_space(), used + disk.total_space().saturating_sub(free))
    })
}

impl fmt::Debug for SystemLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemLoad").field("os", &self.os).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_agrees_with_the_kernel() {
        let load = SystemLoad::new().unwrap().sample();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!((uptime - load.uptime_seconds as f64).abs() < 5.0, "{uptime} {load:?}");
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
        let total: u64 = memory.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(load.memory_total_bytes > 0 && load.memory_total_bytes <= total * 1024, "{load:?}");
        assert!(load.memory_used_bytes > 0 && load.memory_used_bytes <= load.memory_total_bytes);
        assert!(load.disk_used_bytes <= load.disk_total_bytes);
        assert!((0.0..=100.0).contains(&load.cpu_percent));
        assert!(!load.os.is_empty());
    }

    #[test]
    fn received_bytes_are_counted_from_the_start() {
        let source = SystemLoad::new().unwrap();
        let before = source.sample();
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..20 {
            sender.send_to(&[0; 1000], receiver.local_addr().unwrap()).unwrap();
            receiver.recv(&mut [0; 1000]).unwrap();
        }
        let after = source.sample();
        assert!(
            after.network_received_bytes >= before.network_received_bytes + 20_000,
            "{before:?} {after:?}"
        );
    }
}
