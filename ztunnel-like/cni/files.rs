//! The plug-in's files on a node: the program, the list of namespaces outside, and the entry in the runtime's configuration.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use aquifer_cni::conflist::{self, Unfit};
use aquifer_cni::{node, outside, plugin};
use serde_json::{Map, Value};

use crate::config::NodeConfig;

/// What the file is called from which a list was made: no runtime reads it, and it is put back at the end.
const ASIDE: &str = ".before-aquifer";
/// Ending of files that are being written.
const DRAFT: &str = ".aquifer-draft";
/// Longest configuration that is read, bytes; networks take some kilobytes.
const LONGEST: u64 = 1 << 20;
/// Mode of the program.
const EXECUTABLE: u32 = 0o755;

/// Why the plug-in is not in its place, or cannot be taken out of it.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// The cluster's network has not configured itself.
    #[error(
        "no network is configured in {} yet: the plug-in goes in behind the cluster's network; is it the folder that the container runtime reads (--cni-conf-dir)?",
        .0.display()
    )]
    NoNetwork(PathBuf),
    /// The configuration is none.
    #[error("{}: {unfit}; the container runtime cannot read it either", file.display())]
    Unfit {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        unfit: Unfit,
    },
    /// The plug-in is not in the image, or the folder cannot be written.
    #[error("{}: {error}; are the CNI folders of the host mounted, and writable?", file.display())]
    File {
        /// Which file.
        file: PathBuf,
        /// What failed.
        error: io::Error,
    },
}

/// Where everything is. Paths are those of the host, at which the node sees them too.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub(super) conf_dir: PathBuf,
    pub(super) bin_dir: PathBuf,
    pub(super) socket: PathBuf,
    program: PathBuf,
}

impl Files {
    /// Those of a node; `None` where it has no plug-in.
    pub(super) fn of(config: &NodeConfig) -> Option<Self> {
        let cni = config.cni.as_ref()?;
        Some(Self {
            conf_dir: cni.conf_dir.clone(),
            bin_dir: cni.bin_dir.clone(),
            socket: config.run_dir.join(node::SOCKET),
            program: cni.program.clone(),
        })
    }

    /// Writes the list of namespaces.
    pub(super) fn put_list(&self, text: &str) -> Result<(), Trouble> {
        self.make_folder()?;
        replace(&self.list(), text.as_bytes(), 0o644)
    }

    /// Puts the program in its place, then the entry into the configuration. Returns the file that was changed.
    pub(super) fn put(&self) -> Result<Option<PathBuf>, Trouble> {
        self.make_folder()?;
        let installed = self.bin_dir.join(conflist::TYPE);
        let copied = !self.is_installed(&installed).map_err(at(&installed))?;
        if copied {
            self.install(&installed).map_err(at(&installed))?;
        }
        let names = self.names()?;
        let first = conflist::first(names.iter().map(String::as_str));
        let file = self.conf_dir.join(first.ok_or_else(|| Trouble::NoNetwork(self.conf_dir.clone()))?);
        let (text, mode) = read(&file)?;
        let inserted = conflist::insert(&text, &self.entry());
        let inserted = inserted.map_err(|unfit| Trouble::Unfit { file: file.clone(), unfit })?;
        let Some(inserted) = inserted else { return Ok(copied.then_some(installed)) };
        if !inserted.converted {
            replace(&file, &inserted.text, mode)?;
            return Ok(Some(file));
        }
        // The list is there before the file that comes before it goes: at each moment one of them is read.
        let list = file.with_extension("conflist");
        replace(&list, &inserted.text, mode)?;
        fs::rename(&file, aside(&file)).map_err(at(&file))?;
        Ok(Some(list))
    }

    /// Takes everything away again: entry, program, list, socket.
    pub(super) fn remove(&self) -> Result<Vec<PathBuf>, Trouble> {
        let mut changed = Vec::new();
        let names = match self.names() {
            Err(Trouble::File { error, .. }) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names?,
        };
        for name in &names {
            let Some(original) = name.strip_suffix(ASIDE) else { continue };
            self.restore(&self.conf_dir.join(original), &mut changed)?;
        }
        for name in names.iter().filter(|name| conflist::first([name.as_str()]).is_some()) {
            let file = self.conf_dir.join(name);
            if !file.exists() {
                continue;
            }
            let (text, mode) = read(&file)?;
            // What is no configuration has no entry of ours.
            if let Ok(Some(text)) = conflist::remove(&text) {
                replace(&file, &text, mode)?;
                changed.push(file);
            }
        }
        // Of a node that ended while it wrote.
        let is_draft = |name: &&String| name.ends_with(DRAFT);
        for name in names.iter().filter(is_draft) {
            gone(fs::remove_file(self.conf_dir.join(name))).map_err(at(&self.conf_dir))?;
        }
        for file in [self.bin_dir.join(conflist::TYPE), self.list(), self.socket.clone()] {
            if gone(fs::remove_file(&file)).map_err(at(&file))? {
                changed.push(file);
            }
        }
        for folder in [self.folder(), self.socket.with_file_name(plugin::HELD)] {
            gone(fs::remove_dir_all(&folder)).map_err(at(&folder))?;
        }
        Ok(changed)
    }

