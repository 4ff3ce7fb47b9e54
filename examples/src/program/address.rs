//! The addresses of brokers, which may hold passwords.

/// What the URL of a bus begins with.
pub(crate) const BUSES: [&str; 6] = ["nats", "tls", "redis", "rediss", "amqp", "amqps"];

/// A URL, or several with commas between, as it may be shown: without user, password and parameters.
pub(crate) fn without_credentials(url: &str) -> String {
    url.split(',').map(one_without_credentials).collect::<Vec<_>>().join(",")
}

fn one_without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    // A password may hold what should have been written otherwise, so all up to the last `@` is left out.
    let rest = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let rest = rest.split('?').next().unwrap_or_default();
    if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        for (url, shown) in [
            ("nats://u:secret@a:4222?prefix=x", "nats://a:4222"),
            ("redis://:se/cr?et@a/1", "redis://a/1"),
            ("tls://secret@a,tls://u:secret@b", "tls://a,tls://b"),
            ("secret@a", "a"),
            ("unix:/a", "unix:/a"),
        ] {
            assert_eq!(without_credentials(url), shown);
        }
    }
}
