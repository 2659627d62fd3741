//! What the plug-in asks the node, and what it is answered: a line of JSON each way over a Unix socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Name of the socket in the node's run directory.
pub const SOCKET: &str = "cni.sock";

/// Longest line, bytes: names are bounded by Kubernetes, paths by the kernel.
pub const MAX_LINE: u64 = 64 * 1024;

/// A question. Unknown fields are ignored, so that plug-in and node of two versions understand each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// What is asked.
    pub verb: Verb,
    /// Kubernetes namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its uid; runtimes before containerd 1.7 do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Id of its sandbox.
    pub container: String,
    /// Path of its network namespace, as the host sees it.
    #[serde(default)]
    pub netns: PathBuf,
    /// How long the node may take, in milliseconds.
    pub patience_ms: u64,
}

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// The pod begins: answer once it is in the mesh.
    Add,
    /// Its sandbox ends.
    Del,
    /// Is it still in the mesh?
    Check,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// In the mesh: listeners, rules and certificate are there. Also the answer to `Del`.
    Done,
    /// No pod of the mesh.
    Outside,
    /// The node has not heard of the pod.
    Unknown {
        /// Why, in a sentence for the pod's events.
        why: String,
    },
    /// It is to be in the mesh and is not.
    Waiting {
        /// Why, in a sentence for the pod's events.
        why: String,
    },
}

/// A message as a line.
pub fn to_line<T: Serialize>(message: &T) -> Vec<u8> {
    // Plain fields and string keys: serialisation cannot fail.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// A line as a message.
///
/// # Errors
/// It is none; the text says where.
pub fn from_line<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(line)
}

/// Why a question was not answered.
#[derive(Debug)]
pub enum AskError {
    /// Nobody listens at the socket.
    Absent(io::Error),
    /// The node hung up, or said nothing in time.
    Silent(io::Error),
    /// What it said is no answer.
    Nonsense(String),
}

/// Asks the node that listens at `socket`, and waits for its answer a little longer than it may take.
///
/// # Errors
/// See [`AskError`].
pub fn ask(socket: &Path, question: &Ask) -> Result<Answer, AskError> {
    let mut stream = UnixStream::connect(socket).map_err(AskError::Absent)?;
    let patience = Duration::from_millis(question.patience_ms) + Duration::from_secs(2);
    let limits =
        stream.set_read_timeout(Some(patience)).and_then(|()| stream.set_write_timeout(Some(patience)));
    limits.and_then(|()| stream.write_all(&to_line(question))).map_err(AskError::Silent)?;
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_LINE)).read_until(b'\n', &mut line).map_err(AskError::Silent)?;
    if line.is_empty() {
        return Err(AskError::Silent(io::ErrorKind::UnexpectedEof.into()));
    }
    from_line(&line).map_err(|error| AskError::Nonsense(error.to_string()))
}
