use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::{Loaded, Sources, load};

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    server: String,
    slots: u32,
    is_open: bool,
    token: Option<String>,
    labels: BTreeMap<String, String>,
    hosts: Vec<String>,
    tls: Tls,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Tls {
    #[serde(with = "super::duration")]
    timeout: Duration,
    mode: Mode,
    key: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Strict,
    Loose,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: "default".into(),
            slots: 1,
            is_open: false,
            token: None,
            labels: BTreeMap::new(),
            hosts: Vec::new(),
            tls: Tls::default(),
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), mode: Mode::Strict, key: None }
    }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// What is said about a file with this name and text, without the directory.
fn complaint(name: &str, text: &str) -> String {
    let place = Place::new();
    let path = place.write(name, text);
    let error = load::<Settings>("test", &Sources::new().file(Some(path))).unwrap_err();
    error.to_string().replace(&format!("{}/", place.0.path().display()), "")
}

#[test]
fn without_anything_the_defaults_hold() {
    let loaded = load::<Settings>("test", &Sources::new()).unwrap();
    assert_eq!(loaded, Loaded { settings: Settings::default(), file: None });
}

#[test]
fn flags_win_over_variables_and_those_over_the_file() {
    let place = Place::new();
    let text = "server = 'file'\nslots = 2\nis_open = true\n[labels]\nzone = 'file'\nrack = 'file'\n";
    let sources = Sources::new()
        .file(Some(place.write("a.toml", text)))
        .variables(variables(&[("MAMOS_TEST_SERVER", "variable"), ("MAMOS_TEST_LABELS__ZONE", "variable")]))
        .flag("--server", "server", Some("flag"))
        .flag("--slots", "slots", None::<u32>)
        .flag_pairs("--label", "labels", &[("more".into(), "flag".into())]);
    let settings = load::<Settings>("test", &sources).unwrap().settings;
    assert_eq!((settings.server.as_str(), settings.slots, settings.is_open), ("flag", 2, true));
    let labels: Vec<_> =
        settings.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(labels, [("more", "flag"), ("rack", "file"), ("zone", "variable")]);
}

#[test]
fn variables_become_what_is_wanted() {
    let sources = Sources::new().variables(variables(&[
        ("MAMOS_TEST_SLOTS", "7"),
        ("MAMOS_TEST_IS_OPEN", "true"),
        ("MAMOS_TEST_HOSTS", "a, b"),
        ("MAMOS_TEST_LABELS", "zone=eu,rack=1"),
        ("MAMOS_TEST_TLS__TIMEOUT", "2m"),
        ("MAMOS_TEST_TLS__MODE", "loose"),
        ("MAMOS_TEST_SERVER", ""),
        ("MAMOS_OTHER_SLOTS", "no number"),
    ]));
    let settings = load::<Settings>("test", &sources).unwrap().settings;
    assert_eq!((settings.slots, settings.is_open, settings.server.as_str()), (7, true, "default"));
    assert_eq!(settings.hosts, ["a", "b"]);
    assert_eq!(settings.labels.get("rack").map(String::as_str), Some("1"));
    assert_eq!((settings.tls.timeout, settings.tls.mode), (Duration::from_secs(120), Mode::Loose));
}

