//! `Prefer: wait=N` (RFC 7240): answers when a job has ended, or after so many seconds.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use mamos_core::JobId;
use mamos_core::job::JobRecord;

use crate::problem::Problem;
use crate::shared::Shared;

/// The longest wait, in seconds.
pub(crate) const MAX_WAIT_SECONDS: u64 = 60;
/// How many callers may wait at once. Others are answered at once, as if they had not asked.
pub(crate) const MAX_WAITING: usize = 1000;
/// How soon a wait ends when the orchestrator stops.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long the caller would wait, brought within bounds.
pub(crate) fn wait(headers: &HeaderMap) -> Option<u64> {
    let values = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = values.flat_map(|value| value.split([',', ';'])).take(64);
    preferences.find_map(|preference| {
        let (name, seconds) = preference.split_once('=')?;
        let is_wait = name.trim().eq_ignore_ascii_case("wait");
        let seconds = seconds.trim().trim_matches('"').parse::<u64>().ok();
        seconds.filter(|_| is_wait).map(|seconds| seconds.min(MAX_WAIT_SECONDS))
    })
}

/// Says which preference was honoured.
pub(crate) fn applied(response: &mut Response, seconds: u64) {
    if let Ok(value) = HeaderValue::try_from(format!("wait={seconds}")) {
        response.headers_mut().insert("preference-applied", value);
    }
}

/// The job, ended if it ends in time. `None` instead of it if too many wait already.
pub(crate) async fn wait_for(
    shared: &Shared,
    job: JobId,
    seconds: u64,
) -> Result<Option<JobRecord>, Problem> {
    let orchestrator = &shared.orchestrator;
    let Ok(_place) = shared.waits.try_acquire() else { return Ok(None) };
    let stopping = async {
        while !orchestrator.is_stopping() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        ended = orchestrator.wait(job) => Ok(Some(ended?)),
        () = tokio::time::sleep(Duration::from_secs(seconds)) => Ok(Some(orchestrator.job(job).await?)),
        () = stopping => Ok(Some(orchestrator.job(job).await?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_found_among_other_preferences_and_bounded() {
        let said = |text: &'static str| {
            wait(&HeaderMap::from_iter([("prefer".parse().unwrap(), HeaderValue::from_static(text))]))
        };
        assert_eq!(said("wait=10"), Some(10));
        assert_eq!(said("respond-async, Wait = 5"), Some(5));
        assert_eq!(said("wait=99999"), Some(60));
        assert_eq!(said("wait=-1"), None);
        assert_eq!(said("waiting=5"), None);
        assert_eq!(wait(&HeaderMap::new()), None);
    }
}
