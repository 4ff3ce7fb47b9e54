//! A way to whichever of several orchestrators answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{FuturesUnordered, StreamExt};
use mamos_core::transport::{Connection, Connector};
use mamos_core::{Error, ErrorKind, Result};

/// One that has not answered for so long is not waited for alone: the next is tried beside it. Longer than
/// an answer takes across the world, and short enough that two dead machines cost no second.
const PATIENCE: Duration = Duration::from_millis(300);

/// Connects to one of several orchestrators on one store: each time first to the one after that which it
/// had last, because whoever connects anew has just lost that one. An orchestrator that stands still still
/// takes connections, and says nothing on them: to begin with it again would be to wait for it for ever.
///
/// Agents behind different connectors are spread by beginning at different ones: see
/// [`AnyOf::beginning_at`].
///
/// # Source
///
/// RFC 8305, "Happy Eyeballs": candidates are tried one after the other, without waiting for the end of
/// the one before.
#[derive(Debug)]
pub struct AnyOf<C> {
    candidates: Vec<C>,
    next: AtomicUsize,
}

impl<C: Connector> AnyOf<C> {
    /// A way to any of these, the first one first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`] if there is none.
    pub fn new(candidates: Vec<C>) -> Result<Self> {
        if candidates.is_empty() {
            let message = "there is no orchestrator to connect to; name at least one";
            return Err(Error::new(ErrorKind::Config, "any_of.new", message));
        }
        Ok(Self { candidates, next: AtomicUsize::new(0) })
    }

    /// Begins at another one than the first: at `start` modulo their number. Give each agent a number of its
    /// own, so that not all of them come to the same orchestrator.
    #[must_use]
    pub fn beginning_at(mut self, start: usize) -> Self {
        self.next = AtomicUsize::new(start % self.candidates.len());
        self
    }
}

#[async_trait]
impl<C: Connector> Connector for AnyOf<C> {
    async fn connect(&self) -> Result<Arc<dyn Connection>> {
        let count = self.candidates.len();
        let first = self.next.load(Ordering::Relaxed) % count;
        let mut waiting = (0..count).map(|n| (first + n) % count);
        let try_one = |index: usize| async move { (index, self.candidates[index].connect().await) };
        let mut tries: FuturesUnordered<_> = waiting.by_ref().take(1).map(try_one).collect();
        let mut failed: Option<Error> = None;
        loop {
            // Once all are under way, nothing is left but to wait for them.
            let answer = match waiting.len() {
                0 => tries.next().await,
                _ => tokio::time::timeout(PATIENCE, tries.next()).await.ok().flatten(),
            };
            match answer {
                Some((index, Ok(connection))) => {
                    self.next.store(index + 1, Ordering::Relaxed);
                    return Ok(connection);
                }
                Some((_, Err(error))) => {
                    tracing::debug!(target: "mamos::transport", %error, "one orchestrator does not answer");
                    // That one may answer later says more than that another never will.
                    if failed.as_ref().is_none_or(|before| !before.is_retryable()) {
                        failed = Some(error);
                    }
                }
                None => {}
            }
            match waiting.next() {
                Some(index) => tries.push(try_one(index)),
                None if tries.is_empty() => {
                    let none =
                        || Error::new(ErrorKind::Unavailable, "any_of.connect", "none of them answers");
                    return Err(failed.unwrap_or_else(none));
                }
                None => {}
            }
        }
    }

    fn describe(&self) -> String {
        let all: Vec<String> = self.candidates.iter().map(Connector::describe).collect();
        all.join(" or ")
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::memory;

    /// What a candidate does.
    #[derive(Debug)]
    enum Candidate {
        Answers(memory::MemoryConnector, #[expect(unused, reason = "keeps it open")] memory::MemoryListener),
        Refuses(ErrorKind),
        Silent,
    }

    #[async_trait]
    impl Connector for Candidate {
        async fn connect(&self) -> Result<Arc<dyn Connection>> {
            match self {
                Self::Answers(connector, _) => connector.connect().await,
                Self::Refuses(kind) => Err(Error::new(*kind, "test.connect", "refused")),
                Self::Silent => std::future::pending().await,
            }
        }

        fn describe(&self) -> String {
            "candidate".to_owned()
        }
    }

    fn answers() -> Candidate {
        let (listener, connector) = memory::pair();
        Candidate::Answers(connector, listener)
    }

    async fn took(any: &AnyOf<Candidate>) -> Duration {
        let began = Instant::now();
        any.connect().await.unwrap();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refuses_is_passed_over_at_once_and_one_that_is_silent_after_a_moment() {
        let refused = || Candidate::Refuses(ErrorKind::Unavailable);
        let any = AnyOf::new(vec![refused(), refused(), answers()]).unwrap();
        assert_eq!(took(&any).await, Duration::ZERO);
        let any = AnyOf::new(vec![Candidate::Silent, Candidate::Silent, answers()]).unwrap();
        assert_eq!(took(&any).await, 2 * PATIENCE);
        assert_eq!(took(&any).await, 2 * PATIENCE, "the one that it had comes last now");
    }

    #[tokio::test(start_paused = true)]
    async fn if_none_answers_the_error_says_whether_trying_again_helps() {
        for (kinds, kind) in [
            ([ErrorKind::Config, ErrorKind::Unavailable], ErrorKind::Unavailable),
            ([ErrorKind::Unavailable, ErrorKind::Config], ErrorKind::Unavailable),
            ([ErrorKind::Config, ErrorKind::Config], ErrorKind::Config),
        ] {
            let any = AnyOf::new(kinds.map(Candidate::Refuses).into()).unwrap();
            assert_eq!(any.connect().await.unwrap_err().kind(), kind);
        }
        assert_eq!(AnyOf::<Candidate>::new(Vec::new()).unwrap_err().kind(), ErrorKind::Config);
    }

    #[tokio::test(start_paused = true)]
    async fn agents_can_begin_at_different_ones() {
        let any = AnyOf::new(vec![Candidate::Silent, answers()]).unwrap().beginning_at(3);
        assert_eq!(took(&any).await, Duration::ZERO);
        assert_eq!(any.describe(), "candidate or candidate");
    }
}
