-- Keys that all control planes of one store share, where they have no folder for that: roots, the key of the marks on rows,
-- the key that signs the log. Each was sealed before it came here, bound to its name and trust domain; the sealing key is
-- never in this database. Carries no MAC: one of these is the key of the MACs.
CREATE TABLE sealed_keys (
    name       TEXT    NOT NULL PRIMARY KEY,
    content    BLOB    NOT NULL,
    written_at INTEGER NOT NULL -- seconds since the epoch
) STRICT, WITHOUT ROWID;
