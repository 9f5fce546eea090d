-- The audit trail: events that applications tell, row changes that triggers see, and the seals over both.
--
-- locks:   none beyond the new objects
-- rewrite: none
-- undo:    003_audit.down.sql (the trail is lost; refused while tables are still audited)

-- Version 7 (RFC 9562): ids of one moment stand side by side in the index. The body is parsed now, so no
-- search path can bend it; and it is plain SQL, so the planner inlines it.
CREATE FUNCTION steward.uuid_v7(at timestamptz DEFAULT clock_timestamp()) RETURNS uuid
LANGUAGE sql VOLATILE STRICT PARALLEL SAFE
RETURN overlay(
    overlay(gen_random_uuid()::text
        PLACING overlay(lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0') PLACING '-' FROM 9 FOR 0)
        FROM 1 FOR 13)
    PLACING '7' FROM 15 FOR 1)::uuid;
REVOKE ALL ON FUNCTION steward.uuid_v7(timestamptz) FROM PUBLIC;

CREATE TABLE steward.audit_logs (
    id                uuid        NOT NULL DEFAULT steward.uuid_v7(),
    -- The time of the act. now() would be the start of the transaction: one time for all that a long
    -- transaction did, and possibly long before it became visible.
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    user_id           text,
    actor             text        NOT NULL DEFAULT session_user,
    session_user_name text        NOT NULL DEFAULT session_user,
    action            text        NOT NULL CHECK (action <> ''),
    resource_type     text,
    resource_id       text,
    old_values        jsonb,
    new_values        jsonb,
    ip_address        inet,
    user_agent        text,
    request_id        text,
    source            text        NOT NULL CHECK (source IN ('pgsteward', 'application', 'trigger')),
    xid               xid8        NOT NULL DEFAULT pg_current_xact_id(),
    details           jsonb,
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE TABLE steward.audit_logs_default PARTITION OF steward.audit_logs DEFAULT;

-- What is asked: what did this user do, what happened to this thing, who did this kind of act, what
-- happened then. Events without a user are many (jobs, triggers) and never asked for by user.
CREATE INDEX audit_logs_user_id_created_at_idx
    ON steward.audit_logs (user_id, created_at DESC) WHERE user_id IS NOT NULL;
CREATE INDEX audit_logs_resource_created_at_idx
    ON steward.audit_logs (resource_type, resource_id, created_at DESC) WHERE resource_type IS NOT NULL;
CREATE INDEX audit_logs_action_created_at_idx ON steward.audit_logs (action, created_at DESC);
CREATE INDEX audit_logs_created_at_idx ON steward.audit_logs (created_at);

COMMENT ON TABLE steward.audit_logs IS
    'What was done, by whom. Monthly partitions (UTC) and a default one, so that an application''s statement never '
    'fails for want of a partition. Written through steward.log_audit_event, the row triggers and the daemon alone. '
    'Row security is on: to let a role read, GRANT USAGE ON SCHEMA steward and SELECT, and create a policy for it.';
COMMENT ON COLUMN steward.audit_logs.user_id IS
    'The application''s user as the application names it ("user-123"); as trustworthy as the role that said so, '
    'which stands in actor and session_user_name.';
COMMENT ON COLUMN steward.audit_logs.actor IS
    'Who acted on the database: the role in force (after SET ROLE), or pgsteward''s job or caller.';
COMMENT ON COLUMN steward.audit_logs.session_user_name IS
    'The role that logged in. Not called session_user: unquoted, that word is a function, and a query for the '
    'column would silently answer with the reader''s own name.';
COMMENT ON COLUMN steward.audit_logs.resource_type IS
    'Of a row trigger: schema.table; else as the application says.';
COMMENT ON COLUMN steward.audit_logs.resource_id IS
    'Of a row trigger: the primary key, several columns joined by "/"; null where there is none.';
COMMENT ON COLUMN steward.audit_logs.old_values IS 'Of an update: only the columns that changed.';
COMMENT ON COLUMN steward.audit_logs.xid IS
    'The writing transaction: below a snapshot''s xmin no row can be added any more, which is what a seal relies on.';
COMMENT ON COLUMN steward.audit_logs.details IS
    'Anything else; also what was malformed (ip_address) or cut (a value too large).';

-- How often an event could not be recorded. A sequence, because it keeps counting when the transaction
-- rolls back; begun so that its last_value is the count.
CREATE SEQUENCE steward.audit_losses MINVALUE 0;
SELECT setval('steward.audit_losses', 0);
COMMENT ON SEQUENCE steward.audit_losses IS
    'last_value: how many statements'' audit events could not be written (each also raised a WARNING).';

CREATE TABLE steward.audit_seals (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition_name text        NOT NULL CHECK (partition_name <> ''),
    epoch          text        NOT NULL CHECK (epoch <> ''),
    range_start    timestamptz NOT NULL,
    range_end      timestamptz NOT NULL,
    xid_from       xid8        NOT NULL,
    xid_below      xid8        NOT NULL,
    row_count      bigint      NOT NULL CHECK (row_count >= 0),
    root           bytea       NOT NULL CHECK (octet_length(root) = 32),
    previous       bytea       CHECK (octet_length(previous) = 32),
    head           bytea       NOT NULL CHECK (octet_length(head) = 32),
    algorithm      integer     NOT NULL CHECK (algorithm >= 1),
    sealed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    sealed_by      text        NOT NULL DEFAULT session_user,
    CONSTRAINT audit_seals_time_check CHECK (range_start <= range_end),
    CONSTRAINT audit_seals_xid_check CHECK (xid_from < xid_below),
    CONSTRAINT audit_seals_range_key UNIQUE (partition_name, epoch, xid_from),
    CONSTRAINT audit_seals_head_key UNIQUE (head),
    -- The chain has no forks …
    CONSTRAINT audit_seals_previous_key UNIQUE (previous)
);
-- … and one beginning.
CREATE UNIQUE INDEX audit_seals_genesis_key ON steward.audit_seals ((previous IS NULL)) WHERE previous IS NULL;
CREATE INDEX audit_seals_range_start_idx ON steward.audit_seals (range_start);

COMMENT ON TABLE steward.audit_seals IS
    'One Merkle root per closed range of audit_logs, chained; kept when the rows are purged. It proves nothing '
    'against a superuser unless the head is also kept outside this database.';
COMMENT ON COLUMN steward.audit_seals.partition_name IS 'The partition as it was named: it may be gone.';
COMMENT ON COLUMN steward.audit_seals.epoch IS
    'System identifier and timeline: transaction ids mean nothing beyond them.';
COMMENT ON COLUMN steward.audit_seals.range_start IS 'created_at of the earliest row sealed; range_end: of the latest.';
COMMENT ON COLUMN steward.audit_seals.xid_below IS
    'Rows with xid_from <= xid < xid_below are sealed: xid_below is at most the xmin of the sealing snapshot.';
COMMENT ON COLUMN steward.audit_seals.previous IS 'The head of the seal before; null in the first.';
COMMENT ON COLUMN steward.audit_seals.algorithm IS 'Version of the leaf''s bytes and of the hashing.';

ALTER TABLE steward.audit_logs         ENABLE ROW LEVEL SECURITY;
ALTER TABLE steward.audit_logs_default ENABLE ROW LEVEL SECURITY;
ALTER TABLE steward.audit_seals        ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON steward.audit_logs, steward.audit_logs_default, steward.audit_seals FROM PUBLIC;
REVOKE ALL ON SEQUENCE steward.audit_losses FROM PUBLIC;

SELECT steward.ensure_partitions('steward.audit_logs', 'month', 3);

-- Values beyond `max_bytes` (as stored) keep their keys; each long one keeps its beginning and its length.
CREATE FUNCTION steward.audit_bounded(doc jsonb, max_bytes integer) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    bounded jsonb;
BEGIN
    IF doc IS NULL OR pg_column_size(doc) <= max_bytes THEN
        RETURN doc;
    END IF;
    IF jsonb_typeof(doc) = 'object' THEN
        SELECT jsonb_object_agg(left(e.key, 128), CASE
                   WHEN length(e.value::text) <= 512 THEN e.value
                   ELSE to_jsonb(format('%s … [cut: %s characters]', left(e.value #>> '{}', 256), length(e.value #>> '{}')))
               END)
          INTO bounded
          FROM jsonb_each(doc) e;
        IF pg_column_size(bounded) <= max_bytes THEN
            RETURN bounded;
        END IF;
    END IF;
    RETURN jsonb_build_object('[cut]', format('%s of %s bytes', jsonb_typeof(doc), octet_length(doc::text)));
END
$$;
REVOKE ALL ON FUNCTION steward.audit_bounded(jsonb, integer) FROM PUBLIC;

-- Who acts, as the application told by settings of its transaction (`SET LOCAL steward.user_id = …`), or
-- PostgREST by its claims and headers. Whatever is malformed is kept as text in `details`, never an error.
CREATE FUNCTION steward.audit_context(
    OUT user_id    text,
    OUT actor      text,
    OUT ip_address inet,
    OUT user_agent text,
    OUT request_id text,
    OUT details    jsonb
)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ip      text := nullif(current_setting('steward.ip', true), '');
    claims  text := nullif(current_setting('request.jwt.claims', true), '');
    headers text := nullif(current_setting('request.headers', true), '');
    header  jsonb;
BEGIN
    -- current_user would be the owner of the calling SECURITY DEFINER function; the setting is the caller's.
    actor := coalesce(nullif(current_setting('role', true), 'none'), session_user);
    user_id := left(nullif(current_setting('steward.user_id', true), ''), 256);
    user_agent := left(nullif(current_setting('steward.user_agent', true), ''), 512);
    request_id := left(nullif(current_setting('steward.request_id', true), ''), 256);

    IF ip IS NOT NULL THEN
        BEGIN
            ip_address := ip::inet;
        EXCEPTION WHEN OTHERS THEN
            details := jsonb_build_object('ip_address', left(ip, 128));
        END;
    END IF;
    IF user_id IS NULL AND claims IS NOT NULL THEN
        BEGIN
            user_id := left(nullif(claims::jsonb ->> 'sub', ''), 256);
        EXCEPTION WHEN OTHERS THEN
            details := coalesce(details, '{}') || jsonb_build_object('jwt_claims', 'malformed');
        END;
    END IF;
    IF headers IS NOT NULL THEN
        BEGIN
            header := headers::jsonb;
            user_agent := coalesce(user_agent, left(nullif(header ->> 'user-agent', ''), 512));
            request_id := coalesce(request_id, left(nullif(header ->> 'x-request-id', ''), 256));
            -- A client can write this header itself: told as what it is, not as the address.
            IF ip IS NULL AND header ? 'x-forwarded-for' THEN
                details := coalesce(details, '{}')
                    || jsonb_build_object('forwarded_for', left(header ->> 'x-forwarded-for', 256));
            END IF;
        EXCEPTION WHEN OTHERS THEN
            details := coalesce(details, '{}') || jsonb_build_object('headers', 'malformed');
        END;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION steward.audit_context() FROM PUBLIC;

CREATE FUNCTION steward.log_audit_event(
    action        text,
    user_id       text  DEFAULT NULL,
    resource_type text  DEFAULT NULL,
    resource_id   text  DEFAULT NULL,
    old_values    jsonb DEFAULT NULL,
    new_values    jsonb DEFAULT NULL,
    ip_address    text  DEFAULT NULL,
    user_agent    text  DEFAULT NULL,
    request_id    text  DEFAULT NULL,
    details       jsonb DEFAULT NULL
) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    max_bytes constant integer := 65536;
    context   record;
    ip        text := nullif(btrim(ip_address), '');
    address   inet;
    noted     jsonb;
    event_id  uuid := steward.uuid_v7();
BEGIN
    IF coalesce(btrim(action), '') = '' THEN
        RAISE EXCEPTION 'log_audit_event: the action is empty'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name what was done, for example ''user.login''.';
    END IF;
    context := steward.audit_context();
    noted := context.details;
    address := context.ip_address;
    IF ip IS NOT NULL THEN
        BEGIN
            address := ip::inet;
        EXCEPTION WHEN OTHERS THEN
            address := NULL;
            noted := coalesce(noted, '{}') || jsonb_build_object('ip_address', left(ip, 128));
        END;
    END IF;
    -- Details that are no object (a list, a text) keep their place under a key of their own.
    IF noted IS NOT NULL THEN
        details := CASE WHEN details IS NULL THEN noted
                        WHEN jsonb_typeof(details) = 'object' THEN noted || details
                        ELSE noted || jsonb_build_object('details', details) END;
    END IF;

    INSERT INTO steward.audit_logs
           (id, user_id, actor, action, resource_type, resource_id, old_values, new_values,
            ip_address, user_agent, request_id, source, details)
    VALUES (event_id, left(coalesce(nullif(user_id, ''), context.user_id), 256), context.actor,
            left(btrim(action), 128), left(resource_type, 128), left(resource_id, 512),
            steward.audit_bounded(old_values, max_bytes), steward.audit_bounded(new_values, max_bytes),
            address, left(coalesce(nullif(user_agent, ''), context.user_agent), 512),
            left(coalesce(nullif(request_id, ''), context.request_id), 256), 'application',
            steward.audit_bounded(details, max_bytes));
    RETURN event_id;
END
$$;
REVOKE ALL ON FUNCTION steward.log_audit_event(text, text, text, text, jsonb, jsonb, text, text, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION steward.log_audit_event(text, text, text, text, jsonb, jsonb, text, text, text, jsonb) IS
    'Records one event in the caller''s transaction and returns its id. What is not given is taken from the settings '
    'steward.user_id, steward.ip, steward.user_agent, steward.request_id or PostgREST''s. A malformed address is kept '
    'as text in details; texts and values are cut to bounds. Needs: GRANT USAGE ON SCHEMA steward and EXECUTE.';

-- Records the changed rows of one statement.
--
-- Per statement, not per row: what must not fail the application needs an EXCEPTION block, and each is a
-- subtransaction. One per row would pass 64 in any bulk change, from where on every snapshot on the server
-- has to look subtransactions up on disk. With transition tables it is one per statement, and one INSERT.
--
-- An event that cannot be written as it is, is written without its values; if that fails too, it is
-- counted in steward.audit_losses. A WARNING tells both. A cancel is not swallowed.
CREATE FUNCTION steward.audit_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- Somebody's lock on the trail must not hold the application up for longer than this.
SET lock_timeout = '1s'
AS $$
DECLARE
    max_bytes constant integer := 65536;
    hidden    constant jsonb := '"[redacted]"';
    ignored   text[] := TG_ARGV[0];
    redacted  text[] := TG_ARGV[1];
    keys      text[] := TG_ARGV[2];
    resource  constant text := TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME;
    act       constant text := lower(TG_OP);
    at        constant timestamptz := clock_timestamp();
    context   record;
    sample    jsonb;
    mask      jsonb;
    noted     jsonb;
    failure   text;
    code      text;
BEGIN
    BEGIN
        -- One row shows whether there is anything to record, and whether the columns go by their names
        -- still (for less than a look into the catalog would cost).
        IF TG_OP IN ('INSERT', 'UPDATE') THEN
            SELECT to_jsonb(t) INTO sample FROM new_rows t LIMIT 1;
        ELSIF TG_OP = 'DELETE' THEN
            SELECT to_jsonb(t) INTO sample FROM old_rows t LIMIT 1;
        END IF;
        IF sample IS NULL AND TG_OP <> 'TRUNCATE' THEN
            RETURN NULL;
        END IF;

        context := steward.audit_context();
        noted := context.details;
        IF NOT sample ?& (keys || redacted) THEN
            SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum))
              INTO keys
              FROM pg_index i
              JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
             WHERE i.indrelid = TG_RELID AND i.indisprimary;
            keys := coalesce(keys, '{}');
            IF NOT sample ?& redacted THEN
                -- A column to be hidden goes by another name now: hide all rather than that one not.
                SELECT array_agg(k) INTO redacted FROM jsonb_object_keys(sample) k WHERE NOT k = ANY (keys);
                noted := coalesce(noted, '{}')
                    || '{"redaction": "a column to redact is gone: all are redacted; call steward.audit_table again"}';
            END IF;
        END IF;
        SELECT coalesce(jsonb_object_agg(k, hidden), '{}') INTO mask FROM unnest(redacted) k;

        IF TG_OP = 'INSERT' THEN
            INSERT INTO steward.audit_logs
                   (id, created_at, user_id, actor, action, resource_type, resource_id, new_values,
                    ip_address, user_agent, request_id, source, details)
            SELECT steward.uuid_v7(at), at, context.user_id, context.actor, act, resource,
                   left(CASE cardinality(keys) WHEN 1 THEN r.doc ->> keys[1]
                        ELSE (SELECT string_agg(r.doc ->> k, '/' ORDER BY o) FROM unnest(keys) WITH ORDINALITY u (k, o)) END, 512),
                   steward.audit_bounded((r.doc || mask) - ignored, max_bytes),
                   context.ip_address, context.user_agent, context.request_id, 'trigger', noted
              FROM (SELECT to_jsonb(t) AS doc FROM new_rows t) r;

        ELSIF TG_OP = 'DELETE' THEN
            INSERT INTO steward.audit_logs
                   (id, created_at, user_id, actor, action, resource_type, resource_id, old_values,
                    ip_address, user_agent, request_id, source, details)
            SELECT steward.uuid_v7(at), at, context.user_id, context.actor, act, resource,
                   left(CASE cardinality(keys) WHEN 1 THEN r.doc ->> keys[1]
                        ELSE (SELECT string_agg(r.doc ->> k, '/' ORDER BY o) FROM unnest(keys) WITH ORDINALITY u (k, o)) END, 512),
                   steward.audit_bounded((r.doc || mask) - ignored, max_bytes),
                   context.ip_address, context.user_agent, context.request_id, 'trigger', noted
              FROM (SELECT to_jsonb(t) AS doc FROM old_rows t) r;

        ELSIF TG_OP = 'UPDATE' THEN
            -- Both transition tables are filled side by side, so the n-th old row became the n-th new
            -- one, also where the primary key itself changes. They are paired by one sort, not by a join:
            -- the plan is kept for the session, and a nested loop chosen at one row would meet a million.
            -- Without a primary key whole rows are kept: the changed columns alone would not say which
            -- row it was.
            INSERT INTO steward.audit_logs
                   (id, created_at, user_id, actor, action, resource_type, resource_id, old_values, new_values,
                    ip_address, user_agent, request_id, source, details)
            SELECT steward.uuid_v7(at), at, context.user_id, context.actor, act, resource,
                   left(CASE cardinality(keys) WHEN 1 THEN r.old_doc ->> keys[1]
                        ELSE (SELECT string_agg(r.old_doc ->> k, '/' ORDER BY o) FROM unnest(keys) WITH ORDINALITY u (k, o)) END, 512),
                   steward.audit_bounded(CASE WHEN keys = '{}' THEN (r.old_doc || mask) - ignored
                                              ELSE c.old_values END, max_bytes),
                   steward.audit_bounded(CASE WHEN keys = '{}' THEN (r.new_doc || mask) - ignored
                                              ELSE c.new_values END, max_bytes),
                   context.ip_address, context.user_agent, context.request_id, 'trigger', noted
              FROM (SELECT b.side, b.doc AS new_doc, lag(b.doc) OVER (PARTITION BY b.place ORDER BY b.side) AS old_doc
                      FROM (SELECT 0 AS side, row_number() OVER () AS place, to_jsonb(t) AS doc FROM old_rows t
                            UNION ALL
                            SELECT 1, row_number() OVER (), to_jsonb(t) FROM new_rows t) b) r
             CROSS JOIN LATERAL (
                   SELECT jsonb_object_agg(e.key, CASE WHEN e.key = ANY (redacted) THEN hidden ELSE e.value END) AS old_values,
                          jsonb_object_agg(e.key, CASE WHEN e.key = ANY (redacted) THEN hidden ELSE r.new_doc -> e.key END) AS new_values
                     FROM jsonb_each(r.old_doc - ignored) e
                    WHERE e.value IS DISTINCT FROM r.new_doc -> e.key) c
             WHERE r.side = 1 AND c.old_values IS NOT NULL;

        ELSE
            INSERT INTO steward.audit_logs
                   (id, created_at, user_id, actor, action, resource_type,
                    ip_address, user_agent, request_id, source, details)
            VALUES (steward.uuid_v7(at), at, context.user_id, context.actor, act, resource,
                    context.ip_address, context.user_agent, context.request_id, 'trigger', noted);
        END IF;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, failure = MESSAGE_TEXT;
        BEGIN
            INSERT INTO steward.audit_logs (id, created_at, actor, action, resource_type, source, details)
            VALUES (gen_random_uuid(), at, coalesce(nullif(current_setting('role', true), 'none'), session_user),
                    act, resource, 'trigger',
                    jsonb_build_object('values_lost', left(failure, 1024), 'sqlstate', code));
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

CREATE FUNCTION steward.audit_table(
    target regclass,
    ignore text[] DEFAULT '{}',
    redact text[] DEFAULT '{}'
) RETURNS void
LANGUAGE plpgsql SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    info    record;
    unknown text;
    call    text;
BEGIN
    SELECT c.relkind, c.relispartition, c.relnamespace::regnamespace AS home, c.relowner,
           t.rolsuper AS owner_is_super, w.rolsuper AS writer_is_super, w.rolname AS writer
      INTO info
      FROM pg_class c
      JOIN pg_roles t ON t.oid = c.relowner
     CROSS JOIN pg_proc f
      JOIN pg_roles w ON w.oid = f.proowner
     WHERE c.oid = target AND f.oid = 'steward.audit_row()'::regprocedure;
    IF NOT FOUND OR info.relkind NOT IN ('r', 'p') THEN
        RAISE EXCEPTION 'audit_table: % is no table', coalesce(target::text, 'null') USING ERRCODE = 'wrong_object_type';
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
    SELECT string_agg(quote_ident(n), ', ' ORDER BY n)
      INTO unknown
      FROM unnest(coalesce(ignore, '{}') || coalesce(redact, '{}')) n
     WHERE NOT EXISTS (SELECT FROM pg_attribute a
                        WHERE a.attrelid = target AND a.attname = n AND a.attnum > 0 AND NOT a.attisdropped);
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'audit_table: % has no column %', target, unknown USING ERRCODE = 'undefined_column';
    END IF;
    IF info.relkind = 'p' OR info.relispartition THEN
        RAISE NOTICE 'audit_table: on % a statement is seen only if it names that table itself, '
            'not another partition or its parent', target;
    END IF;

    call := format('FOR EACH STATEMENT EXECUTE FUNCTION steward.audit_row(%L, %L, %L)',
        ARRAY(SELECT DISTINCT n FROM unnest(ignore) n ORDER BY n),
        ARRAY(SELECT DISTINCT n FROM unnest(redact) n ORDER BY n),
        ARRAY(SELECT a.attname
                FROM pg_index i
                JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
               WHERE i.indrelid = target AND i.indisprimary
               ORDER BY array_position(i.indkey::int2[], a.attnum)));
    EXECUTE format('CREATE OR REPLACE TRIGGER steward_audit_insert AFTER INSERT ON %s REFERENCING NEW TABLE AS new_rows %s', target, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER steward_audit_update AFTER UPDATE ON %s REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows %s', target, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER steward_audit_delete AFTER DELETE ON %s REFERENCING OLD TABLE AS old_rows %s', target, call);
    EXECUTE format('CREATE OR REPLACE TRIGGER steward_audit_truncate AFTER TRUNCATE ON %s %s', target, call);
    -- ALWAYS: `session_replication_role = replica` does not step around the trail.
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER steward_audit_insert, ENABLE ALWAYS TRIGGER steward_audit_update, '
        'ENABLE ALWAYS TRIGGER steward_audit_delete, ENABLE ALWAYS TRIGGER steward_audit_truncate', target);
END
$$;
REVOKE ALL ON FUNCTION steward.audit_table(regclass, text[], text[]) FROM PUBLIC;
COMMENT ON FUNCTION steward.audit_table(regclass, text[], text[]) IS
    'Records every INSERT, UPDATE, DELETE and TRUNCATE of a table from now on; called again, it replaces what was said '
    'before. "ignore": columns left out, whose change alone is no event. "redact": columns whose values are never kept. '
    'Who owns the table could run code as the owner of steward: audit tables of owners trusted as much.';

CREATE FUNCTION steward.unaudit_table(target regclass) RETURNS void
LANGUAGE plpgsql SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
SET client_min_messages = warning
AS $$
DECLARE
    trigger_name text;
BEGIN
    FOREACH trigger_name IN ARRAY ARRAY['steward_audit_insert', 'steward_audit_update', 'steward_audit_delete', 'steward_audit_truncate']
    LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', trigger_name, target);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION steward.unaudit_table(regclass) FROM PUBLIC;
COMMENT ON FUNCTION steward.unaudit_table(regclass) IS 'Ends what steward.audit_table began; what was recorded stays.';
