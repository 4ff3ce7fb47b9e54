//! What whoever starts a server for the first time must know.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use mamos_core::orchestrator::TokenScope;
use mamos_core::{ErrorKind, Orchestrator};
use mamos_http::{Access, NewKey, UserName};

use super::settings::Settings;
use crate::program::{Trouble, say};

/// How long what `--dev` shows is good.
const DEV_LIFE: Duration = Duration::from_secs(24 * 3600);
/// How many agents may use the registration token of `--dev`.
const DEV_AGENTS: u32 = 1000;

/// Says where the server is, and, while nobody may use it yet, how that is changed. There is no default
/// password.
pub(super) async fn greet(
    settings: &Settings,
    orchestrator: &Orchestrator,
    access: &Access,
    url: &str,
) -> Result<(), Trouble> {
    say(format_args!("mamos-server serves {url}"));
    if settings.whitelist.is_none() {
        say("no command may run: name a whitelist with --whitelist FILE (docs/whitelist.md)");
    }
    if settings.dev {
        return dev(settings, orchestrator, access, url).await;
    }
    let Some(token) = access.setup_token().await? else { return Ok(()) };
    say(format_args!(
        "\nNobody may use it yet. Make the first administrator, once, within a day:\n\n  \
         mamosctl --server {url} --token {} setup --user admin\n",
        token.expose()
    ));
    Ok(())
}

/// A ready administrator with a key, and a token for agents: two lines to paste into another terminal.
async fn dev(
    settings: &Settings,
    orchestrator: &Orchestrator,
    access: &Access,
    url: &str,
) -> Result<(), Trouble> {
    let user = UserName::new("dev")?;
    let roles = BTreeSet::from(["admin".to_owned(), "operator".to_owned()]);
    match access.create_user(&user, None, roles).await {
        Err(error) if error.kind() == ErrorKind::Conflict => {}
        made => made.map(|_| ())?,
    }
    let (_, key) = access
        .create_key(&user, NewKey { valid_for: Some(DEV_LIFE), ..NewKey::named("mamos-server --dev") })
        .await?;
    let scope = TokenScope { uses: DEV_AGENTS, ..TokenScope::once(DEV_LIFE) };
    let (_, token) = orchestrator.create_token(scope).await?;
    let link = url.replacen("http", "ws", 1);
    let whitelist = settings.whitelist.as_deref().map(|path| format!(" --whitelist {}", quoted(path)));
    say(format_args!(
        "\nFor trying out, on this machine, for a day. Paste into another terminal:\n\n  \
         export MAMOS_SERVER={url} MAMOS_TOKEN={}\n  \
         mamos-agent run --server {link} --registration-token {} --state-directory \"$(mktemp -d)\"{} --log warn &\n",
        key.expose(),
        token.expose(),
        whitelist.unwrap_or_default()
    ));
    Ok(())
}

/// A path from the root, as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if path.bytes().all(is_plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_a_path_as_it_is() {
        assert_eq!(quoted(Path::new("/a/b-c.toml")), "/a/b-c.toml");
        assert_eq!(quoted(Path::new("/a b/$x's")), r"'/a b/$x'\''s'");
    }
}
