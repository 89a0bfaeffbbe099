//! A transformer block of MPCViT's order, its heads of any kinds, fused: scales add up between truncations.
//!
//! `x + attention(norm0(x))`, then `y = norm1(..)` becomes the residual stream, `y + W2 act(W1 y)`; the row mean of the stream comes with
//! every residual as one more column of the product before it.

use super::activation::gate;
use super::softmax::{denominator, weights};
use super::{Activation, Attention, SCALE, lift_to, normalise, reshape};
use crate::circuit::{Builder, Masked, Share, View};
use crate::error::{Error, Result};

/// Sizes of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShape {
    /// Tokens.
    pub tokens: usize,
    /// Features.
    pub width: usize,
    /// Heads; they divide the width.
    pub heads: usize,
    /// Features of the feed-forward layer.
    pub hidden: usize,
}

/// What a block computes.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockKind {
    /// Kind of every head. Heads of one kind must be neighbours: [`crate::model::prepare`] sorts the server's tensors.
    pub heads: Vec<Attention>,
    /// Activation of the feed-forward layer.
    pub activation: Activation,
    /// Added to the row sums of ReLU and powers; at least 2^-6.
    pub eps: f64,
    /// log2 of the bound on scores of powers: 3 to 6. Each bit costs one of their precision.
    pub score: u32,
    /// Scaled heads multiply q k' first, whatever the sizes: for models whose k' v has no calibrated bound.
    pub scores_first: bool,
    /// Added to variances.
    pub norm_eps: f64,
}

/// Scales inside a block.
const QKV: u32 = 13;
const OUT: u32 = 15;
const GAMMA: u32 = 12;
const W1: u32 = 14;

/// log2 of bounds that calibration must confirm.
const FEATURE: f64 = 5.0; // q, k, v, pre-activations: 32
const STREAM: f64 = 6.0; // what is added to the stream, and the stream

/// The stream and its row mean, both at [`SCALE`].
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    /// `[tokens, width]`
    pub x: Share,
    /// `[tokens, 1]`
    pub mean: Share,
}

/// Largest power of two at most n, its log2, and n over it.
fn octave(n: usize) -> (i32, f64) {
    let k = n.max(1).ilog2() as i32;
    (k, n as f64 / (k as f64).exp2())
}

/// What the server multiplies W_q by, per head kind, so that the circuit divides by powers of two only: sqrt(d_h) over its power of two.
#[must_use]
pub fn query_factor(head_width: usize) -> f64 {
    let (k, _) = octave(head_width);
    ((k / 2) as f64).exp2() / (head_width as f64).sqrt()
}

/// The same for W_k of scaled heads: 1/T.
#[must_use]
pub fn key_factor(tokens: usize) -> f64 {
    1.0 / octave(tokens).1
}

/// One block. The server's tensors are `{layer}.qkv`, `.qkv.bias`, `.out`, `.out.bias`, `.gamma` (of norm1), `.w1`, `.w1.bias`, `.w2`, `.w2.bias` (one `.ffn` and `.ffn.bias` without an
/// activation), as
/// [`crate::model::prepare`] makes them, `.stream.bias` being norm1's beta.
///
/// # Errors
/// [`Error::Unsupported`] for sizes that do not divide, [`Error::Range`].
pub fn block(
    b: &mut Builder,
    layer: &str,
    z: BlockShape,
    kind: &BlockKind,
    s: Stream,
) -> Result<Stream> {
    let d = z.width;
    if kind.heads.len() != z.heads || z.heads == 0 || !d.is_multiple_of(z.heads) {
        let detail = format!("{} kinds for {} heads of width {d}", kind.heads.len(), z.heads);
        return Err(Error::Unsupported { op: "block", detail });
    }
    let name = |part: &str| format!("{layer}.{part}");
    b.operator("norm0", layer);
    let normed = normalise(b, s.x, s.mean, kind.norm_eps)?;
    b.operator("qkv", layer);
    let w = b.weight(&name("qkv"), d, 3 * d, QKV);
    let qkv = b.linear(normed, w, FEATURE)?;
    let qkv = b.add_server(qkv, &name("qkv.bias"), FEATURE);
    let qkv = b.calibrate(qkv, FEATURE);
    let o = attention(b, layer, z, kind, qkv)?;
    b.operator("out", layer);
    let w = b.weight_with_mean(&name("out"), d, d, OUT);
    let a = b.linear(o, w, STREAM)?;
    let a = b.add_server_with_mean(a, &name("out.bias"), STREAM);
    let s = residual(b, z, a, s.x)?;

    b.operator("norm1", layer);
    let normed = normalise(b, s.x, s.mean, kind.norm_eps)?;
    let fused = kind.activation == Activation::Identity;
    let h = if fused {
        b.operator("ffn", layer);
        let w = b.weight_with_mean(&name("ffn"), d, d, OUT);
        b.linear(normed, w, STREAM)?
    } else {
        b.operator("w1", layer);
        let w = b.weight(&name("w1"), d, z.hidden, W1);
        b.linear(normed, w, FEATURE)?
    };
    // The affine part of norm1 reaches the stream through the message of this product.
    let y = b.diagonal(h, &name("gamma"), GAMMA, STREAM)?;
    let y = b.add_server(y, &name("stream.bias"), 2.0);
    let y = b.calibrate(y, STREAM);
    if fused {
        let a = b.add_server_with_mean(h, &name("ffn.bias"), STREAM);
        return residual(b, z, a, y);
    }
    let y = lift_to(b, y, SCALE)?;
    let h = b.add_server(h, &name("w1.bias"), FEATURE);
    let h = b.calibrate(h, FEATURE);
    b.operator("activation", layer);
    let h = b.open(h)?;
    let g = gate(b, h, kind.activation)?;
    b.operator("w2", layer);
    let w = b.weight_with_mean(&name("w2"), z.hidden, d, OUT);
    let a = b.linear(g, w, STREAM)?;
    let a = b.add_server_with_mean(a, &name("w2.bias"), STREAM);
    residual(b, z, a, y)
}

