//! An object as the API server writes it becomes the tree that files become, too.

use serde_json::Value as Json;

use crate::yaml::{Tree, Value};

/// Who changed which field last: half of many an object, and nothing to the mesh.
const MANAGED_FIELDS: &str = "managedFields";

/// The tree of a JSON value, without places. Its depth is bounded by `serde_json`'s own limit of 128.
pub(super) fn tree(json: Json) -> Tree {
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(value), _) => Value::Integer(value),
            (None, Some(value)) => Value::Unsigned(value),
            (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::Text(text),
        Json::Array(items) => Value::List(items.into_iter().map(tree).collect()),
        Json::Object(entries) => Value::Map(
            entries
                .into_iter()
                .filter(|(key, _)| key != MANAGED_FIELDS)
                .map(|(key, value)| (key, tree(value)))
                .collect(),
        ),
    };
    Tree { value, line: 0, column: 0 }
}
