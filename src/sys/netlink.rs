//! Netlink requests inside a namespace, from blocking code, whatever runtime the caller runs on.

use std::{io, thread};

use crate::NetNs;

/// Runs a netlink conversation inside the namespace and returns what it returns.
///
/// A netlink socket belongs to the namespace where it was opened, and `nlink` is asynchronous; both are met by a thread of its
/// own, which moves into the namespace, runs the conversation on a runtime of its own and ends there. The caller may itself be
/// on a runtime, where a nested one could not be driven. Costs about 100 µs beside the conversation.
pub(crate) fn within<T, E, F>(ns: &NetNs, conversation: F) -> Result<T, E>
where
    F: AsyncFnOnce() -> Result<T, E> + Send,
    T: Send,
    E: From<io::Error> + Send,
{
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("netlink".to_owned()).spawn_scoped(scope, || {
            ns.enter()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(conversation())
        })?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
