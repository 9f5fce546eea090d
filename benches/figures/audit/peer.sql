-- A row trigger in the shape of supa_audit's (Apache-2.0, github.com/supabase/supa_audit), written anew for the
-- comparison: for each row the key's columns from the catalog, an id hashed from them, whole rows as JSON,
-- and five indexes. Its id is a UUID of version 5; an MD5 here, which every server has and which costs less.
CREATE SCHEMA peer;
CREATE TABLE peer.record_version (
    id            bigserial   PRIMARY KEY,
    record_id     uuid,
    old_record_id uuid,
    op            text        NOT NULL,
    ts            timestamptz NOT NULL DEFAULT now(),
    table_oid     oid         NOT NULL,
    table_schema  name        NOT NULL,
    table_name    name        NOT NULL,
    record        jsonb,
    old_record    jsonb,
    CHECK (coalesce(record_id, old_record_id) IS NOT NULL OR op = 'TRUNCATE'),
    CHECK (op IN ('INSERT', 'UPDATE') = (record_id IS NOT NULL)),
    CHECK (op IN ('INSERT', 'UPDATE') = (record IS NOT NULL)),
    CHECK (op IN ('UPDATE', 'DELETE') = (old_record_id IS NOT NULL)),
    CHECK (op IN ('UPDATE', 'DELETE') = (old_record IS NOT NULL))
);
CREATE INDEX ON peer.record_version (record_id) WHERE record_id IS NOT NULL;
CREATE INDEX ON peer.record_version (old_record_id) WHERE old_record_id IS NOT NULL;
CREATE INDEX ON peer.record_version USING brin (ts);
CREATE INDEX ON peer.record_version (table_oid);

CREATE FUNCTION peer.primary_key_columns(relation oid) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
AS $$
    SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), ARRAY[]::text[])
      FROM pg_catalog.pg_index i
      JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
     WHERE i.indrelid = relation AND i.indisprimary
$$;

CREATE FUNCTION peer.record_id(relation oid, keys text[], record jsonb) RETURNS uuid
LANGUAGE sql STABLE
AS $$
    SELECT CASE WHEN record IS NULL THEN NULL
                WHEN keys = ARRAY[]::text[] THEN gen_random_uuid()
                ELSE (SELECT md5((jsonb_build_array(to_jsonb(relation)) || jsonb_agg(record ->> k))::text)::uuid FROM unnest(keys) k) END
$$;

CREATE FUNCTION peer.record_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ''
AS $$
DECLARE
    keys          text[] = peer.primary_key_columns(TG_RELID);
    record        jsonb  = to_jsonb(new);
    record_id     uuid   = peer.record_id(TG_RELID, keys, record);
    old_record    jsonb  = to_jsonb(old);
    old_record_id uuid   = peer.record_id(TG_RELID, keys, old_record);
BEGIN
    INSERT INTO peer.record_version (record_id, old_record_id, op, table_oid, table_schema, table_name, record, old_record)
    SELECT record_id, old_record_id, TG_OP, TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, record, old_record;
    RETURN coalesce(new, old);
END
$$;