/// `x + a` and its row mean, from `a` with its mean in the last column; one opening.
fn residual(b: &mut Builder, z: BlockShape, a: Share, x: Share) -> Result<Stream> {
    let (t, d) = (z.tokens, z.width);
    let whole = View::of(&[t, d + 1]);
    let body = b.view(a, whole.clone().slice(1, 0, d)?)?;
    let mean = b.view(a, whole.slice(1, d, d + 1)?)?;
    // The column has 4 more bits of scale than the product.
    let mean = b.relabel(mean, -4)?;
    let mean = b.calibrate(mean, 2.0);
    let more = b.scale(body) - b.scale(x);
    let raised = b.raise_scale(x, more);
    let sum = b.add(body, raised)?;
    let sum = b.calibrate(sum, STREAM);
    let of_x = super::row_mean(b, x)?;
    let scale = b.scale(mean).max(b.scale(of_x));
    let [mean, of_x] = [mean, of_x].map(|m| {
        let more = scale - b.scale(m);
        b.raise_scale(m, more)
    });
    let mean = b.add(mean, of_x)?;
    let mean = b.calibrate(mean, 2.0);
    Ok(Stream { x: lift_to(b, sum, SCALE)?, mean: lift_to(b, mean, SCALE)? })
}

/// Runs of equal kinds: (kind, first head, heads).
fn groups(heads: &[Attention]) -> Vec<(Attention, usize, usize)> {
    let mut out: Vec<(Attention, usize, usize)> = Vec::new();
    for (i, &kind) in heads.iter().enumerate() {
        match out.last_mut() {
            Some((last, _, count)) if *last == kind => *count += 1,
            _ => out.push((kind, i, 1)),
        }
    }
    out
}

/// Heads `first .. first + count` of one of q, k, v: `[count, tokens, d_h]`.
fn cut(
    b: &mut Builder,
    z: BlockShape,
    qkv: Share,
    part: usize,
    heads: (usize, usize),
) -> Result<Masked> {
    let dh = z.width / z.heads;
    let from = part * z.width + heads.0 * dh;
    let view = View::of(&[z.tokens, 3 * z.width]).slice(1, from, from + heads.1 * dh)?;
    let x = b.view(qkv, view.split(1, dh)?.permute(&[1, 0, 2])?)?;
    b.open(x)
}

fn transpose(b: &mut Builder, x: Masked) -> Result<Masked> {
    let shape = b.shape(x).to_vec();
    b.view(x, View::of(&shape).permute(&[0, 2, 1])?)
}

/// Heads by kind: position in the circuit to position in the model. The columns of q, k, v and the rows of the product after
/// the heads must follow it.
#[must_use]
pub fn head_order(heads: &[Attention]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..heads.len()).collect();
    order.sort_by_key(|&h| (heads[h] == Attention::Scale, heads[h], h));
    order
}

/// All heads of `[tokens, 3 width]` queries, keys and values at scale 42, joined: `[tokens, width]`, not truncated. `kind.heads` is in the order of
/// the columns, kinds side by side.
///
/// # Errors
/// [`Error::Unsupported`] for sizes that do not divide, [`Error::Range`].
pub fn attention(
    b: &mut Builder,
    layer: &str,
    z: BlockShape,
    kind: &BlockKind,
    qkv: Share,
) -> Result<Share> {
    let mut parts = Vec::new();
    for (head, first, count) in groups(&kind.heads) {
        b.operator(label(head), layer);
        let heads = (first, count);
        let o = match head {
            Attention::Scale => scaled(b, z, qkv, heads, kind.scores_first)?,
            _ => normalised(b, z, qkv, heads, head, (kind.eps, kind.score))?,
        };
        let shape = b.shape(o).to_vec();
        let o = b.view(o, View::of(&shape).permute(&[1, 0, 2])?)?;
        parts.push(reshape(b, o, &[z.tokens, count * z.width / z.heads])?);
    }
    b.operator("out", layer);
    let scale = parts.iter().map(|&p| b.scale(p)).max().unwrap_or(SCALE);
    let parts: Vec<Share> = parts
        .into_iter()
        .map(|p| {
            let more = scale - b.scale(p);
            b.raise_scale(p, more)
        })
        .collect();
    b.concat(&parts, 1)
}

