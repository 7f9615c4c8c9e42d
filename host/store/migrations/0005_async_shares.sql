-- What each deployment takes of the queue of async requests, kept by triggers as async_totals is. A deployment that takes
-- nothing has no row.
CREATE TABLE async_shares (
    deployment_id TEXT PRIMARY KEY,
    -- Requests that wait or run.
    open          INTEGER NOT NULL,
    -- Bytes of all inputs and results.
    bytes         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO async_shares (deployment_id, open, bytes)
    SELECT deployment_id, sum(work IS 'PREDICT'), sum(length(input) + coalesce(length(result_body), 0))
    FROM async_requests GROUP BY deployment_id;
DELETE FROM async_shares WHERE open = 0 AND bytes = 0;

CREATE TRIGGER async_share_added AFTER INSERT ON async_requests BEGIN
    INSERT INTO async_shares (deployment_id, open, bytes)
        VALUES (NEW.deployment_id, NEW.work IS 'PREDICT', length(NEW.input) + coalesce(length(NEW.result_body), 0))
        ON CONFLICT (deployment_id) DO UPDATE SET open = open + excluded.open, bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER async_share_changed AFTER UPDATE OF work, input, result_body ON async_requests BEGIN
    UPDATE async_shares SET
        open = open + (NEW.work IS 'PREDICT') - (OLD.work IS 'PREDICT'),
        bytes = bytes + length(NEW.input) + coalesce(length(NEW.result_body), 0)
            - length(OLD.input) - coalesce(length(OLD.result_body), 0)
        WHERE deployment_id = NEW.deployment_id;
    DELETE FROM async_shares WHERE deployment_id = NEW.deployment_id AND open = 0 AND bytes = 0;
END;

CREATE TRIGGER async_share_removed AFTER DELETE ON async_requests BEGIN
    UPDATE async_shares SET
        open = open - (OLD.work IS 'PREDICT'),
        bytes = bytes - length(OLD.input) - coalesce(length(OLD.result_body), 0)
        WHERE deployment_id = OLD.deployment_id;
    DELETE FROM async_shares WHERE deployment_id = OLD.deployment_id AND open = 0 AND bytes = 0;
END;
