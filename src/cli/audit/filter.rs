//! Which events: the options that `list` and `export` share.

use std::net::IpAddr;

use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use clap::Args;

use crate::config::parse_duration;
use crate::store::events::{Action, Filter};

#[derive(Debug, Args)]
pub struct Chosen {
    /// Of this user, as the application names it
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// By this role or job
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Of this action; all that begin so with a * at the end
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// On this kind of thing, or this one thing: public.users/42
    #[arg(long, value_name = "TYPE[/ID]")]
    resource: Option<String>,
    /// Told by: pgsteward, application or trigger
    #[arg(long, value_name = "SOURCE", value_parser = ["pgsteward", "application", "trigger"])]
    source: Option<String>,
    /// From this address or network: 192.0.2.0/24
    #[arg(long, value_name = "ADDRESS", value_parser = network)]
    ip: Option<String>,
    /// Of this request
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// From then on: 2026-11-27T08:00:00Z, 2026-11-27, or an age such as 2h or 30d
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<DateTime<Utc>>,
    /// Before then
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<DateTime<Utc>>,
}

impl Chosen {
    /// As it is asked of the database.
    pub fn filter(&self) -> Filter {
        let action = self.action.as_ref().map(|action| match action.strip_suffix('*') {
            Some(prefix) => Action::BeginsWith(prefix.to_owned()),
            None => Action::Is(action.clone()),
        });
        let (resource_type, resource_id) = match &self.resource {
            Some(resource) => thing(resource),
            None => (None, None),
        };
        Filter {
            user: self.user.clone(),
            actor: self.actor.clone(),
            action,
            resource_type,
            resource_id,
            source: self.source.clone(),
            address: self.ip.clone(),
            request: self.request.clone(),
            since: self.since,
            until: self.until,
        }
    }
}

/// Kind and id: an id may hold slashes, the kind none.
pub fn thing(resource: &str) -> (Option<String>, Option<String>) {
    match resource.split_once('/') {
        Some((kind, id)) => (Some(kind.to_owned()), Some(id.to_owned())),
        None => (Some(resource.to_owned()), None),
    }
}

/// An instant, a day's beginning in UTC, or so long ago.
pub fn time(text: &str) -> Result<DateTime<Utc>, String> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.to_utc());
    }
    if let Ok(day) = text.parse::<NaiveDate>() {
        return Ok(day.and_time(NaiveTime::MIN).and_utc());
    }
    let ago =
        parse_duration(text).and_then(|age| Utc::now().checked_sub_signed(chrono::TimeDelta::from_std(age).ok()?));
    ago.ok_or_else(|| {
        r#"wanted an instant such as "2026-11-27T08:00:00Z", a day, or an age such as "2h" or "30d""#.to_owned()
    })
}

/// As PostgreSQL's inet reads it.
fn network(text: &str) -> Result<String, String> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return Err("wanted an address or a network such as 192.0.2.0/24".to_owned()),
    };
    match bits.map(str::parse::<u8>) {
        None => Ok(text.to_owned()),
        Some(Ok(bits)) if bits <= most => Ok(text.to_owned()),
        Some(_) => Err(format!("wanted a prefix length of 0 to {most}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_three_forms() {
        assert_eq!(time("2026-11-27T08:00:00+01:00").unwrap().to_rfc3339(), "2026-11-27T07:00:00+00:00");
        assert_eq!(time("2026-11-27").unwrap().to_rfc3339(), "2026-11-27T00:00:00+00:00");
        assert!((Utc::now() - time("2h").unwrap()).num_minutes() == 120);
        for wrong in ["", "yesterday", "2026-13-01", "2026-11-27 08:00", "-1h", "999999999999d"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_and_things() {
        for right in ["192.0.2.1", "192.0.2.0/24", "::1", "2001:db8::/32"] {
            assert!(network(right).is_ok(), "{right}");
        }
        for wrong in ["", "192.0.2", "192.0.2.1/33", "::1/129", "x/8", "192.0.2.1/-1", "192.0.2.1/"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
        assert_eq!(thing("public.users/a/b"), (Some("public.users".into()), Some("a/b".into())));
        assert_eq!(thing("session"), (Some("session".into()), None));
    }
}
