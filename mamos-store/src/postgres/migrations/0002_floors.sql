-- The same order with all parts of the key ascending, so that "from this key on" is one range of the index: see
-- claim/floors.rs.
DROP INDEX mamos_job_ready;
CREATE INDEX mamos_job_ready ON mamos_job (lane, (-priority::int), run_at, seq) WHERE state = 2;
