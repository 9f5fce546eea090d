//! One table from its name to the proof that nothing before the cutoff is left.

use super::pace::Pace;
use super::slices::{self, Slicing};
use super::targets::Target;
use super::{ACTOR, Outcome, references, retire, trail};
use crate::db::{Error, Kind, Tx, TxOptions};
use crate::jobs::Context;
use crate::jobs::attempts::short;
use crate::observe::tables::identity::{self, Identity};
use crate::observe::tables::partitions::TimeType;
use crate::observe::tables::references::references;
use crate::observe::tables::relation::{Leaf, Relation, cutoff, find, leaves};
use crate::store::audit::Event;
use crate::store::holds;
use crate::store::partitions::SCHEMA;

/// Up to this size a table is purged without an index on its column: reading all of it is cheap.
pub const SMALL_BYTES: i64 = 8 * 1024 * 1024;

/// How the work on a table ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Whole,
    /// The job was told to stop.
    Stopped,
}

/// A table that may be purged.
#[derive(Debug)]
pub struct Table {
    pub relation: Relation,
    pub column: String,
    pub stamp: TimeType,
    pub cutoff: String,
    /// Rows `t` before the cutoff are purged only where this is true of them: no hold of the audit trail covers
    /// them. None for every other table.
    pub only: Option<&'static str>,
}

impl Table {
    /// The same as one more condition of a WHERE.
    pub fn and_only(&self) -> String {
        self.only.map(|only| format!(" AND {only}")).unwrap_or_default()
    }

    /// Options for a transaction that deletes or drops, or compares identities.
    pub fn purging(&self, options: TxOptions) -> TxOptions {
        if self.only.is_some() { holds::purge_options(options) } else { options.read_committed() }
    }

    /// Comes first in such a transaction: what is on hold is so until its end.
    pub async fn keep_holds(&self, tx: &Tx<'_>) -> Result<(), Error> {
        if self.only.is_some() { holds::lock_against_changes(tx).await } else { Ok(()) }
    }

    /// Locks `leaf`, to delete from it, and compares it and this table with what was looked up.
    ///
    /// ROW EXCLUSIVE is the lock that a DELETE takes anyway, and conflicts with RENAME, OWNER TO,
    /// ALTER COLUMN and DETACH of the leaf.
    pub async fn bind(&self, tx: &Tx<'_>, leaf: &Identity) -> Result<(), Error> {
        let root = &self.relation.id;
        let is_root = leaf.oid == root.oid;
        if !is_root {
            self.bind_root(tx).await?;
        }
        identity::lock(tx, leaf, "ROW EXCLUSIVE").await?;
        identity::compare(tx, leaf, (!is_root).then_some(root)).await
    }

    /// Locks this table and compares it with what was looked up. ACCESS SHARE is the weakest lock
    /// and conflicts with each statement that could change what is compared.
    pub async fn bind_root(&self, tx: &Tx<'_>) -> Result<(), Error> {
        identity::lock(tx, &self.relation.id, "ACCESS SHARE").await?;
        identity::compare(tx, &self.relation.id, None).await
    }
}

/// Purges one table; `targets` are all that retention names.
pub async fn table(
    ctx: &mut Context<'_>,
    target: &Target,
    targets: &[Target],
    outcome: &mut Outcome,
) -> Result<Ended, Error> {
    if target.column.is_some() && target.schema == SCHEMA {
        let what = "pgsteward's own tables have keys of their own (retention.audit_logs, …): remove this one";
        return Err(Error::new(Kind::Sql, what));
    }
    let table = &look_up(ctx, target).await?;
    outcome.column.clone_from(&table.column);
    outcome.cutoff.clone_from(&table.cutoff);
    let options = short(ctx).read_only();
    let oid = table.relation.id.oid;
    let keys = ctx
        .conn
        .transaction(&options, |tx| Box::pin(async move { references(tx, oid).await }))
        .await?;
    references::check(target, targets, &keys, outcome)?;
    if table.only.is_some() && !trail::certify(ctx, table).await? {
        verify(ctx, table, outcome).await?;
        trail::settle(ctx, table, outcome).await?;
        return Ok(Ended::Whole);
    }

    let roots = match retire::partitions(ctx, table, outcome).await? {
        retire::Left::Roots(roots) => roots,
        retire::Left::Stopped => return Ok(Ended::Stopped),
    };
    let leaves = sliceable(ctx, table, &roots).await?;
    let mut slicing = Slicing::new(
        table,
        Pace::new(ctx.config.retention.slice_target, ctx.config.retention.duty),
    );
    for leaf in &leaves {
        if slices::purge(ctx, &mut slicing, leaf, outcome).await? == Ended::Stopped {
            slicing.certify(ctx, outcome).await?;
            return Ok(Ended::Stopped);
        }
    }
    let left = verify(ctx, table, outcome).await?;
    slicing.certify(ctx, outcome).await?;
    if left {
        let oldest = outcome.oldest_left.as_deref().unwrap_or_default();
        return Err(Error::new(
            Kind::Sql,
            format!(
                "a row of {oldest} is left before the cutoff {}: a trigger or rule keeps rows from being deleted, \
                 or rows with old timestamps still arrive",
                table.cutoff
            ),
        ));
    }
    if table.only.is_some() {
        trail::settle(ctx, table, outcome).await?;
    }
    Ok(Ended::Whole)
}

