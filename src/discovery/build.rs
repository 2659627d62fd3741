//! Compiles the protocols of discovery, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["discovery.proto", "mesh.proto", "workload.proto", "authorization.proto"];
    let files = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".envoy.service.discovery.v3.Any.value")
        // Versions are made of the bytes, so equal messages have equal ones.
        .btree_map(".istio.workload.Workload.services")
        .compile_fds(files)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
