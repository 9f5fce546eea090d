//! What the process tells of itself: logs (an event, a line) and metrics (a state, a number).

pub mod log;
pub mod metrics;

pub use metrics::Metrics;
