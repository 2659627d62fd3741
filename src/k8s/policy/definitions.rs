//! The CustomResourceDefinitions of `deploy/crds`, written from the Rust types: `AQUIFER_WRITE_CRDS=1 cargo test -p aquifer-k8s` writes
//! them, and without it this holds that they are in step.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use serde_json::{Value, json};

use super::{AuthorizationPolicySpec, PeerAuthenticationSpec};
use crate::names;

/// A structural schema of a spec (apiextensions.k8s.io/v1).
///
/// A field that is not known is kept, not dropped: dropped, a misspelt `from` would leave a rule that lets everybody in. So whoever reads
/// the policy sees the fault, says so and denies.
fn schema<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::openapi3();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    let structural = |schema: &mut schemars::Schema| {
        schema.remove("title");
        if schema.get("additionalProperties") == Some(&Value::Bool(false)) {
            schema.remove("additionalProperties");
            schema.insert("x-kubernetes-preserve-unknown-fields".to_owned(), Value::Bool(true));
        }
        // A default in the schema would be written into every object; Kubernetes' own are not.
        schema.remove("default");
    };
    RecursiveTransform(structural).transform(&mut schema);
    schema.remove("components");
    schema.to_value()
}

fn conditions() -> Value {
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "description": "What the mesh made of it.",
        "properties": {
            "conditions": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["type", "status", "lastTransitionTime", "reason", "message"],
                    "properties": {
                        "type": text,
                        "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                        "observedGeneration": { "type": "integer", "format": "int64" },
                        "lastTransitionTime": { "type": "string", "format": "date-time" },
                        "reason": text,
                        "message": text,
                    },
                },
            },
        },
    })
}

fn definition(kind: &str, plural: &str, short: &str, spec: Value, column: Value) -> Value {
    let version = json!({
        "name": names::VERSION,
        "served": true,
        "storage": true,
        "subresources": { "status": {} },
        "additionalPrinterColumns": [
            column,
            { "name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status" },
            { "name": "Enforced", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Enforced\")].status" },
            { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
        ],
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                "properties": { "spec": spec, "status": conditions() },
            },
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{}", names::GROUP),
            "labels": { "app.kubernetes.io/part-of": "aquifer" },
        },
        "spec": {
            "group": names::GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": format!("{kind}List"),
                "plural": plural,
                "singular": kind.to_lowercase(),
                "shortNames": [short],
                "categories": ["aquifer"],
            },
            "versions": [version],
        },
    })
}

#[test]
fn the_definitions_are_those_of_the_types() {
    let action = json!({ "name": "Action", "type": "string", "jsonPath": ".spec.action" });
    let mode = json!({ "name": "Mode", "type": "string", "jsonPath": ".spec.mtls.mode" });
    let definitions = [
        definition(
            "AuthorizationPolicy",
            "authorizationpolicies",
            "aqap",
            schema::<AuthorizationPolicySpec>(),
            action,
        ),
        definition(
            "PeerAuthentication",
            "peerauthentications",
            "aqpa",
            schema::<PeerAuthenticationSpec>(),
            mode,
        ),
    ];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/crds");
    for definition in definitions {
        let name = definition["spec"]["names"]["plural"].as_str().unwrap().to_owned();
        let path = folder.join(format!("{name}.yaml"));
        let head = "# Written from the Rust types: AQUIFER_WRITE_CRDS=1 cargo test -p aquifer-k8s\n";
        let text = format!("{head}{}", serde_saphyr::to_string(&definition).unwrap());
        assert_eq!(serde_saphyr::from_str::<Value>(&text).unwrap(), definition);
        if std::env::var_os("AQUIFER_WRITE_CRDS").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let stands = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            stands == text,
            "{} is not what the types say: AQUIFER_WRITE_CRDS=1 cargo test -p aquifer-k8s",
            path.display()
        );
    }
}
