//! Responds to requests that queue runs: immediately, or when the runs have finished.

use std::time::Duration;

use hyper::header::HeaderName;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::mutation::MutationReply;
use super::run_lookup::{find, is_finished};
use crate::http::response::{ok, set_header};
use crate::http::{Context, HttpError, Response};

const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// Pauses between two reads of a run grow from the first to the second.
const POLL_FIRST: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(2);
/// Kept of the request's time for the response, if a run does not finish in time.
const RESPONSE_RESERVE: Duration = Duration::from_secs(1);

/// Returns the reply. If the caller prefers to wait and all runs finish in time, returns the runs
/// instead: the run itself if the reply has one, a list if it has several.
pub async fn respond_with_run(
    context: &Context<'_>,
    reply: MutationReply,
) -> Result<Response, HttpError> {
    let (Some(wait), Some(id)) = (context.wait(), parse_id(&reply.body["run_id"])) else {
        return Ok(reply.response());
    };
    let list = reply.body["runs"].as_array();
    let ids: Vec<Uuid> = match list {
        None => vec![id],
        Some(runs) => runs.iter().filter_map(|run| parse_id(&run["id"])).collect(),
    };
    let mut response = match (finished_within(context, &ids, wait).await?, list) {
        (None, _) => reply.response(),
        (Some(mut runs), None) => ok(&runs.pop()),
        (Some(runs), Some(_)) => {
            ok(&json!({ "target": reply.body["target"], "run_id": id, "runs": runs }))
        }
    };
    set_header(&mut response, PREFERENCE_APPLIED, &format!("wait={}", wait.as_secs()));
    Ok(response)
}

fn parse_id(value: &Value) -> Option<Uuid> {
    Uuid::try_parse(value.as_str()?).ok()
}

/// Waits for runs to finish. Returns `None` if they do not finish within `wait`.
async fn finished_within(
    context: &Context<'_>,
    ids: &[Uuid],
    wait: Duration,
) -> Result<Option<Vec<Value>>, HttpError> {
    let database = context.database()?;
    let mut pause = POLL_FIRST;
    let until = Instant::now() + wait.min(context.time_left().saturating_sub(RESPONSE_RESERVE));
    let mut finished = Vec::new();
    while let Some(id) = ids.get(finished.len()) {
        let found = timeout_at(until, find(&database, *id)).await;
        let left = until.saturating_duration_since(Instant::now());
        match found {
            Ok(Ok(run)) if is_finished(&run) => finished.push(run),
            // An error says nothing about the run: the database may be back before the wait ends.
            // Half of the time that is left, so that there is a last read shortly before its end.
            Ok(_) if left >= POLL_FIRST => sleep(pause.min(left / 2)).await,
            Ok(_) | Err(_) => return Ok(None),
        }
        pause = (pause * 3 / 2).min(POLL_MAX);
    }
    Ok(Some(finished))
}
