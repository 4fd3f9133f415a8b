PRAGMA user_version = 1;
CREATE TABLE dropped ( -- what a sink does not get, by device
    sink            TEXT NOT NULL,
    realm           TEXT NOT NULL,
    device          TEXT NOT NULL,
    position        INTEGER NOT NULL, -- last record of the batch; 0: all that the cursor has passed
    damaged         INTEGER NOT NULL,
    skipped         INTEGER NOT NULL,
    unsupported     INTEGER NOT NULL,
    quarantine_full INTEGER NOT NULL,
    PRIMARY KEY (sink, realm, device, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX dropped_fresh ON dropped (sink, position) WHERE position > 0;
CREATE TABLE entry (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    log           TEXT NOT NULL,    -- UUID
    sink          TEXT NOT NULL,
    position      INTEGER NOT NULL, -- record of the log
    reading       INTEGER NOT NULL, -- index in the record
    epoch         INTEGER NOT NULL, -- of the sink's ledger
    counted       INTEGER NOT NULL, -- 1 if the sink's ledger has it, 0 if that began anew since
    realm         TEXT NOT NULL,
    device        TEXT NOT NULL,
    received_ns   INTEGER NOT NULL,
    kept_ns       INTEGER NOT NULL,
    reason        TEXT NOT NULL,    -- the destination's words
    body          BLOB NOT NULL,    -- batch body of telemetry.v1.msgpack, times in nanoseconds
    checksum      INTEGER NOT NULL, -- CRC-32C over realm, 0, device, 0, body
    bytes         INTEGER NOT NULL,
    UNIQUE (log, sink, position, reading)
) STRICT;
CREATE INDEX entry_device ON entry (device, realm, sink);
CREATE INDEX entry_size ON entry (sink, bytes);
CREATE TABLE move (                 -- what left again, of those that were counted
    sink            TEXT PRIMARY KEY,
    epoch           INTEGER NOT NULL, -- of the sink's ledger
    stored          INTEGER NOT NULL DEFAULT 0,
    unsupported     INTEGER NOT NULL DEFAULT 0,
    quarantine_full INTEGER NOT NULL DEFAULT 0,
    operator        INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE moved (  -- as move, by device
    sink            TEXT NOT NULL,
    realm           TEXT NOT NULL,
    device          TEXT NOT NULL,
    unsupported     INTEGER NOT NULL,
    quarantine_full INTEGER NOT NULL,
    operator        INTEGER NOT NULL,
    PRIMARY KEY (sink, realm, device)
) STRICT, WITHOUT ROWID;
INSERT INTO entry VALUES (1, '018f4d5e-7a1b-7c3d-8e9f-0123456789ab', 'influx', 1, 0, 2, 1, 'default', 'd', 5, 1760000000000000000, 'field type conflict', x'82a373657101a872656164696e67739184a474696d6507ab6d6561737572656d656e74a16da47461677381a174a176a66669656c647382a178cb3fd3333333333334a173a6610ae280ae62', 3201790926, 308);
INSERT INTO entry VALUES (3, '018f4d5e-7a1b-7c3d-8e9f-0123456789ab', 'influx', 7, 4999, 2, 1, 'default', 'd', 5, 1760000000000000000, 'field type conflict', x'82a373657101a872656164696e67739184a474696d6507ab6d6561737572656d656e74a16da47461677381a174a176a66669656c647382a178cb3fd3333333333334a173a6610ae280ae62', 3201790926, 308);
INSERT INTO move VALUES ('influx', 2, 0, 0, 0, 1);
INSERT INTO dropped VALUES ('influx', 'default', 'd', 0, 0, 3, 0, 0);
INSERT INTO dropped VALUES ('influx', 'default', 'd', 9, 0, 4, 0, 0);
INSERT INTO moved VALUES ('influx', 'default', 'd', 0, 0, 1);
