//! `aquifer install` and `aquifer uninstall`: the manifests of `deploy/`, with what the user chose put in, for kubectl.

mod standing;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::cli::{InstallFlags, UninstallFlags};
pub(crate) use standing::Standing;

/// In the order in which they are applied: each stands on those before it.
const MANIFESTS: [&str; 5] = [
    include_str!("../../deploy/namespace.yaml"),
    include_str!("../../deploy/crds/authorizationpolicies.yaml"),
    include_str!("../../deploy/crds/peerauthentications.yaml"),
    include_str!("../../deploy/controller.yaml"),
    include_str!("../../deploy/node.yaml"),
];

/// Between two documents of a manifest.
const BETWEEN: &str = "\n---\n";

/// The image that this version of the program belongs to, as `deploy/` names it.
pub(crate) const IMAGE: &str = concat!("ghcr.io/aquifer-mesh/aquifer:", env!("CARGO_PKG_VERSION"));

/// A value of the manifests that users choose: a flag here, a value of the Helm chart there.
struct Setting {
    /// Its name in the chart's values.
    key: &'static str,
    /// What the manifests have.
    default: &'static str,
    /// What stands before and after it wherever it is set.
    around: [&'static str; 2],
    /// Of a switch, whose values are `false` and `true`: what else stands in the manifests while it is off, and in its place while on.
    brings: Option<[&'static str; 2]>,
    /// What the user chose.
    chosen: fn(&InstallFlags) -> Option<String>,
}

/// All that users choose, in the order of the chart's values.
const SETTINGS: &[Setting] = &[
    Setting {
        key: "image",
        default: IMAGE,
        around: ["image: ", "\n"],
        brings: None,
        chosen: |flags| flags.image.clone(),
    },
    Setting {
        key: "controllerReplicas",
        default: "2",
        around: ["replicas: ", "\n"],
        brings: None,
        chosen: |flags| flags.controller_replicas.map(|number| number.to_string()),
    },
    Setting {
        key: "trustDomain",
        default: "cluster.local",
        around: ["{name: AQUIFER_TRUST_DOMAIN, value: ", "}\n"],
        brings: None,
        chosen: |flags| flags.trust_domain.clone(),
    },
    Setting {
        key: "clusterId",
        default: "Kubernetes",
        around: ["{name: AQUIFER_CLUSTER_ID, value: ", "}\n"],
        brings: None,
        chosen: |flags| flags.cluster_id.clone(),
    },
    Setting {
        key: "clusterDomain",
        default: "cluster.local",
        around: ["{name: AQUIFER_CLUSTER_DOMAIN, value: ", "}\n"],
        brings: None,
        chosen: |flags| flags.cluster_domain.clone(),
    },
    Setting {
        key: "logFormat",
        default: "text",
        around: ["{name: AQUIFER_LOG_FORMAT, value: ", "}\n"],
        brings: None,
        chosen: |flags| flags.log_format.map(|format| format.to_string()),
    },
    Setting {
        key: "cniConfDir",
        default: "/etc/cni/net.d",
        // The folder of the host, where it is mounted, and what the node is told of it.
        around: [": ", ""],
        brings: None,
        chosen: |flags| flags.cni_conf_dir.clone(),
    },
    Setting {
        key: "cniBinDir",
        default: "/opt/cni/bin",
        // The folder of the host, where it is mounted, and what the node is told of it.
        around: [": ", ""],
        brings: None,
        chosen: |flags| flags.cni_bin_dir.clone(),
    },
    Setting {
        key: "nodeAccount",
        default: "\"\"",
        around: ["{name: AQUIFER_NODE_ACCOUNTS, value: ", "}\n"],
        brings: None,
        chosen: |flags| flags.node_account.clone(),
    },
    Setting {
        key: "untaintNodes",
        default: "false",
        around: ["{name: AQUIFER_UNTAINT_NODES, value: \"", "\"}\n"],
        brings: Some(["rules: []\n", "rules: [{apiGroups: [\"\"], resources: [nodes], verbs: [patch]}]\n"]),
        chosen: |flags| flags.untaint_nodes.then(|| "true".to_owned()),
    },
];

impl Setting {
    /// Puts another text in the place of the default, wherever that stands.
    fn put(&self, text: &str, value: &str) -> String {
        let [before, after] = self.around;
        let text =
            text.replace(&format!("{before}{}{after}", self.default), &format!("{before}{value}{after}"));
        match self.brings {
            Some([off, on]) if value == "true" => text.replace(off, on),
            _ => text,
        }
    }
}

/// Prints what `kubectl apply -f -` takes.
pub(crate) fn install(flags: &InstallFlags) -> anyhow::Result<()> {
    print!("{}", manifests(flags)?);
    Ok(())
}

/// Prints what `kubectl delete -f -` takes.
pub(crate) fn uninstall(flags: &UninstallFlags) {
    print!("{}", removal(flags));
}

/// All objects of the mesh, as one text of YAML documents.
fn manifests(flags: &InstallFlags) -> anyhow::Result<String> {
    let folders = [("--cni-conf-dir", &flags.cni_conf_dir), ("--cni-bin-dir", &flags.cni_bin_dir)];
    for (flag, folder) in folders {
        if folder.as_ref().is_some_and(|folder| !folder.starts_with('/')) {
            bail!("{flag}: write the absolute path of a folder on the nodes");
        }
    }
    for account in flags.node_account.iter().flat_map(|accounts| accounts.split(',')) {
        if !matches!(account.split_once('/'), Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/'))
        {
            bail!("--node-account: {account:?} is no service account: write NAMESPACE/NAME");
        }
    }
    if let Some(domain) = &flags.trust_domain {
        aquifer_model::TrustDomain::new(domain).context("--trust-domain")?;
    }
    let chosen: Vec<(&'static str, String)> =
        SETTINGS.iter().filter_map(|setting| Some((setting.key, (setting.chosen)(flags)?))).collect();
    put_all(&chosen)
}

/// All objects of the mesh, with these values of settings and the defaults of the rest.
pub(crate) fn put_all(values: &[(&'static str, String)]) -> anyhow::Result<String> {
    let mut text = MANIFESTS.map(str::trim_end).join(BETWEEN);
    text.push('\n');
    for setting in SETTINGS {
        let Some((_, value)) = values.iter().find(|(key, _)| *key == setting.key) else { continue };
        let is_number = value.parse::<u16>().is_ok() && setting.default.parse::<u16>().is_ok();
        let value = match setting.brings {
            Some(_) => (value == "true").to_string(),
            // A number stays one; any other text is quoted as YAML and JSON both read it, so that it cannot become more than a value.
            None if is_number => value.clone(),
            None => serde_json::to_string(&value).with_context(|| format!("the value of {}", setting.key))?,
        };
        text = setting.put(&text, &value);
    }
    Ok(text)
}

/// The objects of a text of YAML documents.
pub(crate) fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    serde_saphyr::from_multiple(text).context("the mesh's own manifests cannot be read; please report this")
}

/// The same objects, last first: so each goes before what it stands on, and the namespace takes along what the controller made.
fn removal(flags: &UninstallFlags) -> String {
    let documents = MANIFESTS.iter().flat_map(|manifest| manifest.trim_end().split(BETWEEN));
    let is_kind = |document: &&str| document.contains("\nkind: CustomResourceDefinition");
    let mut kept: Vec<&str> =
        documents.filter(|document| !(flags.keep_policies && is_kind(document))).collect();
    kept.reverse();
    let mut text = kept.join(BETWEEN);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str) -> Vec<Value> {
        super::documents(text).unwrap()
    }

    fn all_values<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::String(text) => found.push(text),
            Value::Array(list) => list.iter().for_each(|value| all_values(value, found)),
            Value::Object(map) => map.values().for_each(|value| all_values(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_choice_arrives_and_only_as_a_value() {
        let flags = InstallFlags {
            image: Some("example.com/aquifer:7".into()),
            trust_domain: Some("my.domain".into()),
            cluster_id: Some("one\", x: \"two".into()),
            cluster_domain: Some("my.cluster".into()),
            log_format: Some(crate::cli::LogFormat::Json),
            controller_replicas: Some(3),
            cni_conf_dir: Some("/etc/other".into()),
            cni_bin_dir: Some("/opt/other".into()),
            node_account: Some("istio-system/ztunnel,other/proxy".into()),
            untaint_nodes: true,
        };
        let found = documents(&manifests(&flags).unwrap());
        assert_eq!(found.len(), documents(&manifests(&InstallFlags::default()).unwrap()).len());
        let mut values = Vec::new();
        found.iter().for_each(|document| all_values(document, &mut values));
        let expected = [
            "example.com/aquifer:7",
            "my.domain",
            "one\", x: \"two",
            "my.cluster",
            "json",
            "/etc/other",
            "/opt/other",
            "istio-system/ztunnel,other/proxy",
            "true",
        ];
        for value in expected {
            assert!(values.contains(&value), "{value} is missing");
        }
        assert!(!values.iter().any(|value| value.starts_with("ghcr.io/aquifer-mesh")));
        assert!(found.iter().any(|document| document["spec"]["replicas"] == 3));
        for wrong in ["ztunnel", "a/b,", "a/b/c"] {
            let flags = InstallFlags { node_account: Some(wrong.into()), ..InstallFlags::default() };
            assert!(manifests(&flags).unwrap_err().to_string().contains("write NAMESPACE/NAME"), "{wrong}");
        }
    }

    #[test]
    fn nodes_may_be_patched_with_the_option_alone() {
        let rules = |flags: &InstallFlags| {
            let found = documents(&manifests(flags).unwrap());
            let all =
                found.iter().flat_map(|document| document["rules"].as_array().cloned().unwrap_or_default());
            let of_nodes = all.filter(|rule| rule["resources"].to_string().contains("\"nodes\""));
            let verbs = of_nodes.flat_map(|rule| rule["verbs"].as_array().cloned().unwrap_or_default());
            verbs.collect::<Vec<Value>>()
        };
        assert_eq!(rules(&InstallFlags::default()), ["list", "watch"]);
        let with = InstallFlags { untaint_nodes: true, ..InstallFlags::default() };
        assert_eq!(rules(&with), ["list", "watch", "patch"]);
    }

    #[test]
    fn every_setting_stands_in_the_manifests() {
        let text = MANIFESTS.join(BETWEEN);
        for setting in SETTINGS {
            assert_ne!(setting.put(&text, "another"), text, "{} is set nowhere", setting.key);
            if let Some([off, _]) = setting.brings {
                assert_eq!(text.matches(off).count(), 1, "{} brings more, or nothing", setting.key);
            }
        }
        assert_eq!(text.matches("image: ").count(), text.matches(&format!("image: {IMAGE}\n")).count());
    }

    /// The chart is made of the manifests, so that both say the same: `AQUIFER_WRITE_CHART=1 cargo test -p aquifer chart` writes it.
    #[test]
    fn the_chart_is_made_of_the_manifests() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/chart");
        let mut files = Vec::new();
        let names = ["namespace", "authorizationpolicies", "peerauthentications", "controller", "node"];
        for (name, manifest) in names.iter().zip(MANIFESTS) {
            let template = SETTINGS.iter().fold(manifest.to_owned(), |text, setting| match setting.brings {
                None => setting.put(&text, &format!("{{{{ .Values.{} | toJson }}}}", setting.key)),
                Some([off, on]) => {
                    let both = format!(
                        "{{{{ if .Values.{} }}}}{}{{{{ else }}}}{}{{{{ end }}}}\n",
                        setting.key,
                        on.trim_end(),
                        off.trim_end()
                    );
                    setting.put(&text, &format!("{{{{ .Values.{} }}}}", setting.key)).replace(off, &both)
                }
            });
            files.push((format!("templates/{name}.yaml"), template));
        }
        let values = SETTINGS.iter().map(|setting| format!("{}: {}\n", setting.key, setting.default));
        let head = "# What `aquifer install` has flags for, under the same names.\n".to_owned();
        files.push(("values.yaml".to_owned(), std::iter::once(head).chain(values).collect()));
        let version = env!("CARGO_PKG_VERSION");
        let chart = format!(
            "apiVersion: v2\nname: aquifer\ndescription: An ambient service mesh. All objects are in the namespace aquifer-system.\n\
             type: application\nversion: {version}\nappVersion: {version}\n"
        );
        files.push(("Chart.yaml".to_owned(), chart));
        for (name, text) in files {
            let path = folder.join(&name);
            if std::env::var_os("AQUIFER_WRITE_CHART").is_some() {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let stands = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                stands == text,
                "deploy/chart/{name} is not what the manifests make: AQUIFER_WRITE_CHART=1 cargo test -p aquifer chart"
            );
        }
    }

    /// What a cluster's administrator expects of pods of this importance.
    #[test]
    fn every_pod_is_planned_for() {
        let found = documents(&manifests(&InstallFlags::default()).unwrap());
        let of_kind = |kind| found.iter().filter(move |document| document["kind"] == kind);
        let workloads: Vec<_> = of_kind("Deployment").chain(of_kind("DaemonSet")).collect();
        assert_eq!(workloads.len(), 2);
        for workload in workloads {
            let (name, pod) = (&workload["metadata"]["name"], &workload["spec"]["template"]["spec"]);
            let class = pod["priorityClassName"].as_str().unwrap_or_default();
            assert!(class.starts_with("system-"), "{name} has the priority class {class:?}");
            for container in pod["containers"].as_array().unwrap() {
                for resource in ["cpu", "memory"] {
                    assert!(
                        container["resources"]["requests"][resource].is_string(),
                        "{name} requests no {resource}"
                    );
                }
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
                assert!(container["readinessProbe"].is_object(), "{name} is never known to be ready");
            }
            let budget = of_kind("PodDisruptionBudget")
                .find(|it| it["spec"]["selector"] == workload["spec"]["selector"]);
            // A drained node keeps the pods of its DaemonSets.
            assert_eq!(budget.is_some(), workload["kind"] == "Deployment", "{name}: budget for disruptions");
        }
    }

    #[test]
    fn what_is_installed_is_uninstalled_the_last_first() {
        let mut installed = documents(&manifests(&InstallFlags::default()).unwrap());
        let removed = documents(&removal(&UninstallFlags { keep_policies: false }));
        installed.reverse();
        assert_eq!(installed, removed);
        assert_eq!(removed.last().unwrap()["kind"], "Namespace");
    }

    #[test]
    fn the_kustomization_has_every_manifest() {
        let kustomization = include_str!("../../deploy/kustomization.yaml");
        for folder in ["", "crds/"] {
            let deploy = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/");
            for file in std::fs::read_dir(format!("{deploy}{folder}")).unwrap() {
                let name = file.unwrap().file_name().into_string().unwrap();
                if name.ends_with(".yaml") && name != "kustomization.yaml" {
                    assert!(
                        kustomization.contains(&format!("- {folder}{name}\n")),
                        "{folder}{name} is missing"
                    );
                }
            }
        }
    }
}
