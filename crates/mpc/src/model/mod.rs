//! A whole vision transformer of MPCViT's shape: embedded tokens in, label or logits out.

mod random;

use crate::circuit::{Builder, Circuit, View};
use crate::error::{Error, Result};
use crate::ops::{
    self, Activation, Attention, BlockKind, BlockShape, SCALE, Stream, activation_f64,
};
use crate::party::Tensors;
use crate::role::Role;

/// Fraction bits of the head's matrix.
const HEAD: u32 = 15;

/// What the client learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The index of the largest logit and nothing else.
    Label,
    /// All logits with their rounding. Says more about the weights than a label does; for experiments.
    Logits,
}

/// A model's public description.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Sizes of every block.
    pub shape: BlockShape,
    /// What each block computes; heads in any order.
    pub blocks: Vec<BlockKind>,
    /// Classes; 0 for no head (the stream of the last block is revealed to the client).
    pub classes: usize,
    /// What the client learns.
    pub output: Output,
}

impl Architecture {
    /// The CIFAR shape of MPCViT: 7 blocks of 65 tokens, 256 features, 4 heads, 512 hidden; every layer with these heads.
    #[must_use]
    pub fn cifar(heads: [Attention; 4], activation: Activation) -> Self {
        let shape = BlockShape { tokens: 65, width: 256, heads: 4, hidden: 512 };
        let kind = BlockKind {
            heads: heads.to_vec(),
            activation,
            eps: 0.125,
            score: 4,
            scores_first: false,
            norm_eps: 1e-5,
        };
        Self { shape, blocks: vec![kind; 7], classes: 10, output: Output::Logits }
    }

