-- New: the lowest `limits.queued_jobs` of the loads that run is all of theirs.

ALTER TABLE runs ADD COLUMN queued_jobs INTEGER NOT NULL DEFAULT 10;  -- slots all loads may hold, if it is asked
