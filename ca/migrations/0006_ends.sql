-- Lineages that ended long ago are forgotten.
CREATE INDEX lineages_by_end ON lineages (ends_at);
