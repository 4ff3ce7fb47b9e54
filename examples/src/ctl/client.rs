//! Requests to the API.

use std::fs;
use std::time::Duration;

use reqwest::header::{ETAG, HeaderMap, HeaderValue, IF_MATCH, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde_json::Value;
use tokio::time::Instant;

use super::cli::Globals;
use super::credentials::Credentials;
use super::ending::Ending;
use super::problem::Problem;
use super::trouble::Trouble;
use super::trust;

/// How often a request is sent that nobody answers.
const MAX_TRIES: u32 = 3;
/// The first wait before another try; it doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// How many items are asked for at once.
const PAGE: usize = 200;

/// Speaks to one orchestrator, as one caller.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<String>,
    timeout: Duration,
}

/// A request that is being made.
#[derive(Debug)]
pub(super) struct Call<'a> {
    client: &'a Client,
    method: Method,
    url: Url,
    body: Option<Value>,
    headers: HeaderMap,
    /// May it be sent again when nobody knows whether it was done?
    is_repeatable: bool,
    what: String,
}

/// What the orchestrator answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) value: Value,
}

impl Client {
    /// A client as the flags, the environment and the last login say.
    pub(super) fn connect(globals: &Globals) -> Result<Self, Trouble> {
        let credentials = Credentials::load()?;
        let server = globals.server.clone().or(credentials.server.clone()).ok_or_else(|| {
            Trouble::usage("no orchestrator is named").next("say --server https://HOST, or set MAMOS_SERVER")
        })?;
        let base = address(&server, globals.allow_plain_text)?;
        let kept = credentials.logins.get(&key_of(&base)).map(|login| login.token.clone());
        let token = globals.token()?.or(kept);
        Self::new(globals, base, token)
    }

    /// A client that is nobody yet, for the named server.
    pub(super) fn anonymous(globals: &Globals) -> Result<Self, Trouble> {
        let known = Credentials::load()?.server;
        let server = globals.server.clone().or(known).ok_or_else(|| {
            Trouble::usage("no orchestrator is named").next("say --server https://HOST, or set MAMOS_SERVER")
        })?;
        Self::new(globals, address(&server, globals.allow_plain_text)?, None)
    }

    fn new(globals: &Globals, base: Url, token: Option<String>) -> Result<Self, Trouble> {
        let ca = globals.ca.as_ref().map(|path| {
            fs::read(path).map_err(|error| Trouble::usage(format!("--ca {}: {error}", path.display())))
        });
        let tls = trust::client_config(ca.transpose()?.as_deref(), globals.pin.as_deref())?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(globals.timeout.min(Duration::from_secs(10)))
            // A proxy or a redirect would be shown the token.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("mamosctl/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Trouble::usage(format!("no client can be made: {error}")))?;
        Ok(Self { http, base, token, timeout: globals.timeout })
    }

    /// The name under which a login is remembered.
    pub(super) fn server(&self) -> String {
        key_of(&self.base)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(super) fn get(&self, path: &[&str], what: impl Into<String>) -> Call<'_> {
        Call { is_repeatable: true, ..self.call(Method::GET, path, what) }
    }

