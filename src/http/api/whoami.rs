//! `GET /whoami`: what credentials are good for.

use serde_json::json;

use crate::http::response::ok;
use crate::http::{Context, HttpError, Response};

/// Tells the caller who it is here.
pub fn whoami(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let caller = context.caller.as_ref();
    let body = json!({
        "actor": caller.map(|caller| &caller.actor),
        "role": caller.map(|caller| caller.role.as_str()),
        "user": caller.and_then(|caller| caller.user.as_ref()),
    });
    Ok(ok(&body))
}
