//! The whole system under seeds, and proof that the checker notices what is wrong.

use std::time::Duration;

use mamos_simulation::checker::Violation;
use mamos_simulation::simulate::{Options, simulate};
use mamos_store::broken::Flaw;

#[test]
fn whatever_goes_wrong_every_job_ends_once() {
    // Other seeds than those of `mamos-sim`, so that a whole test run sees more.
    for seed in 10_001..=10_020 {
        let report = simulate(seed, &Options::default()).unwrap();
        assert!(report.is_good(), "seed {seed}: {:?} {:?}", report.violations, report.stuck);
        assert!(!report.history.is_empty());
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 20_001..=20_010 {
        let first = simulate(seed, &Options::default()).unwrap();
        let second = simulate(seed, &Options::default()).unwrap();
        let difference = first.history.iter().zip(&second.history).position(|(one, other)| one != other);
        assert_eq!(difference, None, "seed {seed} differs at this entry");
        assert_eq!(first.history.len(), second.history.len(), "seed {seed}");
    }
}

/// Seeds that once failed, with the time of their chaos.
#[test]
fn seeds_that_once_found_a_fault_find_none_any_more() {
    // 48: a hello that arrived late superseded the agent that had sent it, which then ended.
    const ONCE_BAD: &[(u64, u64)] = &[(48, 20)];
    for (seed, seconds) in ONCE_BAD.iter().copied() {
        let options = Options { chaos_for: Duration::from_secs(seconds), ..Options::default() };
        let report = simulate(seed, &options).unwrap();
        assert!(report.is_good(), "seed {seed}: {:?} {:?}", report.violations, report.stuck);
    }
}

/// Gives the first seed under which a store with the flaw is caught, and how.
fn caught_at(flaw: Flaw) -> Option<(u64, Violation)> {
    let options = Options { flaw: Some(flaw), chaos_for: Duration::from_secs(60), jobs: 120 };
    (1..=300).find_map(|seed| {
        let report = simulate(seed, &options).ok()?;
        report.violations.into_iter().next().map(|violation| (seed, violation))
    })
}

macro_rules! caught {
    ($($test:ident: $flaw:ident),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                let caught = caught_at(Flaw::$flaw);
                println!("{:?} is caught: {caught:?}", Flaw::$flaw);
                assert!(caught.is_some(), "{:?} stays unnoticed under 300 seeds", Flaw::$flaw);
            }
        )+
    };
}

// Other flaws of `Broken` do no harm here: the engine keeps to the rules that the store forgets, or the
// fencing by epoch holds without them. The conformance kit catches those.
caught! {
    a_store_that_ignores_the_epoch_is_caught: IgnoresEpoch,
    a_store_that_leases_a_job_twice_is_caught: ClaimsTwice,
    a_store_whose_epochs_stand_still_is_caught: EpochStandsStill,
    a_store_that_loses_jobs_is_caught: LosesJobs,
    a_store_in_which_ends_change_is_caught: EndsCanChange,
    a_store_that_misaligns_verdicts_is_caught: MisalignsVerdicts,
}
