//! The bytes of one file become the objects that it holds, and what is wrong with it.

use std::collections::BTreeMap;

use aquifer_k8s::{self as k8s, Selector, TargetRef, names};
use serde::Deserialize;

use crate::decode::decode;
use crate::field::{Complain, Field};
use crate::object::{self, Key, Kind, Meta, Object};
use crate::stand_in::{guess, nameless, stand_in};
use crate::standing::Written;
use crate::yaml::{self, SyntaxError, Tree, Value};
use crate::{Severity, TranslateConfig};

/// Values that all documents of a file may have together. Without aliases 16 MiB have fewer; with them, this is where
/// a file of bombs, each small enough by itself, ends.
const MAX_VALUES: usize = 8_000_000;

/// Problems that are kept of one file; more of them help nobody.
const MAX_PROBLEMS: usize = 100;

/// Lists in lists are no Kubernetes; this much is tolerated.
const MAX_LIST_DEPTH: usize = 3;

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    /// Objects that were read, in the file's order.
    pub(crate) objects: Vec<(Key, Object, Place)>,
    /// Objects that could not be taken as written.
    pub(crate) broken: Vec<Broken>,
    /// Remarks on objects that were taken all the same.
    pub(crate) remarks: Vec<Remark>,
    /// How many objects of kinds that are not for the mesh there are, and where the first one is.
    pub(crate) ignored: BTreeMap<String, (usize, Place)>,
    /// The object itself, where it is a policy that an API server told.
    pub(crate) written: Option<Written>,
}

/// An object that could not be taken as written.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Which one, where that much can be read.
    pub(crate) key: Option<Key>,
    /// What is to stand in for it where no good version is known: for policies, one that closes the door.
    pub(crate) stand_in: Option<(Key, Object)>,
    /// What is wrong.
    pub(crate) remark: Remark,
}

/// Something to say about a place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remark {
    pub(crate) place: Place,
    pub(crate) field: Option<String>,
    pub(crate) severity: Severity,
    pub(crate) message: String,
}

impl Remark {
    /// About the file as a whole.
    pub(crate) fn of_file(severity: Severity, message: String) -> Self {
        Self { place: Place::default(), field: None, severity, message }
    }
}

/// A place in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) document: Option<u32>,
    pub(crate) line: Option<u32>,
    pub(crate) column: Option<u32>,
}

/// Reads a file. Never fails as a whole: what cannot be read is in [`Contents::broken`].
pub(crate) fn read(bytes: &[u8], config: &TranslateConfig) -> Contents {
    let mut contents = Contents::default();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let (good, _) = bytes.split_at(error.valid_up_to());
            let lines = good.iter().filter(|byte| **byte == b'\n').count();
            let line = u32::try_from(lines + 1).ok();
            let message = "the file is not UTF-8 from here on; save it as UTF-8".to_owned();
            contents.broken(None, None, Place { document: None, line, column: None }, None, message);
            return contents;
        }
    };
    let mut values = 0;
    for document in yaml::documents(text) {
        let number = Some(document.number);
        match yaml::parse(&document) {
            Ok(tree) => {
                values += tree.size();
                if values > MAX_VALUES {
                    let message =
                        format!("the file has more than {MAX_VALUES} values; the rest of it is not read");
                    let place = Place { document: number, ..Place::default() };
                    contents.broken(None, None, place, None, message);
                    return contents;
                }
                Item { tree: &tree, document: document.number, prefix: Field::ROOT, config, defaults: None }
                    .read(&mut contents, 0);
            }
            Err(SyntaxError { line, column, message }) => {
                let stand_in = guess(&document, config);
                contents.broken(None, stand_in, Place { document: number, line, column }, None, message);
            }
        }
    }
    contents
}

/// Reads one object as an API server tells it, which has no place in a file.
pub(crate) fn read_object(tree: &Tree, config: &TranslateConfig) -> Contents {
    let mut contents = Contents::default();
    Item { tree, document: 0, prefix: Field::ROOT, config, defaults: None }.read(&mut contents, 0);
    contents
}

