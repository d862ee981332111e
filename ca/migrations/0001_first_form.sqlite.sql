CREATE TRIGGER log_is_append_only_update BEFORE UPDATE ON log
BEGIN SELECT RAISE(ABORT, 'the issuance log is append-only'); END;
CREATE TRIGGER log_is_append_only_delete BEFORE DELETE ON log
WHEN NOT EXISTS (SELECT 1 FROM log_checkpoints WHERE replica = OLD.replica AND sequence >= OLD.sequence)
BEGIN SELECT RAISE(ABORT, 'the issuance log is append-only'); END;
