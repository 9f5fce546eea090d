//! `GET /whoami`: what credentials are good for.

use hyper::StatusCode;
use serde_json::json;

use crate::http::answer::json as answer;
use crate::http::{Answer, Context, Refusal};

/// Tells the caller who it is here.
pub fn whoami(context: &Context<'_>) -> Result<Answer, Refusal> {
    context.only(&[])?;
    let caller = context.caller.as_ref();
    let body = json!({
        "actor": caller.map(|caller| &caller.actor),
        "role": caller.map(|caller| caller.role.as_str()),
        "user": caller.and_then(|caller| caller.user.as_ref()),
    });
    Ok(answer(StatusCode::OK, "application/json", &body))
}
