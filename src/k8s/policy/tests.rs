use super::*;

fn policy(spec: &str) -> Result<AuthorizationPolicy, serde_json::Error> {
    serde_json::from_str(&format!(
        r#"{{"apiVersion":"aquifer.dev/v1alpha1","kind":"AuthorizationPolicy","metadata":{{"name":"p"}},"spec":{spec}}}"#
    ))
}

#[test]
fn every_field_of_istio_is_known() {
    let lists =
        |names: &[&str]| names.iter().map(|n| format!(r#""{n}":["x"]"#)).collect::<Vec<_>>().join(",");
    let source = lists(&[
        "principals",
        "notPrincipals",
        "requestPrincipals",
        "notRequestPrincipals",
        "namespaces",
        "notNamespaces",
        "serviceAccounts",
        "notServiceAccounts",
        "ipBlocks",
        "notIpBlocks",
        "remoteIpBlocks",
        "notRemoteIpBlocks",
    ]);
    let operation =
        lists(&["hosts", "notHosts", "ports", "notPorts", "methods", "notMethods", "paths", "notPaths"]);
    let read = policy(&format!(
        r#"{{"selector":{{"matchLabels":{{"app":"web"}}}},"targetRef":{{"kind":"Service","name":"s"}},
            "targetRefs":[{{"group":"","kind":"Service","name":"s","namespace":"n"}}],"action":"DENY",
            "provider":{{"name":"opa"}},
            "rules":[{{"from":[{{"source":{{{source}}}}}],"to":[{{"operation":{{{operation}}}}}],
                      "when":[{{"key":"source.ip","values":["x"],"notValues":["y"]}}]}}]}}"#
    ))
    .unwrap();
    let rule = &read.spec.rules[0];
    assert_eq!(rule.from[0].source.not_remote_ip_blocks, ["x"]);
    assert_eq!(rule.to[0].operation.not_paths, ["x"]);
    assert_eq!(rule.when[0].not_values, ["y"]);
    assert_eq!(read.spec.target_refs[0].namespace.as_deref(), Some("n"));
}

#[test]
fn a_typo_is_an_error_at_every_depth() {
    for spec in [
        r#"{"rulez":[]}"#,
        r#"{"selector":{"matchLabel":{}}}"#,
        r#"{"rules":[{"form":[]}]}"#,
        r#"{"rules":[{"from":[{"sauce":{}}]}]}"#,
        r#"{"rules":[{"from":[{"source":{"principles":["x"]}}]}]}"#,
        r#"{"rules":[{"to":[{"operation":{"port":["80"]}}]}]}"#,
        r#"{"rules":[{"when":[{"key":"source.ip","value":["x"]}]}]}"#,
        r#"{"targetRefs":[{"kind":"Service","name":"s","sectionName":"x"}]}"#,
    ] {
        let error = policy(spec).unwrap_err().to_string();
        assert!(error.contains("unknown field"), "{spec}: {error}");
    }
}

#[test]
fn a_list_that_restricts_is_not_written_empty() {
    for spec in [
        r#"{"rules":[{"from":[]}]}"#,
        r#"{"rules":[{"from":null}]}"#,
        r#"{"rules":[{"from":[{"source":{"principals":[]}}]}]}"#,
        r#"{"rules":[{"to":[{"operation":{"ports":[]}}]}]}"#,
    ] {
        let error = policy(spec).unwrap_err().to_string();
        assert!(error.contains("the list is empty"), "{spec}: {error}");
    }
    assert!(policy(r#"{"rules":null}"#).unwrap().spec.rules.is_empty());
    assert_eq!(policy(r#"{"rules":[{}]}"#).unwrap().spec.rules, [Rule::default()]);
}

#[test]
fn a_peer_authentication_has_modes_by_port() {
    let read: PeerAuthentication = serde_json::from_str(
        r#"{"apiVersion":"security.istio.io/v1","kind":"PeerAuthentication","metadata":{"name":"p"},
            "spec":{"mtls":{"mode":"STRICT"},"portLevelMtls":{"8080":{"mode":"DISABLE"}}},"status":{"x":1}}"#,
    )
    .unwrap();
    assert_eq!(read.spec.mtls.unwrap().mode.as_deref(), Some("STRICT"));
    assert_eq!(read.spec.port_level_mtls["8080"].mode.as_deref(), Some("DISABLE"));
    let wrong = r#"{"apiVersion":"a","kind":"b","metadata":{},"spec":{"mtls":{"mod":"STRICT"}}}"#;
    assert!(serde_json::from_str::<PeerAuthentication>(wrong).is_err());
}
