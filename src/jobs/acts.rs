//! What a run of maintenance did, as one row of the audit trail.

use serde_json::{Map, Value, json};

use super::Context;
use super::attempts::short;
use crate::db::Error;
use crate::store::audit::{self, Event};

/// Names told one by one; the rest is counted.
const NAMED: usize = 50;

/// What was done to which, in the order in which it was done.
pub type Done = Vec<(String, Value)>;

/// Records what a run did: under `kind` (`tables`, `views`), for each name. Nothing for a run that did nothing.
///
/// The work itself cannot be part of the transaction: VACUUM has none, and each REFRESH has its own.
pub async fn record(
    ctx: &mut Context<'_>,
    action: &str,
    kind: &str,
    done: Done,
) -> Result<(), Error> {
    if done.is_empty() {
        return Ok(());
    }
    let actor = &format!("job:{}", ctx.job.as_str());
    let target = &ctx.db.name().to_owned();
    let details = &details(json!({ "run_id": ctx.run_id }), kind, done);
    let options = short(ctx);
    ctx.transaction(&options, |tx| {
        Box::pin(async move {
            audit::record(tx, &Event::new(actor, action, "database", target, details)).await
        })
    })
    .await
}

fn details(mut details: Value, kind: &str, done: Done) -> Value {
    let more = done.len().saturating_sub(NAMED);
    details[kind] = done.into_iter().take(NAMED).collect::<Map<String, Value>>().into();
    if more > 0 {
        details["more"] = json!(more);
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_and_the_rest_is_counted() {
        let done = |count| {
            (0..count).map(|n| (format!("public.t{n:02}"), json!("vacuum"))).collect::<Done>()
        };
        let few = details(json!({}), "tables", done(50));
        assert_eq!((few["tables"].as_object().map(Map::len), few.get("more")), (Some(50), None));
        let many = details(json!({}), "tables", done(53));
        assert_eq!(
            (many["tables"].as_object().map(Map::len), &many["more"]),
            (Some(50), &json!(3))
        );
    }
}
