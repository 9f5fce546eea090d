//! Reloads the configuration after SIGHUP, and the certificate when its file changes.
//!
//! A configuration that is invalid, or whose credentials cannot be loaded, changes nothing: the
//! error is logged and audited, and the metric of the last reload is 0.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

use super::AuditNotices;
use crate::config::load::Loaded;
use crate::config::{Config, Problems};
use crate::http::tls::Tls;
use crate::http::{Authenticator, Rules};
use crate::scheduler::pending_audit::AuditNotice;
use crate::telemetry::Metrics;
use crate::telemetry::log::LogHandle;

pub(super) struct Reloader<R> {
    pub(super) read: R,
    pub(super) log: LogHandle,
    pub(super) notices: AuditNotices,
    pub(super) metrics: Arc<Metrics>,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) tls: Option<Arc<Tls>>,
    /// The address of the listener.
    pub(super) address: SocketAddr,
    /// The configuration at the start. Keys that need a restart are compared with it.
    pub(super) started_with: Config,
    /// The configuration of the last reload. The audited changes are the differences to it.
    pub(super) last_read: Config,
}

impl<R: Fn() -> Result<Loaded, Problems>> Reloader<R> {
    /// Reads the configuration again and publishes it to the pipelines.
    pub(super) async fn reload(&mut self, publish: &watch::Sender<Arc<Config>>) {
        self.reload_certificate().await;
        let loaded = match (self.read)() {
            Ok(loaded) => loaded,
            Err(problems) => {
                tracing::error!(problems = %problems, "new configuration is invalid, keeping the old one");
                return self.reject(&AuditNotice::rejected(&problems));
            }
        };
        match Rules::load(&loaded.config, self.address.ip(), self.tls.is_some()).await {
            Ok(rules) => self.authenticator.set_rules(rules),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    "cannot load the credentials of the new configuration, keeping the old one"
                );
                return self.reject(&AuditNotice::unusable("auth"));
            }
        }
        self.adopt(loaded, publish);
        self.metrics.set_reloaded();
    }

    fn reject(&self, notice: &AuditNotice) {
        self.metrics.config_last_reload_successful.set(0);
        self.notices.send(notice);
    }

    fn adopt(&mut self, loaded: Loaded, publish: &watch::Sender<Arc<Config>>) {
        log_warnings(&loaded.warnings);
        let mut config = loaded.config;
        if let Err(error) = self.log.set_level(config.log.level) {
            tracing::error!(error = %error, "cannot change the log level");
        }
        for key in self.started_with.needs_restart(&config) {
            tracing::warn!(key, "this change takes effect at the next start");
        }
        self.notices.send(&AuditNotice::adopted(&self.last_read, &config));
        self.last_read = config.clone();
        // The running ones may point to a development server.
        config.databases = publish.borrow().databases.clone();
        publish.send_replace(Arc::new(config));
        tracing::info!("configuration reloaded");
    }

    /// Runs every [`super::HOUSEKEEPING_INTERVAL`].
    pub(super) async fn housekeep(&self) {
        self.notices.send_auth_failures(&self.authenticator);
        self.reload_certificate().await;
    }

    /// Loads the certificate if its file changed. LogHandle a certificate that cannot be used.
    async fn reload_certificate(&self) {
        if let Some(tls) = &self.tls {
            tls.reload_if_changed().await;
        }
    }
}

pub(super) fn log_warnings(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!(warning, "configuration");
    }
}
