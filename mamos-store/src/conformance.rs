//! The conformance kit: every promise of the store ports as a named test, for any store.
//!
//! A store either keeps the whole contract or is not a store. To check yours, say how to make an empty
//! one:
//!
//! ```
//! # #[cfg(test)]
//! mod conformance {
//!     use mamos_store::conformance::Fresh;
//!
//!     async fn fresh() -> Fresh {
//!         // A store on disk gives its directory along: `Fresh::with_guard(store, directory)`.
//!         Fresh::new(mamos_store::MemoryStore::new())
//!     }
//!
//!     mamos_store::store_conformance!(fresh);
//! }
//! ```
//!
//! That gives one test a promise, so `tokio` must be a dev-dependency with `macros` and
//! `rt-multi-thread`. All promises are listed once, in `conformance/promises.rs`: a new one reaches
//! every store at the next build. [`failures`] runs the same list without a test harness, and
//! [`model`] compares a store with another one over random operations.
//!
//! The kit takes the time as an argument throughout and never sleeps.

#![expect(clippy::unwrap_used, reason = "a promise that is broken panics: that is how the kit tells")]
#![expect(missing_docs, reason = "the name of a promise is the sentence that documents it")]

pub mod agents;
pub mod attach;
pub mod cancel;
pub mod claim;
pub mod documents;
pub mod enqueue;
pub mod hints;
pub mod history;
pub mod lists;
pub mod logs;
pub mod model;
pub mod queues;
pub mod report;
pub mod sessions;
pub mod settle;
pub mod sweep;
pub mod tokens;

mod promises;
mod scene;

use std::any::Any;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mamos_core::Store;

pub use self::promises::PROMISES;
pub use self::scene::session_at;

/// No promise takes longer on any machine that is not stuck.
const PATIENCE: Duration = Duration::from_secs(120);

/// An empty store, and what must live as long as it.
pub struct Fresh {
    store: Arc<dyn Store>,
    guard: Box<dyn Any + Send + Sync>,
}

impl Fresh {
    /// A store that needs nothing else.
    pub fn new(store: impl Store) -> Self {
        Self::with_guard(store, ())
    }

    /// A store and what must live as long as it, for example the directory that holds it.
    pub fn with_guard(store: impl Store, guard: impl Any + Send + Sync) -> Self {
        Self { store: Arc::new(store), guard: Box::new(guard) }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_guard = !(*self.guard).is::<()>();
        f.debug_struct("Fresh").field("store", &self.store.describe()).field("has_guard", &has_guard).finish()
    }
}

/// A check on its way.
pub type Checking = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A promise: its name, and the test that panics if a store does not keep it.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    /// The name, a sentence.
    pub name: &'static str,
    /// Checks it on an empty store.
    pub check: fn(Arc<dyn Store>) -> Checking,
}

/// Checks every promise, each on a fresh store, and gives those that are broken and how.
///
/// # Panics
///
/// Outside a Tokio runtime.
pub async fn failures<F: Future<Output = Fresh>>(fresh: impl Fn() -> F) -> Vec<(&'static str, String)> {
    let mut failures = Vec::new();
    for promise in PROMISES {
        let broken = promise.failure(fresh().await).await;
        failures.extend(broken.map(|how| (promise.name, how)));
    }
    failures
}

impl Promise {
    /// Checks this one, and gives how it is broken if it is. Several can be checked at once, each on a store of its
    /// own.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub async fn failure(&self, fresh: Fresh) -> Option<String> {
        // Its own task, so that a panic ends the promise and not the list.
        let check = tokio::spawn((self.check)(Arc::clone(fresh.store())));
        let abort = check.abort_handle();
        match tokio::time::timeout(PATIENCE, check).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(explain(error)),
            Err(_) => {
                abort.abort();
                Some("it did not come to an end".to_owned())
            }
        }
    }
}

fn explain(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "it was cancelled".to_owned() };
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}

/// One test a promise, over the stores that the given function makes.
///
/// The function is `async fn() -> Fresh`; see [`conformance`](crate::conformance).
#[macro_export]
macro_rules! store_conformance {
    ($fresh:path) => {
        $crate::__store_promises! { __store_tests $fresh }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_tests {
    ($fresh:path; $($noun:ident: $($name:ident)+;)+) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let fresh: $crate::conformance::Fresh = $fresh().await;
            $crate::conformance::$noun::$name(fresh.store()).await;
        }
    )+)+};
}
