-- A ledger of schema 1 as its release left it when its process was killed in mid-load: chunks planned, offered,
-- doubtful, queued, importing, collecting and settled, and one batch that had ended Failed. Its source: 1.csv.
BEGIN TRANSACTION;
CREATE TABLE calls (
    load_id TEXT NOT NULL REFERENCES loads (id),
    kind    TEXT NOT NULL,                 -- token, create, status, failures, warnings, other
    made    INTEGER NOT NULL,
    PRIMARY KEY (load_id, kind)
);
INSERT INTO "calls" VALUES('35b1d49cfd7d','token',1);
INSERT INTO "calls" VALUES('35b1d49cfd7d','other',1);
INSERT INTO "calls" VALUES('35b1d49cfd7d','create',6);
INSERT INTO "calls" VALUES('35b1d49cfd7d','status',29);
INSERT INTO "calls" VALUES('35b1d49cfd7d','failures',5);
INSERT INTO "calls" VALUES('35b1d49cfd7d','warnings',2);
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
INSERT INTO "chunks" VALUES('35b1d49cfd7d',1,NULL,'127.0.0.1:1','[[35, 972, 19, 1, 2]]',1,19,972,'e08b8230f89d3908f623225888e7a6c76245d0eba08732495002af61d9572bbc','settled',NULL,1,0,0,1.80000007244604659081e+09,'');
INSERT INTO "chunks" VALUES('35b1d49cfd7d',2,NULL,'127.0.0.1:1','[[972, 1860, 12, 20, 24]]',20,12,923,'6f353b363e02ca23567fc3600dd44125f23b1a388ed40ea092268185a6596357','collecting',NULL,1,0,0,1.80000009497212052345e+09,'HTTP 503');
INSERT INTO "chunks" VALUES('35b1d49cfd7d',3,NULL,'127.0.0.1:1','[[1860, 2662, 18, 32, 40]]',32,18,837,'ab8dd54c052e56c43387b5de2598a8ec818def9acb60909ff61ea77e66fd5145','offered',3,2,1,0,1.80000009315970897674e+09,'');
INSERT INTO "chunks" VALUES('35b1d49cfd7d',4,NULL,'127.0.0.1:1','[[2662, 3460, 9, 50, 61]]',50,9,833,'b044d88c45bdc07dc9ca8d35add5ea8b5ae78ad1571e964847c650c28e7d01e7','doubtful',4,1,0,1,0.0,'ReadError: connection reset');
INSERT INTO "chunks" VALUES('35b1d49cfd7d',5,NULL,'127.0.0.1:1','[[3460, 4351, 14, 59, 71]]',59,14,926,'7af0a89d5476f7044dad3bdc706643b07b25b86821c6da37ae8699fc7d1eaee9','importing',2,1,0,0,0.0,'');
INSERT INTO "chunks" VALUES('35b1d49cfd7d',6,NULL,'127.0.0.1:1','[[4351, 5163, 13, 73, 87]]',73,13,847,'a627c177722100dc7e9d2682bab195673d29ed57e3c788237d7ad34e07fdec66','queued',1,1,0,0,0.0,'');
INSERT INTO "chunks" VALUES('35b1d49cfd7d',7,NULL,'127.0.0.1:1','[[5163, 5854, 12, 86, 102]]',86,12,726,'674f42479c15da421ca5024c05a3e6800f64c4edfddf03552a79c87844226ef5','planned',NULL,0,0,0,0.0,'');
INSERT INTO "chunks" VALUES('35b1d49cfd7d',8,NULL,'127.0.0.1:1','[[5854, 6511, 13, 98, 116]]',98,13,692,'0ad18035e2bc3bd3393ce2ca82621a5c46fb1538da311a4329d55d5b469f96f6','planned',NULL,0,0,0,0.0,'');
CREATE TABLE facts (
    id      INTEGER PRIMARY KEY,
    load_id TEXT NOT NULL,
    chunk   INTEGER NOT NULL,
    at      REAL NOT NULL,
    kind    TEXT NOT NULL,                 -- name of the fact's type
    detail  TEXT NOT NULL,                 -- JSON object of its fields
    FOREIGN KEY (load_id, chunk) REFERENCES chunks (load_id, number)
);
INSERT INTO "facts" VALUES(1,'35b1d49cfd7d',1,1.80000000030269908905e+09,'Offered','{"at": 1800000000.302699, "slot": 1}');
INSERT INTO "facts" VALUES(2,'35b1d49cfd7d',2,1.80000000030269908905e+09,'Offered','{"at": 1800000000.302699, "slot": 2}');
INSERT INTO "facts" VALUES(3,'35b1d49cfd7d',1,1.80000000114905190466e+09,'Accepted','{"at": 1800000001.149052, "batch_id": 1595}');
INSERT INTO "facts" VALUES(4,'35b1d49cfd7d',3,1.80000000114905190466e+09,'Offered','{"at": 1800000001.149052, "slot": 3}');
INSERT INTO "facts" VALUES(5,'35b1d49cfd7d',4,1.80000000114905190466e+09,'Offered','{"at": 1800000001.149052, "slot": 4}');
INSERT INTO "facts" VALUES(6,'35b1d49cfd7d',2,1.80000000129468560212e+09,'Accepted','{"at": 1800000001.2946856, "batch_id": 1596}');
INSERT INTO "facts" VALUES(7,'35b1d49cfd7d',3,1.80000000176460862163e+09,'Accepted','{"at": 1800000001.7646086, "batch_id": 1597}');
INSERT INTO "facts" VALUES(8,'35b1d49cfd7d',4,1.80000000204734492302e+09,'AnswerLost','{"at": 1800000002.047345, "why": "ReadError: connection reset"}');
INSERT INTO "facts" VALUES(9,'35b1d49cfd7d',1,1.80000000632586574554e+09,'SeenImporting','{"asked_at": 1800000006.149052, "at": 1800000006.3258657}');
INSERT INTO "facts" VALUES(10,'35b1d49cfd7d',2,1.80000001651082706458e+09,'SeenImporting','{"asked_at": 1800000016.3675966, "at": 1800000016.510827}');
INSERT INTO "facts" VALUES(11,'35b1d49cfd7d',1,1.80000002161468386652e+09,'SeenImporting','{"asked_at": 1800000021.461869, "at": 1800000021.6146839}');
INSERT INTO "facts" VALUES(12,'35b1d49cfd7d',1,1.8000000267830312252e+09,'SeenImporting','{"asked_at": 1800000026.6146839, "at": 1800000026.7830312}');
INSERT INTO "facts" VALUES(13,'35b1d49cfd7d',2,1.80000003179855251307e+09,'SeenImporting','{"asked_at": 1800000031.6039472, "at": 1800000031.7985525}');
INSERT INTO "facts" VALUES(14,'35b1d49cfd7d',1,1.80000003196325588233e+09,'SeenImporting','{"asked_at": 1800000031.7830312, "at": 1800000031.963256}');
INSERT INTO "facts" VALUES(15,'35b1d49cfd7d',2,1.80000003699215435984e+09,'SeenImporting','{"asked_at": 1800000036.7985525, "at": 1800000036.9921544}');
INSERT INTO "facts" VALUES(16,'35b1d49cfd7d',1,1.80000003710560131063e+09,'SeenImporting','{"asked_at": 1800000036.963256, "at": 1800000037.1056013}');
INSERT INTO "facts" VALUES(17,'35b1d49cfd7d',2,1800000042.12061,'Ended','{"at": 1800000042.12061, "status": "Complete", "counts": {"imported": 9, "failed": 3, "warned": 2}, "message": "Import completed with errors, 9 records imported (9 members), 3 failed"}');
INSERT INTO "facts" VALUES(18,'35b1d49cfd7d',5,1800000042.12061,'Offered','{"at": 1800000042.12061, "slot": 2}');
INSERT INTO "facts" VALUES(19,'35b1d49cfd7d',2,1.80000004228075408934e+09,'Deferred','{"at": 1800000042.280754, "until": 1800000050.3705919, "why": "ReadError: connection reset"}');
INSERT INTO "facts" VALUES(20,'35b1d49cfd7d',5,1.80000004274278974534e+09,'Accepted','{"at": 1800000042.7427897, "batch_id": 1598}');
INSERT INTO "facts" VALUES(21,'35b1d49cfd7d',5,1.80000004792402291302e+09,'SeenImporting','{"asked_at": 1800000047.7427897, "at": 1800000047.924023}');
INSERT INTO "facts" VALUES(22,'35b1d49cfd7d',2,1.80000005055024218554e+09,'Deferred','{"at": 1800000050.5502422, "until": 1800000062.068594, "why": "HTTP 502"}');
INSERT INTO "facts" VALUES(23,'35b1d49cfd7d',3,1.80000005258469939232e+09,'SeenImporting','{"asked_at": 1800000052.4444363, "at": 1800000052.5846994}');
INSERT INTO "facts" VALUES(24,'35b1d49cfd7d',3,1.80000005774086284642e+09,'SeenImporting','{"asked_at": 1800000057.5846994, "at": 1800000057.7408628}');
INSERT INTO "facts" VALUES(25,'35b1d49cfd7d',5,1.80000005811269783977e+09,'SeenImporting','{"asked_at": 1800000057.924023, "at": 1800000058.1126978}');
INSERT INTO "facts" VALUES(26,'35b1d49cfd7d',2,1.80000006224238324166e+09,'Deferred','{"at": 1800000062.2423832, "until": 1800000077.4374757, "why": "HTTP 502"}');
INSERT INTO "facts" VALUES(27,'35b1d49cfd7d',5,1.80000006826362347611e+09,'SeenImporting','{"asked_at": 1800000068.1126978, "at": 1800000068.2636235}');
INSERT INTO "facts" VALUES(28,'35b1d49cfd7d',1,1.80000007244604659081e+09,'Ended','{"at": 1800000072.4460466, "status": "Complete", "counts": {"imported": 14, "failed": 5, "warned": 0}, "message": "Import completed with errors, 14 records imported (14 members), 5 failed"}');
INSERT INTO "facts" VALUES(29,'35b1d49cfd7d',6,1.80000007244604659081e+09,'Offered','{"at": 1800000072.4460466, "slot": 1}');
INSERT INTO "facts" VALUES(30,'35b1d49cfd7d',1,1.8000000725887184143e+09,'Collected','{"at": 1800000072.5887184, "failures": {"path": "/srv/upload/reports/35b1d49cfd7d/batches/000001-1595.failures.csv", "records": 5}, "warnings": null}');
INSERT INTO "facts" VALUES(31,'35b1d49cfd7d',6,1.8000000731824846268e+09,'Accepted','{"at": 1800000073.1824846, "batch_id": 1599}');
INSERT INTO "facts" VALUES(32,'35b1d49cfd7d',2,1.80000007777691531183e+09,'Deferred','{"at": 1800000077.7769153, "until": 1800000094.9721205, "why": "HTTP 503"}');
INSERT INTO "facts" VALUES(33,'35b1d49cfd7d',5,1.80000007843728828437e+09,'SeenImporting','{"asked_at": 1800000078.2636235, "at": 1800000078.4372883}');
INSERT INTO "facts" VALUES(34,'35b1d49cfd7d',3,1.80000009315970897674e+09,'Ended','{"at": 1800000093.159709, "status": "Failed", "counts": {"imported": 0, "failed": 0, "warned": 0}, "message": "System error"}');
INSERT INTO "facts" VALUES(35,'35b1d49cfd7d',3,1.80000009315970897674e+09,'Offered','{"at": 1800000093.159709, "slot": 3}');
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
INSERT INTO "loads" VALUES('35b1d49cfd7d','127.0.0.1:1','/srv/upload/leads.csv',6511,1795533412562196688,420633,'328e72e74159fbd3729e210dbf3b7ae9759c54daaaa64005feaed50a0741fe2b','csv',0,35,'["email", "firstName", "leadScore", "company"]','{"kind": "leads", "name": null, "lookup_field": "email", "list_id": null, "partition_name": null, "member_status": null}',NULL,1000,110,0,8,'resend','/srv/upload/reports/35b1d49cfd7d','/srv/upload/reports/35b1d49cfd7d/batches',1800000000.0,NULL,NULL);
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
INSERT INTO "offers" VALUES('35b1d49cfd7d',1,1,'127.0.0.1:1',1,1.80000000030269908905e+09,1595,1.80000000114905190466e+09,NULL,1.80000000632586574554e+09,1.8000000369632558823e+09,1.80000007244604659081e+09,'Complete',14,5,0,'Import completed with errors, 14 records imported (14 members), 5 failed',1.8000000725887184143e+09,'/srv/upload/reports/35b1d49cfd7d/batches/000001-1595.failures.csv',5,NULL,NULL);
INSERT INTO "offers" VALUES('35b1d49cfd7d',2,1,'127.0.0.1:1',2,1.80000000030269908905e+09,1596,1.80000000129468560212e+09,NULL,1.80000001651082706458e+09,1.80000003679855251313e+09,1800000042.12061,'Complete',9,3,2,'Import completed with errors, 9 records imported (9 members), 3 failed',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "offers" VALUES('35b1d49cfd7d',3,1,'127.0.0.1:1',3,1.80000000114905190466e+09,1597,1.80000000176460862163e+09,NULL,1.80000005258469939232e+09,1.80000005758469939229e+09,1.80000009315970897674e+09,'Failed',0,0,0,'System error',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "offers" VALUES('35b1d49cfd7d',4,1,'127.0.0.1:1',4,1.80000000114905190466e+09,NULL,NULL,1.80000000204734492302e+09,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "offers" VALUES('35b1d49cfd7d',5,1,'127.0.0.1:1',2,1800000042.12061,1598,1.80000004274278974534e+09,NULL,1.80000004792402291302e+09,1.80000007826362347605e+09,NULL,NULL,NULL,NULL,NULL,'',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "offers" VALUES('35b1d49cfd7d',6,1,'127.0.0.1:1',1,1.80000007244604659081e+09,1599,1.8000000731824846268e+09,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "offers" VALUES('35b1d49cfd7d',3,2,'127.0.0.1:1',3,1.80000009315970897674e+09,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,NULL,NULL,NULL,NULL);
CREATE TABLE rejected_rows (
    load_id TEXT NOT NULL REFERENCES loads (id),
    row     INTEGER NOT NULL,
    line    INTEGER NOT NULL,
    start   INTEGER NOT NULL,
    stop    INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    PRIMARY KEY (load_id, row)
);
CREATE UNIQUE INDEX one_chunk_per_slot ON chunks (subscription, slot) WHERE slot IS NOT NULL;
CREATE INDEX planned_chunks ON chunks (load_id, number) WHERE state = 'planned';
CREATE INDEX collecting_chunks ON chunks (load_id, number) WHERE state = 'collecting';
CREATE INDEX chunks_by_state ON chunks (load_id, state);
CREATE UNIQUE INDEX one_chunk_per_batch ON offers (subscription, batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX facts_of_chunk ON facts (load_id, chunk, id);
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
PRAGMA user_version = 1;
COMMIT;
