//! Compiles the protocols of discovery, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["discovery.proto", "mesh.proto"], ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".envoy.service.discovery.v3.Any.value")
        .compile_fds(files)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
