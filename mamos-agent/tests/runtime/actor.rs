//! An agent that does what the arguments of its jobs say, and notes what it did.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mamos_core::Agent;
use mamos_core::agent::{AgentProfile, Attempt, LogStream};
use mamos_core::job::{Outcome, Progress};
use tokio::sync::{Semaphore, watch};

use super::orchestrator::profile;

pub(crate) struct Actor {
    slots: u32,
    /// Lets one attempt that waits at the gate through for each permit.
    pub(crate) gate: Semaphore,
    /// How many run now.
    pub(crate) running: watch::Sender<usize>,
    pub(crate) most: AtomicUsize,
    /// The epochs of the runs that were started, in order.
    pub(crate) started: watch::Sender<Vec<u64>>,
}

/// Counts an attempt while its future exists.
struct Presence<'a>(&'a Actor);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| *running -= 1);
    }
}

impl Actor {
    pub(crate) fn new(slots: u32) -> Arc<Self> {
        Arc::new(Self {
            slots,
            gate: Semaphore::new(0),
            running: watch::Sender::new(0),
            most: AtomicUsize::new(0),
            started: watch::Sender::new(Vec::new()),
        })
    }

    pub(crate) async fn until_running(&self, count: usize) {
        self.running.subscribe().wait_for(|running| *running == count).await.unwrap();
    }
}

#[async_trait]
impl Agent for Actor {
    fn profile(&self) -> AgentProfile {
        profile(self.slots)
    }

    async fn run(&self, attempt: Attempt) -> Outcome {
        self.running.send_modify(|running| {
            *running += 1;
            self.most.fetch_max(*running, Ordering::SeqCst);
        });
        let _present = Presence(self);
        self.started.send_modify(|started| started.push(attempt.run.epoch.number()));
        let what = String::from_utf8(attempt.payload.to_vec()).unwrap();
        match what.as_str() {
            "gate" => self.gate.acquire().await.unwrap().forget(),
            "polite" => {
                attempt.cancellation.cancelled().await;
                return Outcome::Cancelled;
            }
            "finishes when cancelled" => {
                attempt.cancellation.cancelled().await;
            }
            "stubborn" => std::future::pending().await,
            "panic" => panic!("out of cheese"),
            "chatter" => {
                for _ in 0..1000 {
                    attempt.reporter.log(LogStream::Stdout, Bytes::from(vec![b'x'; 1024])).await;
                }
            }
            "progress" => {
                for n in 1u8..=100 {
                    attempt.reporter.progress(Progress::new(Some(f32::from(n)), ""));
                }
                std::future::pending().await
            }
            "sleep" => tokio::time::sleep(Duration::from_secs(5)).await,
            "block" => {
                // Blocks its thread on purpose, until the test lets it through.
                while self.gate.try_acquire().is_err() {
                    std::thread::yield_now();
                }
            }
            _ => {}
        }
        Outcome::Succeeded { output: what.into() }
    }
}
