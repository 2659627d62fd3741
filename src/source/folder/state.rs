//! What is known of a folder: the objects of each file, which of them count, and what stays where a file is broken.
//!
//! No waiting and no listening here: time is an argument, and what to read is decided from a [`Listing`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aquifer_model::{Pool, Update};

use super::file::File;
use super::walk::{self, FileBytes, Listing, Stamp};
use super::{MAX_FILE_BYTES, MAX_OBJECTS, MAX_PROBLEMS};
use crate::object::Key;
use crate::read::{self, Place, Remark};
use crate::yaml;
use crate::{Counts, Objects, Problem, Severity, SourceError, TranslateConfig, World};

/// How long the last state stays where a file is found empty, or more than half of all objects are gone: editors
/// truncate a file before they write it, and tools empty a folder before they fill it.
pub(crate) const HOLD: Duration = Duration::from_secs(2);

/// A change so short before the reading may be followed by another with the same stamp (the kernel's clock for stamps
/// has ticks of up to 10 ms). Such a file is read again.
const RACY: Duration = Duration::from_millis(20);

/// A folder as it was last read.
pub(crate) struct Folder {
    dir: PathBuf,
    config: TranslateConfig,
    files: BTreeMap<Arc<Path>, File>,
    /// Files that have an object, where that is more than one or not the first that comes to mind: sorted, the first
    /// one counts.
    holders: HashMap<Key, Vec<Arc<Path>>>,
    /// Objects that several files have.
    doubled: BTreeSet<Key>,
    objects: Objects,
    world: World,
    pool: Pool,
    /// Trouble with the folder as a whole.
    trouble: Vec<(PathBuf, String)>,
    /// Since when more than half of the objects are gone.
    losing: Option<Instant>,
}

/// What a look at the folder led to.
#[derive(Debug, Default)]
pub(crate) struct Refreshed {
    pub(crate) updates: Vec<Update>,
    /// Something waits: look again then.
    pub(crate) again: Option<Instant>,
}

/// What a file is to become.
type Next = BTreeMap<Arc<Path>, Option<File>>;

