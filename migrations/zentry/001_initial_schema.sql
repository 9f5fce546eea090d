-- Zentry Cloud: accounts, projects, virtual machines, what they cost and how they run.
--
-- needs:   the steward set (steward.ensure_partitions)
-- locks:   none beyond the new objects
-- rewrite: none
-- undo:    001_initial_schema.down.sql (all data of the set is lost)

CREATE TABLE users (
    id                uuid          PRIMARY KEY DEFAULT gen_random_uuid(),
    email             text          NOT NULL,
    username          text          NOT NULL,
    full_name         text,
    password_hash     text,
    api_key_hash      text,
    role              text          NOT NULL DEFAULT 'user'
                                    CONSTRAINT users_role_check CHECK (role IN ('user', 'support', 'admin')),
    status            text          NOT NULL DEFAULT 'active'
                                    CONSTRAINT users_status_check CHECK (status IN ('pending', 'active', 'suspended', 'closed')),
    is_active         boolean       NOT NULL DEFAULT true,
    credits           numeric(14,4) NOT NULL DEFAULT 0 CONSTRAINT users_credits_check CHECK (credits >= 0),
    total_spent       numeric(14,4) NOT NULL DEFAULT 0 CONSTRAINT users_total_spent_check CHECK (total_spent >= 0),
    currency          text          NOT NULL DEFAULT 'USD'
                                    CONSTRAINT users_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
    preferences       jsonb         NOT NULL DEFAULT '{}',
    email_verified_at timestamptz,
    last_login_at     timestamptz,
    created_at        timestamptz   NOT NULL DEFAULT now(),
    updated_at        timestamptz   NOT NULL DEFAULT now(),
    -- Whoever may not act is not "active" in the other column either.
    CONSTRAINT users_active_check CHECK (NOT is_active OR status IN ('pending', 'active'))
);
CREATE UNIQUE INDEX users_email_key ON users (lower(email));
CREATE UNIQUE INDEX users_username_key ON users (lower(username));

COMMENT ON TABLE users IS 'Accounts, with what they have (credits) and what they spent.';
COMMENT ON COLUMN users.is_active IS 'May sign in and be billed. False for suspended and closed accounts.';
COMMENT ON COLUMN users.credits IS 'Prepaid balance in users.currency; changed by charge_user_credits and add_user_credits.';

CREATE TABLE projects (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id     uuid        NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    name        text        NOT NULL,
    description text,
    status      text        NOT NULL DEFAULT 'active'
                            CONSTRAINT projects_status_check CHECK (status IN ('active', 'archived', 'deleted')),
    labels      jsonb       NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    -- What vms refers to, so that a VM's owner is its project's owner.
    CONSTRAINT projects_id_user_id_key UNIQUE (id, user_id)
);
COMMENT ON TABLE projects IS 'Groups of virtual machines under one account.';

CREATE TABLE vms (
    id           uuid          PRIMARY KEY DEFAULT gen_random_uuid(),
    project_id   uuid          NOT NULL,
    user_id      uuid          NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    name         text          NOT NULL,
    status       text          NOT NULL DEFAULT 'pending'
                               CONSTRAINT vms_status_check CHECK (status IN (
                                   'pending', 'provisioning', 'running', 'stopping', 'stopped', 'rebooting',
                                   'suspended', 'error', 'deleting', 'deleted')),
    region       text          NOT NULL,
    image        text          NOT NULL,
    vcpus        integer       NOT NULL CONSTRAINT vms_vcpus_check CHECK (vcpus BETWEEN 1 AND 512),
    memory_mb    integer       NOT NULL CONSTRAINT vms_memory_mb_check CHECK (memory_mb BETWEEN 128 AND 33554432),
    disk_gb      integer       NOT NULL CONSTRAINT vms_disk_gb_check CHECK (disk_gb BETWEEN 1 AND 1048576),
    hourly_price numeric(12,6) NOT NULL CONSTRAINT vms_hourly_price_check CHECK (hourly_price >= 0),
    ip_address   inet,
    error        text,
    started_at   timestamptz,
    stopped_at   timestamptz,
    deleted_at   timestamptz,
    created_at   timestamptz   NOT NULL DEFAULT now(),
    updated_at   timestamptz   NOT NULL DEFAULT now(),
    -- A project that changes hands takes its machines along.
    CONSTRAINT vms_project_id_user_id_fkey FOREIGN KEY (project_id, user_id)
        REFERENCES projects (id, user_id) ON UPDATE CASCADE ON DELETE RESTRICT,
    CONSTRAINT vms_deleted_check CHECK ((status = 'deleted') = (deleted_at IS NOT NULL))
);
COMMENT ON TABLE vms IS 'Virtual machines. Kept after deletion (status deleted): bills refer to them.';
COMMENT ON COLUMN vms.user_id IS 'The project''s owner, held here for the listing by user; the foreign key keeps both equal.';

