-- Sample data for the bundled set `zentry`: a small cloud, 70 days old.
--
-- Deterministic (what varies is drawn from hashes of the keys), relative to today, and repeatable: a second
-- run adds nothing. Some of it is past its retention on purpose: vm_metrics beyond 60 days, audit events
-- beyond 90, for the retention job to find. Needs both sets applied and the role that owns them.

SET search_path = public;
SET steward.user_id = 'demo';
SET steward.request_id = 'demo-data';

-- A whole number from 0 to n - 1, the same for the same seed on every server.
CREATE OR REPLACE FUNCTION pg_temp.pick(seed text, n integer) RETURNS integer
LANGUAGE sql IMMUTABLE
AS $$ SELECT ((('x' || substr(md5(seed), 1, 7))::bit(28)::integer) % n) $$;

SELECT steward.ensure_partitions('vm_metrics', 'month', 3, 3);
SELECT steward.ensure_partitions('steward.audit_logs', 'month', 3, 4);

INSERT INTO users (id, email, username, full_name, password_hash, role, status, is_active, email_verified_at,
                   last_login_at, created_at)
SELECT md5('user ' || i)::uuid,
       lower(f.name) || '.' || lower(l.name) || i || '@example.com',
       lower(f.name) || i,
       f.name || ' ' || l.name,
       '$argon2id$v=19$m=19456,t=2,p=1$' || md5('salt ' || i) || '$' || md5('hash ' || i),
       CASE WHEN i = 1 THEN 'admin' WHEN i <= 5 THEN 'support' ELSE 'user' END,
       s.status,
       s.status IN ('pending', 'active'),
       CASE WHEN s.status <> 'pending' THEN t.at + interval '11 minutes' END,
       CASE WHEN s.status <> 'pending' THEN date_trunc('day', now()) - pg_temp.pick('login ' || i, 30 * 1440) * interval '1 minute' END,
       t.at
  FROM generate_series(1, 300) i
 CROSS JOIN LATERAL (SELECT (ARRAY['Ada', 'Edgar', 'Grace', 'Michael', 'Barbara', 'Jim', 'Radia', 'Leslie', 'Frances',
                                   'Tony', 'Margaret', 'Ken', 'Shafi', 'Dennis', 'Karen'])[1 + pg_temp.pick('first ' || i, 15)]) f (name)
 CROSS JOIN LATERAL (SELECT (ARRAY['Ito', 'Okafor', 'Schmidt', 'Larsen', 'Silva', 'Novak', 'Haddad', 'Moreau', 'Rossi',
                                   'Kaya', 'Nguyen', 'Byrne'])[1 + pg_temp.pick('last ' || i, 12)]) l (name)
 CROSS JOIN LATERAL (SELECT CASE WHEN i <= 5 OR pg_temp.pick('status ' || i, 100) < 86 THEN 'active'
                                 WHEN pg_temp.pick('status ' || i, 100) < 91 THEN 'pending'
                                 WHEN pg_temp.pick('status ' || i, 100) < 96 THEN 'suspended'
                                 ELSE 'closed' END) s (status)
 CROSS JOIN LATERAL (SELECT date_trunc('day', now()) - interval '70 days'
                            - pg_temp.pick('joined ' || i, 500 * 1440) * interval '1 minute') t (at)
ON CONFLICT DO NOTHING;

INSERT INTO projects (id, user_id, name, description, status, labels, created_at)
SELECT md5('project ' || i)::uuid,
       u.id,
       k.name || '-' || i,
       'Sample project',
       CASE pg_temp.pick('archived ' || i, 12) WHEN 0 THEN 'archived' ELSE 'active' END,
       jsonb_build_object('env', (ARRAY['production', 'staging', 'development'])[1 + pg_temp.pick('env ' || i, 3)]),
       u.created_at + pg_temp.pick('project at ' || i, 20000) * interval '1 minute'
  FROM generate_series(1, 450) i
  JOIN users u ON u.id = md5('user ' || 1 + pg_temp.pick('project of ' || i, 300))::uuid
 CROSS JOIN LATERAL (SELECT (ARRAY['shop', 'api', 'blog', 'analytics', 'game', 'crm', 'ci', 'mail'])[1 + pg_temp.pick('kind ' || i, 8)]) k (name)
ON CONFLICT DO NOTHING;

INSERT INTO vms (id, project_id, user_id, name, status, region, image, vcpus, memory_mb, disk_gb, hourly_price,
                 ip_address, error, started_at, stopped_at, deleted_at, created_at)
