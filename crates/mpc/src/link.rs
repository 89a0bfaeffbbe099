//! Frames over a channel: one a party a round, checked against the plan.
//!
//! A frame is a header of [`HEADER`] bytes and a payload whose length the receiver knows from the plan:
//! `u32 length | u32 step | u32 sequence | u32 depth | u64 clock | u64 checksum`, little-endian. Length, step and sequence are compared
//! with the plan before anything is allocated or read on; the checksum (BLAKE3 over header and payload) finds damage, not malice: that is
//! TLS's task. `depth` is 1 + the deepest frame its sender has seen, so that rounds are observed and not assumed; `clock` is the
//! sender's virtual time.

use crate::channel::{Channel, Network};
use crate::error::{Error, Result};
use crate::role::Role;
use std::time::{Duration, Instant};

/// Bytes of a frame's header.
pub const HEADER: usize = 32;

/// Step number of the greeting.
pub(crate) const GREETING: u32 = u32::MAX;
/// Step number of the masked weights.
pub(crate) const SETUP: u32 = u32::MAX - 1;

/// Step number of the name of a run.
pub(crate) const ANNOUNCE: u32 = u32::MAX - 3;
/// Step number of a dealer's messages.
pub(crate) const DEALT: u32 = u32::MAX - 4;
/// Longest deadline of a link.
const LONGEST: Duration = Duration::from_hours(365 * 24);
/// Step number of the farewell.
const FAREWELL: u32 = u32::MAX - 2;

/// What went over the wire at one party.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Payload bytes sent.
    pub sent: u64,
    /// Payload bytes received.
    pub received: u64,
    /// Frames sent; each adds [`HEADER`] bytes to the wire.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Longest chain of dependent frames seen.
    pub rounds: u32,
    /// Time spent waiting for the peer.
    pub wait: Duration,
    /// Wall time of the last run, from the greeting to the last instruction.
    pub online: Duration,
    /// Virtual time of the emulated network, without computation; zero without one.
    pub network: Duration,
}

/// One party's end of a session's connection.
#[derive(Debug)]
pub struct Link {
    channel: Option<Channel>,
    role: Role,
    deadline: Duration,
    virtual_network: Option<Network>,
    traffic: Traffic,
    /// Virtual time at which the outgoing wire is free, and now; nanoseconds.
    free_at: u64,
    now: u64,
}

