//! What passes over the socket, as far as we need to know it and tokio-postgres does not say.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicI32, Ordering};

const NOTICES_MAX: usize = 64;

/// State shared by a connection and the stream under it.
#[derive(Debug, Default)]
pub struct Wire {
    pid: AtomicI32,
    notices: Mutex<VecDeque<String>>,
}

impl Wire {
    pub fn backend_pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// No transaction open and no answer outstanding.
    pub fn is_idle(&self) -> bool {
        true
    }

    pub fn push_notice(&self, notice: String) {
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        if notices.len() == NOTICES_MAX {
            notices.pop_front();
        }
        notices.push_back(notice);
    }

    pub fn take_notices(&self) -> Vec<String> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}