SELECT md5('vm ' || i)::uuid,
       p.id,
       p.user_id,
       'vm-' || lpad(i::text, 4, '0'),
       s.status,
       (ARRAY['eu-central', 'eu-north', 'us-east', 'ap-south'])[1 + pg_temp.pick('region ' || i, 4)],
       (ARRAY['debian-12', 'ubuntu-24.04', 'rocky-9', 'alpine-3.20'])[1 + pg_temp.pick('image ' || i, 4)],
       2 ^ z.size,
       2048 * 2 ^ z.size,
       20 * 2 ^ z.size,
       0.0089 * 2 ^ z.size,
       CASE WHEN s.status NOT IN ('pending', 'deleted') THEN inet '10.20.0.0' + i END,
       CASE s.status WHEN 'error' THEN 'host ran out of memory' END,
       CASE WHEN s.status NOT IN ('pending', 'provisioning') THEN t.at + interval '95 seconds' END,
       CASE WHEN s.status IN ('stopped', 'deleted') THEN t.at + interval '40 days' END,
       CASE WHEN s.status = 'deleted' THEN t.at + interval '41 days' END,
       t.at
  FROM generate_series(1, 600) i
  JOIN projects p ON p.id = md5('project ' || 1 + pg_temp.pick('vm of ' || i, 450))::uuid
 CROSS JOIN LATERAL (SELECT pg_temp.pick('size ' || i, 5)) z (size)
 CROSS JOIN LATERAL (SELECT pg_temp.pick('state ' || i, 100)) r (n)
 CROSS JOIN LATERAL (SELECT CASE WHEN r.n < 55 THEN 'running' WHEN r.n < 75 THEN 'stopped' WHEN r.n < 78 THEN 'error'
                                 WHEN r.n < 80 THEN 'provisioning' WHEN r.n < 81 THEN 'pending'
                                 WHEN r.n < 83 THEN 'suspended' ELSE 'deleted' END) s (status)
 CROSS JOIN LATERAL (SELECT CASE WHEN s.status IN ('pending', 'provisioning')
                                 THEN now() - pg_temp.pick('new ' || i, 300) * interval '1 second'
                                 ELSE greatest(p.created_at, date_trunc('day', now()) - interval '70 days')
                                      + pg_temp.pick('vm at ' || i, 20 * 1440) * interval '1 minute' END) t (at)
ON CONFLICT DO NOTHING;

-- The trigger recorded each machine as created now, in its last state: tell the way it took instead.
UPDATE vm_state_transitions t
   SET to_status = 'pending', created_at = v.created_at
  FROM vms v
 WHERE v.id = t.vm_id AND t.from_status IS NULL AND t.changed_by = 'demo' AND t.created_at <> v.created_at;
INSERT INTO vm_state_transitions (id, vm_id, from_status, to_status, reason, changed_by, created_at)
SELECT md5('transition ' || w.step || ' ' || v.id)::uuid, v.id, w.from_status, w.to_status, v.error, 'demo', w.at
  FROM vms v
 CROSS JOIN LATERAL (VALUES
       (1, 'pending', 'provisioning', v.created_at + interval '4 seconds', v.status <> 'pending'),
       (2, 'provisioning', 'running', v.started_at, v.started_at IS NOT NULL),
       (3, 'running', 'stopped', v.stopped_at, v.stopped_at IS NOT NULL),
       (4, 'stopped', 'deleted', v.deleted_at, v.status = 'deleted'),
       (5, 'running', v.status, v.started_at + interval '9 days', v.status IN ('error', 'suspended'))
       ) w (step, from_status, to_status, at, taken)
 WHERE w.taken
ON CONFLICT DO NOTHING;

-- A bill per machine and 10 days of use; the last ones are still open, a few have failed.
INSERT INTO billing_records (id, user_id, project_id, vm_id, type, status, amount, quantity, unit_price, description,
                             period_start, period_end, due_at, paid_at, created_at)
SELECT md5('bill ' || v.id || ' ' || g.n)::uuid, v.user_id, v.project_id, v.id, 'usage', s.status,
       round(h.hours * v.hourly_price, 4), h.hours, v.hourly_price, 'VM ' || v.name,
       p.lo, p.hi, p.hi + interval '14 days',
       CASE WHEN s.status = 'paid' THEN p.hi + interval '2 days' END, p.hi
  FROM vms v
 CROSS JOIN generate_series(0, 6) g (n)
 CROSS JOIN LATERAL (SELECT v.started_at + g.n * interval '10 days',
                            least(v.started_at + (g.n + 1) * interval '10 days', v.stopped_at)) p (lo, hi)
 CROSS JOIN LATERAL (SELECT round(extract(epoch FROM p.hi - p.lo) / 3600, 4)) h (hours)
 CROSS JOIN LATERAL (SELECT CASE WHEN p.hi > now() - interval '12 days' THEN 'pending'
                                 WHEN pg_temp.pick('failed ' || v.id || g.n, 40) = 0 THEN 'failed'
                                 ELSE 'paid' END) s (status)
 WHERE p.hi > p.lo AND p.hi <= now()