/// An object, at the top of a document or in a list.
struct Item<'a> {
    tree: &'a Tree,
    document: u32,
    /// The field of the document that it stands in.
    prefix: Field<'a>,
    config: &'a TranslateConfig,
    /// `apiVersion` and `kind` of the items of a typed list, such as PodList.
    defaults: Option<(&'a str, &'a str)>,
}

impl Item<'_> {
    fn read(&self, contents: &mut Contents, depth: usize) {
        let Value::Map(_) = &self.tree.value else {
            let message = "this is no Kubernetes object: a map with apiVersion, kind and metadata".to_owned();
            return contents.broken(None, None, self.place(self.tree), self.field(&self.prefix), message);
        };
        let text = |key: &str| self.tree.get(key).and_then(Tree::text);
        let api_version = text("apiVersion").or(self.defaults.map(|(version, _)| version));
        let kind = text("kind").or(self.defaults.map(|(_, kind)| kind));
        let (Some(api_version), Some(kind)) = (api_version, kind) else {
            let missing = if kind.is_none() { "kind" } else { "apiVersion" };
            let message = format!("the object has no {missing}, so it cannot be told what it is");
            return contents.broken(None, None, self.place(self.tree), self.field(&self.prefix), message);
        };
        if let Some(item_kind) = kind.strip_suffix("List")
            && let Some(items) = self.tree.get("items")
        {
            return self.read_list(items, (api_version, item_kind), contents, depth);
        }
        match known(api_version, kind) {
            Known::Kind(kind) => self.read_object(kind, contents),
            Known::Version(kind) => {
                let message = format!("{api_version} is a version that this program does not know");
                let remark = self.remark(Severity::Error, &Field::ROOT.key("apiVersion"), message);
                let meta = self.meta().ok();
                contents.broken.push(self.broken(kind, meta.as_ref(), remark));
            }
            Known::No => {
                let place = self.place(self.tree);
                let shown: String = format!("{kind} ({api_version})").chars().take(200).collect();
                contents.ignored(shown, place);
            }
        }
    }

    fn read_list(&self, items: &Tree, of: (&str, &str), contents: &mut Contents, depth: usize) {
        let field = self.prefix.key("items");
        let Value::List(list) = &items.value else {
            // `items: null` is how an empty list is often written.
            if items.value != Value::Null {
                contents.broken(
                    None,
                    None,
                    self.place(items),
                    self.field(&field),
                    "this is no list".to_owned(),
                );
            }
            return;
        };
        if depth >= MAX_LIST_DEPTH {
            let message = format!("lists stand in lists, more than {MAX_LIST_DEPTH} deep");
            return contents.broken(None, None, self.place(items), self.field(&field), message);
        }
        for (index, tree) in list.iter().enumerate() {
            let defaults = (!of.1.is_empty()).then_some(of);
            Item { tree, document: self.document, prefix: field.index(index), config: self.config, defaults }
                .read(contents, depth + 1);
        }
    }

    fn read_object(&self, kind: Kind, contents: &mut Contents) {
        let meta = match self.meta() {
            Ok(meta) => meta,
            Err(remark) => {
                contents.broken.push(self.broken(kind, None, remark));
                return;
            }
        };
        let mut remarks = Vec::new();
        let mut complain = |severity, field: &Field<'_>, message| {
            if remarks.len() < MAX_PROBLEMS {
                remarks.push(self.remark(severity, field, message));
            }
        };
        let object = self.translate(kind, &meta, &mut complain);
        let key = Key::new(kind, &meta.namespace, &meta.name);
        match object {
            Ok(Some(object)) => {
                contents.objects.push((key, object, self.place(self.tree)));
                contents.remarks.append(&mut remarks);
            }
            // The last error is the one that made the object unreadable.
            Ok(None) => {
                let last = remarks.iter().rposition(|remark| remark.severity == Severity::Error);
                let remark = last.map(|index| remarks.remove(index)).unwrap_or_else(|| {
                    self.remark(Severity::Error, &Field::ROOT, "the object cannot be read".to_owned())
                });
                contents.broken.push(self.broken(kind, Some(&meta), remark));
                contents.remarks.append(&mut remarks);
            }
            Err(remark) => contents.broken.push(self.broken(kind, Some(&meta), remark)),
        }
    }

    fn translate(
        &self,
        kind: Kind,
        meta: &Meta,
        complain: &mut Complain<'_>,
    ) -> Result<Option<Object>, Remark> {
        let config = self.config;
        Ok(match kind {
            Kind::Namespace => Some(Object::Namespace(object::namespace(&self.decode()?, complain))),
            Kind::Node => object::node(meta, &self.decode()?, complain).map(Object::Node),
            Kind::ServiceAccount => {
                self.decode::<k8s::ServiceAccount>().map(|_| Some(Object::ServiceAccount))?
            }
            Kind::Pod => object::pod(meta, &self.decode()?, config, complain).map(Object::Pod),
            Kind::Service => object::service(meta, &self.decode()?, config, complain).map(Object::Service),
            Kind::EndpointSlice => {
                object::endpoint_slice(meta, &self.decode()?, config, complain).map(Object::EndpointSlice)
            }
            Kind::AuthorizationPolicy | Kind::IstioAuthorizationPolicy => {
                object::authorization_policy(meta, &self.decode()?, config, complain)
                    .map(Object::AuthorizationPolicy)
            }
            Kind::PeerAuthentication | Kind::IstioPeerAuthentication => {
                object::peer_authentication(meta, &self.decode()?, config, complain)
                    .map(Object::PeerAuthentication)
            }
        })
    }

    fn decode<T: for<'de> Deserialize<'de>>(&self) -> Result<T, Remark> {
        // Items of a typed list need not repeat what they are, and k8s-openapi insists on it.
        let whole;
        let tree = match (self.defaults, &self.tree.value) {
            (Some((api_version, kind)), Value::Map(entries)) => {
                let mut entries = entries.clone();
                for (key, value) in [("apiVersion", api_version), ("kind", kind)] {
                    if !entries.iter().any(|(k, _)| k == key) {
                        let value = Value::Text(value.to_owned());
                        entries.push((
                            key.to_owned(),
                            Tree { value, line: self.tree.line, column: self.tree.column },
                        ));
                    }
                }
                whole = Tree { value: Value::Map(entries), ..*self.tree };
                &whole
            }
            _ => self.tree,
        };
        decode::<T>(tree).map_err(|misfit| {
            let (line, column) = misfit.place.unwrap_or((self.tree.line, self.tree.column));
            let field = Some(misfit.field(&self.prefix)).filter(|field| !field.is_empty());
            let place =
                Place { document: nonzero(self.document), line: nonzero(line), column: nonzero(column) };
            Remark { place, field, severity: Severity::Error, message: misfit.message }
        })
    }

    /// Name and namespace, read without the rest, so that a broken object still has them.
    fn meta(&self) -> Result<Meta, Remark> {
        let metadata = self.tree.get("metadata");
        let text = |key: &str| metadata.and_then(|metadata| metadata.get(key)).and_then(Tree::text);
        Meta::new(text("name"), text("namespace")).map_err(|(key, error)| {
            self.remark(Severity::Error, &Field::ROOT.key("metadata").key(key), error.to_string())
        })
    }

    /// For a policy, with what stands in for it: about as many workloads as can still be read, else all of its
    /// namespace.
    fn broken(&self, kind: Kind, meta: Option<&Meta>, remark: Remark) -> Broken {
        let key = meta.map(|meta| Key::new(kind, &meta.namespace, &meta.name));
        let meta = meta.cloned().unwrap_or_else(|| {
            let namespace = self.tree.get("metadata").and_then(|metadata| metadata.get("namespace"));
            let namespace = match namespace.map(|tree| Meta::new(Some("x"), tree.text())) {
                None => "default".into(),
                Some(Ok(meta)) => meta.namespace,
                // A policy of an unknown namespace may be about anybody.
                Some(Err(_)) => self.config.root_namespace.clone(),
            };
            Meta { namespace, name: nameless(remark.place) }
        });
        let stand_in = kind.is_policy().then(|| {
            let scope = self.scope(&meta).unwrap_or_else(|| object::whole(&meta.namespace, self.config));
            stand_in(kind, &meta, scope)
        });
        Broken { key, stand_in, remark }
    }

    /// The scope of a policy of which something else is broken.
    fn scope(&self, meta: &Meta) -> Option<aquifer_model::PolicyScope> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            selector: Option<Selector>,
            target_ref: Option<TargetRef>,
            target_refs: Option<Vec<TargetRef>>,
        }
        let spec: Spec = decode(self.tree.get("spec")?).ok()?;
        let targets = (spec.target_ref.as_ref(), spec.target_refs.as_deref().unwrap_or_default());
        object::scope(meta, spec.selector.as_ref(), targets, self.config, &mut |_, _, _| {})
    }

    fn remark(&self, severity: Severity, field: &Field<'_>, message: String) -> Remark {
        let place = self.place(self.tree.nearest(field));
        Remark { place, field: self.field_below(field), severity, message }
    }

    fn place(&self, tree: &Tree) -> Place {
        Place { document: nonzero(self.document), line: nonzero(tree.line), column: nonzero(tree.column) }
    }

    fn field(&self, field: &Field<'_>) -> Option<String> {
        Some(field.to_string()).filter(|field| !field.is_empty())
    }

    /// A field of the object as one of the document.
    fn field_below(&self, field: &Field<'_>) -> Option<String> {
        let (prefix, field) = (self.prefix.to_string(), field.to_string());
        match (prefix.is_empty(), field.is_empty()) {
            (true, true) => None,
            (true, false) => Some(field),
            (false, true) => Some(prefix),
            (false, false) => Some(format!("{prefix}.{field}")),
        }
    }
}

