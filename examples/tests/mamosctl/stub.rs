//! An orchestrator that answers what it was told to, and remembers what it was asked.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

/// What it answers.
#[derive(Clone)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: String,
    /// The connection is cut after the body.
    is_cut: bool,
}

impl Reply {
    pub(crate) fn json(status: u16, body: &Value) -> Self {
        let headers = vec![("content-type", "application/json".to_owned())];
        Self { status, headers, body: body.to_string(), is_cut: false }
    }

    pub(crate) fn problem(status: u16, code: &str, detail: &str) -> Self {
        Self::json(
            status,
            &json!({"type": format!("/problems/{code}"), "code": code, "status": status, "detail": detail}),
        )
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: String::new(), is_cut: false }
    }

    pub(crate) fn events(body: &str) -> Self {
        let headers = vec![("content-type", "text/event-stream".to_owned())];
        Self { status: 200, headers, body: body.to_owned(), is_cut: false }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(crate) fn cut(mut self) -> Self {
        self.is_cut = true;
        self
    }
}

/// What it was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// For example `GET /api/v1/agents?limit=50`.
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

#[derive(Default)]
struct Script {
    replies: HashMap<String, VecDeque<Reply>>,
    asked: Vec<Asked>,
}

/// The orchestrator, and a home for the command line.
pub(crate) struct Stub {
    pub(crate) url: String,
    pub(crate) home: tempfile::TempDir,
    script: Arc<Mutex<Script>>,
}

/// How the command line ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Stub {
    pub(crate) async fn start() -> Self {
        let script = Arc::new(Mutex::new(Script::default()));
        let router = Router::new().fallback(answer).with_state(script.clone());
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, home: tempfile::tempdir().unwrap(), script }
    }

    /// Answers this once; the last answer to a request is given again and again.
    pub(crate) fn on(&self, line: &str, reply: Reply) -> &Self {
        let line = line.replacen(" /", " /api/v1/", 1);
        self.script.lock().unwrap().replies.entry(line).or_default().push_back(reply);
        self
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script.lock().unwrap().asked.clone()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.line.replacen("/api/v1", "", 1)).collect()
    }

    pub(crate) async fn ctl(&self, arguments: &[&str]) -> Ended {
        self.ctl_with(arguments, "").await
    }

    pub(crate) async fn ctl_with(&self, arguments: &[&str], input: &str) -> Ended {
        let mut all = vec!["--server", &self.url];
        all.extend(arguments);
        ctl(self.home.path(), &all, &[("MAMOS_TOKEN", "mamos_key_1")], input).await
    }
}

async fn answer(State(script): State<Arc<Mutex<Script>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    let line = format!("{} {}", parts.method, parts.uri);
    let reply = {
        let mut script = script.lock().unwrap();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        script.asked.push(Asked { line: line.clone(), headers: parts.headers, body });
        match script.replies.get_mut(&line) {
            Some(replies) if replies.len() > 1 => replies.pop_front().unwrap(),
            Some(replies) => replies[0].clone(),
            None => Reply::problem(404, "not_found", &format!("the stub has no answer to {line}")),
        }
    };
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        response = response.header(*name, value);
    }
    let body = if reply.is_cut {
        let piece = stream::iter([Ok::<_, std::io::Error>(Bytes::from(reply.body))]);
        // While the body is not ready, what there is of it is sent.
        let cut = stream::once(async {
            tokio::task::yield_now().await;
            Err(std::io::Error::other("cut"))
        });
        Body::from_stream(piece.chain(cut))
    } else {
        Body::from(reply.body)
    };
    response.body(body).unwrap()
}

pub(crate) async fn ctl(home: &Path, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mamosctl"));
    command.args(arguments).env_clear().env("HOME", home).envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut process = command.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    // A program that reads nothing may have ended before this is written.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output = process.wait_with_output().await.unwrap();
    Ended {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
