//! Which events a caller wants.

use std::collections::BTreeSet;

use mamos_core::event::{Event, What};
use mamos_core::id::{AgentId, JobId, JobKind, QueueName};
use mamos_core::job::lane::Lane;

use crate::problem::Problem;

/// The names of all events. The same as in what callers see: a test compares them.
pub(crate) const NAMES: [&str; 21] = [
    "job_enqueued",
    "job_dispatched",
    "job_started",
    "job_progress",
    "job_log",
    "job_settled",
    "job_rescued",
    "job_changed",
    "cancel_requested",
    "stale_write",
    "agent_registered",
    "agent_connected",
    "agent_disconnected",
    "agent_stopped",
    "agent_lost",
    "agent_revoked",
    "identity_copied",
    "agent_reinstated",
    "agent_changed",
    "agent_refused",
    "queue_paused",
];
const TOPICS: [&str; 3] = ["jobs", "agents", "queues"];
/// What runs print comes only to who asks for it by name.
const BULKY: &str = "job_log";

/// Which events a caller wants: everything given must hold, and of each list one.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventFilter {
    topics: BTreeSet<String>,
    names: BTreeSet<String>,
    job: Option<JobId>,
    agent: Option<AgentId>,
    queue: Option<QueueName>,
    kind: Option<JobKind>,
}

/// What a filter says to an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    Yes,
    No,
    /// It depends on the queue or the kind of this job, which the event does not say.
    AsksFor(JobId),
}

/// What an event is about.
#[derive(Debug, Default)]
pub(crate) struct About<'a> {
    pub(crate) name: &'static str,
    pub(crate) topic: &'static str,
    pub(crate) job: Option<JobId>,
    pub(crate) agent: Option<&'a AgentId>,
    pub(crate) queue: Option<&'a QueueName>,
}

/// The parameters of a filter, as a caller gives them. Lists are separated by commas.
#[derive(Debug, Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) topic: Option<&'a str>,
    pub(crate) event: Option<&'a str>,
    pub(crate) job: Option<&'a str>,
    pub(crate) agent: Option<&'a str>,
    pub(crate) queue: Option<&'a str>,
    pub(crate) kind: Option<&'a str>,
}

impl EventFilter {
    pub(crate) fn new(wanted: &Wanted<'_>) -> Result<Self, Problem> {
        Ok(Self {
            topics: list("topic", wanted.topic, &TOPICS)?,
            names: list("event", wanted.event, &NAMES)?,
            job: named("job", wanted.job)?,
            agent: named("agent", wanted.agent)?,
            queue: named("queue", wanted.queue)?,
            kind: named("kind", wanted.kind)?,
        })
    }

    /// Does the caller want this event?
    pub(crate) fn fits(&self, event: &Event) -> Fit {
        let about = about(&event.what);
        let is_wanted =
            if self.names.is_empty() { about.name != BULKY } else { self.names.contains(about.name) };
        let is_of_topic = self.topics.is_empty() || self.topics.contains(about.topic);
        let is_of_job = self.job.is_none_or(|job| about.job == Some(job));
        let is_of_agent = self.agent.as_ref().is_none_or(|agent| about.agent == Some(agent));
        if !(is_wanted && is_of_topic && is_of_job && is_of_agent) {
            return Fit::No;
        }
        if self.queue.is_none() && self.kind.is_none() {
            return Fit::Yes;
        }
        match (&event.lane, about.job, about.queue) {
            (Some(lane), _, _) if self.fits_lane(lane) => Fit::Yes,
            (None, Some(job), _) => Fit::AsksFor(job),
            (None, None, Some(queue)) if self.kind.is_none() && self.queue.as_ref() == Some(queue) => {
                Fit::Yes
            }
            _ => Fit::No,
        }
    }

    /// Does the caller want jobs of this lane?
    pub(crate) fn fits_lane(&self, lane: &Lane) -> bool {
        self.queue.as_ref().is_none_or(|queue| lane.queue() == queue)
            && self.kind.as_ref().is_none_or(|kind| lane.kind() == kind)
    }
}

