-- Webhooks are sent in turns by receiver and deployment.

DROP INDEX async_requests_webhooks;
CREATE INDEX async_requests_webhooks
    ON async_requests (webhook_host, deployment_id, claimable_at_ms) WHERE work = 'WEBHOOK';