impl Folder {
    pub(crate) fn new(dir: PathBuf, config: TranslateConfig) -> Self {
        Self {
            dir,
            config,
            files: BTreeMap::new(),
            holders: HashMap::new(),
            doubled: BTreeSet::new(),
            objects: Objects::default(),
            world: World::default(),
            pool: Pool::default(),
            trouble: Vec::new(),
            losing: None,
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn into_objects(self) -> Objects {
        self.objects
    }

    pub(crate) fn counts(&self) -> Counts {
        self.objects.counts()
    }

    /// Reads everything for the first time. What cannot be read is an error: it might hold a policy.
    pub(crate) fn start(&mut self, listing: &Listing, now: Instant) -> Result<Refreshed, SourceError> {
        if let Some((path, error)) = listing.unreadable.first() {
            return Err(walk::unreadable(&self.dir.join(path), std::io::Error::other(error.clone())));
        }
        let read = yaml::with_stack(|| self.read_all(listing));
        let next = read.map_err(|error| walk::unreadable(&self.dir, error))??;
        if entries(&next) > MAX_OBJECTS {
            let what = "has too many objects".to_owned();
            return Err(SourceError::TooMuch { path: self.dir.clone(), what, bound: MAX_OBJECTS as u64 });
        }
        let again = next.values().flatten().any(|file| file.stamp.is_none()).then(|| now + 5 * RACY);
        Ok(Refreshed { updates: self.commit(next), again })
    }

    fn read_all(&self, listing: &Listing) -> Result<Next, SourceError> {
        let mut next = Next::new();
        for path in listing.files.keys() {
            let full = self.dir.join(path);
            match walk::read(&full).map_err(|error| walk::unreadable(&full, error))? {
                (_, FileBytes::Gone) => {}
                (_, FileBytes::TooLarge) => {
                    let what = "is too large (in bytes)".to_owned();
                    return Err(SourceError::TooMuch { path: full, what, bound: MAX_FILE_BYTES });
                }
                (stamp, FileBytes::Read(bytes)) => {
                    let contents = read::read(&bytes, &self.config);
                    _ = next.insert(path.as_path().into(), Some(File::new(None, contents, trusted(stamp))));
                }
            }
        }
        Ok(next)
    }

    /// Whether the listing shows anything that was not read yet.
    pub(crate) fn differs(&self, listing: &Listing) -> bool {
        !self.trouble.is_empty()
            || !listing.unreadable.is_empty()
            || self.files.len() != listing.files.len()
            || listing.files.iter().any(|(path, stamp)| {
                self.files.get(path.as_path()).is_none_or(|file| file.stamp != Some(*stamp))
            })
    }

    /// Takes up what changed since the last look.
    pub(crate) fn refresh(&mut self, listing: &Listing, now: Instant) -> Refreshed {
        self.trouble.clear();
        for (path, error) in &listing.unreadable {
            let message = format!("cannot be read ({error}); what was last read below it stays in use");
            self.trouble.push((path.clone(), message));
        }
        let (next, mut again) = match yaml::with_stack(|| self.look(listing, now)) {
            Ok(looked) => looked,
            Err(error) => {
                let message =
                    format!("cannot be read, no thread is to be had ({error}); the last state stays in use");
                self.trouble.push((PathBuf::new(), message));
                return Refreshed { updates: Vec::new(), again: Some(now + HOLD) };
            }
        };
        let (old, new) = (self.entries_of(&next), entries(&next));
        let all: usize = self.files.values().map(|file| file.entries.len()).sum();
        let after = all - old + new;
        if after > MAX_OBJECTS {
            let message = format!(
                "has {after} objects, more than the bound of {MAX_OBJECTS}; the last state stays in use"
            );
            self.trouble.push((PathBuf::new(), message));
            return Refreshed { updates: Vec::new(), again };
        }
        if after * 2 < all {
            let since = *self.losing.get_or_insert(now);
            if now < since + HOLD {
                return Refreshed { updates: Vec::new(), again: Some(since + HOLD) };
            }
        }
        self.losing = None;
        if next.values().flatten().any(|file| file.stamp.is_none() && file.empty.is_none()) {
            again = Some(again.map_or(now + 5 * RACY, |other| other.min(now + 5 * RACY)));
        }
        Refreshed { updates: self.commit(next), again }
    }

    /// The folder as a whole cannot be looked at: all stays, and is said.
    pub(crate) fn unreachable(&mut self, error: &SourceError) {
        self.trouble = vec![(PathBuf::new(), format!("{error}; the last state stays in use"))];
    }

    /// Reads the files that changed.
    fn look(&self, listing: &Listing, now: Instant) -> (Next, Option<Instant>) {
        let mut next = Next::new();
        let mut again: Option<Instant> = None;
        for path in self.files.keys().filter(|path| !listing.files.contains_key(&***path)) {
            if !listing.unreadable.iter().any(|(unreadable, _)| path.starts_with(unreadable)) {
                next.insert(path.clone(), None);
            }
        }
        for (path, stamp) in &listing.files {
            let old = self.files.get(path.as_path());
            if old.is_some_and(|old| old.stamp == Some(*stamp)) {
                continue;
            }
            let path: Arc<Path> = path.as_path().into();
            let file = match walk::read(&self.dir.join(&path)) {
                Ok((_, FileBytes::Gone)) => None,
                Ok((stamp, FileBytes::TooLarge)) => {
                    let message = format!("the file is larger than the bound of {MAX_FILE_BYTES} bytes");
                    Some(File::unread(old, message, stamp))
                }
                Ok((stamp, FileBytes::Read(bytes))) => match self.hold(old, &bytes, now) {
                    Some(held) => {
                        let until = held.empty.unwrap_or(now) + HOLD;
                        again = Some(again.map_or(until, |other| other.min(until)));
                        Some(held)
                    }
                    None => Some(File::new(old, read::read(&bytes, &self.config), trusted(stamp))),
                },
                Err(error) => Some(File::unread(old, format!("the file cannot be read: {error}"), None)),
            };
            next.insert(path, file);
        }
        (next, again)
    }

    /// The old file, where the new one is empty and not for long enough yet.
    fn hold(&self, old: Option<&File>, bytes: &[u8], now: Instant) -> Option<File> {
        let old = old.filter(|old| !old.entries.is_empty() && bytes.iter().all(u8::is_ascii_whitespace))?;
        let since = old.empty.unwrap_or(now);
        let waits = now < since + HOLD;
        waits.then(|| File {
            stamp: None,
            entries: old.entries.clone(),
            remarks: old.remarks.clone(),
            ignored: old.ignored.clone(),
            empty: Some(since),
        })
    }

    fn entries_of(&self, next: &Next) -> usize {
        next.keys().filter_map(|path| self.files.get(path)).map(|file| file.entries.len()).sum()
    }

    /// Makes the files what they are to become, and the objects and the world with them.
    fn commit(&mut self, next: Next) -> Vec<Update> {
        let mut touched: BTreeSet<Key> = BTreeSet::new();
        for (path, file) in next {
            let old = match file {
                Some(mut file) => {
                    for (key, entry) in &mut file.entries {
                        entry.object.share(&mut self.pool);
                        hold_key(&mut self.holders, key, &path);
                        touched.insert(key.clone());
                    }
                    self.files.insert(path.clone(), file)
                }
                None => self.files.remove(&path),
            };
            let new = self.files.get(&path);
            for key in old.iter().flat_map(|old| old.entries.keys()) {
                if new.is_none_or(|new| !new.entries.contains_key(key)) {
                    release_key(&mut self.holders, key, &path);
                }
                touched.insert(key.clone());
            }
        }
        let mut changed = Vec::new();
        for key in touched {
            let holders = self.holders.get(&key).map(Vec::as_slice).unwrap_or_default();
            if holders.len() > 1 {
                self.doubled.insert(key.clone());
            } else {
                self.doubled.remove(&key);
            }
            let winner = holders.first().and_then(|path| self.files.get(path)?.entries.get(&key));
            match winner {
                Some(entry) if self.objects.object(&key) == Some(&entry.object) => continue,
                Some(entry) => _ = self.objects.insert(key.clone(), entry.object.clone()),
                None => _ = self.objects.remove(&key),
            }
            changed.push(key);
        }
        self.world.advance(&self.objects, &changed)
    }

    /// All that is wrong now, the worst first, bounded.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (path, message) in &self.trouble {
            let remark = Remark::of_file(Severity::Error, message.clone());
            problems.push(self.problem(path, remark));
        }
        let mut ignored: BTreeMap<&str, (usize, &Arc<Path>, Place)> = BTreeMap::new();
        for (path, file) in &self.files {
            problems.extend(file.remarks.iter().map(|remark| self.problem(path, remark.clone())));
            for (kind, (count, place)) in &file.ignored {
                ignored.entry(kind).or_insert((0, path, *place)).0 += count;
            }
        }
        for (kind, (count, path, place)) in ignored {
            let message = match count {
                1 => format!("{kind} is not for the mesh and left aside"),
                _ => format!("{kind} is not for the mesh: this one and {} more are left aside", count - 1),
            };
            let remark = Remark { place, field: None, severity: Severity::Note, message };
            problems.push(self.problem(path, remark));
        }
        for key in &self.doubled {
            problems.extend(self.doubled_problems(key));
        }
        problems.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
        if problems.len() > MAX_PROBLEMS {
            let left_out = problems.len() - (MAX_PROBLEMS - 1);
            problems.truncate(MAX_PROBLEMS - 1);
            let message = format!("{left_out} more problems are left out here");
            problems.push(self.problem(Path::new(""), Remark::of_file(Severity::Note, message)));
        }
        problems
    }

