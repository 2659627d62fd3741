//! Objects of one kind as the API server has them, followed for ever: all of them, then each change, and again from where it broke off.
//!
//! For what one replica alone looks at. What the mesh is made of comes from `aquifer_source`; kube-runtime's watcher would bring twenty
//! crates for these lines.

use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Error, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::StreamExt;
use tracing::warn;

/// Objects of a list that are asked for at once.
const PAGE: u32 = 500;
/// The server ends a watch after so many seconds, and it is begun again.
const LONGEST: u32 = 240;
/// A watch that says nothing for so long is dead: the server sends a bookmark about every minute.
const SILENCE: Duration = Duration::from_secs(150);
/// Pause after a failure.
const AGAIN: Duration = Duration::from_secs(2);

/// What is told of the objects.
#[derive(Debug)]
pub(crate) enum News<T> {
    /// These are all.
    Whole(Vec<T>),
    /// One is new or changed.
    Put(T),
    /// One is gone.
    Gone(T),
}

/// Follows the objects until nobody listens. `read` takes out of an object what is looked at, so that the rest of it is not kept.
pub(crate) async fn follow<K, T>(
    api: Api<K>,
    which: ListParams,
    read: fn(&K) -> T,
    news: mpsc::Sender<News<T>>,
) where
    K: kube::Resource + Clone + Debug + DeserializeOwned,
{
    let mut position = None;
    let mut said = None;
    while !news.is_closed() {
        match once(&api, &which, read, &news, &mut position).await {
            Ok(()) => said = None,
            Err(why) => {
                if said.as_ref() != Some(&why) {
                    warn!(
                        why,
                        url = api.resource_url(),
                        "what is to be looked at cannot be read; tried again"
                    );
                    said = Some(why);
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// One watch, from the position if there is one, else from all that there is.
async fn once<K, T>(
    api: &Api<K>,
    which: &ListParams,
    read: fn(&K) -> T,
    news: &mpsc::Sender<News<T>>,
    position: &mut Option<String>,
) -> Result<(), String>
where
    K: kube::Resource + Clone + Debug + DeserializeOwned,
{
    let from = match position {
        Some(position) => position.clone(),
        None => {
            let (all, from) = timeout(SILENCE, list(api, which, read)).await.map_err(|_| silent())??;
            // Who does not listen any more is seen by the caller.
            news.send(News::Whole(all)).await.ok();
            position.insert(from).clone()
        }
    };
    let mut params = WatchParams::default().timeout(LONGEST);
    params.label_selector.clone_from(&which.label_selector);
    let events = timeout(SILENCE, api.watch(&params, &from)).await.map_err(|_| silent())?;
    let mut events = match events {
        Ok(events) => pin!(events),
        Err(error) => return ended(error, position),
    };
    while let Some(event) = timeout(SILENCE, events.next()).await.map_err(|_| silent())? {
        let (told, at) = match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                (News::Put(read(&object)), object.resource_version())
            }
            Ok(WatchEvent::Deleted(object)) => (News::Gone(read(&object)), object.resource_version()),
            Ok(WatchEvent::Bookmark(bookmark)) => {
                *position = Some(bookmark.metadata.resource_version);
                continue;
            }
            Ok(WatchEvent::Error(status)) => return ended(Error::Api(status), position),
            Err(error) => return ended(error, position),
        };
        *position = at;
        if news.send(told).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// All objects, a page at a time, and the version of the list.
async fn list<K, T>(api: &Api<K>, which: &ListParams, read: fn(&K) -> T) -> Result<(Vec<T>, String), String>
where
    K: kube::Resource + Clone + Debug + DeserializeOwned,
{
    let mut page = which.clone().limit(PAGE);
    let mut all = Vec::new();
    loop {
        let some = api.list(&page).await.map_err(|error| error.to_string())?;
        all.extend(some.items.iter().map(read));
        match some.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok((all, some.metadata.resource_version.unwrap_or_default())),
        }
    }
}

/// A watch that was too old to go on begins with all that there is; anything else is a failure.
fn ended(error: Error, position: &mut Option<String>) -> Result<(), String> {
    match error {
        Error::Api(status) if status.code == 410 => {
            *position = None;
            Ok(())
        }
        error => Err(error.to_string()),
    }
}

fn silent() -> String {
    format!("the API server said nothing for {} s", SILENCE.as_secs())
}