CREATE TABLE billing_records (
    id           uuid          PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id      uuid          NOT NULL REFERENCES users (id) ON DELETE RESTRICT,
    project_id   uuid          REFERENCES projects (id) ON DELETE SET NULL,
    vm_id        uuid          REFERENCES vms (id) ON DELETE SET NULL,
    type         text          NOT NULL
                               CONSTRAINT billing_records_type_check CHECK (type IN ('usage', 'charge', 'top_up', 'refund', 'adjustment')),
    status       text          NOT NULL DEFAULT 'pending'
                               CONSTRAINT billing_records_status_check CHECK (status IN ('pending', 'paid', 'failed', 'void')),
    amount       numeric(14,4) NOT NULL,
    currency     text          NOT NULL DEFAULT 'USD'
                               CONSTRAINT billing_records_currency_check CHECK (currency ~ '^[A-Z]{3}$'),
    quantity     numeric(14,4),
    unit_price   numeric(12,6),
    description  text,
    reference    text,
    period_start timestamptz,
    period_end   timestamptz,
    due_at       timestamptz,
    paid_at      timestamptz,
    created_at   timestamptz   NOT NULL DEFAULT now(),
    updated_at   timestamptz   NOT NULL DEFAULT now(),
    CONSTRAINT billing_records_period_check CHECK (
        (period_start IS NULL) = (period_end IS NULL) AND (period_start IS NULL OR period_end > period_start)),
    CONSTRAINT billing_records_paid_check CHECK ((status = 'paid') = (paid_at IS NOT NULL))
);
COMMENT ON TABLE billing_records IS 'What was used, charged, paid in and given back.';
COMMENT ON COLUMN billing_records.amount IS
    'Always positive but for an adjustment; the type says the direction: usage and charge are owed by the user, '
    'top_up and refund are owed to the user.';
COMMENT ON COLUMN billing_records.reference IS 'The caller''s key: the same one again is the same booking, not a second one.';

