//! Figures for Prometheus, in one registry for each API: none is global, so that a program may have several.
//!
//! What the engine counts is read when somebody asks; what must be counted in the store is
//! [kept](gauges) for a while, because that costs more.

mod gauges;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mamos_core::Orchestrator;
use mamos_core::orchestrator::Spread;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use self::gauges::Gauges;
use self::gauges::Kept;
use crate::counters::Counters;
use crate::stream::Places;

/// From 1 ms to 10 s, in seconds: what people wait for.
const HTTP_BOUNDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Methods beyond these are counted together: a caller may invent any.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const OTHER: &str = "_other";

/// See the module.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Request, Histogram, fn() -> Histogram>,
    engine: Engine,
    gauges: Kept,
}

/// The labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Request {
    method: &'static str,
    /// The route as it is written in the API's document, never the path that was asked for.
    route: String,
    status: u16,
}

impl EncodeLabelSet for Request {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let status = self.status.to_string();
        [("method", self.method), ("route", &self.route), ("status", &status)].encode(encoder)
    }
}

impl Metrics {
    pub(crate) fn new(orchestrator: &Orchestrator, places: &Arc<Places>, counters: &Arc<Counters>) -> Self {
        let requests: Family<Request, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(HTTP_BOUNDS));
        let engine = Engine {
            orchestrator: orchestrator.clone(),
            places: Arc::clone(places),
            counters: Arc::clone(counters),
            gauges: Arc::default(),
        };
        let mut registry = Registry::with_prefix("mamos");
        registry.register(
            "http_request_duration_seconds",
            "From the head of a request to the head of its answer",
            requests.clone(),
        );
        registry.register_collector(Box::new(engine.clone()));
        Self { registry, requests, engine, gauges: Kept::default() }
    }

    /// Counts a request. Without a route it fitted none.
    pub(crate) fn request(&self, method: &str, route: Option<&str>, status: u16, took: Duration) {
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER);
        let route = route.unwrap_or(OTHER).to_owned();
        let labels = Request { method, route, status };
        self.requests.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Everything, in the text format of OpenMetrics.
    pub(crate) async fn text(&self) -> Result<String, fmt::Error> {
        let gauges = self.gauges.read(&self.engine.orchestrator).await;
        *self.engine.gauges.lock().unwrap_or_else(PoisonError::into_inner) = gauges;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What the engine counts, encoded when somebody asks.
#[derive(Debug, Clone)]
struct Engine {
    orchestrator: Orchestrator,
    places: Arc<Places>,
    gauges: Arc<Mutex<Arc<Gauges>>>,
    counters: Arc<Counters>,
}

impl Collector for Engine {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.orchestrator.stats();
        let mut figures = Figures(&mut encoder);
        let jobs = stats.jobs.iter();
        let enqueued = jobs
            .clone()
            .map(|jobs| (vec![("queue", jobs.queue.as_str()), ("kind", jobs.kind.as_str())], jobs.enqueued));
        figures.counters("jobs_enqueued", "Jobs that were stored", enqueued)?;
        let settled = jobs.flat_map(|jobs| {
            jobs.settled.iter().map(|(outcome, count)| {
                (
                    vec![("queue", jobs.queue.as_str()), ("kind", jobs.kind.as_str()), ("outcome", *outcome)],
                    *count,
                )
            })
        });
        figures.counters("jobs_settled", "Attempts that ended", settled)?;
        figures.spread(
            "job_wait_seconds",
            "From when a job could run to when it was claimed",
            &stats.wait,
        )?;
        figures.spread("job_run_seconds", "From the start of an attempt to its end on record", &stats.run)?;
        let lag = "From when there was work for the dispatcher to when it was handed out";
        figures.spread("dispatch_lag_seconds", lag, &stats.dispatch_lag)?;
        let stale = stats.stale_writes.iter().map(|(verb, count)| (vec![("verb", *verb)], *count));
        figures.counters("stale_writes", "Writes of runs that were no longer current", stale)?;
        let operations = stats.store.iter().filter(|operation| operation.took.count() > 0);
        let took = operations.clone().map(|operation| (("operation", operation.operation), &operation.took));
        figures.spreads("store_operation_seconds", "What operations of the store took", took)?;
        let errors = operations.map(|of| (vec![("operation", of.operation)], of.errors));
        figures.counters("store_errors", "Operations of the store that failed", errors)?;
        let sessions = self.orchestrator.session_count() as u64;
        figures.gauges(
            "sessions",
            "Agents that have a link to this orchestrator",
            [(vec![], sessions as f64)],
        )?;
        let refused = self.counters.refused().map(|(reason, count)| (vec![("reason", reason)], count));
        figures.counters("http_refused", "Requests of callers who were refused", refused)?;
        let streams = self.places.count() as f64;
        figures.gauges("streams", "Event and log streams that are open", [(vec![], streams)])?;
        let gauges = Arc::clone(&self.gauges.lock().unwrap_or_else(PoisonError::into_inner));
        let jobs = gauges
            .jobs
            .iter()
            .map(|(queue, state, count)| (vec![("queue", queue.as_str()), ("state", *state)], *count as f64));
        figures.gauges("jobs", "Jobs that are kept, by their state", jobs)?;
        let oldest =
            gauges.oldest.iter().map(|(queue, age)| (vec![("queue", queue.as_str())], age.as_secs_f64()));
        figures.gauges("queue_oldest_seconds", "How long the oldest ready job has been waiting", oldest)?;
        let agents = gauges.agents.iter().map(|(state, count)| (vec![("state", *state)], *count as f64));
        figures.gauges("agents", "Agents, by their state", agents)
    }
}

/// Writes figures with labels.
struct Figures<'a, 'b>(&'a mut DescriptorEncoder<'b>);

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Figures<'_, '_> {
    fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Labels<'a>, u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let labels = labels.as_slice();
            encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            let labels = labels.as_slice();
            match labels {
                [] => encoder.encode_gauge(&value)?,
                labels => encoder.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn spread(&mut self, name: &str, help: &str, spread: &Spread) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(spread.sum_seconds, spread.count(), &spread.buckets, None)
    }

    fn spreads<'a>(
        &mut self,
        name: &str,
        help: &str,
        spreads: impl Iterator<Item = ((&'static str, &'static str), &'a Spread)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (label, spread) in spreads {
            encoder.encode_family(&[label])?.encode_histogram::<NoLabelSet>(
                spread.sum_seconds,
                spread.count(),
                &spread.buckets,
                None,
            )?;
        }
        Ok(())
    }
}
