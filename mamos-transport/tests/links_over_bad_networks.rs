//! The protocol's link keeps its promises over connections that keep few.

use std::sync::Arc;
use std::time::Duration;

use mamos_core::ErrorKind;
use mamos_core::protocol::FromAgent;
use mamos_core::protocol::link::{AgentLink, OrchestratorLink};
use mamos_core::transport::{Connection, Connector, Encoding, Frame, Listener};
use mamos_transport::conformance::{Pair, transport};
use mamos_transport::encoded::{self, Writing};
use mamos_transport::faulty::{self, FaultCounts, FaultPlan, Faults, Faulty, Side};
use mamos_transport::memory;

type Ends = (Arc<dyn Connection>, Arc<dyn Connection>);

fn ends(plan: &FaultPlan, capacity: usize) -> Ends {
    let (agent, orchestrator) = memory::connected(capacity);
    (faulty::connection(agent, Side::Agent, plan), faulty::connection(orchestrator, Side::Orchestrator, plan))
}

async fn everything_arrives(seed: u64, faults: Faults, capacity: usize) -> FaultCounts {
    let plan = FaultPlan::new(seed);
    plan.set(faults);
    let (listener, connector) = memory::pair_with_capacity(capacity);
    let pair = Pair::new(Faulty::new(listener, plan.clone()), Faulty::new(connector, plan.clone()));
    let checked = transport::check("a_link_delivers_everything_once_and_in_order", pair).await;
    checked.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    plan.counts()
}

#[tokio::test(start_paused = true)]
async fn a_link_delivers_everything_over_bad_networks() {
    for seed in 0..25 {
        let counts = everything_arrives(seed, Faults::bad(), 8).await;
        assert!(counts.lost > 20 && counts.duplicated > 20 && counts.reordered > 20, "{counts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_delivers_everything_when_a_third_is_lost() {
    for seed in 100..105 {
        everything_arrives(seed, Faults { lose: 0.33, ..Faults::bad() }, 64).await;
    }
}

/// With room for one frame, resending and acknowledging of both sides get into each other's way.
#[tokio::test(start_paused = true)]
async fn two_sides_that_send_at_once_do_not_block_each_other() {
    for seed in 0..10 {
        everything_arrives(seed, Faults { lose: 0.2, ..Faults::none() }, 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_faults() {
    let (first, again) =
        (everything_arrives(5, Faults::bad(), 8).await, everything_arrives(5, Faults::bad(), 8).await);
    assert_eq!(first, again);
    assert_ne!(first, everything_arrives(6, Faults::bad(), 8).await);
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_lost_while_receive_waits_is_sent_again() {
    let plan = FaultPlan::new(1);
    let (agent, orchestrator) = ends(&plan, 8);
    let (agent, orchestrator) = (Arc::new(OrchestratorLink::new(agent)), AgentLink::new(orchestrator));
    let receiving = agent.clone();
    // Waits before there is anything to send again.
    let waiting = tokio::spawn(async move { receiving.receive().await.is_ok() });
    tokio::task::yield_now().await;
    plan.set(Faults { lose: 1.0, ..Faults::none() });
    agent.send(vec![FromAgent::Bye]).await.unwrap();
    plan.set(Faults::none());
    let received = tokio::time::timeout(Duration::from_secs(5), orchestrator.receive()).await.unwrap();
    assert_eq!(received.unwrap().unwrap(), [FromAgent::Bye]);
    waiting.abort();
}

#[tokio::test(start_paused = true)]
async fn a_send_that_waits_for_an_acknowledgement_ends_with_the_connection() {
    let plan = FaultPlan::new(1);
    plan.set(Faults { mute_agents: true, ..Faults::none() });
    let (agent, orchestrator) = ends(&plan, 8);
    let agent = OrchestratorLink::new(agent);
    let flood = async {
        loop {
            if let Err(error) = agent.send(vec![FromAgent::Bye]).await {
                return error.kind();
            }
        }
    };
    let ending = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        orchestrator.close().await;
    };
    let both = async { tokio::join!(flood, agent.receive(), ending) };
    let (kind, received, ()) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    assert!(matches!(kind, ErrorKind::Closed | ErrorKind::Unavailable), "{kind:?}");
    assert!(matches!(received, Ok(None) | Err(_)));
}

#[tokio::test(start_paused = true)]
async fn messages_over_the_limit_are_refused_and_the_link_goes_on() {
    let plan = FaultPlan::new(1);
    let (agent, orchestrator) = ends(&plan, 8);
    // What is written down has a limit; what stays in memory has none.
    let agent = OrchestratorLink::new(encoded::connection(agent, Writing::Binary));
    let orchestrator = AgentLink::new(orchestrator);
    let too_much: Vec<_> = (0..2_000_000).map(|total| FromAgent::Slots { total }).collect();
    assert_eq!(agent.send(too_much).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    agent.send(vec![FromAgent::Bye]).await.unwrap();
    let receiving = async {
        tokio::select! {
            received = orchestrator.receive() => received,
            _ = agent.receive() => panic!("nothing was sent to the agent"),
        }
    };
    let received = tokio::time::timeout(Duration::from_secs(60), receiving).await.unwrap();
    assert_eq!(received.unwrap().unwrap(), [FromAgent::Bye]);
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_takes_frames_and_delivers_none() {
    let plan = FaultPlan::new(3);
    let (agent, orchestrator) = ends(&plan, 8);
    plan.set(Faults { mute_agents: true, mute_orchestrators: true, ..Faults::none() });
    for _ in 0..100 {
        agent.send(Frame::text("{}")).await.unwrap();
        orchestrator.send(Frame::text("{}")).await.unwrap();
    }
    let nothing = tokio::time::timeout(Duration::from_secs(3600), async {
        tokio::select! { frame = agent.receive() => frame, frame = orchestrator.receive() => frame }
    });
    assert!(nothing.await.is_err());
    assert_eq!(plan.counts().lost, 200);
}

#[tokio::test(start_paused = true)]
async fn a_one_way_cut_lets_the_other_way_through() {
    let plan = FaultPlan::new(3);
    let (agent, orchestrator) = ends(&plan, 8);
    plan.set(Faults { mute_agents: true, ..Faults::none() });
    agent.send(Frame::text("up")).await.unwrap();
    orchestrator.send(Frame::text("down")).await.unwrap();
    let down = agent.receive().await.unwrap().unwrap();
    assert_eq!(down.into_bytes(Encoding::Binary, 9).unwrap().1, "down");
    assert!(tokio::time::timeout(Duration::from_secs(60), orchestrator.receive()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_cut_ends_both_ends_and_new_connections_can_be_refused() {
    let plan = FaultPlan::new(3);
    let (listener, connector) = memory::pair();
    let (listener, connector) = (Faulty::new(listener, plan.clone()), Faulty::new(connector, plan.clone()));
    let (agent, orchestrator) = tokio::join!(connector.connect(), listener.accept());
    let (agent, orchestrator) = (agent.unwrap(), orchestrator.unwrap());
    plan.cut_all();
    assert_eq!(agent.receive().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(orchestrator.send(Frame::text("{}")).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(plan.counts().cut, 2);
    plan.set(Faults { refuse_connections: true, ..Faults::none() });
    assert_eq!(connector.connect().await.unwrap_err().kind(), ErrorKind::Unavailable);
    plan.set(Faults { cut: 1.0, ..Faults::none() });
    let agent = connector.connect().await.unwrap();
    assert_eq!(agent.send(Frame::text("{}")).await.unwrap_err().kind(), ErrorKind::Unavailable);
}
