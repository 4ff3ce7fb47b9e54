//! Settings that would do harm are refused, wrong ones are named, and the check says what would happen.

use std::fs;

use super::place::{Place, set_up};

#[tokio::test(flavor = "multi_thread")]
async fn what_would_show_secrets_to_other_machines_is_refused() {
    let place = Place::new();
    for (arguments, said) in [
        (&["--dev", "--listen", "0.0.0.0:0"][..], "`dev` shows keys"),
        (&["--dev", "--allow-plain-text", "--listen", "0.0.0.0:0"], "`dev` shows keys"),
        (&["--listen", "0.0.0.0:0"], "in plain text"),
        (&["--tcp", "0.0.0.0:0"], "unencrypted"),
    ] {
        let refused = place.ended(arguments).await;
        assert_eq!(refused.code, 2, "{arguments:?}: {}", refused.err);
        assert!(refused.err.contains(said) && refused.err.contains("\n  next: "), "{}", refused.err);
    }
    assert!(!fs::exists(place.path("state")).unwrap(), "nothing was opened");
    let server = place.start(&["--listen", "0.0.0.0:0", "--allow-plain-text"]).await;
    assert!(server.url.starts_with("http://localhost:"), "{}", server.url);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_named_with_its_place_and_a_guess() {
    let place = Place::new();
    let file = place.path("server.toml");
    for (line, said) in [
        ("lisen = '127.0.0.1:1'", "server.toml:1: `lisen`: there is no such setting; did you mean `listen`?"),
        ("durability = 'ful'", "did you mean `full`?"),
        ("lease_ttl = 'soon'", "server.toml:1: `lease_ttl`: \"soon\" is no duration"),
        ("store = 'mysql://x'", "write sqlite:FILE, postgres://"),
        ("tls_key = '/k'", "set both `tls_certificate` and `tls_key`"),
        ("trusted_proxies = ['nobody']", "`trusted_proxies"),
        ("heartbeat_every = '1h'", "heartbeat"),
    ] {
        place.write("server.toml", &format!("{line}\n"));
        let refused = place.ended(&["--config", &file]).await;
        assert!(refused.code == 2 && refused.err.contains(said), "{line}: {}: {}", refused.code, refused.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_check_says_what_would_happen_and_makes_nothing() {
    let place = Place::new();
    let checked = place.ended(&["check"]).await;
    assert_eq!(checked.code, 0, "{}", checked.err);
    for part in ["2 commands", "127.0.0.1:0 (no TLS)", "would be made"] {
        assert!(checked.err.contains(part), "{part}: {}", checked.err);
    }
    assert!(!fs::exists(place.path("state")).unwrap());

    let mut server = place.start(&[]).await;
    let listen = server.address();
    let beside = ["--listen", listen.as_str(), "check"];
    let checked = place.ended(&beside).await;
    assert!(checked.code == 0 && checked.err.contains("users      none"), "{}", checked.err);
    set_up(&place, &mut server).await;
    let checked = place.ended(&beside).await;
    assert!(checked.err.contains("users      there are some"), "{}", checked.err);
    server.stop().await;

    for (arguments, said) in [
        (&["--tls-certificate", "/no.pem", "--tls-key", "/no.key", "check"][..], "/no.pem"),
        (&["--whitelist", "/no.toml", "check"], "`whitelist`"),
    ] {
        let refused = place.ended(arguments).await;
        assert!(refused.code == 2 && refused.err.contains(said), "{}: {}", refused.code, refused.err);
    }
    place.write("state/mamos.db", "this is no database, however long one looks at it");
    let refused = place.ended(&["check"]).await;
    assert!(refused.code != 0 && refused.err.contains("mamos.db"), "{}: {}", refused.code, refused.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_unit_is_that_of_the_server() {
    let place = Place::new();
    let printed =
        place.ended(&["service", "print", "--program", "/usr/bin/mamos-server", "--user", "mamos"]).await;
    for line in [
        "ExecStart=\"/usr/bin/mamos-server\" --config \"/etc/mamos/server.toml\" run",
        "Environment=MAMOS_SERVER_STATE_DIRECTORY=%S/mamos-server",
        "EnvironmentFile=-/etc/mamos/server.env",
        "User=mamos",
    ] {
        assert!(printed.out.lines().any(|found| found == line), "{line} is not in\n{}", printed.out);
    }
}