/// Says what an event is about.
pub(crate) fn about(what: &What) -> About<'_> {
    let job = |name, job: &JobId| About { name, topic: "jobs", job: Some(*job), ..About::default() };
    let run = |name, job: &JobId, agent| About {
        agent: Some(agent),
        ..About { name, topic: "jobs", job: Some(*job), ..About::default() }
    };
    let agent = |name, agent| About { name, topic: "agents", agent: Some(agent), ..About::default() };
    match what {
        What::JobEnqueued { job: id, .. } => job("job_enqueued", id),
        What::JobDispatched { run: id, agent, .. } => run("job_dispatched", &id.job, agent),
        What::JobStarted { run: id, agent } => run("job_started", &id.job, agent),
        What::JobProgress { run, .. } => job("job_progress", &run.job),
        What::JobLog { run, .. } => job(BULKY, &run.job),
        What::JobSettled { run: id, agent, .. } => run("job_settled", &id.job, agent),
        What::JobRescued { run, .. } => job("job_rescued", &run.job),
        What::JobChanged { job: id, .. } => job("job_changed", id),
        What::CancelRequested { run } => job("cancel_requested", &run.job),
        What::StaleWrite { run: id, agent } => run("stale_write", &id.job, agent),
        What::AgentRegistered { agent: id } => agent("agent_registered", id),
        What::AgentConnected { agent: id, .. } => agent("agent_connected", id),
        What::AgentDisconnected { agent: id, .. } => agent("agent_disconnected", id),
        What::AgentStopped { agent: id } => agent("agent_stopped", id),
        What::AgentLost { agent: id, .. } => agent("agent_lost", id),
        What::AgentRevoked { agent: id, .. } => agent("agent_revoked", id),
        What::IdentityCopied { agent: id } => agent("identity_copied", id),
        What::AgentReinstated { agent: id } => agent("agent_reinstated", id),
        What::AgentChanged { agent: id } => agent("agent_changed", id),
        What::AgentRefused { .. } => About { name: "agent_refused", topic: "agents", ..About::default() },
        What::QueuePaused { queue, .. } => {
            About { name: "queue_paused", topic: "queues", queue: Some(queue), ..About::default() }
        }
        // Of a later version: it fits no name and no topic.
        _ => About::default(),
    }
}

fn list(name: &str, value: Option<&str>, known: &[&str]) -> Result<BTreeSet<String>, Problem> {
    let Some(value) = value else { return Ok(BTreeSet::new()) };
    let items = value.split(',').map(|item| match known.contains(&item) {
        true => Ok(item.to_owned()),
        false => Err(Problem::bad_request(format!(
            "{name} takes any of {}, separated by commas",
            known.join(", ")
        ))
        .at(name, format!("there is no {name} {item:?}"))),
    });
    items.collect()
}

