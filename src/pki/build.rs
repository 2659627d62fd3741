//! Compiles the protocol of the certificate service, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["ca.proto"], ["proto"])?;
    tonic_prost_build::configure().build_transport(false).compile_fds(files)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
