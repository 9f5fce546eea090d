-- Indexes for every foreign key and for what the product asks; the remaining constraints; statistics per
-- user; functions for what must happen in one step.
--
-- needs:   001
-- locks:   SHARE on each table while its indexes are built, ACCESS EXCLUSIVE while constraints are checked
--          (the set is installed on empty tables)
-- rewrite: none
-- undo:    002_add_indexes_and_constraints.down.sql (nothing is lost)

-- A user's projects by name, and the foreign key. A name is taken while the project is not deleted.
CREATE INDEX projects_user_id_idx ON projects (user_id, created_at DESC);
CREATE UNIQUE INDEX projects_user_id_name_key ON projects (user_id, lower(name)) WHERE status <> 'deleted';

-- A project's machines, and the foreign key; a name is taken while the machine is not deleted.
CREATE INDEX vms_project_id_user_id_idx ON vms (project_id, user_id);
CREATE UNIQUE INDEX vms_project_id_name_key ON vms (project_id, lower(name)) WHERE status <> 'deleted';
-- A user's machines by status (the console's start page), and the foreign key.
CREATE INDEX vms_user_id_status_idx ON vms (user_id, status);
-- What runs where: billing each hour, capacity per region.
CREATE INDEX vms_running_idx ON vms (region, id) WHERE status = 'running';
-- What the provisioner has to attend to.
CREATE INDEX vms_in_transition_idx ON vms (updated_at)
    WHERE status IN ('pending', 'provisioning', 'stopping', 'rebooting', 'deleting', 'error');
-- Two live machines never share an address.
CREATE UNIQUE INDEX vms_ip_address_key ON vms (ip_address) WHERE ip_address IS NOT NULL AND status <> 'deleted';

