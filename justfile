# One door to everything that is done with this repository. Each recipe is a plain command that works without `just`, too.

# What there is
default:
    @just --list

# Format, lints and documents, as CI holds them
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# All tests; `just test -p aquifer-model` only some
test *ARGS='--workspace':
    cargo test {{ARGS}}

# The mesh at work on this machine, as root; `just demo --keep` leaves it standing
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# Side by side with HAProxy and Envoy, as root; `just bench --write` keeps the table in benches/RESULTS.md
bench *ARGS:
    cargo bench --workspace --bench dataplane -- {{ARGS}}

# Ratios to Envoy beside those of benches/baseline.json; fails where a row lost more than 15 %
bench-gate *ARGS:
    cargo bench --workspace --bench dataplane -- --gate {{ARGS}}

# The baseline of `just bench-gate`, from a run on this machine
bench-baseline *ARGS:
    cargo bench --workspace --bench dataplane -- --write-baseline {{ARGS}}

# Memory and times that have a goal in absolute figures; `--write` keeps the table in benches/RESULTS.md
bench-limits *ARGS:
    cargo bench --workspace --bench dataplane -- --limits {{ARGS}}

# How figures change with connections and workloads; `--write` keeps tables and charts in benches
bench-growth *ARGS:
    cargo bench --workspace --bench dataplane -- --growth {{ARGS}}

# What a change of a large mesh costs a controller and 100 nodes; `--write` keeps the table in benches/RESULTS.md
bench-discovery *ARGS:
    cargo bench --workspace --bench discovery -- {{ARGS}}

# Every fuzz target for some seconds, on stable
fuzz SECONDS='10':
    AQUIFER_FUZZ_SECONDS={{SECONDS}} cargo test --package aquifer-integration --test fuzz -- --nocapture

# One fuzz target with coverage, until it is stopped (needs nightly and `cargo install cargo-fuzz`)
fuzz-deep TARGET:
    cargo +nightly fuzz run --fuzz-dir integration/fuzz {{TARGET}}

# What CI runs
ci:
    .ci/run

# The programs of a test cluster (Kubernetes, etcd, CoreDNS; Helm and the Gateway API's conformance suite) from their Go modules, once
cluster-build:
    python3 integration/cluster build

# A real two-node Kubernetes on this machine, as root; images of target/ on its nodes: `just cluster-up target/image.tar`
cluster-up *IMAGES:
    python3 integration/cluster up {{IMAGES}}

# Ends it, and leaves nothing
cluster-down:
    python3 integration/cluster down

# The scenarios on the cluster that runs, with the program of `just image`
cluster-test *SCENARIOS:
    python3 integration/cluster test target/image/x86_64-unknown-linux-gnu/release/aquifer {{SCENARIOS}}

# The image of all pods of the mesh, without Docker: target/image.tar, static, from a release build
image:
    deploy/image.sh

# What the mesh costs users at each step of its life, on a cluster that runs without a mesh: some eight minutes
cluster-measure:
    python3 integration/cluster measure target/image/x86_64-unknown-linux-gnu/release/aquifer
