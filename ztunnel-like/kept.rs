//! Files of the run directory that outlive the processes of a node: each is replaced whole, and read by this user alone.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What the mesh was.
pub(crate) fn moment(run_dir: &Path, node: &str) -> PathBuf {
    run_dir.join(format!("{node}.moment"))
}

/// Certificates with their keys, sealed.
pub(crate) fn certificates(run_dir: &Path, node: &str) -> PathBuf {
    run_dir.join(format!("{node}.certificates"))
}

/// Replaces a file by one that `write` fills, by rename: a reader finds the one before or the new one, whole.
///
/// # Errors
/// The file stays as it was.
pub(crate) fn replace<T>(path: &Path, write: impl FnOnce(&mut File) -> io::Result<T>) -> io::Result<T> {
    // Two processes of a node may write at a time, when one takes over from the other: each has a draft of its own.
    let draft = path.with_file_name(format!("{}{}", draft(path), std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| write(&mut file))
        .and_then(|written| fs::rename(&draft, path).map(|()| written));
    if written.is_err() {
        fs::remove_file(&draft).ok();
    }
    written
}

/// Takes away what a process that was killed while it wrote the file left.
pub(crate) fn sweep(path: &Path) {
    let draft = draft(path);
    for entry in path.parent().map(fs::read_dir).into_iter().flatten().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&draft)) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

/// Takes a file away, with what was left of it.
pub(crate) fn remove(path: &Path) {
    fs::remove_file(path).ok();
    sweep(path);
}

/// How drafts of a file are called, up to the number of the process that writes it.
fn draft(path: &Path) -> String {
    format!("{}.draft-", path.file_name().unwrap_or_default().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = moment(dir.path(), "n");
        replace(&path, |file| file.write_all(b"one")).unwrap();
        let failed = replace(&path, |file| {
            file.write_all(b"half")?;
            Err::<(), _>(io::Error::other("full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(dir.path().join("n.moment.draft-1"), "left").unwrap();
        fs::write(dir.path().join("m.moment"), "another's").unwrap();
        remove(&path);
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["m.moment"]);
    }
}
