//! Counts where agents that are refused come from.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use mamos_core::Result;
use mamos_core::auth::Binding;
use mamos_core::transport::{Connection, Frame};

use crate::access::FailureLimiter;

/// A connection that is counted against its address when whoever is at the other end was refused.
pub(super) struct Watched<C> {
    inner: C,
    joins: Arc<FailureLimiter>,
    address: Option<IpAddr>,
}

impl<C> Watched<C> {
    pub(super) fn new(inner: C, joins: Arc<FailureLimiter>, address: Option<IpAddr>) -> Self {
        Self { inner, joins, address }
    }
}

#[async_trait]
impl<C: Connection> Connection for Watched<C> {
    async fn send(&self, frame: Frame) -> Result<()> {
        self.inner.send(frame).await
    }

    async fn receive(&self) -> Result<Option<Frame>> {
        self.inner.receive().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }

    fn is_reliable(&self) -> bool {
        self.inner.is_reliable()
    }

    fn binding(&self) -> Option<Binding> {
        self.inner.binding()
    }

    fn peer(&self) -> String {
        self.inner.peer()
    }

    fn note_refused(&self) {
        self.joins.count(self.address);
    }
}

impl<C: fmt::Debug> fmt::Debug for Watched<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}
