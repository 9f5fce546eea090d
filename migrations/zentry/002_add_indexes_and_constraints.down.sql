DROP TRIGGER vms_record_transition ON vms;
DROP TRIGGER vms_record_creation ON vms;
DROP FUNCTION record_vm_state_transition();
DROP FUNCTION get_user_spending(uuid, timestamptz, timestamptz);
DROP FUNCTION record_vm_metrics(jsonb);
DROP FUNCTION bill_vm_usage(timestamptz, timestamptz);
DROP FUNCTION add_user_credits(uuid, numeric, text, text);
DROP FUNCTION charge_user_credits(uuid, numeric, text, text, uuid);

DROP MATERIALIZED VIEW user_statistics;

ALTER TABLE vm_state_transitions
    DROP CONSTRAINT vm_state_transitions_from_status_check,
    DROP CONSTRAINT vm_state_transitions_to_status_check;
ALTER TABLE billing_records
    DROP CONSTRAINT billing_records_usage_check,
    DROP CONSTRAINT billing_records_unit_price_check,
    DROP CONSTRAINT billing_records_quantity_check,
    DROP CONSTRAINT billing_records_amount_check;
ALTER TABLE vms
    DROP CONSTRAINT vms_running_check,
    DROP CONSTRAINT vms_name_length_check;
ALTER TABLE projects
    DROP CONSTRAINT projects_labels_object_check,
    DROP CONSTRAINT projects_name_length_check;
ALTER TABLE users
    DROP CONSTRAINT users_preferences_object_check,
    DROP CONSTRAINT users_username_length_check,
    DROP CONSTRAINT users_email_format_check;

DROP INDEX vm_state_transitions_created_at_idx, vm_state_transitions_vm_id_created_at_idx,
    vm_metrics_created_at_idx, vm_metrics_vm_id_created_at_idx,
    billing_records_usage_key, billing_records_reference_key, billing_records_created_at_idx,
    billing_records_unpaid_idx, billing_records_vm_id_idx, billing_records_project_id_idx,
    billing_records_user_id_created_at_idx,
    users_last_login_at_idx, users_without_credits_idx, users_active_idx,
    vms_ip_address_key, vms_in_transition_idx, vms_running_idx, vms_user_id_status_idx,
    vms_project_id_name_key, vms_project_id_user_id_idx,
    projects_user_id_name_key, projects_user_id_idx;
