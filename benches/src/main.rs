//! Measures MAMOS next to raw baselines.

fn main() {}
