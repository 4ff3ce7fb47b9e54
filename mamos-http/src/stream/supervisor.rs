//! Looks after a stream while it lives: may its caller still read, and does the orchestrator go on?

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::http::HeaderMap;
use mamos_core::ErrorKind;
use mamos_core::auth::{Permission, Secret};
use tokio::time::Instant;

use super::Place;
use crate::bearer::bearer;
use crate::caller::Caller;
use crate::problem::Problem;
use crate::shared::Shared;

/// So often in a row the caller may not be decided on before the stream is ended.
const UNDECIDED: u32 = 6;

/// Why a stream must end.
pub(crate) type Reason = &'static str;
const SHUTDOWN: Reason = "shutdown";
const REVOKED: Reason = "revoked";
const UNAVAILABLE: Reason = "unavailable";

/// See the module. Holds the place of the stream.
pub(crate) struct Supervisor {
    shared: Arc<Shared>,
    bearer: Option<Secret>,
    peer: Option<IpAddr>,
    needs: Permission,
    check_at: Instant,
    undecided: u32,
    checking: Option<Checking>,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: Place,
}

type Checking = Pin<Box<dyn Future<Output = Checked> + Send>>;

enum Checked {
    Fine,
    Revoked,
    Undecided,
}

impl Supervisor {
    /// Begins to look after a stream of this caller, who needs that permission as long as it lives.
    pub(crate) fn begin(
        shared: &Arc<Shared>,
        caller: &Caller,
        headers: &HeaderMap,
        needs: Permission,
    ) -> Result<Self, Problem> {
        let place = shared.live.places.take(&caller.principal.name)?;
        let (closing, orchestrator) = (shared.live.closing.clone(), shared.orchestrator.clone());
        let stopping = async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = orchestrator.stopping() => {}
            }
        };
        Ok(Self {
            shared: Arc::clone(shared),
            bearer: bearer(headers)?,
            peer: caller.peer,
            needs,
            check_at: Instant::now() + shared.live.recheck_every,
            undecided: 0,
            checking: None,
            stopping: Box::pin(stopping),
            _place: place,
        })
    }

    /// Waits until the stream must end, and says why. Safe to drop and call again: a check that was begun
    /// goes on then.
    pub(crate) async fn must_end(&mut self) -> Reason {
        loop {
            if self.checking.is_none() {
                tokio::select! {
                    biased;
                    () = self.stopping.as_mut() => return SHUTDOWN,
                    () = tokio::time::sleep_until(self.check_at) => {}
                }
            }
            let check = || check(Arc::clone(&self.shared), self.bearer.clone(), self.peer, self.needs);
            let checking = self.checking.get_or_insert_with(|| Box::pin(check()));
            let checked = tokio::select! {
                biased;
                () = self.stopping.as_mut() => return SHUTDOWN,
                checked = checking.as_mut() => checked,
            };
            self.checking = None;
            self.check_at = Instant::now() + self.shared.live.recheck_every;
            match checked {
                Checked::Fine => self.undecided = 0,
                Checked::Revoked => return REVOKED,
                Checked::Undecided => self.undecided += 1,
            }
            if self.undecided >= UNDECIDED {
                return UNAVAILABLE;
            }
        }
    }
}

async fn check(
    shared: Arc<Shared>,
    bearer: Option<Secret>,
    peer: Option<IpAddr>,
    needs: Permission,
) -> Checked {
    let Some(bearer) = bearer else { return Checked::Revoked };
    match shared.gatekeeper.identify(&bearer, peer, shared.now()).await {
        Ok(known) if known.permissions.contains(&needs) => Checked::Fine,
        Ok(_) => Checked::Revoked,
        Err(error) if error.kind() == ErrorKind::Denied => Checked::Revoked,
        Err(_) => Checked::Undecided,
    }
}
