-- Names begin with mamos_, because the host may keep tables of its own in the same file.

CREATE TABLE mamos_queue (
    name      TEXT PRIMARY KEY,
    is_paused INTEGER NOT NULL
) WITHOUT ROWID;

-- Jobs name their lane by `no`, which is one or two bytes where the id is nine.
CREATE TABLE mamos_lane (
    no       INTEGER PRIMARY KEY,
    id       INTEGER NOT NULL UNIQUE,
    queue    TEXT NOT NULL,
    kind     TEXT NOT NULL,
    selector TEXT NOT NULL
);

-- The hot table: what claims and settles read and write, and nothing else.
-- States: 0 blocked, 1 scheduled, 2 ready, 3 leased, 4 running, 5 succeeded, 6 dead, 7 cancelled.
CREATE TABLE mamos_job (
    seq         INTEGER PRIMARY KEY,
    id          BLOB NOT NULL,
    lane        INTEGER NOT NULL,
    priority    INTEGER NOT NULL,
    run_at      INTEGER NOT NULL,
    state       INTEGER NOT NULL,
    epoch       INTEGER NOT NULL,
    session     INTEGER,
    attempt     INTEGER NOT NULL,
    crashes     INTEGER NOT NULL,
    deliveries  INTEGER NOT NULL,
    is_cancel   INTEGER NOT NULL,
    leased_at   INTEGER,
    started_at  INTEGER,
    finished_at INTEGER,
    deadline    INTEGER,
    settled     INTEGER NOT NULL, -- the epoch of the run that settled it last; 0 if none did
    unique_key  TEXT
);
CREATE UNIQUE INDEX mamos_job_id ON mamos_job (id);
-- Exactly the order of a claim, so that its cost does not grow with the backlog.
CREATE INDEX mamos_job_ready ON mamos_job (lane, priority DESC, run_at, seq) WHERE state = 2;
CREATE INDEX mamos_job_due ON mamos_job (run_at) WHERE state = 1;
-- Only what is held now. An index of all jobs of a session would grow with its history, and SQLite
-- without statistics would choose it over the unique index of ids.
CREATE INDEX mamos_job_held ON mamos_job (session) WHERE state IN (3, 4);
CREATE INDEX mamos_job_deadline ON mamos_job (deadline) WHERE deadline IS NOT NULL AND state < 5;
CREATE INDEX mamos_job_finished ON mamos_job (finished_at) WHERE state >= 5;
-- The key is the job's kind, a line feed and the unique key.
CREATE UNIQUE INDEX mamos_job_unique ON mamos_job (unique_key) WHERE unique_key IS NOT NULL AND state < 5;

-- Written once, read at each claim.
CREATE TABLE mamos_spec (
    seq        INTEGER PRIMARY KEY,
    created_at INTEGER NOT NULL,
    payload    BLOB NOT NULL,
    details    TEXT
);
CREATE TABLE mamos_output (
    seq    INTEGER PRIMARY KEY,
    output BLOB NOT NULL
);
CREATE TABLE mamos_cancel (
    seq      INTEGER PRIMARY KEY,
    reason   TEXT NOT NULL,
    grace_us INTEGER NOT NULL
);
-- Why the job's last run did not succeed, or why it was buried without one.
CREATE TABLE mamos_failure (
    seq     INTEGER PRIMARY KEY,
    code    TEXT NOT NULL,
    message TEXT NOT NULL
);
-- Of the run with that epoch; of no interest once a later run has begun.
CREATE TABLE mamos_progress (
    seq     INTEGER PRIMARY KEY,
    epoch   INTEGER NOT NULL,
    percent REAL,
    note    TEXT NOT NULL
);

-- Runs that ended without success. The current run and the one that succeeded stand in mamos_job.
CREATE TABLE mamos_attempt (
    no         INTEGER PRIMARY KEY,
    seq        INTEGER NOT NULL,
    epoch      INTEGER NOT NULL,
    is_late    INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    session    INTEGER,
    leased_at  INTEGER NOT NULL,
    started_at INTEGER,
    ended_at   INTEGER NOT NULL,
    end        INTEGER NOT NULL,
    code       TEXT,
    message    TEXT
);
CREATE INDEX mamos_attempt_seq ON mamos_attempt (seq, epoch, is_late, no);

CREATE TABLE mamos_log (
    no     INTEGER PRIMARY KEY,
    seq    INTEGER NOT NULL,
    epoch  INTEGER NOT NULL,
    start  INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    bytes  BLOB NOT NULL
);
CREATE UNIQUE INDEX mamos_log_run ON mamos_log (seq, epoch, start);

CREATE TABLE mamos_session (
    no           INTEGER PRIMARY KEY,
    id           BLOB NOT NULL UNIQUE,
    link         INTEGER NOT NULL,
    agent        TEXT NOT NULL,
    orchestrator TEXT NOT NULL,
    opened_at    INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    end          INTEGER, -- 0 closed, 1 superseded, 2 lost
    is_unrescued INTEGER NOT NULL DEFAULT 0 -- lost, and may still hold jobs
);
CREATE INDEX mamos_session_open ON mamos_session (expires_at) WHERE end IS NULL;
CREATE INDEX mamos_session_unrescued ON mamos_session (no) WHERE is_unrescued = 1;
CREATE INDEX mamos_session_agent ON mamos_session (agent);
CREATE INDEX mamos_session_active ON mamos_session (agent) WHERE end IS NULL OR is_unrescued = 1;

-- Kind and uuid apart, because ids sort by kind and then uuid, which their text does not.
CREATE TABLE mamos_agent (
    kind          TEXT NOT NULL,
    uuid          BLOB NOT NULL,
    state         INTEGER NOT NULL,
    profile       TEXT NOT NULL,
    labels        TEXT NOT NULL,
    is_draining   INTEGER NOT NULL,
    public_key    BLOB NOT NULL,
    instance      BLOB,
    revoked_at    INTEGER,
    revoked_why   TEXT,
    registered_at INTEGER NOT NULL,
    changed_at    INTEGER NOT NULL,
    revision      INTEGER NOT NULL,
    PRIMARY KEY (kind, uuid)
) WITHOUT ROWID;

CREATE TABLE mamos_token (
    id         BLOB PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,
    expires_at INTEGER NOT NULL,
    uses_left  INTEGER NOT NULL,
    agent_kind TEXT,
    agent_name TEXT,
    labels     TEXT NOT NULL,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;

-- The key is a blob, because keys sort by their bytes, whatever the encoding of the file. With a rowid,
-- because values may be large.
CREATE TABLE mamos_document (
    no         INTEGER PRIMARY KEY,
    collection TEXT NOT NULL,
    key        BLOB NOT NULL,
    revision   INTEGER NOT NULL,
    value      BLOB NOT NULL,
    expires_at INTEGER
);
CREATE UNIQUE INDEX mamos_document_key ON mamos_document (collection, key);
CREATE INDEX mamos_document_expiry ON mamos_document (expires_at) WHERE expires_at IS NOT NULL;
