//! What an operator can set.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::time::Duration;

/// Where and how a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address to listen on; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// Serve models with toy parameter sets, which protect nothing. For tests.
    pub allow_insecure: bool,
    /// How long a shutdown waits for the running operator and for open connections, in milliseconds.
    pub grace_ms: u64,
    /// Quotas and expiries.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            allow_insecure: false,
            grace_ms: 5000,
            limits: Limits::default(),
        }
    }
}

/// Quotas and expiries. Bytes are of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Jobs that can wait for the workers.
    pub queue_length: usize,
    /// Jobs of one owner that can wait for the workers.
    pub queued_per_owner: usize,
    /// Jobs remembered for one owner, finished ones included.
    pub jobs_per_owner: usize,
    /// Bytes of all key sets of one device, those put aside included.
    pub key_bytes: u64,
    /// Bytes of the keys that are in a device's memory at once, the others are put aside on the host; by default all on a
    /// CPU, and what the models leave of a card.
    pub resident_key_bytes: Option<u64>,
    /// Key sets of one owner.
    pub key_sets_per_owner: usize,
    /// Bytes of all uploads under way.
    pub upload_bytes: u64,
    /// Uploads under way of one owner.
    pub uploads_per_owner: usize,
    /// Seconds after which an upload that nobody touched is dropped, and a key set that is incomplete and got no new key.
    pub upload_expiry_s: u64,
    /// Seconds after which a complete key set that nobody used is dropped.
    pub key_expiry_s: u64,
    /// Seconds for which a key set is safe from being dropped to make room for another.
    pub key_hold_s: u64,
    /// Seconds after which a finished job is forgotten.
    pub job_expiry_s: u64,
    /// Seconds for which a client stream may be silent.
    pub idle_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_length: 8,
            queued_per_owner: 2,
            jobs_per_owner: 64,
            // A plan that bootstraps has keys of 12 GB.
            key_bytes: 16 << 30,
            resident_key_bytes: None,
            key_sets_per_owner: 4,
            upload_bytes: 1 << 30,
            uploads_per_owner: 64,
            upload_expiry_s: 120,
            key_expiry_s: 3600,
            key_hold_s: 60,
            job_expiry_s: 600,
            idle_s: 30,
        }
    }
}

impl Limits {
    pub(crate) fn upload_expiry(&self) -> Duration {
        Duration::from_secs(self.upload_expiry_s)
    }

    pub(crate) fn key_expiry(&self) -> Duration {
        Duration::from_secs(self.key_expiry_s)
    }

    pub(crate) fn key_hold(&self) -> Duration {
        Duration::from_secs(self.key_hold_s)
    }

    pub(crate) fn job_expiry(&self) -> Duration {
        Duration::from_secs(self.job_expiry_s)
    }

    pub(crate) fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_s)
    }
}