#[test]
fn toml_and_yaml_say_the_same() {
    let place = Place::new();
    let toml = "slots = 3\nhosts = ['a', 'b']\n[tls]\ntimeout = '500ms'\nmode = 'loose'\n";
    let yaml = "# the same\nslots: 3\nhosts: [a, b]\ntls:\n  timeout: 500ms\n  mode: loose\n";
    let read = |path| load::<Settings>("test", &Sources::new().file(Some(path))).unwrap().settings;
    let settings = read(place.write("a.toml", toml));
    assert_eq!(settings.tls.timeout, Duration::from_millis(500));
    assert_eq!(settings, read(place.write("a.yaml", yaml)));
    assert_eq!(read(place.write("b.yml", "# nothing\n")), Settings::default());
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_a_guess() {
    let toml = complaint("a.toml", "slots = 1\n\nservre = 'x'\n");
    assert_eq!(toml, "a.toml:3: `servre`: there is no such setting; did you mean `server`?");
    let nested = complaint("a.toml", "[tls]\ntimeuot = '1s'\n");
    assert_eq!(nested, "a.toml:2: `tls.timeuot`: there is no such setting; did you mean `timeout`?");
    let yaml = complaint("a.yaml", "slots: 1\ntls:\n  moed: loose\n");
    assert_eq!(yaml, "a.yaml:3: `tls.moed`: there is no such setting; did you mean `mode`?");
    let unlike = complaint("a.toml", "[tls]\nqqq = 1\n");
    assert_eq!(unlike, "a.toml:2: `tls.qqq`: there is no such setting; there are: timeout, mode, key");
}

#[test]
fn a_wrong_value_is_named_with_the_place_it_came_from() {
    let text = complaint("a.toml", "\nslots = 'many'\n");
    assert_eq!(text, "a.toml:2: `slots`: found string \"many\", but it must be u32");
    let negative = complaint("a.toml", "slots = -1\n");
    assert_eq!(negative, "a.toml:1: `slots`: found integer `-1`, but it must be u32");
    let unit = complaint("a.yaml", "tls:\n  timeout: soon\n");
    assert_eq!(unit, "a.yaml:2: `tls.timeout`: \"soon\" is no duration; write for example 30s or 5m");
    let mode = complaint("a.toml", "[tls]\nmode = 'losse'\n");
    assert_eq!(mode, "a.toml:2: `tls.mode`: \"losse\" is not possible; did you mean `loose`?");
    let sources = Sources::new().variables(variables(&[("MAMOS_TEST_SLOTS", "many")]));
    let variable = load::<Settings>("test", &sources).unwrap_err().to_string();
    assert_eq!(
        variable,
        "the variable MAMOS_TEST_SLOTS: `slots`: found string \"many\", but it must be a whole number"
    );
    let sources = Sources::new().flag("--slots", "slots", Some("-4"));
    let flag = load::<Settings>("test", &sources).unwrap_err().to_string();
    assert_eq!(flag, "--slots: `slots`: found integer `-4`, but it must be u32");
}

#[test]
fn a_file_that_cannot_be_read_says_where_and_why() {
    assert!(complaint("a.toml", "slots = \n").starts_with("a.toml:1: this is no TOML: "));
    assert!(complaint("a.yaml", "slots: [1\n").starts_with("a.yaml:"), "YAML has a line as well");
    assert_eq!(complaint("a.ini", ""), "a.ini: a file of settings ends with .toml, .yaml or .yml");
    let sources = Sources::new().file(Some("/there/is/no.toml".into()));
    let error = load::<Settings>("test", &sources).unwrap_err().to_string();
    assert!(error.starts_with("/there/is/no.toml: the file cannot be read: "), "{error}");
}

#[test]
fn the_named_file_wins_over_the_variable_and_that_over_the_usual_ones() {
    let place = Place::new();
    let [usual, named, given] = ["usual", "named", "given"]
        .map(|name| place.write(&format!("{name}.toml"), &format!("server = '{name}'")));
    let missing = place.0.path().join("missing.toml");
    let sources = Sources::new().usual_files([missing, usual.clone()]);
    let read = |sources: &Sources| load::<Settings>("test", sources).unwrap();
    assert_eq!(read(&sources).file, Some(usual));
    let sources = sources.variables([("MAMOS_TEST_CONFIG".to_owned(), named.display().to_string())]);
    assert_eq!(read(&sources).settings.server, "named");
    assert_eq!(read(&sources.file(Some(given))).settings.server, "given");
}

#[test]
fn a_secret_may_stand_in_a_file_of_its_own() {
    let place = Place::new();
    let secret = place.write("token", "s3cret\n").display().to_string();
    let sources = || Sources::new().secret("token").secret("tls.key");
    let read = |sources: Sources| load::<Settings>("test", &sources).map(|loaded| loaded.settings);
    let pairs = [("MAMOS_TEST_TOKEN_FILE", secret.as_str()), ("MAMOS_TEST_TLS__KEY_FILE", &secret)];
    let settings = read(sources().variables(variables(&pairs))).unwrap();
    assert_eq!((settings.token.as_deref(), settings.tls.key.as_deref()), (Some("s3cret"), Some("s3cret")));
    let file = place.write("a.toml", &format!("token_file = '{secret}'\n"));
    assert_eq!(read(sources().file(Some(file))).unwrap().token.as_deref(), Some("s3cret"));

    let twice = [pairs[0], ("MAMOS_TEST_TOKEN", "other")];
    let error = read(sources().variables(variables(&twice))).unwrap_err().to_string();
    assert!(
        error.contains("MAMOS_TEST_TOKEN_FILE: `token_file`: `token` is set in the same place"),
        "{error}"
    );
    let error = read(sources().variables(variables(&[("MAMOS_TEST_TOKEN_FILE", "/nowhere")]))).unwrap_err();
    assert_eq!(error.key, "token_file");
    let error = read(Sources::new().variables(variables(&pairs[..1]))).unwrap_err().to_string();
    assert!(error.contains("there is no such setting"), "only a secret may: {error}");
}
