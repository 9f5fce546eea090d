//! Mutations that callers request.
//!
//! A mutation runs in a task of its own, so that it is not cut off when the client disconnects or
//! the request times out. One transaction holds the idempotency key, the effect, its row in the
//! audit log and the stored response. A request that repeats a key gets the stored response.

use std::future::Future;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{HeaderName, LOCATION, USER_AGENT};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::idempotency_key::IdempotencyKey;
use crate::db::{Error, Kind, Purpose, Tx, TxFuture, TxOptions};
use crate::http::auth::Caller;
use crate::http::response::{json, set_header};
use crate::http::{ApiDatabase, Context, HttpError, MUTATIONS_MAX, Response, State};
use crate::scheduler::commands::By;
use crate::store::audit::Origin;
use crate::store::idempotency::{self, KeyState};

const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const USER_AGENT_CHARS_MAX: usize = 512;

/// Who requests a mutation, from where, and on which database.
#[derive(Debug)]
pub struct MutationContext {
    pub state: Arc<State>,
    pub database: Arc<ApiDatabase>,
    pub caller: Caller,
    pub origin: Origin,
    /// The parameter `target`, if the request has it.
    target: Option<String>,
    key: Option<IdempotencyKey>,
}

/// The response to a mutation, as it is sent and as it is stored with the idempotency key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MutationReply {
    status: u16,
    location: Option<String>,
    pub body: Value,
    /// The key was used before, and this is the response of that time.
    #[serde(skip)]
    pub replayed: bool,
}

/// The result of a mutation inside its transaction. After an `Err` nothing is written.
pub type MutationResult = Result<MutationReply, HttpError>;

/// Performs a mutation with parameters `P`. Runs again if the transaction meets a conflict.
pub type Apply<P> =
    for<'t> fn(&'t Tx<'_>, &'t MutationContext, &'t P) -> TxFuture<'t, MutationResult>;

impl MutationReply {
    pub fn ok(body: Value) -> MutationReply {
        MutationReply::new(StatusCode::OK, body)
    }

    pub fn created(body: Value) -> MutationReply {
        MutationReply::new(StatusCode::CREATED, body)
    }

    fn new(status: StatusCode, body: Value) -> MutationReply {
        MutationReply { status: status.as_u16(), location: None, body, replayed: false }
    }

    /// Returns the reply as it goes over the wire.
    pub fn response(&self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut response = json(status, "application/json", &self.body);
        if let Some(location) = &self.location {
            set_header(&mut response, LOCATION, location);
        }
        if self.replayed {
            set_header(&mut response, REPLAYED, "true");
        }
        response
    }
}

/// Runs `work` in a task of its own. Fails with `busy` if [`MUTATIONS_MAX`] run already.
pub async fn run_detached<F>(
    context: &Context<'_>,
    key: Option<IdempotencyKey>,
    work: impl FnOnce(MutationContext) -> F,
) -> MutationResult
where
    F: Future<Output = MutationResult> + Send + 'static,
{
    let ctx = MutationContext::new(context, key)?;
    let Ok(slot) = Arc::clone(&context.state.mutation_slots).try_acquire_owned() else {
        return Err(HttpError::busy(format!("{MUTATIONS_MAX} changes are in progress")));
    };
    let (work, batch_permit) = (work(ctx), context.batch_permit.clone());
    let work = async move {
        let result = work.await;
        drop((slot, batch_permit));
        result
    };
    let ended = context.state.tasks.spawn("http-mutation", work).await;
    // The task has already logged its panic.
    ended.unwrap_or_else(|_| Err(HttpError::internal()))
}

