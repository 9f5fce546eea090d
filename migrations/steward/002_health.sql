-- Health and connection history, in daily partitions, and the function that makes partitions ahead.
--
-- locks:   none beyond the new objects
-- rewrite: none
-- undo:    002_health.down.sql (the history is lost)

CREATE FUNCTION steward.ensure_partitions(
    parent regclass,
    every  text,
    ahead  integer,
    behind integer DEFAULT 0,
    OUT created     integer,
    OUT ahead_ready integer,
    OUT problems    text[]
)
LANGUAGE plpgsql
SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
-- Bounds are UTC and are read back as text: neither may depend on the session.
SET timezone = 'UTC'
SET datestyle = 'ISO, YMD'
AS $$
DECLARE
    -- ATTACH scans the default partition under ACCESS EXCLUSIVE; readers of the whole table wait that
    -- long. Up to here it is a matter of some tens of milliseconds.
    scan_limit constant bigint := 64 * 1024 * 1024;
    step       interval;
    current_lo timestamp;
    info       record;
    part       record;
    entry      record;
    lo         timestamptz;
    hi         timestamptz;
    child      text;
    child_name text;
    default_id regclass;
    found_rows boolean;
    locked     boolean := false;
    contiguous boolean := true;
BEGIN
    created := 0;
    ahead_ready := 0;
    problems := '{}';

    IF every IS NULL OR every NOT IN ('day', 'month') THEN
        RAISE EXCEPTION 'ensure_partitions: "every" is %, wanted day or month', coalesce(quote_literal(every), 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF ahead IS NULL OR behind IS NULL OR ahead NOT BETWEEN 0 AND 400 OR behind NOT BETWEEN 0 AND 400 THEN
        RAISE EXCEPTION 'ensure_partitions: ahead is % and behind is %, wanted 0 to 400 each',
            coalesce(ahead::text, 'null'), coalesce(behind::text, 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    SELECT c.relname, n.nspname, c.relowner, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relacl,
           p.partstrat, p.partnatts, p.partdefid, a.atttypid, a.attname, t.spcname
      INTO info
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
      LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
      LEFT JOIN pg_tablespace t ON t.oid = c.reltablespace
     WHERE c.oid = parent;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'ensure_partitions: there is no table %', coalesce(parent::text, 'null')
            USING ERRCODE = 'undefined_table';
    END IF;
    IF info.partstrat IS DISTINCT FROM 'r' OR info.partnatts <> 1
       OR info.atttypid IS DISTINCT FROM 'timestamptz'::regtype::oid THEN
        RAISE EXCEPTION 'ensure_partitions: % is not partitioned by RANGE over one timestamptz column', parent
            USING ERRCODE = 'wrong_object_type';
    END IF;
    IF NOT pg_has_role(current_user, info.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'ensure_partitions: % belongs to %, which % may not act as',
            parent, info.relowner::regrole, current_user
            USING ERRCODE = 'insufficient_privilege',
                  HINT = format('GRANT %s TO %s;', info.relowner::regrole, quote_ident(current_user));
    END IF;

    step := CASE every WHEN 'day' THEN interval '1 day' ELSE interval '1 month' END;
    current_lo := date_trunc(every, statement_timestamp() AT TIME ZONE 'UTC');
    default_id := nullif(info.partdefid, 0)::regclass;

    FOR i IN -behind .. ahead LOOP
        lo := (current_lo + i * step) AT TIME ZONE 'UTC';
        hi := (current_lo + (i + 1) * step) AT TIME ZONE 'UTC';

        -- Judged by bounds, not by name: a partition made by other hands counts if it covers the period.
        -- What seems missing is looked up again under the lock: another maker may just have made it. The
        -- lock is the one that ATTACH takes on the parent anyway.
        LOOP
            SELECT b.id, b.from_at, b.to_at
              INTO part
              FROM (SELECT h.inhrelid::regclass AS id,
                           coalesce((regexp_match(x.expr, $re$FROM \('([^']+)'\)$re$))[1]::timestamptz, '-infinity') AS from_at,
                           coalesce((regexp_match(x.expr, $re$TO \('([^']+)'\)$re$))[1]::timestamptz, 'infinity') AS to_at
                      FROM pg_inherits h
                      JOIN pg_class c ON c.oid = h.inhrelid
                     CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS x (expr)
                     WHERE h.inhparent = parent
                       AND NOT h.inhdetachpending
                       AND h.inhrelid IS DISTINCT FROM default_id::oid) b
             WHERE b.from_at < hi AND b.to_at > lo
             ORDER BY b.from_at
             LIMIT 1;
            EXIT WHEN FOUND OR locked;
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', parent);
            locked := true;
        END LOOP;
        IF part.id IS NOT NULL THEN
            IF part.from_at > lo OR part.to_at < hi THEN
                problems := problems || format('%s covers only a part of %s to %s: make the rest by hand', part.id, lo, hi);
                contiguous := contiguous AND i < 0;
            ELSIF i > 0 AND contiguous THEN
                ahead_ready := i;
            END IF;
            CONTINUE;
        END IF;

        child_name := info.relname || '_p' || to_char(lo, CASE every WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END);
        IF octet_length(child_name) > 63 THEN
            RAISE EXCEPTION 'ensure_partitions: the name % would be cut at 63 bytes', child_name
                USING ERRCODE = 'name_too_long', HINT = 'Rename the parent to at most 53 bytes.';
        END IF;
        child := format('%I.%I', info.nspname, child_name);

        BEGIN
            IF default_id IS NOT NULL THEN
                EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %I >= $1 AND %2$I < $2)', default_id, info.attname)
                   INTO found_rows USING lo, hi;
                IF found_rows THEN
                    problems := problems || format(
                        '%s holds rows of %s to %s: move them out, then the partition can be made', default_id, lo, hi);
                    contiguous := contiguous AND i < 0;
                    CONTINUE;
                ELSIF pg_relation_size(default_id) > scan_limit THEN
                    problems := problems || format(
                        '%s has %s: making %s would scan it under an exclusive lock; empty it first',
                        default_id, pg_size_pretty(pg_relation_size(default_id)), child);
                    contiguous := contiguous AND i < 0;
                    CONTINUE;
                END IF;
            END IF;

            -- LIKE and ATTACH instead of PARTITION OF: SHARE UPDATE EXCLUSIVE on the parent instead of
            -- ACCESS EXCLUSIVE, so readers and writers of the table go on. An identity stays the parent's.
            EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING COMMENTS EXCLUDING IDENTITY)%s',
                child, parent, coalesce(' TABLESPACE ' || quote_ident(info.spcname), ''));
            IF info.relowner <> current_user::regrole::oid THEN
                EXECUTE format('ALTER TABLE %s OWNER TO %s', child, info.relowner::regrole);
            END IF;
            -- A partition that is addressed by its own name is judged by its own row security and grants:
            -- take away what default privileges gave (Supabase gives `anon` everything in public), then
            -- give what the parent gives.
            IF info.relrowsecurity THEN
                EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', child);
            END IF;
            IF info.relforcerowsecurity THEN
                EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', child);
            END IF;
            FOR entry IN
                SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
                  FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
                 WHERE c.oid = child::regclass AND a.grantee <> c.relowner
            LOOP
                EXECUTE format('REVOKE ALL ON TABLE %s FROM %s', child, entry.grantee);
            END LOOP;
            FOR entry IN
                SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee,
                       a.privilege_type, a.is_grantable
                  FROM aclexplode(info.relacl) a
                 WHERE a.grantee <> info.relowner
            LOOP
                EXECUTE format('GRANT %s ON TABLE %s TO %s%s', entry.privilege_type, child, entry.grantee,
                    CASE WHEN entry.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
            END LOOP;
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', parent, child, lo, hi);

            created := created + 1;
            IF i > 0 AND contiguous THEN
                ahead_ready := i;
            END IF;
        EXCEPTION
            -- A row reached the default partition between the look and the lock.
            WHEN check_violation THEN
                problems := problems || format('%s could not be attached: %s', child, SQLERRM);
                contiguous := contiguous AND i < 0;
            -- A table of that name that is no partition: detached and kept, perhaps.
            WHEN duplicate_table THEN
                problems := problems || format('%s exists but is no partition of %s: attach, rename or drop it',
                    child, parent);
                contiguous := contiguous AND i < 0;
        END;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION steward.ensure_partitions(regclass, text, integer, integer) FROM PUBLIC;
COMMENT ON FUNCTION steward.ensure_partitions(regclass, text, integer, integer) IS
    'Makes the partitions of the current period, of "ahead" further and "behind" past ones where they are missing, '
    'in UTC. Moves no rows: what stands in the way is told in "problems". "ahead_ready" counts the periods after '
    'the current one that can be written to, without a gap. The caller sets lock_timeout.';

CREATE TABLE steward.system_health (
    id          uuid             NOT NULL DEFAULT gen_random_uuid(),
    created_at  timestamptz      NOT NULL DEFAULT now(),
    instance    text             NOT NULL,
    component   text             NOT NULL,
    status      text             NOT NULL CHECK (status IN ('healthy', 'degraded', 'unhealthy', 'unknown')),
    reason      text             NOT NULL,
    message     text,
    latency_ms  double precision CHECK (latency_ms >= 0),
    details     jsonb,
    recorded_at timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

-- The history of one component, newest first; and time alone, for ranges over all of them.
CREATE INDEX system_health_component_created_at_idx ON steward.system_health (component, created_at DESC);
CREATE INDEX system_health_created_at_idx ON steward.system_health (created_at);

COMMENT ON TABLE steward.system_health IS
    'One row per probe and component. Daily partitions (UTC), no default partition: only the daemon writes here.';
COMMENT ON COLUMN steward.system_health.created_at IS
    'When it was measured: rows of an outage are written later, once, under their own time and id.';
COMMENT ON COLUMN steward.system_health.recorded_at IS
    'When it was written: well after created_at, the database was away and the row waited in the spool.';
COMMENT ON COLUMN steward.system_health.reason IS 'A stable code: ok, refused, connections_high, not_permitted …';
COMMENT ON COLUMN steward.system_health.latency_ms IS 'How long the server took to answer; null when it did not.';

CREATE TABLE steward.connection_metrics (
    id                      uuid             NOT NULL DEFAULT gen_random_uuid(),
    created_at              timestamptz      NOT NULL DEFAULT now(),
    instance                text             NOT NULL,
    interval_seconds        double precision NOT NULL CHECK (interval_seconds >= 0),
    samples                 integer          NOT NULL CHECK (samples >= 1),
    max_connections         integer          NOT NULL,
    reserved_connections    integer          NOT NULL,
    total_min               integer          NOT NULL,
    total_avg               double precision NOT NULL,
    total_max               integer          NOT NULL,
    active_min              integer,
    active_avg              double precision,
    active_max              integer,
    idle_min                integer,
    idle_avg                double precision,
    idle_max                integer,
    idle_in_transaction_min integer,
    idle_in_transaction_avg double precision,
    idle_in_transaction_max integer,
    waiting_min             integer,
    waiting_avg             double precision,
    waiting_max             integer,
    saturation_max          double precision,
    oldest_transaction_seconds_max         double precision,
    oldest_idle_in_transaction_seconds_max double precision,
    by_database             jsonb,
    pool                    jsonb,
    recorded_at             timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

CREATE INDEX connection_metrics_created_at_idx ON steward.connection_metrics (created_at);

COMMENT ON TABLE steward.connection_metrics IS
    'Connections by state over one interval, from several samples. Daily partitions (UTC), no default partition: '
    'only the daemon writes here.';
COMMENT ON COLUMN steward.connection_metrics.created_at IS 'The end of the interval.';
COMMENT ON COLUMN steward.connection_metrics.recorded_at IS 'When it was written; see system_health.';
COMMENT ON COLUMN steward.connection_metrics.active_min IS
    'States are null where the role may not see other sessions (it lacks pg_monitor).';
COMMENT ON COLUMN steward.connection_metrics.reserved_connections IS
    'Slots kept for superusers and reserved roles: not to be had by an application.';
COMMENT ON COLUMN steward.connection_metrics.waiting_max IS 'Sessions that wait for a heavyweight lock.';
COMMENT ON COLUMN steward.connection_metrics.saturation_max IS
    'The highest share of the slots that an ordinary role can have (max_connections - reserved_connections) in use.';
COMMENT ON COLUMN steward.connection_metrics.pool IS 'pgsteward''s own connections.';

ALTER TABLE steward.system_health      ENABLE ROW LEVEL SECURITY;
ALTER TABLE steward.connection_metrics ENABLE ROW LEVEL SECURITY;
CREATE POLICY monitors_read ON steward.system_health      FOR SELECT TO pg_monitor USING (true);
CREATE POLICY monitors_read ON steward.connection_metrics FOR SELECT TO pg_monitor USING (true);
REVOKE ALL ON steward.system_health, steward.connection_metrics FROM PUBLIC;

-- Yesterday too: what was measured before midnight may be written after it.
SELECT steward.ensure_partitions('steward.system_health', 'day', 14, 1);
SELECT steward.ensure_partitions('steward.connection_metrics', 'day', 14, 1);
