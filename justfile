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
    cargo bench --package aquifer-benches --bench dataplane -- {{ARGS}}

# Every fuzz target for some seconds, on stable
fuzz SECONDS='10':
    AQUIFER_FUZZ_SECONDS={{SECONDS}} cargo test --package aquifer-integration --test fuzz -- --nocapture

# One fuzz target with coverage, until it is stopped (needs nightly and `cargo install cargo-fuzz`)
fuzz-deep TARGET:
    cargo +nightly fuzz run --fuzz-dir integration/fuzz {{TARGET}}

# What CI runs
ci:
    .ci/run
