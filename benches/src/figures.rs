//! Figures, and what they mean for the exit code.

use std::time::Duration;

use serde::Serialize;

use crate::settings::Settings;

/// A median over the rounds, with the extremes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one number.
    pub(crate) fn of(numbers: &[f64]) -> Self {
        let mut sorted = numbers.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) && middle > 0 {
            (at(middle - 1) + at(middle)) / 2.0
        } else {
            at(middle)
        };
        Self { median, min: at(0), max: at(sorted.len().saturating_sub(1)) }
    }
}

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "jobs/s")]
    JobsPerSecond,
    #[serde(rename = "frames/s")]
    FramesPerSecond,
    #[serde(rename = "us")]
    Micros,
}

/// MAMOS next to a baseline: `ratio` is `mamos / baseline`, taken round by round.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) mamos: Spread,
    pub(crate) baseline: Spread,
    pub(crate) ratio: Spread,
    /// What the baseline is.
    pub(crate) against: String,
}

/// One figure's numbers, a pair a round.
#[derive(Debug)]
pub(crate) struct Rounds {
    name: String,
    unit: Unit,
    against: String,
    pairs: Vec<(f64, f64)>,
}

impl Rounds {
    pub(crate) fn new(name: impl Into<String>, unit: Unit, against: impl Into<String>) -> Self {
        Self { name: name.into(), unit, against: against.into(), pairs: Vec::new() }
    }

    pub(crate) fn add(&mut self, mamos: f64, baseline: f64) {
        self.pairs.push((mamos, baseline));
    }

    pub(crate) fn figure(self) -> Figure {
        let spread =
            |number: fn(&(f64, f64)) -> f64| Spread::of(&self.pairs.iter().map(number).collect::<Vec<f64>>());
        Figure {
            mamos: spread(|(mamos, _)| *mamos),
            baseline: spread(|(_, baseline)| *baseline),
            ratio: spread(|(mamos, baseline)| mamos / baseline),
            name: self.name,
            unit: self.unit,
            against: self.against,
        }
    }
}

/// Everything that was found out.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Findings {
    /// The store, as it describes itself.
    pub(crate) store: String,
    pub(crate) figures: Vec<Figure>,
    /// Jobs that were accepted and did not reach their end.
    pub(crate) lost: u64,
    /// Jobs that were handed out or ended more than once.
    pub(crate) duplicated: u64,
}

/// A ratio so low that something is broken, not slow; far below anything that was ever measured.
const FLOORS: [(&str, f64); 2] = [("enqueue", 0.001), ("drain", 0.001)];

impl Findings {
    /// What is wrong. Each is a sentence for people.
    pub(crate) fn complaints(&self, settings: &Settings) -> Vec<String> {
        let mut complaints = Vec::new();
        if self.lost > 0 {
            complaints.push(format!(
                "{} jobs were lost; keep the output and look for the jobs that are not in state succeeded",
                self.lost
            ));
        }
        if self.duplicated > 0 {
            complaints.push(format!(
                "{} jobs ran more than once; keep the output and look at the attempts of jobs with an epoch over 1",
                self.duplicated
            ));
        }
        if settings.is_quick {
            for figure in &self.figures {
                let floor = FLOORS.iter().find(|(name, _)| figure.name.starts_with(name));
                if let Some((_, floor)) = floor
                    && figure.ratio.median < *floor
                {
                    complaints.push(format!(
                        "{} reaches {:.5} of its baseline, below the floor of {floor}; profile it without --quick",
                        figure.name, figure.ratio.median
                    ));
                }
            }
        }
        complaints
    }
}

/// In microseconds.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_between_the_extremes() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of(&[4.0, 1.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of(&[5.0]), Spread { median: 5.0, min: 5.0, max: 5.0 });
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let mut rounds = Rounds::new("drain", Unit::JobsPerSecond, "raw");
        rounds.add(10.0, 10.0);
        rounds.add(1.0, 2.0);
        rounds.add(9.0, 3.0);
        let figure = rounds.figure();
        assert_eq!(figure.ratio, Spread { median: 1.0, min: 0.5, max: 3.0 });
    }

    #[test]
    fn a_lost_or_repeated_job_is_a_complaint_whatever_the_figures_are() {
        use clap::Parser;
        let arguments = crate::settings::Arguments::parse_from(["mamos-bench"]);
        let settings = Settings::from_arguments(arguments).unwrap();
        assert!(Findings::default().complaints(&settings).is_empty());
        assert_eq!(Findings { lost: 1, ..Findings::default() }.complaints(&settings).len(), 1);
        assert_eq!(Findings { lost: 1, duplicated: 2, ..Findings::default() }.complaints(&settings).len(), 2);
    }
}
