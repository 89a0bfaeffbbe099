//! `cipherform mpc identity`.

use anyhow::{Context as _, Result};
use cipherform_mpc::Identity;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// File to create, readable by its owner alone; an existing one is never overwritten.
    #[arg(long)]
    out: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<()> {
    let identity = Identity::random(&mut super::entropy()?)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file =
        options.open(&args.out).with_context(|| format!("cannot create {}", args.out.display()))?;
    file.write_all(identity.expose_secret().as_bytes())?;
    println!("{}", identity.public_key());
    Ok(())
}

pub(super) fn load(path: &Path) -> Result<Identity> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Identity::from_secret(&text)?)
}
