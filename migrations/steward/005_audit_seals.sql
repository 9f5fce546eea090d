-- Seals over the audit trail, and holds that keep rows of it from being purged.
--
-- needs:   003
-- locks:   none beyond the new objects
-- rewrite: none
-- undo:    005_audit_seals.down.sql (the seals are lost: heads published before prove nothing any more)

CREATE TABLE steward.audit_seals (
    number     bigint      PRIMARY KEY CHECK (number >= 1),
    kind       text        NOT NULL CHECK (kind IN ('rows', 'adopted', 'purge')),
    epoch      text        NOT NULL CHECK (epoch <> ''),
    xid_from   xid8,
    id_from    uuid,
    xid_below  xid8,
    id_below   uuid,
    row_count  bigint      NOT NULL CHECK (row_count >= 0),
    first_at   timestamptz,
    last_at    timestamptz,
    root       bytea       CHECK (octet_length(root) = 32),
    cutoff     timestamptz,
    previous   bytea       CHECK (octet_length(previous) = 32),
    head       bytea       NOT NULL CHECK (octet_length(head) = 32),
    algorithm  integer     NOT NULL CHECK (algorithm >= 1),
    sealed_at  timestamptz NOT NULL,
    sealed_by  text        NOT NULL CHECK (sealed_by <> ''),
    CONSTRAINT audit_seals_shape_check CHECK (
        CASE kind WHEN 'purge' THEN cutoff IS NOT NULL AND num_nulls(xid_from, id_from, xid_below, id_below, first_at, last_at, root) = 7
                  ELSE cutoff IS NULL AND num_nulls(xid_from, id_from, xid_below, id_below, first_at, last_at, root) = 0 END),
    CONSTRAINT audit_seals_range_check CHECK ((xid_from, id_from) < (xid_below, id_below)),
    CONSTRAINT audit_seals_time_check CHECK (first_at <= last_at),
    -- One beginning, and no forks.
    CONSTRAINT audit_seals_genesis_check CHECK ((number = 1) = (previous IS NULL)),
    CONSTRAINT audit_seals_previous_key UNIQUE (previous),
    CONSTRAINT audit_seals_head_key UNIQUE (head)
);

-- The chain grows by an entry a minute and is never purged; these are few and asked for at each seal.
CREATE INDEX audit_seals_adopted_idx ON steward.audit_seals (number) WHERE kind = 'adopted';
CREATE INDEX audit_seals_cutoff_idx ON steward.audit_seals (cutoff) WHERE kind = 'purge';

COMMENT ON TABLE steward.audit_seals IS
    'The chain: each entry holds the head of the one before. Kept for ever. It proves nothing against a superuser '
    'unless a head is also kept outside this database: see audit.head_file and audit.webhook_url.';
COMMENT ON COLUMN steward.audit_seals.kind IS
    'rows: a Merkle root over rows of audit_logs; adopted: the same over rows that a restore left unsealed; '
    'purge: rows before the cutoff may be gone from here on.';
COMMENT ON COLUMN steward.audit_seals.epoch IS
    'System identifier and timeline: transaction ids mean nothing beyond them.';
COMMENT ON COLUMN steward.audit_seals.xid_from IS
    'Of kind rows: all rows of this epoch with (xid_from, id_from) <= (xid, id) < (xid_below, id_below) are sealed here, '
    'in that order. xid_below is at most the xmin of the sealing snapshot, so no transaction can add one any more.';
COMMENT ON COLUMN steward.audit_seals.row_count IS 'Leaves under the root; of a purge: rows counted as due.';
COMMENT ON COLUMN steward.audit_seals.first_at IS 'created_at of the earliest row sealed; last_at: of the latest.';
COMMENT ON COLUMN steward.audit_seals.head IS 'Hash of this entry and of the head before; see algorithm.';
COMMENT ON COLUMN steward.audit_seals.algorithm IS 'Version of the bytes that are hashed; ARCHITECTURE.md gives them.';

-- What each row hashed to, so that one that was changed can be named. 56 bytes a row; gone with the purge.
CREATE TABLE steward.audit_leaves (
    seal   bigint PRIMARY KEY REFERENCES steward.audit_seals (number),
    leaves bytea  NOT NULL CHECK (octet_length(leaves) > 0 AND octet_length(leaves) % 56 = 0)
);
-- Hashes do not compress.
ALTER TABLE steward.audit_leaves ALTER COLUMN leaves SET STORAGE EXTERNAL;

COMMENT ON TABLE steward.audit_leaves IS 'The leaves of each seal, in their order.';
COMMENT ON COLUMN steward.audit_leaves.leaves IS
    'For each leaf its row''s id (16 bytes), created_at (8: microseconds since 1970, big-endian) and hash (32).';

-- The ids that a seal holds.
CREATE FUNCTION steward.audit_sealed_ids(of_seal bigint) RETURNS SETOF uuid
LANGUAGE sql STABLE ROWS 10000
BEGIN ATOMIC
    SELECT encode(substring(l.leaves FROM 1 + 56 * n FOR 16), 'hex')::uuid
      FROM steward.audit_leaves l
     CROSS JOIN LATERAL generate_series(0, octet_length(l.leaves) / 56 - 1) n
     WHERE l.seal = of_seal;
END;
REVOKE ALL ON FUNCTION steward.audit_sealed_ids(bigint) FROM PUBLIC;

CREATE TABLE steward.audit_holds (
    id            uuid        PRIMARY KEY,
    user_id       text        CHECK (user_id <> ''),
    resource_type text        CHECK (resource_type <> ''),
    resource_id   text        CHECK (resource_id <> ''),
    begins_at     timestamptz,
    ends_at       timestamptz,
    reason        text        NOT NULL CHECK (reason <> ''),
    placed_by     text        NOT NULL CHECK (placed_by <> ''),
    placed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    released_by   text,
    released_at   timestamptz,
    CONSTRAINT audit_holds_scope_check CHECK (num_nonnulls(user_id, resource_type, begins_at, ends_at) > 0),
    CONSTRAINT audit_holds_resource_check CHECK (resource_id IS NULL OR resource_type IS NOT NULL),
    CONSTRAINT audit_holds_time_check CHECK (begins_at < ends_at),
    CONSTRAINT audit_holds_released_check CHECK ((released_at IS NULL) = (released_by IS NULL))
);

COMMENT ON TABLE steward.audit_holds IS
    'Legal holds: rows that meet every condition given here are not purged until the hold is released. Retention '
    'locks this table in SHARE mode while it deletes: a hold that is placed holds for every row that is still there.';
COMMENT ON COLUMN steward.audit_holds.begins_at IS 'Inclusive, as created_at; ends_at: exclusive.';

-- To whom a head was given, so that what failed is tried again.
CREATE TABLE steward.audit_publications (
    sink         text        PRIMARY KEY CHECK (sink <> ''),
    seal         bigint      NOT NULL CHECK (seal >= 1),
    published_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE steward.audit_publications IS 'The newest head that each sink outside the database has been given.';

ALTER TABLE steward.audit_seals        ENABLE ROW LEVEL SECURITY;
ALTER TABLE steward.audit_leaves       ENABLE ROW LEVEL SECURITY;
ALTER TABLE steward.audit_holds        ENABLE ROW LEVEL SECURITY;
ALTER TABLE steward.audit_publications ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON steward.audit_seals, steward.audit_leaves, steward.audit_holds, steward.audit_publications FROM PUBLIC;
