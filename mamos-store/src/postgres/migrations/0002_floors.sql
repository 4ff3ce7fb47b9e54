-- The same order with all parts of the key ascending, so that "from this key on" is one range of the index: see
-- claim/floors.rs. `~` turns the bits of a priority around, and with them the order.
DROP INDEX mamos_job_ready;
CREATE INDEX mamos_job_ready ON mamos_job (lane, (~priority), run_at, seq) WHERE state = 2;
