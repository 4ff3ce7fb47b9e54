//! What the kits have in common.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// The longest wait for something that must come.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// How long a promise may take as a whole.
pub(super) const AT_MOST: Duration = Duration::from_secs(60);
/// Silence of this length means that nothing more comes.
pub(super) const SILENCE: Duration = Duration::from_millis(400);

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// The name of the promise.
    pub promise: &'static str,
    /// What was seen instead.
    pub why: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise.replace('_', " "), self.why)
    }
}

/// What a check finds.
pub(super) type Verdict = Result<(), String>;
pub(super) type Check<T> = fn(T) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// Says in one line what must hold.
macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}
pub(super) use ensure;

/// Waits for what must come soon.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(SOON, future).await.map_err(|_| format!("{what} took longer than {SOON:?}"))
}

/// Waits a little for what may come.
pub(super) async fn unless_silent<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(SILENCE, future).await.ok()
}

/// Polls once and drops, as a `select!` does whose other branch is ready.
pub(super) async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    let polled = std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await;
    match polled {
        std::task::Poll::Ready(value) => Some(value),
        std::task::Poll::Pending => None,
    }
}

/// Runs a check, and gives up on one that hangs.
pub(super) async fn judge<T>(promise: &'static str, check: Check<T>, fresh: T) -> Result<(), Broken> {
    let verdict = match tokio::time::timeout(AT_MOST, check(fresh)).await {
        Ok(verdict) => verdict,
        Err(_) => Err(format!("took longer than {AT_MOST:?}")),
    };
    verdict.map_err(|why| Broken { promise, why })
}

/// Runs a test of the macros on a runtime of its own.
///
/// # Panics
///
/// If the promise is broken: that is how a test fails.
#[doc(hidden)]
pub fn run(check: impl Future<Output = Result<(), Broken>>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test may start threads");
    if let Err(broken) = runtime.block_on(check) {
        panic!("a promise is broken: {broken}");
    }
}
