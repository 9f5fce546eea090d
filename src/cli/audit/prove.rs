//! `pgsteward audit prove`

use clap::Args;
use uuid::Uuid;

use crate::audit::prove::{ProofResult, prove};
use crate::cli::job::failed;
use crate::cli::{Exit, Selection, Session, bounded, print_json, say};
use crate::db::{Conn, Purpose, TxOptions};

#[derive(Debug, Args)]
pub struct Prove {
    /// The event's id
    #[arg(value_name = "ID")]
    id: Uuid,
    /// Also the seals after the event's, up to this number: for a head that was published later
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
    #[command(flatten)]
    selection: Selection,
}

impl Prove {
    pub async fn execute(self, session: &Session) -> Result<Exit, Exit> {
        let opened = session.open(&self.selection)?;
        let db = &opened.db;
        let bound = db.query_timeout();
        let (id, to) = (self.id, self.to);
        let proven = bounded("prove an event", bound * 3, async {
            let conn: &mut Conn = &mut *db.acquire(Purpose::Check).await?;
            let options = TxOptions::within(bound).read_only();
            conn.transaction(&options, |tx| Box::pin(prove(tx, id, to))).await
        });
        let refused = |what: String, exit| {
            say(&format!("database {}: event {id} {what}", db.name()));
            Err(exit)
        };
        match proven.await.map_err(|error| failed(db.name(), &error))? {
            ProofResult::Proven(proof) => {
                print_json(&proof);
                Ok(Exit::Ok)
            }
            ProofResult::NoRow => refused("is not in the trail: it never was, or it was purged".to_owned(), Exit::Usage),
            ProofResult::Unsealed => refused(
                "is not sealed yet: the job audit-seal does so within minutes, unless a transaction is open".to_owned(),
                Exit::Later,
            ),
            ProofResult::Refuted { entry } => {
                refused(format!("is not as seal {entry} has it: see `pgsteward audit verify`"), Exit::Audit)
            }
        }
    }
}
