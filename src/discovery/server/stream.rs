//! One client's stream.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::feed::{Feed, Forgotten, Look, Opened, Rejection, Told, version_text};
use crate::Type;
use crate::proto::xds::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

/// Bytes of an answer at which another one begins: well below the 4 MiB that gRPC clients take by default.
const LARGE: usize = 1 << 20;

/// A client that is told the whole has acknowledged it by then, or no longer counts among those that are.
const TURN: Duration = Duration::from_secs(10);

/// Names that one stream may ask for one by one; who wants more wants all.
const MAX_NAMES: usize = 10_000;

/// Everything, as a name.
const ALL: &str = "*";

type Answers = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// What a stream wants of a type, and what it was told.
#[derive(Default)]
struct Subscription {
    all: bool,
    names: BTreeSet<Arc<str>>,
    /// Names whose state has to be told whatever happened to them.
    asked: BTreeSet<Arc<str>>,
    told: Position,
}

/// What a stream has told of a type.
enum Position {
    /// Nothing yet; the client came with these.
    Has(HashMap<String, String>),
    /// Everything up to a revision.
    Told(u64),
}

impl Default for Position {
    fn default() -> Self {
        Self::Has(HashMap::new())
    }
}

/// Serves a stream to its end.
pub(super) async fn serve(feed: Arc<Feed>, mut requests: Streaming<DeltaDiscoveryRequest>, answers: Answers) {
    let opened = feed.opened();
    let mut moments = feed.moments();
    // Nothing is read before it can be answered: what a client says that it has is large.
    let turn = async {
        moments.wait_for(|moment| moment.synced || moment.ended).await.ok()?;
        feed.turns().acquire().await.ok()
    };
    let mut turn = tokio::select! {
        turn = turn => turn,
        () = answers.closed() => return,
    };
    if moments.borrow().ended {
        let _ = answers.send(Err(ending())).await;
        return;
    }
    let until = Instant::now() + TURN;
    let mut stream = Stream { subscribed: HashMap::new(), nonce: 0, sent: 0, who: String::new() };
    loop {
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => {
                    let has_all = request.response_nonce == stream.nonce.to_string();
                    match stream.take(&feed, &opened, request) {
                        Ok(true) => {}
                        Ok(false) => {
                            if has_all {
                                turn = None;
                                opened.note(|listener| listener.has = stream.sent);
                            }
                            continue;
                        }
                        Err(status) => {
                            let _ = answers.send(Err(status)).await;
                            return;
                        }
                    }
                }
                // The client is gone, however it went.
                Ok(None) | Err(_) => return,
            },
            changed = moments.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = sleep_until(until), if turn.is_some() => turn = None,
            () = answers.closed() => return,
        }
        if moments.borrow_and_update().ended {
            let _ = answers.send(Err(ending())).await;
            return;
        }
        let round = match feed.look(|look| stream.round(look)) {
            Ok(round) => round,
            Err(Forgotten) => {
                let status = Status::aborted("this client was too slow; connect again with what you have");
                let _ = answers.send(Err(status)).await;
                return;
            }
        };
        opened.note(|listener| listener.told = stream.sent);
        for answer in round {
            if answers.send(Ok(answer)).await.is_err() {
                return;
            }
        }
    }
}

fn ending() -> Status {
    Status::unavailable("this controller ends; another one serves")
}

struct Stream {
    subscribed: HashMap<Type, Subscription>,
    nonce: u64,
    /// The revision that was told last.
    sent: u64,
    who: String,
}

