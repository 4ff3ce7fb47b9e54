-- Runs with a search path of this schema alone. Names begin with mamos_, because the host may choose a
-- schema that holds tables of its own. Times are microseconds since 1970.

CREATE TABLE mamos_queue (
    name      text PRIMARY KEY,
    is_paused boolean NOT NULL
);

-- Jobs name their lane by `no`. Never changed or removed, so that knowing one is enough for ever.
CREATE TABLE mamos_lane (
    no       int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id       bigint NOT NULL UNIQUE,
    queue    text NOT NULL,
    kind     text NOT NULL,
    selector text NOT NULL
);

CREATE SEQUENCE mamos_job_seq AS bigint;

-- The hot table: what claims and settles read and write, and nothing else. Wide columns first, so that
-- no bytes are lost between them.
-- States: 0 blocked, 1 scheduled, 2 ready, 3 leased, 4 running, 5 succeeded, 6 dead, 7 cancelled.
CREATE TABLE mamos_job (
    id          uuid PRIMARY KEY,
    seq         bigint NOT NULL,
    run_at      bigint NOT NULL,
    epoch       bigint NOT NULL DEFAULT 0,
    settled     bigint NOT NULL DEFAULT 0, -- the epoch of the run that settled it last; 0 if none did
    session     bigint,
    leased_at   bigint,
    started_at  bigint,
    finished_at bigint,
    deadline    bigint,
    lane        int NOT NULL,
    attempt     int NOT NULL DEFAULT 1,
    crashes     int NOT NULL DEFAULT 0,
    deliveries  int NOT NULL DEFAULT 0,
    priority    smallint NOT NULL,
    state       smallint NOT NULL,
    is_cancel   boolean NOT NULL DEFAULT false,
    unique_key  text
) WITH (
    -- Each job leaves two dead versions. Many small passes keep the indexes short that claims walk.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_cost_delay = 0
);
ALTER SEQUENCE mamos_job_seq OWNED BY mamos_job.seq;
-- Exactly the order of a claim, so that its cost does not grow with the backlog.
CREATE INDEX mamos_job_ready ON mamos_job (lane, priority DESC, run_at, seq) WHERE state = 2;
CREATE INDEX mamos_job_due ON mamos_job (run_at) WHERE state = 1;
CREATE INDEX mamos_job_held ON mamos_job (session) WHERE state IN (3, 4);
CREATE INDEX mamos_job_deadline ON mamos_job (deadline) WHERE deadline IS NOT NULL AND state < 5;
CREATE INDEX mamos_job_finished ON mamos_job (finished_at) WHERE state >= 5;
-- The key is the job's kind, a line feed and the unique key.
CREATE UNIQUE INDEX mamos_job_unique ON mamos_job (unique_key) WHERE unique_key IS NOT NULL AND state < 5;

-- Written once, read at each claim. Lists go by it, as mamos_job has no index of numbers: that would be
-- one more to write with each change of a state.
CREATE TABLE mamos_spec (
    seq        bigint PRIMARY KEY,
    id         uuid NOT NULL,
    created_at bigint NOT NULL,
    payload    bytea NOT NULL,
    details    json
);
CREATE TABLE mamos_output (
    seq    bigint PRIMARY KEY,
    output bytea NOT NULL
);
CREATE TABLE mamos_cancel (
    seq      bigint PRIMARY KEY,
    grace_us bigint NOT NULL,
    reason   text NOT NULL
);
-- Why the job's last run did not succeed, or why it was buried without one.
CREATE TABLE mamos_failure (
    seq     bigint PRIMARY KEY,
    code    text NOT NULL,
    message text NOT NULL
);
-- Of the run with that epoch; of no interest once a later run has begun.
CREATE TABLE mamos_progress (
    seq     bigint PRIMARY KEY,
    epoch   bigint NOT NULL,
    percent double precision,
    note    text NOT NULL
) WITH (fillfactor = 70);

-- Runs that ended without success. The current run and the one that succeeded stand in mamos_job.
CREATE TABLE mamos_attempt (
    no         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    seq        bigint NOT NULL,
    epoch      bigint NOT NULL,
    session    bigint,
    leased_at  bigint NOT NULL,
    started_at bigint,
    ended_at   bigint NOT NULL,
    attempt    int NOT NULL,
    ended      smallint NOT NULL,
    is_late    boolean NOT NULL,
    code       text,
    message    text
);
CREATE INDEX mamos_attempt_seq ON mamos_attempt (seq, epoch, is_late, no);

CREATE TABLE mamos_log (
    seq    bigint NOT NULL,
    epoch  bigint NOT NULL,
    start  bigint NOT NULL,
    stream smallint NOT NULL,
    bytes  bytea NOT NULL,
    PRIMARY KEY (seq, epoch, start)
);

CREATE TABLE mamos_session (
    no           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           uuid NOT NULL UNIQUE,
    opened_at    bigint NOT NULL,
    expires_at   bigint NOT NULL,
    link         bigint NOT NULL,
    ended        smallint, -- 0 closed, 1 superseded, 2 lost
    is_unrescued boolean NOT NULL DEFAULT false, -- lost, and may still hold jobs
    agent        text NOT NULL,
    orchestrator text NOT NULL
) WITH (fillfactor = 70);
-- Not by expiry, so that a renewal changes no index. There are as many as there are agents.
CREATE INDEX mamos_session_open ON mamos_session (no) WHERE ended IS NULL;
CREATE INDEX mamos_session_unrescued ON mamos_session (no) WHERE is_unrescued;
CREATE INDEX mamos_session_agent ON mamos_session (agent);

-- Kind and uuid apart, because ids sort by kind and then uuid, which their text does not. By bytes,
-- whatever the collation of the database.
CREATE TABLE mamos_agent (
    kind          text COLLATE "C" NOT NULL,
    uuid          uuid NOT NULL,
    state         smallint NOT NULL,
    is_draining   boolean NOT NULL,
    registered_at bigint NOT NULL,
    changed_at    bigint NOT NULL,
    revision      bigint NOT NULL,
    revoked_at    bigint,
    instance      uuid,
    public_key    bytea NOT NULL,
    profile       text NOT NULL,
    labels        text NOT NULL,
    revoked_why   text,
    PRIMARY KEY (kind, uuid)
) WITH (fillfactor = 70);

CREATE TABLE mamos_token (
    id         uuid PRIMARY KEY,
    hash       bytea NOT NULL UNIQUE,
    expires_at bigint NOT NULL,
    created_at bigint NOT NULL,
    uses_left  bigint NOT NULL,
    agent_kind text,
    agent_name text,
    labels     text NOT NULL
);

-- Names are bytes, because keys sort by their bytes and may hold any.
CREATE TABLE mamos_document (
    collection bytea NOT NULL,
    key        bytea NOT NULL,
    revision   bigint NOT NULL,
    expires_at bigint,
    value      bytea NOT NULL,
    PRIMARY KEY (collection, key)
);
CREATE INDEX mamos_document_expiry ON mamos_document (expires_at) WHERE expires_at IS NOT NULL;
