//! Handlers in a registry, each run once without an orchestrator.

#![expect(clippy::unwrap_used, reason = "tests, and their helpers outside test functions")]

use std::sync::Arc;
use std::time::Duration;

use mamos_agent::testing::{run_attempt, run_once};
use mamos_agent::{Handler, HandlerRegistry, JobContext, JobError};
use mamos_core::agent::{Agent, Cancellation};
use mamos_core::job::{Failure, JobPolicy, Outcome};
use mamos_core::{AgentKind, ErrorKind, Job};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Parse(String);

impl Job for Parse {
    const KIND: &'static str = "parse";
    type Output = u32;

    fn policy() -> JobPolicy {
        let mut policy = JobPolicy::default();
        policy.timeout = Some(Duration::from_secs(5));
        policy
    }
}

async fn parse(job: Parse, context: JobContext) -> Result<u32, JobError> {
    context.progress(50.0, "parsing");
    context.log(format!("attempt {} with {:?} left\n", context.attempt(), context.remaining())).await;
    match job.0.as_str() {
        "panic" => panic!("no number at all"),
        "sleep" => std::future::pending().await,
        "wait" => {
            context.cancelled().await;
            Err(JobError::cancelled())
        }
        text => Ok(text.parse()?),
    }
}

/// The same kind, with other arguments.
#[derive(Serialize, Deserialize)]
struct Numbers(Vec<u32>);

impl Job for Numbers {
    const KIND: &'static str = "parse";
    type Output = u32;
}

#[derive(Serialize, Deserialize)]
struct Add(u32);

impl Job for Add {
    const KIND: &'static str = "add";
    type Output = u32;
}

#[derive(Serialize, Deserialize)]
struct Nameless;

impl Job for Nameless {
    const KIND: &'static str = "not a name";
    type Output = ();
}

struct Adder(u32);

impl Handler<Add> for Adder {
    async fn run(&self, job: Add, _: JobContext) -> Result<u32, JobError> {
        job.0.checked_add(self.0).ok_or_else(|| JobError::permanent("too much").with_code("overflow"))
    }
}

fn registry() -> HandlerRegistry {
    HandlerRegistry::new(AgentKind::new("test").unwrap(), "test").register::<Parse, _>(parse).unwrap()
}

async fn outcome_of(text: &str) -> Outcome {
    run_once(&registry(), &Parse(text.to_owned())).await.unwrap().outcome
}

fn code_of(outcome: &Outcome) -> (&str, &str) {
    match outcome {
        Outcome::Retry { failure, .. } => ("retry", &failure.code),
        Outcome::Bury { failure } => ("bury", &failure.code),
        _ => ("other", ""),
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_gets_its_arguments_and_gives_its_output() {
    let tried = run_attempt(&registry(), &Parse("42".to_owned()), 3, Cancellation::new()).await.unwrap();
    assert_eq!(tried.output, Some(42));
    assert_eq!(tried.log, "attempt 3 with Some(5s) left\n");
    assert_eq!(tried.progress[0].percent, Some(50.0));
}

#[tokio::test(start_paused = true)]
async fn each_way_to_fail_has_its_outcome_and_code() {
    assert_eq!(code_of(&outcome_of("x").await), ("retry", "failed"));
    assert_eq!(code_of(&outcome_of("sleep").await), ("retry", "timeout"));
    let panicked = Outcome::Retry { failure: Failure::new("panicked", "no number at all"), after: None };
    assert_eq!(outcome_of("panic").await, panicked);
    let undecodable = run_once(&registry(), &Numbers(vec![1])).await.unwrap().outcome;
    assert_eq!(code_of(&undecodable), ("bury", "undecodable"));
    let unknown = run_once(&registry(), &Add(1)).await.unwrap().outcome;
    assert_eq!(code_of(&unknown), ("bury", "unknown_kind"));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_attempt_can_say_so() {
    let cancellation = Cancellation::new();
    cancellation.cancel(Duration::from_secs(1));
    let tried = run_attempt(&registry(), &Parse("wait".to_owned()), 1, cancellation).await.unwrap();
    assert_eq!(tried.outcome, Outcome::Cancelled);
}

#[tokio::test]
async fn a_handler_with_state_and_another_agent_are_reached_by_kind() {
    let other =
        HandlerRegistry::new(AgentKind::new("other").unwrap(), "other").register::<Add, _>(Adder(2)).unwrap();
    let registry = registry().slots(7).with_agent(Arc::new(other)).unwrap();
    assert_eq!(run_once(&registry, &Add(40)).await.unwrap().output, Some(42));
    let too_much = run_once(&registry, &Add(u32::MAX)).await.unwrap().outcome;
    assert_eq!(code_of(&too_much), ("bury", "overflow"));
    let profile = registry.profile();
    assert_eq!((profile.slots, profile.name.as_str()), (7, "test"));
    assert_eq!(profile.kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>(), ["add", "parse"]);
}

#[test]
fn a_kind_has_one_handler_and_a_valid_name() {
    let twice = registry().register::<Parse, _>(parse).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Conflict);
    let other = registry();
    assert_eq!(registry().with_agent(Arc::new(other)).unwrap_err().kind(), ErrorKind::Conflict);
    let nameless = registry().register::<Nameless, _>(async |_, _| Ok(()));
    assert_eq!(nameless.unwrap_err().kind(), ErrorKind::Invalid);
}
