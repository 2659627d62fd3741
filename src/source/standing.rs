//! What an API server tells of a policy besides what it says: for whoever writes its status.

use std::collections::BTreeMap;

use aquifer_k8s::StatusCondition;
use serde_json::Value as Json;

use crate::{Key, Problem, verdict};

/// Conditions of ours that are kept of one object; there is one of each type.
const MAX_CONDITIONS: usize = 8;

/// All policies that an API server has, also those that could not be taken as written.
pub type Standings = BTreeMap<Key, Standing>;

/// A policy object, and how it was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The object itself.
    pub written: Written,
    /// What of it is in use.
    pub taken: Taken,
    /// What is wrong with it, the worst first.
    pub problems: Vec<Problem>,
}

/// What is in use of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// What stands in it.
    AsWritten,
    /// What stood in it before; what stands in it now cannot be read.
    LastGood,
    /// A policy that closes the door: it cannot be read, and no good version is known.
    StandIn,
}

/// A policy object as it stands in the API server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// Group and version that it was told in.
    pub api_version: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`: grows with each change of the spec, not of the status.
    pub generation: i64,
    /// Conditions of ours in its status.
    pub conditions: Vec<StatusCondition>,
}

impl Written {
    /// Of an object as the API server writes it. A condition that is none is left out, and so written anew.
    pub(crate) fn read(object: &Json) -> Self {
        let text = |value: Option<&Json>| value.and_then(Json::as_str).unwrap_or_default().to_owned();
        let metadata = object.get("metadata");
        let of = |key: &str| metadata.and_then(|metadata| metadata.get(key));
        let conditions = object.get("status").and_then(|status| status.get("conditions"));
        let conditions = conditions.and_then(Json::as_array).into_iter().flatten();
        let ours = |condition: &StatusCondition| verdict::TYPES.contains(&condition.type_.as_str());
        Self {
            api_version: text(object.get("apiVersion")),
            uid: text(of("uid")),
            generation: of("generation").and_then(Json::as_i64).unwrap_or_default(),
            conditions: conditions
                .filter_map(|condition| serde_json::from_value(condition.clone()).ok())
                .filter(ours)
                .take(MAX_CONDITIONS)
                .collect(),
        }
    }

    /// The conditions, where they are about what stands in the object now.
    pub fn current(&self) -> Option<&[StatusCondition]> {
        let current = |condition: &StatusCondition| condition.observed_generation == Some(self.generation);
        let all = !self.conditions.is_empty() && self.conditions.iter().all(current);
        all.then_some(self.conditions.as_slice())
    }
}
