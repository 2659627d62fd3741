//! The two ends of a question as a person names them, and what the folder has under that name.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, bail, ensure};
use aquifer_model::{
    Addresses, Membership, NamespacedName, PodUid, Protocol, Service, Text, TrustDomain, Workload,
    WorkloadFacts, WorkloadName,
};
use aquifer_source::object::{Key, Kind, Object};
use serde::Serialize;

use super::{Ground, PASSES_UNRESOLVED, Step};

/// A place as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    what: What,
    pub(super) port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Pod(NamespacedName),
    Service(NamespacedName),
    Host(String),
    Ip(IpAddr),
}

/// What is called: as asked, and the addresses that stand for it.
#[derive(Debug, Serialize)]
pub(super) struct Called {
    pub(super) asked: String,
    /// Host name of the Service, where it is one.
    pub(super) service: Option<String>,
    /// One; several for a headless Service, whose clients choose among the addresses that DNS tells.
    pub(super) addresses: Vec<SocketAddr>,
    #[serde(skip)]
    selection: Selection,
}

/// Who selects among several endpoints, and how.
#[derive(Debug, PartialEq, Eq)]
enum Selection {
    /// Nobody: an address that is no Service's.
    None,
    /// The mesh, or kube-proxy for callers outside it.
    Virtual { sticky: bool, near: bool },
    /// The client, among what DNS tells.
    Headless,
    /// Somebody that no object tells of.
    External,
}

