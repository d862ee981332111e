CREATE FUNCTION log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF EXISTS (SELECT 1 FROM log_checkpoints WHERE replica = OLD.replica AND sequence >= OLD.sequence) THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'the issuance log is append-only';
END
$$;
CREATE TRIGGER log_is_append_only_update BEFORE UPDATE ON log
    FOR EACH ROW EXECUTE FUNCTION log_is_append_only();
CREATE TRIGGER log_is_append_only_delete BEFORE DELETE ON log
    FOR EACH ROW EXECUTE FUNCTION log_is_append_only();
CREATE TRIGGER log_is_append_only_truncate BEFORE TRUNCATE ON log
    FOR EACH STATEMENT EXECUTE FUNCTION log_is_append_only();

-- The role that issues may not delete from the log. It may ask for this: what a checkpoint stands for goes, and
-- nothing of the last day, whatever a checkpoint says.
CREATE FUNCTION log_forget(of TEXT, up_to BIGINT) RETURNS BIGINT LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    gone BIGINT;
BEGIN
    IF NOT EXISTS (SELECT 1 FROM log_checkpoints WHERE replica = of AND sequence >= up_to) THEN
        RAISE EXCEPTION 'no checkpoint stands for these records';
    END IF;
    DELETE FROM log WHERE replica = of AND sequence <= up_to AND at < extract(epoch FROM now()) - 86400;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END
$$;
REVOKE ALL ON FUNCTION log_forget(TEXT, BIGINT) FROM PUBLIC;
