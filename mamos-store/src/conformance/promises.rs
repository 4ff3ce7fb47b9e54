//! The list of all promises: the one place where a new one is added.

use super::Promise;

/// Calls a macro of this crate with its argument and the whole list, by the module of each promise.
#[doc(hidden)]
#[macro_export]
macro_rules! __store_promises {
    ($callback:ident $($argument:tt)*) => {
        $crate::$callback! {
            $($argument)*;
            enqueue:
                a_job_is_stored_in_its_first_state
                a_stored_job_reads_back_as_it_was_given
                every_job_of_a_batch_is_stored
                an_empty_batch_changes_nothing
                storing_a_job_again_changes_nothing
                a_job_that_is_twice_in_a_batch_is_stored_once
                an_id_that_is_taken_by_another_job_is_refused
                a_unique_key_is_held_until_its_job_ends
                a_unique_key_counts_within_its_kind_only
                a_redrive_is_refused_while_another_has_the_unique_key
                many_enqueues_at_once_store_a_unique_key_once;
            claim:
                a_claimed_job_is_leased_to_its_session
                no_job_is_claimed_twice_however_many_claim_at_once
                a_claimed_job_is_not_claimed_again
                jobs_are_claimed_by_priority_then_time_then_order
                the_order_of_claim_holds_from_one_claim_to_the_next
                jobs_are_dealt_in_rounds
                groups_are_served_in_turn_and_from_their_own_lanes
                jobs_that_wait_are_not_claimed
                a_paused_queue_gives_nothing
                a_session_that_is_not_current_gets_nothing_and_is_named
                every_claim_raises_the_epoch
                a_claim_says_when_the_next_scheduled_job_is_due;
            report:
                a_started_run_is_running
                progress_is_the_newest_that_was_said
                a_new_run_has_said_nothing_yet
                a_stale_epoch_changes_nothing
                a_stale_epoch_changes_nothing_after_the_end
                the_report_of_another_session_changes_nothing
                a_report_about_an_unknown_job_is_missing
                a_job_that_was_never_claimed_takes_no_report
                verdicts_stand_in_the_order_of_the_reports
                a_batch_is_written_in_order_even_when_items_repeat
                a_run_that_is_to_be_cancelled_hears_of_it_with_every_report;
            settle:
                a_success_ends_the_job_with_its_output
                a_run_may_succeed_before_it_was_said_to_start
                a_failed_attempt_is_tried_again_after_its_delay
                the_agent_may_name_the_delay
                the_jitter_of_a_retry_is_that_of_the_run
                the_last_failed_attempt_buries_the_job
                a_buried_job_is_not_tried_again
                a_snooze_does_not_count_as_an_attempt
                a_cancelled_outcome_ends_the_job
                every_outcome_does_what_the_rules_say
                settling_the_same_run_again_changes_nothing
                a_repeated_settle_is_applied_from_the_next_session_too
                an_end_cannot_be_changed
                a_released_job_is_ready_at_once
                only_one_of_many_settles_at_once_ends_the_run
                clocks_that_jump_a_day_corrupt_nothing;
            cancel:
                every_state_is_cancelled_as_it_must_be
                cancel_verdicts_stand_in_the_order_of_the_jobs
                the_first_cancel_request_stays
                a_cancelled_run_that_comes_back_is_not_tried_again
                work_that_was_done_before_the_cancel_arrived_counts
                a_redriven_job_starts_afresh_but_keeps_its_epoch
                only_dead_jobs_are_redriven_and_only_blocked_ones_approved
                an_approved_job_is_ready_now_whatever_its_time_was
                prune_removes_what_ended_before_and_nothing_else
                prune_keeps_to_its_limit;
            sweep:
                due_jobs_become_ready
                a_sweep_with_nothing_to_do_says_so
                a_sweep_keeps_to_its_limit_and_says_that_there_is_more
                a_lost_session_gives_its_jobs_back
                a_job_that_kills_its_agents_is_buried
                a_run_that_is_to_be_cancelled_ends_with_its_session
                the_report_of_a_rescued_run_is_stale
                a_session_that_expired_but_was_not_swept_may_still_settle
                overdue_jobs_are_buried_whatever_they_do
                a_job_that_ended_in_time_is_not_overdue;
            attach:
                a_new_session_is_open_and_makes_its_agent_run
                a_resumed_session_gets_its_next_link
                a_newer_session_supersedes_the_older_one
                what_the_agent_does_not_know_is_given_back
                runs_that_the_agent_does_not_hold_are_named
                only_the_agents_own_open_session_is_resumed
                a_lost_session_is_not_resumed
                an_earlier_link_can_neither_claim_nor_renew_nor_detach
                attaching_again_after_a_lost_answer_leaves_one_session
                an_agent_that_nobody_knows_gets_no_session
                a_decommissioned_agent_gets_no_session
                many_attaches_at_once_leave_one_open_session;
            sessions:
                a_renewed_session_expires_a_lease_from_now
                renewing_keeps_every_job_of_the_session
                a_session_that_is_over_is_not_renewed
                a_goodbye_gives_back_what_was_held
                held_jobs_are_told_as_they_were_claimed
                the_open_sessions_are_those_that_have_not_ended;
            logs:
                a_log_reads_back_from_any_place
                a_log_keeps_streams_and_any_bytes
                a_gap_in_a_log_is_noticed
                an_overlap_in_a_log_is_skipped
                each_run_has_a_log_of_its_own;
            queues:
                queues_are_counted_by_state
                the_oldest_ready_job_is_told
                pausing_is_remembered_for_queues_without_jobs
                lanes_are_told_while_they_hold_a_ready_job
                a_lane_reads_back_whole;
            agents:
                an_admitted_agent_reads_back_as_it_was_given
                an_update_takes_what_operators_decide_and_nothing_else
                an_update_of_an_older_revision_is_refused
                agents_are_listed_by_id_each_once
                a_cursor_from_elsewhere_is_invalid;
            tokens:
                a_token_admits_as_many_agents_as_it_has_uses
                a_token_with_one_use_admits_one_of_many_at_once
                a_repeat_of_a_redeem_takes_no_use
                a_token_that_does_not_fit_admits_nobody
                the_refusal_does_not_say_why
                a_revoked_token_is_worthless
                storing_a_token_again_does_not_refill_it;
            lists:
                jobs_are_listed_newest_first_each_once
                a_list_does_not_repeat_or_miss_jobs_while_it_changes
                a_filter_gives_exactly_what_fits
                the_agent_that_held_a_job_last_finds_it
                the_size_of_a_page_is_brought_within_its_bounds
                a_listed_job_is_the_stored_one;
            history:
                a_job_that_was_never_claimed_has_no_history
                the_current_run_is_part_of_the_history
                every_run_stays_in_the_history
                a_late_settle_is_kept_as_evidence
                late_evidence_is_bounded
                a_run_that_moved_is_in_the_history_of_its_last_session;
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __store_promise_list {
    (; $($noun:ident: $($name:ident)+;)+) => {
        &[$($(Promise {
            name: stringify!($name),
            check: |store| Box::pin(async move { super::$noun::$name(&store).await }),
        }),+),+]
    };
}

/// Every promise.
pub const PROMISES: &[Promise] = crate::__store_promises!(__store_promise_list);
