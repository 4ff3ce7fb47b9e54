//! Settings come from four places, and a wrong one is named.

use std::fs;

use super::place::{Place, ended};

#[tokio::test(flavor = "multi_thread")]
async fn flags_win_over_variables_and_those_over_the_file() {
    let place = Place::new();
    let mut command =
        place.agent(&["check", "--offline", "--slots", "7", "--label", "rack=1"], Some("mamos_reg_1"));
    command.env("MAMOS_AGENT_NAME", "two").env("MAMOS_AGENT_SLOTS", "5");
    let (code, text) = ended(command.output().await.unwrap());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("two of kind agent, 7 slots, rack=1, zone=eu"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_named_with_its_place() {
    let place = Place::new();
    for (line, said) in [
        ("serv = 'x'", "agent.toml:1: `serv`: there is no such setting; did you mean `server`?"),
        ("drain_timeout = 'soon'", "agent.toml:1: `drain_timeout`: \"soon\" is no duration"),
        ("server = 'unix:/x'\nkind = 'no kind!'", "`kind`: "),
        ("server = 'unix:/x'\nslots = 0", "1 to 65536 slots"),
        ("server = 'https://a'", "wss://HOST"),
    ] {
        let rest =
            format!("state_directory = '{}'\nregistration_token = 'mamos_reg_1'\n", place.path("state"));
        fs::write(place.path("agent.toml"), format!("{line}\n{rest}")).unwrap();
        let (code, text) = place.run(&["run"], None).await;
        assert!(code == 2 && text.contains(said), "{line}: {code}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_may_stand_in_a_file_and_is_never_printed() {
    let place = Place::new();
    fs::write(place.path("token"), "mamos_reg_secret\n").unwrap();
    for arguments in [
        &["check", "--offline", "--registration-token-file", &place.path("token")][..],
        &["check", "--offline", "--registration-token", "mamos_reg_secret"],
    ] {
        let (code, text) = place.run(arguments, None).await;
        assert!(code == 0 && text.contains("it would register with the token"), "{text}");
        assert!(!text.contains("mamos_reg_secret"), "{text}");
    }
}
