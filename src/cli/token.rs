//! `pgsteward token new`: a bearer token for the HTTP API, and what the configuration has to say of it.
//!
//! Nothing is read and nothing is stored: the token is shown once, and only its hash goes into the configuration.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{Exit, print, print_json, say};
use crate::config::auth::{TOKEN_NAME, is_token_name, parse_expiry};
use crate::config::{Cidr, Role};
use crate::http::auth::token;

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token; print it, and the section for the configuration
    New(New),
}

#[derive(Debug, Args)]
pub struct New {
    /// Its name, which stands in the audit trail
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// What its bearer may do
    #[arg(long, value_enum)]
    role: TokenRole,
    /// No longer accepted from this date (its beginning, by UTC) or instant on, such as 2027-01-31
    #[arg(long, value_name = "DATE", value_parser = expiry)]
    expires: Option<DateTime<Utc>>,
    /// Accepted only from this range of addresses, such as 10.0.0.0/8; may be said several times
    #[arg(long = "cidr", value_name = "CIDR", value_parser = cidr)]
    cidrs: Vec<Cidr>,
}

/// A token is nobody's row, so that there is no `user`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum TokenRole {
    /// Reads everything
    Viewer,
    /// Runs, pauses and cancels jobs, too
    Operator,
    /// May do everything
    Admin,
    /// Writes audit events, and reads its own acts of the trail
    Service,
}

impl TokenRole {
    fn role(self) -> Role {
        match self {
            TokenRole::Viewer => Role::Viewer,
            TokenRole::Operator => Role::Operator,
            TokenRole::Admin => Role::Admin,
            TokenRole::Service => Role::Service,
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Made<'a> {
    name: &'a str,
    /// Shown here and nowhere else.
    token: &'a str,
    role: &'static str,
    sha256: String,
    expires: Option<String>,
    cidrs: Vec<String>,
    /// The section for the configuration.
    toml: String,
}

impl Token {
    /// Makes it and prints it.
    pub fn print(&self, json: bool) -> Exit {
        let Token::New(new) = self;
        if new.expires.is_some_and(|expires| expires <= Utc::now()) {
            say("--expires: found an instant that has passed, wanted one to come");
            return Exit::Usage;
        }
        let secret = match token::generate() {
            Ok(secret) => secret,
            Err(error) => {
                say(&error.to_string());
                return Exit::Internal;
            }
        };
        let made = new.describe(secret.expose());
        if json {
            print_json(&made);
        } else {
            print(&format!("{}\n\n{}", made.token, made.toml));
        }
        say(
            "this token is not stored and cannot be shown again: give it to who is to call, and put the section \
             [auth.tokens] into the configuration of pgsteward",
        );
        Exit::Ok
    }
}

impl New {
    fn describe<'a>(&'a self, token: &'a str) -> Made<'a> {
        let mut made = Made {
            name: &self.name,
            token,
            role: self.role.role().as_str(),
            sha256: token::hex(&token::digest(token)),
            expires: self
                .expires
                .map(|expires| expires.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            cidrs: self.cidrs.iter().map(Cidr::to_string).collect(),
            toml: String::new(),
        };
        made.toml = section(&made);
        made
    }
}

fn section(made: &Made<'_>) -> String {
    // A dot would part the name.
    let name =
        if made.name.contains('.') { format!("{:?}", made.name) } else { made.name.to_owned() };
    let mut toml =
        format!("[auth.tokens.{name}]\nrole = {:?}\nsha256 = {:?}", made.role, made.sha256);
    // Writing to a String does not fail.
    if let Some(expires) = &made.expires {
        let _ = write!(toml, "\nexpires = {expires:?}");
    }
    if !made.cidrs.is_empty() {
        let _ = write!(toml, "\ncidrs = {:?}", made.cidrs);
    }
    toml
}

fn name(text: &str) -> Result<String, String> {
    if is_token_name(text) { Ok(text.to_owned()) } else { Err(format!("wanted {TOKEN_NAME}")) }
}

fn expiry(text: &str) -> Result<DateTime<Utc>, String> {
    parse_expiry(text).ok_or_else(|| {
        "wanted a date such as 2027-01-31, or an instant such as 2027-01-31T12:00:00Z".to_owned()
    })
}

fn cidr(text: &str) -> Result<Cidr, String> {
    text.parse().map_err(|fault: crate::config::cidr::NoCidr| match fault.meant {
        Some(meant) => format!("did you mean {meant}?"),
        None => "wanted a range such as 10.0.0.0/8 or fd00::/8".to_owned(),
    })
}
