-- Requests that are answered later. One row is a request's place in the queue, what it asks and what came of it, so that
-- accepting, claiming, cancelling and finishing one is a single statement each.

CREATE TABLE async_requests (
    -- The order of acceptance.
    seq              INTEGER PRIMARY KEY,
    id               TEXT NOT NULL UNIQUE,
    model_id         TEXT NOT NULL,
    deployment_id    TEXT NOT NULL,
    status           TEXT NOT NULL,
    webhook_status   TEXT NOT NULL,
    -- What is left to do: the prediction, then the webhook if there is one, then nothing.
    work             TEXT CHECK (work IN ('PREDICT', 'WEBHOOK')),
    priority         INTEGER NOT NULL,
    created_at_ms    INTEGER NOT NULL,
    status_at_ms     INTEGER NOT NULL,
    expires_at_ms    INTEGER NOT NULL,
    -- Before this, nobody may claim it: it is claimed, or waits for its next attempt.
    claimable_at_ms  INTEGER NOT NULL,
    -- Grows with every claim; who comes with an older one has lost it.
    token            INTEGER NOT NULL DEFAULT 0,
    -- Claims that ended by running out: their worker died.
    losses           INTEGER NOT NULL DEFAULT 0,
    retry            TEXT NOT NULL,
    webhook_endpoint TEXT,
    input            BLOB NOT NULL,
    errors           TEXT NOT NULL,
    result_status    INTEGER,
    result_type      TEXT,
    result_body      BLOB
) STRICT;

CREATE INDEX async_requests_queue
    ON async_requests (deployment_id, priority, seq, claimable_at_ms, model_id, status, work) WHERE work = 'PREDICT';
CREATE INDEX async_requests_webhooks ON async_requests (claimable_at_ms) WHERE work = 'WEBHOOK';
CREATE INDEX async_requests_expiry ON async_requests (expires_at_ms) WHERE status = 'QUEUED';
CREATE INDEX async_requests_done ON async_requests (status_at_ms) WHERE work IS NULL;

-- One row, kept by triggers, so that acceptance need not count.
CREATE TABLE async_totals (
    id    INTEGER PRIMARY KEY CHECK (id = 1),
    -- Requests that wait or run.
    open  INTEGER NOT NULL,
    -- Bytes of all inputs and results.
    bytes INTEGER NOT NULL
) STRICT;

INSERT INTO async_totals (id, open, bytes) VALUES (1, 0, 0);

CREATE TRIGGER async_requests_added AFTER INSERT ON async_requests BEGIN
    UPDATE async_totals SET
        open = open + (NEW.work IS 'PREDICT'),
        bytes = bytes + length(NEW.input) + coalesce(length(NEW.result_body), 0);
END;

CREATE TRIGGER async_requests_changed AFTER UPDATE OF work, input, result_body ON async_requests BEGIN
    UPDATE async_totals SET
        open = open + (NEW.work IS 'PREDICT') - (OLD.work IS 'PREDICT'),
        bytes = bytes + length(NEW.input) + coalesce(length(NEW.result_body), 0)
            - length(OLD.input) - coalesce(length(OLD.result_body), 0);
END;

CREATE TRIGGER async_requests_removed AFTER DELETE ON async_requests BEGIN
    UPDATE async_totals SET
        open = open - (OLD.work IS 'PREDICT'),
        bytes = bytes - length(OLD.input) - coalesce(length(OLD.result_body), 0);
END;
