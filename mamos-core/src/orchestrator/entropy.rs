//! Where the engine takes random numbers from.

/// Fast numbers for ids and jitter; numbers that nobody can guess for secrets.
#[derive(Debug)]
pub(crate) struct Entropy {
    fast: fastrand::Rng,
    /// In a simulation secrets too come from the seed.
    is_seeded: bool,
}

impl Entropy {
    /// From the operating system.
    pub(crate) fn from_os() -> Self {
        Self { fast: fastrand::Rng::with_seed(uuid::Uuid::new_v4().as_u64_pair().0), is_seeded: false }
    }

    /// The same numbers every time.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { fast: fastrand::Rng::with_seed(seed), is_seeded: true }
    }

    /// 128 random bits for an id.
    pub(crate) fn id(&mut self) -> u128 {
        self.fast.u128(..)
    }

    /// 122 random bits or more that nobody can guess.
    pub(crate) fn secret(&mut self) -> u128 {
        if self.is_seeded { self.fast.u128(..) } else { uuid::Uuid::new_v4().as_u128() }
    }

    /// In `0.0..1.0`.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.fast.f64()
    }
}
