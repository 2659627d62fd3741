//! For the tests: YAML text to objects, worlds and what was said about it.

use std::sync::Arc;

use aquifer_model::{AuthorizationPolicy, EndpointSlice, PeerAuthentication, Service, Update, Workload};

use crate::read::{Contents, Remark, read};
use crate::{Objects, TranslateConfig, World, translate};

/// What a text holds.
pub(crate) fn contents(yaml: &str) -> Contents {
    read(yaml.as_bytes(), &TranslateConfig::default())
}

/// The objects of a text, which must have nothing broken.
pub(crate) fn objects(yaml: &str) -> Objects {
    let contents = contents(yaml);
    assert!(contents.broken.is_empty(), "{:#?}", contents.broken);
    let mut objects = Objects::default();
    for (key, object, _) in contents.objects {
        objects.insert(key, object);
    }
    objects
}

/// The world of a text, which must have nothing broken.
pub(crate) fn world(yaml: &str) -> Seen {
    Seen::new(&translate(&objects(yaml)))
}

/// A remark as a person sees it.
pub(crate) fn shown(remark: &Remark) -> String {
    let number = |n: Option<u32>| n.map_or("-".to_owned(), |n| n.to_string());
    let place = remark.place;
    let at = [place.document, place.line, place.column].map(number).join(":");
    format!("{at} {} {:?}: {}", remark.field.as_deref().unwrap_or("-"), remark.severity, remark.message)
}

/// What is broken in a text, then what is remarked.
pub(crate) fn said(yaml: &str) -> Vec<String> {
    let contents = contents(yaml);
    let broken = contents.broken.iter().map(|broken| &broken.remark);
    broken.chain(&contents.remarks).map(shown).collect()
}

/// A world, laid open.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) workloads: Vec<Arc<Workload>>,
    pub(crate) services: Vec<Arc<Service>>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
    pub(crate) policies: Vec<Arc<AuthorizationPolicy>>,
    pub(crate) peers: Vec<Arc<PeerAuthentication>>,
}

impl Seen {
    pub(crate) fn new(world: &World) -> Self {
        let mut seen = Self::default();
        for update in World::default().diff(world) {
            match update {
                Update::Workload(it) => seen.workloads.push(it),
                Update::Service(it) => seen.services.push(it),
                Update::EndpointSlice(it) => seen.slices.push(it),
                Update::Authorization(it) => seen.policies.push(it),
                Update::PeerAuthentication(it) => seen.peers.push(it),
                Update::Node(_) => {}
                gone => panic!("nothing can be gone from an empty world: {gone:?}"),
            }
        }
        seen
    }

    pub(crate) fn workload(&self, pod: &str) -> &Workload {
        self.workloads.iter().find(|it| it.pod().to_string() == pod).unwrap_or_else(|| panic!("no pod {pod}"))
    }

    pub(crate) fn service(&self, name: &str) -> &Service {
        self.services
            .iter()
            .find(|it| it.name.to_string() == name)
            .unwrap_or_else(|| panic!("no service {name}"))
    }

    pub(crate) fn policy(&self, name: &str) -> &AuthorizationPolicy {
        self.policies
            .iter()
            .find(|it| it.name.to_string() == name)
            .unwrap_or_else(|| panic!("no policy {name}"))
    }

    pub(crate) fn peer(&self, name: &str) -> &PeerAuthentication {
        self.peers.iter().find(|it| it.name.to_string() == name).unwrap_or_else(|| panic!("no {name}"))
    }
}