impl MutationContext {
    fn new(
        context: &Context<'_>,
        key: Option<IdempotencyKey>,
    ) -> Result<MutationContext, HttpError> {
        let caller = context.caller.clone().ok_or_else(HttpError::unauthenticated)?;
        let agent = context.head.headers.get(USER_AGENT);
        let agent = agent.map(|agent| String::from_utf8_lossy(agent.as_bytes()));
        let printable = |agent: &str| -> String {
            agent.chars().filter(|c| !c.is_control()).take(USER_AGENT_CHARS_MAX).collect()
        };
        let origin = Origin {
            user_id: caller.user.clone(),
            // An IPv4 client of an IPv6 socket is recorded by its IPv4 address.
            ip_address: Some(context.from.to_canonical()),
            user_agent: agent.as_deref().map(printable),
            request_id: Some(context.request_id.to_owned()),
        };
        let target = context.query.first("target").map(str::to_owned);
        if target.is_none() && context.state.boards.len() > 1 {
            let known: Vec<&str> = context.state.boards.keys().map(String::as_str).collect();
            let detail = format!(
                "a change requires the parameter target if there are several databases: one of {}",
                known.join(", ")
            );
            return Err(HttpError::new(StatusCode::BAD_REQUEST, "target_required", detail));
        }
        let database = context.database()?;
        Ok(MutationContext {
            state: Arc::clone(context.state),
            database,
            caller,
            origin,
            target,
            key,
        })
    }

    /// The name that the audit log and the rows of runs record.
    pub fn actor(&self) -> &str {
        &self.caller.actor
    }

    /// Returns the actor and the origin for a command to the scheduler.
    pub fn by(&self) -> By<'_> {
        By { actor: self.actor(), origin: Some(&self.origin) }
    }

    /// Returns 202 with the address at which the run can be read.
    pub fn accepted(&self, body: Value, run: Uuid) -> MutationReply {
        let target =
            self.target.as_ref().map(|target| format!("?target={target}")).unwrap_or_default();
        let location = Some(format!("/runs/{run}{target}"));
        MutationReply { location, ..MutationReply::new(StatusCode::ACCEPTED, body) }
    }

    /// Performs a mutation and stores its reply with the idempotency key, in one transaction. If the
    /// key was used for this request before, returns the stored reply instead.
    pub async fn execute<P: Sync>(&self, params: &P, apply: Apply<P>) -> MutationResult {
        let database = &self.database;
        let options = TxOptions::within(database.db.query_timeout());
        let work = async {
            let mut conn = database.db.acquire(Purpose::Api).await?;
            conn.transaction(&options, |tx| {
                Box::pin(async move {
                    match &self.key {
                        None => apply(tx, self, params).await,
                        Some(key) => self.execute_once(tx, key, params, apply).await,
                    }
                })
            })
            .await
        };
        let mut reply = database.within(database.work_timeout(), work).await??;
        reply.body["target"] = database.db.name().into();
        Ok(reply)
    }

    async fn execute_once<P: Sync>(
        &self,
        tx: &Tx<'_>,
        key: &IdempotencyKey,
        params: &P,
        apply: Apply<P>,
    ) -> Result<MutationResult, Error> {
        let actor = self.actor();
        match idempotency::claim_key(tx, actor, &key.key, &key.fingerprint).await? {
            KeyState::New => {}
            KeyState::Answered(stored) => {
                let reply = serde_json::from_value(stored);
                let reply: MutationReply = reply.map_err(|error| {
                    let message = format!("cannot parse the stored response of a key: {error}");
                    Error::new(Kind::Protocol, message)
                })?;
                return Ok(Ok(MutationReply { replayed: true, ..reply }));
            }
            KeyState::Mismatch => {
                let detail = "this idempotency key was used for another request in the last day; use a new key";
                return Ok(Err(HttpError::unprocessable("idempotency_key_reused", detail)));
            }
        }
        let result = apply(tx, self, params).await?;
        match &result {
            Ok(reply) => {
                let stored = serde_json::to_value(reply).unwrap_or_default();
                idempotency::save_answer(tx, actor, &key.key, &stored).await?;
            }
            // The caller may repeat a refused request with the same key.
            Err(_) => idempotency::release_key(tx, actor, &key.key).await?,
        }
        Ok(result)
    }
}
