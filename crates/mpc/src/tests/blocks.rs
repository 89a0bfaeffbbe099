//! Blocks and models: golden totals, the clear model, and the oracle.

use super::gates::{both, fixed_rng};
use crate::model::{Architecture, Output, Weights, clear, prepare};
use crate::ops::{Activation, Attention};
use crate::*;

const RELU: Attention = Attention::ReluSoftmax;
const SCALE: Attention = Attention::Scale;

fn one_block(heads: [Attention; 4], activation: Activation) -> Architecture {
    let mut a = Architecture::cifar(heads, activation);
    a.blocks.truncate(1);
    a.classes = 0;
    a
}

/// The cost of a block without the reveal of its stream.
fn cost(a: &Architecture) -> Cost {
    let mut cost = a.circuit().unwrap().cost();
    cost.server_sent -= (8 * a.shape.tokens * a.shape.width) as u64;
    cost.rounds -= 1;
    cost
}

#[test]
fn golden_totals_of_blocks() {
    // Server and client bytes, rounds: counted independently, by a simulation of the protocols in numpy.
    let golden = [
        ([RELU; 4], 1_827_540, 2_493_140, 20),
        ([SCALE; 4], 1_681_472, 2_347_072, 18),
        ([RELU, RELU, SCALE, SCALE], 1_754_506, 2_420_106, 20),
        ([Attention::Power(2); 4], 1_827_540 + 8 * 16_900, 2_493_140 + 8 * 16_900, 21),
        ([Attention::Power(4); 4], 1_827_540 + 8 * 16_900, 2_493_140 + 8 * 16_900, 21),
        (
            [Attention::SoftmaxCentred; 4],
            1_827_540 + 16 * 16_640 + 11 * 16_900,
            2_493_140 + 16 * 16_640 + 11 * 16_900,
            22,
        ),
        (
            [Attention::SoftmaxMax; 4],
            1_827_540 + 16 * 16_640 + 19 * 16_900 + 8 * 260 * 64,
            2_493_140 + 16 * 16_640 + 19 * 16_900 + 8 * 260 * 64,
            30,
        ),
    ];
    for (heads, server, client, rounds) in golden {
        for activation in [Activation::Gelu, Activation::Square, Activation::Relu] {
            let c = cost(&one_block(heads, activation));
            assert_eq!(
                (c.server_sent, c.client_sent, c.rounds),
                (server, client, rounds),
                "{heads:?}"
            );
        }
        // Without an activation: no opening of the hidden features, no message of the second product, no truncation of the stream before the
        // sum with it.
        let c = cost(&one_block(heads, Activation::Identity));
        let (hidden, stream) = (8 * 65 * 512, 8 * 65 * 256);
        assert_eq!(
            (c.server_sent, c.client_sent, c.rounds),
            (server - hidden - stream, client - 2 * hidden - stream, rounds - 2),
            "{heads:?}"
        );
    }
}

#[test]
fn golden_offline_totals_of_blocks() {
    // Bytes of one key, from the lengths of their parts: seeds and payloads of every level, the last correction, two bits a level.
    let dcf = |n: u64, m: u64| 16 * n + 8 * m * n + 16 + 8 * m + (2 * n).div_ceil(8);
    let dpf = |b: u64, m: u64| 16 * b + 32 + 8 * m;
    assert_eq!((dcf(18, 3), dcf(23, 3), dcf(28, 3), dpf(9, 3)), (765, 966, 1167, 200));
    // Keys: comparisons of scores, reciprocals of row sums, two norms; GELU. Then corrections of the client, pinned.
    let norms = 2 * 65 * 1167;
    let gelu = 65 * 512 * 200;
    let (scores, sums) = (4 * 65 * 65 * 765, 4 * 65 * 966);
    let golden = [
        ([RELU; 4], norms + gelu + scores + sums, 3_750_240),
        ([SCALE; 4], norms + gelu, 3_194_976),
        ([RELU, RELU, SCALE, SCALE], norms + gelu + scores / 2 + sums / 2, 3_472_608),
        ([Attention::Power(2); 4], norms + gelu + sums, 3_885_440),
    ];
    for (heads, keys, corrections) in golden {
        let offline = cost(&one_block(heads, Activation::Gelu)).offline;
        assert_eq!(offline.server, keys, "{heads:?}");
        assert_eq!(offline.client - keys, corrections, "{heads:?}");
    }
}

#[test]
fn golden_totals_of_the_tiny_imagenet_shape() {
    // Nine layers of 257 tokens, 192 features, 12 heads, 384 hidden: MB of server and client, rounds, from the same simulation, which opened
    // k' v of scaled heads in 5 bytes where 4 hold what is left of it: 28 kB less of 57.36 MB without normalised heads.
    let golden = [
        (RELU, 12, 136.2, 153.9, 180),
        (RELU, 6, 87.9, 105.6, 180),
        (RELU, 1, 47.6, 65.4, 180),
        (RELU, 0, 39.6, 57.3, 162),
        (Attention::Power(2), 12, 193.2, 211.0, 189),
        (Attention::SoftmaxMax, 12, 335.7, 353.4, 288),
    ];
    for (kind, count, server, client, rounds) in golden {
        let mut a = one_block([RELU; 4], Activation::Gelu);
        a.shape = ops::BlockShape { tokens: 257, width: 192, heads: 12, hidden: 384 };
        a.blocks[0].heads = (0..12).map(|h| if h < count { kind } else { SCALE }).collect();
        let c = cost(&a);
        let megabytes = |bytes: u64| (9.0 * bytes as f64 / 1e5).round() / 10.0;
        let got = (megabytes(c.server_sent), megabytes(c.client_sent), 9 * c.rounds);
        assert_eq!(got, (server, client, rounds), "{count} {kind:?}");
    }
}

