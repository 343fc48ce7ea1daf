-- A ledger of schema 2 as its release left it when its process was killed in mid-load: chunks planned, offered,
-- doubtful, queued, importing, collecting and settled, and one batch that had ended Failed. Its source: 2.csv.
BEGIN TRANSACTION;
CREATE TABLE admissions (
    subscription     TEXT NOT NULL,
    list_id          INTEGER NOT NULL,     -- 0: the queue; else the lane of that static list
    room             INTEGER NOT NULL,     -- batches of ours that fit for sure
    refusals         INTEGER NOT NULL,     -- in a row
    refused_first_at REAL,                 -- of this row of refusals
    refused_last_at  REAL,
    PRIMARY KEY (subscription, list_id)
);
INSERT INTO "admissions" VALUES('127.0.0.1:1',0,5,0,NULL,NULL);
CREATE TABLE calls (
    load_id TEXT NOT NULL REFERENCES loads (id),
    kind    TEXT NOT NULL,                 -- token, create, status, failures, warnings, other
    made    INTEGER NOT NULL,
    PRIMARY KEY (load_id, kind)
);
INSERT INTO "calls" VALUES('dcdc6dfb8613','token',1);
INSERT INTO "calls" VALUES('dcdc6dfb8613','other',2);
INSERT INTO "calls" VALUES('dcdc6dfb8613','create',6);
INSERT INTO "calls" VALUES('dcdc6dfb8613','status',38);
INSERT INTO "calls" VALUES('dcdc6dfb8613','failures',2);
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
    why            TEXT NOT NULL DEFAULT '', root INTEGER, doubts_before INTEGER NOT NULL DEFAULT 0, batch_failures_before INTEGER NOT NULL DEFAULT 0, again INTEGER NOT NULL DEFAULT 0, moved INTEGER NOT NULL DEFAULT 0 CHECK (moved <= rows), twins INTEGER NOT NULL DEFAULT 0, after INTEGER,
    PRIMARY KEY (load_id, number),
    -- A slot is held from the intent to send until the batch is known to be over: no more, no less.
    CHECK ((slot IS NOT NULL) = (state IN ('offered', 'doubtful', 'queued', 'importing')))
);
INSERT INTO "chunks" VALUES('dcdc6dfb8613',1,NULL,'127.0.0.1:1','[[34, 857, 14, 1, 2]]',1,14,857,'a0086e0d5447f291f7d31bcb4ee472ab3c35c5bef76f7354c987e07793c876d7','settled',NULL,1,0,0,1.80000004721806430817e+09,'',NULL,0,0,0,0,0,NULL);
INSERT INTO "chunks" VALUES('dcdc6dfb8613',2,NULL,'127.0.0.1:1','[[857, 1678, 12, 15, 18]]',15,12,855,'c5a0e72a887846b67811fec04d48c7889d646773df32dbf5a3def63ff1c94140','settled',NULL,1,0,0,1.80000004208055162423e+09,'',NULL,0,0,0,0,0,NULL);
INSERT INTO "chunks" VALUES('dcdc6dfb8613',3,NULL,'127.0.0.1:1','[[1678, 2486, 16, 27, 32]]',27,16,842,'0f78b8e5a50beca0a4161486af833831c3f851778f3bb4d0061b44f4f01ae9d2','queued',2,2,1,0,1.80000008360069036483e+09,'',NULL,0,0,0,0,0,NULL);
INSERT INTO "chunks" VALUES('dcdc6dfb8613',4,NULL,'127.0.0.1:1','[[2486, 3338, 11, 43, 51]]',43,11,886,'119eb3c0ba252ba330aca9da45bd3c64f274075c0e83c558e3c7130b3a312d3a','doubtful',4,1,0,1,0.0,'ReadError: connection reset',NULL,0,0,0,0,0,NULL);
INSERT INTO "chunks" VALUES('dcdc6dfb8613',5,NULL,'127.0.0.1:1','[[3338, 4128, 12, 54, 63]]',54,12,824,'c557955f9652a84ce7a478cd39d5ffe53e6d7ac67521929fe60c5055918a1559','collecting',NULL,1,0,0,1.80000008930380916592e+09,'',NULL,0,0,0,0,0,NULL);
INSERT INTO "chunks" VALUES('dcdc6dfb8613',6,NULL,'127.0.0.1:1','[[4128, 4960, 16, 66, 78]]',66,16,866,'653af5a062378af9c65bd68aa56eada941bedcaaa87b4e1eec73d0aae59e59d0','importing',1,1,0,0,0.0,'',NULL,0,0,0,0,0,NULL);
INSERT INTO "chunks" VALUES('dcdc6dfb8613',7,NULL,'127.0.0.1:1','[[4960, 5661, 14, 82, 95]]',82,14,735,'b9c78dca00ce350eaaf611e13473b56763cc4bc4f14789a3e8f8137e1b1addb5','offered',3,1,0,0,0.0,'',NULL,0,0,0,0,0,NULL);
INSERT INTO "chunks" VALUES('dcdc6dfb8613',8,NULL,'127.0.0.1:1','[[5661, 6319, 15, 96, 112]]',96,15,692,'ba681e41c78663cb1c9a3fa46ffff038b217451fac1c828ec1d4f62811dbe0f5','planned',NULL,0,0,0,0.0,'',NULL,0,0,0,0,0,NULL);
CREATE TABLE facts (
    id      INTEGER PRIMARY KEY,
    load_id TEXT NOT NULL,
    chunk   INTEGER NOT NULL,
    at      REAL NOT NULL,
    kind    TEXT NOT NULL,                 -- name of the fact's type
    detail  TEXT NOT NULL,                 -- JSON object of its fields
    FOREIGN KEY (load_id, chunk) REFERENCES chunks (load_id, number)
);
INSERT INTO "facts" VALUES(1,'dcdc6dfb8613',1,1.80000000042585515981e+09,'Offered','{"at": 1800000000.4258552, "slot": 1}');
INSERT INTO "facts" VALUES(2,'dcdc6dfb8613',2,1.80000000042585515981e+09,'Offered','{"at": 1800000000.4258552, "slot": 2}');
INSERT INTO "facts" VALUES(3,'dcdc6dfb8613',2,1.80000000104403686529e+09,'Accepted','{"at": 1800000001.0440369, "batch_id": 1595}');
INSERT INTO "facts" VALUES(4,'dcdc6dfb8613',1,1.80000000104715657239e+09,'Accepted','{"at": 1800000001.0471566, "batch_id": 1596}');
INSERT INTO "facts" VALUES(5,'dcdc6dfb8613',3,1.80000000104715657239e+09,'Offered','{"at": 1800000001.0471566, "slot": 3}');
INSERT INTO "facts" VALUES(6,'dcdc6dfb8613',3,1.80000000173299813275e+09,'Accepted','{"at": 1800000001.7329981, "batch_id": 1597}');
INSERT INTO "facts" VALUES(7,'dcdc6dfb8613',4,1.80000000173299813275e+09,'Offered','{"at": 1800000001.7329981, "slot": 4}');
INSERT INTO "facts" VALUES(8,'dcdc6dfb8613',4,1.80000000228035616873e+09,'AnswerLost','{"at": 1800000002.2803562, "why": "ReadError: connection reset"}');
INSERT INTO "facts" VALUES(9,'dcdc6dfb8613',5,1.80000000228035616873e+09,'Offered','{"at": 1800000002.2803562, "slot": 5}');
INSERT INTO "facts" VALUES(10,'dcdc6dfb8613',5,1.80000000308689880367e+09,'Accepted','{"at": 1800000003.0868988, "batch_id": 1598}');
INSERT INTO "facts" VALUES(11,'dcdc6dfb8613',2,1.80000000617352676384e+09,'SeenImporting','{"asked_at": 1800000006.0440369, "at": 1800000006.1735268}');
INSERT INTO "facts" VALUES(12,'dcdc6dfb8613',1,1.80000000624053883551e+09,'SeenImporting','{"asked_at": 1800000006.0471566, "at": 1800000006.2405388}');
INSERT INTO "facts" VALUES(13,'dcdc6dfb8613',1,1.8000000113875727653e+09,'SeenImporting','{"asked_at": 1800000011.2405388, "at": 1800000011.3875728}');
INSERT INTO "facts" VALUES(14,'dcdc6dfb8613',3,1.80000001186875557904e+09,'SeenQueued','{"asked_at": 1800000011.7329981, "at": 1800000011.8687556}');
INSERT INTO "facts" VALUES(15,'dcdc6dfb8613',1,1.80000001655850672722e+09,'SeenImporting','{"asked_at": 1800000016.3875728, "at": 1800000016.5585067}');
INSERT INTO "facts" VALUES(16,'dcdc6dfb8613',2,1.80000002141039729119e+09,'SeenImporting','{"asked_at": 1800000021.2360244, "at": 1800000021.4103973}');
INSERT INTO "facts" VALUES(17,'dcdc6dfb8613',1,1.80000002170607018465e+09,'SeenImporting','{"asked_at": 1800000021.5585067, "at": 1800000021.7060702}');
INSERT INTO "facts" VALUES(18,'dcdc6dfb8613',3,1.80000002199748754504e+09,'SeenQueued','{"asked_at": 1800000021.8687556, "at": 1800000021.9974875}');
INSERT INTO "facts" VALUES(19,'dcdc6dfb8613',2,1.80000002656256651882e+09,'SeenImporting','{"asked_at": 1800000026.4103973, "at": 1800000026.5625665}');
INSERT INTO "facts" VALUES(20,'dcdc6dfb8613',1,1.80000002685577154158e+09,'SeenImporting','{"asked_at": 1800000026.7060702, "at": 1800000026.8557715}');
INSERT INTO "facts" VALUES(21,'dcdc6dfb8613',2,1.80000003172646212586e+09,'SeenImporting','{"asked_at": 1800000031.5625665, "at": 1800000031.7264621}');
INSERT INTO "facts" VALUES(22,'dcdc6dfb8613',1,1.80000003199192261695e+09,'SeenImporting','{"asked_at": 1800000031.8557715, "at": 1800000031.9919226}');
INSERT INTO "facts" VALUES(23,'dcdc6dfb8613',3,1.80000003218581080439e+09,'SeenQueued','{"asked_at": 1800000031.9974875, "at": 1800000032.1858108}');
INSERT INTO "facts" VALUES(24,'dcdc6dfb8613',2,1.80000003691034269337e+09,'SeenImporting','{"asked_at": 1800000036.7264621, "at": 1800000036.9103427}');
INSERT INTO "facts" VALUES(25,'dcdc6dfb8613',2,1.80000004208055162423e+09,'Ended','{"at": 1800000042.0805516, "status": "Complete", "counts": {"imported": 11, "failed": 1, "warned": 0}, "message": "Import completed with errors, 11 records imported (11 members), 1 failed"}');
INSERT INTO "facts" VALUES(26,'dcdc6dfb8613',3,1.80000004226215243336e+09,'SeenImporting','{"asked_at": 1800000042.0805516, "at": 1800000042.2621524}');
INSERT INTO "facts" VALUES(27,'dcdc6dfb8613',2,1.80000004226922845837e+09,'Collected','{"at": 1800000042.2692285, "failures": {"path": "/srv/upload/reports/dcdc6dfb8613/batches/000002-1595.failures.csv", "records": 1}, "warnings": null}');
INSERT INTO "facts" VALUES(28,'dcdc6dfb8613',5,1.80000004336770367619e+09,'SeenImporting','{"asked_at": 1800000043.212536, "at": 1800000043.3677037}');
INSERT INTO "facts" VALUES(29,'dcdc6dfb8613',1,1.80000004721806430817e+09,'Ended','{"at": 1800000047.2180643, "status": "Complete", "counts": {"imported": 9, "failed": 5, "warned": 0}, "message": "Import completed with errors, 9 records imported (9 members), 5 failed"}');
INSERT INTO "facts" VALUES(30,'dcdc6dfb8613',6,1.80000004721806430817e+09,'Offered','{"at": 1800000047.2180643, "slot": 1}');
INSERT INTO "facts" VALUES(31,'dcdc6dfb8613',3,1.80000004740333676336e+09,'SeenImporting','{"asked_at": 1800000047.2621524, "at": 1800000047.4033368}');
INSERT INTO "facts" VALUES(32,'dcdc6dfb8613',1,1.80000004740572953224e+09,'Collected','{"at": 1800000047.4057295, "failures": {"path": "/srv/upload/reports/dcdc6dfb8613/batches/000001-1596.failures.csv", "records": 5}, "warnings": null}');
INSERT INTO "facts" VALUES(33,'dcdc6dfb8613',6,1.80000004782917380329e+09,'Accepted','{"at": 1800000047.8291738, "batch_id": 1599}');
INSERT INTO "facts" VALUES(34,'dcdc6dfb8613',5,1.80000004855777072905e+09,'SeenImporting','{"asked_at": 1800000048.3677037, "at": 1800000048.5577707}');
INSERT INTO "facts" VALUES(35,'dcdc6dfb8613',3,1.80000005257720756528e+09,'SeenImporting','{"asked_at": 1800000052.4033368, "at": 1800000052.5772076}');
INSERT INTO "facts" VALUES(36,'dcdc6dfb8613',3,1.80000005771912503244e+09,'SeenImporting','{"asked_at": 1800000057.5772076, "at": 1800000057.719125}');
INSERT INTO "facts" VALUES(37,'dcdc6dfb8613',6,1.80000005798194789886e+09,'SeenQueued','{"asked_at": 1800000057.8291738, "at": 1800000057.981948}');
INSERT INTO "facts" VALUES(38,'dcdc6dfb8613',3,1.800000062914757967e+09,'SeenImporting','{"asked_at": 1800000062.719125, "at": 1800000062.914758}');
INSERT INTO "facts" VALUES(39,'dcdc6dfb8613',5,1.80000006380449748041e+09,'SeenImporting','{"asked_at": 1800000063.650921, "at": 1800000063.8044975}');
INSERT INTO "facts" VALUES(40,'dcdc6dfb8613',3,1.80000006811439180369e+09,'SeenImporting','{"asked_at": 1800000067.914758, "at": 1800000068.1143918}');
INSERT INTO "facts" VALUES(41,'dcdc6dfb8613',6,1.80000006817439579965e+09,'SeenQueued','{"asked_at": 1800000067.981948, "at": 1800000068.1743958}');
INSERT INTO "facts" VALUES(42,'dcdc6dfb8613',5,1.8000000689341747761e+09,'SeenImporting','{"asked_at": 1800000068.8044975, "at": 1800000068.9341748}');
INSERT INTO "facts" VALUES(43,'dcdc6dfb8613',3,1.80000007324552130701e+09,'SeenImporting','{"asked_at": 1800000073.1143918, "at": 1800000073.2455213}');
INSERT INTO "facts" VALUES(44,'dcdc6dfb8613',5,1.80000007407568931574e+09,'SeenImporting','{"asked_at": 1800000073.9341748, "at": 1800000074.0756893}');
INSERT INTO "facts" VALUES(45,'dcdc6dfb8613',6,1.80000007834966492658e+09,'SeenQueued','{"asked_at": 1800000078.1743958, "at": 1800000078.349665}');
INSERT INTO "facts" VALUES(46,'dcdc6dfb8613',3,1.80000007842872095107e+09,'SeenImporting','{"asked_at": 1800000078.2455213, "at": 1800000078.428721}');
INSERT INTO "facts" VALUES(47,'dcdc6dfb8613',3,1.80000008360069036483e+09,'Ended','{"at": 1800000083.6006904, "status": "Failed", "counts": {"imported": 0, "failed": 0, "warned": 0}, "message": "System error"}');
INSERT INTO "facts" VALUES(48,'dcdc6dfb8613',3,1.80000008360069036483e+09,'Offered','{"at": 1800000083.6006904, "slot": 2}');
INSERT INTO "facts" VALUES(49,'dcdc6dfb8613',6,1.80000008377992582325e+09,'SeenImporting','{"asked_at": 1800000083.6006904, "at": 1800000083.7799258}');
INSERT INTO "facts" VALUES(50,'dcdc6dfb8613',3,1800000084.2396,'Accepted','{"at": 1800000084.2396, "batch_id": 1600}');
INSERT INTO "facts" VALUES(51,'dcdc6dfb8613',6,1.80000008893041920669e+09,'SeenImporting','{"asked_at": 1800000088.7799258, "at": 1800000088.9304192}');
INSERT INTO "facts" VALUES(52,'dcdc6dfb8613',5,1.80000008930380916592e+09,'Ended','{"at": 1800000089.3038092, "status": "Complete", "counts": {"imported": 7, "failed": 5, "warned": 0}, "message": "Import completed with errors, 7 records imported (7 members), 5 failed"}');
INSERT INTO "facts" VALUES(53,'dcdc6dfb8613',7,1.80000008930380916592e+09,'Offered','{"at": 1800000089.3038092, "slot": 3}');
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
, priority TEXT NOT NULL DEFAULT 'normal' CHECK (priority IN ('low', 'normal', 'high')), origin TEXT, origin_sha256 TEXT, retry TEXT, again INTEGER NOT NULL DEFAULT 0, on_duplicate TEXT NOT NULL DEFAULT 'ignore'  -- what became of them: so far, nothing
    CHECK (on_duplicate IN ('together', 'last', 'ignore')));
