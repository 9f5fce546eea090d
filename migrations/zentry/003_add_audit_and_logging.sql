-- The audit trail and the monitoring history in this schema's names, and row audit on what matters.
--
-- needs:   002, and the steward set (its audit)
-- locks:   SHARE ROW EXCLUSIVE on the audited tables for a moment
-- rewrite: none
-- undo:    003_add_audit_and_logging.down.sql (what was recorded stays in steward)

-- Zentry's SQL says `audit_logs`, `system_health`, `connection_metrics` without a schema.
CREATE VIEW audit_logs AS
SELECT id, created_at, user_id, actor, session_user_name, action, resource_type, resource_id,
       old_values, new_values, ip_address, user_agent, request_id, source, details
  FROM steward.audit_logs;
COMMENT ON VIEW audit_logs IS 'steward.audit_logs; to write, call steward.log_audit_event.';

CREATE VIEW system_health AS
SELECT id, created_at, instance, component, status, reason, message, latency_ms, details, recorded_at
  FROM steward.system_health;
COMMENT ON VIEW system_health IS 'steward.system_health.';

CREATE VIEW connection_metrics AS
SELECT id, created_at, instance, interval_seconds, samples, max_connections, reserved_connections,
       total_min, total_avg, total_max, active_min, active_avg, active_max, idle_min, idle_avg, idle_max,
       idle_in_transaction_min, idle_in_transaction_avg, idle_in_transaction_max,
       waiting_min, waiting_avg, waiting_max, saturation_max,
       oldest_transaction_seconds_max, oldest_idle_in_transaction_seconds_max, by_database, pool, recorded_at
  FROM steward.connection_metrics;
COMMENT ON VIEW connection_metrics IS 'steward.connection_metrics.';

DO $$
DECLARE
    shown  regclass;
    reader text;
BEGIN
    FOREACH shown IN ARRAY ARRAY['audit_logs', 'system_health', 'connection_metrics']::regclass[] LOOP
        -- A view reads as its owner, past the row security beneath, unless it is told otherwise; before 15
        -- it cannot be, and only the missing GRANT protects.
        IF current_setting('server_version_num')::integer >= 150000 THEN
            EXECUTE format('ALTER VIEW %s SET (security_invoker = true)', shown);
        END IF;
        FOR reader IN SELECT quote_ident(rolname) FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
            EXECUTE format('REVOKE ALL ON TABLE %s FROM %s', shown, reader);
        END LOOP;
    END LOOP;
END
$$;

-- When somebody signed in last is no change worth a row; secrets are never kept.
SELECT steward.audit_table('users', ignore => '{updated_at,last_login_at}', redact => '{password_hash,api_key_hash}');
SELECT steward.audit_table('projects', ignore => '{updated_at}');
SELECT steward.audit_table('vms', ignore => '{updated_at}');
SELECT steward.audit_table('billing_records', ignore => '{updated_at}');
