//! Capture rules of one pod: laid in one transaction, proved by reading them back, removed only by their owner.
//!
//! [`enrol`] and [`leave`] change a running pod without breaking a connection of it; [`lay`], [`inspect`] and [`remove`] are
//! what they are made of, and what a repair loop needs. All calls block and may be made from anywhere, but not where others
//! wait for the thread: to read takes a millisecond or two, and a change waits until no packet is under the old rules any
//! more, some ten milliseconds on a busy machine. What the rules are, and why, stands in `rules/table.rs`.

mod early;
mod group;
mod kernel;
mod passage;
mod routes;
mod table;
mod watch;

use std::{io, net::SocketAddr};

use crate::{NetNs, diag::unmapped, netlink};
use group::Group;
use kernel::{Contents, Kernel, Label};
pub use passage::{enrol, leave, refresh};
use table::Kind;
pub use watch::Watch;

/// Most connections that a table can hold by 4-tuple. A pod with more sockets than this is not one that a process with our
/// limit of descriptors could serve; it bounds a transaction to some megabytes.
pub const MAX_TUPLES: usize = 131_072;

/// What is to stand in a pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Which life of the enrolment laid them; [`remove`] can be told to remove only its own.
    pub generation: u64,
    /// What is captured.
    pub mode: Mode,
}

/// What of a pod's TCP traffic is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only connections that begin now (SYN packets and what they became): the first of three steps of enrolment.
    CaptureNew,
    /// Everything but these connections, which stood before.
    Capture {
        /// The connections that pass untouched until they end.
        standing: Vec<FourTuple>,
    },
    /// As [`Mode::Capture`], but what begins now passes: the first of three steps of un-enrolment.
    LeaveNew {
        /// The connections that stood before the capture and still pass.
        standing: Vec<FourTuple>,
    },
    /// Nothing new; only what we carry stays with us until it ends.
    Leave {
        /// The connections that stay diverted to us.
        carried: Vec<FourTuple>,
    },
}

impl Mode {
    fn kind(&self) -> Kind {
        match self {
            Self::CaptureNew => Kind::CaptureNew,
            Self::Capture { .. } => Kind::Capture,
            Self::LeaveNew { .. } => Kind::LeaveNew,
            Self::Leave { .. } => Kind::Leave,
        }
    }

    fn contents(&self) -> Contents {
        match self {
            Self::CaptureNew => Vec::new(),
            Self::Capture { standing } | Self::LeaveNew { standing } => {
                vec![(Group::Exempt, standing.clone())]
            }
            Self::Leave { carried } => vec![(Group::Carried, carried.clone())],
        }
    }
}

/// One TCP connection, as the application in the pod sees it. A v4-mapped address is taken for the v4 address that it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FourTuple {
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

impl FourTuple {
    /// The same connection seen from the other end.
    pub fn reversed(self) -> Self {
        Self { local: self.remote, remote: self.local }
    }

    fn unmapped(self) -> Self {
        Self { local: unmapped(self.local), remote: unmapped(self.remote) }
    }
}

/// What [`inspect`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No table of ours.
    Absent,
    /// A table of ours.
    Present(Found),
}

/// A table of ours, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The generation written in it; `None` where that cannot be read, so that the table is nobody's.
    pub generation: Option<u64>,
    /// What it captures; `None` where that cannot be read.
    pub mode: Option<Mode>,
    /// What differs from what was laid, one sentence each, empty if all stands as laid.
    pub faults: Vec<String>,
}

impl Found {
    /// Whether every rule, set and route stands as it was laid.
    pub fn intact(&self) -> bool {
        self.faults.is_empty()
    }
}

