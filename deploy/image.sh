#!/bin/bash
# The image of all pods of the mesh, without Docker: target/image.tar, an OCI archive that holds the static programs of the mesh.
# Cargo's own settings change how it is built: CARGO_PROFILE_RELEASE_LTO=false CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 takes half the time.
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-gnu
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
# For a target that is named, the flags are not those of build scripts.
RUSTFLAGS='-C target-feature=+crt-static -C strip=symbols' CARGO_TARGET_DIR=target/image \
    cargo build --release --package aquifer --package aquifer-cni --target "$target"
python3 deploy/image.py target/image.tar "ghcr.io/aquifer-mesh/aquifer:$version" /aquifer \
    "target/image/$target/release/aquifer=/aquifer" "target/image/$target/release/aquifer-cni=/aquifer-cni"
