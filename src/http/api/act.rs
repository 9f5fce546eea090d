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
use crate::http::answer::{json, set};
use crate::http::auth::Caller;
use crate::http::{ACTS, Answer, Context, Desk, Refusal, State};
use crate::scheduler::commands::By;
use crate::store::audit::Origin;
use crate::store::idempotency::{self, Known};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Printable ASCII, so that it is the same text everywhere.
const KEY_MAX: usize = 255;
const AGENT_MAX: usize = 512;

/// Who acts, from where, and under which key.
#[derive(Debug, Clone)]
pub struct Acting {
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
pub struct Done {
    status: u16,
    location: Option<String>,
    pub body: Value,
}

impl Done {
    /// It is done.
    pub fn ok(body: Value) -> Done {
        Done { status: StatusCode::OK.as_u16(), location: None, body }
    }

    /// Something was made.
    pub fn created(body: Value) -> Done {
        Done { status: StatusCode::CREATED.as_u16(), location: None, body }
    }

    /// As it goes over the wire.
    pub fn answer(&self, replayed: bool) -> Answer {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK);
        let mut answer = json(status, "application/json", &self.body);
        if let Some(location) = &self.location {
            set(&mut answer, LOCATION, location);
        }
        if replayed {
            set(&mut answer, REPLAYED, "true");
        }
        answer
    }
}

/// A change of the database.
pub trait Change: Send + Sync {
    /// Makes it. May run more than once, when it meets a conflict.
    fn apply<'t>(&'t self, tx: &'t Tx<'_>, acting: &'t Acting) -> TxFuture<'t, Effect>;
}

/// What came of a change inside its transaction.
pub enum Effect {
    Done(Done),
    /// Nothing was written, for this reason.
    Refused(Box<Refusal>),
}

impl Effect {
    /// Nothing was written, for this reason.
    pub fn refused(refusal: Refusal) -> Effect {
        Effect::Refused(Box::new(refusal))
    }
}

/// Runs a change in a task of its own: a client that hangs up, or whose time is over, cuts nothing short.
pub async fn detached<T, F>(
    context: &Context<'_>,
    work: impl FnOnce(Arc<State>, Acting) -> F,
) -> Result<T, Refusal>
where
    F: Future<Output = Result<T, Refusal>> + Send + 'static,
    T: Send + 'static,
{
    let acting = Acting::of(context)?;
    let Ok(slot) = Arc::clone(&context.state.acts).try_acquire_owned() else {
        let detail = format!("{ACTS} changes are under way already");
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail);
        return Err(refusal.later(Duration::from_secs(1)));
    };
    let (work, place) = (work(Arc::clone(context.state), acting), context.place.clone());
    let work = async move {
        let outcome = work.await;
        drop((slot, place));
        outcome
    };
    match context.state.tasks.spawn("http-act", work).await {
        Ok(outcome) => outcome,
        // The panic itself was logged where it happened.
        Err(_) => {
            let detail = "the request could not be answered; the log says why";
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
        }
    }
}

impl Acting {
    fn of(context: &Context<'_>) -> Result<Acting, Refusal> {
        let Some(caller) = context.caller.clone() else {
            // The table of routes gives every change an access that wants one.
            let detail = "this endpoint wants credentials";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail));
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
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "target_wanted", detail));
        }
        Ok(Acting { caller, origin, target, key: key(context)? })
    }

    /// Who is named in the audit trail and in rows of the ledger.
    pub fn actor(&self) -> &str {
        &self.caller.actor
    }

    /// It will be done; there one sees how it goes.
    pub fn accepted(&self, body: Value, run: Uuid) -> Done {
        let target =
            self.target.as_ref().map(|target| format!("?target={target}")).unwrap_or_default();
        Done {
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
    pub async fn once(&self, desk: &Desk, change: &dyn Change) -> Result<(Done, bool), Refusal> {
        let options = TxOptions::within(desk.db.query_timeout());
        let work = async {
            let mut conn = desk.db.acquire(Purpose::Api).await?;
            conn.transaction(&options, |tx| {
                Box::pin(async move {
                    match &self.key {
                        None => Ok(Outcome::New(change.apply(tx, self).await?)),
                        Some(key) => keyed(tx, self, key, change).await,
                    }
                })
            })
            .await
        };
        let told = |mut done: Done| {
            done.body["target"] = desk.db.name().into();
            done
        };
        match desk.within(desk.patience(), work).await? {
            Outcome::New(Effect::Done(done)) => Ok((told(done), false)),
            Outcome::New(Effect::Refused(refusal)) => Err(*refusal),
            Outcome::Before(done) => Ok((told(done), true)),
            Outcome::Other => {
                let detail = "this idempotency key was used for another request within the last day; take a new one";
                Err(super::input::unprocessable("idempotency_key_reused", detail))
            }
        }
    }
}

enum Outcome {
    New(Effect),
    Before(Done),
    Other,
}

async fn keyed(
    tx: &Tx<'_>,
    acting: &Acting,
    key: &Key,
    change: &dyn Change,
) -> Result<Outcome, Error> {
    let actor = acting.actor();
    match idempotency::take(tx, actor, &key.key, &key.fingerprint).await? {
        Known::Other => return Ok(Outcome::Other),
        Known::Done(answer) => {
            let read = serde_json::from_value(answer);
            let wrong = |error| {
                Error::new(Kind::Protocol, format!("a kept answer is not understood: {error}"))
            };
            return read.map(Outcome::Before).map_err(wrong);
        }
        Known::New => {}
    }
    let effect = change.apply(tx, acting).await?;
    match &effect {
        Effect::Done(done) => {
            let answer = serde_json::to_value(done).unwrap_or_default();
            idempotency::keep(tx, actor, &key.key, &answer).await?;
        }
        // What was refused may be asked for again.
        Effect::Refused(_) => idempotency::forget(tx, actor, &key.key).await?,
    }
    Ok(Outcome::New(effect))
}

/// Refuses a key that is none.
pub fn check_key(context: &Context<'_>) -> Result<(), Refusal> {
    key(context).map(drop)
}

fn key(context: &Context<'_>) -> Result<Option<Key>, Refusal> {
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