/// Why rules could not be laid, read or removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RulesError {
    /// The namespace could not be entered, or a netlink socket not opened in it.
    #[error("cannot reach the pod's network namespace: {0}")]
    Namespace(#[from] io::Error),
    /// The process lacks a privilege.
    #[error("not permitted to change packet rules: run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN")]
    NotPermitted(#[source] nlink::Error),
    /// The kernel lacks a part.
    #[error(
        "the kernel lacks {part}, which capture needs: load it (modprobe {module}) or use a kernel built with {config}"
    )]
    Missing {
        /// What is missing.
        part: String,
        /// The module that holds it.
        module: String,
        /// The option with which a kernel is built with it.
        config: &'static str,
        /// What the kernel answered.
        source: nlink::Error,
    },
    /// More connections than [`MAX_TUPLES`].
    #[error("{0} connections are more than the rules of a pod can name (131072): close some first")]
    TooMany(usize),
    /// Another program changes the pod's packet rules all the time.
    #[error(
        "the pod's packet rules kept changing under our hands: another program rewrites them all the time"
    )]
    Contended,
    /// Anything else that the kernel answered.
    #[error("the kernel refused packet rules or routes: {0}")]
    Kernel(#[source] nlink::Error),
}

impl From<nlink::Error> for RulesError {
    fn from(error: nlink::Error) -> Self {
        if let Some((name, config)) = kernel::missing_module(&error) {
            let module = if matches!(name, "lookup" | "dynset") {
                "nf_tables".to_owned()
            } else {
                format!("nft_{name}")
            };
            return Self::Missing {
                part: format!("the expression '{name}' of nftables"),
                module,
                config,
                source: error,
            };
        }
        match error.errno() {
            Some(libc::EPERM) => Self::NotPermitted(error),
            Some(libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => Self::Missing {
                part: "nftables (family inet)".to_owned(),
                module: "nf_tables".to_owned(),
                config: "CONFIG_NF_TABLES_INET",
                source: error,
            },
            _ => Self::Kernel(error),
        }
    }
}

/// Attempts at a change that another program's change keeps overtaking.
const ATTEMPTS: u32 = 10;

/// Lays the rules, replacing whatever table of ours stands there, in one transaction: at no moment does the pod have other
/// rules than the old or the new ones. The routing they need comes before them.
///
/// # Errors
/// Each says what to do; in none has anything changed but, perhaps, the routing, which without the rules does nothing.
pub fn lay(ns: &NetNs, rules: &Rules) -> Result<(), RulesError> {
    let label = Label { generation: rules.generation, kind: rules.mode.kind() };
    let contents = bounded(rules.mode.contents())?;
    netlink::within(ns, async || replace(label, &contents).await)
}

/// Replaces the set of exempt (capture) or carried (leave) connections and nothing else, in one transaction. False if there is
/// no table, or one of another generation or mode.
///
/// # Errors
/// As [`lay`].
pub fn set_standing(ns: &NetNs, generation: u64, standing: &[FourTuple]) -> Result<bool, RulesError> {
    let contents = bounded(vec![(Group::Exempt, standing.to_vec())])?;
    let standing = &contents[0].1;
    netlink::within(ns, async || refill(generation, standing).await)
}

/// Reads back what stands in the namespace and compares it with what was laid.
///
/// # Errors
/// As [`lay`].
pub fn inspect(ns: &NetNs) -> Result<Standing, RulesError> {
    netlink::within(ns, async || {
        let kernel = Kernel::open()?;
        for _ in 0..ATTEMPTS {
            let before = kernel.ruleset().await?;
            let found = read(&kernel).await;
            if kernel.ruleset().await? == before {
                return found;
            }
        }
        Err(RulesError::Contended)
    })
}

/// Removes the table, routing rules and routes; with `Some(g)` only if the table is of that generation. True if something was
/// removed.
///
/// # Errors
/// As [`lay`].
pub fn remove(ns: &NetNs, generation: Option<u64>) -> Result<bool, RulesError> {
    netlink::within(ns, async || {
        let kernel = Kernel::open()?;
        for _ in 0..ATTEMPTS {
            let ruleset = kernel.ruleset().await?;
            let label = kernel.label().await?;
            let found = label.flatten().map(|label| label.generation);
            if generation.is_some() && found != generation {
                return Ok(false);
            }
            let early = early::remove().await?;
            if label.is_none() {
                return Ok(early | routes::remove().await?);
            }
            match kernel.delete(ruleset).await {
                Ok(()) => {
                    routes::remove().await?;
                    return Ok(true);
                }
                Err(error) if error.is_restart() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(RulesError::Contended)
    })
}

fn bounded(mut contents: Contents) -> Result<Contents, RulesError> {
    let count = contents.iter().map(|(_, tuples)| tuples.len()).sum();
    if count > MAX_TUPLES {
        return Err(RulesError::TooMany(count));
    }
    for tuple in contents.iter_mut().flat_map(|(_, tuples)| tuples) {
        *tuple = tuple.unmapped();
    }
    Ok(contents)
}

/// Lays routes and table, from inside the namespace.
async fn replace(label: Label, contents: &Contents) -> Result<(), RulesError> {
    let early = captures_all(label.kind, contents);
    if !early {
        early::remove().await?;
    }
    routes::lay().await?;
    let kernel = Kernel::open()?;
    for _ in 0..ATTEMPTS {
        let ruleset = kernel.ruleset().await?;
        match kernel.replace(ruleset, label, contents).await {
            Ok(()) if early => return Ok(early::lay().await?),
            Ok(()) => return Ok(()),
            Err(error) if error.is_restart() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(RulesError::Contended)
}

/// What a table lets pass, if it is one of full capture. A set that is missing is a fault already, and counts as empty.
async fn passing(kernel: &Kernel, kind: Kind) -> Contents {
    let mut contents = Contents::new();
    if kind == Kind::Capture {
        for group in [Group::Exempt, Group::Opening] {
            contents.push((group, kernel.members(group).await.unwrap_or_default()));
        }
    }
    contents
}

/// Whether nothing passes such a table any more, so that sockets may be captured from the start.
fn captures_all(kind: Kind, contents: &Contents) -> bool {
    kind == Kind::Capture && contents.iter().all(|(_, tuples)| tuples.is_empty())
}

/// Replaces the set that a table is about, from inside the namespace.
async fn refill(generation: u64, tuples: &[FourTuple]) -> Result<bool, RulesError> {
    let kernel = Kernel::open()?;
    for _ in 0..ATTEMPTS {
        let ruleset = kernel.ruleset().await?;
        let Some(label) = kernel.label().await?.flatten().filter(|label| label.generation == generation)
        else {
            return Ok(false);
        };
        let contents = match label.kind {
            // Whoever may repeat a SYN has had the time to.
            Kind::Capture => vec![(Group::Exempt, tuples.to_vec()), (Group::Opening, Vec::new())],
            Kind::LeaveNew => vec![(Group::Exempt, tuples.to_vec())],
            Kind::Leave => vec![(Group::Carried, tuples.to_vec())],
            Kind::CaptureNew => return Ok(false),
        };
        let early = captures_all(label.kind, &contents);
        if !early {
            early::remove().await?;
        }
        match kernel.refill(ruleset, &contents).await {
            Ok(()) if early => return Ok(early::lay().await.map(|()| true)?),
            Ok(()) => return Ok(true),
            Err(error) if error.is_restart() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(RulesError::Contended)
}

async fn read(kernel: &Kernel) -> Result<Standing, RulesError> {
    let Some(label) = kernel.label().await? else { return Ok(Standing::Absent) };
    let Some(label @ Label { generation, kind }) = label else {
        let faults = vec!["the table does not say which generation it is of".to_owned()];
        return Ok(Standing::Present(Found { generation: None, mode: None, faults }));
    };
    let mut faults = kernel.faults(label).await?;
    faults.extend(routes::faults().await?);
    faults.extend(early::fault(captures_all(kind, &passing(kernel, kind).await)).await?);
    // A set that is missing is a fault already.
    let mode = match kind {
        Kind::CaptureNew => Some(Mode::CaptureNew),
        Kind::Capture => kernel.members(Group::Exempt).await.ok().map(|standing| Mode::Capture { standing }),
        Kind::LeaveNew => {
            kernel.members(Group::Exempt).await.ok().map(|standing| Mode::LeaveNew { standing })
        }
        Kind::Leave => kernel.members(Group::Carried).await.ok().map(|carried| Mode::Leave { carried }),
    };
    Ok(Standing::Present(Found { generation: Some(generation), mode, faults }))
}
