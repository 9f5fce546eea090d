//! x
use crate::db::*;
use std::sync::Arc;
use std::time::Duration;
pub fn t(tasks: &crate::lifecycle::Tasks, db: Arc<Database>) {
    tasks.spawn("x", async move {
        let mut c = db.acquire(Purpose::Job).await?;
        let name = String::from("x");
        let name = &name;
        let n = c
            .transaction(&TxOptions::within(Duration::from_secs(1)), |tx| {
                Box::pin(async move {
                    let r = tx.row("x", "select $1", &[(name, tokio_postgres::types::Type::TEXT)]).await?;
                    Ok(r.get::<_, String>(0))
                })
            })
            .await?;
        drop(n);
        let n = c
            .transaction(&TxOptions::within(Duration::from_secs(1)), |tx| Box::pin(inner(tx, uuid::Uuid::now_v7())))
            .await?;
        Ok::<(), Error>(())
    });
}
pub async fn job(conn: &mut Conn, id: uuid::Uuid) -> Result<i64, Error> {
    conn.transaction(&TxOptions::within(Duration::from_secs(1)), |tx| Box::pin(async move { inner(tx, id).await }))
        .await
}
pub async fn inner(tx: &Tx<'_>, id: uuid::Uuid) -> Result<i64, Error> {
    let r = tx.row("x", "select $1", &[(&id, tokio_postgres::types::Type::UUID)]).await?;
    Ok(r.get(0))
}
pub fn t2(tasks: &crate::lifecycle::Tasks, db: Arc<Database>) {
    tasks.spawn("x", async move {
        let mut c = db.acquire(Purpose::Job).await?;
        job(&mut c, uuid::Uuid::now_v7()).await?;
        Ok::<(), Error>(())
    });
}
