//! stub, replaced at merge
use std::net::IpAddr;
use chrono::{DateTime, Utc};
use hyper::HeaderMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role { User, Service, Viewer, Operator, Admin }
impl Role { pub fn as_str(self) -> &'static str { match self { Role::User => "user", Role::Service => "service", Role::Viewer => "viewer", Role::Operator => "operator", Role::Admin => "admin" } } }
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller { pub actor: String, pub role: Role, pub user: Option<String> }
#[derive(Debug, Default)]
pub struct Auth;
#[derive(Debug, Clone, Copy)]
pub struct Denied;
impl Denied { pub fn code(self) -> &'static str { "unknown_token" } }
impl Auth {
    pub fn is_configured(&self) -> bool { false }
    pub fn check(&self, _h: &HeaderMap, _from: IpAddr, _now: DateTime<Utc>) -> Result<Option<Caller>, Denied> { Ok(None) }
}
