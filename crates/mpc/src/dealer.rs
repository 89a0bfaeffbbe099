//! The dealer: correlations for one run of a circuit, generated from the circuit alone.
//!
//! The dealer interprets the same instructions as the parties, but on masks: it knows the mask of every opened value and nothing
//! else. It must not collude with either party: whoever sees both halves of one run's correlations sees every value of
//! that run.

use crate::circuit::{Circuit, Id, Kind, Op};
use crate::error::Result;
use crate::fixed::low;
use crate::gates::product::Sizes;
use crate::gates::{Dealing, MASK, compare, knots, power, product, table, truncate};
use crate::matmul::add_matmul;
use crate::prg::{Permutation, Seed, Stream};
use crate::role::Role;
use rand_core::CryptoRng;
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// The secret behind the masks of the server's matrices: held by the dealer and the server, one a model and client. Drawn anew
/// when a weight changes, as two masked versions under one mask reveal their difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightMask(pub(crate) Seed);

impl WeightMask {
    /// A fresh mask.
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self(Seed::random(rng))
    }

    pub(crate) fn words(&self, parameter: usize, len: usize) -> Vec<u64> {
        self.0.stream().words(parameter, MASK, len)
    }

    /// A public name for this mask, so that a client can tell which masked matrices a run needs.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        let hash = blake3::derive_key("cipherform mpc 1 weight mask id", &self.0.0);
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        id
    }
}

/// One party's correlations for one run: a seed, keys and corrections. Consumed by the run; cannot be copied.
pub struct Correlations {
    pub(crate) role: Role,
    pub(crate) plan: [u8; 32],
    /// Names the run; the same at both parties.
    pub(crate) nonce: [u8; 32],
    pub(crate) mask: [u8; 16],
    pub(crate) seed: Seed,
    pub(crate) bytes: Vec<u8>,
}

impl Correlations {
    /// Who they are for.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Bytes received from the dealer beside the seed: equal to the circuit's [`crate::Offline`] cost.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether the circuit needs none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl fmt::Debug for Correlations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Correlations {{ {}, {} bytes }}", self.role, self.bytes.len())
    }
}

impl Drop for Correlations {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Everything the dealer knows of one run.
struct Run<'a> {
    circuit: &'a Circuit,
    permutation: Permutation,
    own: Stream,
    streams: [Stream; 2],
    weights: &'a WeightMask,
    masks: Vec<Zeroizing<Vec<u64>>>,
}

/// Generates the correlations of one run, in parallel on the current thread pool.
///
/// # Errors
/// None today; the signature leaves room for circuits that need more than a dealer has.
///
/// # Security
/// The dealer sees no message of the parties. It must send each party its half only, and forget both.
pub fn deal(
    circuit: &Circuit,
    weights: &WeightMask,
    rng: &mut impl CryptoRng,
) -> Result<[Correlations; 2]> {
    let seeds = Role::BOTH.map(|_| Seed::random(rng));
    let mut nonce = [0; 32];
    rng.fill_bytes(&mut nonce);
    let mut run = Run {
        circuit,
        permutation: Permutation::new(&nonce),
        own: Seed::random(rng).stream(),
        streams: [seeds[0].stream(), seeds[1].stream()],
        weights,
        masks: vec![Zeroizing::default(); circuit.instructions.len()],
    };
    let offline = circuit.cost().offline;
    let mut bytes = [vec![0u8; offline.server as usize], vec![0u8; offline.client as usize]];
    for id in 0..circuit.instructions.len() {
        let of = circuit.offline_of(id);
        let [server, client] = circuit.offsets[id];
        let [server_bytes, client_bytes] = &mut bytes;
        let server_out = &mut server_bytes[server..server + of.server as usize];
        let client_out = &mut client_bytes[client..client + of.client as usize];
        let mask = run.instruction(id, server_out, client_out);
        run.masks[id] = Zeroizing::new(mask);
    }
    let mask = weights.id();
    let mut parts = Role::BOTH.into_iter().zip(seeds).zip(bytes);
    let mut next = || {
        let ((role, seed), bytes) = parts.next()?;
        Some(Correlations { role, plan: circuit.hash(), nonce, mask, seed, bytes })
    };
    match (next(), next()) {
        (Some(server), Some(client)) => Ok([server, client]),
        _ => Err(crate::Error::Malformed {
            what: "correlations",
            detail: "a party is missing".into(),
        }),
    }
}

