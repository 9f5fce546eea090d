-- Refused by the server while a table is still audited: SELECT steward.unaudit_table('…') first.
DROP FUNCTION steward.let_audit(name);
DROP FUNCTION steward.audit_gaps();
DROP FUNCTION steward.unaudit_table(regclass);
DROP FUNCTION steward.audit_table(regclass, text[], text[]);
DROP FUNCTION steward.audit_unregister(regclass);
DROP FUNCTION steward.audit_register(regclass, text[], text[]);
DROP FUNCTION steward.audit_may(regclass);
DROP FUNCTION steward.audit_act(text, text, jsonb, jsonb);
DROP FUNCTION steward.audit_gaps_of(regclass);
DROP FUNCTION steward.audit_admit(regclass);
DROP FUNCTION steward.audit_row();
DROP FUNCTION steward.audited_above(oid);
DROP FUNCTION steward.with_descendants(regclass);
DROP FUNCTION steward.primary_key(regclass);
DROP TABLE steward.audited_tables;
