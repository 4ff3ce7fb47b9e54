//! Every order of `mamosctl`, once, against a server that is one.

use serde_json::Value;

use super::place::{Ended, PASSWORD, Place, Program, Server, dev, until_told};

/// An operator with a key.
struct Operator<'a> {
    place: &'a Place,
    server: &'a Server,
    key: &'a str,
}

impl Operator<'_> {
    async fn ends(&self, code: i32, line: &str) -> Ended {
        self.types(code, &line.split(' ').collect::<Vec<_>>(), "").await
    }

    async fn types(&self, code: i32, arguments: &[&str], input: &str) -> Ended {
        let ended = self.place.ctl(self.server, self.key, arguments, input).await;
        assert_eq!(ended.code, code, "{arguments:?}: {}{}", ended.out, ended.err);
        ended
    }

    /// What an order that goes well prints, without the line's end.
    async fn says(&self, line: &str) -> String {
        self.ends(0, line).await.out.trim_end().to_owned()
    }

    /// The objects that it prints with `--json`.
    async fn json(&self, line: &str) -> Vec<Value> {
        let text = self.says(&format!("{line} --json")).await;
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_run_followed_explained_and_ended() {
    let place = Place::new();
    let (server, key, token) = dev(&place).await;
    let operator = Operator { place: &place, server: &server, key: &key };
    let agent = ["--registration-token", &token, "--label", "zone=eu", "--slots", "2"];
    let _agent = place.agent(&server, &agent).await;

    let listed = operator.says("commands list").await;
    assert!(listed.contains("hello") && listed.contains("Says hello"), "{listed}");
    assert!(operator.says("commands get hello").await.contains("whom"));

    let followed = operator.ends(0, "run hello whom=ann --on zone=eu --follow").await;
    assert_eq!(followed.out, "hello ann\n");
    let job = operator.json("jobs list").await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(operator.says(&format!("logs {job} --follow")).await, "hello ann");
    assert!(operator.says(&format!("why {job}")).await.contains("succeeded"));
    assert!(operator.says(&format!("jobs get {job}")).await.contains("command:hello"));
    assert_eq!(operator.json(&format!("jobs attempts {job}")).await[0]["outcome"], "succeeded");
    let refused = operator.ends(2, "run hello whom=ANN").await;
    assert!(refused.err.contains("whom"), "{}", refused.err);

    // One that no agent may run yet.
    let waiting = operator.says("run hello whom=bob --needs-approval").await;
    assert!(operator.says(&format!("why {waiting}")).await.contains("approv"));
    operator.says(&format!("jobs approve {waiting}")).await;
    assert_eq!(operator.says(&format!("logs {waiting} --follow")).await, "hello bob");

    // One that runs until it is told to end.
    let sleeping = operator.says("run sleep").await;
    let cancelled = operator.ends(0, &format!("jobs cancel {sleeping} --reason enough --grace 1s")).await;
    assert!(cancelled.err.contains("cancel"), "{}", cancelled.err);
    let ended = operator.ends(0, &format!("logs {sleeping} --follow")).await;
    assert_eq!(ended.out, "");
    assert!(operator.says(&format!("why {sleeping}")).await.contains("cancelled"));
    operator.ends(4, &format!("jobs cancel {job}")).await;

    operator.says("queues pause slow").await;
    let kept = operator.says("jobs enqueue mail.send --payload {\"to\":1} --queue slow").await;
    assert!(operator.says(&format!("why {kept}")).await.contains("paused"));
    assert!(operator.says("queues list").await.contains("slow"));
    assert_eq!(operator.json("queues get slow").await[0]["paused"], true);
    operator.says("queues resume slow").await;
    let status = operator.says("status --once").await;
    assert!(status.starts_with("agents: 1 known, 1 connected") && status.contains("2 succeeded"), "{status}");
    assert_eq!(operator.json("status").await[0]["jobs"]["succeeded"], 2);
    operator.ends(4, &format!("jobs redrive {kept}")).await;
    operator.ends(3, "jobs get 00000000-0000-8000-8000-000000000000").await;

    let mut tail =
        Program::start(place.operator(&server, &key, &["tail", "--topic", "queues", "--limit", "1"]));
    until_told(&place, &server, &key, &mut tail).await;
    assert_eq!(tail.end().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_labelled_drained_revoked_and_brought_back() {
    let place = Place::new();
    let (server, key, _) = dev(&place).await;
    let operator = Operator { place: &place, server: &server, key: &key };
    let made = operator.ends(0, "tokens create --name one --uses 2 --label rack=7").await;
    let token = made.out.trim_end().to_owned();
    let spare = operator.json("tokens create").await[0]["id"].as_str().unwrap().to_owned();
    operator.says(&format!("tokens revoke {spare}")).await;
    assert!(!operator.says("tokens list").await.contains(&spare));

    // A busy machine would not be well.
    let mut agent = place
        .agent(&server, &["--registration-token", &token, "--name", "one", "--report-load", "false"])
        .await;
    let listed = operator.says("agents list --connected true").await;
    assert!(listed.contains("one") && listed.contains("rack=7"), "{listed}");
    let id = operator.json("agents list").await[0]["id"].as_str().unwrap().to_owned();
    operator.says(&format!("agents label {id} zone=eu")).await;
    assert_eq!(operator.json(&format!("agents get {id}")).await[0]["labels"]["zone"], "eu");
    assert!(operator.says(&format!("agents health {id}")).await.contains("ok"));
    operator.says("run hello whom=ann --on zone=eu --follow").await;
    assert!(operator.says(&format!("agents logs {id}")).await.contains("hello ann"));
    operator.says(&format!("agents drain {id}")).await;
    assert_eq!(agent.end().await, 0, "it has nothing left to do: {}", agent.said);
    operator.says(&format!("agents resume {id}")).await;
    let mut agent = place.agent(&server, &["--name", "one"]).await;

    let revoked = operator.types(0, &["agents", "revoke", &id, "--reason", "lost"], "").await;
    assert!(revoked.err.contains("is revoked"), "{}", revoked.err);
    assert_eq!(agent.end().await, 5, "{}", agent.said);
    assert!(operator.says("agents list").await.contains("lost"));
    assert!(operator.ends(1, &format!("agents health {id}")).await.out.contains("lost"));
    operator.says(&format!("agents reinstate {id}")).await;
    let _again = place.agent(&server, &["--name", "one"]).await;
    assert_eq!(operator.json("agents list").await[0]["id"], id.as_str(), "it is the same one");
    operator.says(&format!("agents decommission {id}")).await;

    let audit = operator.says("audit --action agent.revoke").await;
    assert!(audit.contains("user:dev") && audit.contains(&id), "{audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_keys_and_roles_decide_who_may_what() {
    let place = Place::new();
    let (server, key, _) = dev(&place).await;
    let operator = Operator { place: &place, server: &server, key: &key };
    operator.says("roles set watcher --permission read").await;
    assert!(operator.says("roles list").await.contains("watcher"));
    let create = ["users", "create", "ann", "--role", "watcher", "--password-stdin"];
    operator.types(0, &create, PASSWORD).await;
    assert!(operator.says("users list").await.contains("ann"));
    assert!(operator.says("users get ann").await.contains("watcher"));

    // As ann, who is logged in: no token is given.
    let ann = Operator { place: &place, server: &server, key: "" };
    ann.types(0, &["login", "ann", "--password-stdin"], PASSWORD).await;
    assert!(ann.says("whoami").await.contains("user:ann"));
    ann.ends(5, "run hello whom=ann").await;
    let made = ann.ends(0, "keys create small --permission read").await.out;
    let program = Operator { place: &place, server: &server, key: made.trim_end() };
    program.says("status --once").await;
    let id = ann.json("keys list").await[0]["id"].as_str().unwrap().to_owned();
    ann.says(&format!("keys revoke {id}")).await;
    let passwords = format!("{PASSWORD}another horse battery\n");
    ann.types(0, &["passwd", "--password-stdin"], &passwords).await;
    ann.says("whoami").await;
    operator.types(0, &["users", "set-password", "ann", "--password-stdin"], PASSWORD).await;
    ann.ends(5, "whoami").await;
    operator.says("users set-roles ann operator").await;
    ann.types(0, &["login", "ann", "--password-stdin"], PASSWORD).await;
    ann.says("run hello whom=ann").await;
    ann.says("logout").await;
    ann.ends(5, "whoami").await;
    operator.says("users disable ann").await;
    ann.types(5, &["login", "ann", "--password-stdin"], PASSWORD).await;
    operator.says("users enable ann").await;
    operator.says("users delete ann").await;
    operator.says("roles delete watcher").await;
    operator.ends(4, "users delete dev").await;

    let document = operator.says("open-api").await;
    assert!(document.contains("\"openapi\": \"3.1.0\""), "{}", &document[..200]);
    for shell in ["bash", "zsh", "fish"] {
        assert!(operator.says(&format!("completions {shell}")).await.contains("decommission"));
    }
}
