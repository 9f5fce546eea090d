//! Changes that callers ask for: each in a task of its own, in one transaction, once per idempotency key, audited.

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{HeaderName, LOCATION, USER_AGENT};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::input::invalid;
use crate::db::{Error, Kind, Purpose, Tx, TxFuture, TxOptions};
use crate::http::auth::Caller;
use crate::http::response::{json, set_header};
use crate::http::{ApiDatabase, Context, HttpError, MUTATIONS_MAX, Response, State};
use crate::scheduler::commands::By;
use crate::store::audit::Origin;
use crate::store::idempotency::{self, KeyState};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Printable ASCII, so that it is the same text everywhere.
const KEY_MAX: usize = 255;
const AGENT_MAX: usize = 512;

/// Who acts, from where, and under which key.
#[derive(Debug, Clone)]
pub struct MutationContext {
    pub caller: Caller,
    pub origin: Origin,
    pub target: Option<String>,
    key: Option<Key>,
}

#[derive(Debug, Clone)]
struct Key {
    key: String,
    /// Of method, path, query and body.
    fingerprint: Vec<u8>,
}

/// What a change came to, as it is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MutationReply {
    status: u16,
    location: Option<String>,
    pub body: Value,
}

impl MutationReply {
    /// It is done.
    pub fn ok(body: Value) -> MutationReply {
        MutationReply { status: StatusCode::OK.as_u16(), location: None, body }
    }

    /// Something was made.
    pub fn created(body: Value) -> MutationReply {
        MutationReply { status: StatusCode::CREATED.as_u16(), location: None, body }
    }

    /// As it goes over the wire.
    pub fn response(&self, replayed: bool) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut response = json(status, "application/json", &self.body);
        if let Some(location) = &self.location {
            set_header(&mut response, LOCATION, location);
        }
        if replayed {
            set_header(&mut response, REPLAYED, "true");
        }
        response
    }
}

/// A change of the database.
pub trait Mutation: Send + Sync {
    /// Makes it. May run more than once, when it meets a conflict.
    fn apply<'t>(
        &'t self,
        tx: &'t Tx<'_>,
        ctx: &'t MutationContext,
    ) -> TxFuture<'t, MutationResult>;
}

/// What came of a change inside its transaction.
pub enum MutationResult {
    Done(MutationReply),
    /// Nothing was written, for this reason.
    Refused(Box<HttpError>),
}

impl MutationResult {
    /// Nothing was written, for this reason.
    pub fn refused(error: HttpError) -> MutationResult {
        MutationResult::Refused(Box::new(error))
    }
}

/// Runs a change in a task of its own: a client that hangs up, or whose time is over, cuts nothing short.
pub async fn run_detached<T, F>(
    context: &Context<'_>,
    work: impl FnOnce(Arc<State>, MutationContext) -> F,
) -> Result<T, HttpError>
where
    F: Future<Output = Result<T, HttpError>> + Send + 'static,
    T: Send + 'static,
{
    let ctx = MutationContext::of(context)?;
    let Ok(slot) = Arc::clone(&context.state.mutation_slots).try_acquire_owned() else {
        let detail = format!("{MUTATIONS_MAX} changes are under way already");
        let error = HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail);
        return Err(error.retry_after(Duration::from_secs(1)));
    };
    let (work, batch_permit) = (work(Arc::clone(context.state), ctx), context.batch_permit.clone());
    let work = async move {
        let outcome = work.await;
        drop((slot, batch_permit));
        outcome
    };
    match context.state.tasks.spawn("http-act", work).await {
        Ok(outcome) => outcome,
        // The panic itself was logged where it happened.
        Err(_) => {
            let detail = "the request could not be answered; the log says why";
            Err(HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
        }
    }
}

