//! The plug-in's place in the runtime's configuration: the last of the chain in the first file, as text in and text out.

use serde_json::{Map, Value};

/// Type of the plug-in, which is the name of its program.
pub const TYPE: &str = "aquifer-cni";

/// A configuration with the plug-in in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// The whole file.
    pub text: Vec<u8>,
    /// Whether the file was one plug-in (`.conf`) and is a list now (`.conflist`).
    pub converted: bool,
}

/// Why a file cannot hold the plug-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit(pub String);

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The file with `plugin` at the end of its chain; `None` where it is there already, just so. `plugin` needs no type.
///
/// # Errors
/// The file is no network configuration.
pub fn insert(text: &[u8], plugin: &Map<String, Value>) -> Result<Option<Inserted>, Unfit> {
    let mut network = network(text)?;
    let mut ours = plugin.clone();
    ours.insert("type".to_owned(), TYPE.into());
    let ours = Value::Object(ours);
    let converted = !network.contains_key("plugins");
    if converted {
        network = listed(network)?;
    }
    let Some(Value::Array(plugins)) = network.get_mut("plugins") else {
        return Err(Unfit("its `plugins` is no list".to_owned()));
    };
    if !plugins.iter().any(|plugin| !is_ours(plugin)) {
        return Err(Unfit("it has no plug-in that makes a network".to_owned()));
    }
    if !converted
        && plugins.iter().filter(|plugin| is_ours(plugin)).count() == 1
        && plugins.last() == Some(&ours)
    {
        return Ok(None);
    }
    plugins.retain(|plugin| !is_ours(plugin));
    plugins.push(ours);
    Ok(Some(Inserted { text: pretty(network), converted }))
}

/// The file without the plug-in; `None` where it is not in it.
///
/// # Errors
/// The file is no network configuration.
pub fn remove(text: &[u8]) -> Result<Option<Vec<u8>>, Unfit> {
    let mut network = network(text)?;
    let Some(Value::Array(plugins)) = network.get_mut("plugins") else { return Ok(None) };
    let before = plugins.len();
    plugins.retain(|plugin| !is_ours(plugin));
    if plugins.len() == before { Ok(None) } else { Ok(Some(pretty(network))) }
}

/// Whether the plug-in is in the file.
pub fn contains(text: &[u8]) -> bool {
    let network = network(text).ok();
    let plugins = network.as_ref().and_then(|network| network.get("plugins")).and_then(Value::as_array);
    plugins.is_some_and(|plugins| plugins.iter().any(is_ours))
}

fn is_ours(plugin: &Value) -> bool {
    plugin.get("type").and_then(Value::as_str) == Some(TYPE)
}

fn network(text: &[u8]) -> Result<Map<String, Value>, Unfit> {
    match serde_json::from_slice(text) {
        Ok(Value::Object(network)) if network.get("name").and_then(Value::as_str).is_some() => Ok(network),
        Ok(_) => Err(Unfit("it is no network configuration: it has no `name`".to_owned())),
        Err(error) => Err(Unfit(format!("it is no valid JSON: {error}"))),
    }
}

/// One plug-in's configuration as a list of that one.
fn listed(mut plugin: Map<String, Value>) -> Result<Map<String, Value>, Unfit> {
    if plugin.get("type").and_then(Value::as_str).is_none() {
        return Err(Unfit("it has neither `plugins` nor a `type`".to_owned()));
    }
    let mut network = Map::new();
    // The list says these of all its plug-ins.
    for key in ["cniVersion", "cniVersions", "name", "disableCheck", "disableGC"] {
        if let Some(value) = plugin.remove(key) {
            network.insert(key.to_owned(), value);
        }
    }
    network.insert("plugins".to_owned(), Value::Array(vec![Value::Object(plugin)]));
    Ok(network)
}

fn pretty(network: Map<String, Value>) -> Vec<u8> {
    // String keys and plain values: serialisation cannot fail.
    let mut text = serde_json::to_vec_pretty(&Value::Object(network)).unwrap_or_default();
    text.push(b'\n');
    text
}

/// Which of the files of a folder a runtime takes: the first by name with one of the endings that libcni reads.
pub fn first<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let reads = |name: &&str| {
        let ending = name.rsplit_once('.').map(|(stem, ending)| (stem.is_empty(), ending));
        matches!(ending, Some((false, "conf" | "conflist" | "json")))
    };
    names.into_iter().filter(reads).min()
}

/// What the converted file of `name` is called.
pub fn list_name(name: &str) -> String {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    format!("{stem}.conflist")
}

#[cfg(test)]
mod tests;
