-- Delegations that may still be believed, each with the certificate of the gateway that asked for it: whatever revokes a
-- gateway finds the keys that it mints with. Grants nothing: a row can only end a delegation.
CREATE TABLE delegations (
    thumbprint TEXT    NOT NULL PRIMARY KEY, -- of the delegated key
    serial     BLOB    NOT NULL,             -- of the certificate
    spiffe_id  TEXT    NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