fn nanos(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

impl Link {
    /// A link for `role`; sending and receiving of one message, together, end after `deadline` (a year at most).
    #[must_use]
    pub fn new(channel: Channel, role: Role, deadline: Duration) -> Self {
        Self {
            channel: Some(channel),
            role,
            deadline: deadline.min(LONGEST),
            virtual_network: None,
            traffic: Traffic::default(),
            free_at: 0,
            now: 0,
        }
    }

    /// Keeps a virtual clock for `network` without delaying anything: deterministic, and free of computation. Set it at both
    /// parties.
    #[must_use]
    pub fn with_virtual_network(mut self, network: Network) -> Self {
        self.virtual_network = Some(network);
        self
    }

    /// This end's party.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// What went over the wire since the link was made, or since [`Link::reset`].
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic { network: Duration::from_nanos(self.now), ..self.traffic }
    }

    /// Starts counting from zero, e.g. between set-up and a query. Call it at both parties.
    pub fn reset(&mut self) {
        self.traffic = Traffic::default();
        (self.free_at, self.now) = (0, 0);
    }

    /// Ends a run that took `online`: both parties say what they sent and received, which must agree. The exchange is in nobody's
    /// counters; it tells the party that spoke last that it was heard.
    pub(crate) fn farewell(&mut self, online: Duration) -> Result<()> {
        self.traffic.online = online;
        let ours = self.traffic();
        let payload = [ours.sent.to_le_bytes(), ours.received.to_le_bytes()].concat();
        let theirs = self.exchange(FAREWELL, &payload, 16)?;
        self.traffic = Traffic { network: Duration::ZERO, ..ours };
        self.now = nanos(ours.network);
        for (what, expected, got) in [
            ("sum of bytes sent", &payload[8..], &theirs[..8]),
            ("sum of bytes received", &payload[..8], &theirs[8..]),
        ] {
            let number = |b: &[u8]| b.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
            if expected != got {
                return Err(Error::Frame {
                    step: FAREWELL,
                    what,
                    expected: number(expected),
                    got: number(got),
                });
            }
        }
        Ok(())
    }

    /// Sends `payload` unless it is empty, receives `expected` bytes unless that is zero. The link is dead after an error.
    pub(crate) fn exchange(
        &mut self,
        step: u32,
        payload: &[u8],
        expected: usize,
    ) -> Result<Vec<u8>> {
        self.exchange_within(self.deadline, step, payload, expected)
    }

    /// [`Link::exchange`] with a deadline of its own.
    pub(crate) fn exchange_within(
        &mut self,
        deadline: Duration,
        step: u32,
        payload: &[u8],
        expected: usize,
    ) -> Result<Vec<u8>> {
        let deadline = Instant::now() + deadline.min(LONGEST);
        let Some(mut channel) = self.channel.take() else {
            return Err(Error::Ended { role: self.role });
        };
        let depth = self.traffic.rounds.saturating_add(1);
        if !payload.is_empty() {
            channel.outgoing.send(self.frame(step, depth, payload)?, deadline)?;
            self.traffic.rounds = depth;
        }
        let mut received = Vec::new();
        if expected > 0 {
            let start = Instant::now();
            received = self.receive(&mut channel, step, expected, deadline)?;
            self.traffic.wait += start.elapsed();
        }
        self.channel = Some(channel);
        Ok(received)
    }

    fn frame(&mut self, step: u32, depth: u32, payload: &[u8]) -> Result<Vec<u8>> {
        let length = u32::try_from(payload.len()).map_err(|_| Error::Frame {
            step,
            what: "length",
            expected: u32::MAX as u64,
            got: payload.len() as u64,
        })?;
        if let Some(network) = self.virtual_network {
            let busy = nanos(network.transmission(HEADER + payload.len()));
            self.free_at = self.free_at.max(self.now).saturating_add(busy);
        }
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        for word in [length, step, self.traffic.frames_sent as u32, depth] {
            frame.extend_from_slice(&word.to_le_bytes());
        }
        frame.extend_from_slice(&self.free_at.to_le_bytes());
        let check = checksum(&frame, payload);
        frame.extend_from_slice(&check);
        frame.extend_from_slice(payload);
        self.traffic.frames_sent += 1;
        self.traffic.sent += payload.len() as u64;
        Ok(frame)
    }

    fn receive(
        &mut self,
        channel: &mut Channel,
        step: u32,
        expected: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>> {
        let mut header = [0u8; HEADER];
        channel.incoming.receive(&mut header, deadline)?;
        let word = |i: usize| header[4 * i..].first_chunk().map_or(0, |b| u32::from_le_bytes(*b));
        let checks = [
            ("length", expected as u64, word(0)),
            ("step", step as u64, word(1)),
            ("sequence", self.traffic.frames_received, word(2)),
        ];
        for (what, expected, got) in checks {
            if expected != got as u64 {
                return Err(Error::Frame { step, what, expected, got: got as u64 });
            }
        }
        // What the peer has seen, this party has said or heard before.
        let deepest = self.traffic.rounds.saturating_add(1);
        if word(3) > deepest {
            let (expected, got) = (deepest as u64, word(3) as u64);
            return Err(Error::Frame { step, what: "depth", expected, got });
        }
        let mut payload = vec![0u8; expected];
        channel.incoming.receive(&mut payload, deadline)?;
        if checksum(&header[..24], &payload) != header[24..] {
            return Err(Error::Garbled { step });
        }
        let clock = header[16..].first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        if let Some(network) = self.virtual_network {
            self.now = self.now.max(clock.saturating_add(nanos(network.one_way)));
        }
        self.traffic.rounds = self.traffic.rounds.max(word(3));
        self.traffic.frames_received += 1;
        self.traffic.received += expected as u64;
        Ok(payload)
    }
}

fn checksum(header: &[u8], payload: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update(payload);
    let mut out = [0; 8];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    out
}
