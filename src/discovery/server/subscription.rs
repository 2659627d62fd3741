//! What a stream wants of a type, and what it was told of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tonic::Status;

use super::istio::Book;
use super::store::{Forgotten, Look, Told};
use crate::IstioType;
use crate::proto::xds::DeltaDiscoveryRequest;
use crate::version::version_text;

/// Names that one stream may ask for one by one; who wants more wants all.
const MAX_NAMES: usize = 10_000;

/// Everything, as a name.
const ALL: &str = "*";

#[derive(Default)]
pub(super) struct Subscription {
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

impl Subscription {
    /// The first request of a type.
    pub(super) fn new(request: &mut DeltaDiscoveryRequest) -> Self {
        Self {
            // Without any name it is for all, as xDS was before it had the star.
            all: request.resource_names_subscribe.is_empty(),
            told: Position::Has(std::mem::take(&mut request.initial_resource_versions)),
            ..Self::default()
        }
    }

    /// Takes up what a request wants more, or no more. Returns whether it wants more.
    pub(super) fn want(&mut self, request: DeltaDiscoveryRequest, first: bool) -> bool {
        let mut news = first;
        for name in request.resource_names_subscribe {
            news = true;
            if name == ALL {
                // Of what was told by name the client has the version, but what else there is it has not.
                if !first && !std::mem::replace(&mut self.all, true) {
                    self.told = Position::default();
                }
                self.all = true;
                continue;
            }
            let name: Arc<str> = name.into();
            self.asked.insert(name.clone());
            self.names.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            if name == ALL {
                self.all = false;
            }
            self.names.remove(name.as_str());
            self.asked.remove(name.as_str());
        }
        news
    }

    /// That there are not too many names.
    pub(super) fn bounded(&self) -> Result<(), Status> {
        if self.names.len() > MAX_NAMES {
            return Err(Status::resource_exhausted(format!(
                "more than {MAX_NAMES} names: subscribe to {ALL:?}"
            )));
        }
        Ok(())
    }

    /// What is to be told of a type now; `None` where that is nothing. A type of which there is nothing is answered once all the same:
    /// then the client knows that.
    pub(super) fn next(&mut self, of: usize, look: &Look<'_>) -> Result<Option<Vec<Told>>, Forgotten> {
        let (mut told, first) = match &self.told {
            Position::Has(has) => (look.beside(of, has), true),
            Position::Told(revision) => (look.since(of, *revision)?, false),
        };
        self.told = Position::Told(look.revision());
        if !self.all {
            told.retain(|told| self.names.contains(&told.name));
        }
        // Who asks by name is told of that name, also that there is none.
        let asked = std::mem::take(&mut self.asked);
        if !asked.is_empty() {
            told.retain(|told| !asked.contains(&told.name));
            told.extend(asked.iter().map(|name| look.named(of, name)));
        }
        Ok((first || !told.is_empty()).then_some(told))
    }

    /// The same of one of Istio's types, where a name may mean others: an address the pod that has it, a Service all that serve it.
    pub(super) fn next_of(&mut self, of: IstioType, book: &Book) -> Result<Option<Vec<Told>>, Forgotten> {
        let look = book.look();
        if self.all {
            self.asked.clear();
            return self.next(of.index(), &look);
        }
        let first = matches!(self.told, Position::Has(_));
        let mut has = HashMap::new();
        let mut told = BTreeMap::new();
        match std::mem::replace(&mut self.told, Position::Told(look.revision())) {
            // Who comes back wants what it has.
            Position::Has(versions) => {
                self.names.extend(versions.keys().map(|name| name.as_str().into()));
                self.asked.extend(versions.keys().map(|name| name.as_str().into()));
                has = versions;
            }
            Position::Told(revision) => {
                for Told { name, here } in look.since(of.index(), revision)? {
                    if self.means(of, &name, here.is_some(), book) {
                        told.insert(name, here);
                    }
                }
            }
        }
        for name in std::mem::take(&mut self.asked) {
            let found = book.find(of, &name);
            // Istio's ztunnel waits for a word about the very name that it asked for; that it was removed is one.
            if !found.contains(&name) {
                told.insert(name, None);
            }
            for name in found {
                let Told { name, here } = look.named(of.index(), &name);
                let version = here.as_ref().map(|(version, _)| version_text(*version));
                if version.as_ref() != has.get(&*name) {
                    told.insert(name, here);
                }
            }
        }
        // What was told is followed from now on.
        self.names.extend(told.iter().filter(|(_, here)| here.is_some()).map(|(name, _)| name.clone()));
        if self.names.len() > MAX_NAMES {
            // A ztunnel asks for each address that it does not know, and asks again.
            self.names.retain(|name| !book.find(of, name).is_empty());
        }
        if self.names.len() > MAX_NAMES {
            self.names.clear();
            self.all = true;
            self.told = Position::default();
            return self.next(of.index(), &look);
        }
        let told: Vec<Told> = told.into_iter().map(|(name, here)| Told { name, here }).collect();
        Ok((first || !told.is_empty()).then_some(told))
    }

