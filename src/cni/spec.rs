//! The part of the CNI specification (1.1.0) that a chained plug-in needs: a call, its configuration, results and errors.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Versions of the specification that are spoken.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Bytes on standard input at most: a configuration with the result of the plug-ins before, some kilobytes.
pub const MAX_INPUT: u64 = 4 << 20;

/// What the environment says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: String,
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`.
    pub netns: PathBuf,
    /// `CNI_ARGS`, of which a later key counts.
    pub args: BTreeMap<String, String>,
}

impl Call {
    /// Reads it from variables.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let text = |name: &str| variable(name).unwrap_or_default();
        let args = text("CNI_ARGS");
        let pair = |pair: &str| pair.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            command: text("CNI_COMMAND"),
            container: text("CNI_CONTAINERID"),
            netns: text("CNI_NETNS").into(),
            args: args.split(';').filter_map(pair).collect(),
        }
    }

    /// An argument that is not empty.
    pub fn arg(&self, name: &str) -> Option<&str> {
        self.args.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// The configuration on standard input, with the node's own keys.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Version of the specification.
    #[serde(default)]
    pub cni_version: String,
    /// What the plug-ins before have done; it is handed on as it is.
    #[serde(default)]
    pub prev_result: Option<Value>,
    /// Socket of the node.
    #[serde(default)]
    pub socket: PathBuf,
    /// List of namespaces outside the mesh, see [`crate::outside`].
    #[serde(default)]
    pub outside: PathBuf,
    /// Namespaces whose pods are never held.
    #[serde(default)]
    pub exempt: Vec<String>,
    /// Seconds that a pod is held at most.
    #[serde(default)]
    pub wait: Option<u64>,
}

impl Config {
    /// Reads standard input.
    ///
    /// # Errors
    /// It is no configuration, or of another version of the specification.
    pub fn read(input: &[u8]) -> Result<Self, CniError> {
        if input.len() as u64 > MAX_INPUT {
            return Err(CniError::new(
                "",
                Code::Undecodable,
                format!("the configuration is longer than {MAX_INPUT} bytes"),
            ));
        }
        let config: Self = serde_json::from_slice(input).map_err(|error| {
            CniError::new("", Code::Undecodable, format!("the configuration is no valid JSON: {error}"))
        })?;
        if VERSIONS.contains(&config.cni_version.as_str()) {
            return Ok(config);
        }
        let text =
            format!("CNI version {:?} is not spoken, only {}", config.cni_version, VERSIONS.join(", "));
        Err(CniError::new("", Code::Version, text))
    }
}

/// Why a call failed (section "Error" of the specification).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// 1: another version of the specification.
    Version,
    /// 4: a variable of the environment is missing or wrong.
    Environment,
    /// 5: input cannot be read.
    Io,
    /// 6: input cannot be decoded.
    Undecodable,
    /// 7: the network's configuration is wrong.
    Configuration,
    /// 11: try again later.
    Later,
    /// 101, ours: the pod is to be in the mesh and is not.
    NotEnrolled,
}

impl Code {
    fn number(self) -> u32 {
        match self {
            Self::Version => 1,
            Self::Environment => 4,
            Self::Io => 5,
            Self::Undecodable => 6,
            Self::Configuration => 7,
            Self::Later => 11,
            Self::NotEnrolled => 101,
        }
    }
}

/// An error as the runtime is told it; its text is seen in the pod's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CniError {
    cni_version: String,
    code: u32,
    /// What failed and what to do.
    pub msg: String,
}

impl CniError {
    /// An error in a call of this version of the specification (empty where it is not known).
    pub fn new(version: &str, code: Code, msg: impl Into<String>) -> Self {
        let known = VERSIONS.iter().find(|known| **known == version).unwrap_or(&VERSIONS[3]);
        Self {
            cni_version: (*known).to_owned(),
            code: code.number(),
            msg: format!("aquifer-cni: {}", msg.into()),
        }
    }

    /// Its number.
    pub fn code(&self) -> u32 {
        self.code
    }

    /// As written to standard output.
    pub fn to_json(&self) -> Vec<u8> {
        // Plain fields: serialisation cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