impl MutationContext {
    fn of(context: &Context<'_>) -> Result<MutationContext, HttpError> {
        let Some(caller) = context.caller.clone() else {
            // The table of routes gives every change an access that wants one.
            let detail = "this endpoint wants credentials";
            return Err(HttpError::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail));
        };
        let agent = context
            .head
            .headers
            .get(USER_AGENT)
            .map(|agent| String::from_utf8_lossy(agent.as_bytes()));
        let origin = Origin {
            user_id: caller.user.clone(),
            ip_address: Some(canonical(context.from)),
            user_agent: agent
                .map(|agent| agent.chars().filter(|c| !c.is_control()).take(AGENT_MAX).collect()),
            request_id: Some(context.request_id.to_owned()),
        };
        let target = context.query.first("target").map(str::to_owned);
        if target.is_none() && context.state.boards.len() > 1 {
            let known: Vec<&str> = context.state.boards.keys().map(String::as_str).collect();
            let detail =
                format!("which database is to be changed? ?target= one of {}", known.join(", "));
            return Err(HttpError::new(StatusCode::BAD_REQUEST, "target_wanted", detail));
        }
        Ok(MutationContext { caller, origin, target, key: key(context)? })
    }

    /// Who is named in the audit trail and in rows of the ledger.
    pub fn actor(&self) -> &str {
        &self.caller.actor
    }

    /// It will be done; there one sees how it goes.
    pub fn accepted(&self, body: Value, run: Uuid) -> MutationReply {
        let target =
            self.target.as_ref().map(|target| format!("?target={target}")).unwrap_or_default();
        MutationReply {
            status: StatusCode::ACCEPTED.as_u16(),
            location: Some(format!("/runs/{run}{target}")),
            body,
        }
    }

    /// The same, for what is ordered of jobs.
    pub fn by(&self) -> By<'_> {
        By { actor: self.actor(), origin: Some(&self.origin) }
    }

    /// Makes a change in one transaction with the key, if there is one; where the key was used for the same before, gives
    /// that answer again. True: it did.
    pub async fn execute(
        &self,
        database: &ApiDatabase,
        check_mutation: &dyn Mutation,
    ) -> Result<(MutationReply, bool), HttpError> {
        let options = TxOptions::within(database.db.query_timeout());
        let work = async {
            let mut conn = database.db.acquire(Purpose::Api).await?;
            conn.transaction(&options, |tx| {
                Box::pin(async move {
                    match &self.key {
                        None => Ok(KeyedResult::New(check_mutation.apply(tx, self).await?)),
                        Some(key) => keyed(tx, self, key, check_mutation).await,
                    }
                })
            })
            .await
        };
        let with_target = |mut done: MutationReply| {
            done.body["target"] = database.db.name().into();
            done
        };
        match database.within(database.work_timeout(), work).await? {
            KeyedResult::New(MutationResult::Done(done)) => Ok((with_target(done), false)),
            KeyedResult::New(MutationResult::Refused(error)) => Err(*error),
            KeyedResult::Replayed(done) => Ok((with_target(done), true)),
            KeyedResult::KeyReused => {
                let detail = "this idempotency key was used for another request within the last day; take a new one";
                Err(super::input::unprocessable("idempotency_key_reused", detail))
            }
        }
    }
}

enum KeyedResult {
    New(MutationResult),
    Replayed(MutationReply),
    KeyReused,
}

async fn keyed(
    tx: &Tx<'_>,
    ctx: &MutationContext,
    key: &Key,
    check_mutation: &dyn Mutation,
) -> Result<KeyedResult, Error> {
    let actor = ctx.actor();
    match idempotency::claim_key(tx, actor, &key.key, &key.fingerprint).await? {
        KeyState::Mismatch => return Ok(KeyedResult::KeyReused),
        KeyState::Answered(response) => {
            let read = serde_json::from_value(response);
            let wrong = |error| {
                Error::new(Kind::Protocol, format!("a kept answer is not understood: {error}"))
            };
            return read.map(KeyedResult::Replayed).map_err(wrong);
        }
        KeyState::New => {}
    }
    let effect = check_mutation.apply(tx, ctx).await?;
    match &effect {
        MutationResult::Done(done) => {
            let response = serde_json::to_value(done).unwrap_or_default();
            idempotency::save_answer(tx, actor, &key.key, &response).await?;
        }
        // What was refused may be asked for again.
        MutationResult::Refused(_) => idempotency::release_key(tx, actor, &key.key).await?,
    }
    Ok(KeyedResult::New(effect))
}

/// Refuses a key that is none.
pub fn check_key(context: &Context<'_>) -> Result<(), HttpError> {
    key(context).map(drop)
}

fn key(context: &Context<'_>) -> Result<Option<Key>, HttpError> {
    let mut values = context.head.headers.get_all(IDEMPOTENCY_KEY).into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    let fits =
        (1..=KEY_MAX).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    if values.next().is_some() || !fits {
        return Err(invalid(format!(
            "Idempotency-Key: wanted one of 1 to {KEY_MAX} printable ASCII characters"
        )));
    }
    let mut digest = Sha256::new();
    for part in [
        context.head.method.as_str().as_bytes(),
        context.head.uri.path_and_query().map_or("", |target| target.as_str()).as_bytes(),
        &context.body,
    ] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    Ok(Some(Key { key: key.to_owned(), fingerprint: digest.finalize().to_vec() }))
}

/// An address of version 4 that arrived at a socket of version 6 is one of version 4.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
