-- What deployments used, kept when they are gone.

-- The newest names of each deployment that ever used anything.
CREATE TABLE usage_owners (
    deployment_id   TEXT PRIMARY KEY NOT NULL,
    deployment_name TEXT NOT NULL,
    model_id        TEXT NOT NULL,
    model_name      TEXT NOT NULL
) STRICT;

-- One row for each minute in which a deployment used something; `minute` counts from 1970 on, UTC.
CREATE TABLE usage_minutes (
    deployment_id          TEXT    NOT NULL REFERENCES usage_owners (deployment_id),
    minute                 INTEGER NOT NULL,
    requests_ok            INTEGER NOT NULL,
    requests_client_error  INTEGER NOT NULL,
    requests_server_error  INTEGER NOT NULL,
    requests_trapped       INTEGER NOT NULL,
    requests_timeout       INTEGER NOT NULL,
    requests_rejected      INTEGER NOT NULL,
    requests_queue_timeout INTEGER NOT NULL,
    requests_start_failed  INTEGER NOT NULL,
    requests_cancelled     INTEGER NOT NULL,
    requests_too_large     INTEGER NOT NULL,
    requests_closed        INTEGER NOT NULL,
    requests_host_failed   INTEGER NOT NULL,
    replica_ms             INTEGER NOT NULL,
    guest_cpu_us           INTEGER NOT NULL,
    inference_us           INTEGER NOT NULL,
    bytes_in               INTEGER NOT NULL,
    bytes_out              INTEGER NOT NULL,
    PRIMARY KEY (deployment_id, minute)
) STRICT, WITHOUT ROWID;

-- The batches that were added, so that one sent again adds nothing; forgotten after a while.
CREATE TABLE usage_batches (
    id          TEXT PRIMARY KEY NOT NULL,
    appended_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_batches_by_age ON usage_batches (appended_at);
