//! The namespaces that are not in the mesh, as the node last knew them: by this list the plug-in decides while no node runs.
//!
//! A namespace is in it only if a pod in it without a label of its own is outside, and no pod in it asks to be in the mesh by a
//! label of its own. So what is new or unknown is never taken for outside.

use std::io;
use std::path::Path;

/// Name of the folder beside the runtime's configuration. Runtimes read files of that place, not folders.
pub const FOLDER: &str = "aquifer.d";

/// Name of the list in it.
pub const FILE: &str = "namespaces-outside";

/// Bytes of the list that are read: more than a cluster has namespaces.
const MAX_BYTES: u64 = 16 << 20;

/// Whether a namespace is in the list, a name on each line. A list that is missing has none.
///
/// # Errors
/// It is there and cannot be read.
pub fn contains(list: &Path, namespace: &str) -> io::Result<bool> {
    let file = match std::fs::File::open(list) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let text = io::read_to_string(io::Read::take(file, MAX_BYTES))?;
    // The last line counts only if it is whole.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    Ok(!namespace.is_empty() && whole.lines().any(|line| line == namespace))
}

/// The list as text.
pub fn render<'a>(namespaces: impl IntoIterator<Item = &'a str>) -> String {
    namespaces.into_iter().flat_map(|name| [name, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_count() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join(FILE);
        assert!(!contains(&list, "shop").unwrap());
        std::fs::write(&list, render(["shop", "web"])).unwrap();
        assert!(contains(&list, "shop").unwrap() && contains(&list, "web").unwrap());
        assert!(!contains(&list, "we").unwrap() && !contains(&list, "").unwrap());
        std::fs::write(&list, "shop\nwe").unwrap();
        assert!(!contains(&list, "we").unwrap(), "half a list was believed");
    }
}
