DROP TABLE steward.retirements;
DROP TABLE steward.job_state;
DROP TABLE steward.job_runs;
DROP TABLE steward.leases;
