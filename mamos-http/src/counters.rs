//! Counts that the metrics show.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a caller was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Nothing was shown where something is needed.
    Stranger,
    /// What was shown is wrong, expired or revoked.
    WrongToken,
    /// They are known and lack the permission.
    Forbidden,
    /// The user, the password or the setup token was wrong.
    WrongPassword,
    /// Too many wrong tokens or passwords before.
    TooManyFailures,
    /// Too many requests.
    TooManyRequests,
}

impl Refusal {
    pub(crate) const ALL: [Self; 6] = [
        Self::Stranger,
        Self::WrongToken,
        Self::Forbidden,
        Self::WrongPassword,
        Self::TooManyFailures,
        Self::TooManyRequests,
    ];

    /// The label `reason` of `mamos_http_refused_total`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::WrongToken => "wrong_token",
            Self::Forbidden => "forbidden",
            Self::WrongPassword => "wrong_password",
            Self::TooManyFailures => "too_many_failures",
            Self::TooManyRequests => "too_many_requests",
        }
    }
}

/// How often callers were refused, by reason.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    refused: [AtomicU64; Refusal::ALL.len()],
}

impl Counters {
    pub(crate) fn refuse(&self, reason: Refusal) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// By the label `reason`.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let count = |reason: Refusal| self.refused[reason as usize].load(Ordering::Relaxed);
        Refusal::ALL.into_iter().map(move |reason| (reason.as_str(), count(reason)))
    }
}
