//! The statements that change async requests.

/// The store's clock, in milliseconds.
macro_rules! now {
    () => {
        "CAST(unixepoch('subsec') * 1000 AS INTEGER)"
    };
}
pub(super) use now;

pub const ACCEPT: &str = concat!(
    "INSERT INTO async_requests (id, model_id, deployment_id, status, webhook_status, work, priority, created_at_ms, \
     status_at_ms, expires_at_ms, claimable_at_ms, retry, webhook_endpoint, input, errors, webhook_host) \
     SELECT ?1, ?2, ?3, 'QUEUED', CASE WHEN ?8 IS NULL THEN 'NO_WEBHOOK_PROVIDED' ELSE 'PENDING' END, 'PREDICT', ?4, ?5, \
     ?5, ?6, ",
    now!(),
    ", ?7, ?8, ?9, '[]', ?12 FROM async_totals AS whole LEFT JOIN async_shares AS own ON own.deployment_id = ?3 \
     WHERE coalesce(own.open, 0) < ?10 - whole.open AND coalesce(own.bytes, 0) + length(?9) <= ?11 - whole.bytes"
);

pub const CLAIM: &str = concat!(
    "UPDATE async_requests SET token = token + 1, losses = losses + (status = 'IN_PROGRESS'), status = 'IN_PROGRESS', \
     status_at_ms = ",
    now!(),
    ", claimable_at_ms = ",
    now!(),
    " + ?3 WHERE seq IN (SELECT seq FROM async_requests WHERE work = 'PREDICT' AND deployment_id = ?1 \
     AND claimable_at_ms <= ",
    now!(),
    " ORDER BY priority, seq LIMIT ?2) \
     RETURNING id, model_id, deployment_id, token, input, errors, retry, losses, priority, seq"
);

pub const CLAIM_NOTICES: &str = concat!(
    "UPDATE async_requests SET token = token + 1, claimable_at_ms = ",
    now!(),
    " + ?2 WHERE seq IN (SELECT seq FROM async_requests WHERE work = 'WEBHOOK' AND webhook_host = ?3 \
     AND deployment_id = ?4 AND claimable_at_ms <= ",
    now!(),
    " ORDER BY claimable_at_ms LIMIT ?1) RETURNING *"
);

pub const REQUEUE: &str = concat!(
    "UPDATE async_requests SET token = token + 1, status = 'QUEUED', status_at_ms = ",
    now!(),
    ", claimable_at_ms = ",
    now!(),
    " + ?3, errors = ?4 WHERE id = ?1 AND token = ?2 AND work = 'PREDICT'"
);

pub const FINISH: &str = concat!(
    "UPDATE async_requests SET status = ?3, status_at_ms = ",
    now!(),
    ", claimable_at_ms = 0, work = CASE WHEN webhook_endpoint IS NULL THEN NULL ELSE 'WEBHOOK' END, errors = ?4, \
     input = x'', result_status = ?5, result_type = ?6, result_body = ?7 \
     WHERE id = ?1 AND token = ?2 AND work = 'PREDICT'"
);

pub const REQUEUE_NOTICE: &str = concat!(
    "UPDATE async_requests SET token = token + 1, webhook_attempts = webhook_attempts + 1, webhook_error = ?4, \
     claimable_at_ms = ",
    now!(),
    " + ?3 WHERE id = ?1 AND token = ?2 AND work = 'WEBHOOK'"
);

pub const FINISH_NOTICE: &str = concat!(
    "UPDATE async_requests SET work = NULL, webhook_status = ?3, webhook_attempts = webhook_attempts + 1, \
     webhook_error = ?6, status = CASE WHEN status = ?4 THEN ?5 ELSE status END, status_at_ms = ",
    now!(),
    " WHERE id = ?1 AND token = ?2 AND work = 'WEBHOOK'"
);

pub const GIVE_UP_NOTICES: &str = concat!(
    "UPDATE async_requests SET work = NULL, webhook_status = 'FAILED', token = token + 1, webhook_error = \
     CASE WHEN webhook_error IS NULL THEN ?3 ELSE ?3 || ': ' || webhook_error END, \
     status = CASE WHEN status = ?4 THEN ?5 ELSE status END, status_at_ms = ",
    now!(),
    " WHERE work = 'WEBHOOK' AND webhook_host = ?1 AND status_at_ms < ?2 AND claimable_at_ms <= ",
    now!()
);

pub const CANCEL: &str = concat!(
    "UPDATE async_requests SET status = 'CANCELED', status_at_ms = ",
    now!(),
    ", webhook_status = CASE WHEN webhook_endpoint IS NULL THEN webhook_status ELSE 'CANCELED' END, work = NULL, \
     input = x'', token = token + 1 WHERE id = ?1 AND status = 'QUEUED'"
);

pub const EXPIRE: &str = "UPDATE async_requests SET status = 'EXPIRED', status_at_ms = ?1, claimable_at_ms = 0, \
     work = CASE WHEN webhook_endpoint IS NULL THEN NULL ELSE 'WEBHOOK' END, input = x'', token = token + 1, \
     errors = json_insert(errors, '$[#]', json(?2)) WHERE status = 'QUEUED' AND expires_at_ms <= ?1";
