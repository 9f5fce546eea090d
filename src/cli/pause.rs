//! `pgsteward pause --all` and `pgsteward resume --all`: the same as `pgsteward job pause --all` and
//! `pgsteward job resume --all`.

use clap::Args;

use super::job::pause::{self, Which};
use super::{Exit, Selection, Session};

#[derive(Debug, Args)]
pub struct Pause {
    /// All jobs, on every instance of this database
    #[arg(long, required = true)]
    all: bool,
    /// Why, for whoever finds it paused
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    selection: Selection,
}

#[derive(Debug, Args)]
pub struct Resume {
    /// All jobs, on every instance of this database
    #[arg(long, required = true)]
    all: bool,
    #[command(flatten)]
    selection: Selection,
}

impl Pause {
    pub async fn execute(self, session: Session) -> Exit {
        let paused =
            pause::pause(&session, &self.selection, &Which::All, self.reason.as_deref()).await;
        paused.unwrap_or_else(|exit| exit)
    }
}

impl Resume {
    pub async fn execute(self, session: Session) -> Exit {
        pause::resume(&session, &self.selection, &Which::All).await.unwrap_or_else(|exit| exit)
    }
}
