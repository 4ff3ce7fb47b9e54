//! A private PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::disk::SmallDisk;
use crate::process::{Process, answers, free_port, run};
use crate::shared::{postgres_url, unique_name};

/// A PostgreSQL of a test's own, with a database `test` and a superuser `postgres` without a password.
#[derive(Debug)]
pub struct PostgresServer {
    programs: PathBuf,
    settings: Vec<String>,
    port: u16,
    process: Option<Process>,
    directory: TempDir,
}

impl PostgresServer {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// If PostgreSQL is not installed, or does not start.
    pub fn start() -> Self {
        Self::with_settings(&[])
    }

    /// Starts one with settings, each as `name=value`.
    pub fn with_settings(settings: &[&str]) -> Self {
        Self::initialised(settings, |_| ())
    }

    /// Starts one whose log of writes (WAL) is on that disk, in small segments, and everything else elsewhere.
    pub fn with_wal_on(disk: &SmallDisk) -> Self {
        give_to_postgres(disk.path());
        Self::initialised(&[], |initdb| {
            initdb.arg("--wal-segsize=1").arg("--waldir").arg(disk.path().join("wal"));
        })
    }

    fn initialised(settings: &[&str], more: impl FnOnce(&mut Command)) -> Self {
        let mut server = Self::stopped(settings);
        let mut initdb = as_postgres(&server.programs.join("initdb"));
        initdb
            .args(["-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C", "-D"])
            .arg(server.data());
        more(&mut initdb);
        run(&mut initdb);
        server.resume();
        run(Command::new(server.programs.join("createdb"))
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p"])
            .arg(server.port.to_string())
            .arg("test"));
        server
    }

    /// One without data.
    fn stopped(settings: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        give_to_postgres(directory.path());
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self { programs: programs(), settings, port: free_port(), process: None, directory }
    }

    /// Starts a hot standby of this one: a copy that follows it, and takes no writes until it is promoted.
    pub fn standby(&self) -> Self {
        let mut standby = Self::stopped(&[]);
        let mut copy = as_postgres(&standby.programs.join("pg_basebackup"));
        copy.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string(), "-D"]);
        run(copy.arg(standby.data()).args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]));
        standby.resume();
        standby
    }

    /// Starts it again on another port.
    pub fn move_to(&mut self, port: u16) {
        self.stop_in_order();
        self.port = port;
        self.resume();
    }

    /// Wants a password, by SCRAM, from all but the superuser, and starts again.
    pub fn require_passwords(&mut self) {
        let rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(self.data().join("pg_hba.conf"), rules).expect("the rules can be written");
        self.stop_in_order();
        self.resume();
    }

    /// Offers TLS, for 127.0.0.1, and starts again. Gives the file with the certificate, which is its own root.
    pub fn offer_tls(&mut self) -> PathBuf {
        let (key, certificate) = (self.data().join("server.key"), self.data().join("server.crt"));
        let mut openssl = as_postgres(Path::new("openssl"));
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]).arg(&key);
        run(openssl.arg("-out").arg(&certificate));
        self.settings.push("ssl=on".to_owned());
        self.stop_in_order();
        self.resume();
        certificate
    }

    /// Makes a tablespace on that disk, where the tables of the database `test` go from now on. What is written
    /// first, the WAL, stays elsewhere.
    pub fn put_tables_on(&self, disk: &SmallDisk) {
        give_to_postgres(disk.path());
        self.sql(&format!("CREATE TABLESPACE small LOCATION '{}'", disk.path().display()));
        self.sql("ALTER DATABASE test SET default_tablespace = small");
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/test", self.port)
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once, as `pg_ctl stop -m immediate` does: nothing is written, and the next start recovers.
    pub fn stop_immediately(&mut self) {
        self.stop(Signal::QUIT);
    }

    /// Ends it in order, as `pg_ctl stop -m fast` does.
    pub fn stop_in_order(&mut self) {
        self.stop(Signal::INT);
    }

    /// Starts it again, on the same port.
    pub fn resume(&mut self) {
        let log = self.directory.path().join("log");
        let mut command = as_postgres(&self.programs.join("postgres"));
        command.arg("-D").arg(self.data()).arg("-k").arg(self.directory.path());
        command.args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let mut process = Process::start(&mut command, &log);
        let (programs, port) = (&self.programs, self.port.to_string());
        process.wait_until(&log, || {
            let mut ready = Command::new(programs.join("pg_isready"));
            ready.args(["-q", "-h", "127.0.0.1", "-p", &port]);
            answers(self.port) && ready.status().is_ok_and(|status| status.success())
        });
        self.process = Some(process);
    }

    /// Runs SQL as the superuser, and gives what it prints.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn sql(&self, sql: &str) -> String {
        psql(&self.programs, &self.url(), sql)
    }

    /// Ends the connections of everybody else, as an administrator would with `pg_terminate_backend`.
    pub fn kill_backends(&self) {
        self.sql(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
        );
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn stop(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            process.signal(signal);
            process.wait();
        }
    }
}

/// A name for a schema of the shared PostgreSQL, which is dropped with everything in it when this is.
#[derive(Debug)]
pub struct PostgresSchema {
    url: String,
    name: String,
}

impl PostgresSchema {
    /// A name that nobody else has. The schema is made by whoever uses it.
    ///
    /// # Panics
    ///
    /// If nothing answers at [`postgres_url`].
    pub fn unique() -> Self {
        Self { url: postgres_url(), name: unique_name() }
    }

    /// Where the server is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs SQL as the user of the URL, with the schema as its search path, and gives what it prints.
    ///
    /// # Panics
    ///
    /// If it fails.
    pub fn sql(&self, sql: &str) -> String {
        psql(&programs(), &self.url, &format!("SET search_path = {}; {sql}", self.name))
    }
}

impl Drop for PostgresSchema {
    fn drop(&mut self) {
        let drop = format!("SET client_min_messages = error; DROP SCHEMA IF EXISTS {} CASCADE", self.name);
        if !std::thread::panicking() {
            psql(&programs(), &self.url, &drop);
        }
    }
}

fn psql(programs: &Path, url: &str, sql: &str) -> String {
    let mut psql = Command::new(programs.join("psql"));
    psql.args(["-X", "-q", "-t", "-A", "-v", "ON_ERROR_STOP=1", "-c", sql]).arg(url);
    let output = psql.output().expect("psql is installed with the server");
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// In order, so that no shared memory is left behind.
impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop(Signal::QUIT);
    }
}

pub(crate) fn is_installed() -> bool {
    find_programs().is_some()
}

fn programs() -> PathBuf {
    find_programs().expect("PostgreSQL is not installed (Debian: apt-get install postgresql)")
}

/// Where the programs of the newest PostgreSQL are.
fn find_programs() -> Option<PathBuf> {
    let debian = std::fs::read_dir("/usr/lib/postgresql").ok().into_iter().flatten().flatten();
    let newest =
        debian.map(|entry| entry.path().join("bin")).filter(|path| path.join("postgres").exists()).max();
    let in_path = std::env::var("PATH").unwrap_or_default();
    let in_path = in_path.split(':').map(PathBuf::from).find(|path| path.join("postgres").exists());
    newest.or(in_path)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    // Its home may not be readable for the user.
    command.current_dir("/");
    command
}

/// PostgreSQL refuses to run as root, and must own where it writes.
fn give_to_postgres(directory: &Path) {
    if is_root() {
        run(Command::new("chown").arg("postgres").arg(directory));
    }
}
