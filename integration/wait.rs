//! Waiting for a condition with a deadline, which is the only kind of waiting that scenarios do.

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Time between two looks. Short beside what is waited for, long beside what a look costs.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks again and again until `look` finds something, or fails after `deadline` with `what` was waited for.
pub fn wait_for<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {deadline:?} in vain for {what}");
        }
        thread::sleep(INTERVAL);
    }
}

/// As [`wait_for`], for conditions where the last look says why it is not so yet (`Err` of the inner result).
pub fn wait_until<T, E: Debug>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Result<T, E>>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match look()? {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= end => {
                bail!("waited {deadline:?} in vain for {what}; last seen: {last:#?}")
            }
            Err(_) => thread::sleep(INTERVAL),
        }
    }
}
