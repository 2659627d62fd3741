//! What parent and worker say to each other: one JSON message per packet of a SEQPACKET socket, descriptors beside it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::NodeConfig;
use crate::enrolment::EnrolmentRecord;

/// Longest message, bytes. An enrolment is under 1 KiB; the configuration is the longest.
pub const MESSAGE_LIMIT: usize = 64 * 1024;

/// Text that no log shows.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

/// From parent to worker.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToWorker {
    /// First message. Descriptors: the page listeners that are on, in the order admin, metrics, ready.
    Start {
        /// The node's configuration.
        config: Box<NodeConfig>,
        /// How many enrolments follow.
        enrolments: usize,
        /// How many records of enrolments without descriptors follow these.
        recorded: usize,
        /// How many certificates follow these.
        #[serde(default)]
        certificates: usize,
        /// Workers that ended by themselves before this one.
        restarts: u64,
        /// Another worker serves the node until this one does.
        #[serde(default)]
        relieves: bool,
    },
    /// An enrolment that an earlier worker made. Descriptors: see [`EnrolmentRecord`].
    Adopt(EnrolmentRecord),
    /// What stood when an earlier node process ended without un-enrolling; its listeners are gone, its rules may stand.
    Recorded(EnrolmentRecord),
    /// A certificate that an earlier worker was given.
    Certificate {
        /// For whom.
        identity: String,
        /// Chain and key as PEM.
        pem: Secret,
    },
    /// The parent holds the descriptors of this enrolment.
    Kept {
        /// Which one.
        uid: String,
    },
    /// Serve the last connections, then end.
    Drain {
        /// Another worker took over: pages are its concern now.
        replaced: bool,
    },
    /// Un-enrol all pods, then end.
    Leave {
        /// The mesh is removed from the cluster: what is carried has an end, too.
        removed: bool,
    },
}

/// From worker to parent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "kebab-case")]
pub enum ToParent {
    /// Keep these descriptors for the next worker.
    Keep(EnrolmentRecord),
    /// The pod left: close its descriptors.
    Forget {
        /// Which one.
        uid: String,
    },
    /// Keep this certificate for the next worker, in memory alone.
    KeepCertificate {
        /// For whom.
        identity: String,
        /// Chain and key as PEM.
        pem: Secret,
    },
    /// Nobody uses the certificate any more.
    ForgetCertificate {
        /// Whose.
        identity: String,
    },
    /// The mesh is removed from the cluster, or is not.
    Installed {
        /// Whether it is there.
        installed: bool,
    },
    /// All that was adopted is served again, and the source was read.
    Ready {
        /// It is by the node's cache: what is recorded of an earlier process has to be looked at again. Said once more when it is not.
        #[serde(default)]
        unsure: bool,
    },
}

/// Reads a message of the other side.
///
/// # Errors
/// The bytes are no message; both sides are one binary, so this is a bug or an upgrade across an incompatible version.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(bytes)
}

/// Writes a message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    // Maps with string keys and plain fields only: serialisation cannot fail.
    serde_json::to_vec(message).unwrap_or_default()
}
