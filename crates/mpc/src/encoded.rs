//! Correlations as bytes, in files and in a dealer's messages.
//!
//! `CFMPC002 | u8 role | plan 32 | nonce 32 | weight mask 16 | seed 32 | u64 length | bytes | BLAKE3 32`.

use crate::circuit::Circuit;
use crate::dealer::Correlations;
use crate::error::{Error, Result};
use crate::prg::Seed;
use crate::role::Role;
use zeroize::{Zeroize, Zeroizing};

const MAGIC: &[u8; 8] = b"CFMPC002";
const HEAD: usize = 8 + 1 + 32 + 32 + 16 + 32 + 8;

impl Correlations {
    /// Length of [`Correlations::encode`] for a plan and party.
    pub(crate) fn encoded_bytes(circuit: &Circuit, role: Role) -> usize {
        let offline = circuit.cost().offline;
        let bytes = if role == Role::Server { offline.server } else { offline.client };
        HEAD + bytes as usize + 32
    }

    pub(crate) fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(HEAD + self.bytes.len() + 32));
        out.extend_from_slice(MAGIC);
        out.push(self.role.index() as u8);
        for part in [&self.plan[..], &self.nonce, &self.mask, &self.seed.0] {
            out.extend_from_slice(part);
        }
        out.extend_from_slice(&(self.bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(&self.bytes);
        let check = blake3::hash(&out);
        out.extend_from_slice(check.as_bytes());
        out
    }

    /// What [`Correlations::encode`] gave, for this plan and party; the length is the caller's to check before it reads.
    pub(crate) fn decode(all: &[u8], circuit: &Circuit, role: Role) -> Result<Self> {
        let malformed =
            |detail: &str| Error::Malformed { what: "correlations", detail: detail.into() };
        if all.len() != Self::encoded_bytes(circuit, role) {
            return Err(malformed("another length than this plan's"));
        }
        let (body, check) = all.split_at(all.len() - 32);
        if blake3::hash(body).as_bytes() != check {
            return Err(malformed("the checksum does not match"));
        }
        let (head, bytes) = body.split_at(HEAD);
        let take = |at: usize| head[at..].first_chunk::<32>().copied().unwrap_or_default();
        if &head[..8] != MAGIC || head[8] as usize != role.index() || take(9) != circuit.hash() {
            return Err(malformed("another format, role or plan"));
        }
        let mut mask = [0; 16];
        mask.copy_from_slice(&head[73..89]);
        let mut seed = take(89);
        let out = Self {
            role,
            plan: take(9),
            nonce: take(41),
            mask,
            seed: Seed(seed),
            bytes: bytes.to_vec(),
        };
        seed.zeroize();
        Ok(out)
    }
}
