-- Row audit: every change of a table's rows, with old and new values, in the transaction of the change.
--
-- needs:   003
-- locks:   none beyond the new objects
-- rewrite: none
-- undo:    004_row_audit.down.sql (refused while tables are still audited)

CREATE TABLE steward.audited_tables (
    relation   regclass    PRIMARY KEY,
    table_name text        NOT NULL CHECK (table_name <> ''),
    ignored    text[]      NOT NULL,
    redacted   text[]      NOT NULL,
    audited_by text        NOT NULL,
    audited_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE steward.audited_tables ENABLE ROW LEVEL SECURITY;
CREATE POLICY monitors_read ON steward.audited_tables FOR SELECT TO pg_monitor USING (true);
REVOKE ALL ON steward.audited_tables FROM PUBLIC;

COMMENT ON TABLE steward.audited_tables IS
    'The tables that steward.audit_table was called for: what ought to be audited, whatever became of the triggers. '
    'steward.audit_gaps() compares.';
COMMENT ON COLUMN steward.audited_tables.table_name IS 'As it was named then; the table is known by its OID.';

-- Records the changed rows of one statement.
--
-- Per statement, not per row: what must not fail the application needs an EXCEPTION block, and each is a
-- subtransaction. One per row would pass 64 in any bulk change, from where on every snapshot on the server
-- has to look subtransactions up on disk. With transition tables it is one per statement, and one INSERT.
--
-- An event that cannot be written as it is, is written without its values; if that fails too, it is
-- counted in steward.audit_losses. A WARNING tells both. A cancel is not swallowed.
--
-- `t.*` is the row; a bare `t` would be a column of that name, where there is one.
--
-- Arguments: columns to ignore; a mask of the columns to redact; the primary key; the columns without which
-- nothing is believed (both of these); whether a table above this one is what is audited.
CREATE FUNCTION steward.audit_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- Somebody's lock on the trail must not hold the application up for longer than this.
SET lock_timeout = '1s'
AS $$
DECLARE
    max_bytes constant integer := 65536;
    ignored   constant text[] := TG_ARGV[0];
    mask      jsonb  := TG_ARGV[1];
    keys      text[] := TG_ARGV[2];
    needed    text[] := TG_ARGV[3];
    beneath   constant boolean := TG_ARGV[4];
    key       text   := CASE WHEN cardinality(keys) = 1 THEN keys[1] END;
    resource  text   := TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME;
    act       constant text := lower(TG_OP);
    at        constant timestamptz := clock_timestamp();
    seed      constant text := steward.uuid_v7(at)::text;
    -- Ids that count up from a random one: in the order of the rows, and side by side in the indexes.
    prefix    constant text := left(seed, 24);
    base      constant bigint := ('x' || right(seed, 12))::bit(48)::bigint >> 1;
    context   record;
    noted     jsonb;
    sample    jsonb;
    recorded  bigint;
    affected  bigint;
    failure   text;
    code      text;
BEGIN
    BEGIN
        context := steward.audit_context();
        noted := context.details;
        IF beneath THEN
            noted := coalesce(noted, '{}') || jsonb_build_object('relation', resource);
            resource := coalesce(steward.audited_above(TG_RELID), resource);
        END IF;
        LOOP
            IF TG_OP IN ('INSERT', 'DELETE') THEN
                INSERT INTO steward.audit_logs
                       (id, created_at, user_id, actor, action, resource_type, resource_id, old_values, new_values,
                        ip_address, user_agent, request_id, source, details)
                SELECT (prefix || lpad(to_hex(base + r.place), 12, '0'))::uuid, at,
                       context.user_id, context.actor, act, resource,
                       left(CASE WHEN key IS NOT NULL THEN r.doc ->> key
                            ELSE (SELECT string_agg(r.doc ->> k, '/' ORDER BY o) FROM unnest(keys) WITH ORDINALITY u (k, o)) END, 512),
                       CASE WHEN TG_OP = 'DELETE' THEN v.bounded END,
                       CASE WHEN TG_OP = 'INSERT' THEN v.bounded END,
                       context.ip_address, context.user_agent, context.request_id, 'trigger', noted
                  FROM (SELECT row_number() OVER () AS place, to_jsonb(t.*) AS doc FROM changed_rows t) r
                 CROSS JOIN LATERAL (SELECT (r.doc || mask) - ignored AS whole OFFSET 0) w
                 -- The common case costs no call.
                 CROSS JOIN LATERAL (SELECT CASE WHEN pg_column_size(w.whole) <= max_bytes THEN w.whole
                                                 ELSE steward.audit_bounded(w.whole, max_bytes) END AS bounded) v
                 WHERE r.doc ?& needed;

            ELSIF TG_OP = 'UPDATE' THEN
                -- Both transition tables are filled side by side, so the n-th old row became the n-th new
                -- one, also where the primary key itself changes. They are paired by one sort, not by a join:
                -- the plan is kept for the session, and a nested loop chosen at one row would meet a million.
                -- Without a primary key whole rows are kept: the changed columns alone would not say which
                -- row it was.
                INSERT INTO steward.audit_logs
                       (id, created_at, user_id, actor, action, resource_type, resource_id, old_values, new_values,
                        ip_address, user_agent, request_id, source, details)
                SELECT (prefix || lpad(to_hex(base + r.place), 12, '0'))::uuid, at,
                       context.user_id, context.actor, act, resource,
                       left(CASE WHEN key IS NOT NULL THEN r.old_doc ->> key
                            ELSE (SELECT string_agg(r.old_doc ->> k, '/' ORDER BY o) FROM unnest(keys) WITH ORDINALITY u (k, o)) END, 512),
                       CASE WHEN pg_column_size(v.old_values) <= max_bytes THEN v.old_values
                            ELSE steward.audit_bounded(v.old_values, max_bytes) END,
                       CASE WHEN pg_column_size(v.new_values) <= max_bytes THEN v.new_values
                            ELSE steward.audit_bounded(v.new_values, max_bytes) END,
                       context.ip_address, context.user_agent, context.request_id, 'trigger', noted
                  FROM (SELECT b.side, b.place, b.doc AS new_doc, lag(b.doc) OVER (PARTITION BY b.place ORDER BY b.side) AS old_doc
                          FROM (SELECT 0 AS side, row_number() OVER () AS place, to_jsonb(t.*) AS doc FROM old_rows t
                                UNION ALL
                                SELECT 1, row_number() OVER (), to_jsonb(t.*) FROM changed_rows t) b) r
                 CROSS JOIN LATERAL (
                       SELECT jsonb_object_agg(e.key, coalesce(mask -> e.key, e.value)) AS old_values,
                              jsonb_object_agg(e.key, coalesce(mask -> e.key, r.new_doc -> e.key)) AS new_values
                         FROM jsonb_each(r.old_doc - ignored) e
                        WHERE e.value IS DISTINCT FROM r.new_doc -> e.key) c
                 CROSS JOIN LATERAL (
                       SELECT CASE WHEN keys = '{}' THEN (r.old_doc || mask) - ignored ELSE c.old_values END AS old_values,
                              CASE WHEN keys = '{}' THEN (r.new_doc || mask) - ignored ELSE c.new_values END AS new_values) v
                 WHERE r.side = 1 AND c.old_values IS NOT NULL AND r.new_doc ?& needed;

            ELSE
                INSERT INTO steward.audit_logs
                       (id, created_at, user_id, actor, action, resource_type,
                        ip_address, user_agent, request_id, source, details)
                VALUES (steward.uuid_v7(at), at, context.user_id, context.actor, act, resource,
                        context.ip_address, context.user_agent, context.request_id, 'trigger', noted);
                EXIT;
            END IF;

            GET DIAGNOSTICS recorded = ROW_COUNT;
            EXIT WHEN recorded > 0;
            -- No row changed; or the columns do not go by their names any more.
            SELECT to_jsonb(t.*) INTO sample FROM changed_rows t LIMIT 1;
            EXIT WHEN sample IS NULL OR sample ?& needed;
            keys := steward.primary_key(TG_RELID);
            key := CASE WHEN cardinality(keys) = 1 THEN keys[1] END;
            IF NOT sample ?& ARRAY(SELECT jsonb_object_keys(mask)) THEN
                -- A column to be hidden goes by another name now: hide all rather than that one not.
                SELECT coalesce(jsonb_object_agg(k, '[redacted]'), '{}') INTO mask
                  FROM jsonb_object_keys(sample) k WHERE NOT k = ANY (keys);
                noted := coalesce(noted, '{}')
                    || '{"redaction": "a column to redact is gone: all are redacted; call steward.audit_table again"}';
            END IF;
            needed := '{}';
        END LOOP;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, failure = MESSAGE_TEXT;
        BEGIN
            IF TG_OP <> 'TRUNCATE' THEN
                SELECT count(*) INTO affected FROM changed_rows;
            END IF;
            INSERT INTO steward.audit_logs (id, created_at, actor, action, resource_type, source, details)
            VALUES (steward.uuid_v7(at), at, coalesce(nullif(current_setting('role', true), 'none'), session_user),
                    act, resource, 'trigger',
                    jsonb_build_object('values_lost', left(failure, 1024), 'sqlstate', code, 'rows', affected));
            RAISE WARNING 'audit of % on % is kept without its values: %', act, resource, failure
                USING ERRCODE = code;
        EXCEPTION WHEN OTHERS THEN
            BEGIN
                PERFORM nextval('steward.audit_losses');
            EXCEPTION WHEN OTHERS THEN
                NULL;
            END;
            RAISE WARNING 'audit of % on % is lost: % (and then: %)', act, resource, failure, SQLERRM
                USING ERRCODE = code;
        END;
    END;
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION steward.audit_row() FROM PUBLIC;

-- The columns of a table's primary key, in the key's order.
CREATE FUNCTION steward.primary_key(target regclass) RETURNS text[]
LANGUAGE sql STABLE
RETURN ARRAY(
    SELECT a.attname::text
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
     WHERE i.indrelid = target AND i.indisprimary
     ORDER BY array_position(i.indkey::int2[], a.attnum));
REVOKE ALL ON FUNCTION steward.primary_key(regclass) FROM PUBLIC;

-- A table and all beneath it: partitions, and tables that inherit from it.
CREATE FUNCTION steward.with_descendants(target regclass) RETURNS SETOF regclass
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH RECURSIVE below (relation) AS (
        SELECT target::oid
        UNION
        SELECT i.inhrelid FROM below b JOIN pg_catalog.pg_inherits i ON i.inhparent = b.relation AND NOT i.inhdetachpending
    )
    SELECT b.relation::regclass FROM below b ORDER BY b.relation <> target::oid, b.relation;
END;
REVOKE ALL ON FUNCTION steward.with_descendants(regclass) FROM PUBLIC;

-- The audited table that a partition or an inheriting table belongs to, as schema.table.
CREATE FUNCTION steward.audited_above(target oid) RETURNS text
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH RECURSIVE above (relation, height) AS (
        SELECT target, 0
        UNION ALL
        SELECT i.inhparent, a.height + 1 FROM above a JOIN pg_catalog.pg_inherits i ON i.inhrelid = a.relation
    )
    SELECT n.nspname || '.' || c.relname
      FROM above a
      JOIN steward.audited_tables t ON t.relation::oid = a.relation
      JOIN pg_catalog.pg_class c ON c.oid = a.relation
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     ORDER BY a.height DESC
     LIMIT 1;
END;
REVOKE ALL ON FUNCTION steward.audited_above(oid) FROM PUBLIC;

CREATE FUNCTION steward.audit_table(
    target regclass,
    ignore text[] DEFAULT '{}',
    redact text[] DEFAULT '{}'
) RETURNS void
LANGUAGE plpgsql SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ignored  constant text[] := ARRAY(SELECT DISTINCT n FROM unnest(ignore) n WHERE n IS NOT NULL ORDER BY n);
    redacted constant text[] := ARRAY(SELECT DISTINCT n FROM unnest(redact) n WHERE n IS NOT NULL ORDER BY n);
    mask     constant jsonb  := coalesce((SELECT jsonb_object_agg(n, '[redacted]') FROM unnest(redacted) n), '{}');
    relation regclass;
    keys     text[];
    unknown  text;
    call     text;
BEGIN
    PERFORM steward.audit_admit(target);
    SELECT string_agg(quote_ident(n), ', ' ORDER BY n)
      INTO unknown
      FROM unnest(ignored || redacted) n
     WHERE NOT EXISTS (SELECT FROM pg_attribute a
                        WHERE a.attrelid = target AND a.attname = n AND a.attnum > 0 AND NOT a.attisdropped);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'audit_table: % has no column %', target, unknown USING ERRCODE = 'undefined_column';
    END IF;

    -- A statement is seen by the triggers of the table that it names, which may be a partition.
    FOR relation IN SELECT steward.with_descendants(target) LOOP
        IF (SELECT relkind FROM pg_class WHERE oid = relation) = 'f' THEN
            RAISE WARNING 'audit_table: % is a foreign table: what is written to it by its own name is not seen', relation;
            CONTINUE;
        END IF;
        PERFORM steward.audit_admit(relation);
        keys := steward.primary_key(relation);
        -- A table that inherits has no key of its parent's.
        IF keys = '{}' THEN
            keys := steward.primary_key(target);
        END IF;
        call := format('FOR EACH STATEMENT EXECUTE FUNCTION steward.audit_row(%L, %L, %L, %L, %L)',
            ignored, mask, keys, keys || redacted, relation <> target);
        EXECUTE format('CREATE OR REPLACE TRIGGER steward_audit_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS changed_rows %s', relation, call);
        EXECUTE format('CREATE OR REPLACE TRIGGER steward_audit_update AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS changed_rows %s', relation, call);
        EXECUTE format('CREATE OR REPLACE TRIGGER steward_audit_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS changed_rows %s', relation, call);
        EXECUTE format('CREATE OR REPLACE TRIGGER steward_audit_truncate AFTER TRUNCATE ON %s %s', relation, call);
        -- ALWAYS: `session_replication_role = replica` does not step around the trail. ONLY: each for itself.
        EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER steward_audit_insert, ENABLE ALWAYS TRIGGER steward_audit_update, '
            'ENABLE ALWAYS TRIGGER steward_audit_delete, ENABLE ALWAYS TRIGGER steward_audit_truncate', relation);
    END LOOP;
    PERFORM steward.audit_register(target, ignored, redacted);
