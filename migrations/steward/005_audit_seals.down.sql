DROP TABLE steward.audit_publications;
DROP TABLE steward.audit_holds;
DROP FUNCTION steward.audit_sealed_ids(bigint);
DROP TABLE steward.audit_leaves;
DROP TABLE steward.audit_seals;
