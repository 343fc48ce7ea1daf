-- New: chunks are halved until broken rows stand alone, loads share the queue, sources may be made from other files,
-- failed rows can be sent again, and rows that share a key are kept apart.

-- A chunk is halved when its batches end Failed as well, until the rows that break them stand alone. Its parts remember
-- what they come from: how much was spent on their root, and that their rows may have been imported before.

ALTER TABLE chunks ADD COLUMN root INTEGER;  -- the chunk of the plan it is a part of; NULL: it is one itself
ALTER TABLE chunks ADD COLUMN doubts_before INTEGER NOT NULL DEFAULT 0;          -- of the chunks it was cut from
ALTER TABLE chunks ADD COLUMN batch_failures_before INTEGER NOT NULL DEFAULT 0;  -- of the chunks it was cut from

WITH RECURSIVE before (load_id, number, ancestor) AS (
    SELECT load_id, number, parent FROM chunks WHERE parent IS NOT NULL
    UNION ALL
    SELECT before.load_id, before.number, chunks.parent
    FROM before JOIN chunks ON chunks.load_id = before.load_id AND chunks.number = before.ancestor
    WHERE chunks.parent IS NOT NULL
)
UPDATE chunks SET (root, doubts_before, batch_failures_before) = (
    SELECT max(CASE WHEN ancestor.parent IS NULL THEN ancestor.number END),
           sum(ancestor.doubts), sum(ancestor.batch_failures)
    FROM before JOIN chunks ancestor ON ancestor.load_id = before.load_id AND ancestor.number = before.ancestor
    WHERE before.load_id = chunks.load_id AND before.number = chunks.number
)
WHERE parent IS NOT NULL;

CREATE INDEX parts_of_root ON chunks (load_id, root) WHERE root IS NOT NULL;
CREATE INDEX broken_chunks ON chunks (load_id) WHERE batch_failures > 0;

-- How the loads of a subscription share its queue.

ALTER TABLE loads ADD COLUMN priority TEXT NOT NULL DEFAULT 'normal' CHECK (priority IN ('low', 'normal', 'high'));

ALTER TABLE offers ADD COLUMN queued_last_at REAL;   -- departure of the last question answered Queued

-- The newest ended batches tell how long the next ones will take.
CREATE INDEX ended_offers ON offers (subscription, ended_at) WHERE ended_at IS NOT NULL;

-- What Marketo's refusals and acceptances said of its queue; read by every process, so that one probe serves all.
CREATE TABLE admissions (
    subscription     TEXT NOT NULL,
    list_id          INTEGER NOT NULL,     -- 0: the queue; else the lane of that static list
    room             INTEGER NOT NULL,     -- batches of ours that fit for sure
    refusals         INTEGER NOT NULL,     -- in a row
    refused_first_at REAL,                 -- of this row of refusals
    refused_last_at  REAL,
    PRIMARY KEY (subscription, list_id)
);

-- Loads that run now or ran last: what each wants of the slots, and what it waits for. Written by the run itself.
CREATE TABLE runs (
    load_id       TEXT PRIMARY KEY REFERENCES loads (id),
    subscription  TEXT NOT NULL,
    unsent        INTEGER NOT NULL,        -- chunks it could send now, 10 at most
    served_at     REAL NOT NULL,           -- when it last took a slot, or began
    waiting_for   TEXT NOT NULL,           -- in words; '' when nothing is waited for
    waiting_since REAL,
    ends_at       REAL,                    -- when it will probably be done
    work_unsent   INTEGER NOT NULL,        -- what it has still to send costs, in rows
    heard_at      REAL NOT NULL,           -- when the run last said so: a dead one falls silent
    ended         INTEGER NOT NULL         -- 1: the run is over; waiting_for then says why it stopped early
);

-- A source may be a spool file, made from the user's own files: what they were, and how they were read.

ALTER TABLE loads ADD COLUMN origin TEXT;         -- JSON object; NULL: the source is the user's own file
ALTER TABLE loads ADD COLUMN origin_sha256 TEXT;  -- of the content of the files and how they were read

CREATE INDEX loads_by_origin ON loads (origin_sha256) WHERE origin_sha256 IS NOT NULL;

-- A load may be the retry of rows that failed in an earlier one.

ALTER TABLE loads ADD COLUMN retry TEXT;  -- JSON object: of which load, which rows, mended how; NULL for other loads

-- Where the rows of a retry stand in the source of the first load: JSON lists of [row, line] or null, 1,000 in each.
CREATE TABLE retried_rows (
    load_id TEXT NOT NULL REFERENCES loads (id),
    block   INTEGER NOT NULL,             -- from 0
    places  TEXT NOT NULL,
    PRIMARY KEY (load_id, block)
);

-- Rows that failed by accident go again in last chunks of their load.

ALTER TABLE loads ADD COLUMN again INTEGER NOT NULL DEFAULT 0;   -- how many times that was done
ALTER TABLE chunks ADD COLUMN again INTEGER NOT NULL DEFAULT 0;  -- how many times its rows have gone again
ALTER TABLE chunks ADD COLUMN moved INTEGER NOT NULL DEFAULT 0 CHECK (moved <= rows);  -- failed rows that went again

-- Rows that share a key are in chunks of their own, and take effect in the order of the source.

ALTER TABLE loads ADD COLUMN on_duplicate TEXT NOT NULL DEFAULT 'ignore'  -- what became of them: so far, nothing
    CHECK (on_duplicate IN ('together', 'last', 'ignore'));
ALTER TABLE chunks ADD COLUMN twins INTEGER NOT NULL DEFAULT 0;  -- 1: its rows share keys, with each other alone
ALTER TABLE chunks ADD COLUMN after INTEGER;  -- the chunk that must be at rest before; NULL: none, or it is

CREATE INDEX ready_chunks ON chunks (load_id, number) WHERE state = 'planned' AND after IS NULL;
CREATE INDEX waiting_chunks ON chunks (load_id, after) WHERE after IS NOT NULL;

CREATE TRIGGER what_waits_is_not_offered BEFORE UPDATE OF state ON chunks
WHEN NEW.state = 'offered' AND OLD.after IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a chunk is offered when the one before it is at rest');
END;

CREATE TRIGGER last_chunks_are_added_once BEFORE UPDATE OF again ON loads
WHEN NEW.again <> OLD.again + 1
BEGIN
    SELECT RAISE(ABORT, 'rows go again once at a time');
END;
