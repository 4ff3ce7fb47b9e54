//! The statement that claims.

use std::sync::OnceLock;

/// How many lanes one statement merges. The server compiles one scan a lane.
const LANES: [usize; 4] = [1, 4, 16, 64];

/// Where the job begins in a row of it; before that stand counts and times of all.
pub(super) const JOB: usize = 4;

/// With the priority negated, as in the index, all parts of a key ascend, and keys can be compared as rows.
const ORDER: &str = "ORDER BY (-priority::int), run_at, seq";
/// With a condition that is never true nothing is read.
const LIMIT: &str = "LIMIT CASE WHEN (SELECT count(*) FROM cur) = $4 THEN $6 ELSE 0 END";

/// The statement that claims from that many lanes, if wished from floors on.
///
/// It locks the sessions first, and takes nothing unless all are current, so that a session that is ended at
/// the same time either has the jobs when its end looks for them, or gets none. Then it takes ready jobs in the order
/// of the index, passing over those that others take, cuts them where their payloads grow too large, and leases them.
///
/// `$1` and `$2` are the sessions and their links, `$3` the time, `$4` how many sessions, `$5` how many jobs to take
/// at most, `$6` how many to look at, `$7` whose session gets each, `$8` the most bytes of payloads, `$9` the lanes, and
/// `$10` to `$12` the parts of their floors.
pub(super) fn statement(lanes: usize, has_floors: bool) -> &'static str {
    static TEXTS: [[OnceLock<String>; 2]; LANES.len() + 1] =
        [const { [const { OnceLock::new() }; 2] }; LANES.len() + 1];
    let index = LANES.iter().position(|length| lanes <= *length).unwrap_or(LANES.len());
    let text = || text(LANES.get(index).copied(), has_floors);
    TEXTS[index][usize::from(has_floors)].get_or_init(text)
}

/// That for so many lanes; for a list of any length if `None`.
fn text(lanes: Option<usize>, has_floors: bool) -> String {
    let picked = match lanes {
        Some(1) => format!(
            "picked AS MATERIALIZED ({} {ORDER} {LIMIT} FOR NO KEY UPDATE SKIP LOCKED), \
             keys AS (SELECT id FROM picked)",
            ready_in_place(1, has_floors)
        ),
        // Merges the index entries of the lanes as they stand: it reads as many as are wanted, and one
        // more for each lane. For that each lane names its order, and a part of it by another name: else the server
        // reads all lanes to their ends and sorts. Rows of a merge cannot be locked, so they are locked behind it.
        lanes => {
            let ready = match lanes {
                Some(lanes) => {
                    let arms =
                        (1..=lanes).map(|place| format!("({} {ORDER})", ready_in_place(place, has_floors)));
                    arms.collect::<Vec<_>>().join(" UNION ALL ")
                }
                None => ready_in_list(has_floors),
            };
            format!(
                "keys AS MATERIALIZED (SELECT * FROM ({ready}) k ORDER BY urgency, run_at, seq {LIMIT}), \
                 picked AS MATERIALIZED (SELECT j.id, -j.priority::int AS urgency, j.run_at, j.seq FROM keys k \
                     JOIN mamos_job j ON j.id = k.id AND j.state = 2 LIMIT $5 FOR NO KEY UPDATE OF j SKIP LOCKED)"
            )
        }
    };
    format!(
        "WITH cur AS MATERIALIZED (SELECT s.no FROM unnest($1::bigint[], $2::bigint[]) AS t(no, link) \
             JOIN mamos_session s ON s.no = t.no AND s.link = t.link \
             WHERE s.ended IS NULL AND s.expires_at > $3 FOR SHARE OF s), \
         {picked}, \
         sized AS (SELECT p.id, s.payload, s.details, row_number() OVER w AS n, \
                 sum(octet_length(s.payload)) OVER w AS bytes \
             FROM picked p LEFT JOIN mamos_spec s ON s.seq = p.seq \
             WINDOW w AS (ORDER BY p.urgency, p.run_at, p.seq ROWS UNBOUNDED PRECEDING)), \
         leased AS (UPDATE mamos_job j SET state = 3, session = ($7::bigint[])[t.n], leased_at = $3, \
                 epoch = j.epoch + 1, started_at = NULL \
             FROM sized t WHERE j.id = t.id AND t.n <= $5 AND (t.n = 1 OR t.bytes IS NULL OR t.bytes <= $8) \
             RETURNING j.id, t.n, j.seq, j.lane, j.run_at, j.epoch, j.attempt, j.crashes, j.deliveries, \
                 j.deadline, t.payload, t.details, -j.priority::int) \
         SELECT m.*, l.* FROM (SELECT (SELECT count(*) FROM cur), (SELECT count(*) FROM keys), \
                 (SELECT count(*) FROM picked), \
                 (SELECT run_at FROM mamos_job WHERE state = 1 ORDER BY run_at LIMIT 1)) m \
             LEFT JOIN leased l ON true"
    )
}

