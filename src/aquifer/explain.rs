//! `aquifer explain`: what would become of a call, by a folder of manifests or by a live cluster's objects; nothing is sent.

mod place;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use aquifer_k8s::names;
use aquifer_model::{
    Access, Call, Carrier, MtlsMode, Passthrough, Protocol, Refusal, Resolution, Route, RuleRef, Snapshot,
    TrustDomain, Workload,
};
use aquifer_source::object::{Key, Kind, Object, OptIn};
use aquifer_source::{Objects, TranslateConfig, folder};
use aquifer_ztunnel_like::config::MeshNames;
use serde::Serialize;

use crate::cli::ExplainFlags;
use crate::cluster::{self, Live, Origin};
use crate::node;
use place::{Called, Place};

/// Endpoints that are looked at; Kubernetes bounds one EndpointSlice to as many.
const ENDPOINTS: usize = 1000;

/// Everything that is known of a call before it is made.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    caller: Party,
    called: Called,
    resolution: Step,
    /// Where the call may arrive, in the order in which they would be tried with the first choice left to chance.
    endpoints: Vec<Endpoint>,
    pub(crate) outcome: Outcome,
    /// What is wrong with the folder, or with the cluster's objects.
    problems: Vec<String>,
    #[serde(skip)]
    origin: Origin,
}

/// A workload, or an address that is none.
#[derive(Debug, Serialize)]
struct Party {
    /// `namespace/name` of the pod, or the address.
    name: String,
    /// What it can prove; nothing outside the mesh.
    identity: Option<String>,
    node: Option<String>,
    addresses: Vec<IpAddr>,
    in_mesh: bool,
    /// Why it is in the mesh, or not.
    because: String,
}

/// What resolving the called address says.
#[derive(Debug, Serialize)]
struct Step {
    /// `route`, or the reason code of why there is none.
    code: &'static str,
    text: String,
}

/// One place where the call may arrive.
#[derive(Debug, Serialize)]
struct Endpoint {
    address: SocketAddr,
    party: Party,
    path: PathKind,
    mtls: Option<Mtls>,
    verdict: Verdict,
}

/// How the call is carried there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum PathKind {
    Tunnel,
    SameNode,
    Plaintext,
}

/// Whether plaintext is taken, and who says so.
#[derive(Debug, Serialize)]
struct Mtls {
    mode: MtlsMode,
    by: Option<String>,
}

/// What policy says to the call at one endpoint.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) allowed: bool,
    /// Reason code of a denial, as flow records have it.
    pub(crate) reason: Option<&'static str>,
    /// The deciding policy and rule.
    pub(crate) by: Option<String>,
    text: String,
    /// AUDIT rules that match.
    audited: Vec<String>,
}

/// The answer in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Allowed,
    /// At each endpoint.
    Denied,
    /// At some endpoints it is allowed, at others denied.
    Mixed,
    /// There is nowhere to go.
    Unresolved,
}

impl Outcome {
    fn code(self) -> u8 {
        match self {
            Self::Allowed => 0,
            Self::Denied | Self::Mixed => 1,
            Self::Unresolved => 2,
        }
    }
}

impl Explanation {
    /// What policy says at each endpoint.
    pub(crate) fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        self.endpoints.iter().map(|endpoint| &endpoint.verdict)
    }
}

