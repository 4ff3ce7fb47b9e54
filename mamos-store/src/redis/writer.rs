//! Shares script calls: callers that wait go together into the next one.
//!
//! No timer: an idle store has the latency of one call, a busy one the throughput of batches, since everything
//! that arrives during a call is in the next one. Callers that went away change nothing: what was queued is
//! done.

use std::collections::VecDeque;
use std::sync::Arc;

use mamos_core::Error;
use tokio::sync::{mpsc, oneshot};

use super::Core;
use super::errors::Fault;

/// How many operations wait at most; further callers wait to be queued.
const QUEUE: usize = 1024;
/// How many jobs one call takes, unless one caller brings more: it bounds how long Redis does nothing else.
const MOST_JOBS: usize = 4000;

/// An operation of which several that wait are done as one.
pub(super) trait Mergeable: Send + Sync + Sized + 'static {
    type Answer: Send + 'static;
    const NAME: &'static str;

    /// How many jobs it is about.
    fn weight(&self) -> usize;

    /// Does them all, in order, and gives one answer for each.
    fn run_all(
        operations: &[Self],
        core: &Core,
    ) -> impl Future<Output = Result<Vec<Self::Answer>, Fault>> + Send;
}

type Waiting<O> = (O, oneshot::Sender<Result<<O as Mergeable>::Answer, Error>>);

/// The way to a task that does operations of one type.
pub(super) struct Writer<O: Mergeable> {
    queue: mpsc::Sender<Waiting<O>>,
}

impl<O: Mergeable> Writer<O> {
    /// Starts the task. It ends when the writer is gone and the queue is empty.
    pub(super) fn start(core: Arc<Core>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(serve(waiting, core));
        Self { queue }
    }

    /// Has the operation done, and waits until it is.
    pub(super) async fn run(&self, operation: O, core: &Core) -> Result<O::Answer, Error> {
        let closed = || Fault::Closed.into_error(O::NAME, &core.place);
        let (answer, done) = oneshot::channel();
        self.queue.send((operation, answer)).await.map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }
}

async fn serve<O: Mergeable>(mut queue: mpsc::Receiver<Waiting<O>>, core: Arc<Core>) {
    let mut waiting: VecDeque<Waiting<O>> = VecDeque::new();
    let mut arrived = Vec::with_capacity(QUEUE);
    loop {
        if waiting.is_empty() {
            if queue.recv_many(&mut arrived, QUEUE).await == 0 {
                return;
            }
        } else {
            while arrived.len() < QUEUE
                && let Ok(next) = queue.try_recv()
            {
                arrived.push(next);
            }
        }
        waiting.extend(arrived.drain(..));
        let (mut operations, mut answers, mut weight) = (Vec::new(), Vec::new(), 0);
        while let Some((operation, _)) = waiting.front() {
            weight += operation.weight();
            if weight > MOST_JOBS && !operations.is_empty() {
                break;
            }
            let Some((operation, answer)) = waiting.pop_front() else { break };
            operations.push(operation);
            answers.push(answer);
        }
        pass(operations, answers, &core).await;
    }
}

/// One call for all; if one of them is wrong, one for each, so that each fails for itself.
async fn pass<O: Mergeable>(
    operations: Vec<O>,
    answers: Vec<oneshot::Sender<Result<O::Answer, Error>>>,
    core: &Core,
) {
    // Callers may have gone away; what was done stays done.
    match O::run_all(&operations, core).await {
        Ok(done) => {
            for (answer, done) in answers.into_iter().zip(done) {
                let _ = answer.send(Ok(done));
            }
        }
        Err(fault) if fault.is_of_one() && operations.len() > 1 => {
            for (operation, answer) in operations.into_iter().zip(answers) {
                let done = match O::run_all(&[operation], core).await {
                    Ok(done) => done.into_iter().next().ok_or(Fault::Closed),
                    Err(fault) => Err(fault),
                };
                let _ = answer.send(done.map_err(|fault| fault.into_error(O::NAME, &core.place)));
            }
        }
        Err(fault) => {
            for answer in answers {
                let _ = answer.send(Err(fault.duplicate().into_error(O::NAME, &core.place)));
            }
        }
    }
}
