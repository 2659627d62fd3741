//! Follows one resource of the API server, for ever: all that there is, then each change, and again from where it broke off.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::Client;
use kube::core::{Status, WatchEvent};
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::json::tree;
use super::resource::Resource;
use super::state::{News, key};
use crate::TranslateConfig;
use crate::object::Kind;
use crate::read::{Contents, read_object};
use crate::standing::Written;

/// Objects of a list that are asked for at once, where the server cannot stream them.
const PAGE: u32 = 500;

/// The server ends a watch after so long (and a random part of it), and it is begun again: so watches spread over servers that came later.
const LONGEST: u64 = 300;

/// A watch that says nothing for so long is dead: the server sends a bookmark about every minute.
const SILENCE: Duration = Duration::from_secs(150);

/// Pause after a failure, and the longest; doubled each time, with a random half so that a fleet does not come in step.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A resource that the server does not have is looked for again after so long: its definition may be installed later.
const ABSENT: Duration = Duration::from_secs(5);

/// The server ends a list with a bookmark that carries this.
const INITIAL_END: &str = "k8s.io/initial-events-end";

/// Where the news of all resources go.
pub(super) type Sender = mpsc::Sender<(Kind, News)>;

/// Why a watch ended.
enum End {
    /// The server's turn is over: go on from where it was.
    Resume,
    /// What was known is too old to go on from: begin with all that there is.
    Expired,
    /// The server has no such resource in this version.
    NoResource,
    /// The server cannot stream a list.
    NoStreaming,
    /// Nobody listens to the news.
    Closed,
    /// Anything else.
    Failed(String),
}

/// One resource as it is followed.
pub(super) struct Follower {
    client: Client,
    resource: Resource,
    config: TranslateConfig,
    news: Sender,
    /// Which of the resource's versions is asked for.
    version: usize,
    /// Where to go on; empty: begin with all that there is.
    position: String,
    /// The server can stream a list.
    streaming: bool,
}

impl Follower {
    pub(super) fn new(client: Client, resource: Resource, config: TranslateConfig, news: Sender) -> Self {
        Self { client, resource, config, news, version: 0, position: String::new(), streaming: true }
    }

