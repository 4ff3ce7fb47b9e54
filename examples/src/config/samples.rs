//! The samples of settings are read by the tests of the programs.

use serde::de::DeserializeOwned;

use super::{Loaded, Sources, load};

const DOCUMENTATION: &str = include_str!("../../../docs/operating.md");

/// Reads a sample as the file of settings of this program.
pub(crate) fn sample<T: DeserializeOwned>(program: &str, text: &str) -> T {
    let directory = tempfile::tempdir().expect("a place for the sample");
    let path = directory.path().join(format!("{program}.toml"));
    std::fs::write(&path, text).expect("the sample is written");
    let Loaded { settings, .. } = load(program, &Sources::new().file(Some(path)))
        .unwrap_or_else(|error| panic!("the sample cannot be read: {error}"));
    settings
}

/// The sample with everything that is commented out in force. Each key of it is documented.
pub(crate) fn uncommented(text: &str) -> String {
    let in_force = |line: &str| {
        let key = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))?;
        let name = key.split(' ').next().unwrap_or_default();
        assert!(DOCUMENTATION.contains(&format!("`{name}`")), "docs/operating.md does not name {name}");
        Some(key.to_owned())
    };
    let lines: Vec<_> = text.lines().map(|line| in_force(line).unwrap_or_else(|| line.to_owned())).collect();
    lines.join("\n")
}
