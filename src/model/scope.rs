//! Which policies reach a workload: policy objects indexed by the namespaces they reach.

use std::sync::Arc;

use rpds::HashTrieMapSync;

use crate::{
    Action, AuthorizationPolicy, NamespacedName, PeerAuthentication, PolicyScope, Snapshot, Workload,
};

/// What AuthorizationPolicy and PeerAuthentication have in common.
pub(crate) trait Scoped {
    fn name(&self) -> &NamespacedName;
    fn scope(&self) -> &PolicyScope;
    /// Position among the objects of one reach, before the name.
    fn rank(&self) -> u8;
}

impl Scoped for AuthorizationPolicy {
    fn name(&self) -> &NamespacedName {
        &self.name
    }

    fn scope(&self) -> &PolicyScope {
        &self.scope
    }

    fn rank(&self) -> u8 {
        match self.action {
            Action::Deny => 0,
            Action::Unknown => 1,
            Action::Allow => 2,
            Action::Audit => 3,
        }
    }
}

impl Scoped for PeerAuthentication {
    fn name(&self) -> &NamespacedName {
        &self.name
    }

    fn scope(&self) -> &PolicyScope {
        &self.scope
    }

    fn rank(&self) -> u8 {
        0
    }
}

/// All objects of one kind, by name, and by what they can reach: the whole mesh or one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Policies<T> {
    objects: HashTrieMapSync<NamespacedName, Arc<T>>,
    /// Sorted by rank and name, as are the lists by namespace.
    mesh: Arc<Vec<Arc<T>>>,
    namespaces: HashTrieMapSync<Arc<str>, Arc<Vec<Arc<T>>>>,
}

impl<T> Default for Policies<T> {
    fn default() -> Self {
        Self {
            objects: HashTrieMapSync::new_sync(),
            mesh: Arc::default(),
            namespaces: HashTrieMapSync::new_sync(),
        }
    }
}

impl<T: Scoped> Policies<T> {
    pub(crate) fn named(&self, name: &NamespacedName) -> Option<&Arc<T>> {
        self.objects.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.objects.values()
    }

    /// Those that may apply to workloads of `namespace`; first the ones that reach the whole mesh, both parts sorted by
    /// rank and name.
    pub(crate) fn reaching(&self, namespace: &str) -> impl Iterator<Item = &Arc<T>> {
        let own = self.namespaces.get(namespace).into_iter().flat_map(|list| list.iter());
        self.mesh.iter().chain(own)
    }

    /// Puts `object` in the place of the one of its name, or takes that away.
    pub(crate) fn replace(&mut self, name: &NamespacedName, object: Option<Arc<T>>, root: &str) {
        if let Some(before) = self.objects.get(name).cloned() {
            self.objects.remove_mut(name);
            self.edit(&before, root, |list| list.retain(|kept| kept.name() != name));
        }
        if let Some(object) = object {
            self.objects.insert_mut(name.clone(), object.clone());
            self.edit(&object.clone(), root, |list| {
                let place = list.partition_point(|o| (o.rank(), o.name()) < (object.rank(), object.name()));
                list.insert(place, object);
            });
        }
    }

    /// Changes the list that an object like `of` belongs to.
    fn edit(&mut self, of: &T, root: &str, change: impl FnOnce(&mut Vec<Arc<T>>)) {
        let namespace = &of.name().namespace;
        if *of.scope() == PolicyScope::Elsewhere {
            return;
        }
        if is_mesh_wide(of.name(), of.scope(), root) {
            return change(Arc::make_mut(&mut self.mesh));
        }
        if !self.namespaces.contains_key(namespace) {
            self.namespaces.insert_mut(namespace.clone(), Arc::default());
        }
        let Some(list) = self.namespaces.get_mut(namespace) else { return };
        change(Arc::make_mut(list));
        if list.is_empty() {
            self.namespaces.remove_mut(namespace);
        }
    }
}

/// Whether a policy can reach workloads of every namespace, and not of its own alone.
fn is_mesh_wide(name: &NamespacedName, scope: &PolicyScope, root: &str) -> bool {
    match scope {
        PolicyScope::Mesh => true,
        PolicyScope::Selector(_) => *name.namespace == *root,
        PolicyScope::Namespace | PolicyScope::Services(_) | PolicyScope::Elsewhere => false,
    }
}

impl Snapshot {
    /// Whether a policy of this name and scope applies to a workload.
    pub fn applies(&self, name: &NamespacedName, scope: &PolicyScope, workload: &Workload) -> bool {
        let own = name.namespace == *workload.namespace();
        let reaches = own || is_mesh_wide(name, scope, &self.root_namespace);
        reaches && self.covers(name, scope, workload)
    }

    /// Whether an object that [reaches](Policies::reaching) the workload's namespace applies to the workload.
    pub(crate) fn in_scope(&self, policy: &impl Scoped, workload: &Workload) -> bool {
        self.covers(policy.name(), policy.scope(), workload)
    }

    fn covers(&self, policy: &NamespacedName, scope: &PolicyScope, workload: &Workload) -> bool {
        match scope {
            PolicyScope::Mesh | PolicyScope::Namespace => true,
            PolicyScope::Selector(labels) => workload.has_labels(labels),
            // A policy speaks for Services of its own namespace only, whatever it names.
            PolicyScope::Services(services) => services.iter().any(|name| {
                name.namespace == policy.namespace
                    && self.service(name).is_some_and(|service| self.serves(workload, service))
            }),
            PolicyScope::Elsewhere => false,
        }
    }
}
