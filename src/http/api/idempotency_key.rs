//! The header `Idempotency-Key`.

use hyper::header::HeaderName;
use sha2::{Digest, Sha256};

use crate::http::{Context, HttpError};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const KEY_CHARS_MAX: usize = 255;

/// The key of a request, with a fingerprint of the request that it belongs to.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    pub key: String,
    /// The SHA-256 of method, path, query and body.
    pub fingerprint: Vec<u8>,
}

impl IdempotencyKey {
    /// Reads the key of a request. Returns `None` if the request has none. Fails if there are several
    /// or if it has characters other than printable ASCII, which proxies may change.
    pub fn read(context: &Context<'_>) -> Result<Option<IdempotencyKey>, HttpError> {
        let mut values = context.head.headers.get_all(IDEMPOTENCY_KEY).into_iter();
        let Some(value) = values.next() else { return Ok(None) };
        let key = value.to_str().unwrap_or_default();
        let valid = (1..=KEY_CHARS_MAX).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic());
        if values.next().is_some() || !valid {
            return Err(HttpError::invalid(format!(
                "Idempotency-Key: expected one key of 1 to {KEY_CHARS_MAX} printable ASCII characters"
            )));
        }
        let target = context.head.uri.path_and_query().map_or("", |target| target.as_str());
        let method = context.head.method.as_str();
        let mut digest = Sha256::new();
        for part in [method.as_bytes(), target.as_bytes(), &context.body] {
            // With the length, so that no byte can move from one part to the next unnoticed.
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Ok(Some(IdempotencyKey { key: key.to_owned(), fingerprint: digest.finalize().to_vec() }))
    }
}
