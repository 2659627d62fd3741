//! What is known of a cluster: one store of objects for all resources, and the world that they make. No waiting and no network here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use aquifer_model::Pool;

use super::resource::RESOURCES;
use crate::folder::{MAX_OBJECTS, MAX_PROBLEMS};
use crate::object::{Key, Kind, Meta};
use crate::read::{Broken, Contents, Place, Remark};
use crate::standing::{Standing, Standings, Taken, Written};
use crate::yaml::Tree;
use crate::{Batch, Objects, Problem, Severity, World};

/// What is told of one resource, in the order in which it happened.
#[derive(Debug)]
pub(super) enum News {
    /// All objects that there are, at one moment.
    Whole(Vec<Contents>),
    /// An object came or changed.
    Put(Contents),
    /// An object went.
    Gone(Key),
    /// The API server has no such resource.
    Absent,
    /// It cannot be watched now; what is known of it stays.
    Trouble(String),
    /// It is watched (again).
    Well,
}

/// A cluster as it was last told.
pub(super) struct State {
    objects: Objects,
    world: World,
    pool: Pool,
    /// Objects that stand in for policies that cannot be read.
    stand_ins: BTreeSet<Key>,
    remarks: BTreeMap<Key, Vec<Remark>>,
    /// Resources that were not told whole yet.
    awaited: BTreeSet<Kind>,
    trouble: BTreeMap<Kind, String>,
    /// Objects that came, went or changed since the batch before.
    changed: BTreeSet<Key>,
    /// What is known of the policies themselves.
    standings: Arc<Standings>,
    /// Something else than objects changed.
    told: bool,
    /// Objects beyond the bound, not taken.
    refused: usize,
}

impl State {
    pub(super) fn new() -> Self {
        Self {
            objects: Objects::default(),
            world: World::default(),
            pool: Pool::default(),
            stand_ins: BTreeSet::new(),
            remarks: BTreeMap::new(),
            awaited: RESOURCES.iter().map(|resource| resource.kind).collect(),
            trouble: BTreeMap::new(),
            changed: BTreeSet::new(),
            standings: Arc::default(),
            told: false,
            refused: 0,
        }
    }

