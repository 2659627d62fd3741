//! Answers of a stream, cut to a size that clients take.

use crate::proto::xds::{Any, DeltaDiscoveryResponse, Resource};

use super::store::Told;
use crate::version::version_text;

/// Bytes of an answer at which another one begins: well below the 4 MiB that gRPC clients take by default.
const LARGE: usize = 1 << 20;

/// Answers on their way, numbered over the whole stream.
#[derive(Default)]
pub(super) struct Answers {
    nonce: u64,
    all: Vec<DeltaDiscoveryResponse>,
}

impl Answers {
    /// The number of the last answer, as a client gives it back.
    pub(super) fn last(&self) -> String {
        self.nonce.to_string()
    }

    pub(super) fn last_mut(&mut self) -> Option<&mut DeltaDiscoveryResponse> {
        self.all.last_mut()
    }

    pub(super) fn take(&mut self) -> Vec<DeltaDiscoveryResponse> {
        std::mem::take(&mut self.all)
    }

    /// Tells of a type, in at least one answer. `aliases`: names by which else a resource is found.
    pub(super) fn tell(&mut self, url: &str, told: Vec<Told>, aliases: impl Fn(&str) -> Vec<String>) {
        let mut size = 0;
        let mut answer = self.empty(url);
        for Told { name, here } in told {
            if size >= LARGE {
                size = 0;
                let next = self.empty(url);
                self.all.push(std::mem::replace(&mut answer, next));
            }
            size += name.len() * 2 + 64;
            match here {
                Some((version, value)) => {
                    size += value.len();
                    answer.resources.push(Resource {
                        version: version_text(version),
                        resource: Some(Any { type_url: url.to_owned(), value }),
                        aliases: aliases(&name),
                        name: name.to_string(),
                    });
                }
                None => answer.removed_resources.push(name.to_string()),
            }
        }
        self.all.push(answer);
    }

    fn empty(&mut self, url: &str) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        DeltaDiscoveryResponse {
            type_url: url.to_owned(),
            nonce: self.nonce.to_string(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}
