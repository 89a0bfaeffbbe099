//! How the processes of a two-party run find and recognise each other.

use anyhow::{Context as _, Result, bail};
use cipherform_client::connect_peer;
use cipherform_mpc::{Channel, Identity, PublicKey};
use cipherform_server::accept_peer;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where a party is: `IP:PORT` for TLS (or TCP), `grpc://IP:PORT` for a gRPC stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    socket: SocketAddr,
    grpc: bool,
}

impl FromStr for Address {
    type Err = std::net::AddrParseError;

    fn from_str(s: &str) -> std::result::Result<Self, Self::Err> {
        let (socket, grpc) = match s.strip_prefix("grpc://") {
            Some(rest) => (rest, true),
            None => (s, false),
        };
        Ok(Self { socket: socket.parse()?, grpc })
    }
}

/// A party that waits.
pub(super) struct Waiting {
    listener: TcpListener,
    grpc: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Security {
    /// This process's identity made by `identity`.
    #[arg(long, conflicts_with = "insecure")]
    identity: Option<PathBuf>,
    /// Speak TCP, or gRPC, without TLS: for one machine, or inside a tunnel.
    #[arg(long)]
    insecure: bool,
    /// Longest wait for another process, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    deadline: u64,
}

/// Why keys cannot be pinned.
const NO_TLS: &str =
    "gRPC has no TLS here: pass --insecure, and protect it by a tunnel or a proxy at each end";

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

    pub(super) fn connect(&self, to: Address, key: Option<&PublicKey>) -> Result<Channel> {
        Ok(match (self.pinned(key)?, to) {
            (Some(_), Address { grpc: true, .. }) => bail!(NO_TLS),
            (None, Address { grpc: true, socket }) => connect_peer(socket, self.deadline())?,
            (Some((own, key)), Address { socket, .. }) => {
                Channel::tls_connect(socket, &own, key, self.deadline())?
            }
            (None, Address { socket, .. }) => Channel::tcp_connect(socket, self.deadline())?,
        })
    }

    pub(super) fn accept(&self, at: &Waiting, key: Option<&PublicKey>) -> Result<Channel> {
        let Waiting { listener, grpc } = at;
        Ok(match (self.pinned(key)?, grpc) {
            (Some(_), true) => bail!(NO_TLS),
            (None, true) => accept_peer(listener, self.deadline())?,
            (Some((own, key)), _) => Channel::tls_accept(listener, &own, key, self.deadline())?,
            (None, false) => Channel::tcp_accept(listener, self.deadline())?,
        })
    }
}

/// Listens on `address` and says where.
pub(super) fn listen(what: &str, Address { socket, grpc }: Address) -> Result<Waiting> {
    let listener =
        TcpListener::bind(socket).with_context(|| format!("cannot listen on {socket}"))?;
    let scheme = if grpc { "grpc://" } else { "" };
    println!("{what}listening on {scheme}{}", listener.local_addr()?);
    Ok(Waiting { listener, grpc })
}
