//! Holds equal parts of workloads once: pods of one make differ in little more than name, uid and address.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

use crate::workload::Make;
use crate::{EndpointSlice, NamespacedName, Service, Text, Workload};

/// Whoever makes workloads keeps one, and has it share what they have in common with those before. It forgets what
/// nobody holds any more: it never has more than twice as many parts as are in use, and a thousand more.
#[derive(Debug, Default)]
pub struct Pool {
    texts: Shared<Text>,
    strings: Shared<Arc<str>>,
    makes: Shared<Arc<Make>>,
}

/// So many parts may be there before the first look for those that nobody holds.
const SLACK: usize = 1024;

impl Pool {
    /// Makes a workload, or takes one, whose common parts are those of the ones before.
    pub fn workload(&mut self, workload: impl Into<Workload>) -> Workload {
        let mut workload = workload.into();
        workload.share(|text| self.texts.share(text));
        self.make(&mut workload.make);
        workload
    }

    /// Has a Service hold what it has in common with others.
    pub fn service(&mut self, service: &mut Service) {
        self.name(&mut service.name);
        for port in &mut service.ports {
            self.strings.share(&mut port.name);
            self.strings.share(&mut port.app_protocol);
        }
    }

    /// Has a slice and its endpoints hold what they have in common with others.
    pub fn slice(&mut self, slice: &mut EndpointSlice) {
        self.name(&mut slice.service);
        self.strings.share(&mut slice.name.namespace);
        slice.ports.iter_mut().for_each(|port| self.strings.share(&mut port.name));
        for endpoint in &mut slice.endpoints {
            self.texts.share(&mut endpoint.node);
            self.texts.share(&mut endpoint.zone);
            if let Some(name) = &mut endpoint.workload {
                name.share(|text| self.texts.share(text));
            }
        }
    }

    /// The name of a Service, which its slices repeat.
    fn name(&mut self, name: &mut NamespacedName) {
        self.strings.share(&mut name.namespace);
        self.strings.share(&mut name.name);
    }

    fn make(&mut self, make: &mut Arc<Make>) {
        if let Some(known) = self.makes.all.get(make) {
            *make = known.clone();
            return;
        }
        let mut own = Make::clone(make);
        own.labels.iter_mut().for_each(|(key, value)| {
            self.texts.share(key);
            self.texts.share(value);
        });
        own.named_ports.iter_mut().for_each(|(name, _)| self.texts.share(name));
        let (kind, name) = &mut own.owner;
        [kind, name, &mut own.canonical_name].into_iter().for_each(|text| self.texts.share(text));
        self.texts.share(&mut own.canonical_revision);
        self.strings.share(&mut own.identity.namespace);
        self.strings.share(&mut own.identity.service_account);
        own.identity.trust_domain.share(|text| self.strings.share(text));
        *make = Arc::new(own);
        self.makes.share(make);
    }
}

/// Parts of one type.
#[derive(Debug)]
struct Shared<T> {
    all: HashSet<T>,
    /// How many there may be before those are looked for that nobody else holds.
    limit: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { all: HashSet::new(), limit: SLACK }
    }
}

/// Something counted.
trait Counted: Hash + Eq + Clone {
    /// Whether this is the only one that holds it.
    fn is_alone(&self) -> bool;
}

impl Counted for Text {
    fn is_alone(&self) -> bool {
        Text::strong_count(self) == Some(1)
    }
}

impl<T: ?Sized> Counted for Arc<T>
where
    Self: Hash + Eq,
{
    fn is_alone(&self) -> bool {
        Arc::strong_count(self) == 1
    }
}

impl<T: Counted> Shared<T> {
    /// Replaces a part by the one that is equal to it, or makes it the one for later.
    fn share(&mut self, part: &mut T) {
        match self.all.get(part) {
            Some(known) => *part = known.clone(),
            None => self.add(part.clone()),
        }
    }

    fn add(&mut self, part: T) {
        if self.all.len() >= self.limit {
            self.all.retain(|part| !part.is_alone());
            self.limit = self.all.len() * 2 + SLACK;
        }
        self.all.insert(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::pod;

    fn make_of(pool: &mut Pool, name: &str, app: &str) -> Workload {
        let mut facts = pod(name, &[]).facts();
        facts.labels = vec![("app".into(), app.into())];
        facts.owner = Some(("deployment".into(), app.into()));
        facts.canonical_name = Some(app.into());
        pool.workload(facts)
    }

    #[test]
    fn pods_of_one_make_hold_it_once() {
        let mut pool = Pool::default();
        let [a, b] = ["shop/a", "shop/b"].map(|name| make_of(&mut pool, name, "web"));
        assert!(Arc::ptr_eq(&a.make, &b.make) && Text::ptr_eq(a.node(), b.node()));
        assert!(Text::ptr_eq(a.canonical_name(), &a.labels()[0].1));
        let other = make_of(&mut pool, "shop/c", "api");
        assert!(!Arc::ptr_eq(&a.make, &other.make) && Arc::ptr_eq(a.namespace(), other.namespace()));
        assert_eq!(a, make_of(&mut Pool::default(), "shop/a", "web"));
    }

    #[test]
    fn what_nobody_holds_is_forgotten() {
        let mut pool = Pool::default();
        let kept = make_of(&mut pool, "shop/first", "kept");
        for n in 0..10 * SLACK {
            make_of(&mut pool, "shop/a", &n.to_string());
        }
        let sizes = [pool.texts.all.len(), pool.strings.all.len(), pool.makes.all.len()];
        assert!(sizes.iter().all(|size| *size <= 3 * SLACK), "{sizes:?}");
        assert!(Arc::ptr_eq(&make_of(&mut pool, "shop/other", "kept").make, &kept.make));
    }
}
