//! A network emulated at the sender, without privileges.

use super::Outgoing;
use crate::error::{Error, Result};
use std::str::FromStr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// Times that are added to an instant stay below this.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Bandwidth and delay of one direction; both directions are alike and independent.
///
/// A message departs when the one before it has left, occupies the wire for bytes / bandwidth, and arrives one way later.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Network {
    /// Bytes per second in each direction.
    pub bandwidth: f64,
    /// Delay from one party to the other: half the round-trip time.
    pub one_way: Duration,
}

impl Network {
    /// The local network of MPCViT and Cheetah: 384 MB/s, round trip 0.3 ms.
    pub const LAN: Network = Network { bandwidth: 384e6, one_way: Duration::from_micros(150) };
    /// The wide network of MPCViT and Cheetah: 44 MB/s, round trip 40 ms.
    pub const WAN: Network = Network { bandwidth: 44e6, one_way: Duration::from_millis(20) };

    /// How long `bytes` occupy the wire; a year at most.
    #[must_use]
    pub fn transmission(&self, bytes: usize) -> Duration {
        Duration::try_from_secs_f64(bytes as f64 / self.bandwidth).unwrap_or(LONGEST).min(LONGEST)
    }
}

impl FromStr for Network {
    type Err = Error;

    /// `lan`, `wan`, or `RTT,BANDWIDTH` in milliseconds and megabytes per second, e.g. `10,125`.
    fn from_str(s: &str) -> Result<Self> {
        let malformed = || Error::Malformed {
            what: "network",
            detail: format!(
                "`{s}` is not `lan`, `wan` or `RTT,BANDWIDTH` (ms below 10^6, MB/s from 10^-3 to 10^9), e.g. `10,125`"
            ),
        };
        match s {
            "lan" => Ok(Self::LAN),
            "wan" => Ok(Self::WAN),
            _ => {
                let (rtt, rate) = s.split_once(',').ok_or_else(malformed)?;
                let parse =
                    |x: &str| x.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x >= 0.0);
                match (parse(rtt), parse(rate)) {
                    (Some(rtt), Some(rate)) if (1e-3..1e9).contains(&rate) && rtt < 1e6 => {
                        Ok(Self {
                            bandwidth: rate * 1e6,
                            one_way: Duration::from_secs_f64(rtt / 2e3),
                        })
                    }
                    _ => Err(malformed()),
                }
            }
        }
    }
}

/// Messages in flight; more make the sender wait, as a full socket would.
const IN_FLIGHT: usize = 1024;
/// Sleeping overshoots by about this much; the rest is spun.
const SPIN: Duration = Duration::from_micros(120);

/// What waits for the moment it would have arrived.
struct Message {
    due: Instant,
    bytes: Vec<u8>,
    deadline: Instant,
}

/// Releases messages when they would have arrived.
pub(super) struct Shaped {
    queue: SyncSender<Message>,
    network: Network,
    free_at: Instant,
}

impl Shaped {
    pub(super) fn new(inner: Box<dyn Outgoing>, network: Network) -> Self {
        let (queue, messages) = sync_channel(IN_FLIGHT);
        std::thread::spawn(move || deliver(inner, &messages));
        Self { queue, network, free_at: Instant::now() }
    }
}

fn deliver(mut inner: Box<dyn Outgoing>, messages: &Receiver<Message>) {
    for Message { due, bytes, deadline } in messages {
        let left = due.saturating_duration_since(Instant::now());
        std::thread::sleep(left.saturating_sub(SPIN));
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        if inner.send(bytes, deadline).is_err() {
            return; // the next send finds the queue closed
        }
    }
}

impl Outgoing for Shaped {
    fn send(&mut self, bytes: Vec<u8>, deadline: Instant) -> Result<()> {
        let depart = self.free_at.max(Instant::now());
        self.free_at = depart + self.network.transmission(bytes.len());
        let due = self.free_at + self.network.one_way.min(LONGEST);
        // The peer has the time that is left when the message would have arrived.
        let deadline = deadline + due.saturating_duration_since(Instant::now());
        self.queue
            .send(Message { due, bytes, deadline })
            .map_err(|_| Error::Disconnected { what: "a receiver" })
    }
}
