//! What agents write down, each in a file of its own, and how that is read.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use mamos_core::SessionId;
use mamos_core::lease::RunRef;
use serde::{Deserialize, Serialize};

use super::place::{Place, now};

/// Something that an agent saw, and when, in microseconds since 1970.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// When.
    pub at: i64,
    /// What.
    pub what: What,
}

/// What an agent can see.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Its program began.
    Began,
    /// It was welcomed.
    Linked {
        /// To this session.
        session: SessionId,
    },
    /// It has no link any more.
    Unlinked,
    /// A handler began.
    Started {
        /// For this run.
        run: RunRef,
    },
    /// A handler came to its end.
    Ended {
        /// Of this run.
        run: RunRef,
    },
    /// A handler was stopped before its end.
    Dropped {
        /// Of this run.
        run: RunRef,
    },
    /// Its program gave up.
    GaveUp {
        /// Why.
        why: String,
    },
}

/// Appends what an agent sees to its file.
#[derive(Debug, Clone)]
pub(super) struct Notebook(Arc<Mutex<File>>);

impl Notebook {
    pub(super) fn open(place: &Place, number: usize) -> anyhow::Result<Self> {
        let path = place.evidence(number);
        let file = File::options().append(true).create(true).open(&path);
        let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// In one write, so that a kill tears no line.
    pub(super) fn note(&self, what: What) {
        let line = serde_json::to_string(&Seen { at: now(), what }).map(|line| line + "\n");
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let written = line.map_err(Into::into).and_then(|line| file.write_all(line.as_bytes()));
        if let Err(error) = written {
            tracing::error!(%error, "an observation is lost, and the verdict will be wrong");
        }
    }
}

/// A handler that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// At this agent.
    pub agent: usize,
    /// For this run.
    pub run: RunRef,
    /// Since then.
    pub started: i64,
    /// Until then; `None` if its agent died before.
    pub ended: Option<i64>,
    /// Did it come to its end, and was not stopped?
    pub is_whole: bool,
}

impl Ran {
    /// Was it running then?
    pub fn is_at(&self, moment: i64) -> bool {
        self.started < moment && self.ended.is_none_or(|ended| ended > moment)
    }
}

/// What all agents saw, read while they go on writing.
#[derive(Debug, Default)]
pub struct Evidence {
    /// By agent, in order.
    pub seen: Vec<Vec<Seen>>,
    read: Vec<u64>,
}

impl Evidence {
    /// Of that many agents, nothing read yet.
    pub fn of(agents: usize) -> Self {
        Self { seen: vec![Vec::new(); agents], read: vec![0; agents] }
    }

    /// Reads what was written since the last time.
    pub(super) fn catch_up(&mut self, place: &Place) -> anyhow::Result<()> {
        for (number, (seen, read)) in self.seen.iter_mut().zip(&mut self.read).enumerate() {
            let Ok(mut file) = File::open(place.evidence(number)) else { continue };
            let mut text = String::new();
            file.seek(SeekFrom::Start(*read))?;
            file.read_to_string(&mut text)?;
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            for line in text[..whole].lines() {
                let line = serde_json::from_str(line)
                    .with_context(|| format!("the evidence of agent {number} cannot be read: {line}"))?;
                seen.push(line);
            }
            *read += whole as u64;
        }
        Ok(())
    }

    /// How many agents are linked, as they think.
    pub(super) fn linked(&self) -> usize {
        let is_linked = |seen: &&Vec<Seen>| {
            let last = seen
                .iter()
                .rev()
                .find(|seen| matches!(seen.what, What::Linked { .. } | What::Unlinked | What::Began));
            last.is_some_and(|last| matches!(last.what, What::Linked { .. }))
        };
        self.seen.iter().filter(is_linked).count()
    }

    /// When an agent was linked for the first time after a moment, and to which session.
    pub fn linked_after(&self, agent: usize, moment: i64) -> Option<(i64, SessionId)> {
        self.seen.get(agent)?.iter().find_map(|seen| match seen.what {
            What::Linked { session } if seen.at > moment => Some((seen.at, session)),
            _ => None,
        })
    }

    /// The session that an agent had at a moment.
    pub fn session_at(&self, agent: usize, moment: i64) -> Option<SessionId> {
        self.seen.get(agent)?.iter().rev().find_map(|seen| match seen.what {
            What::Linked { session } if seen.at <= moment => Some(session),
            _ => None,
        })
    }

    /// All handlers that ran.
    pub fn ran(&self) -> Vec<Ran> {
        let mut all = Vec::new();
        for (agent, seen) in self.seen.iter().enumerate() {
            let first = all.len();
            for Seen { at, what } in seen {
                let (run, is_whole) = match what {
                    What::Started { run } => {
                        all.push(Ran { agent, run: *run, started: *at, ended: None, is_whole: false });
                        continue;
                    }
                    What::Ended { run } => (run, true),
                    What::Dropped { run } => (run, false),
                    _ => continue,
                };
                let open = all[first..].iter_mut().rev().find(|ran| ran.run == *run && ran.ended.is_none());
                if let Some(ran) = open {
                    (ran.ended, ran.is_whole) = (Some(*at), is_whole);
                }
            }
        }
        all
    }
}
