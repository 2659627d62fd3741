//! What the design says about the whole repository, held by a machine: who may use whom, where `unsafe` may stand, which licences come in,
//! how long a file may be, and that the documents name what exists.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// Longest source file, lines.
const LONGEST: usize = 600;

/// Which crates of ours each crate may use, in its library or program. ARCHITECTURE.md has the same table with reasons. Tests and
/// benches may use more (dev-dependencies), but never another role.
const MAY_USE: &[(&str, &[&str])] = &[
    ("aquifer-model", &[]),
    ("aquifer-sys", &[]),
    ("aquifer-k8s", &[]),
    ("aquifer-telemetry", &["aquifer-model"]),
    ("aquifer-cni", &[]),
    ("aquifer-pki", &["aquifer-model"]),
    ("aquifer-hbone", &[]),
    ("aquifer-source", &["aquifer-k8s", "aquifer-model", "aquifer-telemetry"]),
    ("aquifer-discovery", &["aquifer-model"]),
    (
        "aquifer-controller",
        &[
            "aquifer-discovery",
            "aquifer-k8s",
            "aquifer-model",
            "aquifer-pki",
            "aquifer-source",
            "aquifer-telemetry",
        ],
    ),
    (
        "aquifer-ztunnel-like",
        &[
            "aquifer-cni",
            "aquifer-discovery",
            "aquifer-hbone",
            "aquifer-model",
            "aquifer-pki",
            "aquifer-source",
            "aquifer-sys",
            "aquifer-telemetry",
        ],
    ),
    ("aquifer-integration", &["aquifer-sys"]),
    (
        "aquifer",
        &[
            "aquifer-controller",
            "aquifer-discovery",
            "aquifer-hbone",
            "aquifer-integration",
            "aquifer-k8s",
            "aquifer-model",
            "aquifer-pki",
            "aquifer-source",
            "aquifer-sys",
            "aquifer-telemetry",
            "aquifer-ztunnel-like",
        ],
    ),
    ("aquifer-benches", &["aquifer-discovery", "aquifer-integration", "aquifer-model", "aquifer-sys"]),
];

/// Who may use a role: what starts it, and the tests of all together.
const MAY_USE_ROLES: &[&str] = &["aquifer", "aquifer-integration"];
const ROLES: &[&str] = &["aquifer-controller", "aquifer-ztunnel-like"];

/// Packages that must not come in, and why.
const BANNED: &[(&str, &str)] = &[
    ("openssl", "one crypto provider only: aws-lc-rs"),
    ("native-tls", "one crypto provider only: aws-lc-rs"),
    ("serde_yaml", "deprecated, and it gives no positions"),
];

#[test]
fn crates_use_only_what_the_layout_allows() {
    let allowed: BTreeMap<_, BTreeSet<_>> =
        MAY_USE.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    for package in members() {
        let name = text(package, "name");
        let Some(allowed) = allowed.get(name) else {
            panic!("{name} is no crate of the layout: give it a row in MAY_USE and in ARCHITECTURE.md")
        };
        for (dependency, kind) in dependencies(package).filter(|(name, _)| name.starts_with("aquifer")) {
            let dev = kind == Some("dev");
            assert!(
                dev || allowed.contains(dependency),
                "{name} uses {dependency}, which the layout forbids"
            );
            let role = ROLES.contains(&dependency);
            assert!(!role || MAY_USE_ROLES.contains(&name), "{name} uses the role {dependency}");
        }
    }
    assert_eq!(members().count(), MAY_USE.len(), "a row of MAY_USE is about a crate that is gone");
}

#[test]
fn the_pure_crate_has_no_clock_no_runtime_and_no_io() {
    let model = member("aquifer-model");
    let used: BTreeSet<_> =
        dependencies(model).filter(|(_, kind)| *kind != Some("dev")).map(|(n, _)| n).collect();
    for forbidden in ["tokio", "nix", "libc", "socket2", "fastrand", "rand", "tracing"] {
        assert!(!used.contains(forbidden), "aquifer-model uses {forbidden}");
    }
    for (path, source) in sources("src/model") {
        for forbidden in ["std::net::Tcp", "std::fs", "Instant::now", "SystemTime::now", "std::env"] {
            assert!(!source.contains(forbidden), "{} says {forbidden}", path.display());
        }
    }
}