fn label(kind: Attention) -> &'static str {
    match kind {
        Attention::SoftmaxMax => "attention.softmax",
        Attention::SoftmaxCentred => "attention.softmax_centred",
        Attention::ReluSoftmax => "attention.relu_softmax",
        Attention::Power(2) => "attention.power2",
        Attention::Power(4) => "attention.power4",
        Attention::Power(6) => "attention.power6",
        Attention::Power(_) => "attention.power8",
        Attention::Scale => "attention.scale",
    }
}

/// Normalised heads.
///
/// 1. Open q, k (shrunk to scale 13), v (lifted).
/// 2. Scores, weights.
/// 3. Open weights and their sums; `P V` while the reciprocal is on its way.
/// 4. Late normalisation: `(P V) / sum`.
fn normalised(
    b: &mut Builder,
    z: BlockShape,
    qkv: Share,
    heads: (usize, usize),
    kind: Attention,
    (eps, score): (f64, u32),
) -> Result<Share> {
    let dh = z.width / z.heads;
    let (k_octave, _) = octave(dh);
    let down = b.scale(qkv) - 13;
    let (q, k, v) =
        (cut(b, z, qkv, 0, heads)?, cut(b, z, qkv, 1, heads)?, cut(b, z, qkv, 2, heads)?);
    let (q, k, v) = (b.shrink(q, down)?, b.shrink(k, down)?, b.lift(v, down)?);
    let wide = matches!(kind, Attention::SoftmaxCentred | Attention::SoftmaxMax);
    let (q, k) = if wide {
        // These need the scores in the full ring.
        let (q, k) = (b.lift(q, 0)?, b.lift(k, 0)?);
        (b.open(q)?, b.open(k)?)
    } else {
        (q, k)
    };
    let k = transpose(b, k)?;
    let s = b.matmul(q, k)?;
    let s = b.relabel(s, -(k_octave / 2))?;
    let s = b.calibrate(s, if wide { 4.0 } else { FEATURE });
    let p = weights(b, s, kind, score)?;
    let sum = denominator(b, p, kind, eps);
    let (p, sum, v) = (b.open(p)?, b.open(sum)?, b.open(v)?);
    let inverse = b.knots(sum, &super::reciprocal_knots()?)?;
    let inverse = lift_to(b, inverse, 14)?;
    let pv = b.matmul(p, v)?;
    let pv = b.calibrate(pv, 9.0 + FEATURE);
    let (pv, inverse) = (b.open(pv)?, b.open(inverse)?);
    let rows = b.shape(inverse).to_vec();
    let inverse = b.view(inverse, View::of(&rows).broadcast(2, dh)?)?;
    let o = b.mul(pv, inverse)?;
    Ok(b.calibrate(o, FEATURE))
}

/// Scaled heads, `q k' v / (T sqrt(d_h))`, in the order with fewer bytes: `q (k' v)` when d_h < T, else `(q k') v`.
fn scaled(
    b: &mut Builder,
    z: BlockShape,
    qkv: Share,
    heads: (usize, usize),
    scores_first: bool,
) -> Result<Share> {
    let dh = z.width / z.heads;
    let divide = -(octave(z.tokens).0 + octave(dh).0 / 2);
    let down = b.scale(qkv) - 13;
    // The first product has twice the scale of its factors and, divided by T sqrt(d_h), all of that below the point, in a ring as narrow as theirs:
    // 26 - 2 f + |divide| + 1 bits and one to spare must fit 35 - f, f the bits that the factors lose. Never less than 2: at scale 11.
    let fewer = 2.max(-divide - 7).unsigned_abs();
    let (q, k, v) =
        (cut(b, z, qkv, 0, heads)?, cut(b, z, qkv, 1, heads)?, cut(b, z, qkv, 2, heads)?);
    let settle = |b: &mut Builder, x: Share| {
        let x = b.relabel(x, divide)?;
        let x = b.calibrate(x, 0.0);
        let x = lift_to(b, x, 20)?;
        b.open(x)
    };
    let o = if dh < z.tokens && !scores_first {
        let (k, v) = (b.shrink(k, down + fewer)?, b.shrink(v, down + fewer)?);
        let q = b.lift(q, down)?;
        let q = b.open(q)?;
        let k = transpose(b, k)?;
        let kv = b.matmul(k, v)?;
        let kv = settle(b, kv)?;
        b.matmul(q, kv)?
    } else {
        let (q, k) = (b.shrink(q, down + fewer)?, b.shrink(k, down + fewer)?);
        let v = b.lift(v, down)?;
        let v = b.open(v)?;
        let k = transpose(b, k)?;
        let qk = b.matmul(q, k)?;
        let qk = settle(b, qk)?;
        b.matmul(qk, v)?
    };
    Ok(b.calibrate(o, FEATURE))
}
