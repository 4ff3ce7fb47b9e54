//! A systemd service of a program: it may do little more than it needs.

mod unit;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};

use self::unit::Unit;
use super::{Ending, Trouble, say};

/// Which program is the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    /// For example `agent`, of `mamos-agent`, with settings in `/etc/mamos/agent.toml`.
    pub(crate) name: &'static str,
    /// What it does, for whoever asks systemd.
    pub(crate) description: &'static str,
}

impl Service {
    fn file(self) -> String {
        format!("mamos-{}.service", self.name)
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceOrder {
    /// Write the unit
    Install {
        #[command(flatten)]
        unit: UnitOptions,
        #[command(flatten)]
        place: PlaceOptions,
        /// Replace a unit that differs
        #[arg(long)]
        force: bool,
        /// Print it instead
        #[arg(long)]
        print: bool,
        /// Also make systemd read it, and start it now and at boot
        #[arg(long)]
        enable: bool,
    },
    /// Remove the unit; the state stays
    Uninstall {
        #[command(flatten)]
        place: PlaceOptions,
        /// Before that, make systemd stop it and not start it again
        #[arg(long)]
        disable: bool,
    },
    /// Print the unit
    Print {
        #[command(flatten)]
        unit: UnitOptions,
    },
}

#[derive(Debug, Args)]
pub(crate) struct UnitOptions {
    /// The program [default: this one]
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// The file of settings, as the service finds it [default: the one in /etc/mamos]
    #[arg(long = "settings", value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The user that it runs as [default: one that exists only while it runs]
    #[arg(long)]
    user: Option<String>,
    /// A directory that it may write to; may be given more than once
    #[arg(long = "writable", value_name = "DIR")]
    writable: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PlaceOptions {
    /// Where the unit is
    #[arg(long, value_name = "FILE")]
    path: Option<PathBuf>,
    /// Below this directory instead of /
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

impl UnitOptions {
    fn unit(self, service: Service) -> Result<Unit, Trouble> {
        let program = match self.program {
            Some(program) => program,
            None => std::env::current_exe().map_err(|error| {
                Trouble::usage(format!("this program does not know where it is: {error}"))
                    .next("give --program")
            })?,
        };
        let absolute = |what: &str, path: PathBuf| {
            if path.is_absolute() {
                Ok(path)
            } else {
                Err(Trouble::usage(format!("{what} {} is no absolute path", path.display())))
            }
        };
        let settings =
            self.settings.unwrap_or_else(|| PathBuf::from(format!("/etc/mamos/{}.toml", service.name)));
        Ok(Unit {
            service,
            program: absolute("--program", program)?,
            settings: absolute("--settings", settings)?,
            user: self.user,
            writable: self
                .writable
                .into_iter()
                .map(|path| absolute("--writable", path))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl PlaceOptions {
    fn path(&self, service: Service) -> PathBuf {
        let usual = || Path::new("/etc/systemd/system").join(service.file());
        let path = self.path.clone().unwrap_or_else(usual);
        match &self.root {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(&path)),
            None => path,
        }
    }
}

/// Does what is asked about the service.
pub(crate) fn serve_as(service: Service, order: ServiceOrder) -> Result<Ending, Trouble> {
    let name = service.file();
    match order {
        ServiceOrder::Print { unit } | ServiceOrder::Install { unit, print: true, .. } => {
            io::stdout().lock().write_all(unit.unit(service)?.text().as_bytes()).map_err(|error| {
                Trouble::new(Ending::Failed, format!("standard output cannot be written: {error}"))
            })?;
        }
        ServiceOrder::Install { unit, place, force, enable, print: false } => {
            let path = place.path(service);
            install(&path, &unit.unit(service)?.text(), force)?;
            if enable {
                systemctl(&name, &["daemon-reload"])?;
                systemctl(&name, &["enable", "--now", &name])?;
                say(format_args!("{} is written, and the service runs", path.display()));
            } else {
                say(format_args!(
                    "{} is written\n  next: systemctl daemon-reload && systemctl enable --now {name}",
                    path.display()
                ));
            }
        }
        ServiceOrder::Uninstall { place, disable } => {
            let path = place.path(service);
            if disable {
                systemctl(&name, &["disable", "--now", &name])?;
            }
            fs::remove_file(&path).map_err(|error| {
                let ending =
                    if error.kind() == io::ErrorKind::NotFound { Ending::NotFound } else { Ending::Failed };
                Trouble::new(ending, format!("{} cannot be removed: {error}", path.display()))
            })?;
            if disable {
                systemctl(&name, &["daemon-reload"])?;
            }
            say(format_args!("{} is removed; its state is still there", path.display()));
        }
    }
    Ok(Ending::Fine)
}

/// Writes the unit as a whole. One that differs is not replaced unless that is wanted.
fn install(path: &Path, text: &str, is_forced: bool) -> Result<(), Trouble> {
    let there = fs::read_to_string(path).ok();
    if there.as_deref() == Some(text) {
        return Ok(());
    }
    if there.is_some() && !is_forced {
        return Err(Trouble::new(Ending::Conflict, format!("{} is there and differs", path.display()))
            .next("look at it, put changes of your own into `systemctl edit`, and replace it with --force"));
    }
    let write = || {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        let temporary = path.with_extension("service.new");
        fs::write(&temporary, text)?;
        fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        Trouble::new(Ending::Failed, format!("{} cannot be written: {error}", path.display()))
            .next("run it as root, or write elsewhere with --path")
    })
}

fn systemctl(name: &str, arguments: &[&str]) -> Result<(), Trouble> {
    let ran = Command::new("systemctl").args(arguments).status();
    match ran {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => {
            Err(Trouble::new(Ending::Failed, format!("systemctl {} failed: {status}", arguments.join(" ")))
                .next(format!("journalctl -u {name}")))
        }
        Err(error) => Err(Trouble::new(Ending::Failed, format!("systemctl cannot be run: {error}"))),
    }
}
