//! Values with a meaning of their own: secrets, durations, sizes.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Text that never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself; for handing to a server, never for printing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a secret comes from. Files and commands are read at every connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    Inline(Secret),
    File(PathBuf),
    /// A program and its arguments; its first line of output is the secret.
    Command(Vec<String>),
}

/// Why a secret could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SecretError(String);

impl SecretSource {
    /// Reads the secret now.
    pub async fn load(&self, timeout: Duration) -> Result<Secret, SecretError> {
        match self {
            SecretSource::Inline(secret) => Ok(secret.clone()),
            SecretSource::File(path) => match tokio::time::timeout(timeout, tokio::fs::read_to_string(path)).await {
                Ok(Ok(text)) => Ok(Secret::new(text.trim_end_matches('\n'))),
                Ok(Err(error)) => Err(SecretError(format!("cannot read {}: {error}", path.display()))),
                Err(_) => Err(SecretError(format!("reading {} took too long", path.display()))),
            },
            SecretSource::Command(_) => Err(SecretError("commands are not supported yet".to_owned())),
        }
    }
}
