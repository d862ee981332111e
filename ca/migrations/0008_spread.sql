-- How far revocations have come with the sidecars of each control plane, as it says itself. Grants nothing: who waits for a
-- revocation reads it.
CREATE TABLE spread (
    replica  TEXT    NOT NULL PRIMARY KEY,
    sequence INTEGER NOT NULL,             -- number of the newest set that all sidecars connected to it go by
    sidecars INTEGER NOT NULL,             -- how many those are
    behind   INTEGER NOT NULL,             -- and those that do not go by the newest one
    names    TEXT    NOT NULL,             -- some of them, a JSON array
    ended    INTEGER NOT NULL              -- 1: it ended in good order, and has none
) STRICT, WITHOUT ROWID;
