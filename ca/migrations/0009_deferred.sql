-- User contexts that were put off for later. What one says is encrypted under a key that only whoever holds the sealed
-- context has; without this row that is worth nothing either. Grants, and carries a MAC over all but the count of openings.
CREATE TABLE deferred (
    id         BLOB    NOT NULL PRIMARY KEY, -- SHA-256 of the sealed context
    spiffe_id  TEXT    NOT NULL,             -- who may open it
    producer   TEXT    NOT NULL,             -- who put it off
    content    BLOB    NOT NULL,             -- claims, AES-256-GCM
    created_at INTEGER NOT NULL,
    ends_at    INTEGER NOT NULL,
    allowed    INTEGER NOT NULL,             -- how often it may be opened
    opened     INTEGER NOT NULL,             -- how often it was
    mac        BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX deferred_by_producer ON deferred (producer, ends_at);
