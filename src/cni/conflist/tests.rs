use proptest::prelude::*;
use serde_json::json;

use super::*;

fn ours() -> Map<String, Value> {
    let Value::Object(map) = json!({"socket": "/run/aquifer/cni.sock"}) else { unreachable!() };
    map
}

fn types(text: &[u8]) -> Vec<String> {
    let value: Value = serde_json::from_slice(text).unwrap();
    let plugins = value["plugins"].as_array().unwrap();
    plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_plugin_comes_last_once_and_goes_without_a_trace() {
    let before =
        json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}, {"type": "portmap"}]});
    let text = serde_json::to_vec(&before).unwrap();
    let inserted = insert(&text, &ours()).unwrap().unwrap();
    assert!(!inserted.converted);
    assert_eq!(types(&inserted.text), ["bridge", "portmap", TYPE]);
    assert_eq!(insert(&inserted.text, &ours()), Ok(None));
    let after: Value = serde_json::from_slice(&remove(&inserted.text).unwrap().unwrap()).unwrap();
    assert_eq!(after, before);
    assert_eq!(remove(&text), Ok(None));
}

#[test]
fn an_old_or_misplaced_entry_is_replaced() {
    let text = json!({"name": "net", "plugins": [{"type": TYPE, "socket": "/old"}, {"type": "bridge"}, {"type": TYPE}]});
    let inserted = insert(text.to_string().as_bytes(), &ours()).unwrap().unwrap();
    assert_eq!(types(&inserted.text), ["bridge", TYPE]);
}

#[test]
fn one_plugin_becomes_a_list() {
    let text = json!({"cniVersion": "0.4.0", "name": "net", "type": "bridge", "bridge": "cni0"}).to_string();
    let inserted = insert(text.as_bytes(), &ours()).unwrap().unwrap();
    assert!(inserted.converted);
    let value: Value = serde_json::from_slice(&inserted.text).unwrap();
    assert_eq!(value["cniVersion"], "0.4.0");
    assert_eq!(value["plugins"][0], json!({"type": "bridge", "bridge": "cni0"}));
    assert_eq!(types(&inserted.text), ["bridge", TYPE]);
    assert_eq!(list_name("10-net.conf"), "10-net.conflist");
}

#[test]
fn what_is_no_network_is_left_alone() {
    for text in [
        "",
        "{",
        "[]",
        "{}",
        r#"{"name":"x"}"#,
        r#"{"name":"x","plugins":{}}"#,
        r#"{"name":"x","plugins":[]}"#,
    ] {
        assert!(insert(text.as_bytes(), &ours()).is_err(), "{text}");
    }
}

#[test]
fn the_first_file_that_a_runtime_reads_counts() {
    assert_eq!(
        first(["20-b.conflist", "10-a.conf", "05-x.conf.before-aquifer", "aquifer.d", ".conf"]),
        Some("10-a.conf")
    );
    assert_eq!(first(["README", "x.yaml"]), None);
}

proptest! {
    #[test]
    fn whatever_else_the_file_says_stays(names in prop::collection::vec("[a-z]{1,8}", 1..5), key in "[a-z]{1,6}", value in any::<u32>()) {
        let plugins: Vec<_> = names.iter().map(|name| json!({"type": name, &key: value})).collect();
        let before = json!({"name": "net", "plugins": plugins, "x": value});
        let inserted = insert(before.to_string().as_bytes(), &ours()).unwrap().unwrap();
        prop_assert!(contains(&inserted.text));
        let after: Value = serde_json::from_slice(&remove(&inserted.text).unwrap().unwrap()).unwrap();
        prop_assert_eq!(after, before);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(Some(inserted)) = insert(&bytes, &ours()) {
            prop_assert_eq!(insert(&inserted.text, &ours()), Ok(None));
        }
    }
}
