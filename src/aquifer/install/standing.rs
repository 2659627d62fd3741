//! What a mesh that runs was installed with, read from its two workloads.

use serde_json::Value;

use super::{MANIFESTS, SETTINGS, Setting};

/// The settings of a running mesh, by their keys; those that are as this version's defaults are among them.
pub(crate) struct Standing {
    /// In the order of the chart's values.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Keys of settings that the running mesh does not have: it is of a version without them.
    pub(crate) absent: Vec<&'static str>,
}

impl Standing {
    /// Reads the Deployment of the controller and the DaemonSet of the node proxies, as the API server has them.
    pub(crate) fn of(controller: &Value, node: &Value) -> Self {
        let (mut settings, mut absent) = (Vec::new(), Vec::new());
        for setting in SETTINGS {
            match setting.standing([controller, node]) {
                Some(value) => settings.push((setting.key, value)),
                None => absent.push(setting.key),
            }
        }
        Self { settings, absent }
    }

    /// One of the settings.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.settings.iter().find(|(known, _)| *known == key).map(|(_, value)| value.as_str())
    }

    /// Puts another value in the place of one.
    pub(crate) fn set(&mut self, key: &'static str, value: String) {
        self.settings.retain(|(known, _)| *known != key);
        self.settings.push((key, value));
    }
}

impl Setting {
    /// Its value in what runs, by the place that it has in the manifests.
    fn standing(&self, workloads: [&Value; 2]) -> Option<String> {
        let pods = workloads.map(|workload| &workload["spec"]["template"]["spec"]);
        let before = self.around[0].trim_end_matches('"');
        if before == "image: " {
            return pods.iter().find_map(|pod| Some(pod["containers"][0]["image"].as_str()?.to_owned()));
        }
        if before == "replicas: " {
            return workloads
                .iter()
                .find_map(|workload| Some(workload["spec"]["replicas"].as_u64()?.to_string()));
        }
        if let Some(name) = before.strip_prefix("{name: ").and_then(|rest| rest.strip_suffix(", value: ")) {
            return pods.iter().find_map(|pod| {
                let variables = pod["containers"][0]["env"].as_array()?;
                let found = variables.iter().find(|variable| variable["name"] == name)?;
                // An empty value is not written down by the API server.
                Some(found["value"].as_str().unwrap_or_default().to_owned())
            });
        }
        // A folder of the node stands in several places, all alike.
        if self.default.starts_with('/') {
            let volume = volume_of(self.default)?;
            return pods.iter().find_map(|pod| {
                let found = pod["volumes"].as_array()?.iter().find(|other| other["name"] == volume)?;
                Some(found["hostPath"]["path"].as_str()?.to_owned())
            });
        }
        None
    }
}

/// The volume that the manifests give a folder of the node, by its default path.
fn volume_of(path: &str) -> Option<String> {
    let documents =
        MANIFESTS.iter().filter_map(|text| serde_saphyr::from_multiple::<Value>(text).ok()).flatten();
    documents.into_iter().find_map(|document| {
        let volumes = document["spec"]["template"]["spec"]["volumes"].as_array()?.clone();
        let found = volumes.into_iter().find(|volume| volume["hostPath"]["path"] == path)?;
        Some(found["name"].as_str()?.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::super::{documents, put_all};
    use super::*;

    fn of(text: &str) -> Standing {
        let all = documents(text).unwrap();
        let find = |kind: &str| all.iter().find(|document| document["kind"] == kind).unwrap();
        Standing::of(find("Deployment"), find("DaemonSet"))
    }

    #[test]
    fn every_setting_is_read_again_from_what_it_made() {
        let other = |setting: &Setting| match setting.default.parse::<u16>() {
            _ if setting.brings.is_some() => "true".to_owned(),
            Ok(number) => (number + 1).to_string(),
            Err(_) => format!("/other/{}", setting.key),
        };
        let chosen: Vec<(&'static str, String)> =
            SETTINGS.iter().map(|setting| (setting.key, other(setting))).collect();
        let standing = of(&put_all(&chosen).unwrap());
        assert_eq!(standing.absent, [""; 0], "a setting has a place in the manifests that is not looked at");
        assert_eq!(standing.settings, chosen);
        let defaults = of(&put_all(&[]).unwrap());
        // Without the quotes that an empty one has in YAML.
        let default = |setting: &Setting| setting.default.trim_matches('"').to_owned();
        let expected: Vec<_> = SETTINGS.iter().map(|setting| (setting.key, default(setting))).collect();
        assert_eq!(defaults.settings, expected);
    }
}
