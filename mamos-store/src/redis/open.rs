//! Connecting, and seeing whether the server and the data can be used.

use std::collections::HashMap;

use mamos_core::{Error, ErrorKind, Result};
use redis::{Client, ConnectionAddr, IntoConnectionInfo, Value};

use super::RedisSettings;
use super::errors::Fault;
use super::keys::Key;
use super::link::{Link, Way, string};

const OPEN: &str = "store.open";

/// The format of the data that this version writes.
const FORMAT: u32 = 1;

/// The longest prefix, in bytes.
const MAX_PREFIX: usize = 64;

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Config, OPEN, message)
}

/// The client, and where it connects to, without a secret.
pub(super) fn client(settings: &RedisSettings) -> Result<(Client, String)> {
    let prefix = &settings.prefix;
    let is_known = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if prefix.is_empty() || prefix.len() > MAX_PREFIX || !prefix.bytes().all(is_known) {
        return Err(refused(
            "the prefix of a redis store is 1 to 64 characters of A-Z a-z 0-9 . _ : -; choose another",
        ));
    }
    let info = settings.url.as_str().into_connection_info().map_err(|error| {
        // What the client says of a URL never repeats it.
        refused(
            "the URL of redis is wrong; write redis://user:password@host:port/database, or rediss:// for TLS",
        )
        .with_source(error.category().to_owned())
    })?;
    let database = info.redis_settings().db();
    let place = match info.addr() {
        ConnectionAddr::Tcp(host, port) => format!("redis://{host}:{port}/{database}"),
        ConnectionAddr::TcpTls { host, port, .. } => format!("rediss://{host}:{port}/{database}"),
        ConnectionAddr::Unix(path) => format!("redis+unix://{}", path.display()),
        _ => "redis".to_owned(),
    };
    let client = Client::open(info).map_err(|error| Fault::Redis(error).into_error(OPEN, &place))?;
    Ok((client, place))
}

/// Connects, and checks.
pub(super) async fn link(client: &Client, settings: &RedisSettings, place: &str) -> Result<Link> {
    let failed = |fault: Fault| fault.into_error(OPEN, place);
    let prefix = settings.prefix.as_str().into();
    let link = Link::connect(client, prefix, settings.response_timeout, settings.connect_timeout);
    let link = link.await.map_err(failed)?;
    let info = info(&link).await.map_err(failed)?;
    check_server(&info, place)?;
    check_data(&link, place).await?;
    Ok(link)
}

/// What the server says of itself.
async fn info(link: &Link) -> std::result::Result<HashMap<String, String>, Fault> {
    let text = match link.send(Way::Other, &redis::cmd("INFO")).await? {
        Value::VerbatimString { text, .. } => text,
        other => String::from_utf8_lossy(&string(other)?).into_owned(),
    };
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    Ok(lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
}

fn check_server(info: &HashMap<String, String>, place: &str) -> Result<()> {
    let said = |name: &str| info.get(name).map(String::as_str).unwrap_or_default();
    let major: u32 =
        said("redis_version").split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major < 6 {
        let version = said("redis_version");
        return Err(refused(format!("{place}: redis {version} is too old; use version 6.2 or newer")));
    }
    if said("role") == "slave" && said("slave_read_only") != "0" {
        return Err(refused(format!(
            "{place} is a read-only replica, of {}:{}; name the primary",
            said("master_host"),
            said("master_port")
        )));
    }
    let (limit, policy) = (said("maxmemory"), said("maxmemory_policy"));
    if limit != "0" && !limit.is_empty() && policy != "noeviction" {
        return Err(refused(format!(
            "{place} has a limit of memory and the policy `{policy}`: it would throw jobs away; \
             `CONFIG SET maxmemory-policy noeviction`, or use another redis"
        )));
    }
    Ok(())
}

/// Sees that the keys are ours, and marks them with our format.
async fn check_data(link: &Link, place: &str) -> Result<()> {
    let failed = |fault: Fault| fault.into_error(OPEN, place);
    let mut found = false;
    for key in Key::FIXED {
        let kind = match link.command(Way::Other, "TYPE", key, &[]).await.map_err(failed)? {
            Value::SimpleString(kind) => kind,
            _ => String::new(),
        };
        if kind == "none" {
            continue;
        }
        found |= key != Key::Meta;
        if kind != key.kind() {
            return Err(refused(format!(
                "{place}: the key {} is a {kind} and no {}: another program uses the prefix; choose another prefix",
                String::from_utf8_lossy(&link.name(key)),
                key.kind()
            )));
        }
    }
    let format = link.field(Key::Meta, b"format").await.map_err(failed)?;
    if format.is_empty() {
        if found {
            return Err(refused(format!(
                "{place}: there are keys under the prefix {}, and none says which format they have: another program uses \
                 the prefix, or {} was deleted; choose another prefix, or restore a backup",
                link.prefix,
                String::from_utf8_lossy(&link.name(Key::Meta))
            )));
        }
        let number = FORMAT.to_string();
        link.command(Way::Other, "HSETNX", Key::Meta, &[b"format", number.as_bytes()])
            .await
            .map_err(failed)?;
        // Another version may have been faster.
        return check_format(&link.field(Key::Meta, b"format").await.map_err(failed)?, link, place);
    }
    check_format(&format, link, place)
}

fn check_format(format: &[u8], link: &Link, place: &str) -> Result<()> {
    match str::from_utf8(format).ok().and_then(|format| format.parse::<u32>().ok()) {
        Some(FORMAT) => Ok(()),
        Some(found) => Err(refused(format!(
            "{place}: the data under the prefix {} has format {found}, and this version of mamos knows {FORMAT}; use the \
             version that wrote it, or another prefix",
            link.prefix
        ))),
        None => Err(refused(format!(
            "{place}: the format of the data under the prefix {} is no number: another program uses the prefix; choose \
             another prefix",
            link.prefix
        ))),
    }
}
