-- Refused by the server while a table is still audited: SELECT steward.unaudit_table('…') first.
DROP FUNCTION steward.unaudit_table(regclass);
DROP FUNCTION steward.audit_table(regclass, text[], text[]);
DROP FUNCTION steward.audit_row();
DROP FUNCTION steward.log_audit_event(text, text, text, text, jsonb, jsonb, text, text, text, jsonb);
DROP FUNCTION steward.audit_context();
DROP FUNCTION steward.audit_bounded(jsonb, integer);
DROP TABLE steward.audit_seals;
DROP SEQUENCE steward.audit_losses;
DROP TABLE steward.audit_logs;
DROP FUNCTION steward.uuid_v7(timestamptz);
