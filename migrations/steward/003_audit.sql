-- The audit trail, and how applications tell it of events. Row changes come with 004, seals with 005.
--
-- locks:   none beyond the new objects
-- rewrite: none
-- undo:    003_audit.down.sql (the trail is lost)

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
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp() CHECK (isfinite(created_at)),
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
    -- Time first: one index serves what happened then, pages in the order of time, retention, and an event by
    -- its id, which begins with its time.
    PRIMARY KEY (created_at, id)
) PARTITION BY RANGE (created_at);
CREATE TABLE steward.audit_logs_default PARTITION OF steward.audit_logs DEFAULT;

-- What is asked: what did this user do, what happened to this thing, who did this kind of act. Events without a user are many (jobs, triggers) and never asked for by user.
CREATE INDEX audit_logs_user_id_created_at_idx
    ON steward.audit_logs (user_id, created_at DESC) WHERE user_id IS NOT NULL;
CREATE INDEX audit_logs_resource_created_at_idx
    ON steward.audit_logs (resource_type, resource_id, created_at DESC) WHERE resource_type IS NOT NULL;
CREATE INDEX audit_logs_action_created_at_idx ON steward.audit_logs (action, created_at DESC);
-- The order in which rows are sealed; see 005.
CREATE INDEX audit_logs_xid_id_idx ON steward.audit_logs (xid, id);

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

ALTER TABLE steward.audit_logs         ENABLE ROW LEVEL SECURITY;
ALTER TABLE steward.audit_logs_default ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON steward.audit_logs, steward.audit_logs_default FROM PUBLIC;
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

-- The same for values from JSON, where null means none. Most values are small: this much is inlined.
CREATE FUNCTION steward.audit_value(doc jsonb, max_bytes integer) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN doc IS NULL OR doc = 'null' THEN NULL
            WHEN pg_column_size(doc) <= max_bytes THEN doc
            ELSE steward.audit_bounded(doc, max_bytes) END;
REVOKE ALL ON FUNCTION steward.audit_value(jsonb, integer) FROM PUBLIC;