-- No foreign key to vms: with one, making and dropping a partition would lock vms against writers, and what
-- a deleted machine did should stay readable for as long as the retention says.
CREATE TABLE vm_metrics (
    id               uuid        NOT NULL DEFAULT gen_random_uuid(),
    created_at       timestamptz NOT NULL DEFAULT now(),
    vm_id            uuid        NOT NULL,
    cpu_percent      real        NOT NULL CONSTRAINT vm_metrics_cpu_percent_check CHECK (cpu_percent BETWEEN 0 AND 100),
    memory_percent   real        NOT NULL CONSTRAINT vm_metrics_memory_percent_check CHECK (memory_percent BETWEEN 0 AND 100),
    disk_percent     real        CONSTRAINT vm_metrics_disk_percent_check CHECK (disk_percent BETWEEN 0 AND 100),
    disk_read_bytes  bigint      CONSTRAINT vm_metrics_disk_read_bytes_check CHECK (disk_read_bytes >= 0),
    disk_write_bytes bigint      CONSTRAINT vm_metrics_disk_write_bytes_check CHECK (disk_write_bytes >= 0),
    network_rx_bytes bigint      CONSTRAINT vm_metrics_network_rx_bytes_check CHECK (network_rx_bytes >= 0),
    network_tx_bytes bigint      CONSTRAINT vm_metrics_network_tx_bytes_check CHECK (network_tx_bytes >= 0),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE vm_metrics_default PARTITION OF vm_metrics DEFAULT;

COMMENT ON TABLE vm_metrics IS
    'Performance samples. Monthly partitions (UTC) and a default one, so that a sample never fails for want of a partition.';
COMMENT ON COLUMN vm_metrics.cpu_percent IS 'Of all the VM''s vCPUs together, 0 to 100.';
COMMENT ON COLUMN vm_metrics.disk_read_bytes IS 'Bytes since the previous sample, as all *_bytes here.';

CREATE TABLE vm_state_transitions (
    id          uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    vm_id       uuid        NOT NULL REFERENCES vms (id) ON DELETE CASCADE,
    from_status text,
    to_status   text        NOT NULL,
    reason      text,
    changed_by  text        NOT NULL DEFAULT session_user,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT vm_state_transitions_change_check CHECK (from_status IS DISTINCT FROM to_status)
);
COMMENT ON TABLE vm_state_transitions IS 'Every change of vms.status, written by a trigger.';
COMMENT ON COLUMN vm_state_transitions.from_status IS 'Null: the VM was created.';
COMMENT ON COLUMN vm_state_transitions.changed_by IS
    'The application''s user (setting steward.user_id), else the role that logged in.';

CREATE FUNCTION set_updated_at() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

CREATE TRIGGER users_set_updated_at BEFORE UPDATE ON users
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER projects_set_updated_at BEFORE UPDATE ON projects
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER vms_set_updated_at BEFORE UPDATE ON vms
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();
CREATE TRIGGER billing_records_set_updated_at BEFORE UPDATE ON billing_records
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION set_updated_at();

-- Row security without a policy: the owner (and a BYPASSRLS role such as Supabase's service_role) works as
-- usual, everybody else sees nothing even where a GRANT slips in.
ALTER TABLE users                ENABLE ROW LEVEL SECURITY;
ALTER TABLE projects             ENABLE ROW LEVEL SECURITY;
ALTER TABLE vms                  ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_records      ENABLE ROW LEVEL SECURITY;
ALTER TABLE vm_metrics           ENABLE ROW LEVEL SECURITY;
ALTER TABLE vm_metrics_default   ENABLE ROW LEVEL SECURITY;
ALTER TABLE vm_state_transitions ENABLE ROW LEVEL SECURITY;

-- Functions look in this schema and never in a caller's temporary one; nobody may call them unasked.
-- Supabase's default privileges give its API roles everything that appears in public: taken back here.
DO $$
DECLARE
    object  regclass;
    routine regprocedure;
    reader  text;
BEGIN
    FOREACH routine IN ARRAY ARRAY['set_updated_at()']::regprocedure[] LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', routine);
    END LOOP;
    FOR reader IN SELECT quote_ident(rolname) FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        FOREACH object IN ARRAY ARRAY['users', 'projects', 'vms', 'billing_records', 'vm_metrics', 'vm_metrics_default',
                                      'vm_state_transitions']::regclass[] LOOP
            EXECUTE format('REVOKE ALL ON TABLE %s FROM %s', object, reader);
        END LOOP;
        FOREACH routine IN ARRAY ARRAY['set_updated_at()']::regprocedure[] LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', routine, reader);
        END LOOP;
    END LOOP;
END
$$;

-- Last, so that the partitions take row security and grants over.
SELECT steward.ensure_partitions('vm_metrics', 'month', 3);
