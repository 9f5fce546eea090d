DROP TABLE vm_state_transitions;
DROP TABLE vm_metrics;
DROP TABLE billing_records;
DROP TABLE vms;
DROP TABLE projects;
DROP TABLE users;
DROP FUNCTION set_updated_at();
