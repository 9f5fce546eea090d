//! What people ask of events, read from text.

use std::net::IpAddr;

use super::ActionFilter;

/// An action, or with `*` at the end all that begin so.
///
/// # Errors
/// What was found, and what is wanted; also below.
pub fn action(text: &str) -> Result<ActionFilter, String> {
    let (beginning, is_whole) =
        text.strip_suffix('*').map_or((text, true), |beginning| (beginning, false));
    match is_whole {
        _ if beginning.is_empty() || beginning.contains('*') => Err(format!(
            "found {text:?}, wanted an action such as user.login, or the beginning of one such as user.*"
        )),
        true => Ok(ActionFilter::Equals(beginning.to_owned())),
        false => Ok(ActionFilter::StartsWith(beginning.to_owned())),
    }
}

/// An address, or a network.
pub fn network(text: &str) -> Result<String, String> {
    let (address, bits) =
        text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
    let most = match address.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => {
            return Err(format!(
                "found {text:?}, wanted an address such as 10.0.0.7, or a network such as 10.0.0.0/8"
            ));
        }
    };
    let digits = bits.is_none_or(|bits| bits.bytes().all(|byte| byte.is_ascii_digit()));
    match bits.map_or(Ok(most), str::parse::<u8>) {
        Ok(bits) if digits && bits <= most => Ok(text.to_owned()),
        _ => Err(format!("found {text:?}, wanted a prefix of 0 to {most} bits behind the slash")),
    }
}
