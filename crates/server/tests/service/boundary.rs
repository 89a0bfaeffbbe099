//! The trust boundary, for those who run the tests but not the lints: no source of the server names what decrypts.

use std::fs;
use std::path::Path;

fn sources(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
}

#[test]
fn the_server_cannot_name_a_secret_key() {
    let mut found = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    assert!(found.len() > 10);
    for (path, text) in &found {
        for word in ["SecretKey", "Decryptor", "KeyGenerator", "cipherform_client"] {
            assert!(!text.contains(word), "{path} names {word}");
        }
    }
    let root = found.iter().find(|(path, _)| path.ends_with("src/lib.rs")).unwrap();
    assert!(root.1.contains("#![deny(clippy::disallowed_types)]"));
    assert!(root.1.contains("#![forbid(unsafe_code)]"));
}

#[test]
fn the_lint_lists_what_the_server_must_not_name() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let lints = fs::read_to_string(workspace.join("clippy.toml")).unwrap();
    for name in ["SecretKey", "Decryptor", "KeyGenerator"] {
        assert!(lints.contains(&format!("cipherform_ckks::{name}")), "{name}");
    }
}
