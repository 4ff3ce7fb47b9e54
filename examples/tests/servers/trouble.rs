//! What both programs say when a broker or database is not to be had: what to do, and no secret.

use super::place::{Place, finish};

/// What is wrong, the exit code of the server, that of an agent's check, and what is said.
struct Wrong {
    url: String,
    server: i32,
    agent: i32,
    said: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn both_programs_say_what_to_do_and_show_no_secret() {
    let place = Place::new();
    let nobody = mamos_testbed::free_port();
    let at = |url: String| url.rsplit_once(['@', '/']).unwrap().1.to_owned();
    let redis = mamos_testbed::Shared::Redis.address();
    let rabbit = mamos_testbed::Shared::Rabbit.address();
    let wrong = |url: String, server, agent, said| Wrong { url, server, agent, said };
    let broker = mamos_testbed::NatsServer::with_config("authorization { user: u, password: right }");
    for Wrong { url, server, agent, said } in [
        wrong("kafka://u:s3cret@localhost".to_owned(), 2, 2, "nats://HOST"),
        wrong("nats://u:s3cret@127.0.0.1?prefx=a".to_owned(), 2, 2, "prefix=NAME"),
        wrong(format!("nats://u:s3cret@127.0.0.1:{nobody}"), 6, 6, "does not answer"),
        wrong(format!("redis://u:s3cret@127.0.0.1:{nobody}"), 6, 6, "127.0.0.1"),
        wrong(format!("amqp://u:s3cret@127.0.0.1:{nobody}"), 6, 6, "127.0.0.1"),
        wrong(format!("nats://u:s3cret@{}", at(broker.url())), 5, 5, "user"),
        wrong(format!("redis://u:s3cret@{redis}"), 5, 5, "password"),
        wrong(format!("amqp://u:s3cret@{rabbit}"), 5, 5, "password"),
    ] {
        let refused = place.ended(&["--store", "memory", "--bus", &url]).await;
        assert_eq!(refused.code, server, "{url}: {}", refused.err);
        let checked = ["--server", &url, "--registration-token", "mamos_reg_0", "check"];
        let checked = finish(place.agent_command(&checked).output().await.unwrap());
        let text = checked.out + &checked.err;
        assert_eq!(checked.code, agent, "{url}: {text}");
        for text in [&refused.err, &text] {
            assert!(text.contains(said) && text.contains("next: "), "{url}: {text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
