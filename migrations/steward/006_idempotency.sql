-- Answers that were given under an idempotency key, so that a request that is sent again is not done again.
--
-- locks:   none beyond the new objects
-- rewrite: none
-- undo:    006_idempotency.down.sql (a request that is sent again then counts as a new one)

CREATE TABLE steward.idempotency_keys (
    caller      text        NOT NULL CHECK (caller <> ''),
    key         text        NOT NULL CHECK (key <> ''),
    fingerprint bytea       NOT NULL,
    answer      jsonb,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (caller, key)
);
CREATE INDEX idempotency_keys_created_at_idx ON steward.idempotency_keys (created_at);

COMMENT ON TABLE steward.idempotency_keys IS
    'Requests of the API that carried an Idempotency-Key: written in the transaction of their effect, kept for a day.';
COMMENT ON COLUMN steward.idempotency_keys.caller IS 'Whose key it is; others may use the same.';
COMMENT ON COLUMN steward.idempotency_keys.fingerprint IS
    'SHA-256 of what was asked: the same key with another request is refused.';
COMMENT ON COLUMN steward.idempotency_keys.answer IS 'Status and body of the answer, given again.';

ALTER TABLE steward.idempotency_keys ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON steward.idempotency_keys FROM PUBLIC;
