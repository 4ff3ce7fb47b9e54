//! Moves frames one way, with a bounded number of them on their way, and checks each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::Semaphore;

/// The most frames on their way: half of what every bus keeps for a transient subscription, so that none
/// is dropped for room.
pub(super) const MAX_WINDOW: usize = 512;
/// The same in bytes: a quarter of what every bus keeps.
const MAX_WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// The window moves on in so many steps: few enough that the two ends do not wake each other for every
/// frame.
const STEPS: usize = 4;
/// Nothing arrived for so long: something was lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// The end that sends.
pub(super) trait Sends: Send + 'static {
    /// Sends frames in order. Need not wait until the broker has them.
    fn send(&mut self, frames: &[Bytes]) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// The end that receives.
pub(super) trait Receives: Send + 'static {
    /// The next frame.
    fn receive(&mut self) -> impl Future<Output = anyhow::Result<Bytes>> + Send;
}

/// The frames of a measure. They repeat after two windows, so that a number tells which one is missing, and
/// making them costs nothing while it is measured.
#[derive(Debug, Clone)]
pub(super) struct Frames {
    count: u64,
    window: usize,
    ring: Arc<[Bytes]>,
}

impl Frames {
    /// So many frames of so many bytes, at least 8.
    pub(super) fn new(count: u64, bytes: usize) -> Self {
        let window = (MAX_WINDOW_BYTES / bytes.max(1)).clamp(STEPS, MAX_WINDOW);
        let frame = |number: u64| {
            let mut frame = vec![0x5a; bytes.max(8)];
            frame[..8].copy_from_slice(&number.to_be_bytes());
            Bytes::from(frame)
        };
        Self { count, window, ring: (0..2 * window as u64).map(frame).collect() }
    }

    fn at(&self, number: u64) -> &Bytes {
        &self.ring[(number % self.ring.len() as u64) as usize]
    }

    /// From this one on, as many as there are without a break.
    fn run(&self, first: u64, most: usize) -> &[Bytes] {
        let start = (first % self.ring.len() as u64) as usize;
        &self.ring[start..self.ring.len().min(start + most)]
    }
}

/// Moves all frames from one end to the other, and gives how long that took. One window goes first and is
/// not measured.
///
/// Fails if one is lost, comes twice, is changed or overtakes another.
pub(super) async fn carry(
    mut sender: impl Sends,
    mut receiver: impl Receives,
    frames: &Frames,
) -> anyhow::Result<Duration> {
    let step = frames.window / STEPS;
    let count = frames.count + frames.window as u64;
    let room = Arc::new(Semaphore::new(frames.window));
    let (more, all) = (Arc::clone(&room), frames.clone());
    let mut receiving = tokio::spawn(async move {
        let mut begun = Instant::now();
        let mut number = 0;
        while number < count {
            let end = count.min(number + step as u64);
            let received = async {
                for number in number..end {
                    let frame = receiver.receive().await?;
                    check(&frame, all.at(number), number)?;
                }
                anyhow::Ok(())
            };
            tokio::time::timeout(PATIENCE, received).await.with_context(|| {
                format!(
                    "of the frames from {number} to {end}, one has not arrived in {PATIENCE:?}: it was lost"
                )
            })??;
            more.add_permits((end - number) as usize);
            number = end;
            if number == all.window as u64 {
                begun = Instant::now();
            }
        }
        anyhow::Ok(begun.elapsed())
    });
    let all = frames.clone();
    // A task, as the senders of a program are: from outside of the runtime each wake-up costs more.
    let mut sending = tokio::spawn(async move {
        let mut number = 0;
        while number < count {
            let most = step.min(usize::try_from(count - number).unwrap_or(step));
            let run = all.run(number, most);
            room.acquire_many(u32::try_from(run.len())?).await?.forget();
            sender.send(run).await?;
            number += run.len() as u64;
        }
        anyhow::Ok(sender)
    });
    // The sender stays until everything has arrived: its end may end the link.
    let _sender;
    tokio::select! {
        sent = &mut sending => _sender = sent??,
        received = &mut receiving => {
            sending.abort();
            return received?;
        }
    }
    receiving.await?
}

fn check(frame: &Bytes, expected: &Bytes, number: u64) -> anyhow::Result<()> {
    if frame == expected {
        return Ok(());
    }
    let name = |frame: &Bytes| frame.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
    anyhow::bail!(
        "frame {number} is not what was sent: number {:?} instead of {:?} within the ring, {} bytes instead of {}",
        name(frame),
        name(expected),
        frame.len(),
        expected.len()
    )
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    struct Channel(mpsc::Sender<Bytes>, fn(u64) -> u64, u64);

    impl Sends for Channel {
        async fn send(&mut self, frames: &[Bytes]) -> anyhow::Result<()> {
            for frame in frames {
                let times = (self.1)(self.2);
                self.2 += 1;
                for _ in 0..times {
                    self.0.send(frame.clone()).await?;
                }
            }
            Ok(())
        }
    }

    impl Receives for mpsc::Receiver<Bytes> {
        async fn receive(&mut self) -> anyhow::Result<Bytes> {
            self.recv().await.context("closed")
        }
    }

    async fn carried(times: fn(u64) -> u64) -> anyhow::Result<Duration> {
        let (sender, receiver) = mpsc::channel(MAX_WINDOW);
        carry(Channel(sender, times, 0), receiver, &Frames::new(5000, 64)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_is_lost_or_repeated_fails_the_measure() {
        carried(|_| 1).await.unwrap();
        let lost = carried(|number| u64::from(number != 4000)).await.unwrap_err();
        assert!(format!("{lost:#}").contains("frame 4000"), "{lost:#}");
        let last = carried(|number| u64::from(number != 5511)).await.unwrap_err();
        assert!(format!("{last:#}").contains("lost"), "{last:#}");
        let twice = carried(|number| 1 + u64::from(number == 3)).await.unwrap_err();
        assert!(format!("{twice:#}").contains("frame 4"), "{twice:#}");
    }
}
