//! The whole system under seeds, and proof that the checker notices what is wrong.

use std::time::Duration;

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

/// Gives the first seed under which a store with the flaw is caught.
fn caught_at(flaw: Flaw) -> Option<u64> {
    let options = Options { flaw: Some(flaw), chaos_for: Duration::from_secs(20), ..Options::default() };
    (1..=300).find(|seed| simulate(*seed, &options).is_ok_and(|report| !report.violations.is_empty()))
}

macro_rules! caught {
    ($($test:ident: $flaw:ident),+ $(,)?) => {
        $(
            #[test]
            fn $test() {
                let seed = caught_at(Flaw::$flaw);
                println!("{:?} is caught by seed {seed:?}", Flaw::$flaw);
                assert!(seed.is_some(), "{:?} stays unnoticed under 300 seeds", Flaw::$flaw);
            }
        )+
    };
}

caught! {
    a_store_that_ignores_the_epoch_is_caught: IgnoresEpoch,
    a_store_that_ignores_the_session_is_caught: IgnoresSession,
    a_store_that_leases_a_job_twice_is_caught: ClaimsTwice,
    a_store_whose_epochs_stand_still_is_caught: EpochStandsStill,
    a_store_that_loses_jobs_is_caught: LosesJobs,
    a_store_in_which_ends_change_is_caught: EndsCanChange,
    a_store_that_leaves_superseded_sessions_open_is_caught: LeavesOldSessionsOpen,
    a_store_that_lets_lost_sessions_claim_is_caught: LeasesNeverExpire,
    a_store_that_takes_logs_with_gaps_is_caught: AcceptsLogGaps,
    a_store_that_misaligns_verdicts_is_caught: MisalignsVerdicts,
    a_store_that_forgets_crashes_is_caught: ForgetsCrashes,
    a_store_that_forgets_known_runs_is_caught: ForgetsKnownRuns,
}