/// The masks of all values of a run: what a clear run needs to toss the same coins. For tests of the engine.
#[cfg(test)]
pub(crate) fn masks(circuit: &Circuit, pair: &[Correlations; 2], id: Id) -> Vec<u64> {
    let value = &circuit.values[id];
    let [s, c] = [&pair[0], &pair[1]].map(|p| p.seed.stream().words(id, MASK, value.len()));
    s.iter().zip(&c).map(|(s, c)| s.wrapping_add(*c) & low(value.ring)).collect()
}

impl Run<'_> {
    /// Prepares one instruction; returns the mask of its result, empty for shares.
    fn instruction(&self, id: Id, server_out: &mut [u8], client_out: &mut [u8]) -> Vec<u64> {
        let (circuit, value) = (self.circuit, &self.circuit.values[id]);
        let server = &self.streams[0];
        let mut d = Dealing {
            permutation: &self.permutation,
            own: &self.own,
            server,
            id,
            server_out,
            client_out,
        };
        let r = |id: Id| self.masks[id].as_slice();
        match &circuit.instructions[id].op {
            Op::Open(_) => {
                let halves = self.streams.each_ref().map(|s| s.words(id, MASK, value.len()));
                let pairs = halves[0].iter().zip(&halves[1]);
                return pairs.map(|(s, c)| s.wrapping_add(*c) & low(value.ring)).collect();
            }
            Op::View { of, view } if value.kind == Kind::Masked => return view.gather(r(*of)),
            Op::Relabel(of) if value.kind == Kind::Masked => return r(*of).to_vec(),
            Op::Shrink(of, drop) => return truncate::deal_shrink(d, r(*of), *drop),
            Op::Lift(of, drop) => truncate::deal_lift(d, r(*of), *drop, circuit.values[*of].ring),
            Op::MatMul(x, y) => {
                product::deal_matmul(d, r(*x), r(*y), sizes(circuit, *x, *y), value.len());
            }
            Op::Mul(x, y) => product::deal_mul(d, r(*x), r(*y)),
            Op::SumSquares(x) => product::deal_sum_squares(d, r(*x), circuit.values[*x].last()),
            Op::Linear(x, parameter) => {
                let (input, p) = (&circuit.values[*x], &circuit.parameters[*parameter]);
                let a = Zeroizing::new(self.streams[1].words(id, MASK, input.len()));
                let b = Zeroizing::new(self.weights.words(*parameter, p.rows * p.stored_columns()));
                let mut ab = Zeroizing::new(vec![0; value.len()]);
                add_matmul(&mut ab, &a, &b, p.rows, p.stored_columns());
                d.correct(0, &[&ab]);
            }
            Op::Diagonal { linear, parameter } => {
                let a = Zeroizing::new(self.streams[1].words(*linear, MASK, value.len()));
                let b = Zeroizing::new(self.weights.words(*parameter, value.last()));
                let ab = Zeroizing::new(scaled(&a, &b));
                d.correct(0, &[&ab]);
            }
            Op::Relu { of, drop, bits } => compare::deal_relu(d, r(*of), *drop, *bits),
            Op::Sign { of, drop, bits } => compare::deal_sign(d, r(*of), *drop, *bits),
            Op::Table { of, drop, table } => {
                table::deal(d, r(*of), *drop, &circuit.tables[*table]);
            }
            Op::Knots { of, drop, knots, .. } => {
                knots::deal(d, r(*of), *drop, &circuit.knots[*knots]);
            }
            Op::Power { of, drop, bits, power } => power::deal(d, r(*of), *drop, *bits, *power),
            _ => {}
        }
        Vec::new()
    }
}

/// Every row of `a` times `b`, element by element.
pub(crate) fn scaled(a: &[u64], b: &[u64]) -> Vec<u64> {
    a.iter().zip(b.iter().cycle()).map(|(a, b)| a.wrapping_mul(*b)).collect()
}

/// The matrices of a batched product.
pub(crate) fn sizes(circuit: &Circuit, x: Id, y: Id) -> Sizes {
    let (x, y) = (&circuit.values[x], &circuit.values[y]);
    let k = x.last();
    let m = x.shape.len().checked_sub(2).map_or(1, |axis| x.shape[axis]);
    Sizes { m, k, n: y.last() }
}
