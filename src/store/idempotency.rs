//! Requests that carry a key, so that one that is sent again is not done again.
//!
//! The key is written in the transaction of the effect: a request whose answer was lost has either been done, and is
//! answered as the first time, or has not, and is done now. One that arrives while the first is still under way waits
//! for it.

use serde_json::Value;
use tokio_postgres::types::Type;

use crate::db::{Error, Tx};

/// How long a key is remembered.
pub const KEEP: &str = "1 day";

/// What is known of a request's key.
#[derive(Debug, Clone, PartialEq)]
pub enum KeyState {
    /// It is new, and now ours: [`save_answer`] the answer, or [`release_key`] the key.
    New,
    /// It was done, and answered so.
    Answered(Value),
    /// The key was used for another request.
    Mismatch,
}

/// Takes a key of a caller.
pub async fn claim_key(
    tx: &Tx<'_>,
    caller: &str,
    key: &str,
    fingerprint: &[u8],
) -> Result<KeyState, Error> {
    const TAKE: &str = "
        INSERT INTO steward.idempotency_keys AS k (caller, key, fingerprint) VALUES ($1, $2, $3)
            ON CONFLICT (caller, key) DO UPDATE
               SET fingerprint = excluded.fingerprint, answer = NULL, created_at = clock_timestamp()
             WHERE k.created_at < clock_timestamp() - $4::text::interval";
    const READ: &str =
        "SELECT fingerprint, answer FROM steward.idempotency_keys WHERE caller = $1 AND key = $2";
    let who = [(&caller as _, Type::TEXT), (&key as _, Type::TEXT)];
    let params = [
        who[0].clone(),
        who[1].clone(),
        (&fingerprint as _, Type::BYTEA),
        (&KEEP as _, Type::TEXT),
    ];
    if tx.execute("take an idempotency key", TAKE, &params).await? == 1 {
        return Ok(KeyState::New);
    }
    let row = tx.row("read an idempotency key", READ, &who).await?;
    let same = row.get::<_, &[u8]>(0) == fingerprint;
    // The row was committed with its answer.
    Ok(if same {
        KeyState::Answered(row.get::<_, Option<Value>>(1).unwrap_or_default())
    } else {
        KeyState::Mismatch
    })
}

/// Keeps the answer with the key.
pub async fn save_answer(
    tx: &Tx<'_>,
    caller: &str,
    key: &str,
    answer: &Value,
) -> Result<(), Error> {
    const SQL: &str =
        "UPDATE steward.idempotency_keys SET answer = $3 WHERE caller = $1 AND key = $2";
    let params = [(&caller as _, Type::TEXT), (&key as _, Type::TEXT), (&answer as _, Type::JSONB)];
    tx.execute("keep an answer", SQL, &params).await?;
    Ok(())
}

/// Gives the key back: nothing was done.
pub async fn release_key(tx: &Tx<'_>, caller: &str, key: &str) -> Result<(), Error> {
    const SQL: &str = "DELETE FROM steward.idempotency_keys WHERE caller = $1 AND key = $2";
    tx.execute("give an idempotency key back", SQL, &[(&caller, Type::TEXT), (&key, Type::TEXT)])
        .await?;
    Ok(())
}

/// Deletes at most `limit` expired keys. Returns how many.
pub async fn prune(tx: &Tx<'_>, limit: i64) -> Result<u64, Error> {
    const SQL: &str = "
        DELETE FROM steward.idempotency_keys
         WHERE ctid = ANY (ARRAY(
               SELECT ctid FROM steward.idempotency_keys
                WHERE created_at < clock_timestamp() - $1::text::interval
                ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED))
           AND created_at < clock_timestamp() - $1::text::interval";
    tx.execute("prune idempotency keys", SQL, &[(&KEEP, Type::TEXT), (&limit, Type::INT8)]).await
}