    /// Whether a resource that changed is one that was asked for, by whichever of its names.
    fn means(&self, of: IstioType, name: &Arc<str>, is_here: bool, book: &Book) -> bool {
        if self.names.contains(name) {
            return true;
        }
        // Of what is gone the client has nothing but what it was told, by its name.
        is_here && !self.names.is_empty() && {
            let view = book.view();
            let others = view.aliases(of, name).into_iter().chain(view.serves(of, name));
            others.into_iter().any(|other| self.names.contains(other.as_str()))
        }
    }

    /// Whether resources are told with their other names: to those who ask by them.
    pub(super) fn is_by_name(&self) -> bool {
        !self.all
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use aquifer_model::{Mesh, MeshConfig, Update, Workload, WorkloadFacts};

    use super::*;
    use crate::testing;

    fn pod(number: usize) -> Update {
        let name = format!("p{number}");
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + u32::try_from(number).unwrap());
        let addresses = [address.into()].into_iter().collect();
        let facts = WorkloadFacts { addresses, ..testing::pod("shop", &name) };
        Update::Workload(Arc::new(Workload::from(facts)))
    }

    /// Of a client that comes with these names.
    fn asking(names: impl Iterator<Item = String>) -> Subscription {
        let star = vec![ALL.to_owned()];
        let mut request = DeltaDiscoveryRequest {
            resource_names_subscribe: star.clone(),
            resource_names_unsubscribe: star,
            initial_resource_versions: names.map(|name| (name, String::new())).collect(),
            ..DeltaDiscoveryRequest::default()
        };
        let mut wanted = Subscription::new(&mut request);
        wanted.want(request, true);
        wanted
    }

    #[test]
    fn who_asks_for_too_many_names_gets_all_and_who_asks_for_what_is_not_there_is_not_remembered() {
        let mut mesh =
            Mesh::new(MeshConfig { root_namespace: "aquifer-system".into(), networks: Some(vec![]) });
        mesh.apply((0..=MAX_NAMES + 1).map(pod));
        let book = Book::new(mesh.snapshot());
        let told = |mut wanted: Subscription| {
            let told = wanted.next_of(IstioType::Address, &book).ok().flatten().unwrap();
            let here = told.iter().filter(|told| told.here.is_some()).count();
            (here, told.len() - here, wanted.names.len(), wanted.all)
        };
        let unknown = |number: usize| format!("/{}", Ipv4Addr::from(u32::try_from(number).unwrap()));
        assert_eq!(told(asking((0..=MAX_NAMES).map(unknown))), (0, MAX_NAMES + 1, 0, false));
        assert_eq!(told(asking((0..2).map(unknown))), (0, 2, 2, false));
        let known = |number: usize| format!("Kubernetes//Pod/shop/p{number}");
        assert_eq!(told(asking((0..=MAX_NAMES).map(known))), (MAX_NAMES + 2, 0, 0, true));
    }
}