impl Place {
    /// Reads `NS/POD`, `svc/NS/NAME`, a host name or an IP, each with `:PORT` or without; an IPv6 address with a port
    /// stands in brackets.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Self { what: What::Ip(ip), port: None });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { what: What::Ip(address.ip()), port: Some(address.port()) });
        }
        let (name, port) = match text.split_once(':') {
            None => (text, None),
            Some((name, port)) => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (
                    name,
                    Some(
                        port.with_context(|| format!("{text:?}: after the colon stands a port, 1 to 65535"))?,
                    ),
                )
            }
        };
        let parts: Vec<_> = name.split('/').collect();
        ensure!(
            parts.iter().all(|part| !part.is_empty()),
            "{text:?}: write NS/POD, svc/NS/NAME, a host name or an IP"
        );
        let what = match parts[..] {
            ["svc", namespace, name] => What::Service(NamespacedName::new(namespace, name)),
            [namespace, name] => What::Pod(NamespacedName::new(namespace, name)),
            [host] => What::Host(host.trim_end_matches('.').to_ascii_lowercase()),
            _ => bail!("{text:?}: write NS/POD, svc/NS/NAME, a host name or an IP"),
        };
        Ok(Self { what, port })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.what, self.port) {
            (What::Ip(ip), Some(port)) => return SocketAddr::new(*ip, port).fmt(f),
            (What::Pod(name), _) => name.fmt(f)?,
            (What::Service(name), _) => write!(f, "svc/{name}")?,
            (What::Host(host), _) => f.write_str(host)?,
            (What::Ip(ip), None) => ip.fmt(f)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl Called {
    /// How the endpoint is chosen among so many.
    pub(super) fn choice(&self, count: usize) -> String {
        match &self.selection {
            Selection::Headless => format!("headless: DNS tells {count} addresses, the client chooses"),
            Selection::Virtual { .. } if count == 1 => "the Service has 1 endpoint that takes calls".into(),
            Selection::Virtual { sticky, near } => {
                let choice = match (sticky, near) {
                    (true, _) => "always the same for this caller (sessionAffinity: ClientIP)",
                    (false, true) => "the nearest first (trafficDistribution), among equals by chance",
                    (false, false) => "one is taken by chance",
                };
                format!("the Service has {count} endpoints that take calls; {choice}")
            }
            Selection::None | Selection::External => "the address itself".into(),
        }
    }

    /// Why there is no address.
    pub(super) fn nowhere(&self) -> Step {
        match self.selection {
            Selection::External => Step {
                code: PASSES_UNRESOLVED,
                text: "passthrough: an ExternalName, or a Service whose endpoints nobody tells; DNS leads elsewhere".into(),
            },
            _ => Step { code: "no-endpoint", text: "the headless Service has no endpoint, so DNS has no address".into() },
        }
    }
}

impl Ground<'_> {
    /// The workload that calls; for an address that is no pod's one without a name.
    pub(super) fn caller(&self, place: &Place) -> anyhow::Result<Workload> {
        match &place.what {
            What::Pod(name) => self.pod(name).cloned(),
            What::Ip(ip) => {
                Ok(self.mesh.workload_by_ip(*ip).map_or_else(|| stranger(*ip), |found| (**found).clone()))
            }
            What::Service(_) | What::Host(_) => {
                let service = self.service(&place.what, None)?;
                let serving = self.mesh.workloads().filter(|workload| self.mesh.serves(workload, service));
                let first = serving.min_by_key(|workload| workload.pod());
                first
                    .map(|found| (**found).clone())
                    .with_context(|| format!("no pod serves Service {}", service.name))
            }
        }
    }

    /// The addresses that a name stands for.
    pub(super) fn called(&self, place: &Place, caller: &Workload) -> anyhow::Result<Called> {
        let asked = place.to_string();
        let prefer_v4 = caller.addresses().first().is_none_or(|ip| ip.is_ipv4());
        let of_family = |addresses: &Addresses| {
            addresses.iter().find(|ip| ip.is_ipv4() == prefer_v4).or(addresses.first())
        };
        match &place.what {
            What::Ip(ip) => {
                let port = match place.port {
                    Some(port) => port,
                    None => match (self.mesh.service_by_vip(*ip), self.mesh.workload_by_ip(*ip)) {
                        (Some(service), _) => only_port(service)?,
                        (None, Some(workload)) => self.only_port_of_pod(workload)?,
                        (None, None) => {
                            bail!(
                                "{ip}: nothing in the {} has this address; say the port, as {asked}:80",
                                self.origin
                            )
                        }
                    },
                };
                let selection =
                    self.mesh.service_by_vip(*ip).map_or(Selection::None, |service| selection_of(service));
                let service = self.mesh.service_by_vip(*ip).map(|service| service.hostname.to_string());
                Ok(Called { asked, service, addresses: vec![SocketAddr::new(*ip, port)], selection })
            }
            What::Pod(name) => {
                let pod = self.pod(name)?;
                let ip = of_family(pod.addresses())
                    .with_context(|| format!("pod {name} has no address (status.podIP)"))?;
                let port = place.port.map_or_else(|| self.only_port_of_pod(pod), Ok)?;
                Ok(Called {
                    asked,
                    service: None,
                    addresses: vec![SocketAddr::new(ip, port)],
                    selection: Selection::None,
                })
            }
            What::Service(_) | What::Host(_) => {
                let service = self.service(&place.what, Some(caller))?;
                let hostname = Some(service.hostname.to_string());
                if let Some(vip) = of_family(&service.vips) {
                    let port = place.port.map_or_else(|| only_port(service), Ok)?;
                    let addresses = vec![SocketAddr::new(vip, port)];
                    return Ok(Called {
                        asked,
                        service: hostname,
                        addresses,
                        selection: selection_of(service),
                    });
                }
                if service.unresolved {
                    return Ok(Called {
                        asked,
                        service: hostname,
                        addresses: Vec::new(),
                        selection: Selection::External,
                    });
                }
                let addresses = self.headless(service, place.port, prefer_v4)?;
                Ok(Called { asked, service: hostname, addresses, selection: Selection::Headless })
            }
        }
    }

    fn pod(&self, name: &NamespacedName) -> anyhow::Result<&Workload> {
        let workload = WorkloadName::pod(&self.config.cluster_id, &name.namespace, &name.name);
        let found = self.mesh.workload(&workload).map(|workload| &**workload);
        found.with_context(|| format!("the {} has no Pod {name}", self.origin))
    }

    fn service(&self, what: &What, caller: Option<&Workload>) -> anyhow::Result<&Service> {
        match what {
            What::Service(name) => self
                .mesh
                .service(name)
                .map(|s| &**s)
                .with_context(|| format!("the {} has no Service {name}", self.origin)),
            What::Host(host) => {
                let domain = &self.config.cluster_domain;
                let mut tries =
                    vec![host.clone(), format!("{host}.{domain}"), format!("{host}.svc.{domain}")];
                tries.extend(caller.map(|caller| format!("{host}.{}.svc.{domain}", caller.namespace())));
                let found = tries.iter().find_map(|host| self.mesh.service_by_hostname(host)).map(|s| &**s);
                found.with_context(|| {
                    format!(
                        "{host:?} is no Service of the {}, and no name server is asked; write its IP",
                        self.origin
                    )
                })
            }
            What::Pod(_) | What::Ip(_) => bail!("a Service is named svc/NS/NAME"),
        }
    }

    /// What DNS tells of a headless Service.
    fn headless(&self, service: &Service, port: Option<u16>, v4: bool) -> anyhow::Result<Vec<SocketAddr>> {
        let slices = self.mesh.endpoint_slices().filter(|slice| slice.service == service.name);
        let mut addresses = Vec::new();
        for slice in slices {
            let port = match (port, &slice.ports[..]) {
                (Some(port), _) => port,
                (None, [only]) => only.port,
                (None, _) => bail!("Service {} has not exactly one port; say which", service.name),
            };
            let ready = slice.endpoints.iter().filter(|e| e.ready || service.publish_not_ready);
            addresses.extend(ready.map(|endpoint| SocketAddr::new(endpoint.address, port)));
        }
        addresses.sort_unstable();
        if addresses.iter().any(|address| address.is_ipv4() == v4) {
            addresses.retain(|address| address.is_ipv4() == v4);
        }
        Ok(addresses)
    }

    fn only_port_of_pod(&self, workload: &Workload) -> anyhow::Result<u16> {
        let name = workload.pod();
        let key = Key::new(Kind::Pod, workload.namespace(), &name.name.to_string().into());
        let object = self.objects.object(&key);
        let ports: Vec<u16> = match object {
            Some(Object::Pod(pod)) => {
                pod.ports.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.port).collect()
            }
            _ => Vec::new(),
        };
        match ports[..] {
            [port] => Ok(port),
            _ => bail!("pod {name} names {} TCP ports; say which is called, as {name}:8080", ports.len()),
        }
    }
}

