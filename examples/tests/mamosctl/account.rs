//! Logins are remembered, for the owner only, and never printed.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::stub::{Reply, Stub, ctl};

const FILE: &str = ".config/mamos/credentials.toml";

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_remembered_for_the_owner_only_and_used_until_logout() {
    let stub = Stub::start().await;
    let session = json!({"token": "mamos_ses_1", "expires_at": "2026-11-21T20:00:00.000000Z"});
    stub.on("POST /login", Reply::json(200, &session));
    stub.on("GET /me", Reply::json(200, &json!({"name": "ann"}))).on("POST /logout", Reply::empty(204));
    let home = stub.home.path();
    let ended =
        ctl(home, &["--server", &stub.url, "login", "ann", "--password-stdin"], &[], "correct horse\n").await;
    assert_eq!((ended.code, ended.out.as_str()), (0, ""), "{}", ended.err);
    assert_eq!(stub.asked()[0].body, json!({"user": "ann", "password": "correct horse"}));
    assert_eq!(stub.asked()[0].header("authorization"), None);
    let mode = fs::metadata(home.join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Neither server nor token is named any more.
    let ended = ctl(home, &["whoami", "--json"], &[], "").await;
    assert_eq!(ended.out, "{\"name\":\"ann\"}\n", "{}", ended.err);
    assert_eq!(stub.asked()[1].header("authorization"), Some("Bearer mamos_ses_1"));

    assert_eq!(ctl(home, &["logout"], &[], "").await.code, 0);
    assert_eq!(stub.asked()[2].header("authorization"), Some("Bearer mamos_ses_1"));
    assert!(!fs::read_to_string(home.join(FILE)).unwrap().contains("mamos_ses_1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_token_wins_over_the_file_and_that_over_the_login() {
    let stub = Stub::start().await;
    stub.on("POST /login", Reply::json(200, &json!({"token": "from_login"})))
        .on("GET /me", Reply::json(200, &json!({})));
    let home = stub.home.path();
    ctl(home, &["--server", &stub.url, "login", "ann", "--password-stdin"], &[], "correct horse\n").await;
    let file = home.join("token");
    fs::write(&file, "from_file\n").unwrap();
    let file = ("MAMOS_TOKEN_FILE", file.to_str().unwrap());
    ctl(home, &["whoami"], &[file], "").await;
    ctl(home, &["whoami"], &[file, ("MAMOS_TOKEN", "from_variable")], "").await;
    ctl(home, &["whoami", "--token", "from_flag"], &[file, ("MAMOS_TOKEN", "from_variable")], "").await;
    let shown: Vec<_> =
        stub.asked()[1..].iter().map(|asked| asked.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(shown, ["Bearer from_file", "Bearer from_variable", "Bearer from_flag"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_logins_that_others_may_read_is_not_used() {
    let stub = Stub::start().await;
    let path = stub.home.path().join(FILE);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let ended = stub.ctl(&["whoami"]).await;
    assert!(ended.code == 1 && ended.err.contains("chmod 600"), "{}", ended.err);
    assert!(stub.lines().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_administrator_is_made_with_the_setup_token() {
    let stub = Stub::start().await;
    stub.on("POST /setup", Reply::json(201, &json!({"token": "mamos_ses_1"})));
    let arguments = ["setup", "--token", "mamos_setup_1", "--user", "ann", "--password-stdin"];
    let ended = stub.ctl_with(&arguments, "correct horse battery\n").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    let expected =
        json!({"setup_token": "mamos_setup_1", "user": "ann", "password": "correct horse battery"});
    assert_eq!(stub.asked()[0].body, expected);
    assert_eq!(stub.asked()[0].header("authorization"), None);
    assert!(!(ended.out + &ended.err).contains("mamos_"), "a secret was printed");
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_come_from_standard_input_only_if_asked_for() {
    let stub = Stub::start().await;
    let ended = stub.ctl_with(&["login", "ann"], "correct horse\n").await;
    assert!(ended.code == 2 && ended.err.contains("--password-stdin"), "{}", ended.err);
    stub.on("POST /users", Reply::json(201, &json!({"name": "bob"})));
    let ended = stub
        .ctl_with(&["users", "create", "bob", "--role", "operator", "--password-stdin"], "long enough\n")
        .await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(
        stub.asked()[0].body,
        json!({"name": "bob", "roles": ["operator"], "password": "long enough"})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_password_means_another_login() {
    let stub = Stub::start().await;
    stub.on("POST /login", Reply::json(200, &json!({"token": "mamos_ses_1"})));
    stub.on("PUT /me/password", Reply::json(200, &json!({"token": "mamos_ses_2"})));
    stub.on("GET /me", Reply::json(200, &json!({})));
    let home = stub.home.path();
    ctl(home, &["--server", &stub.url, "login", "ann", "--password-stdin"], &[], "old password\n").await;
    let ended = ctl(home, &["passwd", "--password-stdin"], &[], "old password\nnew password\n").await;
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_eq!(stub.asked()[1].body, json!({"password": "old password", "new_password": "new password"}));
    ctl(home, &["whoami"], &[], "").await;
    assert_eq!(stub.asked()[2].header("authorization"), Some("Bearer mamos_ses_2"));
}