#[test]
fn libraries_have_errors_of_their_own() {
    // What runs as a program, or is a test bed, may gather errors with anyhow.
    let programs =
        ["aquifer", "aquifer-controller", "aquifer-ztunnel-like", "aquifer-integration", "aquifer-benches"];
    for package in members().filter(|package| !programs.contains(&text(package, "name"))) {
        let found = dependencies(package).any(|(name, kind)| name == "anyhow" && kind != Some("dev"));
        assert!(!found, "{} is a library: its errors are thiserror enums", text(package, "name"));
    }
}

#[test]
fn only_sys_has_unsafe_code() {
    for package in members() {
        let folder = folder(package);
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{} does not take the lints of the workspace, which deny unsafe code",
            text(package, "name")
        );
    }
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("unsafe_code = \"deny\""), "the workspace does not deny unsafe code");
    for (path, source) in sources("") {
        let this = path.ends_with("integration/tests/layering.rs");
        let exempt = path.starts_with(root().join("src/sys")) || this;
        assert!(exempt || !source.contains("unsafe_code"), "{} lifts the ban on unsafe code", path.display());
    }
    for (path, source) in sources("src/sys") {
        let lines: Vec<_> = source.lines().collect();
        for at in lines.iter().enumerate().filter(|(_, line)| is_unsafe(line)).map(|(at, _)| at) {
            let before = &lines[at.saturating_sub(8)..=at];
            let reason = before.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            assert!(reason, "{}:{}: unsafe without `// SAFETY:`", path.display(), at + 1);
        }
    }
}

#[test]
fn third_party_code_comes_under_licences_of_the_list() {
    let allowed = allowed_licences();
    let mut seen = 0;
    for package in packages().iter().filter(|package| !package["source"].is_null()) {
        seen += 1;
        let name = text(package, "name");
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(permits(licence, &allowed), "{name}: licence {licence:?} is not allowed by deny.toml");
    }
    assert!(seen > 100, "only {seen} packages were looked at");
}

/// What is built, that is: the lock file also has optional packages that no feature turns on.
#[test]
fn banned_packages_are_not_built() {
    let tree = cargo(&["tree", "--workspace", "--edges", "all", "--prefix", "none", "--format", "{p}"]);
    let built: BTreeSet<_> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(built.contains("aws-lc-rs"), "the tree was not understood");
    for (name, why) in BANNED {
        assert!(!built.contains(name), "{name} came in: {why}");
    }
}

/// It seals and opens a tunnel's records on some processors; TLS, certificates and all else have one provider, aws-lc-rs.
#[test]
fn ring_is_used_by_the_tunnel_alone() {
    let tree = cargo(&[
        "tree",
        "--workspace",
        "--invert",
        "ring",
        "--depth",
        "1",
        "--edges",
        "all",
        "--prefix",
        "none",
        "--format",
        "{p}",
        "--target",
        "all",
    ]);
    let users: BTreeSet<_> = tree.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(users, BTreeSet::from(["aquifer-hbone"]));
}

#[test]
fn source_files_are_short_and_say_what_they_promise() {
    for (path, source) in sources("") {
        let lines = source.lines().count();
        assert!(lines <= LONGEST, "{} has {lines} lines, more than {LONGEST}: split it", path.display());
        let tests = path.file_name().is_some_and(|name| name == "tests.rs");
        assert!(tests || source.starts_with("//!"), "{} does not begin with `//!`", path.display());
    }
}

#[test]
fn the_readme_has_every_metric() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for metric in aquifer_telemetry::METRICS {
        assert!(readme.contains(&format!("`{}`", metric.name)), "README.md does not mention {}", metric.name);
    }
}

#[test]
fn the_architecture_names_only_what_exists() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut folder = String::new();
    let mut named = BTreeSet::new();
    for line in text.lines() {
        // The code map: a heading names the crate's folder, a row of its table begins with a file in it.
        if let Some(heading) = line.strip_prefix("### `") {
            folder = heading.split('`').next().unwrap_or_default().to_owned();
            assert!(root().join(&folder).is_dir(), "ARCHITECTURE.md has a heading for {folder}");
        } else if let Some(row) = line.strip_prefix("| `") {
            let files = row.split(" | ").next().unwrap_or_default();
            for file in files.split('`').filter(|part| part.ends_with(".rs") || part.ends_with('/')) {
                let path = root().join(&folder).join(file);
                assert!(path.exists(), "ARCHITECTURE.md names {}", path.display());
                named.insert(folder.clone());
            }
        }
    }
    for package in members() {
        let path = self::folder(package);
        let folder = path.strip_prefix(root()).unwrap().to_str().unwrap();
        assert!(named.contains(folder), "ARCHITECTURE.md has no code map of {folder}");
    }
}

