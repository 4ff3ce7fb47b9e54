//! From the URL to sqlx's options, so that the URL alone says where the server is and how to reach it.
//!
//! sqlx takes what a URL leaves out from the `PG…` variables of the environment and from `~/.pgpass`. A library
//! reads neither, so all of it is named here.

use std::collections::HashSet;
use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::{Host, Url};

const NOT_UNDERSTOOD: &str =
    "the URL cannot be understood; write it as postgres://user:password@host:5432/database";

/// What sqlx understands behind the `?`. It passes over all else, and tells the log its value.
const PARAMETERS: [&str; 17] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// The options for that URL; else what is wrong with it, without a word of the URL, which may hold a password.
pub(super) fn options(text: &str) -> Result<PgConnectOptions, &'static str> {
    let url = Url::parse(text).map_err(|_| NOT_UNDERSTOOD)?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(NOT_UNDERSTOOD);
    }
    let given: HashSet<String> = url.query_pairs().map(|(name, _)| name.into_owned()).collect();
    let is_given = |names: &[&str]| names.iter().any(|name| given.contains(*name));
    check_parameters(&given)?;
    check_environment(is_given)?;
    if url.username().is_empty() && !is_given(&["user"]) {
        return Err("the URL names no user; write it as postgres://user:password@host:5432/database");
    }
    let mut complete = url.clone();
    if url.password().is_none() && !is_given(&["password"]) {
        // The same as none, and nobody looks for another.
        complete.query_pairs_mut().append_pair("password", "");
    }
    let mut options = PgConnectOptions::from_str(complete.as_str()).map_err(|_| NOT_UNDERSTOOD)?;
    if !is_given(&["host", "hostaddr"]) {
        options = match url.host() {
            // sqlx would look for the name `[::1]`.
            Some(Host::Ipv6(address)) => options.host(&address.to_string()),
            Some(_) if options.get_socket().is_none() => options,
            _ => options.host(HOST),
        };
    }
    if url.port().is_none() && !is_given(&["port"]) {
        options = options.port(PORT);
    }
    if url.path().trim_start_matches('/').is_empty() && !is_given(&["dbname"]) {
        let same = options.get_username().to_owned();
        options = options.database(&same);
    }
    if !is_given(&["sslmode", "ssl-mode"]) {
        options = options.ssl_mode(PgSslMode::Prefer);
    }
    if !is_given(&["sslrootcert", "ssl-root-cert", "ssl-ca"]) {
        // No root but those that are built in.
        options = options.ssl_root_cert_from_pem(Vec::new());
    }
    if !is_given(&["application_name"]) {
        options = options.application_name("mamos");
    }
    Ok(options)
}

const HOST: &str = "localhost";
const PORT: u16 = 5432;

fn check_parameters(given: &HashSet<String>) -> Result<(), &'static str> {
    if given.contains("target_session_attrs") {
        return Err(
            "target_session_attrs is not supported; name the primary itself in the URL, or a proxy that \
                    leads to it",
        );
    }
    let is_known = |name: &str| PARAMETERS.contains(&name) || name.starts_with("options[");
    // It is not named: it may be the end of a password that holds a question mark.
    match given.iter().all(|name| is_known(name)) {
        true => Ok(()),
        false => {
            Err("the URL has an unknown parameter; known are sslmode, sslrootcert, sslcert, sslkey, host, \
                      hostaddr, port, dbname, user, password, application_name and options. A question mark in a \
                      password is written %3F")
        }
    }
}

/// What sqlx takes from the environment without a way to say no is refused instead of obeyed.
fn check_environment(is_given: impl Fn(&[&str]) -> bool) -> Result<(), &'static str> {
    let taken = PgConnectOptions::new_without_pgpass().host(HOST).port(PORT).username("nobody");
    if taken.get_options().is_some() {
        return Err(
            "PGOPTIONS is set for this program, and would reach the server; unset it, and write what is \
                    wanted into the URL: ?options=…",
        );
    }
    let taken = taken.database("nobody").to_url_lossy();
    for (name, names, message) in [
        (
            "sslcert",
            ["sslcert", "ssl-cert"],
            "PGSSLCERT is set for this program, and would be used; unset it, or write sslcert and sslkey into the URL",
        ),
        (
            "sslkey",
            ["sslkey", "ssl-key"],
            "PGSSLKEY is set for this program, and would be used; unset it, or write sslcert and sslkey into the URL",
        ),
    ] {
        if !is_given(&names) && taken.query_pairs().any(|(taken, _)| taken == name) {
            return Err(message);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_leaves_out_has_a_default() {
        let options = options("postgres://app@db.example").unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("db.example", 5432));
        assert_eq!((options.get_username(), options.get_database()), ("app", Some("app")));
        assert_eq!(options.get_application_name(), Some("mamos"));
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Prefer));
    }

    #[test]
    fn what_a_url_says_is_taken() {
        let text = "postgresql://app:s%3Fcret@[::1]:7000/jobs?sslmode=require&application_name=one";
        let options = options(text).unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("::1", 7000));
        assert_eq!((options.get_username(), options.get_database()), ("app", Some("jobs")));
        assert_eq!(options.get_application_name(), Some("one"));
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Require));
        assert!(format!("{options:?}").contains("s?cret"));
    }

    #[test]
    fn a_socket_and_parameters_name_the_server_as_well() {
        let socket = options("postgres://app@%2Frun%2Fpostgresql/jobs").unwrap();
        assert_eq!(socket.get_socket().unwrap().to_str(), Some("/run/postgresql"));
        let named = options("postgres:///?host=/tmp&user=app&dbname=jobs&port=7000&password=x").unwrap();
        assert_eq!(named.get_socket().unwrap().to_str(), Some("/tmp"));
        assert_eq!(
            (named.get_port(), named.get_username(), named.get_database()),
            (7000, "app", Some("jobs"))
        );
        assert_eq!(options("postgres:///jobs?user=app").unwrap().get_host(), "localhost");
        assert_eq!(options("postgres:///jobs?user=app&hostaddr=::1").unwrap().get_host(), "::1");
        let setting = options("postgres://app@db/jobs?options=-c%20jit%3Don&options[geqo]=off").unwrap();
        assert_eq!(setting.get_options(), Some("-c jit=on -c geqo=off"));
    }

    #[test]
    fn what_would_be_passed_over_is_refused() {
        for (url, word) in [
            ("postgres://db/jobs", "names no user"),
            ("postgres://app@a,b/jobs?target_session_attrs=primary", "name the primary"),
            ("postgres://app@db/jobs?sslmod=disable", "unknown parameter"),
            ("postgres://app:12?secret@db/jobs", "%3F"),
            ("postgres://app@db/jobs?sslmode=perhaps", "cannot be understood"),
            ("postgres://app@db:port/jobs", "cannot be understood"),
        ] {
            let message = options(url).unwrap_err();
            assert!(message.contains(word), "{url}: {message}");
        }
    }
}
