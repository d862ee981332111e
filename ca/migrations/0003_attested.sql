-- Which running thing a certificate was issued to by attestation: such a certificate has no lineage and is not renewed.
CREATE TABLE attested (
    serial    BLOB    NOT NULL PRIMARY KEY REFERENCES svids (serial),
    cluster   TEXT    NOT NULL,                -- the name that the configuration gives to the cluster
    namespace TEXT    NOT NULL,
    pod       TEXT    NOT NULL,
    pod_uid   TEXT    NOT NULL,
    node      TEXT    NOT NULL,
    mac       BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX attested_by_instance ON attested (cluster, pod_uid);