#[test]
fn licence_expressions_are_understood() {
    let allowed =
        BTreeSet::from(["MIT".to_owned(), "ISC".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()]);
    for yes in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "ISC AND (GPL-2.0 OR MIT)",
        "(MIT) AND ISC",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(permits(yes, &allowed), "{yes}");
    }
    for no in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "ISC AND (GPL-2.0 OR Apache-2.0)", "Apache-2.0", "MIT OR", "(MIT"]
    {
        assert!(!permits(no, &allowed), "{no}");
    }
}

/// Whether an SPDX expression can be fulfilled with licences of the list. A slash is the older way to write OR. What is no
/// expression permits nothing.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    alternatives(&mut rest, allowed).unwrap_or(false) && rest.is_empty()
}

fn alternatives(rest: &mut &[&str], allowed: &BTreeSet<String>) -> Option<bool> {
    let mut any = all(rest, allowed)?;
    while take(rest, "OR") {
        any |= all(rest, allowed)?;
    }
    Some(any)
}

fn all(rest: &mut &[&str], allowed: &BTreeSet<String>) -> Option<bool> {
    let mut every = one(rest, allowed)?;
    while take(rest, "AND") {
        every &= one(rest, allowed)?;
    }
    Some(every)
}

fn one(rest: &mut &[&str], allowed: &BTreeSet<String>) -> Option<bool> {
    if take(rest, "(") {
        let inner = alternatives(rest, allowed)?;
        return take(rest, ")").then_some(inner);
    }
    let (name, after) = rest.split_first()?;
    *rest = after;
    if ["AND", "OR", "WITH", ")"].contains(name) {
        return None;
    }
    if take(rest, "WITH") {
        let (exception, after) = rest.split_first()?;
        *rest = after;
        return Some(allowed.contains(&format!("{name} WITH {exception}")));
    }
    Some(allowed.contains(*name))
}

fn take(rest: &mut &[&str], word: &str) -> bool {
    let found = rest.first() == Some(&word);
    if found {
        *rest = &rest[1..];
    }
    found
}

/// The `allow` list of `[licenses]` in deny.toml, the one place where it is written.
fn allowed_licences() -> BTreeSet<String> {
    let text = fs::read_to_string(root().join("deny.toml")).unwrap();
    let section = text.split("[licenses]").nth(1).unwrap();
    let list = section.split("allow = [").nth(1).and_then(|list| list.split(']').next());
    let list: BTreeSet<_> = list.unwrap().split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(list.contains("MIT"), "the list was not understood: {list:?}");
    list
}

fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|form| code.contains(form))
}

/// All Rust sources below a folder of the repository, but not what builds have put there.
fn sources(below: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                let source = fs::read_to_string(&path).unwrap();
                found.push((path, source));
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {below:?}");
    found
}

/// What cargo knows of this workspace, for the machine that runs the test.
fn metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let text = cargo(&["metadata", "--format-version", "1", "--filter-platform", &platform]);
        serde_json::from_str(&text).unwrap()
    })
}

/// What a cargo command says about the workspace as it is locked.
fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(arguments).arg("--locked").current_dir(root()).output().unwrap();
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn packages() -> &'static [Value] {
    metadata()["packages"].as_array().unwrap()
}

/// The crates of this repository.
fn members() -> impl Iterator<Item = &'static Value> {
    packages().iter().filter(|package| package["source"].is_null())
}

fn member(name: &str) -> &'static Value {
    members().find(|package| text(package, "name") == name).unwrap()
}

/// Names of a crate's direct dependencies, with their kind: none for ordinary ones, `dev` or `build`.
fn dependencies(package: &'static Value) -> impl Iterator<Item = (&'static str, Option<&'static str>)> {
    let list = package["dependencies"].as_array().unwrap();
    list.iter().map(|dependency| (text(dependency, "name"), dependency["kind"].as_str()))
}

fn text(value: &'static Value, key: &str) -> &'static str {
    value[key].as_str().unwrap()
}

fn folder(package: &'static Value) -> PathBuf {
    Path::new(text(package, "manifest_path")).parent().unwrap().to_owned()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