-- Accounts that may sign in, newest first (the admin's list), and those with nothing left.
CREATE INDEX users_active_idx ON users (created_at DESC) WHERE is_active;
CREATE INDEX users_without_credits_idx ON users (id) WHERE is_active AND credits = 0;
CREATE INDEX users_last_login_at_idx ON users (last_login_at DESC NULLS LAST);

-- A user's bills, newest first, and the foreign key.
CREATE INDEX billing_records_user_id_created_at_idx ON billing_records (user_id, created_at DESC);
CREATE INDEX billing_records_project_id_idx ON billing_records (project_id, created_at DESC) WHERE project_id IS NOT NULL;
CREATE INDEX billing_records_vm_id_idx ON billing_records (vm_id, period_start DESC) WHERE vm_id IS NOT NULL;
-- What is to be collected, by due date.
CREATE INDEX billing_records_unpaid_idx ON billing_records (due_at, user_id) WHERE status IN ('pending', 'failed');
-- The month's books.
CREATE INDEX billing_records_created_at_idx ON billing_records (created_at);
-- Nothing is booked twice: neither a caller's key nor a machine's hour.
CREATE UNIQUE INDEX billing_records_reference_key ON billing_records (user_id, reference) WHERE reference IS NOT NULL;
CREATE UNIQUE INDEX billing_records_usage_key ON billing_records (vm_id, period_start) WHERE type = 'usage' AND status <> 'void';

-- A machine's samples, newest first; time alone for ranges and for retention.
CREATE INDEX vm_metrics_vm_id_created_at_idx ON vm_metrics (vm_id, created_at DESC);
CREATE INDEX vm_metrics_created_at_idx ON vm_metrics (created_at);

-- A machine's history, newest first, and the foreign key; and the history of all.
CREATE INDEX vm_state_transitions_vm_id_created_at_idx ON vm_state_transitions (vm_id, created_at DESC);
CREATE INDEX vm_state_transitions_created_at_idx ON vm_state_transitions (created_at);

ALTER TABLE users
    ADD CONSTRAINT users_email_format_check CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$' AND length(email) <= 320),
    ADD CONSTRAINT users_username_length_check CHECK (length(username) BETWEEN 1 AND 64 AND username = btrim(username)),
    ADD CONSTRAINT users_preferences_object_check CHECK (jsonb_typeof(preferences) = 'object');
ALTER TABLE projects
    ADD CONSTRAINT projects_name_length_check CHECK (length(name) BETWEEN 1 AND 128 AND name = btrim(name)),
    ADD CONSTRAINT projects_labels_object_check CHECK (jsonb_typeof(labels) = 'object');
ALTER TABLE vms
    ADD CONSTRAINT vms_name_length_check CHECK (length(name) BETWEEN 1 AND 128 AND name = btrim(name)),
    ADD CONSTRAINT vms_running_check CHECK (status <> 'running' OR started_at IS NOT NULL);
ALTER TABLE billing_records
    ADD CONSTRAINT billing_records_amount_check CHECK (amount >= 0 OR type = 'adjustment'),
    ADD CONSTRAINT billing_records_quantity_check CHECK (quantity >= 0),
    ADD CONSTRAINT billing_records_unit_price_check CHECK (unit_price >= 0),
    -- period_start and vm_id stay free of NOT NULL for the other types; a machine deleted by hand leaves its bill.
    ADD CONSTRAINT billing_records_usage_check CHECK (type <> 'usage' OR period_start IS NOT NULL);
ALTER TABLE vm_state_transitions
    ADD CONSTRAINT vm_state_transitions_to_status_check CHECK (to_status IN (
        'pending', 'provisioning', 'running', 'stopping', 'stopped', 'rebooting', 'suspended', 'error', 'deleting', 'deleted')),
    ADD CONSTRAINT vm_state_transitions_from_status_check CHECK (from_status IN (
        'pending', 'provisioning', 'running', 'stopping', 'stopped', 'rebooting', 'suspended', 'error', 'deleting', 'deleted'));

-- Users × machines × spending. Only immutable expressions (no now(), no time zone): that lets a refresh be
-- skipped when nothing beneath has changed. No address and no name: a materialized view has no row security.
CREATE MATERIALIZED VIEW user_statistics AS
SELECT u.id AS user_id,
       u.status,
       u.is_active,
       u.credits,
       u.total_spent,
       u.currency,
       u.last_login_at,
       coalesce(p.projects, 0)      AS projects,
       coalesce(v.vms, 0)           AS vms,
       coalesce(v.vms_running, 0)   AS vms_running,
       coalesce(v.vcpus_running, 0) AS vcpus_running,
       coalesce(v.memory_mb_running, 0) AS memory_mb_running,
       coalesce(v.hourly_cost, 0)   AS hourly_cost,
       coalesce(b.bills, 0)         AS bills,
       coalesce(b.paid, 0)          AS paid,
       coalesce(b.outstanding, 0)   AS outstanding,
       b.last_billed_at
  FROM users u
  LEFT JOIN (SELECT user_id, count(*) AS projects
               FROM projects
              WHERE status = 'active'
              GROUP BY user_id) p ON p.user_id = u.id
  LEFT JOIN (SELECT user_id,
                    count(*) AS vms,
                    count(*) FILTER (WHERE status = 'running') AS vms_running,
                    sum(vcpus) FILTER (WHERE status = 'running') AS vcpus_running,
                    sum(memory_mb) FILTER (WHERE status = 'running') AS memory_mb_running,
                    sum(hourly_price) FILTER (WHERE status = 'running') AS hourly_cost
               FROM vms
              WHERE status <> 'deleted'
              GROUP BY user_id) v ON v.user_id = u.id
  LEFT JOIN (SELECT user_id,
                    count(*) AS bills,
                    sum(amount) FILTER (WHERE status = 'paid') AS paid,
                    sum(amount) FILTER (WHERE status IN ('pending', 'failed')) AS outstanding,
                    max(created_at) AS last_billed_at
               FROM billing_records
              WHERE type IN ('usage', 'charge')
              GROUP BY user_id) b ON b.user_id = u.id
WITH DATA;
-- What REFRESH … CONCURRENTLY needs.
CREATE UNIQUE INDEX user_statistics_user_id_key ON user_statistics (user_id);
CREATE INDEX user_statistics_total_spent_idx ON user_statistics (total_spent DESC);
COMMENT ON MATERIALIZED VIEW user_statistics IS
    'Per user: projects, machines, running cost, bills. As of its last refresh (the job "refresh" keeps it).';

-- Takes credits and books the charge, or does neither. The row lock of the UPDATE orders concurrent charges.
CREATE FUNCTION charge_user_credits(
    user_id     uuid,
    amount      numeric,
    description text DEFAULT NULL,
    reference   text DEFAULT NULL,
    vm_id       uuid DEFAULT NULL
) RETURNS numeric
LANGUAGE plpgsql
AS $$
DECLARE
    balance numeric;
    unit    text;
    project uuid;
BEGIN
    -- NaN is greater than every number, infinity than every balance: neither is an amount.
    IF amount IS NULL OR NOT amount > 0 OR amount IN ('NaN', 'infinity') THEN
        RAISE EXCEPTION 'charge_user_credits: the amount is %, wanted more than 0', coalesce(amount::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT u.credits, u.currency INTO balance, unit
      FROM users u WHERE u.id = charge_user_credits.user_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'charge_user_credits: there is no user %', coalesce(user_id::text, 'null')
            USING ERRCODE = 'no_data_found';
    END IF;
    -- Under the lock: the same reference again, also from a concurrent retry, finds the first booking.
    IF reference IS NOT NULL AND EXISTS (
        SELECT FROM billing_records b
         WHERE b.user_id = charge_user_credits.user_id AND b.reference = charge_user_credits.reference) THEN
        RETURN balance;
    END IF;
    IF balance < amount THEN
        RAISE EXCEPTION 'charge_user_credits: user % has %, % is wanted', user_id, balance, amount
            USING ERRCODE = 'check_violation', CONSTRAINT = 'users_credits_check';
    END IF;
    IF vm_id IS NOT NULL THEN
        SELECT v.project_id INTO project
          FROM vms v WHERE v.id = charge_user_credits.vm_id AND v.user_id = charge_user_credits.user_id;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'charge_user_credits: user % has no VM %', user_id, vm_id USING ERRCODE = 'no_data_found';
        END IF;
    END IF;
    UPDATE users u
       SET credits = u.credits - amount, total_spent = u.total_spent + amount
     WHERE u.id = charge_user_credits.user_id
    RETURNING u.credits INTO balance;
    INSERT INTO billing_records (user_id, project_id, vm_id, type, status, amount, currency, description, reference, paid_at)
    VALUES (charge_user_credits.user_id, project, charge_user_credits.vm_id, 'charge', 'paid', charge_user_credits.amount,
            unit, charge_user_credits.description, charge_user_credits.reference, now());
    RETURN balance;
END
$$;
COMMENT ON FUNCTION charge_user_credits(uuid, numeric, text, text, uuid) IS
    'Takes an amount from a user''s credits and books it as paid; returns the new balance. Too little: 23514 '
    '(users_credits_check), nothing changed. With a reference, the same call again charges nothing.';

CREATE FUNCTION add_user_credits(
    user_id     uuid,
    amount      numeric,
    description text DEFAULT NULL,
    reference   text DEFAULT NULL
) RETURNS numeric
LANGUAGE plpgsql
AS $$
DECLARE
    balance numeric;
    unit    text;
BEGIN
    IF amount IS NULL OR NOT amount > 0 OR amount IN ('NaN', 'infinity') THEN
        RAISE EXCEPTION 'add_user_credits: the amount is %, wanted more than 0', coalesce(amount::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT u.credits, u.currency INTO balance, unit
      FROM users u WHERE u.id = add_user_credits.user_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'add_user_credits: there is no user %', coalesce(user_id::text, 'null')
            USING ERRCODE = 'no_data_found';
    END IF;
    IF reference IS NOT NULL AND EXISTS (
        SELECT FROM billing_records b
         WHERE b.user_id = add_user_credits.user_id AND b.reference = add_user_credits.reference) THEN
        RETURN balance;
    END IF;
    UPDATE users u SET credits = u.credits + amount WHERE u.id = add_user_credits.user_id
    RETURNING u.credits INTO balance;
    INSERT INTO billing_records (user_id, type, status, amount, currency, description, reference, paid_at)
    VALUES (add_user_credits.user_id, 'top_up', 'paid', add_user_credits.amount, unit,
            add_user_credits.description, add_user_credits.reference, now());
    RETURN balance;
END
$$;
COMMENT ON FUNCTION add_user_credits(uuid, numeric, text, text) IS
    'Adds a top-up to a user''s credits and books it; returns the new balance. With a reference, the same call again '
    'adds nothing.';

-- All running machines in one statement; a period that is billed already is left alone.
CREATE FUNCTION bill_vm_usage(from_at timestamptz, until_at timestamptz) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    billed bigint;
BEGIN
    IF from_at IS NULL OR until_at IS NULL OR NOT until_at > from_at THEN
        RAISE EXCEPTION 'bill_vm_usage: from % to % is no period', coalesce(from_at::text, 'null'), coalesce(until_at::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO billing_records
           (user_id, project_id, vm_id, type, status, amount, currency, quantity, unit_price, description,
            period_start, period_end, due_at)
    SELECT v.user_id, v.project_id, v.id, 'usage', 'pending', round(h.hours * v.hourly_price, 4), u.currency,
           h.hours, v.hourly_price, 'VM ' || v.name, from_at, until_at, until_at + interval '14 days'
      FROM vms v
      JOIN users u ON u.id = v.user_id
     CROSS JOIN LATERAL (
           SELECT round(extract(epoch FROM until_at - greatest(from_at, v.started_at)) / 3600, 4) AS hours) h
     WHERE v.status = 'running' AND v.started_at < until_at
    ON CONFLICT (vm_id, period_start) WHERE type = 'usage' AND status <> 'void' DO NOTHING;
    GET DIAGNOSTICS billed = ROW_COUNT;
    RETURN billed;
END
$$;
COMMENT ON FUNCTION bill_vm_usage(timestamptz, timestamptz) IS
    'Books the usage of every machine that runs now, for one period; returns how many. Called again, it books nothing twice.';

CREATE FUNCTION record_vm_metrics(samples jsonb) RETURNS bigint
LANGUAGE plpgsql
AS $$
DECLARE
    recorded bigint;
BEGIN
    IF samples IS NULL OR jsonb_typeof(samples) <> 'array' THEN
        RAISE EXCEPTION 'record_vm_metrics: the samples are %, wanted a JSON array of objects',
            coalesce(jsonb_typeof(samples), 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO vm_metrics
           (created_at, vm_id, cpu_percent, memory_percent, disk_percent,
            disk_read_bytes, disk_write_bytes, network_rx_bytes, network_tx_bytes)
    SELECT coalesce(s.created_at, now()), s.vm_id, s.cpu_percent, s.memory_percent, s.disk_percent,
           s.disk_read_bytes, s.disk_write_bytes, s.network_rx_bytes, s.network_tx_bytes
      FROM jsonb_to_recordset(samples) AS s (
               created_at timestamptz, vm_id uuid, cpu_percent real, memory_percent real, disk_percent real,
               disk_read_bytes bigint, disk_write_bytes bigint, network_rx_bytes bigint, network_tx_bytes bigint);
    GET DIAGNOSTICS recorded = ROW_COUNT;
    RETURN recorded;
END
$$;
COMMENT ON FUNCTION record_vm_metrics(jsonb) IS
    'Stores many samples by one call: a JSON array of objects with the names of the columns.';

CREATE FUNCTION get_user_spending(
    user_id  uuid,
    from_at  timestamptz DEFAULT '-infinity',
    until_at timestamptz DEFAULT 'infinity'
) RETURNS TABLE (currency text, type text, status text, records bigint, amount numeric)
LANGUAGE sql STABLE
AS $$
    SELECT b.currency, b.type, b.status, count(*), sum(b.amount)
      FROM billing_records b
     WHERE b.user_id = get_user_spending.user_id AND b.created_at >= from_at AND b.created_at < until_at
     GROUP BY b.currency, b.type, b.status
     ORDER BY b.currency, b.type, b.status
$$;
COMMENT ON FUNCTION get_user_spending(uuid, timestamptz, timestamptz) IS
    'A user''s bookings from (inclusive) until (exclusive), summed by currency, type and status.';

-- As the definer: who may change a machine need not be able to write its history.
CREATE FUNCTION record_vm_state_transition() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
AS $$
BEGIN
    INSERT INTO vm_state_transitions (vm_id, from_status, to_status, reason, changed_by)
    VALUES (NEW.id, CASE WHEN TG_OP = 'UPDATE' THEN OLD.status END, NEW.status, NEW.error,
            coalesce(left(nullif(current_setting('steward.user_id', true), ''), 256), session_user));
    RETURN NULL;
END
$$;
CREATE TRIGGER vms_record_creation AFTER INSERT ON vms
    FOR EACH ROW EXECUTE FUNCTION record_vm_state_transition();
CREATE TRIGGER vms_record_transition AFTER UPDATE OF status ON vms
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION record_vm_state_transition();

DO $$
DECLARE
    routines constant regprocedure[] := ARRAY[
        'charge_user_credits(uuid, numeric, text, text, uuid)', 'add_user_credits(uuid, numeric, text, text)',
        'bill_vm_usage(timestamptz, timestamptz)', 'record_vm_metrics(jsonb)',
        'get_user_spending(uuid, timestamptz, timestamptz)', 'record_vm_state_transition()'];
    routine regprocedure;
    reader  text;
BEGIN
    FOREACH routine IN ARRAY routines LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', routine, current_schema());
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', routine);
    END LOOP;
    FOR reader IN SELECT quote_ident(rolname) FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON TABLE user_statistics FROM %s', reader);
        FOREACH routine IN ARRAY routines LOOP
            EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', routine, reader);
        END LOOP;
    END LOOP;
END
$$;
