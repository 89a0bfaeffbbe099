//! Costs in closed form, of stand-alone operators and of a block: what [`crate::Circuit::cost`] must say.
//!
//! Online bytes are what each party sends; offline bytes what each receives from the dealer (keys both, corrections the client). Key sizes:
//! comparison over n bits with m words of payload `DCF(n, m) = 16n + 8mn + 16 + 8m + ceil(2n/8)`; point function over b bits `DPF(b, m) = 16b + 32 + 8m`.

use super::{Activation, Attention};
use crate::circuit::{Cost, Offline};

fn dcf_key(n: u64, m: u64) -> u64 {
    16 * n + 8 * m * n + 16 + 8 * m + n.div_ceil(4)
}

fn dpf_key(b: u64, m: u64) -> u64 {
    16 * b + 32 + 8 * m
}

/// Both parties send `bytes`; keys to both, corrections to the client.
fn cost(bytes: u64, rounds: u32, keys: u64, corrections: u64) -> Cost {
    Cost {
        server_sent: bytes,
        client_sent: bytes,
        rounds,
        offline: Offline { server: keys, client: keys + corrections },
    }
}

/// Matrix product of shares: `8 (mk + kn + mn)`, 2 rounds, corrections 24mn.
#[must_use]
pub fn matmul(m: u64, k: u64, n: u64) -> Cost {
    cost(8 * (m * k + k * n + m * n), 2, 0, 24 * m * n)
}

/// Matrix product with the server's matrix: server 8mn, client 8mk + 8mn, 2 rounds, corrections 24mn.
#[must_use]
pub fn linear(m: u64, k: u64, n: u64) -> Cost {
    let mut cost = cost(8 * m * n, 2, 0, 24 * m * n);
    cost.client_sent += 8 * m * k;
    cost
}

/// Element-wise product: 24n, 2 rounds, corrections 24n.
#[must_use]
pub fn multiply(n: u64) -> Cost {
    cost(24 * n, 2, 0, 24 * n)
}

/// ReLU of n elements below 2^log2 at scale 16: 8n, 1 round, key DCF(log2 + 16, 3), corrections 40n.
#[must_use]
pub fn relu(n: u64, log2: u64) -> Cost {
    cost(8 * n, 1, n * dcf_key(log2 + 16, 3), 40 * n)
}

/// Maximum of R rows of T: 8R(T-1), ceil(log2 T) rounds, key DCF(16, 3), corrections 40.
#[must_use]
pub fn row_max(rows: u64, tokens: u64) -> Cost {
    let n = rows * tokens.saturating_sub(1);
    cost(8 * n, tokens.max(1).next_power_of_two().ilog2(), n * dcf_key(16, 3), 40 * n)
}

/// exp of n elements: 16n, 2 rounds, key DPF(10, 3), corrections 16n.
#[must_use]
pub fn exp(n: u64) -> Cost {
    cost(16 * n, 2, n * dpf_key(10, 3), 16 * n)
}

/// 1/x of n elements: 16n, 2 rounds, key DCF(23, 3), corrections 16n.
#[must_use]
pub fn reciprocal(n: u64) -> Cost {
    cost(16 * n, 2, n * dcf_key(23, 3), 16 * n)
}

/// 1/sqrt(x) of n elements: 16n, 2 rounds, key DCF(28, 3), corrections 16n.
#[must_use]
pub fn rsqrt(n: u64) -> Cost {
    cost(16 * n, 2, n * dcf_key(28, 3), 16 * n)
}

/// GELU, ReLU (|x| < 32) or a quadratic of n elements: GELU 16n, 2 rounds, key DPF(9, 3), corrections 16n; quadratic 16n, 2 rounds, corrections 48n.
#[must_use]
pub fn activation(n: u64, kind: Activation) -> Cost {
    match kind {
        Activation::Gelu => cost(16 * n, 2, n * dpf_key(9, 3), 16 * n),
        Activation::Square => cost(16 * n, 2, 0, 48 * n),
        Activation::Relu => relu(n, 5),
        Activation::Identity => Cost::default(),
    }
}

/// Layer normalisation of T rows of d: 16Td + 24T, 5 rounds, keys T DCF(28, 3), corrections 24Td + 24T.
#[must_use]
pub fn layer_norm(tokens: u64, d: u64) -> Cost {
    cost(16 * tokens * d + 24 * tokens, 5, tokens * dcf_key(28, 3), 24 * tokens * d + 24 * tokens)
}

/// A normalised attention of R rows of T; see [`super::softmax`].
#[must_use]
pub fn softmax(rows: u64, tokens: u64, kind: Attention) -> Cost {
    let n = rows * tokens;
    // Reciprocal of a row and its lift; product and its lift.
    let rest = cost(16 * n + 24 * rows, 4, rows * dcf_key(23, 3), 16 * rows + 24 * n);
    let first = match kind {
        Attention::ReluSoftmax => cost(8 * n, 1, n * dcf_key(18, 3), 40 * n),
        Attention::Power(p @ (2 | 4)) => cost(16 * n, 2, 0, (16 * p as u64 + 16) * n),
        Attention::Power(p) => cost(24 * n, 3, 0, (32 + 8 * p as u64 + 16) * n),
        Attention::SoftmaxCentred => cost(16 * n, 2, n * dpf_key(10, 3), 16 * n),
        Attention::SoftmaxMax => {
            let max = row_max(rows, tokens);
            let keys = max.offline.server + n * dpf_key(10, 3);
            let corrections = max.offline.client - max.offline.server + 32 * n;
            cost(24 * n + max.server_sent, 3 + max.rounds, keys, corrections)
        }
        Attention::Scale => return Cost::default(),
    };
    Cost {
        server_sent: first.server_sent + rest.server_sent,
        client_sent: first.client_sent + rest.client_sent,
        rounds: first.rounds + rest.rounds,
        offline: first.offline + rest.offline,
    }
}

/// Index of the largest of n: 8 n(n-1)/2 + n, 2 rounds, keys DCF(17, 1) a pair and DPF(5, 1) a value, corrections 8 a pair.
#[must_use]
pub fn argmax(n: u64) -> Cost {
    let pairs = n * n.saturating_sub(1) / 2;
    cost(8 * pairs + n, 2, pairs * dcf_key(17, 1) + n * dpf_key(5, 1), 8 * pairs)
}
