//! `pgsteward role`: the SQL of a least-privilege role, job by job.
//!
//! Nothing is connected to and nothing is run: the text goes to whoever may run it.

use clap::Args;

use super::{Exit, print, say};
use crate::db::{quote_ident, quote_literal};

#[derive(Debug, Args)]
pub struct Role {
    /// The role's name
    #[arg(long, default_value = "pgsteward", value_name = "NAME")]
    user: String,
    /// The database that it keeps
    #[arg(long = "for-database", default_value = "app", value_name = "NAME")]
    for_database: String,
    /// The role that owns the application's tables
    #[arg(long, default_value = "app_owner", value_name = "NAME")]
    owner: String,
    /// The application's schema
    #[arg(long, default_value = "public", value_name = "NAME")]
    schema: String,
    /// Only this part
    #[arg(long, value_enum)]
    job: Option<Part>,
}

/// What the role is for, one part a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Connect, measure, keep its own schema (health-probe, connection-metrics, partitions, audit-seal)
    Base,
    /// Apply the application's migrations
    Migrations,
    /// Delete what is past its retention from the application's tables
    Retention,
    /// VACUUM and ANALYZE
    Vacuum,
    /// REFRESH MATERIALIZED VIEW
    Refresh,
}

const PARTS: [Part; 5] =
    [Part::Base, Part::Migrations, Part::Retention, Part::Vacuum, Part::Refresh];

impl Role {
    /// Prints it.
    pub fn print(&self) -> Exit {
        for (option, value) in [
            ("--user", &self.user),
            ("--for-database", &self.for_database),
            ("--owner", &self.owner),
            ("--schema", &self.schema),
        ] {
            if value.is_empty() || value.len() > 63 || value.contains('\0') {
                say(&format!("{option}: found {value:?}, wanted a name of 1 to 63 bytes"));
                return Exit::Usage;
            }
        }
        let parts: Vec<String> = PARTS
            .into_iter()
            .filter(|part| self.job.is_none_or(|job| job == *part))
            .map(|part| self.sql(part))
            .collect();
        print(&parts.join("\n\n"));
        Exit::Ok
    }

    fn sql(&self, part: Part) -> String {
        let (user, database) = (quote_ident(&self.user), quote_ident(&self.for_database));
        let (owner, schema) = (quote_ident(&self.owner), quote_ident(&self.schema));
        let own = quote_literal(&format!("GRANT {owner} TO {user}"));
        let maintain = quote_literal(&format!("GRANT pg_maintain TO {user}"));
        match part {
            Part::Base => format!(
                "-- Connect, measure, keep its own schema. Set a password with: \\password {user}\n\
                 -- The limit: 9 at most for the instance that observes (jobs.max_concurrent 2, pool_max_size 2),\n\
                 -- one for each other, and some for the command line.\n\
                 CREATE ROLE {user} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 20;\n\
                 GRANT pg_monitor TO {user};\n\
                 GRANT CONNECT, CREATE ON DATABASE {database} TO {user};"
            ),
            Part::Migrations => format!(
                "-- Apply the application's migrations as their owner (migrations.role = {:?}).\n\
                 GRANT {owner} TO {user};",
                self.owner
            ),
            Part::Retention => format!(
                "-- Delete old rows: only for the tables that [retention.tables] names. Dropping whole partitions\n\
                 -- needs their ownership: GRANT {owner} TO {user}.\n\
                 GRANT USAGE ON SCHEMA {schema} TO {user};\n\
                 -- GRANT SELECT, DELETE ON {schema}.your_table TO {user};"
            ),
            // Each by itself is enough: the parts are printed one by one, too.
            Part::Vacuum | Part::Refresh => format!(
                "-- {}: PostgreSQL 17 and later have a privilege for it; before, ownership.\n\
                 DO $$ BEGIN\n\
                 \x20   IF current_setting('server_version_num')::int >= 170000 THEN\n\
                 \x20       EXECUTE {maintain};\n\
                 \x20   ELSE\n\
                 \x20       EXECUTE {own};\n\
                 \x20   END IF;\n\
                 END $$;",
                if part == Part::Vacuum {
                    "VACUUM and ANALYZE"
                } else {
                    "REFRESH MATERIALIZED VIEW"
                }
            ),
        }
    }
}
