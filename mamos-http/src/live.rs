//! What streams, figures and health share, and their settings.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use mamos_core::Orchestrator;
use tokio_util::sync::CancellationToken;

use crate::counters::Counters;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::stream::Places;

/// Settings of an API around its routes.
#[derive(Debug, Clone)]
pub(crate) struct LiveSettings {
    pub(crate) max_streams: usize,
    pub(crate) max_streams_each: usize,
    pub(crate) recheck_every: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) max_body_bytes: usize,
    pub(crate) allowed_origins: Vec<HeaderValue>,
    pub(crate) has_public_metrics: bool,
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self {
            max_streams: 4096,
            max_streams_each: 256,
            recheck_every: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            // 1000 jobs of 4 KiB, or one of the largest that an orchestrator takes.
            max_body_bytes: 4 * 1024 * 1024,
            allowed_origins: Vec::new(),
            has_public_metrics: false,
        }
    }
}

/// See the module.
pub(crate) struct Live {
    pub(crate) settings: LiveSettings,
    pub(crate) places: Arc<Places>,
    pub(crate) recheck_every: Duration,
    /// Fires when streams must end.
    pub(crate) closing: CancellationToken,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
}

impl Live {
    pub(crate) fn new(orchestrator: &Orchestrator, counters: &Arc<Counters>, settings: LiveSettings) -> Self {
        let places = Arc::new(Places::new(settings.max_streams, settings.max_streams_each));
        Self {
            metrics: Metrics::new(orchestrator, &places, counters),
            places,
            recheck_every: settings.recheck_every,
            closing: CancellationToken::new(),
            health: Health::default(),
            settings,
        }
    }
}
