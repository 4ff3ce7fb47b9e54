//! The one writer: takes what waits, does it in one transaction, and answers after the commit.
//!
//! No timer: an idle store has the latency of one commit, a busy one the throughput of batches, since
//! everything that arrives during a commit is in the next one. Callers that went away change nothing:
//! what was queued is done.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use mamos_core::Error;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::enqueue::Enqueue;
use super::errors::Fault;
use super::known::Known;
use super::report::ReportRuns;

/// How many operations wait at most; further callers wait to be queued.
const QUEUE: usize = 1024;
/// How many operations one transaction takes: it bounds the time until the first one is answered.
const BATCH: usize = 512;

/// What operations work with, inside a transaction.
pub(super) struct Tx {
    pub(super) connection: SqliteConnection,
    pub(super) known: Known,
}

/// Something to do in a transaction. Run again from the start if the batch around it failed.
pub(super) trait Operation: Send + Sync + 'static {
    type Answer: Send + 'static;
    /// Its name in errors, for example `store.claim`.
    const NAME: &'static str;

    /// Does it. A [refusal](Fault::Refused) promises that nothing was written.
    fn run(&self, tx: &mut Tx) -> impl Future<Output = Result<Self::Answer, Fault>> + Send;
}

/// An operation of which several that wait one behind the other are done as one.
pub(super) trait Mergeable: Send + Sync + Sized + 'static {
    type Answer: Send + 'static;
    const NAME: &'static str;

    /// Does them all, in order, and gives one answer for each.
    fn run_all(
        operations: &[Self],
        tx: &mut Tx,
    ) -> impl Future<Output = Result<Vec<Self::Answer>, Fault>> + Send;
}

type Answer<T> = oneshot::Sender<Result<T, Error>>;
type Running<'a> = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send + 'a>>;

/// What travels to the writer.
pub(super) enum Request {
    Enqueue(Group<Enqueue>),
    Report(Group<ReportRuns>),
    Other(Box<dyn Step>),
}

/// Part of a transaction.
pub(super) trait Step: Send {
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> Running<'a>;
    /// Gives the operations of a group apart, so that the failure of one is not that of all.
    fn split(self: Box<Self>) -> Vec<Box<dyn Step>>;
    /// Answers with what `run` gave last, or with the fault that undid it.
    fn finish(self: Box<Self>, fault: Option<&Fault>, path: &Path);
}

struct Single<O: Operation> {
    operation: O,
    answer: Answer<O::Answer>,
    done: Option<Result<O::Answer, Fault>>,
}

impl<O: Operation> Step for Single<O> {
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> Running<'a> {
        Box::pin(async move {
            match self.operation.run(tx).await {
                Err(fault) if !fault.is_refusal() => Err(fault),
                done => {
                    self.done = Some(done);
                    Ok(())
                }
            }
        })
    }

    fn split(self: Box<Self>) -> Vec<Box<dyn Step>> {
        vec![self]
    }

    fn finish(self: Box<Self>, fault: Option<&Fault>, path: &Path) {
        let done = match (fault, self.done) {
            (Some(fault), _) => Err(fault.duplicate()),
            (None, done) => done.unwrap_or(Err(Fault::Closed)),
        };
        // The caller may have gone away; what was done stays done.
        let _ = self.answer.send(done.map_err(|fault| fault.into_error(O::NAME, path)));
    }
}

/// Operations of one type that waited one behind the other.
pub(super) struct Group<O: Mergeable> {
    operations: Vec<O>,
    answers: Vec<Answer<O::Answer>>,
    done: Vec<O::Answer>,
}

impl<O: Mergeable> Group<O> {
    fn join(&mut self, other: Self) {
        self.operations.extend(other.operations);
        self.answers.extend(other.answers);
    }
}

impl<O: Mergeable> Step for Group<O> {
    fn run<'a>(&'a mut self, tx: &'a mut Tx) -> Running<'a> {
        Box::pin(async move {
            self.done = O::run_all(&self.operations, tx).await?;
            Ok(())
        })
    }

    fn split(self: Box<Self>) -> Vec<Box<dyn Step>> {
        let each = self.operations.into_iter().zip(self.answers);
        each.map(|(operation, answer)| {
            let group = Self { operations: vec![operation], answers: vec![answer], done: Vec::new() };
            Box::new(group) as Box<dyn Step>
        })
        .collect()
    }

    fn finish(self: Box<Self>, fault: Option<&Fault>, path: &Path) {
        let mut done = self.done.into_iter();
        for answer in self.answers {
            let result = match fault {
                Some(fault) => Err(fault.duplicate()),
                None => done.next().ok_or(Fault::Closed),
            };
            // The caller may have gone away; what was done stays done.
            let _ = answer.send(result.map_err(|fault| fault.into_error(O::NAME, path)));
        }
    }
}

/// The way to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Request>,
    path: Arc<PathBuf>,
}

