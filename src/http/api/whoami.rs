//! `GET /whoami`: the caller's name and role.

use serde_json::json;

use crate::http::response::ok;
use crate::http::{Context, HttpError, Response};

pub fn whoami(context: &Context<'_>) -> Result<Response, HttpError> {
    context.check_parameters(&[])?;
    let caller = context.caller.as_ref();
    Ok(ok(&json!({
        "actor": caller.map(|caller| &caller.actor),
        "role": caller.map(|caller| caller.role.as_str()),
        "user": caller.and_then(|caller| caller.user.as_ref()),
    })))
}