impl Contents {
    fn broken(
        &mut self,
        key: Option<Key>,
        stand_in: Option<(Key, Object)>,
        place: Place,
        field: Option<String>,
        message: String,
    ) {
        let remark = Remark { place, field, severity: Severity::Error, message };
        self.broken.push(Broken { key, stand_in, remark });
    }

    fn ignored(&mut self, kind: String, place: Place) {
        // A file of a million invented kinds shall not fill the memory with their names.
        if self.ignored.len() < MAX_PROBLEMS || self.ignored.contains_key(&kind) {
            self.ignored.entry(kind).or_insert((0, place)).0 += 1;
        }
    }
}

fn nonzero(number: u32) -> Option<u32> {
    (number > 0).then_some(number)
}

enum Known {
    Kind(Kind),
    /// A policy of ours in a version that is not known: it may mean anything.
    Version(Kind),
    No,
}

fn known(api_version: &str, kind: &str) -> Known {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let found = match (group, version, kind) {
        ("", "v1", "Namespace") => Kind::Namespace,
        ("", "v1", "Node") => Kind::Node,
        ("", "v1", "ServiceAccount") => Kind::ServiceAccount,
        ("", "v1", "Pod") => Kind::Pod,
        ("", "v1", "Service") => Kind::Service,
        ("discovery.k8s.io", "v1", "EndpointSlice") => Kind::EndpointSlice,
        (names::GROUP, _, "AuthorizationPolicy") => Kind::AuthorizationPolicy,
        (names::GROUP, _, "PeerAuthentication") => Kind::PeerAuthentication,
        (names::ISTIO_GROUP, _, "AuthorizationPolicy") => Kind::IstioAuthorizationPolicy,
        (names::ISTIO_GROUP, _, "PeerAuthentication") => Kind::IstioPeerAuthentication,
        _ => return Known::No,
    };
    let version_known = match group {
        names::GROUP => version == names::VERSION,
        names::ISTIO_GROUP => names::ISTIO_VERSIONS.contains(&version),
        _ => true,
    };
    if version_known { Known::Kind(found) } else { Known::Version(found) }
}

#[cfg(test)]
mod tests;
