# The image of all pods of the mesh; `just image` makes the same without Docker.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN RUSTFLAGS="-C target-feature=+crt-static -C strip=symbols" cargo build --release --locked --package aquifer --package aquifer-cni --target x86_64-unknown-linux-gnu

FROM scratch
COPY --from=build /src/target/x86_64-unknown-linux-gnu/release/aquifer /aquifer
COPY --from=build /src/target/x86_64-unknown-linux-gnu/release/aquifer-cni /aquifer-cni
ENTRYPOINT ["/aquifer"]
