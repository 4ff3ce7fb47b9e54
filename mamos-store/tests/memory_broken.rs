//! The conformance kit notices every store that breaks a promise, and no other.

use mamos_store::MemoryStore;
use mamos_store::broken::{Broken, Flaw};
use mamos_store::conformance::{Fresh, PROMISES, failures};

/// One test a flaw: the kit finds it with the promise that is named, and finds nothing else wrong with
/// most of the store.
macro_rules! the_kit_finds {
    ($($test:ident: $flaw:ident by $($promise:ident)+;)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let fresh = async || Fresh::new(Broken::new(MemoryStore::new(), Flaw::$flaw));
            let found = failures(fresh).await;
            $(
                assert!(
                    found.iter().any(|(name, _)| *name == stringify!($promise)),
                    "{} did not notice {:?}; these did: {found:#?}", stringify!($promise), Flaw::$flaw,
                );
            )+
            assert!(found.len() < PROMISES.len() / 2, "the flaw breaks the scene itself: {found:#?}");
        }
    )+};
}

the_kit_finds! {
    a_store_without_fencing: IgnoresEpoch by a_stale_epoch_changes_nothing;
    a_store_that_trusts_any_session: IgnoresSession by the_report_of_another_session_changes_nothing;
    a_store_that_gives_a_job_twice: ClaimsTwice by a_claimed_job_is_not_claimed_again;
    a_store_whose_epoch_stands_still: EpochStandsStill by every_claim_raises_the_epoch;
    a_store_whose_leases_never_expire: LeasesNeverExpire
        by a_session_that_is_not_current_gets_nothing_and_is_named;
    a_store_that_deals_to_the_first: DealsToTheFirst by jobs_are_dealt_in_rounds;
    a_store_that_forgets_what_is_due: ForgetsNextDue
        by a_claim_says_when_the_next_scheduled_job_is_due due_jobs_become_ready;
    a_store_that_loses_a_job: LosesJobs by every_job_of_a_batch_is_stored;
    a_store_that_forgets_unique_keys: ForgetsUniqueKeys by a_unique_key_is_held_until_its_job_ends;
    a_store_whose_ends_can_change: EndsCanChange by an_end_cannot_be_changed;
    a_store_that_forgets_crashes: ForgetsCrashes by a_lost_session_gives_its_jobs_back;
    a_store_that_ignores_a_pause: IgnoresPause by a_paused_queue_gives_nothing;
    a_store_that_ignores_priority: IgnoresPriority by jobs_are_claimed_by_priority_then_time_then_order;
    a_store_that_misaligns_verdicts: MisalignsVerdicts by verdicts_stand_in_the_order_of_the_reports;
    a_store_that_refuses_a_repeated_settle: RefusesRepeatedSettles
        by settling_the_same_run_again_changes_nothing;
    a_store_with_two_live_leases: LeavesOldSessionsOpen by a_newer_session_supersedes_the_older_one;
    a_store_that_adopts_what_moved: AdoptsMovedSessions by a_session_that_ended_or_moved_is_not_adopted;
    a_store_that_forgets_known_runs: ForgetsKnownRuns by a_resumed_session_gets_its_next_link;
    a_store_whose_tokens_admit_twice: TokensAdmitTwice
        by a_token_with_one_use_admits_one_of_many_at_once;
    a_store_that_accepts_gaps_in_logs: AcceptsLogGaps by a_gap_in_a_log_is_noticed;
    a_store_whose_lists_lose_a_job: ListsLoseJobs by jobs_are_listed_newest_first_each_once;
    a_store_that_sweeps_without_limit: IgnoresSweepLimit
        by a_sweep_keeps_to_its_limit_and_says_that_there_is_more;
    a_store_that_prunes_too_much: PrunesTooMuch by prune_removes_what_ended_before_and_nothing_else;
    a_store_that_forgets_late_evidence: ForgetsLateEvidence by a_late_settle_is_kept_as_evidence;
    a_store_that_overwrites_agents: OverwritesAgents by an_update_of_an_older_revision_is_refused;
    a_store_that_forgets_revocations: ForgetsRevocations
        by an_agent_keeps_its_life_and_revocation_until_they_are_changed
        an_update_takes_what_operators_decide_and_nothing_else;
    a_store_that_ignores_the_names_of_tokens: IgnoresTokenNames by a_token_for_one_name_admits_no_other;
    a_store_that_forgets_the_labels_of_tokens: ForgetsTokenLabels
        by a_new_agent_gets_the_labels_of_its_token;
    a_store_that_overwrites_documents: OverwritesDocuments
        by a_condition_that_does_not_hold_changes_nothing one_of_many_writers_with_the_same_revision_wins;
    a_store_that_refuses_a_repeated_write: RefusesRepeatedWrites
        by a_repeated_write_of_a_document_counts_as_written;
    a_store_that_writes_parts_of_batches: WritesPartsOfBatches
        by a_batch_of_documents_with_one_out_of_bounds_writes_nothing;
    a_store_that_serves_expired_documents: ServesExpiredDocuments
        by an_expired_document_is_gone_for_every_method;
    a_store_whose_lists_lose_a_document: ListsLoseDocuments
        by documents_are_listed_by_the_bytes_of_their_keys;
    a_store_that_prunes_live_documents: PrunesLiveDocuments by pruning_removes_only_documents_that_expired;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kit_finds_nothing_wrong_with_the_reference() {
    let found = failures(async || Fresh::new(MemoryStore::new())).await;
    assert!(found.is_empty(), "{found:#?}");
}
