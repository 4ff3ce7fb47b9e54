//! The whole system under a seed.