/// Explains a call on standard output. The code is 0 where it is allowed, 1 where it is denied, 2 where it leads
/// nowhere or the question cannot be understood.
pub(crate) fn run(flags: ExplainFlags) -> ExitCode {
    let output = flags.output;
    let explained = match &flags.manifests {
        Some(folder) => {
            node::mesh_names(flags.mesh).and_then(|names| explain(folder, &names, &flags.from, &flags.to))
        }
        None => cluster::blocking(explain_live(&flags)),
    };
    let shown = explained.and_then(|explanation| {
        output.print(&explanation, || println!("{}", explanation.to_string().trim_end()))?;
        Ok(explanation.outcome)
    });
    match shown {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => {
            eprintln!("aquifer explain: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Reads the folder and follows the call, as the nodes would.
pub(crate) fn explain(
    manifests: &Path,
    names: &MeshNames,
    from: &str,
    to: &str,
) -> anyhow::Result<Explanation> {
    let config = TranslateConfig {
        cluster_id: names.cluster_id.as_str().into(),
        cluster_domain: names.cluster_domain.as_str().into(),
        trust_domain: TrustDomain::new(&names.trust_domain)?,
        root_namespace: names.root_namespace.as_str().into(),
    };
    let (objects, problems) = folder::load(manifests, &config)?;
    let networks = names.networks.as_ref().map(|networks| {
        let parse =
            |text: &String| text.parse().with_context(|| format!("--mesh-networks: {text:?} is no CIDR"));
        networks.iter().map(parse).collect::<anyhow::Result<Vec<_>>>()
    });
    follow(&Live::of(objects, problems, config, networks.transpose()?), Origin::Folder, from, to)
}

/// Reads the cluster and follows the call, as its nodes would.
async fn explain_live(flags: &ExplainFlags) -> anyhow::Result<Explanation> {
    let client = cluster::client(&flags.cluster).await?;
    follow(&Live::read(&client).await?, Origin::Cluster, &flags.from, &flags.to)
}

fn follow(live: &Live, origin: Origin, from: &str, to: &str) -> anyhow::Result<Explanation> {
    let ground = Ground { objects: &live.objects, mesh: &live.mesh, config: &live.config, origin };
    let mut explanation = ground.follow(&Place::parse(from)?, &Place::parse(to)?)?;
    explanation.problems = live.problems.iter().map(ToString::to_string).collect();
    Ok(explanation)
}

/// What a question is answered from.
struct Ground<'a> {
    objects: &'a Objects,
    mesh: &'a Snapshot,
    config: &'a TranslateConfig,
    origin: Origin,
}

impl Ground<'_> {
    fn follow(&self, from: &Place, to: &Place) -> anyhow::Result<Explanation> {
        if from.port.is_some() {
            bail!("the caller {from} needs no port: it is the side that connects");
        }
        let caller = self.caller(from)?;
        let called = self.called(to, &caller)?;
        let mut endpoints = Vec::new();
        let mut resolution = Step { code: "route", text: String::new() };
        for destination in &called.addresses {
            match self.routes(&caller, *destination) {
                Ok(routes) => endpoints.extend(routes.iter().map(|route| self.endpoint(&caller, route))),
                Err(stop) => resolution = stop,
            }
        }
        if !endpoints.is_empty() {
            resolution = Step { code: "route", text: called.choice(endpoints.len()) };
        } else if called.addresses.is_empty() {
            resolution = called.nowhere();
        }
        let outcome = outcome(&resolution, &endpoints);
        let caller = self.party(&caller);
        let origin = self.origin;
        Ok(Explanation { caller, called, resolution, endpoints, outcome, problems: Vec::new(), origin })
    }

    /// All places that a call to an address may be carried to; otherwise why there is none.
    fn routes(&self, caller: &Workload, destination: SocketAddr) -> Result<Vec<Route>, Step> {
        let mut routes: Vec<Route> = Vec::new();
        let mut tried = Vec::new();
        while routes.len() < ENDPOINTS {
            let call = Call { caller, destination, protocol: Protocol::Tcp, entropy: 0, exclude: &tried };
            match self.mesh.resolve(&call) {
                Resolution::Route(route) if !tried.contains(&route.target) => {
                    tried.push(route.target);
                    let only = route.service.is_none();
                    routes.push(route);
                    if only {
                        break;
                    }
                }
                // Only those are left that were tried.
                _ if !routes.is_empty() => break,
                Resolution::Route(_) => break,
                Resolution::Passthrough(passthrough) => return Err(passes(&passthrough)),
                Resolution::Refuse(refusal) => return Err(refused(&refusal)),
                Resolution::Unknown => return Err(self.unknown(caller, destination)),
            }
        }
        Ok(routes)
    }

    fn endpoint(&self, caller: &Workload, route: &Route) -> Endpoint {
        let address = route.target;
        let Some(workload) = &route.workload else {
            let verdict = Verdict::unasked(format!(
                "it is no pod of the {}, so nothing of the mesh stands before it",
                self.origin
            ));
            let party = Party::stranger(address.ip(), self.origin);
            return Endpoint { address, party, path: PathKind::Plaintext, mtls: None, verdict };
        };
        let party = self.party(workload);
        if !workload.in_mesh() {
            let idle = self.mesh.policies_for(workload).len();
            let verdict = Verdict::unasked(match idle {
                0 => "the pod is not in the mesh, so no policy is enforced before it".to_owned(),
                _ => {
                    format!("{idle} policies select the pod, but it is not in the mesh: nobody enforces them")
                }
            });
            return Endpoint { address, party, path: PathKind::Plaintext, mtls: None, verdict };
        }
        let path =
            match (caller.in_mesh() && route.carrier == Carrier::Tunnel, caller.node() == workload.node()) {
                (false, _) => PathKind::Plaintext,
                (true, true) if !caller.node().is_empty() => PathKind::SameNode,
                (true, _) => PathKind::Tunnel,
            };
        let identity = (path != PathKind::Plaintext).then(|| caller.identity());
        let same_family = caller.addresses().iter().find(|ip| ip.is_ipv4() == address.is_ipv4());
        let source = same_family.or(caller.addresses().first()).unwrap_or(address.ip());
        let access = Access { identity: identity.as_ref(), source, destination: workload, address };
        let (mode, by) = self.mesh.mtls_mode(workload, address.port());
        let mtls = Some(Mtls { mode, by: by.map(|name| format!("PeerAuthentication {name}")) });
        Endpoint { address, party, path, mtls, verdict: self.verdict(&access) }
    }

    fn unknown(&self, caller: &Workload, destination: SocketAddr) -> Step {
        let (ip, origin) = (destination.ip(), self.origin);
        let text = match caller.in_mesh() {
            true => format!(
                "{ip} lies in the mesh's networks and no pod of the {origin} has it: the call waits at most 5 s for it, then is reset"
            ),
            false => format!("{ip} lies in the mesh's networks and no pod of the {origin} has it"),
        };
        Step { code: "unknown-destination", text }
    }

    fn verdict(&self, access: &Access<'_>) -> Verdict {
        let written = |rules: Vec<RuleRef>| rules.iter().map(ToString::to_string).collect();
        match self.mesh.authorize(access) {
            Ok(permit) => {
                let by = permit.by.map(|rule| rule.to_string());
                let text = match &by {
                    Some(by) => format!("{by} allows it"),
                    None => "no ALLOW policy applies to the pod, and no DENY rule matches".to_owned(),
                };
                Verdict { allowed: true, reason: None, by, text, audited: written(permit.audited) }
            }
            Err(denial) => Verdict {
                allowed: false,
                reason: Some(denial.reason.code()),
                by: denial.by.as_ref().map(ToString::to_string),
                text: denial.to_string(),
                audited: written(denial.audited),
            },
        }
    }

    fn party(&self, workload: &Workload) -> Party {
        if workload.pod().name.is_empty() {
            let first = workload.addresses().first();
            return first.map_or_else(|| Party::nobody(self.origin), |ip| Party::stranger(ip, self.origin));
        }
        Party {
            name: workload.pod().to_string(),
            identity: workload.in_mesh().then(|| workload.identity().to_string()),
            node: (!workload.node().is_empty()).then(|| workload.node().to_string()),
            addresses: workload.addresses().iter().collect(),
            in_mesh: workload.in_mesh(),
            because: self.membership(workload),
        }
    }

    fn membership(&self, workload: &Workload) -> String {
        if workload.finished() {
            return "its containers have ended".into();
        }
        if workload.host_network() {
            return "it lives in the node's own network (hostNetwork), which is never captured".into();
        }
        let namespace = workload.namespace();
        let name = workload.pod().name.to_string();
        let pod = self.objects.object(&Key::new(Kind::Pod, namespace, &name.into()));
        let label = names::MESH_LABEL;
        match pod {
            Some(Object::Pod(pod)) if pod.opt_in == OptIn::In => {
                format!("its label {label}={}", names::MESH_AMBIENT)
            }
            Some(Object::Pod(pod)) if pod.opt_in == OptIn::Out => {
                format!("its label {label}={}", names::MESH_NONE)
            }
            _ if workload.in_mesh() => {
                format!("label {label}={} of namespace {namespace}", names::MESH_AMBIENT)
            }
            _ => {
                format!("neither it nor namespace {namespace} has the label {label}={}", names::MESH_AMBIENT)
            }
        }
    }
}

impl Party {
    fn nobody(origin: Origin) -> Self {
        Self {
            name: "nobody".into(),
            identity: None,
            node: None,
            addresses: Vec::new(),
            in_mesh: false,
            because: format!("no pod of the {origin} has the address"),
        }
    }

    fn stranger(ip: IpAddr, origin: Origin) -> Self {
        Self { name: ip.to_string(), addresses: vec![ip], ..Self::nobody(origin) }
    }
}

impl Verdict {
    /// Nobody is asked.
    fn unasked(text: impl Into<String>) -> Self {
        Self { allowed: true, reason: None, by: None, text: text.into(), audited: Vec::new() }
    }
}

fn outcome(resolution: &Step, endpoints: &[Endpoint]) -> Outcome {
    let allowed = endpoints.iter().filter(|endpoint| endpoint.verdict.allowed).count();
    match (allowed, endpoints.len()) {
        (0, 0) if [PASSES_OUTSIDE, PASSES_UNRESOLVED].contains(&resolution.code) => Outcome::Allowed,
        (0, 0) => Outcome::Unresolved,
        (0, _) => Outcome::Denied,
        (some, all) if some == all => Outcome::Allowed,
        _ => Outcome::Mixed,
    }
}

const PASSES_OUTSIDE: &str = "outside-mesh";
const PASSES_UNRESOLVED: &str = "unresolved-service";

fn passes(passthrough: &Passthrough) -> Step {
    match passthrough {
        Passthrough::OutsideMesh => Step {
            code: PASSES_OUTSIDE,
            text: "passthrough: the address is nothing that the mesh knows or owns; it leaves as it is"
                .into(),
        },
        Passthrough::UnresolvedService(name) => Step {
            code: PASSES_UNRESOLVED,
            text: format!(
                "passthrough: nobody tells the endpoints of Service {name} (ExternalName, or neither selector nor EndpointSlices)"
            ),
        },
    }
}

fn refused(refusal: &Refusal) -> Step {
    Step { code: refusal.code(), text: refusal.to_string() }
}

#[cfg(test)]
mod tests;
