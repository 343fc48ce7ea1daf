-- A source may be a spool file, made from the user's own files: what they were, and how they were read.

ALTER TABLE loads ADD COLUMN origin TEXT;         -- JSON object; NULL: the source is the user's own file
ALTER TABLE loads ADD COLUMN origin_sha256 TEXT;  -- of the content of the files and how they were read

CREATE INDEX loads_by_origin ON loads (origin_sha256) WHERE origin_sha256 IS NOT NULL;
