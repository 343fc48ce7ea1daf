-- The ledger: plans and facts, and where each chunk stands by them.
-- Times are seconds since the epoch (UTC), sizes and offsets bytes. No value of any row, no secret.
-- The schema's version is in PRAGMA user_version. The SQL is kept to what other databases know too.

CREATE TABLE loads (
    id             TEXT PRIMARY KEY,       -- 12 hex digits, from content, target and subscription
    subscription   TEXT NOT NULL,          -- host of the subscription: whose queue
    source_path    TEXT NOT NULL,
    source_bytes   INTEGER NOT NULL,
    source_mtime_ns INTEGER NOT NULL,      -- a hint only: the hashes decide
    source_inode   INTEGER NOT NULL,       -- a hint only
    source_sha256  TEXT NOT NULL,
    format         TEXT NOT NULL CHECK (format IN ('csv', 'tsv', 'ssv')),
    header_start   INTEGER NOT NULL,
    header_stop    INTEGER NOT NULL,
    header_fields  TEXT NOT NULL,          -- JSON list of column names
    target         TEXT NOT NULL,          -- JSON object: kind, name, lookup_field, list_id, ...
    list_id        INTEGER,                -- of the target: loads into one list share a lane
    budget         INTEGER NOT NULL,       -- bytes of a chunk at most, header included
    rows           INTEGER NOT NULL,       -- rows of the source, rejected ones included
    rejected       INTEGER NOT NULL,       -- rows that cannot be sent as they stand
    chunks         INTEGER NOT NULL,       -- chunks of the first plan
    on_doubt       TEXT NOT NULL CHECK (on_doubt IN ('resend', 'stop')),
    report_dir     TEXT NOT NULL,
    collected_dir  TEXT NOT NULL,          -- where failure and warning files are saved
    created_at     REAL NOT NULL,
    finished_at    REAL,
    exit_code      INTEGER
);

CREATE TABLE chunks (
    load_id        TEXT NOT NULL REFERENCES loads (id),
    number         INTEGER NOT NULL,       -- from 1
    parent         INTEGER,                -- the chunk it is a half of
    subscription   TEXT NOT NULL,          -- of the load; here for the rule about slots
    spans          TEXT NOT NULL,          -- JSON list of [start, stop, rows, first_row, first_line]
    first_row      INTEGER NOT NULL,
    rows           INTEGER NOT NULL,
    size_bytes     INTEGER NOT NULL,       -- header + spans: what is sent as the file
    sha256         TEXT NOT NULL,          -- of exactly those bytes
    state          TEXT NOT NULL CHECK (state IN ('planned', 'offered', 'doubtful', 'queued', 'importing',
                       'collecting', 'settled', 'expired', 'rejected', 'held', 'halved')),
    slot           INTEGER CHECK (slot BETWEEN 1 AND 10),
    attempts       INTEGER NOT NULL DEFAULT 0,
    batch_failures INTEGER NOT NULL DEFAULT 0,
    doubts         INTEGER NOT NULL DEFAULT 0,
    not_before     REAL NOT NULL DEFAULT 0,
    why            TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (load_id, number),
    -- A slot is held from the intent to send until the batch is known to be over: no more, no less.
    CHECK ((slot IS NOT NULL) = (state IN ('offered', 'doubtful', 'queued', 'importing')))
);

-- The eleventh job cannot be written down: ten slots, each held once in a subscription.
CREATE UNIQUE INDEX one_chunk_per_slot ON chunks (subscription, slot) WHERE slot IS NOT NULL;
CREATE INDEX planned_chunks ON chunks (load_id, number) WHERE state = 'planned';
CREATE INDEX collecting_chunks ON chunks (load_id, number) WHERE state = 'collecting';
CREATE INDEX chunks_by_state ON chunks (load_id, state);

CREATE TABLE offers (
    load_id            TEXT NOT NULL,
    chunk              INTEGER NOT NULL,
    attempt            INTEGER NOT NULL,   -- from 1, counted per chunk
    subscription       TEXT NOT NULL,
    slot               INTEGER NOT NULL,
    offered_at         REAL NOT NULL,      -- the intent: written before the first byte leaves
    batch_id           INTEGER,            -- written before anything else happens after the answer
    accepted_at        REAL,
    lost_at            REAL,               -- since when the offer is a doubt
    importing_first_at REAL,               -- arrival of the first answer that said Importing
    importing_last_at  REAL,               -- departure of the last question answered so
    ended_at           REAL,
    status             TEXT CHECK (status IN ('Complete', 'Failed')),
    imported           INTEGER,
    failed             INTEGER,
    warned             INTEGER,
    message            TEXT NOT NULL DEFAULT '',
    collected_at       REAL,
    failures_path      TEXT,
    failures_records   INTEGER,
    warnings_path      TEXT,
    warnings_records   INTEGER,
    PRIMARY KEY (load_id, chunk, attempt),
    FOREIGN KEY (load_id, chunk) REFERENCES chunks (load_id, number)
);

-- One answer given to two uploads would hide a lost chunk.
CREATE UNIQUE INDEX one_chunk_per_batch ON offers (subscription, batch_id) WHERE batch_id IS NOT NULL;

CREATE TABLE facts (
    id      INTEGER PRIMARY KEY,
    load_id TEXT NOT NULL,
    chunk   INTEGER NOT NULL,
    at      REAL NOT NULL,
    kind    TEXT NOT NULL,                 -- name of the fact's type
    detail  TEXT NOT NULL,                 -- JSON object of its fields
    FOREIGN KEY (load_id, chunk) REFERENCES chunks (load_id, number)
);
CREATE INDEX facts_of_chunk ON facts (load_id, chunk, id);

CREATE TABLE rejected_rows (
    load_id TEXT NOT NULL REFERENCES loads (id),
    row     INTEGER NOT NULL,
    line    INTEGER NOT NULL,
    start   INTEGER NOT NULL,
    stop    INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    PRIMARY KEY (load_id, row)
);

CREATE TABLE calls (
    load_id TEXT NOT NULL REFERENCES loads (id),
    kind    TEXT NOT NULL,                 -- token, create, status, failures, warnings, other
    made    INTEGER NOT NULL,
    PRIMARY KEY (load_id, kind)
);

CREATE TRIGGER final_states_stay BEFORE UPDATE OF state ON chunks
WHEN OLD.state IN ('settled', 'expired', 'rejected', 'halved') AND NEW.state <> OLD.state
BEGIN
    SELECT RAISE(ABORT, 'a final state never changes');
END;

CREATE TRIGGER batch_ids_stay BEFORE UPDATE OF batch_id ON offers
WHEN OLD.batch_id IS NOT NULL AND NEW.batch_id IS NOT OLD.batch_id
BEGIN
    SELECT RAISE(ABORT, 'a batch id never changes');
END;

CREATE TRIGGER facts_stay BEFORE UPDATE ON facts
BEGIN
    SELECT RAISE(ABORT, 'a fact never changes');
END;
