use super::*;

fn tree(text: &str) -> Tree {
    parse(&documents(text)[0]).unwrap()
}

#[test]
fn a_file_is_cut_where_yaml_says() {
    let text = "\u{feff}# head\n---\na: 1\n--- # more\nb: |\n  --- not here\n...\n%YAML 1.2\n---\n# nothing\n---\n{c: 3}";
    let found = documents(text);
    let shape: Vec<_> = found.iter().map(|d| (d.number, d.first_line)).collect();
    assert_eq!(shape, [(1, 2), (2, 4), (3, 11)]);
    assert_eq!(parse(&found[1]).unwrap().get("b").unwrap().text(), Some("--- not here\n"));
    assert!(documents("").is_empty());
    assert!(documents("---\n---\n# nothing\n").is_empty());
    assert_eq!(documents("a: 1\r\n---\r\nb: 2\r\n").len(), 2);
}

#[test]
fn every_value_knows_its_place_in_the_file() {
    let text = "x: 1\n---\nmetadata:\n  name: shop\n  labels: {app: web}\nitems:\n- one\n- two: 2\n";
    let tree = parse(&documents(text)[1]).unwrap();
    let place = |tree: &Tree| (tree.line, tree.column);
    let metadata = Field::ROOT.key("metadata");
    assert_eq!(place(tree.nearest(&metadata.key("name"))), (4, 9));
    assert_eq!(place(tree.nearest(&metadata.key("labels").key("app"))), (5, 17));
    let items = Field::ROOT.key("items");
    assert_eq!(place(tree.nearest(&items.index(1).key("two"))), (8, 8));
    // What is not there is where it would be.
    assert_eq!(place(tree.nearest(&metadata.key("missing"))), (4, 3));
}

#[test]
fn scalars_are_what_kubernetes_takes_them_for() {
    let tree = tree("a: yes\nb: true\nc: 8080\nd: '8080'\ne:\nf: 1.5\n8080: g\nh: 18446744073709551615\n");
    let value = |key: &str| tree.get(key).unwrap().value.clone();
    assert_eq!(value("a"), Value::Text("yes".to_owned()));
    assert_eq!(value("b"), Value::Bool(true));
    assert_eq!(value("c"), Value::Integer(8080));
    assert_eq!(value("d"), Value::Text("8080".to_owned()));
    assert_eq!(value("e"), Value::Null);
    assert_eq!(value("f"), Value::Float(1.5));
    assert_eq!(value("8080"), Value::Text("g".to_owned()));
    assert_eq!(value("h"), Value::Unsigned(u64::MAX));
}

#[test]
fn json_with_tabs_is_read_too() {
    let tree = tree("{\n\t\"kind\": \"Pod\",\n\t\"list\": [1, null,\n\t\ttrue]\n}\n");
    assert_eq!(tree.get("kind").unwrap().text(), Some("Pod"));
    assert_eq!(tree.get("kind").unwrap().line, 2);
}

#[test]
fn an_error_names_its_line_in_the_file() {
    for (text, line) in
        [("a: 1\n---\nb: [1, 2\nc: 3\n", 4), ("a: 1\n---\nb: 1\nb: 2\n", 4), ("a: 1\n---\nb: *nowhere\n", 3)]
    {
        let error = parse(&documents(text)[1]).unwrap_err();
        assert!(error.line.is_some_and(|found| found.abs_diff(line) <= 1), "{text:?}: {error:?}");
        assert!(!error.message.contains(" at line ") && !error.message.contains("line 2"), "{error:?}");
    }
}

#[test]
fn bombs_end_early() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let parts = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{parts}]\n"));
    }
    let parsed = |text: &str| with_stack(|| parse(&documents(text)[0])).unwrap();
    assert!(parsed(&bomb).is_err());
    let flow = |depth: usize| format!("{}x{}", "[".repeat(depth), "]".repeat(depth));
    let block =
        |depth: usize| (0..depth).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect::<String>();
    assert!(parsed(&flow(60)).is_ok() && parsed(&block(60)).is_ok());
    assert!(parsed(&flow(500)).is_err() && parsed(&block(500)).is_err());
}
