//! Compiles every `.proto` in pure Rust (protox), so that no `protoc` is needed to build.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "signet/v1/identity.proto",
        "signet/v1/delivery.proto",
        "signet/v1/operator.proto",
        "signet/v1/people.proto",
    ];
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    std::fs::write(out.join("signet.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // Ordered maps: a resource's version is a digest of its encoding, which must not depend on a hash seed.
    // No `connect` in the clients: connections are our own, and the data plane then needs no tonic transport.
    tonic_prost_build::configure().btree_map(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
