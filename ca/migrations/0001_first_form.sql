-- Rows that grant something or take it back (founded, replicas, join_tokens, lineages, svids, revocations and the
-- heads) carry a MAC under a key that is not in the database. Bytes are raw, times are seconds since the epoch.

-- Whose store this is: without this row there is no authority that wrote here.
CREATE TABLE founded (
    id   INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    mesh BLOB    NOT NULL,                     -- the mesh's name, made of the key of the marks
    mac  BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- Who writes here. A name belongs to the data directory that took it first.
CREATE TABLE replicas (
    name      TEXT    NOT NULL PRIMARY KEY,
    id        BLOB    NOT NULL,                -- made with the data directory
    joined_at INTEGER NOT NULL,
    mac       BLOB    NOT NULL,                -- over the three above
    epoch     INTEGER NOT NULL,                -- counts its starts
    version   TEXT    NOT NULL,
    last_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What only one replica may do at a time is done under the newest epoch, or not at all.
CREATE TABLE leadership (
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch  INTEGER NOT NULL,
    holder TEXT    NOT NULL
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

-- What the revocations are together, for all replicas: the set cannot be changed without it showing.
CREATE TABLE revocation_head (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    sequence INTEGER NOT NULL,                 -- number of the set; only grows
    size     INTEGER NOT NULL,                 -- its rows
    digest   BLOB    NOT NULL,                 -- SHA-256 over their MACs
    mac      BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- One hash chain per replica.
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

-- Where a replica's log ends: it cannot be shortened without it showing.
CREATE TABLE log_heads (
    replica  TEXT    NOT NULL PRIMARY KEY,
    sequence INTEGER NOT NULL,
    hash     BLOB    NOT NULL,
    mac      BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- Where the log ended and when, signed with the audit key: the newest of each replica.
CREATE TABLE log_signed_heads (
    replica   TEXT    NOT NULL PRIMARY KEY,
    sequence  INTEGER NOT NULL,
    hash      BLOB    NOT NULL,
    at        INTEGER NOT NULL,
    signature BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- What stands for records that were removed, signed with the audit key. Only what one of these stands for can be
-- removed.
CREATE TABLE log_checkpoints (
    replica   TEXT    NOT NULL,
    sequence  INTEGER NOT NULL,
    hash      BLOB    NOT NULL,
    at        INTEGER NOT NULL,
    signature BLOB    NOT NULL,
    PRIMARY KEY (replica, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX log_by_identity ON log (spiffe_id, at);
CREATE INDEX log_by_serial ON log (serial);
CREATE INDEX log_by_time ON log (at);