/// Options for reads and deletes. With `row_security` off PostgreSQL raises an error where a policy
/// would hide rows; otherwise DELETE would remove none of them and report success.
pub fn options(ctx: &Context<'_>) -> TxOptions {
    let mut options = short(ctx);
    options.prelude.push_str("SET LOCAL row_security = off; ");
    options
}

/// An event about this table.
pub fn event<'a>(
    action: &'a str,
    resource_id: &'a str,
    details: &'a serde_json::Value,
) -> Event<'a> {
    Event::new(ACTOR, action, "table", resource_id, details)
}

async fn look_up(ctx: &mut Context<'_>, target: &Target) -> Result<Table, Error> {
    let options = short(ctx).read_only();
    ctx.conn.transaction(&options, |tx| Box::pin(look_up_in(tx, target))).await
}

/// Looks a target up, and fixes its cutoff.
pub async fn look_up_in(tx: &Tx<'_>, target: &Target) -> Result<Table, Error> {
    let relation = find(tx, &target.schema, &target.table, target.column.as_deref()).await?;
    let (column, stamp) = check(&relation, target)?;
    let cutoff = cutoff(tx, stamp, target.keep).await?;
    Ok(Table {
        relation,
        column,
        stamp,
        cutoff,
        only: target.is_trail().then_some(holds::NOT_HELD),
    })
}

/// Refuses what cannot be purged safely.
fn check(relation: &Relation, target: &Target) -> Result<(String, TimeType), Error> {
    let config = |what: String| Err(Error::new(Kind::Sql, what));
    let name = relation.id.name();
    if !matches!(relation.id.kind, 'r' | 'p') {
        let kind = match relation.id.kind {
            'v' => "a view",
            'm' => "a materialized view",
            'f' => "a foreign table",
            _ => "no table",
        };
        return config(format!(
            "{name} is {kind}; only tables can be purged: name the table that holds the rows"
        ));
    }
    if relation.id.schema == "information_schema"
        || relation.id.schema.starts_with("pg_")
        || relation.temporary
    {
        return config(format!(
            "{name} belongs to the system or to a session; remove it from retention.tables"
        ));
    }
    let Some(column) = &relation.id.column else {
        return match &target.column {
            Some(column) => config(format!("{name} has no column {column}")),
            None => config(format!("{name} is not partitioned by RANGE of one column")),
        };
    };
    let Some(stamp) = TimeType::from_type(&column.data_type) else {
        return config(format!(
            "column {} of {name} is of type {}; wanted timestamptz, timestamp or date",
            column.name, column.data_type
        ));
    };
    if !relation.deletable {
        return Err(Error::new(
            Kind::Permission,
            format!("needs GRANT SELECT, DELETE ON {} TO {}", relation.id.quoted(), relation.role),
        ));
    }
    Ok((column.name.clone(), stamp))
}

/// The tables at and beneath the roots, each fit for slices.
async fn sliceable(
    ctx: &mut Context<'_>,
    table: &Table,
    roots: &[u32],
) -> Result<Vec<Leaf>, Error> {
    let options = short(ctx).read_only();
    let leaves = ctx
        .conn
        .transaction(&options, |tx| Box::pin(async move { leaves(tx, roots, &table.column).await }))
        .await?;
    for leaf in &leaves {
        if leaf.id.kind == 'f' {
            let what = format!(
                "{} is a foreign table: rows elsewhere are not purged from here",
                leaf.id.name()
            );
            return Err(Error::new(Kind::Sql, what));
        }
        if !leaf.indexed && leaf.size_bytes > SMALL_BYTES {
            let column = crate::db::quote_ident(&table.column);
            return Err(Error::new(
                Kind::Sql,
                format!(
                    "{} has no usable B-tree index that begins with {column} and is too large ({} MiB) to be read \
                     whole for each slice: CREATE INDEX CONCURRENTLY ON {} ({column})",
                    leaf.id.name(),
                    leaf.size_bytes / (1024 * 1024),
                    leaf.id.quoted(),
                ),
            ));
        }
    }
    Ok(leaves)
}

/// Reads the oldest row that is left, wherever it lies. Rows on hold do not count.
async fn verify(
    ctx: &mut Context<'_>,
    table: &Table,
    outcome: &mut Outcome,
) -> Result<bool, Error> {
    let options = table.purging(options(ctx).read_only());
    let oldest = ctx
        .conn
        .transaction(&options, |tx| {
            Box::pin(async move {
                table.bind_root(tx).await?;
                slices::oldest(tx, table).await
            })
        })
        .await?;
    let past = oldest.as_ref().is_some_and(|(_, past)| *past);
    outcome.oldest_left = oldest.map(|(at, _)| at);
    Ok(past)
}