ON CONFLICT DO NOTHING;

-- What each user paid in covers what was paid, and leaves something.
INSERT INTO billing_records (id, user_id, type, status, amount, description, reference, paid_at, created_at)
SELECT md5('top-up ' || u.id)::uuid, u.id, 'top_up', 'paid',
       ceil(coalesce(sum(b.amount), 0)) + pg_temp.pick('credits ' || u.id, 250), 'Card payment', 'demo-top-up',
       u.created_at + interval '1 hour', u.created_at + interval '1 hour'
  FROM users u
  LEFT JOIN billing_records b ON b.user_id = u.id AND b.type = 'usage' AND b.status = 'paid'
 GROUP BY u.id
ON CONFLICT DO NOTHING;
UPDATE users u
   SET credits = b.paid_in - b.spent, total_spent = b.spent
  FROM (SELECT user_id,
               coalesce(sum(amount) FILTER (WHERE type = 'top_up'), 0) AS paid_in,
               coalesce(sum(amount) FILTER (WHERE type IN ('usage', 'charge')), 0) AS spent
          FROM billing_records
         WHERE status = 'paid'
         GROUP BY user_id) b
 WHERE b.user_id = u.id AND b.paid_in >= b.spent AND (u.credits, u.total_spent) IS DISTINCT FROM (b.paid_in - b.spent, b.spent);

-- Three samples a day of the machines that run, over 70 days: busier by day, each with its own temper.
INSERT INTO vm_metrics (id, created_at, vm_id, cpu_percent, memory_percent, disk_percent,
                        disk_read_bytes, disk_write_bytes, network_rx_bytes, network_tx_bytes)
SELECT md5(v.id || ' ' || extract(epoch FROM t.at)::bigint)::uuid, t.at, v.id,
       least(100, v.temper + 20 * (1 + sin(extract(hour FROM t.at AT TIME ZONE 'UTC') / 24.0 * 2 * pi())) + r.n % 17)::real,
       least(100, 25 + v.temper + r.n % 9)::real,
       least(100, 10 + v.temper / 2 + extract(epoch FROM t.at - (now() - interval '70 days')) / 86400 / 2)::real,
       r.n * 4096::bigint, r.n * 8192::bigint, r.n * 16384::bigint, r.n * 32768::bigint
  FROM (SELECT id, pg_temp.pick('temper ' || id, 35) AS temper FROM vms WHERE status = 'running') v
 CROSS JOIN LATERAL (SELECT date_trunc('day', now()) - g.n * interval '8 hours' AS at FROM generate_series(0, 209) g (n)) t
 CROSS JOIN LATERAL (SELECT (hashtext(v.id::text || t.at) & 65535)) r (n)
ON CONFLICT DO NOTHING;

-- What people did: sign-ins over 110 days, and a few acts of administrators.
INSERT INTO steward.audit_logs (id, created_at, user_id, action, resource_type, resource_id, ip_address, user_agent,
                                request_id, source, details)
SELECT md5('event ' || i)::uuid, date_trunc('day', now()) - pg_temp.pick('event at ' || i, 110 * 1440) * interval '1 minute',
       md5('user ' || u.n)::uuid::text, a.action, 'user', md5('user ' || u.n)::uuid::text,
       inet '198.51.100.0' + pg_temp.pick('from ' || i, 254), 'Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0',
       'demo-' || i, 'application',
       CASE a.action WHEN 'user.login_failed' THEN '{"reason": "wrong password"}'::jsonb END
  FROM generate_series(1, 400) i
 CROSS JOIN LATERAL (SELECT 1 + pg_temp.pick('event of ' || i, 300)) u (n)
 CROSS JOIN LATERAL (SELECT (ARRAY['user.login', 'user.login', 'user.login', 'user.login', 'user.login_failed', 'user.logout',
                                   'api_key.created', 'settings.changed'])[1 + pg_temp.pick('act ' || i, 8)]) a (action)
ON CONFLICT DO NOTHING;

REFRESH MATERIALIZED VIEW user_statistics;
ANALYZE users, projects, vms, billing_records, vm_metrics, vm_state_transitions, user_statistics, steward.audit_logs;

DROP FUNCTION pg_temp.pick(text, integer);
RESET search_path;
RESET steward.user_id;
RESET steward.request_id;