    /// A request that creates something or makes something happen.
    pub(super) fn post(&self, path: &[&str], what: impl Into<String>) -> Call<'_> {
        let key = uuid::Uuid::new_v4().simple().to_string();
        self.call(Method::POST, path, what).header("Idempotency-Key", &key)
    }

    pub(super) fn put(&self, path: &[&str], what: impl Into<String>) -> Call<'_> {
        self.call(Method::PUT, path, what)
    }

    pub(super) fn patch(&self, path: &[&str], what: impl Into<String>) -> Call<'_> {
        self.call(Method::PATCH, path, what)
    }

    pub(super) fn delete(&self, path: &[&str], what: impl Into<String>) -> Call<'_> {
        self.call(Method::DELETE, path, what)
    }

    fn call(&self, method: Method, path: &[&str], what: impl Into<String>) -> Call<'_> {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        let headers = HeaderMap::new();
        Call { client: self, method, url, body: None, headers, is_repeatable: false, what: what.into() }
    }

    /// All items of a list that comes as a whole.
    pub(super) async fn all(&self, path: &[&str], what: &str) -> Result<Vec<Value>, Trouble> {
        items(&mut self.get(path, what).send().await?.value, what)
    }

    /// All items of a list, page by page, at most `limit`.
    pub(super) async fn list(
        &self,
        path: &[&str],
        filters: &[(&str, String)],
        limit: usize,
        what: &str,
    ) -> Result<Vec<Value>, Trouble> {
        let mut all = Vec::new();
        let mut cursor: Option<String> = None;
        while all.len() < limit {
            let call = self
                .get(path, what)
                .queries(filters)
                .query("limit", Some(PAGE.min(limit - all.len())))
                .query("cursor", cursor.take());
            let mut page = call.send().await?.value;
            all.extend(items(&mut page, what)?.into_iter().take(limit - all.len()));
            cursor = page["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        Ok(all)
    }
}

impl Call<'_> {
    /// Adds to the query, if there is a value.
    #[must_use]
    pub(super) fn query(mut self, name: &str, value: Option<impl ToString>) -> Self {
        if let Some(value) = value {
            self.url.query_pairs_mut().append_pair(name, &value.to_string());
        }
        self
    }

    #[must_use]
    pub(super) fn queries(mut self, pairs: &[(&str, String)]) -> Self {
        for (name, value) in pairs {
            self.url.query_pairs_mut().append_pair(name, value);
        }
        self
    }

    #[must_use]
    pub(super) fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// The orchestrator keeps the answer under its key: sending it again does nothing twice.
    #[must_use]
    pub(super) fn creating(mut self) -> Self {
        self.is_repeatable = true;
        self
    }

    /// Only if it is still as it was when this tag was given.
    #[must_use]
    pub(super) fn if_match(mut self, tag: Option<HeaderValue>) -> Self {
        if let Some(tag) = tag {
            self.headers.insert(IF_MATCH, tag);
        }
        self
    }

    #[must_use]
    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Sends it, again where that is safe, until the time is up.
    pub(super) async fn send(self) -> Result<Answer, Trouble> {
        let deadline = Instant::now() + self.client.timeout;
        let mut tries = 0;
        loop {
            tries += 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = match self.once(left).await {
                Ok((status, headers, body)) if status.is_success() => {
                    return self.answer(status, headers, &body);
                }
                Ok((status, headers, body)) => {
                    let trouble = Trouble::refused(&Problem::read(status.as_u16(), &body), &self.what);
                    match self.wait_for(status, &headers) {
                        Some(wait) if Instant::now() + wait < deadline => wait,
                        _ => return Err(trouble),
                    }
                }
                Err(error) => {
                    let is_safe = self.is_repeatable || error.is_connect();
                    let wait = FIRST_WAIT * 2u32.pow(tries - 1);
                    if !is_safe || tries >= MAX_TRIES || Instant::now() + wait >= deadline {
                        return Err(Trouble::unreachable(&self.client.server(), &self.what, why(&error)));
                    }
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Opens a stream: the answer comes at once, its body later.
    pub(super) async fn open(
        self,
    ) -> Result<Result<reqwest::Response, (StatusCode, HeaderMap, Problem)>, String> {
        let response = self.request().send().await.map_err(|error| why(&error))?;
        if response.status().is_success() {
            return Ok(Ok(response));
        }
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(|error| why(&error))?;
        Ok(Err((status, headers, Problem::read(status.as_u16(), &body))))
    }

    /// How long to wait before it is worth trying again.
    fn wait_for(&self, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let asked = retry_after(headers);
        match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Some(asked.unwrap_or(Duration::from_secs(1)))
            }
            // The same request with this key is still being done.
            StatusCode::CONFLICT if self.is_repeatable => asked,
            _ => None,
        }
    }

    fn request(&self) -> reqwest::RequestBuilder {
        let mut request = self.client.http.request(self.method.clone(), self.url.clone());
        request = request.headers(self.headers.clone());
        if let Some(token) = &self.client.token {
            request = request.bearer_auth(token);
        }
        match &self.body {
            Some(body) => request.json(body),
            None => request,
        }
    }

    async fn once(&self, left: Duration) -> reqwest::Result<(StatusCode, HeaderMap, Vec<u8>)> {
        let response = self.request().timeout(left).send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok((status, headers, response.bytes().await?.to_vec()))
    }

    fn answer(&self, status: StatusCode, headers: HeaderMap, body: &[u8]) -> Result<Answer, Trouble> {
        if body.is_empty() {
            return Ok(Answer { status, headers, value: Value::Null });
        }
        let value = serde_json::from_slice(body).map_err(|error| {
            let message = format!(
                "cannot {}: {} answers with something else than JSON: {error}",
                self.what,
                self.client.server()
            );
            Trouble::new(Ending::Failed, message).next("is --server the address of an orchestrator?")
        })?;
        Ok(Answer { status, headers, value })
    }
}

impl Answer {
    /// What names the version of it that was given.
    pub(super) fn tag(&self) -> Option<HeaderValue> {
        self.headers.get(ETAG).cloned()
    }
}

fn items(page: &mut Value, what: &str) -> Result<Vec<Value>, Trouble> {
    match page["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Err(Trouble::new(Ending::Failed, format!("cannot {what}: the answer is no list"))),
    }
}

/// When to try again, if the orchestrator says so.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The whole chain of causes: the last one is the telling one. The address is said elsewhere.
fn why(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it took too long".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The address of an orchestrator. A token may leave the machine only encrypted, unless that is allowed.
fn address(text: &str, is_plain_text_allowed: bool) -> Result<Url, Trouble> {
    let wrong =
        |why: &str| Trouble::usage(format!("--server {text}: {why}")).next("write it as https://HOST:PORT");
    let url = Url::parse(text).map_err(|error| wrong(&error.to_string()))?;
    let host = url.host_str().ok_or_else(|| wrong("it has no host"))?;
    let host = host.trim_matches(['[', ']']);
    let is_here = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if is_here || is_plain_text_allowed => {}
        "http" => {
            return Err(wrong("it would send your token unencrypted to another machine")
                .next("use https://, or --allow-plain-text if the network between is protected otherwise"));
        }
        _ => return Err(wrong("it must begin with https:// or http://")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("credentials do not belong in an address"));
    }
    Ok(url)
}

fn key_of(base: &Url) -> String {
    base.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_leaves_the_machine_encrypted_only_unless_that_is_allowed() {
        for fine in ["https://a.example", "http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"] {
            assert!(address(fine, false).is_ok(), "{fine}");
        }
        for wrong in [
            "http://a.example",
            "ftp://a",
            "a.example",
            "https://u:p@a.example",
            "http://localhost.a.example",
        ] {
            assert!(address(wrong, false).is_err(), "{wrong}");
        }
        assert!(address("http://a.example", true).is_ok());
    }
}
