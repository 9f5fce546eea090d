-- Who observes this database, which run is due, who holds it, and how it ended; and what a run that was cut
-- off has left half done.
--
-- locks:   none beyond the new objects
-- rewrite: none
-- undo:    001_ledger.down.sql (the history of runs is lost)

CREATE TABLE steward.leases (
    name        text        PRIMARY KEY CHECK (name <> ''),
    holder      text        NOT NULL CHECK (holder <> ''),
    epoch       bigint      NOT NULL DEFAULT 1 CHECK (epoch >= 1),
    acquired_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    renewed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz NOT NULL,
    CONSTRAINT leases_expiry_check CHECK (expires_at >= renewed_at)
)
-- A few rows, renewed every few seconds: room for HOT updates, and no waiting for a share of the table.
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

COMMENT ON TABLE steward.leases IS
    'Who does what only one instance may do (the observer, say). All times are the database''s own clock.';
COMMENT ON COLUMN steward.leases.epoch IS
    'Grows by one with every change of holder; a holder that wrote down a lower one has been replaced.';

CREATE TABLE steward.job_runs (
    id            uuid        PRIMARY KEY,
    job           text        NOT NULL CHECK (job <> ''),
    kind          text        NOT NULL CHECK (kind IN ('scheduled', 'chained', 'manual', 'missed')),
    due_at        timestamptz NOT NULL,
    last_due_at   timestamptz,
    missed_count  integer,
    state         text        NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'timed_out',
                                                        'cancelled', 'skipped', 'lost')),
    reason        text,
    actor         text,
    instance      text,
    epoch         bigint      NOT NULL DEFAULT 1 CHECK (epoch >= 1),
    attempts      integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    fenced        boolean,
    backend_pid   integer,
    backend_start timestamptz,
    cancel_by     text,
    lease_until   timestamptz,
    started_at    timestamptz,
    finished_at   timestamptz,
    rows_affected bigint      CHECK (rows_affected >= 0),
    error         text,
    detail        jsonb,
    spec_hash     text,
    options       jsonb       CONSTRAINT job_runs_options_check CHECK (options IS NULL OR kind = 'manual'),
    progress      jsonb,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),

    -- One row per instant: the claim of a due instant is the insertion of this row. It also serves the
    -- listing of a job's history, newest first, read backwards.
    CONSTRAINT job_runs_job_due_at_key UNIQUE (job, due_at),

    CONSTRAINT job_runs_queued_check CHECK (
        state <> 'queued' OR (started_at IS NULL AND finished_at IS NULL AND lease_until IS NULL)),
    CONSTRAINT job_runs_running_check CHECK (
        state <> 'running'
        OR (started_at IS NOT NULL AND lease_until IS NOT NULL AND instance IS NOT NULL AND finished_at IS NULL)),
    CONSTRAINT job_runs_ended_check CHECK (state IN ('queued', 'running') OR finished_at IS NOT NULL),
    CONSTRAINT job_runs_skipped_check CHECK (state <> 'skipped' OR reason IS NOT NULL),
    CONSTRAINT job_runs_manual_check CHECK (kind <> 'manual' OR actor IS NOT NULL),
    CONSTRAINT job_runs_backend_check CHECK ((backend_pid IS NULL) = (backend_start IS NULL)),
    CONSTRAINT job_runs_missed_check CHECK (
        CASE WHEN kind = 'missed'
             THEN state NOT IN ('queued', 'running') AND reason IS NOT NULL
                  AND last_due_at IS NOT NULL AND last_due_at >= due_at
                  AND missed_count IS NOT NULL AND missed_count >= 1
             ELSE last_due_at IS NULL AND missed_count IS NULL
        END)
)
-- A run is inserted, renewed (HOT: no index holds lease_until) and ended: leave room on its page.
WITH (fillfactor = 70);

-- No overlap, whatever the instances believe: a second running row of a job is refused by the server.
CREATE UNIQUE INDEX job_runs_running_key ON steward.job_runs (job) WHERE state = 'running';
-- A queue of one: what is asked for, or due, while the job runs.
CREATE UNIQUE INDEX job_runs_queued_key ON steward.job_runs (job) WHERE state = 'queued';
-- Pruning by age, and what ended last.
CREATE INDEX job_runs_finished_at_idx ON steward.job_runs (finished_at) WHERE finished_at IS NOT NULL;

COMMENT ON TABLE steward.job_runs IS
    'The fire ledger: one row per job and due instant, claimed once across all instances, with its outcome and reason.';
COMMENT ON COLUMN steward.job_runs.kind IS
    'scheduled: by the plan; chained: after other jobs; manual: asked for by an actor; missed: a range of instants '
    'in a row at which the job was not run, all for one reason.';
COMMENT ON COLUMN steward.job_runs.due_at IS 'The instant (of a missed range: the first).';
COMMENT ON COLUMN steward.job_runs.last_due_at IS 'Of a missed range: its last instant; else null.';
COMMENT ON COLUMN steward.job_runs.missed_count IS 'Of a missed range: how many instants it stands for; else null.';
COMMENT ON COLUMN steward.job_runs.epoch IS
    'Grows by one when another instance takes the run over; a write transaction of the run goes on only under its own epoch.';
COMMENT ON COLUMN steward.job_runs.lease_until IS
    'While running: until when the instance holds the run, by the database''s clock.';
COMMENT ON COLUMN steward.job_runs.fenced IS
    'Whether the run''s effect commits only while it holds its lease; false: it may run more than once (VACUUM, '
    'CONCURRENTLY, a login of its own). Null until it is known.';
