//! A node's or waypoint's side of discovery: whole moments of the mesh, for as long as the controller can be reached, and the last one
//! while it cannot.

pub mod kept;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aquifer_model::{
    Action, AuthorizationPolicy, MtlsMode, NamespacedName, PeerAuthentication, PolicyScope, Pool, Rule,
    Update,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::convert::{decode, encode, removed};
use crate::proto::xds::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::proto::xds::{self, DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use crate::version::{version, version_text};
use crate::{Encoded, Type};

/// Pause after a failure, and the longest; doubled each time, with a random half so that a fleet does not come in step.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The first answer takes as long as it takes to encode the mesh; a controller that says nothing for longer is asked anew.
const PATIENCE: Duration = Duration::from_secs(30);

/// Updates of one moment at most: more than a mesh has.
const MAX_MOMENT: usize = 4_000_000;

/// Bytes of one answer. The server begins another at 1 MiB, and one resource may be as large.
const MAX_ANSWER: usize = 16 << 20;

/// The way to the controller.
pub trait Link: Send + Sync + 'static {
    /// The connection; it dials when it is used.
    fn channel(&self) -> Channel;

    /// A request that says who asks. The error says why that is not possible.
    fn signed<T>(&self, message: T) -> Result<Request<T>, String>;
}

/// Who asks, for the controller's log.
#[derive(Clone, Debug)]
pub struct Client {
    /// As Istio writes it: `ztunnel~IP~POD.NAMESPACE~NAMESPACE.svc.cluster.local`.
    pub id: String,
}

/// What the client says to whoever keeps the mesh.
#[derive(Debug)]
pub enum Event {
    /// The mesh of another moment, as the difference to what was there; all is well.
    Batch(Vec<Update>),
    /// The controller cannot be reached, or told nonsense: the mesh stays as it is. Said again when the reason changes.
    Trouble(String),
    /// What do you have? Asked before a connection, so that only the difference has to be told, and with it what is gone.
    Have(oneshot::Sender<Vec<Update>>),
}

/// Follows the controller until nobody listens. The first batch is the whole mesh.
///
/// Must run in a tokio runtime with IO and time.
pub async fn watch(link: impl Link, client: Client, events: mpsc::Sender<Event>) {
    let mut pause = PAUSE.0;
    let mut said: Option<String> = None;
    loop {
        let mut told = false;
        let ended = follow(&link, &client, &events, &mut told, &mut said).await;
        if told {
            pause = PAUSE.0;
        }
        let Err(Ended::Because(why)) = ended else { return };
        if said.as_ref() != Some(&why) {
            tracing::warn!(why, "the controller tells nothing; the mesh stays as it was");
            said = Some(why.clone());
            if events.send(Event::Trouble(why)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
            () = events.closed() => return,
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Why a stream ended.
enum Ended {
    NobodyListens,
    Because(String),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        let mut text = format!("{} ({:?})", status.message(), status.code());
        let mut cause = std::error::Error::source(&status);
        while let Some(next) = cause {
            text = format!("{text}: {next}");
            cause = next.source();
        }
        Self::Because(text.chars().filter(|c| !c.is_control()).take(500).collect())
    }
}

/// One stream, from its beginning to its end.
async fn follow(
    link: &impl Link,
    client: &Client,
    events: &mpsc::Sender<Event>,
    told: &mut bool,
    said: &mut Option<String>,
) -> Result<(), Ended> {
    let mut has = have(events).await?;
    // Room for a subscription and an acknowledgement of each type at once: neither is waited for.
    let (requests, outgoing) = mpsc::channel(64);
    let node = Some(xds::Node { id: client.id.clone(), ..xds::Node::default() });
    for of in Type::ALL {
        let first = DeltaDiscoveryRequest {
            node: node.clone(),
            type_url: of.url().to_owned(),
            resource_names_subscribe: vec!["*".to_owned()],
            initial_resource_versions: std::mem::take(&mut has[of.index()]),
            ..DeltaDiscoveryRequest::default()
        };
        let _ = requests.try_send(first);
    }
    let request = link.signed(ReceiverStream::new(outgoing)).map_err(Ended::Because)?;
    let mut service =
        AggregatedDiscoveryServiceClient::new(link.channel()).max_decoding_message_size(MAX_ANSWER);
    let late = |_| Ended::Because(format!("no answer within {} s", PATIENCE.as_secs()));
    let answers = timeout(PATIENCE, service.delta_aggregated_resources(request)).await.map_err(late)?;
    let mut answers = answers?.into_inner();
    let mut moment = Moment::default();
    loop {
        let answer = if moment.complete() {
            tokio::select! {
                answer = answers.message() => answer?,
                () = events.closed() => return Ok(()),
            }
        } else {
            timeout(PATIENCE, answers.message()).await.map_err(late)??
        };
        let Some(answer) = answer else {
            return Err(Ended::Because("the controller ended the stream".to_owned()));
        };
        let acknowledgement = moment.take(answer)?;
        requests
            .send(acknowledgement)
            .await
            .map_err(|_| Ended::Because("the controller ended the stream".to_owned()))?;
        if let Some(updates) = moment.whole() {
            *told = true;
            if said.take().is_some() {
                tracing::info!("the controller tells again");
            }
            events.send(Event::Batch(updates)).await.map_err(|_| Ended::NobodyListens)?;
        }
    }
}

/// Names and versions of what is there, by type.
async fn have(events: &mpsc::Sender<Event>) -> Result<[HashMap<String, String>; Type::ALL.len()], Ended> {
    let (answer, answered) = oneshot::channel();
    events.send(Event::Have(answer)).await.map_err(|_| Ended::NobodyListens)?;
    let mut has: [HashMap<String, String>; Type::ALL.len()] = Default::default();
    for update in answered.await.map_err(|_| Ended::NobodyListens)? {
        if let Encoded { of, name, value: Some(value) } = encode(&update) {
            has[of.index()].insert(name.to_string(), version_text(version(&value)));
        }
    }
    Ok(has)
}

/// What was told and is not whole yet.
#[derive(Default)]
struct Moment {
    updates: Vec<Update>,
    answered: [bool; Type::ALL.len()],
    ends: bool,
    pool: Pool,
}

impl Moment {
    /// Takes an answer, and returns what to say to it.
    fn take(&mut self, answer: DeltaDiscoveryResponse) -> Result<DeltaDiscoveryRequest, Ended> {
        let DeltaDiscoveryResponse { system_version_info, resources, type_url, nonce, removed_resources } =
            answer;
        let of = Type::of_url(&type_url).ok_or_else(|| {
            Ended::Because("the controller told of a type that nobody asked for".to_owned())
        })?;
        let mut wrong = None;
        for resource in resources {
            let value = resource.resource.map(|any| any.value).unwrap_or_default();
            match decode(of, &resource.name, &value, &mut self.pool) {
                Ok(update) => self.updates.push(update),
                Err(error) => {
                    tracing::error!(%error, "a resource is not taken");
                    self.updates.extend(stand_in(of, &resource.name));
                    wrong.get_or_insert(error.to_string());
                }
            }
        }
        for name in removed_resources {
            match removed(of, &name) {
                Ok(update) => self.updates.push(update),
                Err(error) => _ = wrong.get_or_insert(error.to_string()),
            }
        }
        if self.updates.len() > MAX_MOMENT {
            return Err(Ended::Because(format!(
                "the controller told of more than {MAX_MOMENT} things at once"
            )));
        }
        self.answered[of.index()] = true;
        self.ends = !system_version_info.is_empty();
        Ok(DeltaDiscoveryRequest {
            type_url,
            response_nonce: nonce,
            // INVALID_ARGUMENT
            error_detail: wrong.map(|message| xds::Status { code: 3, message }),
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Every type was told of once.
    fn complete(&self) -> bool {
        self.answered.iter().all(|answered| *answered)
    }

    /// The updates, once they are of one moment.
    fn whole(&mut self) -> Option<Vec<Update>> {
        (self.ends && self.complete()).then(|| std::mem::take(&mut self.updates))
    }
}

/// Takes any bytes as answers of a server, one after another: for fuzz targets. Each begins with its length in two bytes.
pub fn fuzz_answer(mut bytes: &[u8]) {
    let mut moment = Moment::default();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (answer, rest) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
        bytes = rest;
        if let Ok(answer) = prost::Message::decode(answer) {
            let _ = moment.take(answer);
            let _ = moment.whole();
        }
    }
}

/// What stands in for a policy that cannot be read: it denies all of its namespace, since whom it is about is not known.
fn stand_in(of: Type, name: &str) -> Option<Update> {
    let (namespace, name) = name.split_once('/')?;
    let name = NamespacedName::new(namespace, name);
    match of {
        Type::AuthorizationPolicy => Some(Update::Authorization(Arc::new(AuthorizationPolicy {
            name,
            scope: PolicyScope::Namespace,
            action: Action::Unknown,
            // A rule without clauses matches every call.
            rules: vec![Rule { clauses: Vec::new(), l7: false }],
        }))),
        Type::PeerAuthentication => Some(Update::PeerAuthentication(Arc::new(PeerAuthentication {
            name,
            scope: PolicyScope::Namespace,
            mode: Some(MtlsMode::Strict),
            ports: Vec::new(),
        }))),
        _ => None,
    }
}
