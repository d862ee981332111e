-- The journal of roots, issuers and keys, each in the phase that it is in. No private key is here.
CREATE TABLE authorities (
    id                TEXT    NOT NULL PRIMARY KEY, -- hex: a certificate's serial, a key's thumbprint
    kind              TEXT    NOT NULL,
    owner             TEXT    NOT NULL,             -- the replica; empty for what the mesh shares
    phase             TEXT    NOT NULL,
    not_before        INTEGER NOT NULL,
    not_after         INTEGER NOT NULL,
    sequence          INTEGER NOT NULL,             -- number of the bundle that first had it
    since             INTEGER NOT NULL,
    parent            TEXT,
    tainted_at        INTEGER,
    hurry             TEXT    NOT NULL,
    public            BLOB    NOT NULL,
    intermediate      BLOB,
    cross_certificate BLOB,
    mac               BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE authorities_head (
    id      INTEGER NOT NULL PRIMARY KEY,
    journal INTEGER NOT NULL,
    bundle  INTEGER NOT NULL,
    count   INTEGER NOT NULL,
    digest  BLOB    NOT NULL,
    mac     BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

-- What each live sidecar has acknowledged. Grants nothing: a row can only make a rotation wait.
CREATE TABLE sidecars (
    instance    TEXT    NOT NULL PRIMARY KEY,       -- what stays the same from one of its certificates to the next
    spiffe_id   TEXT    NOT NULL,
    serial      BLOB    NOT NULL,                   -- of the certificate that it last came with
    replica     TEXT    NOT NULL,
    sequence    INTEGER NOT NULL,                   -- the bundle that it goes by
    seen_at     INTEGER NOT NULL,
    valid_until INTEGER NOT NULL,
    given_up    INTEGER                             -- the bundle that it did not acknowledge in time
) STRICT, WITHOUT ROWID;

CREATE INDEX svids_by_issuer ON svids (issuer, not_after);