impl Stream {
    /// Returns whether there may be something to answer.
    fn take(&mut self, feed: &Feed, opened: &Opened, request: DeltaDiscoveryRequest) -> Result<bool, Status> {
        if let Some(node) = request.node {
            self.who = plain(&node.id, 300);
            opened.note(|listener| listener.id.clone_from(&self.who));
        }
        let Some(of) = Type::of_url(&request.type_url) else {
            let url = plain(&request.type_url, 200);
            tracing::debug!(client = self.who, url, "a type is asked for that is not served");
            return Ok(false);
        };
        if let Some(error) = request.error_detail {
            let why = plain(&error.message, 500);
            tracing::warn!(client = self.who, %of, why, "a client could not take what it was told");
            feed.reject(Rejection { id: self.who.clone(), at: SystemTime::now(), of, why });
        }
        let first = !self.subscribed.contains_key(&of);
        let wanted = self.subscribed.entry(of).or_default();
        if first {
            // Without any name the first request is for all, as xDS was before it had the star.
            wanted.all = request.resource_names_subscribe.is_empty();
            wanted.told = Position::Has(request.initial_resource_versions);
        }
        let mut news = first;
        for name in request.resource_names_subscribe {
            news = true;
            if name == ALL {
                // Of what was told by name the client has the version, but what else there is it has not.
                if !first && !std::mem::replace(&mut wanted.all, true) {
                    wanted.told = Position::default();
                }
                wanted.all = true;
                continue;
            }
            let name: Arc<str> = name.into();
            wanted.asked.insert(name.clone());
            wanted.names.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            if name == ALL {
                wanted.all = false;
            }
            wanted.names.remove(name.as_str());
            wanted.asked.remove(name.as_str());
        }
        if wanted.names.len() > MAX_NAMES {
            return Err(Status::resource_exhausted(format!(
                "more than {MAX_NAMES} names: subscribe to {ALL:?}"
            )));
        }
        Ok(news)
    }

    /// Brings all types to one moment. The last answer says which.
    fn round(&mut self, look: &Look<'_>) -> Result<Vec<DeltaDiscoveryResponse>, Forgotten> {
        let mut answers = Vec::new();
        for of in Type::ALL {
            let Some(wanted) = self.subscribed.get_mut(&of) else { continue };
            let (mut told, first) = match &wanted.told {
                Position::Has(has) => (look.beside(of, has), true),
                Position::Told(revision) => (look.since(of, *revision)?, false),
            };
            wanted.told = Position::Told(look.revision());
            if !wanted.all {
                told.retain(|told| wanted.names.contains(&told.name));
            }
            // Who asks by name is told of that name, also that there is none.
            let asked = std::mem::take(&mut wanted.asked);
            if !asked.is_empty() {
                told.retain(|told| !asked.contains(&told.name));
                told.extend(asked.iter().map(|name| look.named(of, name)));
            }
            // A type of which there is nothing is answered all the same: then the client knows that.
            if first || !told.is_empty() {
                answer(&mut self.nonce, of, told, &mut answers);
            }
        }
        self.sent = look.revision();
        if let Some(last) = answers.last_mut() {
            last.system_version_info = look.revision().to_string();
        }
        Ok(answers)
    }
}

fn answer(nonce: &mut u64, of: Type, told: Vec<Told>, answers: &mut Vec<DeltaDiscoveryResponse>) {
    let mut size = 0;
    let mut answer = empty(nonce, of);
    for Told { name, here } in told {
        if size >= LARGE {
            size = 0;
            answers.push(std::mem::replace(&mut answer, empty(nonce, of)));
        }
        size += name.len() * 2 + 64;
        match here {
            Some((version, value)) => {
                size += value.len();
                answer.resources.push(Resource {
                    version: version_text(version),
                    resource: Some(Any { type_url: of.url().to_owned(), value }),
                    name: name.to_string(),
                    aliases: Vec::new(),
                });
            }
            None => answer.removed_resources.push(name.to_string()),
        }
    }
    answers.push(answer);
}

fn empty(nonce: &mut u64, of: Type) -> DeltaDiscoveryResponse {
    *nonce += 1;
    DeltaDiscoveryResponse {
        type_url: of.url().to_owned(),
        nonce: nonce.to_string(),
        ..DeltaDiscoveryResponse::default()
    }
}

/// Text of a client, fit for a log.
fn plain(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}