COMMENT ON COLUMN steward.job_runs.backend_pid IS
    'Of a run that is not fenced: the server process that works for it, with backend_start; null behind a pooler.';
COMMENT ON COLUMN steward.job_runs.cancel_by IS 'Who asked for the run to be cancelled.';
COMMENT ON COLUMN steward.job_runs.options IS
    'Of a run that was asked for: what its caller wants otherwise than the configuration, as {"tables": [...], "keep_days": n}.';
COMMENT ON COLUMN steward.job_runs.progress IS
    'How far a run has come, as of the last renewal of its lease: {"object", "done", "total", "note"}.';
COMMENT ON COLUMN steward.job_runs.spec_hash IS 'Hash of the job''s configuration under which the run was claimed.';

CREATE TABLE steward.job_state (
    job                  text        PRIMARY KEY CHECK (job <> ''),
    first_seen           timestamptz NOT NULL DEFAULT clock_timestamp(),
    claimed_floor        timestamptz NOT NULL DEFAULT clock_timestamp(),
    spec_hash            text,
    spec_seen_at         timestamptz,
    running_run_id       uuid,
    running_since        timestamptz,
    queued_run_id        uuid,
    quarantined_run_id   uuid,
    paused_by            text,
    paused_at            timestamptz,
    paused_reason        text,
    last_success_at      timestamptz,
    last_finished_at     timestamptz,
    last_state           text,
    consecutive_failures integer     NOT NULL DEFAULT 0 CHECK (consecutive_failures >= 0),
    succeeded_total      bigint      NOT NULL DEFAULT 0 CHECK (succeeded_total >= 0),
    failed_total         bigint      NOT NULL DEFAULT 0 CHECK (failed_total >= 0),
    skipped_total        bigint      NOT NULL DEFAULT 0 CHECK (skipped_total >= 0),
    CONSTRAINT job_state_paused_check CHECK ((paused_by IS NULL) = (paused_at IS NULL)),
    CONSTRAINT job_state_running_check CHECK ((running_run_id IS NULL) = (running_since IS NULL)),
    CONSTRAINT job_state_all_check CHECK (job <> '*' OR running_run_id IS NULL)
)
WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

COMMENT ON TABLE steward.job_state IS
    'One row per job: its slot, its floor, its pause. The row of job ''*'' pauses every job of this database.';
COMMENT ON COLUMN steward.job_state.claimed_floor IS
    'Instants at or before it are settled; the history is pruned only below it, so that none fires twice.';
COMMENT ON COLUMN steward.job_state.running_run_id IS
    'The slot: the run that holds this job. Without a foreign key: a claim must not lock the row of another run.';
COMMENT ON COLUMN steward.job_state.queued_run_id IS 'The run that waits for the slot; there is one at most.';
COMMENT ON COLUMN steward.job_state.quarantined_run_id IS
    'A run that ended for the ledger while its server process may still work: the job waits until that is gone.';
COMMENT ON COLUMN steward.job_state.succeeded_total IS
    'Instants that ended so since the job was first seen; the history is pruned, these are not. Lost and timed out '
    'runs count as failed, cancelled ones as neither.';
COMMENT ON COLUMN steward.job_state.spec_hash IS
    'The configuration of who registered the job last, which whoever observes does; a claim by another one is refused.';

CREATE TABLE steward.retirements (
    partition      oid         PRIMARY KEY,
    parent         oid         NOT NULL,
    partition_name text        NOT NULL CHECK (partition_name <> ''),
    parent_name    text        NOT NULL CHECK (parent_name <> ''),
    upper_bound    text        NOT NULL CHECK (upper_bound <> ''),
    detached       boolean     NOT NULL DEFAULT false,
    run_id         uuid        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE steward.retirements IS
    'The partitions that retention is taking off, concurrently, to drop them: written before, and gone with the '
    'partition. Deleting a row makes pgsteward leave the table alone. Retention never drops a table that stands '
    'alone without a row here that says it was pgsteward who detached it.';
COMMENT ON COLUMN steward.retirements.partition IS
    'The table''s OID, not its name: another table may come to bear that.';
COMMENT ON COLUMN steward.retirements.partition_name IS
    'Quoted, as it was: a table that was renamed since is left alone.';
COMMENT ON COLUMN steward.retirements.upper_bound IS
    'Exclusive bound of its rows, as ISO text of the key''s own type, in UTC where that has a time zone.';
COMMENT ON COLUMN steward.retirements.detached IS
    'Set once our own DETACH was seen done, or under way. Until then it may have been somebody else''s.';

-- Reachable by the owner alone: nothing is granted, and should a GRANT slip in, rows stay hidden until a
-- policy names the reader (a plain owner is not subject to it). Monitoring roles are named here, since
-- they are let in by a GRANT without more ado.
ALTER TABLE steward.leases    ENABLE ROW LEVEL SECURITY;
ALTER TABLE steward.job_runs  ENABLE ROW LEVEL SECURITY;
ALTER TABLE steward.job_state ENABLE ROW LEVEL SECURITY;
ALTER TABLE steward.retirements ENABLE ROW LEVEL SECURITY;
CREATE POLICY monitors_read ON steward.leases    FOR SELECT TO pg_monitor USING (true);
CREATE POLICY monitors_read ON steward.job_runs  FOR SELECT TO pg_monitor USING (true);
CREATE POLICY monitors_read ON steward.job_state FOR SELECT TO pg_monitor USING (true);
CREATE POLICY monitors_read ON steward.retirements FOR SELECT TO pg_monitor USING (true);
REVOKE ALL ON steward.leases, steward.job_runs, steward.job_state, steward.retirements FROM PUBLIC;
