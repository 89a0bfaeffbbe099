//! What a circuit costs, from the list of instructions alone.

use super::{Circuit, Op};
use crate::channel::Network;
use crate::fss::{dcf, dpf};
use crate::link::HEADER;
use crate::role::Role;
use cipherform_profile::{Counter, PredictedOperator, Prediction};
use std::ops::{Add, AddAssign};
use std::time::Duration;

/// Bytes each party receives from the dealer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offline {
    /// By the server: keys.
    pub server: u64,
    /// By the client: keys and corrections.
    pub client: u64,
}

/// Payload bytes and rounds; all counts are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes the server sends online.
    pub server_sent: u64,
    /// Bytes the client sends online.
    pub client_sent: u64,
    /// Longest chain of dependent messages. Not additive over operators that share rounds.
    pub rounds: u32,
    /// Bytes from the dealer.
    pub offline: Offline,
}

impl Cost {
    /// Bytes `role` sends online.
    #[must_use]
    pub fn sent(&self, role: Role) -> u64 {
        match role {
            Role::Server => self.server_sent,
            Role::Client => self.client_sent,
        }
    }
}

impl Add for Offline {
    type Output = Self;
    fn add(self, rhs: Self) -> Self {
        Self { server: self.server + rhs.server, client: self.client + rhs.client }
    }
}

impl AddAssign for Offline {
    fn add_assign(&mut self, rhs: Self) {
        *self = *self + rhs;
    }
}

impl Circuit {
    /// Words of payload of a table's point function: the powers of the low part of the mask.
    pub(crate) fn table_words(&self, table: usize) -> usize {
        self.tables[table].degree() + 1
    }

    /// Correlation bytes of one instruction.
    pub(crate) fn offline_of(&self, id: usize) -> Offline {
        let op = &self.instructions[id].op;
        let results = self.values[id].len();
        let (key, corrections) = match *op {
            Op::Shrink(..)
            | Op::MatMul(..)
            | Op::Mul(..)
            | Op::SumSquares(_)
            | Op::Linear(..)
            | Op::Diagonal { .. } => (0, 1),
            Op::Lift(..) => (0, 2),
            Op::Power { power, .. } => (0, 2 * power as usize),
            Op::Relu { bits, .. } => (dcf::key_bytes(bits as usize - 1, 3), 5),
            Op::Sign { bits, .. } => (dcf::key_bytes(bits as usize - 1, 1), 1),
            Op::Knots { bits, .. } => (dcf::key_bytes(bits as usize, 3), 0),
            Op::Table { table, .. } => {
                (dpf::key_bytes(self.tables[table].index_bits as usize, self.table_words(table)), 0)
            }
            _ => (0, 0),
        };
        let (key, corrections) = ((key * results) as u64, (8 * corrections * results) as u64);
        Offline { server: key, client: key + corrections }
    }

    /// Bytes `role` sends for one instruction.
    pub(crate) fn sent_by(&self, id: usize, role: Role) -> usize {
        let Some(&of) = self.instructions[id].op.operands().first() else { return 0 };
        let of = &self.values[of];
        match (&self.instructions[id].op, role) {
            (Op::Open(_), _) => of.width() * of.len(),
            (Op::Linear(..), Role::Client) => 8 * of.len(),
            (Op::Reveal { to, .. }, role) if *to != role => of.width() * of.len(),
            _ => 0,
        }
    }

    /// Bytes `role` sends in round `round`.
    pub(crate) fn frame_bytes(&self, round: usize, role: Role) -> usize {
        self.stages[round].iter().map(|&id| self.sent_by(id, role)).sum()
    }

    /// The exact cost of one run.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let mut cost = self.cost_of(|_| true);
        cost.rounds = self.rounds();
        cost
    }

    /// How long one run's messages take over `network`, without any computation: what the virtual clock of a [`crate::Link`] shows the party that is
    /// done last.
    #[must_use]
    pub fn network_time(&self, network: Network) -> Duration {
        let (mut now, mut free_at) = ([Duration::ZERO; 2], [Duration::ZERO; 2]);
        for round in 1..self.stages.len() {
            let sent = Role::BOTH.map(|role| self.frame_bytes(round, role));
            for ((bytes, now), free_at) in sent.iter().zip(now).zip(&mut free_at) {
                if *bytes > 0 {
                    *free_at = now.max(*free_at) + network.transmission(HEADER + bytes);
                }
            }
            for (role, now) in Role::BOTH.into_iter().zip(&mut now) {
                let peer = role.peer().index();
                if sent[peer] > 0 {
                    *now = (*now).max(free_at[peer] + network.one_way);
                }
            }
        }
        now[0].max(now[1])
    }

    /// The cost of one operator. A round belongs to the operator that speaks first in it, so that rounds add up.
    #[must_use]
    pub fn operator_cost(&self, operator: usize) -> Cost {
        let mut cost = self.cost_of(|id| self.instructions[id].tag == operator);
        let speaks_first = |stage: &&Vec<usize>| {
            let first = stage.iter().find(|&&id| self.instructions[id].op.talks());
            first.is_some_and(|&id| self.instructions[id].tag == operator)
        };
        cost.rounds = self.stages.iter().filter(speaks_first).count() as u32;
        cost
    }

    /// What `role` will count, by operator, in the profiler's terms.
    #[must_use]
    pub fn prediction(&self, role: Role) -> Prediction {
        let operators = self.operators.iter().enumerate().map(|(i, operator)| {
            let cost = self.operator_cost(i);
            let offline = match role {
                Role::Server => cost.offline.server,
                Role::Client => cost.offline.client,
            };
            let counters = [
                (Counter::BytesSent, cost.sent(role)),
                (Counter::BytesReceived, cost.sent(role.peer())),
                (Counter::OfflineBytes, offline),
                (Counter::Rounds, cost.rounds as u64),
            ];
            PredictedOperator {
                name: operator.name.clone(),
                layer: operator.layer.clone(),
                cost: counters
                    .map(|(counter, n)| cipherform_profile::Cost::of(counter, n))
                    .into_iter()
                    .sum(),
                ms: None,
            }
        });
        Prediction { operators: operators.collect(), ..Prediction::default() }
    }

    fn cost_of(&self, keep: impl Fn(usize) -> bool) -> Cost {
        let mut cost = Cost::default();
        for id in (0..self.instructions.len()).filter(|&id| keep(id)) {
            cost.server_sent += self.sent_by(id, Role::Server) as u64;
            cost.client_sent += self.sent_by(id, Role::Client) as u64;
            cost.offline += self.offline_of(id);
        }
        cost
    }

    /// Bytes the server sends once a model, before the first query: its matrices, masked.
    #[must_use]
    pub fn setup_bytes(&self) -> u64 {
        self.parameters
            .iter()
            .filter(|p| p.masked)
            .map(|p| 8 * (p.rows * p.stored_columns()) as u64)
            .sum()
    }
}