impl Writer {
    /// Starts the writer on a connection. It ends when the last [`Writer`] is gone and the queue is
    /// empty.
    pub(super) fn start(
        connection: SqliteConnection,
        options: SqliteConnectOptions,
        path: Arc<PathBuf>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, requests) = mpsc::channel(QUEUE);
        let tx = Tx { connection, known: Known::default() };
        let task = tokio::spawn(serve(requests, tx, options, Arc::clone(&path)));
        (Self { queue, path }, task)
    }

    /// Has the operation done, and waits until it is durable.
    pub(super) async fn run<O: Operation>(&self, operation: O) -> Result<O::Answer, Error> {
        let (answer, done) = oneshot::channel();
        let step = Single { operation, answer, done: None };
        self.send(Request::Other(Box::new(step)), O::NAME, done).await
    }

    /// The same, for an operation that is merged with its neighbours.
    pub(super) async fn run_merged<O: Mergeable>(
        &self,
        operation: O,
        request: fn(Group<O>) -> Request,
    ) -> Result<O::Answer, Error> {
        let (answer, done) = oneshot::channel();
        let group = Group { operations: vec![operation], answers: vec![answer], done: Vec::new() };
        self.send(request(group), O::NAME, done).await
    }

    async fn send<T>(
        &self,
        request: Request,
        operation: &'static str,
        done: oneshot::Receiver<Result<T, Error>>,
    ) -> Result<T, Error> {
        let closed = || Fault::Closed.into_error(operation, &self.path);
        self.queue.send(request).await.map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }
}

async fn serve(
    mut requests: mpsc::Receiver<Request>,
    mut tx: Tx,
    options: SqliteConnectOptions,
    path: Arc<PathBuf>,
) {
    let mut waiting = Vec::with_capacity(BATCH);
    while requests.recv_many(&mut waiting, BATCH).await > 0 {
        pass(&mut tx, merge(waiting.drain(..)), &options, &path).await;
    }
    if let Err(error) = tx.connection.close().await {
        tracing::warn!(%error, path = %path.display(), "the database was not closed cleanly; nothing is lost");
    }
}

/// Joins neighbours of the same type. The order of operations stays as it was.
fn merge(requests: impl Iterator<Item = Request>) -> Vec<Box<dyn Step>> {
    let mut merged: Vec<Request> = Vec::new();
    for request in requests {
        match (merged.last_mut(), request) {
            (Some(Request::Enqueue(group)), Request::Enqueue(next)) => group.join(next),
            (Some(Request::Report(group)), Request::Report(next)) => group.join(next),
            (_, request) => merged.push(request),
        }
    }
    let step = |request| match request {
        Request::Enqueue(group) => Box::new(group) as Box<dyn Step>,
        Request::Report(group) => Box::new(group),
        Request::Other(step) => step,
    };
    merged.into_iter().map(step).collect()
}

/// One transaction for all; if a step fails, one for each operation, so that each fails for itself.
async fn pass(tx: &mut Tx, mut steps: Vec<Box<dyn Step>>, options: &SqliteConnectOptions, path: &Path) {
    match transaction(tx, &mut steps, options).await {
        Ok(()) => finish(steps, None, path),
        Err(Failed::Whole(fault)) => finish(steps, Some(&fault), path),
        Err(Failed::Step(_)) => {
            for step in steps.into_iter().flat_map(Step::split) {
                let mut alone = vec![step];
                match transaction(tx, &mut alone, options).await {
                    Ok(()) => finish(alone, None, path),
                    Err(Failed::Whole(fault) | Failed::Step(fault)) => finish(alone, Some(&fault), path),
                }
            }
        }
    }
}

fn finish(steps: Vec<Box<dyn Step>>, fault: Option<&Fault>, path: &Path) {
    for step in steps {
        step.finish(fault, path);
    }
}

/// Why a transaction was undone.
enum Failed {
    /// It did not begin or did not commit: trying its operations one by one would not help.
    Whole(Fault),
    Step(Fault),
}

async fn transaction(
    tx: &mut Tx,
    steps: &mut [Box<dyn Step>],
    options: &SqliteConnectOptions,
) -> Result<(), Failed> {
    let failed = match attempt(tx, steps).await {
        Ok(()) => return Ok(()),
        Err(failed) => failed,
    };
    // What was learned in the transaction went with it.
    tx.known = Known::default();
    // An error may have rolled back already, and then this one says so; a connection that is broken
    // shows that at the ping.
    let _ = sqlx::query("ROLLBACK").execute(&mut tx.connection).await;
    if matches!(failed, Failed::Whole(_)) || tx.connection.ping().await.is_err() {
        match SqliteConnection::connect_with(options).await {
            Ok(connection) => tx.connection = connection,
            Err(error) => {
                tracing::warn!(%error, "the database could not be opened again; trying the old connection")
            }
        }
    }
    Err(failed)
}

async fn attempt(tx: &mut Tx, steps: &mut [Box<dyn Step>]) -> Result<(), Failed> {
    let whole = |error: sqlx::Error| Failed::Whole(error.into());
    sqlx::query("BEGIN IMMEDIATE").execute(&mut tx.connection).await.map_err(whole)?;
    for step in steps {
        step.run(tx).await.map_err(Failed::Step)?;
    }
    sqlx::query("COMMIT").execute(&mut tx.connection).await.map_err(whole)?;
    Ok(())
}
