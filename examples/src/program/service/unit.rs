//! The text of the unit.

use std::path::{Path, PathBuf};

use super::Service;
use crate::program::Ending;

/// What differs between units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) service: Service,
    pub(super) program: PathBuf,
    pub(super) settings: PathBuf,
    /// `None`: a user that exists only while the service runs.
    pub(super) user: Option<String>,
    pub(super) writable: Vec<PathBuf>,
}

impl Unit {
    /// The text of the file. What weakens it is for `systemctl edit`.
    pub(super) fn text(&self) -> String {
        let Service { name, description } = self.service;
        let capitals = name.to_ascii_uppercase();
        let (program, settings) = (quoted(&self.program), quoted(&self.settings));
        let user =
            self.user.as_ref().map_or_else(|| "DynamicUser=yes".to_owned(), |user| format!("User={user}"));
        let writable: String =
            self.writable.iter().map(|path| format!("ReadWritePaths={}\n", quoted(path))).collect();
        // A restart does not help against wrong settings or a final refusal. Everything else may pass: an agent
        // that runs ends with neither because of what lies between it and the orchestrator.
        let hopeless = [Ending::Usage, Ending::Denied].map(|ending| ending.code().to_string()).join(" ");
        format!(
            "[Unit]
Description={description}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} --config {settings} run
ExecReload=/bin/kill -HUP $MAINPID
EnvironmentFile=-/etc/mamos/{name}.env
Environment=MAMOS_{capitals}_STATE_DIRECTORY=%S/mamos-{name}
Restart=always
RestartSec=2
RestartSteps=5
RestartMaxDelaySec=60
RestartPreventExitStatus={hopeless}
KillMode=mixed
TimeoutStopSec=60
{user}
StateDirectory=mamos-{name}
StateDirectoryMode=0700
UMask=0077

# What it starts runs inside of this too: what that needs, allow with `systemctl edit`.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
{writable}
[Install]
WantedBy=multi-user.target
"
        )
    }
}

/// A path as a unit wants it: in quotes, so that nothing in it means anything.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Unit {
        let service = Service { name: "agent", description: "MAMOS agent: runs whitelisted commands" };
        Unit {
            service,
            program: "/usr/bin/mamos-agent".into(),
            settings: "/etc/mamos/agent.toml".into(),
            user: None,
            writable: Vec::new(),
        }
    }

    #[test]
    fn the_unit_is_hardened() {
        let text = unit().text();
        for line in [
            "ExecStart=\"/usr/bin/mamos-agent\" --config \"/etc/mamos/agent.toml\" run",
            "DynamicUser=yes",
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "ProtectHome=yes",
            "PrivateTmp=yes",
            "StateDirectory=mamos-agent",
            "Environment=MAMOS_AGENT_STATE_DIRECTORY=%S/mamos-agent",
            "EnvironmentFile=-/etc/mamos/agent.env",
            "CapabilityBoundingSet=",
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
            "SystemCallFilter=@system-service",
            "MemoryDenyWriteExecute=yes",
            "Restart=always",
            "RestartPreventExitStatus=2 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn what_differs_is_written_so_that_nothing_in_it_means_anything() {
        let unit = Unit {
            program: "/opt/a b/100%/$x\"".into(),
            user: Some("agent".to_owned()),
            writable: vec!["/srv/data".into()],
            ..unit()
        };
        let text = unit.text();
        assert!(text.contains("ExecStart=\"/opt/a b/100%%/$$x\\\"\" --config"), "{text}");
        assert!(text.contains("\nUser=agent\n") && !text.contains("DynamicUser"), "{text}");
        assert!(text.contains("\nReadWritePaths=\"/srv/data\"\n"), "{text}");
    }
}