#[test]
fn from_softmax_free_to_relu_the_bytes_grow_and_rounds_do_not_shrink() {
    let mut last: Option<Cost> = None;
    for relu in 0..=4 {
        let heads = std::array::from_fn(|h| if h < relu { RELU } else { SCALE });
        let c = cost(&one_block(heads, Activation::Gelu));
        if let Some(last) = last {
            assert!(c.server_sent > last.server_sent && c.client_sent > last.client_sent);
            assert!(
                c.offline.server > last.offline.server && c.offline.client > last.offline.client
            );
            assert!(c.rounds >= last.rounds);
        }
        last = Some(c);
    }
}

#[test]
fn seven_blocks_and_a_head() {
    let c = Architecture::cifar([RELU, RELU, SCALE, SCALE], Activation::Gelu).circuit().unwrap();
    let cost = c.cost();
    // Seven blocks; the head's message of 256 words, its 10 logits. Sharing the input takes no message.
    assert_eq!(cost.server_sent, 7 * 1_754_506 + 80);
    assert_eq!(cost.client_sent, 7 * 2_420_106 + 2048);
    assert_eq!(cost.rounds, 7 * 20 + 2);
    // Matrices, and a vector for each second norm.
    assert_eq!(c.setup_bytes(), 29_403_136 + 8 * 10 * 256 + 7 * 8 * 256);
}

pub(super) fn small(
    heads: &[Attention],
    activation: Activation,
    tokens: usize,
    width: usize,
) -> Architecture {
    let mut a = Architecture::cifar([RELU; 4], activation);
    a.shape = ops::BlockShape { tokens, width, heads: heads.len(), hidden: 48 };
    a.blocks.truncate(2);
    a.blocks.iter_mut().for_each(|b| b.heads = heads.to_vec());
    a
}

#[test]
fn small_models_of_all_kinds_follow_the_clear_model() {
    use Attention::{Power, SoftmaxCentred, SoftmaxMax};
    let cases = [
        (vec![SCALE, RELU], Activation::Gelu, 9, 32, 0.02),
        (vec![SoftmaxMax, SCALE, SoftmaxCentred, RELU], Activation::Square, 17, 64, 0.04),
        (vec![Power(2), Power(4)], Activation::Relu, 12, 24, 0.06),
        (vec![Power(6), Power(8), SCALE, SCALE], Activation::Gelu, 8, 96, 0.1),
        (vec![RELU, SCALE], Activation::Identity, 9, 32, 0.02),
    ];
    for (heads, activation, tokens, width, bound) in cases {
        let mut a = small(&heads, activation, tokens, width);
        let mut rng = fixed_rng(31);
        let (weights, x) = (Weights::random(&a, &mut rng), a.random_tokens(&mut rng));
        let tensors = prepare(&a, &weights).unwrap();
        let (want, ranges) = clear(&a, &weights, &x).unwrap();
        let inputs = a.encode(&x).unwrap();
        let got = both(&a.circuit().unwrap(), &tensors, &inputs, 32).remove(0);
        let error = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        println!("{:?} {error:.1e} {ranges:?}", a.blocks[0].heads);
        assert!(error < bound, "{:?} {error:e} {ranges:?}", a.blocks[0].heads);
        a.output = Output::Label;
        let label = both(&a.circuit().unwrap(), &tensors, &inputs, 33).remove(0);
        let best = (0..10).max_by(|&i, &j| got[i].total_cmp(&got[j])).unwrap();
        assert_eq!(label, [best as f64]);
    }
}

#[test]
fn fewer_dividing_heads_cost_less() {
    // mu from 1 to 0 in the CIFAR model, one head at a time: block by block, and scattered as a search leaves them.
    let whole = Architecture::cifar([RELU; 4], Activation::Gelu);
    for stride in [1, 5, 11] {
        let mut a = whole.clone();
        let price = |a: &Architecture| {
            let circuit = a.circuit().unwrap();
            (circuit.cost(), circuit.network_time(Network::WAN))
        };
        let mut before = price(&a);
        for i in 0..28 {
            // Kinds stand side by side in a circuit.
            let heads = &mut a.blocks[i * stride % 28 / 4].heads;
            let at = heads.iter().rposition(|h| *h == RELU).unwrap();
            heads[at] = SCALE;
            let (cost, wan) = price(&a);
            let (last, last_wan) = before;
            assert!(cost.server_sent < last.server_sent, "{stride} {i}");
            assert!(cost.client_sent < last.client_sent, "{stride} {i}");
            assert!(cost.offline.server < last.offline.server, "{stride} {i}");
            assert!(cost.offline.client < last.offline.client, "{stride} {i}");
            assert!(cost.rounds <= last.rounds && wan <= last_wan, "{stride} {i} {wan:?}");
            before = (cost, wan);
        }
        assert!(a.blocks.iter().all(|b| b.heads == [SCALE; 4]));
        assert_eq!(before.0.rounds, 7 * 18 + 2);
    }
}
