-- A revocation list names every live certificate of a revoked identity.
CREATE INDEX svids_by_identity ON svids (spiffe_id, not_after);
