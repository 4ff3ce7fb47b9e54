//! The conformance kits notice every broken promise, and name it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use mamos_transport::broken::{BrokenBus, BrokenTransport};
use mamos_transport::conformance::{bus, transport};

async fn notices(broken: BrokenTransport, promise: &str) {
    let found = transport::check(promise, broken.pair()).await.unwrap_err();
    assert_eq!(found.promise, promise, "{found}");
}

async fn notices_bus(broken: BrokenBus, promise: &str) {
    let found = bus::check(promise, broken.bus()).await.unwrap_err();
    assert_eq!(found.promise, promise, "{found}");
}

macro_rules! transports {
    ($($test:ident: $broken:ident breaks $promise:ident;)+) => { $(
        #[tokio::test(start_paused = true)]
        async fn $test() {
            notices(BrokenTransport::$broken, stringify!($promise)).await;
        }
    )+ };
}

macro_rules! buses {
    ($($test:ident: $broken:ident breaks $promise:ident;)+) => { $(
        #[tokio::test(start_paused = true)]
        async fn $test() {
            notices_bus(BrokenBus::$broken, stringify!($promise)).await;
        }
    )+ };
}

transports! {
    a_changed_byte_is_noticed: CorruptsAByte breaks frames_of_every_size_arrive_whole;
    a_cut_off_frame_is_noticed: TruncatesLargeFrames breaks frames_of_every_size_arrive_whole;
    a_silent_loss_is_noticed: LosesSilently breaks ten_thousand_frames_arrive_once_and_in_order_if_it_is_reliable;
    a_repeat_is_noticed: Duplicates breaks ten_thousand_frames_arrive_once_and_in_order_if_it_is_reliable;
    a_wrong_order_is_noticed: Reorders breaks ten_thousand_frames_arrive_once_and_in_order_if_it_is_reliable;
    a_changed_byte_in_the_middle_of_traffic_is_noticed: CorruptsAByte breaks both_directions_flow_at_once;
    an_unbounded_buffer_is_noticed: BuffersWithoutBound breaks a_slow_receiver_slows_the_sender;
    a_loss_by_a_dropped_receive_is_noticed: LosesWhenReceiveIsDropped breaks a_dropped_receive_loses_nothing;
    a_loss_by_a_dropped_accept_is_noticed: LosesWhenAcceptIsDropped breaks a_dropped_accept_loses_no_connection;
    an_ignored_close_is_noticed: IgnoresClose breaks closing_ends_both_sides_and_more_than_once;
    an_end_that_never_comes_is_noticed: IgnoresClose breaks an_orderly_close_comes_after_the_frames;
    a_send_that_never_ends_is_noticed: IgnoresClose breaks a_blocked_send_ends_when_the_connection_does;
    a_forgotten_encoding_is_noticed: ForgetsTheEncoding breaks binary_and_text_keep_their_encoding;
    a_limit_that_is_none_is_noticed: TakesAnySize breaks an_oversize_frame_is_refused_and_the_connection_goes_on;
    ends_that_disagree_are_noticed: DisagreesWithItself breaks everything_has_a_name;
}

buses! {
    a_group_that_gets_it_twice_is_noticed: GivesAGroupEverythingTwice breaks a_group_shares_its_messages;
    an_acknowledged_message_that_comes_again_is_noticed: RedeliversAcknowledged breaks acknowledged_messages_do_not_come_again;
    a_leak_across_topics_is_noticed: LeaksAcrossTopics breaks topics_are_apart;
    a_leak_across_many_topics_is_noticed: LeaksAcrossTopics breaks many_topics_are_apart_at_once;
    a_message_cut_short_is_noticed: CutsLargeMessages breaks the_largest_message_arrives;
    a_loss_on_drop_is_noticed: LosesOnDrop breaks unacknowledged_messages_come_again_to_the_next_one;
    a_loss_on_drop_within_a_group_is_noticed: LosesOnDrop breaks unacknowledged_messages_come_again_to_another_of_the_group;
    a_forgotten_group_is_noticed: ForgetsGroups breaks a_durable_group_keeps_messages_while_nobody_listens;
    durable_delivery_without_a_group_is_noticed: ForgetsGroups breaks durable_delivery_needs_a_group;
    a_reversed_batch_is_noticed: ReversesBatches breaks messages_arrive_in_the_order_of_publishing;
    a_part_of_a_batch_is_noticed: TakesPartOfABatch breaks an_oversize_message_is_refused_and_none_is_taken;
    a_late_subscription_is_noticed: SubscribesLate breaks a_subscription_is_in_force_when_subscribe_returns;
    a_loss_by_a_dropped_bus_receive_is_noticed: LosesWhenReceiveIsDropped breaks a_dropped_receive_of_a_bus_loses_nothing;
    waiting_for_the_slow_is_noticed: WaitsForTheSlow breaks a_slow_subscriber_holds_nobody_up;
}

#[tokio::test(start_paused = true)]
async fn the_whole_list_finds_only_what_is_broken() {
    let broken = transport::broken_promises(|| async { BrokenTransport::ForgetsTheEncoding.pair() }).await;
    assert_eq!(broken.iter().map(|b| b.promise).collect::<Vec<_>>(), ["binary_and_text_keep_their_encoding"]);
    let broken = bus::broken_promises(|| async { BrokenBus::TakesPartOfABatch.bus() }).await;
    assert_eq!(
        broken.iter().map(|b| b.promise).collect::<Vec<_>>(),
        ["an_oversize_message_is_refused_and_none_is_taken"]
    );
}

#[tokio::test]
async fn a_promise_that_does_not_exist_is_not_kept() {
    assert!(transport::check("it_makes_coffee", BrokenTransport::IgnoresClose.pair()).await.is_err());
}
