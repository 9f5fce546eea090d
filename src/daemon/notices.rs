//! Passes events of the process to the pipelines, each of which records them in the audit log of its
//! database.

use tokio::sync::mpsc;

use crate::http::Authenticator;
use crate::scheduler::pending_audit::AuditNotice;
use crate::store::audit::Origin;

/// PendingAudit that a pipeline has not received yet. It receives at least one in each iteration.
const NOTICE_QUEUE: usize = 512;

#[derive(Default)]
pub(super) struct AuditNotices {
    pipelines: Vec<mpsc::Sender<AuditNotice>>,
}

impl AuditNotices {
    /// Returns the receiver for one more pipeline.
    pub(super) fn subscribe(&mut self) -> mpsc::Receiver<AuditNotice> {
        let (sender, receiver) = mpsc::channel(NOTICE_QUEUE);
        self.pipelines.push(sender);
        receiver
    }

    /// Sends a notice to every pipeline, without waiting.
    pub(super) fn send(&self, notice: &AuditNotice) {
        for pipeline in &self.pipelines {
            if pipeline.try_send(notice.clone()).is_err() {
                tracing::warn!("notice queue of a pipeline is full, event not audited");
            }
        }
    }

    /// Sends the authentication failures since the last call.
    pub(super) fn send_auth_failures(&self, authenticator: &Authenticator) {
        let failures = authenticator.take_failures();
        for attempts in failures.attempts {
            let origin = Origin {
                ip_address: Some(attempts.address),
                user_agent: attempts.user_agent,
                ..Origin::default()
            };
            let details = serde_json::json!({
                "reason": attempts.reason.code(), "attempts": attempts.count,
                "first": attempts.first, "last": attempts.last,
            });
            self.send(&AuditNotice::refused_call(attempts.route, origin, details));
        }
        if failures.overflow > 0 {
            let details = serde_json::json!({ "reason": "too_many_addresses", "attempts": failures.overflow });
            self.send(&AuditNotice::refused_call("several".to_owned(), Origin::default(), details));
        }
    }
}
