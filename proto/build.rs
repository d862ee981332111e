//! Compiles every `.proto` in pure Rust (protox), so that no `protoc` is needed to build.

/// Messages with a private key or a bearer token in them: they do not print what they hold (see `src/secret.rs`).
const SECRET: [&str; 8] = [
    ".X509SVID",
    ".JWTSVID",
    ".signet.v1.IssuedJwtSvid",
    ".signet.v1.ExchangeRequest",
    ".signet.v1.GrantedToken",
    ".envoy.config.core.v3.DataSource",
    ".envoy.service.discovery.v3.DiscoveryResponse",
    ".envoy.service.discovery.v3.Resource",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "signet/v1/identity.proto",
        "signet/v1/delivery.proto",
        "signet/v1/operator.proto",
        "istio/v1/auth/ca.proto",
        "signet/v1/people.proto",
        "signet/v1/audit.proto",
        "signet/v1/rotation.proto",
        "signet/v1/roots.proto",
        "signet/v1/recovery.proto",
        "spiffe/workload.proto",
        "envoy/service/secret/v3/sds.proto",
        "envoy/extensions/transport_sockets/tls/v3/secret.proto",
        "envoy/service/auth/v3/external_auth.proto",
        "signet/v1/federation.proto",
        "signet/v1/process.proto",
        "signet/v1/exchange.proto",
    ];
    for file in &files {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["."])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    std::fs::write(out.join("signet.v1.bin"), prost::Message::encode_to_vec(&descriptors))?;
    // Ordered maps: a resource's version is a digest of its encoding, which must not depend on a hash seed.
    // No `connect` in the clients: connections are our own, and the data plane then needs no tonic transport.
    tonic_prost_build::configure()
        .btree_map(".")
        .build_transport(false)
        .skip_debug(SECRET)
        .compile_fds(descriptors)?;
    Ok(())
}
