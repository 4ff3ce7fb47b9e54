//! How busy an agent's machine was, for as long as its link lives.

use std::collections::VecDeque;

use crate::agent::HostLoad;
use crate::clock::Timestamp;

/// How many samples are kept: five minutes at the default interval. An agent that sends none costs nothing.
const MAX_SAMPLES: usize = 32;

/// The last samples, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct LoadHistory {
    samples: VecDeque<(Timestamp, HostLoad)>,
}

impl LoadHistory {
    pub(crate) fn push(&mut self, at: Timestamp, load: HostLoad) {
        if self.samples.len() == MAX_SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back((at, load));
    }

    pub(crate) fn last(&self) -> Option<&HostLoad> {
        self.samples.back().map(|(_, load)| load)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Timestamp, HostLoad)> {
        self.samples.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_samples_are_kept_and_no_more() {
        let mut history = LoadHistory::default();
        assert_eq!(history.last(), None);
        for n in 0..100 {
            let load = HostLoad { uptime_seconds: n, ..HostLoad::default() };
            history.push(Timestamp::from_micros(n as i64), load);
        }
        let kept: Vec<u64> = history.iter().map(|(_, load)| load.uptime_seconds).collect();
        assert_eq!(kept, (68..100).collect::<Vec<u64>>());
        assert_eq!(history.last().map(|load| load.uptime_seconds), Some(99));
    }
}
