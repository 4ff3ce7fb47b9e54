//! The model test agrees with itself, and tells stores apart that are not alike.

use mamos_store::MemoryStore;
use mamos_store::broken::{Broken, Flaw};
use mamos_store::conformance::model::same_answers;

#[tokio::test]
async fn a_store_gives_the_same_answers_as_itself() {
    for seed in 0..20 {
        same_answers(&MemoryStore::new(), &MemoryStore::new(), seed, 300).await.unwrap();
    }
}

#[tokio::test]
async fn a_broken_store_gives_other_answers() {
    let flaws = [
        Flaw::IgnoresEpoch,
        Flaw::IgnoresSession,
        Flaw::ForgetsUniqueKeys,
        Flaw::IgnoresPriority,
        Flaw::IgnoresPause,
        Flaw::ForgetsCrashes,
        Flaw::ForgetsKnownRuns,
        Flaw::AcceptsLogGaps,
        Flaw::MisalignsVerdicts,
        Flaw::LeasesNeverExpire,
        Flaw::EndsCanChange,
        Flaw::TokensAdmitTwice,
        Flaw::ListsLoseJobs,
        Flaw::PrunesTooMuch,
        Flaw::OverwritesAgents,
        Flaw::ForgetsRevocations,
        Flaw::IgnoresTokenNames,
        Flaw::ForgetsTokenLabels,
        Flaw::OverwritesDocuments,
        Flaw::RefusesRepeatedWrites,
        Flaw::WritesPartsOfBatches,
        Flaw::ServesExpiredDocuments,
        Flaw::ListsLoseDocuments,
        Flaw::PrunesLiveDocuments,
    ];
    for flaw in flaws {
        let mut is_found = false;
        for seed in 0..30 {
            let broken = Broken::new(MemoryStore::new(), flaw);
            is_found |= same_answers(&MemoryStore::new(), &broken, seed, 300).await.is_err();
            if is_found {
                break;
            }
        }
        assert!(is_found, "30 seeds do not notice {flaw:?}");
    }
}

/// Half of the operations of the model must do something, or it compares nothing.
#[tokio::test]
async fn the_model_reaches_every_state() {
    use mamos_core::JobState;
    use mamos_core::store::{JobFilter, JobStore, PageRequest};
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..10 {
        let (a, b) = (MemoryStore::new(), MemoryStore::new());
        same_answers(&a, &b, seed, 150).await.unwrap();
        let page = a.jobs(JobFilter::default(), PageRequest::first(1000)).await.unwrap();
        seen.extend(page.items.iter().map(|job| job.state));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), JobState::ALL);
}