fn named<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &str,
    value: Option<&str>,
) -> Result<Option<T>, Problem> {
    let wrong = |error: T::Err| {
        Problem::bad_request(format!("{name} cannot be such a name")).at(name, error.to_string())
    };
    value.map(str::parse).transpose().map_err(wrong)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mamos_core::Timestamp;
    use mamos_core::agent::LogStream;
    use mamos_core::job::labels::Selector;
    use mamos_core::job::state::JobState;
    use mamos_core::lease::{Epoch, RunRef};
    use mamos_core::store::LogPiece;

    use super::*;

    fn event(lane: Option<Lane>, what: What) -> Event {
        Event { seq: 1, at: Timestamp::EPOCH, lane: lane.map(Arc::new), what }
    }

    fn lane(queue: &str, kind: &str) -> Lane {
        Lane::new(queue.parse().unwrap(), kind.parse().unwrap(), Selector::default())
    }

    fn changed(key: &str) -> What {
        What::JobChanged { job: JobId::from_key(key), state: JobState::Ready }
    }

    #[test]
    fn everything_given_must_hold() {
        let filter = |wanted| EventFilter::new(&wanted).unwrap();
        let all = filter(Wanted::default());
        assert_eq!(all.fits(&event(None, changed("a"))), Fit::Yes);
        let job = JobId::from_key("a").to_string();
        let of_job = filter(Wanted { job: Some(&job), topic: Some("jobs,queues"), ..Wanted::default() });
        assert_eq!(of_job.fits(&event(None, changed("a"))), Fit::Yes);
        assert_eq!(of_job.fits(&event(None, changed("b"))), Fit::No);
        let agents = filter(Wanted { topic: Some("agents"), ..Wanted::default() });
        assert_eq!(agents.fits(&event(None, changed("a"))), Fit::No);
        let named = filter(Wanted { event: Some("job_settled,job_changed"), ..Wanted::default() });
        assert_eq!(named.fits(&event(None, changed("a"))), Fit::Yes);
        let other = filter(Wanted { event: Some("job_settled"), ..Wanted::default() });
        assert_eq!(other.fits(&event(None, changed("a"))), Fit::No);
    }

    #[test]
    fn the_queue_is_asked_for_only_where_the_event_does_not_say_it() {
        let filter = EventFilter::new(&Wanted { queue: Some("q"), ..Wanted::default() }).unwrap();
        assert_eq!(filter.fits(&event(Some(lane("q", "k")), changed("a"))), Fit::Yes);
        assert_eq!(filter.fits(&event(Some(lane("r", "k")), changed("a"))), Fit::No);
        assert_eq!(filter.fits(&event(None, changed("a"))), Fit::AsksFor(JobId::from_key("a")));
        let paused = What::QueuePaused { queue: "q".parse().unwrap(), is_paused: true };
        assert_eq!(filter.fits(&event(None, paused)), Fit::Yes);
    }

    #[test]
    fn what_runs_print_comes_only_to_who_asks() {
        let run = RunRef { job: JobId::from_key("a"), epoch: Epoch::from_number(1) };
        let piece = LogPiece { offset: 0, stream: LogStream::Stdout, bytes: "x".into() };
        let printed = event(None, What::JobLog { run, piece });
        assert_eq!(EventFilter::default().fits(&printed), Fit::No);
        let asks = EventFilter::new(&Wanted { event: Some("job_log"), ..Wanted::default() }).unwrap();
        assert_eq!(asks.fits(&printed), Fit::Yes);
    }

    #[test]
    fn a_name_that_is_none_is_refused_with_those_that_are() {
        let problem =
            EventFilter::new(&Wanted { event: Some("job_setled"), ..Wanted::default() }).unwrap_err();
        assert_eq!(problem.status, 400);
        assert!(problem.detail.contains("job_settled"), "{}", problem.detail);
        assert!(EventFilter::new(&Wanted { job: Some("7"), ..Wanted::default() }).is_err());
        assert!(EventFilter::new(&Wanted { queue: Some("no queue"), ..Wanted::default() }).is_err());
    }

    #[test]
    fn callers_see_the_names_that_they_filter_by() {
        let what = [
            changed("a"),
            What::QueuePaused { queue: "q".parse().unwrap(), is_paused: true },
            What::AgentRefused { peer: "p".into(), reason: "r".into() },
        ];
        for what in what {
            let event = event(None, what);
            let seen = serde_json::to_value(crate::stream::dto("s", &event).unwrap()).unwrap();
            assert_eq!(seen["event"], about(&event.what).name);
        }
        // Every name in the document is one that can be asked for, and the other way round.
        let schema = <super::super::event::WhatDto as utoipa::PartialSchema>::schema();
        let text = serde_json::to_string(&schema).unwrap();
        for name in NAMES {
            assert!(text.contains(&format!("\"{name}\"")), "{name} is not in the document");
        }
        assert_eq!(text.matches("\"event\":{").count(), NAMES.len());
    }
}
