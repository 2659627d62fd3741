//! AuthorizationPolicy and PeerAuthentication, with the spec of `security.istio.io/v1`, in our API group and Istio's.
//!
//! An unknown field is an error everywhere in a spec, and so is a list of matches that is written and empty: a typo in
//! a policy must not open a door. Of the fields that Istio has, each one is here, also those that only HTTP shows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ObjectMeta;

/// `kind: AuthorizationPolicy`: who may call what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicy {
    /// `aquifer.dev/v1alpha1`, `security.istio.io/v1` or `security.istio.io/v1beta1`.
    pub api_version: String,
    /// `AuthorizationPolicy`.
    pub kind: String,
    /// Name, namespace and the rest of what every object has.
    pub metadata: ObjectMeta,
    /// What it says; left out, it is an ALLOW policy without rules, which allows nothing.
    #[serde(default)]
    pub spec: AuthorizationPolicySpec,
    /// What a controller wrote about it; not read.
    #[serde(default, skip_serializing)]
    pub status: serde::de::IgnoredAny,
}

/// `spec` of an [`AuthorizationPolicy`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// Workloads that it is about, by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// The one object that it is about; the older form of `target_refs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
    /// The objects that it is about.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub target_refs: Vec<TargetRef>,
    /// `ALLOW` (where unset), `DENY`, `AUDIT`, `CUSTOM`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// For CUSTOM: the external authorizer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<Provider>,
    /// Rules, OR-ed.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub rules: Vec<Rule>,
}

/// `selector`: labels that a workload must all carry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// The labels.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// An object that a policy is about.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// API group, empty for the core group.
    #[serde(default)]
    pub group: String,
    /// Kind, such as `Service` or `Gateway`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Namespace; where set, it must be the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// `provider` of a CUSTOM policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    /// Its name in the mesh's configuration.
    #[serde(default)]
    pub name: String,
}

/// One rule: `from`, `to` and `when` must all hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// Callers, OR-ed. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "written")]
    pub from: Vec<RuleFrom>,
    /// Operations, OR-ed. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "written")]
    pub to: Vec<RuleTo>,
    /// Conditions, AND-ed.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "written")]
    pub when: Vec<Condition>,
}

/// One entry of `from`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleFrom {
    /// The caller.
    #[serde(default)]
    pub source: Source,
}

/// One entry of `to`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleTo {
    /// What is called.
    #[serde(default)]
    pub operation: Operation,
}

macro_rules! lists {
    ($(#[$type_doc:meta])* $type:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$type_doc])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        pub struct $type {
            $(
                $(#[$doc])*
                #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "written")]
                pub $field: Vec<String>,
            )*
        }
    };
}

lists! {
    /// A caller. The kinds AND, the values of a kind OR, and none of the `not_` values may hold.
    Source {
        /// `TRUST-DOMAIN/ns/NAMESPACE/sa/SERVICE-ACCOUNT`, exact, `prefix*`, `*suffix` or `*`.
        principals,
        /// None of these.
        not_principals,
        /// `ISSUER/SUBJECT` of a request's token. HTTP only.
        request_principals,
        /// None of these. HTTP only.
        not_request_principals,
        /// Namespaces of the caller's identity.
        namespaces,
        /// None of these.
        not_namespaces,
        /// `NAMESPACE/SERVICE-ACCOUNT`, or `SERVICE-ACCOUNT` of the policy's own namespace.
        service_accounts,
        /// None of these.
        not_service_accounts,
        /// Addresses or CIDRs of the connection's peer.
        ip_blocks,
        /// None of these.
        not_ip_blocks,
        /// Addresses or CIDRs of the original client, as proxies in front tell it. HTTP only.
        remote_ip_blocks,
        /// None of these. HTTP only.
        not_remote_ip_blocks,
    }
}

lists! {
    /// What is called. The kinds AND, the values of a kind OR, and none of the `not_` values may hold.
    Operation {
        /// Host names. HTTP only.
        hosts,
        /// None of these. HTTP only.
        not_hosts,
        /// Ports of the workload, as texts.
        ports,
        /// None of these.
        not_ports,
        /// HTTP methods.
        methods,
        /// None of these. HTTP only.
        not_methods,
        /// URL paths. HTTP only.
        paths,
        /// None of these. HTTP only.
        not_paths,
    }
}

/// One entry of `when`: an attribute that must have one of the values and none of the others.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Condition {
    /// The attribute's name, such as `source.namespace`.
    pub key: String,
    /// One of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "written")]
    pub values: Vec<String>,
    /// None of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "written")]
    pub not_values: Vec<String>,
}

/// `kind: PeerAuthentication`: whether a workload takes callers without mutual TLS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthentication {
    /// As of [`AuthorizationPolicy`].
    pub api_version: String,
    /// `PeerAuthentication`.
    pub kind: String,
    /// Name, namespace and the rest of what every object has.
    pub metadata: ObjectMeta,
    /// What it says.
    #[serde(default)]
    pub spec: PeerAuthenticationSpec,
    /// What a controller wrote about it; not read.
    #[serde(default, skip_serializing)]
    pub status: serde::de::IgnoredAny,
}

/// `spec` of a [`PeerAuthentication`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthenticationSpec {
    /// Workloads that it is about, by label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<Selector>,
    /// Mode where no port says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<MutualTls>,
    /// Modes of single ports of the workload; the keys are port numbers as texts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub port_level_mtls: BTreeMap<String, MutualTls>,
}

/// `mtls`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MutualTls {
    /// `UNSET` (also where absent), `DISABLE`, `PERMISSIVE`, `STRICT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Kubernetes reads an explicit null of a list or map as an empty one.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A list of matches restricts. One that is written but empty would restrict nothing while its author may have meant
/// "nobody", so it is refused (Istio's admission does too); leaving the field out is how to say "any".
fn written<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    let list = Option::<Vec<T>>::deserialize(deserializer)?.unwrap_or_default();
    if list.is_empty() {
        return Err(serde::de::Error::custom(
            "the list is empty: leave the field out to mean any, or name some",
        ));
    }
    Ok(list)
}

#[cfg(test)]
mod definitions;
#[cfg(test)]
mod tests;