    fn doubled_problems(&self, key: &Key) -> Vec<Problem> {
        let holders = self.holders.get(key).map(Vec::as_slice).unwrap_or_default();
        let Some((winner, losers)) = holders.split_first() else { return Vec::new() };
        let losers = losers.iter().filter_map(|path| Some((path, self.files.get(path)?.entries.get(key)?)));
        losers
            .map(|(path, entry)| {
                let message =
                    format!("{key} is also in {}, which counts; remove one of them", winner.display());
                let remark = Remark { place: entry.place, field: None, severity: Severity::Error, message };
                self.problem(path, remark)
            })
            .collect()
    }

    fn problem(&self, path: &Path, remark: Remark) -> Problem {
        let Remark { place: Place { document, line, column }, field, severity, message } = remark;
        // `join` of an empty path would add a slash.
        let file = if path.as_os_str().is_empty() { self.dir.clone() } else { self.dir.join(path) };
        Problem { file, document, line, column, field, severity, message }
    }
}

fn entries(next: &Next) -> usize {
    next.values().flatten().map(|file| file.entries.len()).sum()
}

/// The stamp, unless the file changed so shortly before that the next change might leave it as it is.
fn trusted(stamp: Option<Stamp>) -> Option<Stamp> {
    stamp.filter(|stamp| stamp.age(SystemTime::now()).is_none_or(|age| age >= RACY))
}

fn hold_key(holders: &mut HashMap<Key, Vec<Arc<Path>>>, key: &Key, path: &Arc<Path>) {
    let all = holders.entry(key.clone()).or_default();
    if let Err(place) = all.binary_search(path) {
        all.insert(place, path.clone());
    }
}

fn release_key(holders: &mut HashMap<Key, Vec<Arc<Path>>>, key: &Key, path: &Arc<Path>) {
    if let Some(all) = holders.get_mut(key) {
        all.retain(|other| other != path);
        if all.is_empty() {
            holders.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
