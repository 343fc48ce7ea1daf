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
