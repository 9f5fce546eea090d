//! What an earlier run left half done: a pending detach, and tables that were detached but not dropped.

use super::Outcome;
use super::purge::Table;
use super::retire::{cut_off, drop_detached, forget};
use crate::db::Error;
use crate::jobs::attempts::short;
use crate::jobs::{Context, partitions};
use crate::observe::tables::identity::Identity;
use crate::observe::tables::partitions::{FormerPartition, former};
use crate::store::retirements::{self, Retirement};

/// Finishes a pending detach, and drops or tells what was announced.
pub async fn finish(
    ctx: &mut Context<'_>,
    table: &Table,
    outcome: &mut Outcome,
) -> Result<(), Error> {
    if let Some(partition) = cut_off(ctx, table).await? {
        partitions::finalize(ctx, &table.relation, &partition).await?;
        outcome
            .notes
            .push(format!("an interrupted detach of {} was finished", partition.id.name()));
    }
    let options = short(ctx).read_only();
    let announced = ctx
        .conn
        .transaction(&options, |tx| {
            Box::pin(async move {
                let mut announced = Vec::new();
                for row in retirements::list(tx, table.relation.id.oid).await? {
                    let now =
                        former(tx, row.partition, table.stamp, &row.upper, &table.cutoff).await?;
                    announced.push((row, now));
                }
                Ok(announced)
            })
        })
        .await?;
    for (row, now) in announced {
        match next(&row, now.as_ref()) {
            Next::Forget => forget(ctx, row.partition).await?,
            Next::Tell(note) => outcome.warn(note),
            // A partition of the trail is detached and dropped at once: this one is out of reach of holds.
            Next::Drop(id) if table.only.is_some() => {
                outcome.warn(format!(
                    "{} was detached to be dropped, which is not done for it; attach or drop it",
                    id.name()
                ));
            }
            Next::Drop(id) => {
                if drop_detached(ctx, table, &id).await? {
                    outcome.strategy.insert("partitions");
                    outcome.partitions.push(id.name());
                }
            }
        }
    }
    Ok(())
}

/// What an announced partition needs.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Drop(Identity),
    Forget,
    Tell(String),
}

/// Judges what stands where a partition was announced.
fn next(row: &Retirement, now: Option<&FormerPartition>) -> Next {
    let Some(now) = now else { return Next::Forget };
    if now.id.quoted() != row.name || now.attached {
        return Next::Forget;
    }
    let name = now.id.name();
    if !row.detached {
        Next::Tell(format!(
            "{name} was to be detached and dropped, a run was cut off, and it stands alone now: perhaps somebody else \
             detached it to keep it, so it is not dropped; drop, attach or rename it"
        ))
    } else if !now.owned {
        Next::Tell(format!(
            "{name} was detached to be dropped, but is no longer owned by this role: drop it"
        ))
    } else if !now.past {
        Next::Tell(format!(
            "{name} was detached to be dropped, but its rows are no longer past the cutoff; drop or attach it"
        ))
    } else {
        Next::Drop(now.id.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_detached_is_dropped() {
        let row = |detached| Retirement {
            partition: 7,
            name: "\"s\".\"p\"".to_owned(),
            upper: "2001-01-01".to_owned(),
            detached,
        };
        let now = |table: &str, attached, owned, past| {
            let id = Identity {
                oid: 7,
                schema: "s".to_owned(),
                table: table.to_owned(),
                kind: 'r',
                owner: 10,
                owner_name: "o".to_owned(),
                column: None,
            };
            Some(FormerPartition { id, attached, owned, past })
        };
        let p = "p";
        // (the row says so, what is there now) → wanted
        let table = [
            (true, now(p, false, true, true), "drop"),
            (false, now(p, false, true, true), "tell"),
            (true, now(p, false, false, true), "tell"),
            (true, now(p, false, true, false), "tell"),
            (true, now(p, true, true, true), "forget"),
            (false, now(p, true, true, true), "forget"),
            (true, now("kept", false, true, true), "forget"),
            (true, None, "forget"),
        ];
        for (detached, now, wanted) in table {
            let did = match next(&row(detached), now.as_ref()) {
                Next::Drop(_) => "drop",
                Next::Forget => "forget",
                Next::Tell(_) => "tell",
            };
            assert_eq!(did, wanted, "detached {detached}, {now:?}");
        }
    }
}
