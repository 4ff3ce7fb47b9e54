//! The connections of a listener, so that none is made twice and none is forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use super::connection::Shared;
use super::handshake::Refusal;
use super::lock;
use super::names::ConnectionId;

/// What is known of the connections of a listener, within bounds.
#[derive(Default)]
pub(super) struct Registry {
    state: Mutex<State>,
    left: Notify,
}

#[derive(Default)]
struct State {
    links: HashMap<ConnectionId, Known>,
    half_open: usize,
    is_closed: bool,
}

struct Known {
    /// Missing while it is being made.
    shared: Option<Arc<Shared>>,
    hello: Bytes,
    /// What it was answered; empty while it is being made.
    answer: Bytes,
    is_half_open: bool,
}

/// What to do with a hello.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is new, and has a place now.
    New,
    /// It came before, and was answered like this: once more.
    Again(Bytes),
    /// There is nothing to do.
    Drop,
    /// There is no room.
    Refuse(Refusal),
}

impl Registry {
    /// Judges a hello, and keeps a place for it if it is new.
    pub(super) fn enter(
        &self,
        id: ConnectionId,
        hello: &Bytes,
        max_half_open: usize,
        max_links: usize,
    ) -> Verdict {
        let mut state = lock(&self.state);
        if state.is_closed {
            return Verdict::Drop;
        }
        if let Some(known) = state.links.get(&id) {
            let is_repeat = known.is_half_open && known.hello == hello && !known.answer.is_empty();
            return if is_repeat { Verdict::Again(known.answer.clone()) } else { Verdict::Drop };
        }
        if state.half_open >= max_half_open {
            return Verdict::Refuse(Refusal::Busy);
        }
        if state.links.len() >= max_links {
            return Verdict::Refuse(Refusal::Full);
        }
        state.half_open += 1;
        let known = Known { shared: None, hello: hello.clone(), answer: Bytes::new(), is_half_open: true };
        state.links.insert(id, known);
        Verdict::New
    }

    /// It was made, and will be answered. `false` if the listener was closed meanwhile.
    pub(super) fn made(&self, id: ConnectionId, shared: &Arc<Shared>, answer: &Bytes) -> bool {
        let mut state = lock(&self.state);
        let is_closed = state.is_closed;
        match state.links.get_mut(&id) {
            Some(known) if !is_closed => {
                known.shared = Some(Arc::clone(shared));
                known.answer = answer.clone();
                true
            }
            _ => false,
        }
    }

    /// It was accepted, and is half open no more.
    pub(super) fn accepted(&self, id: ConnectionId) {
        let mut state = lock(&self.state);
        if let Some(known) = state.links.get_mut(&id)
            && std::mem::take(&mut known.is_half_open)
        {
            (known.hello, known.answer) = (Bytes::new(), Bytes::new());
            state.half_open -= 1;
        }
    }

    /// It is over.
    pub(super) fn leave(&self, id: ConnectionId) {
        let mut state = lock(&self.state);
        if state.links.remove(&id).is_some_and(|known| known.is_half_open) {
            state.half_open -= 1;
        }
        drop(state);
        self.left.notify_waiters();
    }

    /// Takes nothing any more, and gives the connections that there are.
    pub(super) fn close(&self) -> Vec<Arc<Shared>> {
        self.close_those(|_| true)
    }

    /// Takes nothing any more, and gives the connections that were not accepted.
    pub(super) fn close_half_open(&self) -> Vec<Arc<Shared>> {
        self.close_those(|known| known.is_half_open)
    }

    fn close_those(&self, which: impl Fn(&Known) -> bool) -> Vec<Arc<Shared>> {
        let mut state = lock(&self.state);
        state.is_closed = true;
        state.links.values().filter(|known| which(known)).filter_map(|known| known.shared.clone()).collect()
    }

    /// Waits until there are none.
    pub(super) async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self.len() == 0 {
                return;
            }
            left.await;
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        lock(&self.state).links.len()
    }
}
