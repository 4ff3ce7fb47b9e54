//! Settings with a unit.

/// Durations as people write them, for `#[serde(with = "config::duration")]`: `500ms`, `30s`, `5m`, `2h 30m`.
pub mod duration {
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer, Error};

    /// Reads one.
    ///
    /// # Errors
    ///
    /// The text is not a number with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map_err(|_| {
            D::Error::custom(format_args!("{text:?} is no duration; write for example 30s or 5m"))
        })
    }
}

/// Sizes in bytes as people write them, for `#[serde(with = "config::size")]`: `512B`, `64KiB`, `1MiB`, `2GiB`.
pub mod size {
    use serde::de::{Deserialize, Deserializer, Error};

    /// Reads one.
    ///
    /// # Errors
    ///
    /// The text is not a whole number with a unit.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| {
            D::Error::custom(format_args!("{text:?} is no size; write for example 64KiB or 1MiB"))
        })
    }

    fn parse(text: &str) -> Option<u64> {
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
        let bytes: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            _ => return None,
        };
        number.parse::<u64>().ok()?.checked_mul(bytes)
    }
}
