//! Where claims begin to look.
//!
//! A claim reads its lane's index from the front, past all entries of jobs that were taken since the server's last
//! vacuum. After a long backlog that is nearly all of its work: entries of 900,000 jobs fill some 4,400 pages. So while
//! one claim after the other takes as much as it wants, the next begins where the last one ended.
//!
//! What became ready before that place since, it does not see: a scheduled job that was due earlier, one of a
//! transaction that committed late, one that was enqueued with a time in the past. Therefore lanes are read as a whole
//! again every [`WHOLE_EVERY`], and whenever a claim finds less than it wants. What is more urgent is always seen.
//!
//! Source: Leach, "Postgres Job Queues & Failure By MVCC" (2015), tells what dead entries do to a queue.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How many jobs of a lane are taken without a pause before it has a floor. A hundred pages are read in no time.
const RUN_UP: usize = 20_000;

/// How long a job that became ready before a floor may be passed over.
const WHOLE_EVERY: Duration = Duration::from_millis(100);

/// The place of a job in the order of claims within a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// The priority negated: less is more urgent.
    pub(super) urgency: i32,
    pub(super) run_at: i64,
    pub(super) seq: i64,
}

impl Key {
    /// Before all others.
    const FIRST: Self = Self { urgency: i32::MIN, run_at: i64::MIN, seq: i64::MIN };
}

/// Lanes, in order and each once, and from where they are read now: all from their front if there are no floors.
pub(super) struct Front {
    pub(super) lanes: Vec<i64>,
    pub(super) floors: Option<Vec<Key>>,
}

/// How far the lanes of a database were taken, by their numbers.
#[derive(Debug, Default)]
pub(in super::super) struct Floors(Mutex<HashMap<i64, Progress>>);

#[derive(Debug)]
struct Progress {
    /// The last job that was taken.
    last: Key,
    /// How many were taken without a pause.
    taken: usize,
    /// When it was last read as a whole.
    whole_at: Instant,
}

impl Floors {
    /// From where these lanes are to be read now.
    pub(super) fn front(&self, mut lanes: Vec<i64>) -> Front {
        lanes.sort_unstable();
        lanes.dedup();
        let lanes_taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let floor = |lane| {
            let progress = lanes_taken.get(lane)?;
            let is_usable = progress.taken >= RUN_UP && progress.whole_at.elapsed() < WHOLE_EVERY;
            is_usable.then_some(progress.last)
        };
        let floors: Vec<Option<Key>> = lanes.iter().map(floor).collect();
        let is_of_use = floors.iter().any(Option::is_some);
        let floors = is_of_use.then(|| floors.into_iter().map(|floor| floor.unwrap_or(Key::FIRST)).collect());
        Front { lanes, floors }
    }

    /// A claim took as many jobs as it wanted from there: those with these keys of such lanes.
    pub(super) fn went_on(&self, front: &Front, taken: &[(i64, Key)]) {
        let mut of_lanes = vec![(0, Key::FIRST); front.lanes.len()];
        for (lane, key) in taken {
            if let Ok(place) = front.lanes.binary_search(lane) {
                let (count, last) = &mut of_lanes[place];
                (*count, *last) = (*count + 1, (*last).max(*key));
            }
        }
        let mut lanes_taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (place, (count, last)) in of_lanes.into_iter().enumerate() {
            let is_whole = front.floors.as_ref().is_none_or(|floors| floors[place] == Key::FIRST);
            match lanes_taken.get_mut(&front.lanes[place]) {
                Some(progress) => {
                    progress.taken = progress.taken.saturating_add(count);
                    if count > 0 {
                        progress.last = last;
                    }
                    if is_whole {
                        progress.whole_at = Instant::now();
                    }
                }
                None if count > 0 => {
                    let progress = Progress { last, taken: count, whole_at: Instant::now() };
                    lanes_taken.insert(front.lanes[place], progress);
                }
                None => {}
            }
        }
    }

    /// A claim found less than it wanted there: there is no backlog any more.
    pub(super) fn came_short(&self, front: &Front) {
        let mut lanes_taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for lane in &front.lanes {
            lanes_taken.remove(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(run_at: i64) -> Key {
        Key { urgency: 0, run_at, seq: run_at }
    }

    /// Takes so many jobs of a lane, up to a key.
    fn takes(floors: &Floors, lanes: &[i64], lane: i64, count: usize, last: i64) {
        let front = floors.front(lanes.to_vec());
        let taken: Vec<(i64, Key)> = (0..count as i64).map(|back| (lane, key(last - back))).collect();
        floors.went_on(&front, &taken);
    }

    #[test]
    fn only_a_long_backlog_has_a_floor_where_it_was_left() {
        let floors = Floors::default();
        takes(&floors, &[1, 2], 1, RUN_UP - 1, 100_000);
        assert_eq!(floors.front(vec![1, 2]).floors, None);
        takes(&floors, &[1, 2], 1, 1, 100_001);
        assert_eq!(floors.front(vec![1, 2]).floors, Some(vec![key(100_001), Key::FIRST]));
        assert_eq!(floors.front(vec![2]).floors, None);
        takes(&floors, &[1, 2], 1, 10, 200_000);
        assert_eq!(floors.front(vec![0, 1, 3]).floors, Some(vec![Key::FIRST, key(200_000), Key::FIRST]));
        floors.came_short(&floors.front(vec![1]));
        assert_eq!(floors.front(vec![1]).floors, None);
    }

    #[test]
    fn a_lane_is_read_as_a_whole_again_in_time() {
        let floors = Floors::default();
        takes(&floors, &[1], 1, RUN_UP, 100_000);
        assert!(floors.front(vec![1]).floors.is_some());
        let began = Instant::now();
        while floors.front(vec![1]).floors.is_some() {
            assert!(began.elapsed() < 10 * WHOLE_EVERY, "claims that begin at the floor put it off");
            takes(&floors, &[1], 1, 1, 100_001);
            std::thread::sleep(WHOLE_EVERY / 20);
        }
        takes(&floors, &[1], 1, 1, 5);
        assert_eq!(
            floors.front(vec![1]).floors,
            Some(vec![key(5)]),
            "what was read as a whole says where the lane begins now"
        );
    }
}
