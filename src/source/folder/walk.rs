//! Which files a folder has, and a stamp of each that changes whenever its content may have.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::SourceError;
use crate::folder::{MAX_FILE_BYTES, MAX_FILES};

/// Folders in folders at most; beyond, it is a loop or a mistake.
const MAX_DEPTH: usize = 32;

/// What was found under the folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Files to read, by path below the folder.
    pub(crate) files: BTreeMap<PathBuf, Stamp>,
    /// Folders to listen to, by path: those that were walked, and those in which the targets of links stand.
    pub(crate) dirs: BTreeMap<PathBuf, DirId>,
    /// What could not be looked into: everything below it is unknown. Empty in a listing that is complete.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
}

/// A folder's device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DirId {
    device: u64,
    inode: u64,
}

/// All that changes with a file's content. The change time is the kernel's own and cannot be set back, as the
/// modification time can (`cp -p`, `rsync -t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long ago the file changed; `None` where that is in the future, by a clock that was set.
    pub(crate) fn age(&self, now: SystemTime) -> Option<Duration> {
        let (seconds, nanos) = self.changed;
        let since_epoch = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?);
        now.duration_since(SystemTime::UNIX_EPOCH + since_epoch).ok()
    }
}

impl DirId {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Walks the folder. Fails where the folder itself cannot be read or there is too much in it; folders and links below
/// it that cannot be read are in the listing.
pub(crate) fn walk(root: &Path) -> Result<Listing, SourceError> {
    let metadata = fs::metadata(root).map_err(|error| unreadable(root, error))?;
    if !metadata.is_dir() {
        return Err(unreadable(root, io::Error::from(io::ErrorKind::NotADirectory)));
    }
    let mut walk = Walk { root, listing: Listing::default(), seen: HashSet::new() };
    walk.seen.insert(DirId::of(&metadata));
    walk.listing.dirs.insert(root.to_owned(), DirId::of(&metadata));
    walk.dir(root, Path::new(""), 0).map_err(|failure| match failure {
        Failure::Io(error) => unreadable(root, error),
        Failure::TooMany => SourceError::TooMuch {
            path: root.to_owned(),
            what: "has too many files".to_owned(),
            bound: MAX_FILES as u64,
        },
    })?;
    Ok(walk.listing)
}

struct Walk<'a> {
    root: &'a Path,
    listing: Listing,
    /// A folder that is reached by several ways is walked once, by the first.
    seen: HashSet<DirId>,
}

enum Failure {
    Io(io::Error),
    TooMany,
}

impl Walk<'_> {
    fn dir(&mut self, dir: &Path, below: &Path, depth: usize) -> Result<(), Failure> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(Failure::Io)? {
            let entry = entry.map_err(Failure::Io)?;
            // The kind comes with the listing, so that only links cost a second look.
            let may_be_link = entry.file_type().map_or(true, |kind| kind.is_symlink());
            names.push((entry.file_name(), may_be_link));
            // Every entry costs a look, also those that are not YAML.
            if names.len() > 10 * MAX_FILES {
                return Err(Failure::TooMany);
            }
        }
        names.sort();
        for (name, may_be_link) in names {
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let (path, below) = (dir.join(&name), below.join(&name));
            let metadata = match fs::metadata(&path) {
                Ok(metadata) => metadata,
                // Gone since the folder was listed, or a link that leads nowhere.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    self.listing.unreadable.push((below, error.to_string()));
                    continue;
                }
            };
            if metadata.is_dir() {
                self.subdir(&path, below, &metadata, depth)?;
            } else if metadata.is_file() && is_ours(&path) {
                if may_be_link {
                    self.link_target(&path);
                }
                self.listing.files.insert(below, Stamp::of(&metadata));
                if self.listing.files.len() > MAX_FILES {
                    return Err(Failure::TooMany);
                }
            }
        }
        Ok(())
    }

    fn subdir(
        &mut self,
        path: &Path,
        below: PathBuf,
        metadata: &Metadata,
        depth: usize,
    ) -> Result<(), Failure> {
        let id = DirId::of(metadata);
        if !self.seen.insert(id) {
            return Ok(());
        }
        if depth >= MAX_DEPTH {
            self.listing
                .unreadable
                .push((below, format!("more than {MAX_DEPTH} folders stand in each other")));
            return Ok(());
        }
        self.listing.dirs.insert(path.to_owned(), id);
        match self.dir(path, &below, depth + 1) {
            Err(Failure::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(Failure::Io(error)) => {
                self.listing.unreadable.push((below, error.to_string()));
                Ok(())
            }
            other => other,
        }
    }

    /// What a link leads to changes elsewhere: there has to be listened, too.
    fn link_target(&mut self, path: &Path) {
        let Some(parent) = fs::canonicalize(path).ok().and_then(|target| Some(target.parent()?.to_owned()))
        else {
            return;
        };
        if parent != self.root
            && let Ok(metadata) = fs::metadata(&parent)
        {
            self.listing.dirs.entry(parent).or_insert(DirId::of(&metadata));
        }
    }
}

fn is_ours(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|text| ["yaml", "yml", "json"].iter().any(|ours| text.eq_ignore_ascii_case(ours)))
}

/// The error of a folder or file that cannot be read, with what to do.
pub(crate) fn unreadable(path: &Path, error: io::Error) -> SourceError {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => "make the folder, or give another one with --manifests",
        io::ErrorKind::NotADirectory => "give the folder that holds the YAML files, not a file",
        io::ErrorKind::PermissionDenied => "give the user that runs this program the right to read it",
        _ => "see that the disk is there and can be read",
    };
    SourceError::Unreadable { path: path.to_owned(), error, advice }
}

/// What reading a file gave.
pub(crate) enum FileBytes {
    Read(Vec<u8>),
    TooLarge,
    /// It went away.
    Gone,
}

/// Reads a file, with the stamp that it had before. Never waits for a pipe that took the file's place, and never reads
/// more than the bound.
pub(crate) fn read(path: &Path) -> io::Result<(Option<Stamp>, FileBytes)> {
    let opened = OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path);
    let file: File = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((None, FileBytes::Gone)),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok((None, FileBytes::Gone));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(MAX_FILE_BYTES)).unwrap_or(0));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    let stamp = Some(Stamp::of(&metadata));
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Ok((stamp, FileBytes::TooLarge));
    }
    Ok((stamp, FileBytes::Read(bytes)))
}