    /// The circuit: the client's input is the embedded tokens `[tokens, width]` and their row means, at scale 16; see
    /// [`Architecture::encode`].
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Unsupported`].
    pub fn circuit(&self) -> Result<Circuit> {
        let (t, d) = (self.shape.tokens, self.shape.width);
        let mut b = Builder::new();
        b.operator("input", "");
        let mut s = Stream {
            x: b.input(Role::Client, &[t, d], SCALE, 6.0),
            mean: b.input(Role::Client, &[t, 1], SCALE, 2.0),
        };
        for (i, kind) in self.blocks.iter().enumerate() {
            let mut kind = kind.clone();
            kind.heads =
                ops::head_order(&kind.heads).into_iter().map(|h| self.blocks[i].heads[h]).collect();
            s = ops::block(&mut b, &layer(i), self.shape, &kind, s)?;
        }
        if self.classes == 0 {
            b.reveal(s.x, Role::Client);
            return Ok(b.build());
        }
        b.operator("head", "");
        let first = b.view(s.x, View::of(&[t, d]).slice(0, 0, 1)?)?;
        let w = b.weight("head", d, self.classes, HEAD);
        let logits = b.linear(first, w, 5.0)?;
        let logits = b.add_server(logits, "head.bias", 3.0);
        let logits = b.calibrate(logits, 5.0);
        let out = match self.output {
            Output::Logits => logits,
            Output::Label => ops::argmax(&mut b, logits)?,
        };
        b.reveal(out, Role::Client);
        Ok(b.build())
    }

    /// Fraction bits of the logits, where they are the output.
    #[must_use]
    pub fn logit_scale(&self) -> u32 {
        SCALE + HEAD
    }

    /// The client's inputs from its embedded tokens.
    ///
    /// # Errors
    /// [`Error::Input`] for another number of values.
    pub fn encode(&self, tokens: &[f64]) -> Result<Vec<Vec<u64>>> {
        let (t, d) = (self.shape.tokens, self.shape.width);
        if tokens.len() != t * d {
            let detail = format!("{} values, expected {}", tokens.len(), t * d);
            return Err(Error::Input { what: "input", index: 0, detail });
        }
        let x = crate::encode_all(tokens, SCALE);
        let mean = x.chunks(d).map(|row| {
            let sum: i64 = row.iter().map(|x| *x as i64).sum();
            (sum as f64 / d as f64).round() as i64 as u64
        });
        Ok(vec![x.clone(), mean.collect()])
    }
}

fn layer(i: usize) -> String {
    format!("layer.{i}")
}

/// One block's weights as a checkpoint holds them. Matrices are row-major, input by output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockWeights {
    /// Scale and shift of the first norm.
    pub norm0: [Vec<f64>; 2],
    /// `[d, 3d]`: q, k, v, heads side by side in each.
    pub qkv: Vec<f64>,
    /// `[3d]`
    pub qkv_bias: Vec<f64>,
    /// `[d, d]`
    pub out: Vec<f64>,
    /// `[d]`
    pub out_bias: Vec<f64>,
    /// Scale and shift of the second norm, whose result is the residual stream.
    pub norm1: [Vec<f64>; 2],
    /// `[d, hidden]`
    pub w1: Vec<f64>,
    /// `[hidden]`
    pub w1_bias: Vec<f64>,
    /// `[hidden, d]`
    pub w2: Vec<f64>,
    /// `[d]`
    pub w2_bias: Vec<f64>,
    /// `a x^2 + b x + c` as `[c, b, a]`, for [`Activation::Square`].
    pub quadratic: [f64; 3],
}

/// A model's weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Weights {
    /// By layer.
    pub blocks: Vec<BlockWeights>,
    /// `[d, classes]`
    pub head: Vec<f64>,
    /// `[classes]`
    pub head_bias: Vec<f64>,
}

/// `v W` for one row.
fn row_times(v: &[f64], w: &[f64], columns: usize) -> Vec<f64> {
    let mut out = vec![0.0; columns];
    for (v, row) in v.iter().zip(w.chunks(columns)) {
        out.iter_mut().zip(row).for_each(|(o, w)| *o += v * w);
    }
    out
}

fn rows_scaled(w: &[f64], columns: usize, by: &[f64]) -> Vec<f64> {
    w.chunks(columns).zip(by).flat_map(|(row, s)| row.iter().map(move |w| w * s)).collect()
}

fn plus(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// The server's tensors as the circuit wants them: affine parts of norms folded into the next product, heads sorted by kind, constant factors of
/// scores in W_q and W_k, a learned quadratic's coefficients in the weights around the square.
///
/// # Errors
/// [`Error::Input`] when a tensor has another size than the architecture says; [`Error::Unsupported`] for a quadratic without its square.
pub fn prepare(a: &Architecture, w: &Weights) -> Result<Tensors> {
    let mut out = Tensors::new();
    let (d, f) = (a.shape.width, a.shape.hidden);
    let dh = d / a.shape.heads.max(1);
    for (i, (kind, w)) in a.blocks.iter().zip(&w.blocks).enumerate() {
        let sizes = [
            (w.norm0[0].len(), d),
            (w.norm0[1].len(), d),
            (w.qkv.len(), 3 * d * d),
            (w.qkv_bias.len(), 3 * d),
            (w.out.len(), d * d),
            (w.out_bias.len(), d),
            (w.norm1[0].len(), d),
            (w.norm1[1].len(), d),
            (w.w1.len(), d * f),
            (w.w1_bias.len(), f),
            (w.w2.len(), d * f),
            (w.w2_bias.len(), d),
        ];
        if let Some((got, expected)) = sizes.into_iter().find(|(got, expected)| got != expected) {
            let detail = format!("a tensor has {got} values, expected {expected}");
            return Err(Error::Input { what: "layer", index: i, detail });
        }
        let order = ops::head_order(&kind.heads);
        let mut columns: Vec<(usize, f64)> = Vec::with_capacity(3 * d);
        for part in 0..3 {
            for &head in &order {
                let factor = match part {
                    0 => ops::query_factor(dh),
                    1 if kind.heads[head] == Attention::Scale => ops::key_factor(a.shape.tokens),
                    _ => 1.0,
                };
                columns.extend((0..dh).map(|c| (part * d + head * dh + c, factor)));
            }
        }
        let bias = plus(&w.qkv_bias, &row_times(&w.norm0[1], &w.qkv, 3 * d));
        let pick = |row: &[f64]| columns.iter().map(|(c, f)| row[*c] * f).collect::<Vec<_>>();
        let folded = rows_scaled(&w.qkv, 3 * d, &w.norm0[0]);
        let mut put =
            |part: &str, tensor: Vec<f64>| out.insert(format!("layer.{i}.{part}"), tensor);
        put("qkv", folded.chunks(3 * d).flat_map(pick).collect());
        put("qkv.bias", pick(&bias));
        let rows = order.iter().flat_map(|h| h * dh..(h + 1) * dh);
        put("out", rows.flat_map(|r| w.out[r * d..(r + 1) * d].to_vec()).collect());
        put("out.bias", w.out_bias.clone());
        put("gamma", w.norm1[0].clone());
        put("stream.bias", w.norm1[1].clone());
        let [c, b1, a2] = w.quadratic;
        let mut hidden_bias = plus(&w.w1_bias, &row_times(&w.norm1[1], &w.w1, f));
        let (mut second, mut second_bias) = (w.w2.clone(), w.w2_bias.clone());
        if kind.activation == Activation::Square {
            if a2 == 0.0 {
                let detail = format!("layer {i}: the leading coefficient is zero");
                return Err(Error::Unsupported { op: "quadratic", detail });
            }
            // a (h + b / 2a)^2 + c - b^2 / 4a
            let shift = b1 / (2.0 * a2);
            hidden_bias = hidden_bias.iter().map(|h| h + shift).collect();
            let constant = vec![c - b1 * shift / 2.0; f];
            second_bias = plus(&second_bias, &row_times(&constant, &w.w2, d));
            second = second.iter().map(|w| w * a2).collect();
        }
        let first = rows_scaled(&w.w1, f, &w.norm1[0]);
        if kind.activation == Activation::Identity {
            put("ffn", first.chunks(f).flat_map(|row| row_times(row, &second, d)).collect());
            put("ffn.bias", plus(&second_bias, &row_times(&hidden_bias, &second, d)));
            continue;
        }
        put("w1", first);
        put("w1.bias", hidden_bias);
        put("w2", second);
        put("w2.bias", second_bias);
    }
    if a.classes > 0 {
        out.insert("head".into(), w.head.clone());
        out.insert("head.bias".into(), w.head_bias.clone());
    }
    Ok(out)
}

/// What a clear run saw, to compare with the ranges the circuit assumes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ranges {
    /// Largest |feature| of q, k, v and pre-activations; must stay below 32.
    pub feature: f64,
    /// Largest |score| of a normalised head; below 32, and below 16 for powers and exp.
    pub score: f64,
    /// Smallest and largest row sum of ReLU and power weights plus eps; within [2^-6, 2^9).
    pub row_sum: Option<(f64, f64)>,
    /// Largest |stream|; below 64.
    pub stream: f64,
}

/// The same function in f64: logits, or the stream without a head, and the ranges met.
///
/// # Errors
/// [`Error::Input`] for another number of values.
pub fn clear(a: &Architecture, w: &Weights, tokens: &[f64]) -> Result<(Vec<f64>, Ranges)> {
    let (t, d, f) = (a.shape.tokens, a.shape.width, a.shape.hidden);
    a.encode(tokens)?;
    let mut ranges = Ranges::default();
    let top = |m: &mut f64, x: &[f64]| *m = x.iter().fold(*m, |m, x| m.max(x.abs()));
    let mut x = tokens.to_vec();
    for (kind, w) in a.blocks.iter().zip(&w.blocks) {
        let z = norm(&x, d, kind.norm_eps, &w.norm0);
        let qkv: Vec<f64> =
            z.chunks(d).flat_map(|r| plus(&row_times(r, &w.qkv, 3 * d), &w.qkv_bias)).collect();
        top(&mut ranges.feature, &qkv);
        let o = heads(a, kind, &qkv, &mut ranges);
        let o: Vec<f64> =
            o.chunks(d).flat_map(|r| plus(&row_times(r, &w.out, d), &w.out_bias)).collect();
        let y = norm(&plus(&x, &o), d, kind.norm_eps, &w.norm1);
        let h: Vec<f64> =
            y.chunks(d).flat_map(|r| plus(&row_times(r, &w.w1, f), &w.w1_bias)).collect();
        top(&mut ranges.feature, &h);
        let g: Vec<f64> =
            h.iter().map(|&h| activation_f64(kind.activation, w.quadratic, h)).collect();
        let g: Vec<f64> =
            g.chunks(f).flat_map(|r| plus(&row_times(r, &w.w2, d), &w.w2_bias)).collect();
        x = plus(&y, &g);
        top(&mut ranges.stream, &x);
    }
    debug_assert_eq!(x.len(), t * d);
    let out = match a.classes {
        0 => x,
        n => plus(&row_times(&x[..d], &w.head, n), &w.head_bias),
    };
    Ok((out, ranges))
}

fn norm(x: &[f64], d: usize, eps: f64, affine: &[Vec<f64>; 2]) -> Vec<f64> {
    x.chunks(d)
        .flat_map(|row| {
            let mean = row.iter().sum::<f64>() / d as f64;
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / d as f64;
            let inverse = (var + eps).sqrt().recip();
            let affine = affine[0].iter().zip(&affine[1]);
            row.iter().zip(affine).map(move |(x, (g, b))| (x - mean) * inverse * g + b)
        })
        .collect()
}

fn heads(a: &Architecture, kind: &BlockKind, qkv: &[f64], ranges: &mut Ranges) -> Vec<f64> {
    let (t, d) = (a.shape.tokens, a.shape.width);
    let dh = d / a.shape.heads;
    let mut out = vec![0.0; t * d];
    for (head, &attention) in kind.heads.iter().enumerate() {
        let at = |part: usize, row: usize| &qkv[row * 3 * d + part * d + head * dh..][..dh];
        for i in 0..t {
            let scores: Vec<f64> = (0..t)
                .map(|j| {
                    at(0, i).iter().zip(at(1, j)).map(|(q, k)| q * k).sum::<f64>()
                        / (dh as f64).sqrt()
                })
                .collect();
            let max = scores.iter().copied().fold(f64::MIN, f64::max);
            let p: Vec<f64> = scores
                .iter()
                .map(|s| match attention {
                    Attention::ReluSoftmax => s.max(0.0),
                    Attention::Power(p @ (2 | 4)) => (s / 2.0).powi(p as i32),
                    Attention::Power(p) => (s / 4.0).powi(p as i32),
                    Attention::Scale => *s,
                    _ => (s - max).exp(),
                })
                .collect();
            let sum = match attention {
                Attention::Scale => t as f64,
                Attention::ReluSoftmax | Attention::Power(_) => {
                    let sum = p.iter().sum::<f64>() + kind.eps;
                    let (low, high) = ranges.row_sum.unwrap_or((sum, sum));
                    ranges.row_sum = Some((low.min(sum), high.max(sum)));
                    sum
                }
                _ => p.iter().sum(),
            };
            if attention != Attention::Scale {
                ranges.score = scores.iter().fold(ranges.score, |m, s| m.max(s.abs()));
            }
            for (j, p) in p.iter().enumerate() {
                let row = out[i * d + head * dh..].iter_mut().take(dh);
                row.zip(at(2, j)).for_each(|(o, v)| *o += p / sum * v);
            }
        }
    }
    out
}
