-- What ended long ago is forgotten, issuer by issuer; and the last end under an issuer is asked for while it drains.
CREATE INDEX svids_by_issuer ON svids (issuer, not_after);
CREATE INDEX lineages_by_end ON lineages (ends_at);