fn only_port(service: &Service) -> anyhow::Result<u16> {
    let mut ports = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.port);
    match (ports.next(), ports.next()) {
        (Some(port), None) => Ok(port),
        (None, _) => bail!("Service {} has no TCP port", service.name),
        (Some(first), Some(second)) => {
            bail!(
                "Service {} has several ports; say which, as svc/{}:{first} or :{second}",
                service.name,
                service.name
            )
        }
    }
}

fn selection_of(service: &Service) -> Selection {
    Selection::Virtual {
        sticky: service.session_affinity.is_some(),
        near: service.traffic_distribution != aquifer_model::TrafficDistribution::Any,
    }
}

/// Somebody who has an address and is no pod of the folder: not captured, without an identity.
fn stranger(ip: IpAddr) -> Workload {
    let facts = WorkloadFacts {
        name: WorkloadName::from_wire(""),
        uid: PodUid::new(""),
        namespace: "".into(),
        trust_domain: TrustDomain::default(),
        service_account: "".into(),
        addresses: [ip].into_iter().collect(),
        node: Text::new(),
        labels: Vec::new(),
        named_ports: Vec::new(),
        owner: None,
        canonical_name: None,
        canonical_revision: Text::new(),
        membership: Membership::Outside,
        host_network: false,
        netns: None,
        terminating: false,
        finished: false,
    };
    facts.into()
}