    /// Puts a file back from which a list was made, and removes the list. Where there is a new one, that counts.
    fn restore(&self, original: &Path, changed: &mut Vec<PathBuf>) -> Result<(), Trouble> {
        let (list, aside) = (original.with_extension("conflist"), aside(original));
        if original.exists() {
            fs::remove_file(&aside).map_err(at(&aside))?;
        } else {
            fs::rename(&aside, original).map_err(at(&aside))?;
        }
        changed.push(original.to_owned());
        if list != original && list.exists() && conflist::contains(&read(&list)?.0) {
            fs::remove_file(&list).map_err(at(&list))?;
            changed.push(list);
        }
        Ok(())
    }

    /// The plug-in's entry.
    fn entry(&self) -> Map<String, Value> {
        let text = |path: &Path| Value::from(path.to_string_lossy().into_owned());
        let entries = [("socket", text(&self.socket)), ("outside", text(&self.list()))];
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn folder(&self) -> PathBuf {
        self.conf_dir.join(outside::FOLDER)
    }

    fn list(&self) -> PathBuf {
        self.folder().join(outside::FILE)
    }

    fn make_folder(&self) -> Result<(), Trouble> {
        fs::create_dir_all(self.folder()).map_err(at(&self.folder()))
    }

    fn names(&self) -> Result<Vec<String>, Trouble> {
        let names = || {
            fs::read_dir(&self.conf_dir)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
        };
        let names = names().map_err(at(&self.conf_dir))?;
        // The runtime and we read no other names.
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    fn is_installed(&self, installed: &Path) -> io::Result<bool> {
        let there = match fs::metadata(installed) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let ours = fs::metadata(&self.program)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.program.display())))?;
        if there.len() != ours.len() || there.permissions().mode() & 0o777 != EXECUTABLE {
            return Ok(false);
        }
        same(File::open(installed)?, File::open(&self.program)?)
    }

    /// Copies the program: one that runs is not overwritten.
    fn install(&self, installed: &Path) -> io::Result<()> {
        put(installed, &mut File::open(&self.program)?, EXECUTABLE)
    }
}

fn at(file: &Path) -> impl FnOnce(io::Error) -> Trouble {
    let file = file.to_owned();
    |error| Trouble::File { file, error }
}

fn aside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(ASIDE);
    name.into()
}

/// Whether there was something to remove.
fn gone(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A file's content, and its mode.
fn read(file: &Path) -> Result<(Vec<u8>, u32), Trouble> {
    let read = || {
        let opened = File::open(file)?;
        let mode = opened.metadata()?.permissions().mode() & 0o777;
        let mut text = Vec::new();
        opened.take(LONGEST).read_to_end(&mut text)?;
        Ok((text, mode))
    };
    read().map_err(at(file))
}

fn replace(file: &Path, content: &[u8], mode: u32) -> Result<(), Trouble> {
    put(file, &mut &*content, mode).map_err(at(file))
}

/// Writes a file by rename. The draft is in the file's own folder: containerd reads its configuration anew when a file is written, renamed
/// or removed there, and not when one appears, which is all that it hears of a rename from elsewhere.
fn put(file: &Path, content: &mut impl Read, mode: u32) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // No runtime reads a name with this ending.
    let draft = file.with_file_name(format!(".{name}.{}{DRAFT}", std::process::id()));
    write(&draft, content, mode)?;
    fs::rename(draft, file)
}

fn write(file: &Path, content: &mut impl Read, mode: u32) -> io::Result<()> {
    let mut out = File::create(file)?;
    io::copy(content, &mut out)?;
    out.set_permissions(Permissions::from_mode(mode))?;
    out.flush()?;
    // A machine that loses its power must not find half a file under the final name.
    out.sync_all()
}

/// Whether two files say the same.
fn same(one: File, other: File) -> io::Result<bool> {
    let (mut one, mut other) = (io::BufReader::new(one).bytes(), io::BufReader::new(other).bytes());
    loop {
        match (one.next().transpose()?, other.next().transpose()?) {
            (None, None) => return Ok(true),
            (a, b) if a == b => {}
            _ => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests;
