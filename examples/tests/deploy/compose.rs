//! The compose file names what is there.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use super::place::{original, with_secrets};

/// The compose file. Merge keys (`<<`) are resolved as Compose does: what stands beside them wins.
fn compose() -> Value {
    let text = fs::read_to_string(original().join("compose.yaml")).unwrap();
    let mut value = serde_saphyr::from_str(&text).unwrap();
    merge(&mut value);
    value
}

fn merge(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Some(Value::Object(base)) = map.remove("<<") {
                for (key, value) in base {
                    map.entry(key).or_insert(value);
                }
            }
            map.values_mut().for_each(merge);
        }
        Value::Array(items) => items.iter_mut().for_each(merge),
        _ => {}
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn every_file_that_is_mounted_is_there_or_made() {
    let (compose, made) = (compose(), with_secrets());
    let mut files = BTreeSet::new();
    for (name, service) in compose["services"].as_object().unwrap() {
        for volume in texts(&service["volumes"]) {
            let (from, rest) = volume.split_once(':').unwrap();
            match from.strip_prefix("./") {
                Some(file) => {
                    assert!(rest.ends_with(":ro"), "{name}: {volume} could be changed from inside");
                    files.insert(file.to_owned());
                }
                None => assert!(compose["volumes"].get(from).is_some(), "{name}: no volume {from}"),
            }
        }
        for secret in texts(&service["secrets"]) {
            assert!(compose["secrets"].get(secret).is_some(), "{name}: no secret {secret}");
        }
        for network in texts(&service["networks"]) {
            assert!(compose["networks"].get(network).is_some(), "{name}: no network {network}");
        }
    }
    for secret in compose["secrets"].as_object().unwrap().values() {
        files.insert(secret["file"].as_str().unwrap().trim_start_matches("./").to_owned());
    }
    assert!(files.len() > 8, "{files:?}");
    for file in &files {
        assert!(made.path().join(file).is_file(), "{file} is mounted and not there");
        let is_secret = file.starts_with("secrets/");
        assert!(is_secret || original().join(file).is_file(), "{file} is not in the repository");
    }
}

#[test]
fn nothing_secret_is_in_the_repository() {
    assert_eq!(fs::read_to_string(original().join("secrets/.gitignore")).unwrap(), "*\n!.gitignore\n");
    for entry in fs::read_dir(original()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let text = fs::read_to_string(&path).unwrap();
            assert!(!text.contains("PRIVATE KEY") && !text.contains("mamos_reg_"), "{}", path.display());
        }
    }
}

#[test]
fn images_are_pinned_by_version() {
    let compose = compose();
    let mut images: Vec<String> = Vec::new();
    for service in compose["services"].as_object().unwrap().values() {
        images.push(service["image"].as_str().unwrap().to_owned());
    }
    let docker = fs::read_to_string(original().join("Dockerfile")).unwrap();
    images.extend(
        docker
            .lines()
            .filter_map(|line| line.strip_prefix("FROM "))
            .map(|line| line.split(' ').next().unwrap().to_owned()),
    );
    assert!(images.len() >= 9, "{images:?}");
    for image in images {
        let (_, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{image} has no version"));
        assert!(
            tag != "latest" && (tag.contains('.') || tag.starts_with("bookworm")),
            "{image} is not pinned"
        );
    }
    let own = format!("mamos:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(compose["services"]["one"]["image"], own.as_str());
}

#[test]
fn hosts_and_ports_agree() {
    let compose = compose();
    let services = compose["services"].as_object().unwrap();
    let read = |file: &str| fs::read_to_string(original().join(file)).unwrap();
    let server: toml::Table = read("server.toml").parse().unwrap();
    let port = server["listen"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    let prometheus: Value = serde_saphyr::from_str(&read("prometheus.yml")).unwrap();
    let targets = texts(&prometheus["scrape_configs"][0]["static_configs"][0]["targets"]);
    let proxy = read("haproxy.cfg");
    let behind: Vec<_> = proxy.lines().filter_map(|line| line.trim().strip_prefix("server ")).collect();
    for name in ["one", "two"] {
        assert_eq!(services[name]["environment"]["MAMOS_SERVER_NAME"], name, "each has a name of its own");
        assert!(targets.contains(&format!("{name}:{port}").as_str()), "{targets:?}");
        assert!(behind.contains(&format!("{name} {name}:{port}").as_str()), "{behind:?}");
        let check = services[name]["healthcheck"]["test"].to_string();
        assert!(check.contains(&format!(":{port}/readyz")), "{check}");
    }
    let public = texts(&services["proxy"]["ports"])[0].rsplit(':').next().unwrap();
    assert!(proxy.contains(&format!("bind :{public} ssl")));
    let agent = services["agent-web"]["environment"]["MAMOS_AGENT_SERVER"].as_str().unwrap();
    assert_eq!(agent, format!("wss://proxy:{public}"));
    assert!(proxy.contains("GET /readyz"));

    let made = with_secrets();
    let secret = |name: &str| fs::read_to_string(made.path().join("secrets").join(name)).unwrap();
    for (file, host, port) in
        [("store", "postgres", 5432), ("server_bus", "nats", 4222), ("agent_rack_bus", "nats", 4222)]
    {
        assert!(secret(file).contains(&format!("@{host}:{port}")) && services.contains_key(host), "{file}");
    }
    assert!(read("nats.conf").contains("port: 4222"));
    let name = services["agent-rack"]["environment"]["MAMOS_AGENT_BUS_NAME"].as_str().unwrap();
    assert!(secret("nats_users.conf").contains(&format!(".link.{name}.*.up")), "its user may use its link");
    assert!(secret("agent_rack_bus").trim().ends_with(&format!("inbox_prefix=_INBOX.{name}")));
}
