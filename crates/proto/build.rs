//! Compiles `proto/cipherform.proto` with a protobuf compiler written in Rust: no `protoc` on any machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let file = root.join("cipherform.proto");
    println!("cargo::rerun-if-changed={}", file.display());
    let descriptors = protox::compile([&file], [&root])?;
    tonic_prost_build::configure()
        // `bytes` fields are views into the received frame, not copies.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
