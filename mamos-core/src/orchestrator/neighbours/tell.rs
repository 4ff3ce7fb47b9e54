//! Telling neighbours: what waits is told together, while the next gathers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::hint::Hint;
use super::state::{SIGN_EVERY, WATCH_AGAIN_EVERY, encoded};
use crate::Result;
use crate::orchestrator::engine::Engine;

/// How often it is looked whether the sign of this orchestrator should say something else.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest pause after hints could not be told.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// When what is told from time to time must be told again.
struct Schedule {
    look_at: Instant,
    sign_at: Instant,
    watch_at: Instant,
    /// What the last sign said.
    said: Option<Hint>,
}

/// Tells what there is to tell until nobody needs the orchestrator any more.
pub(crate) async fn tell(engine: Arc<Engine>) {
    let neighbours = &engine.neighbours;
    let now = Instant::now();
    let mut schedule = Schedule { look_at: now, sign_at: now, watch_at: now + WATCH_AGAIN_EVERY, said: None };
    let mut failures: u32 = 0;
    loop {
        tokio::select! {
            biased;
            () = engine.gone.cancelled() => return,
            () = neighbours.news.notified() => {}
            () = tokio::time::sleep_until(schedule.look_at) => {}
        }
        match pass(&engine, &mut schedule).await {
            Ok(()) => failures = 0,
            Err(error) => {
                failures += 1;
                tracing::debug!(target: "mamos::neighbours", %error, failures, "neighbours were not told");
                let pause = (Duration::from_millis(20) * 2u32.pow(failures.min(8))).min(LONGEST_PAUSE);
                let _ = engine.gone.run_until_cancelled(tokio::time::sleep(pause)).await;
                neighbours.news.notify_one();
            }
        }
    }
}

/// Tells once what waits, and what it is time for. What could not be told stays to be told.
async fn pass(engine: &Engine, schedule: &mut Schedule) -> Result<()> {
    let neighbours = &engine.neighbours;
    let Some(hints) = &neighbours.hints else { return Ok(()) };
    let now = Instant::now();
    if now >= schedule.watch_at {
        schedule.watch_at = now + WATCH_AGAIN_EVERY;
        neighbours.watch(engine.waiters.jobs());
    }
    let must_greet = neighbours.take_greeting();
    let sign = if must_greet || now >= schedule.look_at || engine.stopping.is_cancelled() {
        schedule.look_at = now + LOOK_EVERY;
        neighbours.forget_gone();
        heed_idle(engine);
        sign(engine).filter(|sign| {
            let is_news = schedule.said.as_ref() != Some(sign);
            is_news || (*sign != Hint::Leaving && (must_greet || now >= schedule.sign_at))
        })
    } else {
        None
    };
    let news = neighbours.state().take();
    let bytes = encoded(news.iter().cloned().chain(sign.clone()).collect(), neighbours.life);
    if !bytes.is_empty()
        && let Err(error) = hints.tell(bytes).await
    {
        let mut state = neighbours.state();
        news.into_iter().for_each(|hint| state.add(hint));
        schedule.look_at = now;
        return Err(error);
    }
    if let Some(sign) = sign {
        schedule.said = Some(sign);
        schedule.sign_at = now + SIGN_EVERY;
    }
    neighbours.told.send_modify(|told| *told = told.wrapping_add(1));
    Ok(())
}

/// What this orchestrator says of itself, if it hands out jobs or no longer does.
fn sign(engine: &Engine) -> Option<Hint> {
    let neighbours = &engine.neighbours;
    if engine.stopping.is_cancelled() {
        return Some(Hint::Leaving);
    }
    if !neighbours.is_running() {
        return None;
    }
    // Alone, nobody cares how busy it is.
    let is_offering = neighbours.are_there() && !engine.is_draining.load(Ordering::SeqCst);
    let idle = if is_offering { engine.registry().idle_kinds() } else { Vec::new() };
    Some(Hint::Present { name: engine.settings.name.clone(), idle })
}

/// Lets the registry know where else somebody has nothing to do. When nobody has any more, agents here get
/// their prefetch again.
pub(super) fn heed_idle(engine: &Engine) {
    if engine.registry().set_idle_elsewhere(engine.neighbours.idle()) {
        engine.dispatch.notify_one();
    }
}
