//! Time as a value. The only module that may read a clock.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment: microseconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 1970-01-01 00:00:00 UTC.
    pub const EPOCH: Self = Self(0);
    /// Later than anything that happens.
    pub const MAX: Self = Self(i64::MAX);

    /// The moment that many microseconds after [`Timestamp::EPOCH`].
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since [`Timestamp::EPOCH`].
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// How long after `earlier` this is, or zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).max(0) as u64)
    }
}

/// Stays at the end of time instead of overflowing.
impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// Stays at the beginning of time instead of overflowing.
impl Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// RFC 3339 in UTC with microseconds, for example `2026-11-21T04:30:00.000000Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, of_day) = (self.0.div_euclid(86_400_000_000), self.0.rem_euclid(86_400_000_000));
        let (year, month, day) = civil_from_days(days);
        let (seconds, micros) = (of_day / 1_000_000, of_day % 1_000_000);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a time; write it as in RFC 3339, for example 2026-11-21T08:00:00Z")]
pub struct InvalidTimestamp;

/// Reads RFC 3339 with any offset. Digits beyond microseconds are dropped; a leap second is the second
/// after it.
impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        read_rfc3339(text).ok_or(InvalidTimestamp)
    }
}

fn read_rfc3339(text: &str) -> Option<Timestamp> {
    // Longer ones have digits that nobody needs.
    if !text.is_ascii() || text.len() > 64 {
        return None;
    }
    let number = |range: std::ops::Range<usize>, max: i64| {
        let digits = text.get(range)?;
        let is_number = digits.bytes().all(|c| c.is_ascii_digit());
        is_number.then(|| digits.parse::<i64>().ok()).flatten().filter(|number| *number <= max)
    };
    let is = |at: usize, wanted: &[u8]| text.as_bytes().get(at).is_some_and(|c| wanted.contains(c));
    if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt") && is(13, b":") && is(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4, 9999)?, number(5..7, 12)?, number(8..10, 31)?);
    let days = days_from_civil(year, month, day);
    if civil_from_days(days) != (year, month, day) {
        return None;
    }
    let (hour, minute, second) = (number(11..13, 23)?, number(14..16, 59)?, number(17..19, 60)?);
    let mut at = 19;
    let mut micros = 0;
    if is(at, b".") {
        let digits = text[at + 1..].bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        let kept = digits.min(6);
        micros = number(at + 1..at + 1 + kept, 999_999)? * 10_i64.pow(6 - kept as u32);
        at += 1 + digits;
    }
    let offset = match text.get(at..)? {
        "Z" | "z" => 0,
        rest if rest.len() == 6 && is(at, b"+-") && is(at + 3, b":") => {
            let minutes = number(at + 1..at + 3, 23)? * 60 + number(at + 4..at + 6, 59)?;
            if is(at, b"-") { -minutes } else { minutes }
        }
        _ => return None,
    };
    let seconds = days * 86_400 + hour * 3600 + (minute - offset) * 60 + second;
    Some(Timestamp(seconds * 1_000_000 + micros))
}

/// Where the engine takes the time from. Rules and stores take `now` as an argument instead.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// The time now. May jump in either direction; leases tolerate that within their length.
    fn now(&self) -> Timestamp;
}

/// The wall clock of this machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
        let elapsed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::EPOCH + elapsed
    }
}

/// A clock that follows Tokio's timer from a given start.
///
/// Under `#[tokio::test(start_paused = true)]` leases and timers then move together, in no real time.
#[derive(Debug, Clone)]
pub struct SimulatedClock {
    start: Timestamp,
    started: tokio::time::Instant,
}

impl SimulatedClock {
    /// A clock that shows `start` now.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime whose time is paused, Tokio's own rules for `Instant` apply.
    pub fn starting_at(start: Timestamp) -> Self {
        Self { start, started: tokio::time::Instant::now() }
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        self.start + self.started.elapsed()
    }
}

/// Howard Hinnant's `civil_from_days`: the proleptic Gregorian date of a day number since 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Howard Hinnant's `days_from_civil`: the other way round.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_timestamp_prints_as_rfc_3339() {
        // `date -u -d @1766275199.5` and `date -u -d @951782400` on a GNU system.
        assert_eq!(Timestamp::from_micros(1_766_275_199_500_000).to_string(), "2025-12-20T23:59:59.500000Z");
        assert_eq!(Timestamp::from_micros(951_782_400_000_000).to_string(), "2000-02-29T00:00:00.000000Z");
        assert_eq!(Timestamp::from_micros(-1).to_string(), "1969-12-31T23:59:59.999999Z");
    }

    #[test]
    fn times_are_read_as_rfc_3339_says() {
        // The examples of RFC 3339, section 5.8, and what `date -u +%s -d` says of them.
        let cases = [
            ("1985-04-12T23:20:50.52Z", 482_196_050_520_000),
            ("1996-12-19T16:39:57-08:00", 851_042_397_000_000),
            ("1990-12-31T23:59:60Z", 662_688_000_000_000),
            ("1937-01-01T12:00:27.87+00:20", -1_041_337_172_130_000),
            ("2000-02-29t00:00:00.1234567z", 951_782_400_123_456),
        ];
        for (text, micros) in cases {
            assert_eq!(text.parse::<Timestamp>().unwrap().as_micros(), micros, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026-11-21",
            "2026-11-21T08:00:00",
            "2026-11-21T08:00:00.Z",
            "2026-02-29T08:00:00Z",
            "2026-13-01T08:00:00Z",
            "2026-00-01T08:00:00Z",
            "2026-11-21T24:00:00Z",
            "+026-11-21T08:00:00Z",
            "2026-11-21T08:00:00+24:00",
            "2026-11-21T08:00:00Zjunk",
            "2026-11-2\u{e4}T08:00:00Z",
            &format!("2026-11-21T08:00:00.{}Z", "1".repeat(100)),
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_printed_time_is_read_as_the_same(micros in -62_167_219_200_000_000i64..253_402_300_800_000_000) {
            let at = Timestamp::from_micros(micros);
            prop_assert_eq!(at.to_string().parse::<Timestamp>(), Ok(at));
        }
    }

    #[test]
    fn arithmetic_stops_at_the_ends_of_time() {
        assert_eq!(Timestamp::MAX + Duration::MAX, Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH.since(Timestamp::MAX), Duration::ZERO);
        assert_eq!(Timestamp::from_micros(i64::MIN) - Duration::MAX, Timestamp::from_micros(i64::MIN));
    }

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_follows_tokio() {
        let clock = SimulatedClock::starting_at(Timestamp::from_micros(7));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(clock.now(), Timestamp::from_micros(3_600_000_007));
    }
}
