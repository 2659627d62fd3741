//! One client's stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::answers::Answers;
use super::feed::{Feed, Opened, Rejection};
use super::istio::{Book, Istio, Listening};
use super::store::{Forgotten, Look, Told};
use super::subscription::Subscription;
use crate::proto::xds::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::{IstioType, Served, Type};

/// A client that is told the whole has acknowledged it by then, or no longer counts among those that are.
const TURN: Duration = Duration::from_secs(10);

/// A ztunnel asks for workloads first and for policies at once after that; it is told nothing of workloads before it asked for policies, but
/// who never asks for any has waited for long enough by then.
const TOGETHER: Duration = Duration::from_secs(1);

type Sender = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

/// Serves a stream to its end.
pub(super) async fn serve(feed: Arc<Feed>, mut requests: Streaming<DeltaDiscoveryRequest>, answers: Sender) {
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
    let mut stream = Stream::default();
    let mut istio = None;
    loop {
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => {
                    let has_all = request.response_nonce == stream.answers.last();
                    if istio.is_none() && IstioType::of_url(&request.type_url).is_some() {
                        tokio::select! {
                            listening = Istio::listen(feed.clone()) => istio = listening,
                            () = answers.closed() => return,
                        }
                    }
                    match stream.take(&feed, &opened, request) {
                        Ok(true) => {}
                        Ok(false) => {
                            if has_all {
                                turn = None;
                                stream.acknowledged = true;
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
            () = Listening::news(&mut istio) => {}
            () = sleep_until(stream.alone.unwrap_or(until)), if stream.alone.is_some() => stream.alone = None,
            () = sleep_until(until), if turn.is_some() => turn = None,
            () = answers.closed() => return,
        }
        if moments.borrow_and_update().ended {
            let _ = answers.send(Err(ending())).await;
            return;
        }
        let told = feed.look(|look| stream.round(look)).and_then(|()| {
            let told = istio.as_mut().and_then(|istio| istio.look(|book| stream.round_of(book)));
            told.unwrap_or(Ok(()))
        });
        if let Err(Forgotten) = told {
            let status = Status::aborted("this client was too slow; connect again with what you have");
            let _ = answers.send(Err(status)).await;
            return;
        }
        let answered = stream.answers.take();
        stream.acknowledged &= answered.is_empty();
        opened.note(|listener| {
            listener.told = stream.sent;
            if stream.acknowledged {
                listener.has = stream.sent;
            }
        });
        for answer in answered {
            if answers.send(Ok(answer)).await.is_err() {
                return;
            }
        }
    }
}

fn ending() -> Status {
    Status::unavailable("this controller ends; another one serves")
}

#[derive(Default)]
struct Stream {
    subscribed: HashMap<Served, Subscription>,
    answers: Answers,
    /// Until then nothing is said of workloads to a client that has not asked for policies.
    alone: Option<Instant>,
    /// The revision that was told last.
    sent: u64,
    /// The last answer was, and nothing was to be told since.
    acknowledged: bool,
    who: String,
}

impl Stream {
    /// Returns whether there may be something to answer.
    fn take(
        &mut self,
        feed: &Feed,
        opened: &Opened,
        mut request: DeltaDiscoveryRequest,
    ) -> Result<bool, Status> {
        if let Some(node) = request.node.take() {
            self.who = plain(&node.id, 300);
            opened.note(|listener| listener.id.clone_from(&self.who));
        }
        let Some(of) = Served::of_url(&request.type_url) else {
            let url = plain(&request.type_url, 200);
            tracing::debug!(client = self.who, url, "a type is asked for that is not served");
            return Ok(false);
        };
        if let Some(error) = request.error_detail.take() {
            let why = plain(&error.message, 500);
            tracing::warn!(client = self.who, %of, why, "a client could not take what it was told");
            feed.reject(Rejection { id: self.who.clone(), at: SystemTime::now(), of, why });
        }
        let first = !self.subscribed.contains_key(&of);
        let wanted = self.subscribed.entry(of).or_insert_with(|| Subscription::new(&mut request));
        let news = wanted.want(request, first);
        match of {
            Served::Own(_) => wanted.bounded()?,
            Served::Istio(IstioType::Authorization) => self.alone = None,
            Served::Istio(IstioType::Address)
                if first && !self.subscribed.contains_key(&Served::Istio(IstioType::Authorization)) =>
            {
                self.alone = Some(Instant::now() + TOGETHER);
            }
            Served::Istio(IstioType::Address) => {}
        }
        Ok(news)
    }

    /// Brings the mesh's own types to one moment. The last answer says which.
    fn round(&mut self, look: &Look<'_>) -> Result<(), Forgotten> {
        for of in Type::ALL {
            let Some(wanted) = self.subscribed.get_mut(&Served::Own(of)) else { continue };
            if let Some(told) = wanted.next(of.index(), look)? {
                self.answers.tell(of.url(), told, |_| Vec::new());
            }
        }
        self.sent = look.revision();
        if let Some(last) = self.answers.last_mut() {
            last.system_version_info = look.revision().to_string();
        }
        Ok(())
    }

    /// Brings Istio's types to one moment. A ztunnel takes a policy that it does not know for none: so policies come before the workloads
    /// that name them, and go after them.
    fn round_of(&mut self, book: &Book) -> Result<(), Forgotten> {
        if self.alone.is_some() {
            return Ok(());
        }
        let mut gone = Vec::new();
        for of in IstioType::ALL {
            let Some(wanted) = self.subscribed.get_mut(&Served::Istio(of)) else { continue };
            let Some(mut told) = wanted.next_of(of, book)? else { continue };
            if of == IstioType::Authorization {
                let here: Vec<Told>;
                (here, gone) = told.into_iter().partition(|told| told.here.is_some());
                told = here;
            }
            let by_name = wanted.is_by_name();
            let aliases = |name: &str| if by_name { book.view().aliases(of, name) } else { Vec::new() };
            self.answers.tell(of.url(), told, aliases);
        }
        if !gone.is_empty() {
            self.answers.tell(IstioType::Authorization.url(), gone, |_| Vec::new());
        }
        Ok(())
    }
}

/// Text of a client, fit for a log.
fn plain(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}
