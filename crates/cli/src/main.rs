//! The `cipherform` binary.
fn main() {}