INSERT INTO "loads" VALUES('dcdc6dfb8613','127.0.0.1:1','/srv/upload/leads.csv',6319,1795949652531283523,2203666,'b035bb4811ef355c95199462ca34d6971bcb4410ce3ffdecf5a322286b07046e','csv',0,34,'["email", "firstName", "leadScore", "company"]','{"kind": "leads", "name": null, "lookup_field": "email", "list_id": null, "partition_name": null, "member_status": null}',NULL,1000,110,0,8,'resend','/srv/upload/reports/dcdc6dfb8613','/srv/upload/reports/dcdc6dfb8613/batches',1800000000.0,NULL,NULL,'normal',NULL,NULL,NULL,0,'together');
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
    warnings_records   INTEGER, queued_last_at REAL,
    PRIMARY KEY (load_id, chunk, attempt),
    FOREIGN KEY (load_id, chunk) REFERENCES chunks (load_id, number)
);
INSERT INTO "offers" VALUES('dcdc6dfb8613',1,1,'127.0.0.1:1',1,1.80000000042585515981e+09,1596,1.80000000104715657239e+09,NULL,1.80000000624053883551e+09,1.80000003185577154164e+09,1.80000004721806430817e+09,'Complete',9,5,0,'Import completed with errors, 9 records imported (9 members), 5 failed',1.80000004740572953224e+09,'/srv/upload/reports/dcdc6dfb8613/batches/000001-1596.failures.csv',5,NULL,NULL,NULL);
INSERT INTO "offers" VALUES('dcdc6dfb8613',2,1,'127.0.0.1:1',2,1.80000000042585515981e+09,1595,1.80000000104403686529e+09,NULL,1.80000000617352676384e+09,1.80000003672646212583e+09,1.80000004208055162423e+09,'Complete',11,1,0,'Import completed with errors, 11 records imported (11 members), 1 failed',1.80000004226922845837e+09,'/srv/upload/reports/dcdc6dfb8613/batches/000002-1595.failures.csv',1,NULL,NULL,NULL);
INSERT INTO "offers" VALUES('dcdc6dfb8613',3,1,'127.0.0.1:1',3,1.80000000104715657239e+09,1597,1.80000000173299813275e+09,NULL,1.80000004226215243336e+09,1.80000007824552130698e+09,1.80000008360069036483e+09,'Failed',0,0,0,'System error',NULL,NULL,NULL,NULL,NULL,1.80000003199748754506e+09);
INSERT INTO "offers" VALUES('dcdc6dfb8613',4,1,'127.0.0.1:1',4,1.80000000173299813275e+09,NULL,NULL,1.80000000228035616873e+09,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "offers" VALUES('dcdc6dfb8613',5,1,'127.0.0.1:1',5,1.80000000228035616873e+09,1598,1.80000000308689880367e+09,NULL,1.80000004336770367619e+09,1.80000007393417477607e+09,1.80000008930380916592e+09,'Complete',7,5,0,'Import completed with errors, 7 records imported (7 members), 5 failed',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "offers" VALUES('dcdc6dfb8613',6,1,'127.0.0.1:1',1,1.80000004721806430817e+09,1599,1.80000004782917380329e+09,NULL,1.80000008377992582325e+09,1.80000008877992582322e+09,NULL,NULL,NULL,NULL,NULL,'',NULL,NULL,NULL,NULL,NULL,1.80000007817439579968e+09);
INSERT INTO "offers" VALUES('dcdc6dfb8613',3,2,'127.0.0.1:1',2,1.80000008360069036483e+09,1600,1800000084.2396,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "offers" VALUES('dcdc6dfb8613',7,1,'127.0.0.1:1',3,1.80000008930380916592e+09,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,'',NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE rejected_rows (
    load_id TEXT NOT NULL REFERENCES loads (id),
    row     INTEGER NOT NULL,
    line    INTEGER NOT NULL,
    start   INTEGER NOT NULL,
    stop    INTEGER NOT NULL,
    reason  TEXT NOT NULL,
    PRIMARY KEY (load_id, row)
);
CREATE TABLE retried_rows (
    load_id TEXT NOT NULL REFERENCES loads (id),
    block   INTEGER NOT NULL,             -- from 0
    places  TEXT NOT NULL,
    PRIMARY KEY (load_id, block)
);
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
INSERT INTO "runs" VALUES('dcdc6dfb8613','127.0.0.1:1',2,1.80000008930380916592e+09,'',NULL,1.80000014599929118157e+09,2029,1.80000008342872095104e+09,0);
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
CREATE INDEX parts_of_root ON chunks (load_id, root) WHERE root IS NOT NULL;
CREATE INDEX broken_chunks ON chunks (load_id) WHERE batch_failures > 0;
CREATE INDEX ended_offers ON offers (subscription, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX loads_by_origin ON loads (origin_sha256) WHERE origin_sha256 IS NOT NULL;
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
PRAGMA user_version = 2;
COMMIT;
