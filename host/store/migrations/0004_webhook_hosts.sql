-- Webhooks are sent in turns by host, and what went wrong with one can be read.

ALTER TABLE async_requests ADD COLUMN webhook_host TEXT;
ALTER TABLE async_requests ADD COLUMN webhook_attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE async_requests ADD COLUMN webhook_error TEXT;

-- Those from before take turns by their whole address.
UPDATE async_requests SET webhook_host = webhook_endpoint WHERE webhook_endpoint IS NOT NULL;

DROP INDEX async_requests_webhooks;
CREATE INDEX async_requests_webhooks ON async_requests (webhook_host, claimable_at_ms) WHERE work = 'WEBHOOK';
