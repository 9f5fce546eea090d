//! Everything that a migration can make, as text: two databases with equal digests have the same
//! schema.
//!
//! Without object ids and statistics. Columns are taken with their position among the live ones: a
//! column that was dropped and added again at the end shows.

use std::collections::BTreeSet;

use super::harness::TestClient;

pub type Digest = BTreeSet<String>;

/// One line per object, or per part of one.
const SQL: &str = "
WITH ns AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
     WHERE nspname <> 'information_schema' AND nspname NOT LIKE 'pg\\_%'
)
SELECT 'schema ' || nspname || ' ' || nspowner::regrole || ' ' || coalesce(nspacl::text, '-') FROM ns
UNION ALL
SELECT format('relation %s %s %s persistence=%s rls=%s/%s replident=%s options=%s acl=%s partition=%s of=%s key=%s ispart=%s',
              c.oid::regclass, c.relkind, c.relowner::regrole, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity,
              c.relreplident, c.reloptions, c.relacl, pg_get_expr(c.relpartbound, c.oid),
              (SELECT string_agg(i.inhparent::regclass::text, ',') FROM pg_inherits i WHERE i.inhrelid = c.oid),
              CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END, c.relispartition)
  FROM pg_class c JOIN ns ON ns.oid = c.relnamespace
UNION ALL
SELECT format('column %s.%s #%s %s notnull=%s default=%s identity=%s generated=%s collation=%s storage=%s compression=%s stats=%s acl=%s options=%s',
              a.attrelid::regclass, a.attname,
              row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod),
              a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated,
              a.attcollation::regcollation, a.attstorage, a.attcompression, coalesce(nullif(a.attstattarget, -1), -1),
              a.attacl, a.attoptions)
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN ns ON ns.oid = c.relnamespace
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT format('constraint %s on %s: %s validated=%s inherited=%s/%s', n.conname, coalesce(n.conrelid::regclass::text, n.contypid::regtype::text),
              pg_get_constraintdef(n.oid), n.convalidated, n.coninhcount, n.conislocal)
  FROM pg_constraint n JOIN ns ON ns.oid = n.connamespace
UNION ALL
SELECT format('index %s valid=%s ready=%s replident=%s clustered=%s', pg_get_indexdef(x.indexrelid), x.indisvalid, x.indisready,
              x.indisreplident, x.indisclustered)
  FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid JOIN ns ON ns.oid = c.relnamespace
UNION ALL
SELECT format('function %s owner=%s acl=%s %s', p.oid::regprocedure, p.proowner::regrole, p.proacl,
              CASE WHEN p.prokind IN ('f', 'p', 'w') THEN pg_get_functiondef(p.oid) END)
  FROM pg_proc p JOIN ns ON ns.oid = p.pronamespace
UNION ALL
SELECT format('trigger %s enabled=%s', pg_get_triggerdef(t.oid), t.tgenabled)
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN ns ON ns.oid = c.relnamespace
 WHERE NOT t.tgisinternal
UNION ALL
SELECT format('policy %s on %s %s permissive=%s roles=%s using=%s check=%s', p.polname, p.polrelid::regclass, p.polcmd,
              p.polpermissive, ARRAY(SELECT r::regrole::text FROM unnest(p.polroles) r ORDER BY 1),
              pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
  FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN ns ON ns.oid = c.relnamespace
UNION ALL
SELECT format('rule %s', pg_get_ruledef(r.oid))
  FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN ns ON ns.oid = c.relnamespace
UNION ALL
SELECT format('type %s %s owner=%s acl=%s labels=%s', t.oid::regtype, t.typtype, t.typowner::regrole, t.typacl,
              (SELECT string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid))
  FROM pg_type t JOIN ns ON ns.oid = t.typnamespace
UNION ALL
SELECT format('sequence %s %s start=%s inc=%s min=%s max=%s cycle=%s', s.seqrelid::regclass, s.seqtypid::regtype, s.seqstart,
              s.seqincrement, s.seqmin, s.seqmax, s.seqcycle)
  FROM pg_sequence s
UNION ALL
SELECT format('statistics %s', pg_get_statisticsobjdef(s.oid)) FROM pg_statistic_ext s JOIN ns ON ns.oid = s.stxnamespace
UNION ALL
SELECT format('default privileges of %s in %s for %s: %s', d.defaclrole::regrole, nullif(d.defaclnamespace, 0)::regnamespace, d.defaclobjtype, d.defaclacl)
  FROM pg_default_acl d
UNION ALL
SELECT format('extension %s %s', extname, extversion) FROM pg_extension
UNION ALL
SELECT format('event trigger %s %s %s', evtname, evtevent, evtfoid::regprocedure) FROM pg_event_trigger
UNION ALL
SELECT format('publication %s', pubname) FROM pg_publication
UNION ALL
SELECT format('comment on %s: %s', pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description)
  FROM pg_description d
 WHERE d.objoid >= 16384
";

pub async fn of(client: &TestClient) -> Digest {
    client.batch_execute("SET search_path = pg_catalog").await.unwrap();
    let rows = client.query(SQL, &[]).await.unwrap();
    rows.iter().map(|row| row.get::<_, String>(0)).collect()
}

#[track_caller]
pub fn assert_same(wanted: &Digest, found: &Digest, when: &str) {
    let lines = |a: &Digest, b: &Digest| a.difference(b).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        wanted == found,
        "{when}: the schema is another\nmissing:\n{}\nadded:\n{}",
        lines(wanted, found),
        lines(found, wanted)
    );
}