    /// Every resource was told whole once.
    pub(super) fn is_synced(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Whether there is something to say.
    pub(super) fn has_news(&self) -> bool {
        self.is_synced() && (self.told || !self.changed.is_empty())
    }

    pub(super) fn into_objects(self) -> Objects {
        self.objects
    }

    /// What is known of the policies themselves.
    pub(super) fn standings(&self) -> Arc<Standings> {
        self.standings.clone()
    }

    /// Takes up what is told of a resource.
    pub(super) fn take(&mut self, kind: Kind, news: News) {
        match news {
            News::Whole(all) => {
                let mut gone: BTreeSet<Key> =
                    self.objects.iter().map(|(key, _)| key).filter(|key| key.kind == kind).cloned().collect();
                gone.extend(self.remarks.keys().filter(|key| key.kind == kind).cloned());
                for contents in all {
                    for key in self.put(contents) {
                        gone.remove(&key);
                    }
                }
                gone.iter().for_each(|key| self.remove(key));
                self.well(kind);
            }
            News::Put(contents) => _ = self.put(contents),
            News::Gone(key) => self.remove(&key),
            News::Absent => {
                let gone: Vec<Key> =
                    self.objects.iter().map(|(key, _)| key).filter(|key| key.kind == kind).cloned().collect();
                gone.iter().for_each(|key| self.remove(key));
                self.well(kind);
            }
            News::Trouble(why) => {
                self.told |= self.trouble.insert(kind, why.clone()) != Some(why);
            }
            News::Well => self.told |= self.trouble.remove(&kind).is_some(),
        }
    }

    /// What changed since the batch before, all at once.
    pub(super) fn commit(&mut self) -> Batch {
        let changed = std::mem::take(&mut self.changed);
        self.told = false;
        let updates = self.world.advance(&self.objects, &changed);
        Batch {
            updates,
            synced: true,
            problems: self.problems(),
            counts: self.objects.counts(),
            policies: self.standings.clone(),
        }
    }

    fn well(&mut self, kind: Kind) {
        self.told |= self.awaited.remove(&kind);
        self.told |= self.trouble.remove(&kind).is_some();
    }

    /// Returns whom the contents were about.
    fn put(&mut self, contents: Contents) -> Vec<Key> {
        let Contents { objects, broken, remarks, ignored: _, written } = contents;
        let as_written = !objects.is_empty();
        let mut about = Vec::with_capacity(1);
        for (key, mut object, _) in objects {
            if self.objects.len() >= MAX_OBJECTS
                && !key.kind.is_policy()
                && self.objects.object(&key).is_none()
            {
                self.refused += 1;
                self.told = true;
                continue;
            }
            self.stand_ins.remove(&key);
            if self.objects.object(&key) != Some(&object) {
                object.share(&mut self.pool);
                self.objects.insert(key.clone(), object);
                self.changed.insert(key.clone());
            }
            self.remark(&key, remarks.clone());
            about.push(key);
        }
        for Broken { key, stand_in, mut remark } in broken {
            let Some(key) = key.or_else(|| stand_in.as_ref().map(|(key, _)| key.clone())) else { continue };
            let good = self.objects.object(&key).is_some() && !self.stand_ins.contains(&key);
            let consequence = match stand_in {
                _ if good => "its last good version stays in use",
                Some((key, object)) => {
                    let closes = crate::stand_in::closes(&key);
                    self.stand_ins.insert(key.clone());
                    self.objects.insert(key.clone(), object);
                    self.changed.insert(key);
                    closes
                }
                None => "the object is left out",
            };
            remark.message = format!("{}; {consequence}", remark.message);
            self.remark(&key, vec![remark]);
            about.push(key);
        }
        if let (Some(key), Some(written)) = (about.first(), written) {
            self.stands(key, written, as_written);
        }
        about
    }

    /// Keeps what is known of a policy that was just taken up.
    fn stands(&mut self, key: &Key, written: Written, as_written: bool) {
        let taken = match (as_written, self.stand_ins.contains(key)) {
            (true, _) => Taken::AsWritten,
            (false, true) => Taken::StandIn,
            (false, false) => Taken::LastGood,
        };
        let remarks = self.remarks.get(key).into_iter().flatten();
        let problems = remarks.map(|remark| problem(&key.to_string(), remark.clone())).collect();
        let standing = Standing { written, taken, problems };
        if self.standings.get(key) != Some(&standing) {
            Arc::make_mut(&mut self.standings).insert(key.clone(), standing);
            self.told = true;
        }
    }

    fn remove(&mut self, key: &Key) {
        if self.standings.contains_key(key) {
            Arc::make_mut(&mut self.standings).remove(key);
            self.told = true;
        }
        if self.objects.remove(key).is_some() {
            self.changed.insert(key.clone());
        }
        self.stand_ins.remove(key);
        self.remark(key, Vec::new());
    }

    fn remark(&mut self, key: &Key, remarks: Vec<Remark>) {
        let before = match remarks.is_empty() {
            true => self.remarks.remove(key),
            false => self.remarks.insert(key.clone(), remarks.clone()),
        };
        self.told |= before.unwrap_or_default() != remarks;
    }

    /// All that is wrong now, the worst first, bounded.
    fn problems(&self) -> Vec<Problem> {
        let server = |message: String| problem("API server", Remark::of_file(Severity::Error, message));
        let mut problems: Vec<Problem> = self
            .trouble
            .iter()
            .map(|(kind, why)| {
                server(format!("{kind} objects cannot be watched ({why}); their last state stays in use"))
            })
            .collect();
        if self.refused > 0 {
            problems.push(server(format!(
                "it has more than {MAX_OBJECTS} objects; what came after them is not taken, and calls to it go astray"
            )));
        }
        let remarks =
            self.remarks.iter().flat_map(|(key, remarks)| remarks.iter().map(move |remark| (key, remark)));
        problems.extend(remarks.map(|(key, remark)| problem(&key.to_string(), remark.clone())));
        problems.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
        problems.truncate(MAX_PROBLEMS);
        problems
    }
}

fn problem(of: &str, remark: Remark) -> Problem {
    let Remark { place: Place { document, line, column }, field, severity, message } = remark;
    Problem { file: PathBuf::from(of), document, line, column, field, severity, message }
}

/// The key of an object that went: its name is all that counts.
pub(super) fn key(kind: Kind, tree: &Tree) -> Option<Key> {
    let metadata = tree.get("metadata")?;
    let text = |key: &str| metadata.get(key).and_then(Tree::text);
    let Meta { namespace, name } = Meta::new(text("name"), text("namespace")).ok()?;
    Some(Key::new(kind, &namespace, &name))
}

#[cfg(test)]
mod tests;