-- What was noted and what was told, together. Details that are no object (a list, a text) keep their place
-- under a key of their own.
CREATE FUNCTION steward.audit_noted(noted jsonb, told jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN noted IS NULL THEN told
            WHEN told IS NULL THEN noted
            WHEN jsonb_typeof(told) = 'object' THEN noted || told
            ELSE noted || jsonb_build_object('details', told) END;
REVOKE ALL ON FUNCTION steward.audit_noted(jsonb, jsonb) FROM PUBLIC;

-- An address, or null where the text is none. A block of its own for each call that has a text: a malformed
-- address is kept in `details`, it fails nobody.
CREATE FUNCTION steward.audit_inet(address text) RETURNS inet
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF address IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN address::inet;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;
REVOKE ALL ON FUNCTION steward.audit_inet(text) FROM PUBLIC;

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
        ip_address := steward.audit_inet(ip);
        IF ip_address IS NULL THEN
            details := jsonb_build_object('ip_address', left(ip, 128));
        END IF;
    END IF;
    -- As PostgREST told before its version 9.
    user_id := coalesce(user_id, left(nullif(current_setting('request.jwt.claim.sub', true), ''), 256));
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
    at        constant timestamptz := clock_timestamp();
    event_id  constant uuid := steward.uuid_v7(at);
    ip        constant text := nullif(btrim(ip_address), '');
    address   inet;
    context   record;
    noted     jsonb;
BEGIN
    IF coalesce(btrim(action), '') = '' THEN
        RAISE EXCEPTION 'log_audit_event: the action is empty'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Name what was done, for example ''user.login''.';
    END IF;
    context := steward.audit_context();
    noted := context.details;
    address := CASE WHEN ip IS NULL THEN context.ip_address ELSE steward.audit_inet(ip) END;
    IF ip IS NOT NULL AND address IS NULL THEN
        noted := coalesce(noted, '{}') || jsonb_build_object('ip_address', left(ip, 128));
    END IF;

    INSERT INTO steward.audit_logs
           (id, created_at, user_id, actor, action, resource_type, resource_id, old_values, new_values,
            ip_address, user_agent, request_id, source, details)
    VALUES (event_id, at, left(coalesce(nullif(user_id, ''), context.user_id), 256), context.actor,
            left(btrim(action), 128), left(resource_type, 128), left(resource_id, 512),
            steward.audit_bounded(old_values, max_bytes), steward.audit_bounded(new_values, max_bytes),
            address, left(coalesce(nullif(user_agent, ''), context.user_agent), 512),
            left(coalesce(nullif(request_id, ''), context.request_id), 256), 'application',
            steward.audit_bounded(steward.audit_noted(noted, details), max_bytes));
    RETURN event_id;
END
$$;
REVOKE ALL ON FUNCTION steward.log_audit_event(text, text, text, text, jsonb, jsonb, text, text, text, jsonb) FROM PUBLIC;
COMMENT ON FUNCTION steward.log_audit_event(text, text, text, text, jsonb, jsonb, text, text, text, jsonb) IS
    'Records one event in the caller''s transaction and returns its id. What is not given is taken from the settings '
    'steward.user_id, steward.ip, steward.user_agent, steward.request_id or PostgREST''s. A malformed address is kept '
    'as text in details; texts and values are cut to bounds. Needs: GRANT USAGE ON SCHEMA steward and EXECUTE.';

-- Many events in one call: one look at the context, one INSERT.
CREATE FUNCTION steward.log_audit_events(events jsonb) RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    max_events constant integer := 10000;
    max_bytes  constant integer := 65536;
    at         constant timestamptz := clock_timestamp();
    seed       constant text := steward.uuid_v7(at)::text;
    -- Ids that count up from a random one: in order, and side by side in the indexes.
    prefix     constant text := left(seed, 24);
    base       constant bigint := ('x' || right(seed, 12))::bit(48)::bigint >> 1;
    context    record;
    wrong      record;
    ids        uuid[];
BEGIN
    IF jsonb_typeof(events) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'log_audit_events: found %, wanted an array of events', coalesce(jsonb_typeof(events), 'null')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example ''[{"action": "user.login", "user_id": "user-123"}]''.';
    END IF;
    IF jsonb_array_length(events) > max_events THEN
        RAISE EXCEPTION 'log_audit_events: found % events, wanted at most %', jsonb_array_length(events), max_events
            USING ERRCODE = 'program_limit_exceeded', HINT = 'Send them in several calls.';
    END IF;
    SELECT e.place, p.problem
      INTO wrong
      FROM jsonb_array_elements(events) WITH ORDINALITY e (event, place)
     CROSS JOIN LATERAL (SELECT CASE
               WHEN jsonb_typeof(e.event) <> 'object' THEN 'is no object'
               WHEN jsonb_typeof(e.event -> 'action') IS DISTINCT FROM 'string' THEN 'has no action'
               WHEN btrim(e.event ->> 'action') = '' THEN 'has an empty action'
               ELSE (SELECT 'has the unknown key ' || quote_ident(k) FROM jsonb_object_keys(e.event) k
                      WHERE k NOT IN ('action', 'user_id', 'resource_type', 'resource_id', 'old_values', 'new_values',
                                      'ip_address', 'user_agent', 'request_id', 'details') LIMIT 1)
           END AS problem) p
     WHERE p.problem IS NOT NULL
     LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'log_audit_events: event % %', wrong.place, wrong.problem
            USING ERRCODE = 'invalid_parameter_value', HINT = 'No event of this call was recorded.';
    END IF;
    context := steward.audit_context();

    WITH written AS (
        INSERT INTO steward.audit_logs
               (id, created_at, user_id, actor, action, resource_type, resource_id, old_values, new_values,
                ip_address, user_agent, request_id, source, details)
        SELECT (prefix || lpad(to_hex(base + e.place), 12, '0'))::uuid, at,
               left(coalesce(nullif(e.event ->> 'user_id', ''), context.user_id), 256), context.actor,
               left(btrim(e.event ->> 'action'), 128), left(e.event ->> 'resource_type', 128),
               left(e.event ->> 'resource_id', 512),
               steward.audit_value(e.event -> 'old_values', max_bytes), steward.audit_value(e.event -> 'new_values', max_bytes),
               CASE WHEN a.told IS NULL THEN context.ip_address ELSE a.address END,
               left(coalesce(nullif(e.event ->> 'user_agent', ''), context.user_agent), 512),
               left(coalesce(nullif(e.event ->> 'request_id', ''), context.request_id), 256), 'application',
               steward.audit_value(CASE WHEN n.noted IS NULL THEN e.event -> 'details'
                                        ELSE steward.audit_noted(n.noted, nullif(e.event -> 'details', 'null')) END, max_bytes)
          FROM jsonb_array_elements(events) WITH ORDINALITY e (event, place)
         CROSS JOIN LATERAL (SELECT nullif(btrim(e.event ->> 'ip_address'), '') AS told) t
         CROSS JOIN LATERAL (SELECT t.told, CASE WHEN t.told IS NOT NULL THEN steward.audit_inet(t.told) END AS address) a
         CROSS JOIN LATERAL (SELECT CASE WHEN a.told IS NOT NULL AND a.address IS NULL
                                         THEN coalesce(context.details, '{}') || jsonb_build_object('ip_address', left(a.told, 128))
                                         ELSE context.details END AS noted) n
        RETURNING id
    )
    SELECT array_agg(id ORDER BY id) INTO ids FROM written;
    RETURN coalesce(ids, '{}');
END
$$;
REVOKE ALL ON FUNCTION steward.log_audit_events(jsonb) FROM PUBLIC;
COMMENT ON FUNCTION steward.log_audit_events(jsonb) IS
    'Records an array of up to 10,000 events, each an object with the names of log_audit_event''s arguments as keys, '
    'and returns their ids in the same order. All or none: one that is malformed is named, and none is recorded.';
