-- Rows that failed by accident go again in last chunks of their load.

ALTER TABLE loads ADD COLUMN again INTEGER NOT NULL DEFAULT 0;   -- how many times that was done
ALTER TABLE chunks ADD COLUMN again INTEGER NOT NULL DEFAULT 0;  -- how many times its rows have gone again
ALTER TABLE chunks ADD COLUMN moved INTEGER NOT NULL DEFAULT 0 CHECK (moved <= rows);  -- failed rows that went again

CREATE TRIGGER last_chunks_are_added_once BEFORE UPDATE OF again ON loads
WHEN NEW.again <> OLD.again + 1
BEGIN
    SELECT RAISE(ABORT, 'rows go again once at a time');
END;
