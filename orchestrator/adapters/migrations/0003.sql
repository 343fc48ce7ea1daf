-- A load may be the retry of rows that failed in an earlier one.

ALTER TABLE loads ADD COLUMN retry TEXT;  -- JSON object: of which load, which rows, mended how; NULL for other loads

-- Where the rows of a retry stand in the source of the first load: JSON lists of [row, line] or null, 1,000 in each.
CREATE TABLE retried_rows (
    load_id TEXT NOT NULL REFERENCES loads (id),
    block   INTEGER NOT NULL,             -- from 0
    places  TEXT NOT NULL,
    PRIMARY KEY (load_id, block)
);
