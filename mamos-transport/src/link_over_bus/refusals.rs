//! Which links had agents that could not prove who they are, too often.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::lock;
use super::names::LinkName;

/// A link may have so many in a minute.
const MAX_REFUSALS: u32 = 10;
const WITHIN: Duration = Duration::from_secs(60);
/// The most links that are remembered; beyond that those whose minute is over are forgotten, or all.
const MAX_LINKS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<LinkName, (Instant, u32)>>);

impl Refusals {
    /// An agent of this link was refused.
    pub(super) fn note(&self, name: &LinkName) {
        let now = Instant::now();
        let mut links = lock(&self.0);
        if links.len() >= MAX_LINKS && !links.contains_key(name) {
            links.retain(|_, (since, _)| is_recent(*since, now));
            if links.len() >= MAX_LINKS {
                links.clear();
            }
        }
        let (since, count) = links.entry(name.clone()).or_insert((now, 0));
        if !is_recent(*since, now) {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        if *count == MAX_REFUSALS {
            // The minute of waiting begins.
            *since = now;
        }
    }

    /// Must agents of this link wait?
    pub(super) fn is_suspect(&self, name: &LinkName) -> bool {
        lock(&self.0)
            .get(name)
            .is_some_and(|(since, count)| *count >= MAX_REFUSALS && is_recent(*since, Instant::now()))
    }
}

fn is_recent(since: Instant, now: Instant) -> bool {
    now.duration_since(since) < WITHIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_link_with_too_many_refusals_waits_a_minute_and_others_do_not() {
        let (refusals, bad, good) =
            (Refusals::default(), LinkName::new("bad").unwrap(), LinkName::new("good").unwrap());
        for _ in 0..MAX_REFUSALS {
            assert!(!refusals.is_suspect(&bad));
            refusals.note(&bad);
        }
        refusals.note(&good);
        assert!(refusals.is_suspect(&bad) && !refusals.is_suspect(&good));
        tokio::time::advance(WITHIN).await;
        assert!(!refusals.is_suspect(&bad));
    }

    #[tokio::test(start_paused = true)]
    async fn many_names_do_not_fill_the_memory() {
        let refusals = Refusals::default();
        for number in 0..10 * MAX_LINKS {
            refusals.note(&LinkName::new(format!("a{number}")).unwrap());
        }
        assert!(lock(&refusals.0).len() <= MAX_LINKS);
    }
}