    /// Follows until nobody listens.
    pub(super) async fn run(mut self) {
        let mut pause = PAUSE.0;
        loop {
            let before = self.position.clone();
            let end = self.watch().await;
            if self.position != before {
                pause = PAUSE.0;
            }
            match end {
                End::Closed => return,
                End::Resume => {}
                End::Expired => self.position.clear(),
                End::NoStreaming => self.streaming = false,
                End::NoResource => {
                    self.position.clear();
                    self.version += 1;
                    if self.version >= self.resource.versions.len() {
                        self.version = 0;
                        let news = if self.resource.is_optional() {
                            News::Absent
                        } else {
                            News::Trouble("the API server has no such resource".to_owned())
                        };
                        if !self.tell(news).await {
                            return;
                        }
                        sleep(ABSENT).await;
                    }
                }
                End::Failed(why) => {
                    tracing::debug!(kind = %self.resource.kind, why, "watch failed; tried again");
                    if !self.tell(News::Trouble(why)).await {
                        return;
                    }
                    sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    async fn tell(&self, news: News) -> bool {
        self.news.send((self.resource.kind, news)).await.is_ok()
    }

    fn path(&self) -> String {
        self.resource.path(self.resource.versions[self.version])
    }

    /// One watch, from the position if there is one, else from all that there is.
    async fn watch(&mut self) -> End {
        if self.position.is_empty() && !self.streaming {
            return self.list().await;
        }
        let path = self.path();
        let seconds = LONGEST + fastrand::u64(0..LONGEST);
        let query = if self.position.is_empty() {
            "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned()
        } else {
            format!("&resourceVersion={}", self.position)
        };
        let url = format!("{path}?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{query}");
        let request = match http::Request::get(url).body(Vec::new()) {
            Ok(request) => request,
            Err(error) => return End::Failed(error.to_string()),
        };
        let events = match timeout(SILENCE, self.client.request_events::<Json>(request)).await {
            Ok(Ok(events)) => events,
            Ok(Err(error)) => return self.failed(&error),
            Err(_) => return silent(),
        };
        let mut events = pin!(events);
        // Until the whole list came nothing of it counts, so that a list that breaks off takes nothing away.
        let mut whole = self.position.is_empty().then(Vec::new);
        if whole.is_none() && !self.tell(News::Well).await {
            return End::Closed;
        }
        loop {
            let event = match timeout(SILENCE, events.next()).await {
                Ok(Some(Ok(event))) => event,
                Ok(None) => {
                    return if whole.is_some() {
                        End::Failed("the list broke off".to_owned())
                    } else {
                        End::Resume
                    };
                }
                Ok(Some(Err(error))) => return self.failed(&error),
                Err(_) => return silent(),
            };
            let news = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let position = version(&object);
                    let contents = self.read(object);
                    match &mut whole {
                        Some(whole) => {
                            whole.push(contents);
                            continue;
                        }
                        None => {
                            self.position = position.unwrap_or_default();
                            News::Put(contents)
                        }
                    }
                }
                WatchEvent::Deleted(object) => {
                    let position = version(&object);
                    let Some(key) = key(self.resource.kind, &tree(object)) else { continue };
                    // While a list comes, a server tells no deletion of what it told before.
                    if whole.is_some() {
                        return End::Failed("the list is not one".to_owned());
                    }
                    self.position = position.unwrap_or_default();
                    News::Gone(key)
                }
                WatchEvent::Bookmark(bookmark) => {
                    let ends =
                        bookmark.metadata.annotations.get(INITIAL_END).is_some_and(|value| value == "true");
                    match whole.take() {
                        Some(all) if ends => {
                            self.position = bookmark.metadata.resource_version;
                            News::Whole(all)
                        }
                        Some(all) => {
                            whole = Some(all);
                            continue;
                        }
                        None => {
                            self.position = bookmark.metadata.resource_version;
                            continue;
                        }
                    }
                }
                WatchEvent::Error(status) => return self.refused(&status),
            };
            if !self.tell(news).await {
                return End::Closed;
            }
        }
    }

    /// All that there is, in pages: for servers that cannot stream it.
    async fn list(&mut self) -> End {
        let mut all = Vec::new();
        let mut next = String::new();
        let position = loop {
            let url = format!("{}?limit={PAGE}&continue={next}", self.path());
            let request = match http::Request::get(url).body(Vec::new()) {
                Ok(request) => request,
                Err(error) => return End::Failed(error.to_string()),
            };
            let page = match timeout(SILENCE, self.client.request::<Json>(request)).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => return self.failed(&error),
                Err(_) => return silent(),
            };
            let Json::Object(mut page) = page else { return End::Failed("the list is not one".to_owned()) };
            let metadata = page.remove("metadata").unwrap_or_default();
            let (api_version, kind) = (page.remove("apiVersion"), self.resource.kind.as_str());
            if let Some(Json::Array(items)) = page.remove("items") {
                for mut item in items {
                    // Items of a list do not repeat what they are.
                    if let (Json::Object(item), Some(version)) = (&mut item, &api_version) {
                        item.entry("apiVersion").or_insert_with(|| version.clone());
                        item.entry("kind").or_insert_with(|| kind.into());
                    }
                    all.push(self.read(item));
                }
            }
            let text = |key: &str| metadata.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
            next = text("continue");
            if next.is_empty() {
                break text("resourceVersion");
            }
        };
        self.position = position;
        if self.tell(News::Whole(all)).await { End::Resume } else { End::Closed }
    }

    fn read(&self, object: Json) -> Contents {
        let written = self.resource.kind.is_policy().then(|| Written::read(&object));
        Contents { written, ..read_object(&tree(object), &self.config) }
    }

    fn failed(&self, error: &kube::Error) -> End {
        match error {
            kube::Error::Api(status) => self.refused(status),
            other => End::Failed(chain(other)),
        }
    }

    fn refused(&self, status: &Status) -> End {
        match status.code {
            410 => End::Expired,
            404 => End::NoResource,
            // Servers before 1.27 ignore or refuse what they do not know.
            400 | 422 if self.position.is_empty() && self.streaming => End::NoStreaming,
            _ => End::Failed(format!("{} ({})", status.message, status.code)),
        }
    }
}

fn silent() -> End {
    End::Failed(format!("the API server said nothing for {} s", SILENCE.as_secs()))
}

/// `metadata.resourceVersion`.
fn version(object: &Json) -> Option<String> {
    object.get("metadata")?.get("resourceVersion")?.as_str().map(str::to_owned)
}

/// An error with all of its causes, which name what the outermost one hides.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = next.source();
    }
    text
}
