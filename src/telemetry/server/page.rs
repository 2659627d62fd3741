//! What the roles say about themselves: admin pages, and whether they are ready.

use std::time::SystemTime;

/// One admin page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// Its path without the slash.
    pub name: &'static str,
    /// What it shows, for the index.
    pub about: &'static str,
}

/// The pages that every role names alike.
pub mod pages {
    use super::Page;

    /// Effective configuration.
    pub const CONFIG: Page = Page { name: "config", about: "the effective configuration" };
    /// The mesh.
    pub const SNAPSHOT: Page = Page { name: "snapshot", about: "the mesh as this process knows it" };
    /// Certificates, never keys.
    pub const CERTIFICATES: Page =
        Page { name: "certificates", about: "certificates in use and the trust bundle (no keys)" };
    /// Tunnels.
    pub const POOLS: Page = Page { name: "pools", about: "tunnels to other nodes" };
    /// Enrolled pods.
    pub const ENROLMENTS: Page =
        Page { name: "enrolments", about: "pods of this node, and what was proved of each" };
    /// Live connections.
    pub const CONNECTIONS: Page = Page { name: "connections", about: "live connections" };
    /// What is wrong now: a list of [`Fault`](super::Fault)s.
    pub const PROBLEMS: Page =
        Page { name: "problems", about: "what is wrong just now, looked up at the moment of asking" };
}

/// Something that is wrong in what a process looks after, as its page of problems has it and `aquifer check` repeats it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// A short name that stays over versions, such as `rules`.
    pub code: &'static str,
    /// What it is about, such as `shop/web-0`.
    pub about: String,
    /// What is so, in one sentence.
    pub found: String,
    /// What to do about it.
    pub mend: String,
}

/// What a role shows on its admin pages.
pub trait Report: Send + Sync {
    /// The pages it has.
    fn pages(&self) -> Vec<Page>;

    /// One of them, as of now; `None` where there is none of this name. A name may have a part after a slash, which says what of the
    /// page is wanted: `snapshot/shop`. It may take long and block: it runs on a thread for such work, and few at a time.
    fn page(&self, name: &str) -> Option<serde_json::Value>;
}

/// Who knows whether the process is ready.
pub trait Readiness: Send + Sync {
    /// The state of now. Must not block.
    fn ready(&self) -> Ready;
}

/// Whether a process serves, and each pod's part in it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct Ready {
    /// The answer: 200 or 503. A single pod in trouble is no reason for false (istio/istio#55794).
    pub ready: bool,
    /// One line why.
    pub why: String,
    /// Each pod.
    pub detail: Vec<PodReady>,
}

/// Whether one pod is served.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct PodReady {
    /// `namespace/name`.
    pub pod: String,
    /// `metadata.uid`.
    pub uid: String,
    /// What it may prove to be: its SPIFFE identity.
    pub identity: String,
    /// Whether it is enrolled, and that was proved.
    pub ready: bool,
    /// Whether it leaves the mesh: what it carried goes on to its end, and nothing new is captured.
    pub leaving: bool,
    /// One line why.
    pub why: String,
    /// Since when it has been so, as RFC 3339.
    #[serde(serialize_with = "rfc3339")]
    pub since: Option<SystemTime>,
}

fn rfc3339<S: serde::Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    let time = time.and_then(|time| jiff::Timestamp::try_from(time).ok());
    match time {
        Some(time) => serializer.collect_str(&time),
        None => serializer.serialize_none(),
    }
}
