DROP TABLE steward.connection_metrics;
DROP TABLE steward.system_health;
DROP FUNCTION steward.ensure_partitions(regclass, text, integer, integer);
