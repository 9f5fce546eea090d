//! Stub.
/// How a cancel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    Ended,
    Terminated,
    Unconfirmed,
}
