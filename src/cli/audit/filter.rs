//! Which events: the options that `audit list` and `audit export` share.

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};

use crate::store::audit_query::filter_args::{action, network};
use crate::store::audit_query::{ActionFilter, EARLIEST, Filter, LATEST};
use crate::store::time_arg::TimeArg;

#[derive(Debug, Args)]
pub struct Asked {
    /// Of this user of the application
    #[arg(long, value_name = "ID", value_parser = some_text)]
    user: Option<String>,
    /// Of this role, job or caller
    #[arg(long, value_name = "NAME", value_parser = some_text)]
    actor: Option<String>,
    /// This action; with * at the end, all that begin so
    #[arg(long, value_name = "ACTION", value_parser = action)]
    action: Option<ActionFilter>,
    /// What it was done to: TYPE alone (public.vms), or with the id behind the first slash
    #[arg(long, value_name = "TYPE[/ID]", value_parser = resource)]
    resource: Option<Resource>,
    /// By whom it was written
    #[arg(long, value_name = "SOURCE")]
    source: Option<Source>,
    /// From this address, or this network
    #[arg(long, value_name = "ADDRESS[/BITS]", value_parser = network)]
    ip: Option<String>,
    /// Of this request
    #[arg(long, value_name = "ID", value_parser = some_text)]
    request: Option<String>,
    /// From this time on
    #[arg(long, value_name = "TIME", value_parser = TimeArg::parse)]
    since: Option<TimeArg>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = TimeArg::parse)]
    until: Option<TimeArg>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Resource {
    kind: String,
    id: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Source {
    Pgsteward,
    Application,
    Trigger,
}

impl Source {
    /// As in the column.
    fn as_str(self) -> &'static str {
        match self {
            Source::Pgsteward => "pgsteward",
            Source::Application => "application",
            Source::Trigger => "trigger",
        }
    }
}

impl Asked {
    /// The filter, by a clock that says `now`; where no end was given, `until` is it.
    ///
    /// # Errors
    /// Nothing lies between the two times.
    pub fn filter(
        &self,
        now: DateTime<Utc>,
        until: Option<DateTime<Utc>>,
    ) -> Result<Filter, String> {
        let since = self.since.map_or(EARLIEST, |moment| moment.resolve(now));
        let until = self.until.map(|moment| moment.resolve(now)).or(until).unwrap_or(LATEST);
        if since >= until {
            return Err(format!(
                "found --since {since:?} and --until {until:?}, wanted the first before the second"
            ));
        }
        let resource = self.resource.clone();
        Ok(Filter {
            user_id: self.user.clone(),
            actor: self.actor.clone(),
            action: self.action.clone(),
            resource_id: resource.as_ref().and_then(|resource| resource.id.clone()),
            resource_type: resource.map(|resource| resource.kind),
            source: self.source.map(|source| source.as_str().to_owned()),
            ip_address: self.ip.clone(),
            request_id: self.request.clone(),
            since,
            until,
        })
    }
}

fn some_text(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("found an empty text, wanted a name or an id".to_owned())
    } else {
        Ok(text.to_owned())
    }
}

fn resource(text: &str) -> Result<Resource, String> {
    let (kind, id) = text.split_once('/').map_or((text, None), |(kind, id)| (kind, Some(id)));
    if kind.is_empty() || id == Some("") {
        return Err(format!(
            "found {text:?}, wanted TYPE or TYPE/ID such as public.vms or public.vms/42"
        ));
    }
    Ok(Resource { kind: kind.to_owned(), id: id.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_read() {
        assert_eq!(action("user.login"), Ok(ActionFilter::Equals("user.login".to_owned())));
        assert_eq!(action("user.*"), Ok(ActionFilter::StartsWith("user.".to_owned())));
        let parts = |text| resource(text).map(|resource| (resource.kind, resource.id));
        assert_eq!(parts("public.vms"), Ok(("public.vms".to_owned(), None)));
        assert_eq!(parts("public.vms/7/a"), Ok(("public.vms".to_owned(), Some("7/a".to_owned()))));
        for good in
            ["10.0.0.7", "10.1.2.3/8", "0.0.0.0/0", "::1", "2001:db8::/32", "::ffff:10.0.0.1/128"]
        {
            assert_eq!(network(good).as_deref(), Ok(good));
        }
    }

    #[test]
    fn every_bad_form_says_what_was_found_and_what_is_wanted() {
        let refused = [
            some_text("").unwrap_err(),
            action("").unwrap_err(),
            action("*").unwrap_err(),
            action("a*b").unwrap_err(),
            action("a**").unwrap_err(),
            resource("").unwrap_err(),
            resource("/7").unwrap_err(),
            resource("vm/").unwrap_err(),
            network("").unwrap_err(),
            network("10.0.0").unwrap_err(),
            network("10.0.0.0/33").unwrap_err(),
            network("10.0.0.0/").unwrap_err(),
            network("10.0.0.0/+8").unwrap_err(),
            network("::/129").unwrap_err(),
            network("fe80::1%eth0").unwrap_err(),
        ];
        assert!(
            refused.iter().all(|why| why.contains("found") && why.contains("wanted")),
            "{refused:?}"
        );
    }
}
