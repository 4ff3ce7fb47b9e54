//! Operations of one sort, done together: a task owns a connection, takes whatever waits, does it in as
//! few statements as it can, and answers after the commit.
//!
//! No timer: an idle store has the latency of one commit, a busy one the throughput of batches, since
//! everything that arrives during a commit is in the next one. Callers that went away change nothing:
//! what was queued is done.

use std::sync::Arc;

use mamos_core::Error;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::connect::{Place, Plans};
use super::errors::{Fault, RETRIES, pause, timed_out};
use super::known::Known;
use super::tx::Tx;

/// How many operations wait at most; further callers wait to be queued.
const QUEUE: usize = 1024;

/// Operations that are done together.
pub(super) trait Batch: Send + Sync + Sized + 'static {
    type Answer: Send + 'static;
    /// Its name in errors, for example `store.claim`.
    const NAME: &'static str;
    /// How many operations are done together at most: it bounds the time until the first one is answered.
    const MOST: usize;
    /// How its statements are planned.
    const PLANS: Plans;

    /// Does them all, in order, and gives one answer for each.
    fn run_all(
        operations: &[Self],
        tx: &mut Tx<'_>,
    ) -> impl Future<Output = Result<Vec<Self::Answer>, Fault>> + Send;
}

type Answer<T> = oneshot::Sender<Result<T, Error>>;
type Request<O> = (O, Answer<<O as Batch>::Answer>);

/// The way to such a task.
#[derive(Debug)]
pub(super) struct Drain<O: Batch> {
    queue: mpsc::Sender<Request<O>>,
    place: Arc<Place>,
}

impl<O: Batch> Clone for Drain<O> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), place: Arc::clone(&self.place) }
    }
}

impl<O: Batch> Drain<O> {
    /// Starts it. It ends when the last [`Drain`] is gone and the queue is empty.
    pub(super) fn start(place: Arc<Place>, known: Arc<Known>) -> (Self, JoinHandle<()>) {
        let (queue, requests) = mpsc::channel(QUEUE);
        let server = Server { place: Arc::clone(&place), known, connection: None };
        (Self { queue, place }, tokio::spawn(server.serve(requests)))
    }

    /// Has the operation done, and waits until it is durable.
    pub(super) async fn run(&self, operation: O) -> Result<O::Answer, Error> {
        let closed = || Fault::Closed.at(O::NAME, &self.place.name);
        let (answer, done) = oneshot::channel();
        self.queue.send((operation, answer)).await.map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }
}

struct Server {
    place: Arc<Place>,
    known: Arc<Known>,
    connection: Option<PgConnection>,
}

impl Server {
    async fn serve<O: Batch>(mut self, mut requests: mpsc::Receiver<Request<O>>) {
        let mut waiting = Vec::with_capacity(O::MOST);
        while requests.recv_many(&mut waiting, O::MOST).await > 0 {
            let (operations, answers): (Vec<O>, Vec<Answer<O::Answer>>) = waiting.drain(..).unzip();
            self.pass(&operations, answers).await;
        }
        if let Some(connection) = self.connection {
            // Nothing is in it any more.
            let _ = connection.close().await;
        }
    }

    /// Does them together; if that fails, each alone, so that each fails for itself.
    async fn pass<O: Batch>(&mut self, operations: &[O], answers: Vec<Answer<O::Answer>>) {
        match self.attempt(operations).await {
            // The callers may have gone away; what was done stays done.
            Ok(done) => {
                for (answer, done) in answers.into_iter().zip(done) {
                    let _ = answer.send(Ok(done));
                }
            }
            Err(fault) if operations.len() == 1 || fault.is_link_lost() => {
                for answer in answers {
                    let _ = answer.send(Err(fault.again().at(O::NAME, &self.place.name)));
                }
            }
            Err(_) => {
                for (operation, answer) in operations.iter().zip(answers) {
                    let alone = self.attempt(std::slice::from_ref(operation)).await;
                    let alone = alone.and_then(|mut done| done.pop().ok_or(Fault::Closed));
                    let _ = answer.send(alone.map_err(|fault| fault.at(O::NAME, &self.place.name)));
                }
            }
        }
    }

    async fn attempt<O: Batch>(&mut self, operations: &[O]) -> Result<Vec<O::Answer>, Fault> {
        let mut tries = 0;
        loop {
            let timeout = self.place.timeout;
            let done = tokio::time::timeout(timeout, self.once(operations)).await;
            let fault = match done.unwrap_or_else(|_| Err(timed_out())) {
                Ok(done) => return Ok(done),
                Err(fault) => fault,
            };
            if fault.is_link_lost() || !self.roll_back().await {
                self.connection = None;
            }
            if !fault.is_passing() || tries == RETRIES {
                return Err(fault);
            }
            tries += 1;
            tokio::time::sleep(pause(tries)).await;
        }
    }

    async fn once<O: Batch>(&mut self, operations: &[O]) -> Result<Vec<O::Answer>, Fault> {
        let connection = match self.connection.take() {
            Some(connection) => self.connection.insert(connection),
            None => self.connection.insert(self.place.connect_hot(O::PLANS).await?),
        };
        O::run_all(operations, &mut Tx { connection, known: &self.known }).await
    }

    /// Ends what a failure left open. Gives false if the connection is of no use any more.
    async fn roll_back(&mut self) -> bool {
        let Some(connection) = &mut self.connection else { return false };
        let rolled_back = sqlx::query("ROLLBACK").execute(connection);
        tokio::time::timeout(self.place.timeout, rolled_back).await.is_ok_and(|done| done.is_ok())
    }
}
