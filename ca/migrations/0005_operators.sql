-- People who logged in: what their provider said of them, for as long as the certificate that they got for it.
-- Roles are looked up by it at every call, so the rows grant, and carry a MAC as the others that do.
CREATE TABLE operators (
    serial      BLOB    NOT NULL PRIMARY KEY,
    spiffe_id   TEXT    NOT NULL,
    provider    TEXT    NOT NULL,            -- its name in the configuration
    issuer      TEXT    NOT NULL,
    subject     TEXT    NOT NULL,
    username    TEXT,
    name        TEXT,
    group_names TEXT    NOT NULL,            -- a JSON array of strings, sorted
    not_after   INTEGER NOT NULL,
    mac         BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
