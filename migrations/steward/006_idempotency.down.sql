DROP TABLE steward.idempotency_keys;
