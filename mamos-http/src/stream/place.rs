//! How many streams there may be.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::problem::Problem;

/// The places for streams, in all and for each caller.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    most_each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    count: usize,
    by_principal: HashMap<String, usize>,
}

/// A place for one stream, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    principal: String,
}

impl Places {
    pub(crate) fn new(most: usize, most_each: usize) -> Self {
        Self { most, most_each, taken: Mutex::default() }
    }

    /// Takes a place for a caller.
    pub(crate) fn take(self: &Arc<Self>, principal: &str) -> Result<Place, Problem> {
        let mut taken = self.lock();
        let own = taken.by_principal.get(principal).copied().unwrap_or_default();
        if own >= self.most_each {
            let most = self.most_each;
            return Err(Problem::too_many(format!("{principal} has {most} streams already; end one"), 5));
        }
        if taken.count >= self.most {
            let detail = "all streams that this orchestrator serves at once are taken; try again later";
            return Err(Problem::too_many(detail, 15));
        }
        taken.count += 1;
        taken.by_principal.insert(principal.to_owned(), own + 1);
        Ok(Place { places: Arc::clone(self), principal: principal.to_owned() })
    }

    /// How many are taken.
    pub(crate) fn count(&self) -> usize {
        self.lock().count
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.count -= 1;
        if let Some(own) = taken.by_principal.get_mut(&self.principal) {
            *own -= 1;
            if *own == 0 {
                taken.by_principal.remove(&self.principal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_in_all_and_for_each_and_come_back() {
        let places = Arc::new(Places::new(3, 2));
        let ann = [places.take("ann").unwrap(), places.take("ann").unwrap()];
        assert_eq!(places.take("ann").unwrap_err().status, 429);
        let bob = places.take("bob").unwrap();
        assert_eq!(places.take("eve").unwrap_err().status, 429);
        drop(ann);
        assert!(places.take("ann").is_ok());
        drop(bob);
        assert_eq!(places.count(), 0);
        assert!(places.lock().by_principal.is_empty());
    }
}
