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
                a_redrive_is_refused_while_another_has_the_unique_key;
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
