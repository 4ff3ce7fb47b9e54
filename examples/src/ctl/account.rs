//! Who is typing: login, logout, the first administrator.

use std::io::{self, BufRead, IsTerminal};

use clap::Args;
use serde_json::{Value, json};

use super::cli::Globals;
use super::client::Client;
use super::credentials::{Credentials, Login};
use super::ending::Ending;
use super::output::Output;
use super::trouble::Trouble;

#[derive(Debug, Args)]
pub(super) struct LoginOrder {
    /// Your name
    user: String,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Args)]
pub(super) struct SetupOrder {
    /// The name of the first administrator
    #[arg(long)]
    user: String,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

pub(super) async fn login(globals: &Globals, order: LoginOrder, output: &Output) -> Result<Ending, Trouble> {
    let client = Client::anonymous(globals)?;
    let password = password("password: ", order.password_stdin)?;
    let body = json!({"user": order.user, "password": password});
    let answer = client.post(&["login"], "log in").body(body).send().await?;
    remember(&client, &order.user, &answer.value)?;
    output.say(format_args!("logged in to {} as {}", client.server(), order.user));
    Ok(Ending::Fine)
}

pub(super) async fn setup(globals: &Globals, order: SetupOrder, output: &Output) -> Result<Ending, Trouble> {
    let token = globals.token()?.ok_or_else(|| {
        Trouble::usage("the setup token is missing")
            .next("give the one that the orchestrator printed with --token")
    })?;
    let client = Client::anonymous(globals)?;
    let password = new_password(order.password_stdin)?;
    let body = json!({"setup_token": token, "user": order.user, "password": password});
    let answer = client.post(&["setup"], "make the first administrator").body(body).send().await?;
    remember(&client, &order.user, &answer.value)?;
    output.say(format_args!(
        "{} is the first administrator of {}, and logged in",
        order.user,
        client.server()
    ));
    Ok(Ending::Fine)
}

/// Forgets the login here even if the orchestrator cannot be told.
pub(super) async fn logout(globals: &Globals, output: &Output) -> Result<Ending, Trouble> {
    let client = Client::connect(globals)?;
    let told = client.post(&["logout"], "log out").send().await;
    let mut credentials = Credentials::load()?;
    credentials.logins.remove(&client.server());
    credentials.save()?;
    match told {
        Ok(_) => output.say(format_args!("logged out of {}", client.server())),
        // The session is over already.
        Err(trouble) if trouble.ending == Ending::Denied => output.say("you were not logged in any more"),
        Err(trouble) => return Err(trouble),
    }
    Ok(Ending::Fine)
}

pub(super) async fn whoami(client: &Client, output: &Output) -> Result<Ending, Trouble> {
    let answer = client.get(&["me"], "ask who you are").send().await?;
    output.one(&answer.value)?;
    Ok(Ending::Fine)
}

pub(super) async fn passwd(client: &Client, output: &Output, is_stdin: bool) -> Result<Ending, Trouble> {
    let current = password("current password: ", is_stdin)?;
    let body = json!({"password": current, "new_password": new_password(is_stdin)?});
    let answer = client.put(&["me", "password"], "change your password").body(body).send().await?;
    // The login that asked is over too, and a new one is given for it.
    let mut credentials = Credentials::load()?;
    if let (Some(login), Some(token)) =
        (credentials.logins.get_mut(&client.server()), answer.value["token"].as_str())
    {
        login.token = token.to_owned();
        login.expires_at = answer.value["expires_at"].as_str().map(str::to_owned);
        credentials.save()?;
    }
    output.say("the password is changed; your other logins are ended");
    Ok(Ending::Fine)
}

fn remember(client: &Client, user: &str, answer: &Value) -> Result<(), Trouble> {
    let Some(token) = answer["token"].as_str() else {
        return Err(Trouble::new(Ending::Failed, "the orchestrator gave no session"));
    };
    let mut credentials = Credentials::load()?;
    let expires_at = answer["expires_at"].as_str().map(str::to_owned);
    let login = Login { user: user.to_owned(), token: token.to_owned(), expires_at };
    credentials.logins.insert(client.server(), login);
    credentials.server = Some(client.server());
    credentials.save()
}

/// Asks for a password without showing it, or reads a line of standard input.
pub(super) fn password(prompt: &str, is_stdin: bool) -> Result<String, Trouble> {
    let wrong = |error: io::Error| Trouble::usage(format!("the password cannot be read: {error}"));
    let password = if is_stdin {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map_err(wrong)?;
        line.trim_end_matches(['\r', '\n']).to_owned()
    } else if io::stdin().is_terminal() {
        rpassword::prompt_password(prompt).map_err(wrong)?
    } else {
        return Err(
            Trouble::usage("there is no terminal to ask for the password at").next("use --password-stdin")
        );
    };
    if password.is_empty() {
        return Err(Trouble::usage("the password is empty"));
    }
    Ok(password)
}

/// Asks for a new password, at a terminal twice.
pub(super) fn new_password(is_stdin: bool) -> Result<String, Trouble> {
    let first = password("new password: ", is_stdin)?;
    if !is_stdin && password("once more: ", false)? != first {
        return Err(Trouble::usage("the two passwords differ").next("try again"));
    }
    Ok(first)
}
