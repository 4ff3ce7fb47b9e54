//! Tests: the plans of the statements whose cost must not grow with the backlog.

use mamos_core::clock::Timestamp;
use mamos_core::job::retry::RetryPolicy;
use mamos_core::job::rules::{RunFacts, after_settle};
use mamos_core::job::state::JobState;
use mamos_core::job::{Counters, Outcome};
use sqlx::{AssertSqlSafe, Connection, Row, SqliteConnection};

use super::claim::plan_of_claim;
use super::{documents, lists, schema, successes, sweep};

async fn plan(statement: &str) -> String {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    schema::migrate(&mut connection).await.unwrap();
    let explain = format!("EXPLAIN QUERY PLAN {statement}");
    let rows = sqlx::query(AssertSqlSafe(explain)).fetch_all(&mut connection).await.unwrap();
    rows.iter().map(|row| row.get::<String, _>(3) + "\n").collect()
}

fn assert_uses(plan: &str, index: &str) {
    assert!(plan.contains(index), "expected {index} in:\n{plan}");
    assert!(!plan.contains("TEMP B-TREE"), "it sorts:\n{plan}");
    assert!(!plan.contains("SCAN mamos_job") && !plan.contains("SCAN j"), "it reads all jobs:\n{plan}");
}

#[tokio::test]
async fn a_claim_reads_the_index_of_ready_jobs_in_its_order() {
    for lanes in [1, 3, 64] {
        let plan = plan(&plan_of_claim(lanes)).await;
        assert_uses(&plan, "USING COVERING INDEX mamos_job_ready (lane=?)");
    }
}

#[tokio::test]
async fn a_sweep_reads_only_what_is_due() {
    assert_uses(&plan(sweep::DUE).await, "INDEX mamos_job_due (run_at<?)");
    assert_uses(&plan(sweep::OVERDUE).await, "INDEX mamos_job_deadline (deadline>? AND deadline<?)");
    assert_uses(&plan(sweep::HELD).await, "INDEX mamos_job_held (session=?)");
    assert_uses(&plan(sweep::ENDED).await, "INDEX mamos_job_finished (finished_at<?)");
}

#[tokio::test]
async fn ready_lanes_are_found_without_reading_their_jobs() {
    let plan = plan(lists::READY_LANES).await;
    assert!(plan.contains("SEARCH j USING COVERING INDEX mamos_job_ready (lane>?)"), "{plan}");
    assert!(!plan.contains("TEMP B-TREE"), "{plan}");
}

#[tokio::test]
async fn documents_are_found_and_listed_by_the_index_of_their_keys() {
    for is_descending in [false, true] {
        let plan = plan(&documents::page_query(is_descending)).await;
        assert_uses(&plan, "SEARCH d USING INDEX mamos_document_key (collection=? AND key>? AND key<?)");
    }
    assert_uses(&plan(documents::EXPIRED).await, "mamos_document_expiry (expires_at>? AND expires_at<?)");
}

#[tokio::test]
async fn a_success_is_settled_by_the_index_of_ids() {
    let plan = plan(&successes::statement()).await;
    assert_uses(&plan, "SEARCH mamos_job USING INDEX mamos_job_id (id=?)");
}

#[test]
fn the_short_way_of_a_success_is_what_the_rules_say() {
    for state in [JobState::Leased, JobState::Running] {
        for is_cancel_requested in [false, true] {
            for attempt in [1, 5, 9] {
                let counters = Counters { attempt, crashes: 2, deliveries: 3 };
                let facts = RunFacts {
                    state,
                    counters,
                    retry: RetryPolicy::default(),
                    max_crashes: 1,
                    is_cancel_requested,
                };
                let next =
                    after_settle(&facts, Outcome::Succeeded { output: "x".into() }, Timestamp::EPOCH, 0.5);
                assert_eq!(Some(next.state), successes::ANSWER.state);
                assert_eq!((next.run_at, next.counters, next.failure), (None, counters, None));
            }
        }
    }
}