END
$$;
REVOKE ALL ON FUNCTION steward.audit_table(regclass, text[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION steward.audit_table(regclass, text[], text[]) IS
    'Records every INSERT, UPDATE, DELETE and TRUNCATE of a table, and of its partitions and the tables that inherit '
    'from it, from now on; called again, it replaces what was said before, and takes in new partitions. "ignore": columns '
    'left out, whose change alone is no event. "redact": columns whose values are never kept. Who owns the table could '
    'run code as the owner of steward: audit tables of owners trusted as much.';

-- Refuses what cannot be audited.
CREATE FUNCTION steward.audit_admit(target regclass) RETURNS void
LANGUAGE plpgsql STABLE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    info record;
BEGIN
    SELECT c.relkind, c.relnamespace::regnamespace AS home, c.relowner, c.relpersistence,
           t.rolsuper AS owner_is_super, w.rolsuper AS writer_is_super, w.rolname AS writer
      INTO info
      FROM pg_class c
      JOIN pg_roles t ON t.oid = c.relowner
     CROSS JOIN pg_proc f
      JOIN pg_roles w ON w.oid = f.proowner
     WHERE c.oid = target AND f.oid = 'steward.audit_row()'::regprocedure;
    IF NOT FOUND OR info.relkind NOT IN ('r', 'p') OR info.relpersistence = 't' THEN
        RAISE EXCEPTION 'audit_table: % is no table that lasts', coalesce(target::text, 'null')
            USING ERRCODE = 'wrong_object_type', HINT = 'Audit the tables beneath a view, not the view.';
    END IF;
    IF info.home = 'steward'::regnamespace THEN
        RAISE EXCEPTION 'audit_table: % is pgsteward''s own', target
            USING ERRCODE = 'wrong_object_type', HINT = 'Auditing the trail by itself would never end.';
    END IF;
    -- Turning a row into JSON runs the casts of its column types, which the table's owner can choose.
    IF info.writer_is_super AND NOT info.owner_is_super THEN
        RAISE EXCEPTION 'audit_table: steward belongs to the superuser %, but % to %: its owner could run code as superuser',
            info.writer, target, info.relowner::regrole
            USING ERRCODE = 'insufficient_privilege', HINT = 'Give the schema steward and what is in it to a plain role.';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION steward.audit_admit(regclass) FROM PUBLIC;

CREATE FUNCTION steward.unaudit_table(target regclass) RETURNS void
LANGUAGE plpgsql SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    relation     regclass;
    trigger_name text;
BEGIN
    FOR relation IN SELECT r FROM steward.with_descendants(target) r JOIN pg_class c ON c.oid = r AND c.relkind IN ('r', 'p') LOOP
        FOREACH trigger_name IN ARRAY ARRAY['steward_audit_insert', 'steward_audit_update', 'steward_audit_delete', 'steward_audit_truncate']
        LOOP
            EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', trigger_name, relation);
        END LOOP;
    END LOOP;
    PERFORM steward.audit_unregister(target);
END
$$;
REVOKE ALL ON FUNCTION steward.unaudit_table(regclass) FROM PUBLIC;
COMMENT ON FUNCTION steward.unaudit_table(regclass) IS
    'Ends what steward.audit_table began, and records that; what was recorded stays. Of a table that was dropped, the '
    'number that steward.audit_gaps() shows does: steward.unaudit_table(''16402'').';

-- Records what was done to the trail itself.
CREATE FUNCTION steward.audit_act(act text, table_name text, before jsonb, now_ jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    at      constant timestamptz := clock_timestamp();
    context constant record := steward.audit_context();
BEGIN
    INSERT INTO steward.audit_logs (id, created_at, user_id, actor, action, resource_type, resource_id, old_values, new_values,
                                    ip_address, user_agent, request_id, source, details)
    VALUES (steward.uuid_v7(at), at, context.user_id, context.actor, act, 'table', table_name, before, now_,
            context.ip_address, context.user_agent, context.request_id, 'pgsteward', context.details);
END
$$;
REVOKE ALL ON FUNCTION steward.audit_act(text, text, jsonb, jsonb) FROM PUBLIC;

-- What audit_table and unaudit_table write down. They run as their caller, who owns the table; these as the
-- owner of steward, who owns the trail. Nobody is asked to be both.
CREATE FUNCTION steward.audit_register(target regclass, ignored text[], redacted text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name  text;
    known steward.audited_tables;
BEGIN
    PERFORM steward.audit_may(target);
    IF EXISTS (SELECT FROM steward.audit_gaps_of(target)) THEN
        RAISE EXCEPTION 'audit_register: % has not all triggers', target
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call steward.audit_table.';
    END IF;
    SELECT n.nspname || '.' || c.relname INTO name
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = target;
    SELECT * INTO known FROM steward.audited_tables t WHERE t.relation = target FOR UPDATE;
    IF FOUND AND (known.table_name, known.ignored, known.redacted) = (name, ignored, redacted) THEN
        RETURN;
    END IF;
    INSERT INTO steward.audited_tables (relation, table_name, ignored, redacted, audited_by)
    VALUES (target, name, ignored, redacted, session_user)
        ON CONFLICT (relation) DO UPDATE
       SET (table_name, ignored, redacted, audited_by, audited_at)
         = (excluded.table_name, excluded.ignored, excluded.redacted, excluded.audited_by, excluded.audited_at);
    PERFORM steward.audit_act('audit.table_audited', name,
        CASE WHEN known.relation IS NOT NULL THEN jsonb_build_object('ignore', known.ignored, 'redact', known.redacted) END,
        jsonb_build_object('ignore', ignored, 'redact', redacted));
END
$$;
REVOKE ALL ON FUNCTION steward.audit_register(regclass, text[], text[]) FROM PUBLIC;

CREATE FUNCTION steward.audit_unregister(target regclass) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known steward.audited_tables;
BEGIN
    PERFORM steward.audit_may(target);
    IF EXISTS (SELECT FROM pg_trigger t
                WHERE t.tgrelid IN (SELECT steward.with_descendants(target)) AND t.tgfoid = 'steward.audit_row()'::regprocedure) THEN
        RAISE EXCEPTION 'audit_unregister: % still has triggers', target
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call steward.unaudit_table.';
    END IF;
    DELETE FROM steward.audited_tables t WHERE t.relation = target RETURNING * INTO known;
    IF FOUND THEN
        PERFORM steward.audit_act('audit.table_unaudited', known.table_name,
            jsonb_build_object('ignore', known.ignored, 'redact', known.redacted), NULL);
    END IF;
END
$$;
REVOKE ALL ON FUNCTION steward.audit_unregister(regclass) FROM PUBLIC;

-- Whether the caller may say of a table that it is audited: who owns it, or owned steward. Of a table that is
-- gone, anybody who was given the functions.
CREATE FUNCTION steward.audit_may(target regclass) RETURNS void
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    caller constant name := coalesce(nullif(current_setting('role', true), 'none'), session_user);
BEGIN
    IF caller <> current_user AND EXISTS (SELECT FROM pg_class c WHERE c.oid = target AND NOT pg_has_role(caller, c.relowner, 'USAGE')) THEN
        RAISE EXCEPTION 'audit of %: % does not own it', target, caller USING ERRCODE = 'insufficient_privilege';
    END IF;
END
$$;
REVOKE ALL ON FUNCTION steward.audit_may(regclass) FROM PUBLIC;

-- What is missing of the triggers of one table and those beneath it.
CREATE FUNCTION steward.audit_gaps_of(target regclass) RETURNS TABLE (relation regclass, trigger_name text, problem text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT d.relation, w.name,
           CASE WHEN t.oid IS NULL THEN 'missing' WHEN t.tgenabled = 'D' THEN 'disabled' ELSE 'not always' END
      FROM steward.with_descendants(target) d (relation)
      JOIN pg_catalog.pg_class c ON c.oid = d.relation AND c.relkind IN ('r', 'p')
     CROSS JOIN unnest(ARRAY['steward_audit_insert', 'steward_audit_update', 'steward_audit_delete', 'steward_audit_truncate']) w (name)
      LEFT JOIN pg_catalog.pg_trigger t
             ON t.tgrelid = d.relation AND t.tgname = w.name AND t.tgfoid = 'steward.audit_row()'::regprocedure
     WHERE t.oid IS NULL OR t.tgenabled <> 'A';
END;
REVOKE ALL ON FUNCTION steward.audit_gaps_of(regclass) FROM PUBLIC;

CREATE FUNCTION steward.audit_gaps() RETURNS TABLE (table_name text, relation text, trigger_name text, problem text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT t.table_name, t.relation::text, NULL, 'the table is gone'
      FROM steward.audited_tables t
     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = t.relation)
    UNION ALL
    SELECT t.table_name, n.nspname || '.' || c.relname, g.trigger_name, g.problem
      FROM steward.audited_tables t
     CROSS JOIN LATERAL steward.audit_gaps_of(t.relation) g
      JOIN pg_catalog.pg_class c ON c.oid = g.relation
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;
END;
REVOKE ALL ON FUNCTION steward.audit_gaps() FROM PUBLIC;
COMMENT ON FUNCTION steward.audit_gaps() IS
    'Triggers of audited tables that were dropped or disabled, or that a new partition has not: each mended by calling '
    'steward.audit_table again. A table that is gone, by steward.unaudit_table with its number.';

-- What it takes to call audit_table is several functions: the list of them stands here.
CREATE FUNCTION steward.let_audit(who name) RETURNS void
LANGUAGE plpgsql SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA steward TO %I', who);
    EXECUTE format('GRANT EXECUTE ON FUNCTION steward.audit_table, steward.unaudit_table, steward.audit_row, steward.audit_admit, '
        'steward.audit_register, steward.audit_unregister, steward.primary_key, steward.with_descendants TO %I', who);
END
$$;
REVOKE ALL ON FUNCTION steward.let_audit(name) FROM PUBLIC;
COMMENT ON FUNCTION steward.let_audit(name) IS
    'Lets a role have its own tables audited, and end that. It gets no right on the trail.';
