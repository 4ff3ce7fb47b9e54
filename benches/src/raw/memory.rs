//! Baselines without a store: what the language and the runtime cost.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::measures::enqueue::{CALLERS, take_one};
use crate::measures::latency::nanos;
use crate::measures::{BULK, payload};

type Queue = Mutex<VecDeque<(u64, Bytes)>>;

fn push(queue: &Queue, jobs: impl IntoIterator<Item = (u64, Bytes)>) {
    queue.lock().unwrap_or_else(PoisonError::into_inner).extend(jobs);
}

/// Pushes one at a time, by as many tasks as there are callers.
pub(crate) async fn enqueue(count: u64, payload_bytes: usize) -> anyhow::Result<Duration> {
    let queue = Arc::new(Queue::default());
    let left = Arc::new(AtomicU64::new(count));
    let mut callers = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..CALLERS {
        let (queue, left, payload) = (Arc::clone(&queue), Arc::clone(&left), payload(payload_bytes));
        callers.spawn(async move {
            let mut id = 0;
            while take_one(&left) {
                id += 1;
                push(&queue, [(id, payload.clone())]);
                // As often as a caller that waits for an answer lets others run.
                tokio::task::yield_now().await;
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done?;
    }
    Ok(begun.elapsed())
}

/// Pushes many at a time.
pub(crate) fn bulk(count: u64, payload_bytes: usize) -> Duration {
    let queue = Queue::default();
    let payload = payload(payload_bytes);
    let begun = Instant::now();
    for first in (0..count).step_by(BULK) {
        let last = (first + BULK as u64).min(count);
        push(&queue, (first..last).map(|id| (id, payload.clone())));
    }
    begun.elapsed()
}

/// Receives a backlog from a channel, in another task than the one that waits for the end.
pub(crate) async fn drain(count: u64, payload_bytes: usize) -> anyhow::Result<Duration> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let payload = payload(payload_bytes);
    for id in 0..count {
        sender.send((id, payload.clone()))?;
    }
    drop(sender);
    let begun = Instant::now();
    let received = tokio::spawn(async move {
        let (mut received, mut bytes) = (0, 0);
        while let Some((_, payload)) = receiver.recv().await {
            received += 1;
            bytes += payload.len();
        }
        (received, bytes)
    });
    let (received, bytes): (u64, usize) = received.await?;
    let took = begun.elapsed();
    anyhow::ensure!(received == count && bytes > 0, "the baseline received {received} of {count} jobs");
    Ok(took)
}

/// Sends to a task that waits, one at a time after a pause.
pub(crate) async fn latency(samples: u64, pause: Duration) -> anyhow::Result<Histogram<u64>> {
    let (sender, mut receiver) = mpsc::channel::<oneshot::Sender<Instant>>(1);
    let waiting = tokio::spawn(async move {
        while let Some(answer) = receiver.recv().await {
            // Fails only if nobody wants to know any more.
            let _ = answer.send(Instant::now());
        }
    });
    let mut histogram = Histogram::new(3)?;
    for _ in 0..samples {
        tokio::time::sleep(pause).await;
        let (answer, answered) = oneshot::channel();
        let begun = Instant::now();
        sender.send(answer).await?;
        histogram.record(nanos(answered.await? - begun))?;
    }
    drop(sender);
    waiting.await?;
    Ok(histogram)
}
