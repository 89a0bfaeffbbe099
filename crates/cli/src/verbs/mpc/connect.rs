//! How the processes of a two-party run find and recognise each other.

use anyhow::{Context as _, Result, bail};
use cipherform_mpc::{Channel, Identity, PublicKey};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(super) struct Security {
    /// This process's identity made by `identity`.
    #[arg(long, conflicts_with = "insecure")]
    identity: Option<PathBuf>,
    /// Speak TCP without TLS: for one machine, or inside a tunnel.
    #[arg(long)]
    insecure: bool,
    /// Longest wait for another process, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    deadline: u64,
}

impl Security {
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline)
    }

    /// This process's identity and the other's key; none for TCP without TLS.
    fn pinned<'a>(&self, key: Option<&'a PublicKey>) -> Result<Option<(Identity, &'a PublicKey)>> {
        match (&self.identity, key) {
            (Some(path), Some(key)) => Ok(Some((super::identity::load(path)?, key))),
            (None, None) if self.insecure => Ok(None),
            _ => bail!("pass --identity and the other's key, or --insecure for TCP without TLS"),
        }
    }

    pub(super) fn connect(&self, to: SocketAddr, key: Option<&PublicKey>) -> Result<Channel> {
        Ok(match self.pinned(key)? {
            Some((own, key)) => Channel::tls_connect(to, &own, key, self.deadline())?,
            None => Channel::tcp_connect(to, self.deadline())?,
        })
    }

    pub(super) fn accept(&self, at: &TcpListener, key: Option<&PublicKey>) -> Result<Channel> {
        Ok(match self.pinned(key)? {
            Some((own, key)) => Channel::tls_accept(at, &own, key, self.deadline())?,
            None => Channel::tcp_accept(at, self.deadline())?,
        })
    }
}

/// Listens on `address` and says where.
pub(super) fn listen(what: &str, address: SocketAddr) -> Result<TcpListener> {
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    println!("{what}listening on {}", listener.local_addr()?);
    Ok(listener)
}
