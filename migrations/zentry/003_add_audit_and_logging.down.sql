SELECT steward.unaudit_table('billing_records');
SELECT steward.unaudit_table('vms');
SELECT steward.unaudit_table('projects');
SELECT steward.unaudit_table('users');

DROP VIEW connection_metrics;
DROP VIEW system_health;
DROP VIEW audit_logs;
