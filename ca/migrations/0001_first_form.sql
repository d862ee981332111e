-- Rows that grant something or take it back (join_tokens, lineages, svids, revocations, log_heads, founded)
-- carry a MAC under a key that is not in the database. Bytes are raw, times are seconds since the epoch.

-- Whose store this is: without this row there is no authority that wrote here.
CREATE TABLE founded (
    replica TEXT NOT NULL PRIMARY KEY,
    root    BLOB NOT NULL,                   -- SHA-256 of the root certificate
    mac     BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE join_tokens (
    hash       BLOB    NOT NULL PRIMARY KEY, -- SHA-256 of the token; the token itself is nowhere
    spiffe_id  TEXT    NOT NULL,
    class      TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    mac        BLOB    NOT NULL,
    used_at    INTEGER                       -- set once, by the statement that consumes the token
) STRICT, WITHOUT ROWID;

-- A chain of renewals that began with one attestation.
CREATE TABLE lineages (
    id         BLOB    NOT NULL PRIMARY KEY,
    spiffe_id  TEXT    NOT NULL,
    class      TEXT    NOT NULL,
    origin     BLOB    NOT NULL UNIQUE,      -- hash of the join token: one token, one lineage, whatever used_at says
    started_at INTEGER NOT NULL,
    ends_at    INTEGER NOT NULL,
    revoked_at INTEGER,
    mac        BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE issuers (
    serial      BLOB    NOT NULL PRIMARY KEY,
    certificate BLOB    NOT NULL,
    not_after   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE svids (
    serial      BLOB    NOT NULL PRIMARY KEY,
    lineage     BLOB REFERENCES lineages (id), -- none: issued by the authority to itself
    spiffe_id   TEXT    NOT NULL,
    class       TEXT    NOT NULL,
    parent      BLOB    UNIQUE,                -- a parent renews once
    key_hash    BLOB    NOT NULL UNIQUE,       -- a key is certified once
    issuer      BLOB    NOT NULL REFERENCES issuers (serial),
    certificate BLOB    NOT NULL,
    not_after   INTEGER NOT NULL,
    mac         BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX svids_by_lineage ON svids (lineage);

CREATE TABLE revocations (
    kind       TEXT    NOT NULL,
    value      BLOB    NOT NULL,
    reason     TEXT    NOT NULL,
    revoked_at INTEGER NOT NULL,
    expires_at INTEGER,                        -- none: until lifted
    mac        BLOB    NOT NULL,
    PRIMARY KEY (kind, value)
) STRICT, WITHOUT ROWID;

CREATE TABLE log (
    replica    TEXT    NOT NULL,
    sequence   INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    event      TEXT    NOT NULL,
    spiffe_id  TEXT    NOT NULL,
    class      TEXT    NOT NULL,
    serial     TEXT    NOT NULL,
    not_after  INTEGER,
    reason     TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    suppressed INTEGER NOT NULL,
    previous   BLOB    NOT NULL,
    hash       BLOB    NOT NULL,
    PRIMARY KEY (replica, sequence)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER log_is_append_only_update BEFORE UPDATE ON log
BEGIN SELECT RAISE(ABORT, 'the issuance log is append-only'); END;
CREATE TRIGGER log_is_append_only_delete BEFORE DELETE ON log
BEGIN SELECT RAISE(ABORT, 'the issuance log is append-only'); END;

-- Where the log ends, and what the revocations are: neither can be shortened without it showing.
CREATE TABLE log_heads (
    replica      TEXT    NOT NULL PRIMARY KEY,
    sequence     INTEGER NOT NULL,
    hash         BLOB    NOT NULL,
    set_sequence INTEGER NOT NULL,             -- number of the set of revocations; only grows
    set_count    INTEGER NOT NULL,             -- its rows
    set_digest   BLOB    NOT NULL,             -- SHA-256 over their MACs
    mac          BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
