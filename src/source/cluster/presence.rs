//! Whether one object of a cluster is there: by it a node tells that the mesh is removed from the end of its own process.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::Client;
use kube::core::WatchEvent;
use serde_json::Value as Json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::own_client;

/// The server ends a watch after so many seconds, and it is begun again.
const LONGEST: u64 = 240;
/// A watch that goes on longer than that is dead.
const SILENCE: Duration = Duration::from_secs(LONGEST + 30);
/// Pause after a failure, and the longest; doubled each time, with a random half so that a fleet does not come in step. Short: with the
/// object goes the right to look at it, so that whoever does not listen at that moment never hears of it.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));
/// Pause before an object that is not there is looked for again.
const ABSENT: Duration = Duration::from_secs(2);

/// Why nothing can be said of the object now.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// An object of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Where its kind is served, such as `/apis/apps/v1/namespaces/NAMESPACE/daemonsets`.
    pub collection: String,
    /// Its name.
    pub name: String,
}

/// Follows the object by the rights of this process's own pod, for as long as somebody listens. What is told is `false` once it is
/// deleted, or is being deleted, and only where the server said so: a server that is away, or refuses, says nothing.
///
/// Must run in a tokio runtime with IO and time.
pub async fn follow_presence(object: Reference, present: watch::Sender<bool>) {
    let client = match own_client() {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(%error, name = object.name, "whether this is still installed cannot be known: the pod has no service account");
            return;
        }
    };
    let mut pause = PAUSE.0;
    let mut said = false;
    loop {
        let ended = tokio::select! {
            ended = once(&client, &object, &present) => ended,
            () = present.closed() => return,
        };
        pause = match ended {
            Ok(pause) => {
                said = false;
                sleep(pause).await;
                PAUSE.0
            }
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(
                        %error,
                        name = object.name,
                        "whether this is still installed is not known for now"
                    );
                }
                sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                (pause * 2).min(PAUSE.1)
            }
        };
    }
}

/// One watch, and one look after it has begun, so that no change falls between both; gives the pause before the next. The watch begins at
/// the server's present, and not where the object changed last: of that a server that was started since knows nothing any more.
async fn once(client: &Client, object: &Reference, present: &watch::Sender<bool>) -> Result<Duration, Cause> {
    let Reference { collection, name } = object;
    let url =
        format!("{collection}?watch=true&fieldSelector=metadata.name%3D{name}&timeoutSeconds={LONGEST}");
    let request = http::Request::get(url).body(Vec::new())?;
    let events = timeout(SILENCE, client.request_events::<Json>(request)).await??;
    let request = http::Request::get(format!("{collection}/{name}")).body(Vec::new())?;
    let found = match timeout(SILENCE, client.request::<Json>(request)).await? {
        Ok(found) => found,
        Err(kube::Error::Api(status)) if status.code == 404 => {
            tell(present, false);
            return Ok(ABSENT);
        }
        Err(error) => return Err(error.into()),
    };
    tell(present, stays(&found));
    let mut events = pin!(events);
    while let Some(event) = timeout(SILENCE, events.next()).await? {
        match event? {
            WatchEvent::Added(now) | WatchEvent::Modified(now) => tell(present, stays(&now)),
            WatchEvent::Deleted(_) => tell(present, false),
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => return Err(status.message.into()),
        }
    }
    Ok(Duration::ZERO)
}

fn stays(object: &Json) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_none()
}

fn tell(present: &watch::Sender<bool>, now: bool) {
    present.send_if_modified(|before| std::mem::replace(before, now) != now);
}