/// The ready jobs of the lane that has this place in the list; none if the list is shorter.
fn ready_in_place(place: usize, has_floors: bool) -> String {
    let lane = format!("($9::bigint[])[{place}]");
    let floor = has_floors.then(|| {
        let urgency = urgency(&lane, &format!("($10::int[])[{place}]"));
        [urgency, format!("($11::bigint[])[{place}]"), format!("($12::bigint[])[{place}]")]
    });
    ready(&open(&lane), floor)
}

/// The ready jobs of each lane of the list, one lane after the other.
fn ready_in_list(has_floors: bool) -> String {
    let (lanes, floor) = if has_floors {
        let lanes = format!(
            "SELECT {} AS no, {} AS urgency, w.run_at, w.seq FROM unnest($9::bigint[], $10::int[], \
             $11::bigint[], $12::bigint[]) AS w(no, urgency, run_at, seq) OFFSET 0",
            open("w.no"),
            urgency("w.no", "w.urgency"),
        );
        (lanes, Some(["w.urgency", "w.run_at", "w.seq"].map(str::to_owned)))
    } else {
        (format!("SELECT {} AS no FROM unnest($9::bigint[]) AS w(no)", open("w.no")), None)
    };
    format!("SELECT r.* FROM ({lanes}) w CROSS JOIN LATERAL ({} {ORDER} LIMIT $6) r", ready("w.no", floor))
}

fn ready(lane: &str, floor: Option<[String; 3]>) -> String {
    let from = floor.map(|floor| format!(" AND (-priority::int, run_at, seq) >= ({})", floor.join(", ")));
    let from = from.unwrap_or_default();
    format!(
        "SELECT id, -priority::int AS urgency, run_at, seq FROM mamos_job WHERE state = 2 AND lane = {lane}{from}"
    )
}

/// The lane, unless its queue is paused.
fn open(lane: &str) -> String {
    format!(
        "(SELECT l.no FROM mamos_lane l WHERE l.no = {lane} AND NOT EXISTS \
         (SELECT FROM mamos_queue q WHERE q.name = l.queue AND q.is_paused))"
    )
}

/// The first part of a floor, or less than any if something more urgent is ready.
fn urgency(lane: &str, floor: &str) -> String {
    format!(
        "(SELECT CASE WHEN EXISTS (SELECT FROM mamos_job u WHERE u.state = 2 AND u.lane = {lane} \
         AND (-u.priority::int) < {floor}) THEN -32769 ELSE {floor} END)"
    )
}

#[cfg(test)]
mod with_postgres {
    use mamos_testbed::PostgresSchema;
    use sqlx::{AssertSqlSafe, Row};

    use super::super::super::connect::{Place, Plans};
    use super::*;
    use crate::{PostgresSettings, PostgresStore};

    #[tokio::test]
    async fn each_lane_is_read_in_order_and_from_the_floor_on() {
        let schema = PostgresSchema::unique();
        let settings = PostgresSettings::new(schema.url()).schema(schema.name()).connections(1);
        let store = PostgresStore::open(settings.clone()).await.unwrap();
        let mut connection = Place::new(&settings).unwrap().connect_hot(Plans::BY_INDEX).await.unwrap();
        for (number, lanes) in [1, 4, 16, 64, 65].into_iter().enumerate() {
            for has_floors in [false, true] {
                let name = format!("claim_{number}_{has_floors}");
                let prepare = format!("PREPARE {name} AS {}", statement(lanes, has_floors));
                sqlx::raw_sql(AssertSqlSafe(prepare)).execute(&mut connection).await.unwrap();
                let floors = if has_floors { ", '{0}', '{0}', '{0}'" } else { "" };
                let explain = format!(
                    "EXPLAIN EXECUTE {name} ('{{1}}', '{{1}}', 1, 1, 9, 9, '{{1}}', 99, '{{1}}'{floors})"
                );
                let rows = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_all(&mut connection).await.unwrap();
                let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
                let plan = plan.join("\n");
                let wrong = format!("{lanes} lanes, floors: {has_floors}:\n{plan}");
                assert!(!plan.contains("Seq Scan on mamos_job"), "{wrong}");
                let begins = plan.matches("ROW((- (priority)::integer), run_at, seq) >= ROW(").count();
                let arms = if lanes > 64 { 1 } else { lanes };
                assert_eq!(begins, if has_floors { arms } else { 0 }, "{wrong}");
                if (2..=64).contains(&lanes) {
                    let keys = plan
                        .split("CTE keys")
                        .nth(1)
                        .and_then(|rest| rest.split("CTE picked").next())
                        .unwrap();
                    assert!(keys.contains("Merge Append") && !keys.contains("Sort  ("), "{wrong}");
                }
            }
        }
        store.close().await;
    }
}
