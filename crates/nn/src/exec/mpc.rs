//! The same graph between two parties: lowered to a circuit over shares.
//!
//! The client embeds and normalises as it does for the encrypted run; everything after that happens on shares. What the encrypted plan folds into
//! weights is folded here too: centring, gains and biases of norms, constant factors of scores. A learned quadratic
//! `a2 h^2 + a1 h + a0` is the square gate and a linear part `z W1 diag(a1) W2` that rides on the message of `z W1`.

use crate::config::{Activation, HeadKind, LayerConfig, ModelConfig, Structure};
use crate::embedding::{ClientWeights, client_embedding};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node};
use crate::matrix::Matrix;
use crate::op::{LinearRole, NormIndex, Op};
use crate::weights::{LayerWeights, LinearWeights, Model};
use cipherform_mpc::ops::{self, Attention, BlockKind, BlockShape, lift_to};
use cipherform_mpc::{Builder, Circuit, Role, ServerModel, Share, Tensors, View, WeightMask};

/// What the client learns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MpcOutput {
    /// The index of the largest logit; at most 15 classes.
    Label,
    /// The logits with their rounding: says more about the weights than a label, for experiments.
    Logits,
}

/// Fraction bits of products with the server's matrices: queries, keys and values; after the heads and the activation; into the
/// feed-forward block; the classifier.
const QKV: u32 = 13;
const OUT: u32 = 15;
const FFN_IN: u32 = 14;
const HEAD: u32 = 20;
/// Fraction bits of the first norm's result, which the client computes.
const NORMED: u32 = 29;
/// log2 of bounds: features, the stream, logits.
const FEATURE: f64 = 6.0;
const STREAM: f64 = 6.5;
const LOGIT: f64 = 5.0;
/// Input range of the square gate.
const ACTIVATION_LIMIT: f64 = 32.0;
/// Range of the reciprocal of row sums.
const ROW_SUM: (f64, f64) = (1.0 / 64.0, 512.0);

/// A model's plan between two parties: public, the same at both.
#[derive(Clone, Debug)]
pub struct MpcPlan {
    config: ModelConfig,
    output: MpcOutput,
    circuit: Circuit,
}

fn unsupported(what: &str, hint: &str) -> Error {
    let detail = format!("{what}; {hint}");
    Error::Mpc(cipherform_mpc::Error::Unsupported { op: "two-party plan", detail })
}

/// `layer.0` and `attention.query` of a node's name.
fn place(node: &Node) -> (&str, &str) {
    match node.name.match_indices('.').nth(1) {
        Some((at, _)) if node.name.starts_with("layer.") => {
            (&node.name[..at], &node.name[at + 1..])
        }
        _ => ("", &node.name),
    }
}

fn kind(head: HeadKind, power: u32) -> Attention {
    match head {
        HeadKind::Power | HeadKind::Undivided => Attention::Power(power),
        HeadKind::Scaled => Attention::Scale,
    }
}

/// Kinds in the model's order, and the order of the circuit.
fn heads(layer: &LayerConfig) -> (Vec<Attention>, Vec<usize>) {
    let kinds: Vec<Attention> = layer.heads.iter().map(|&h| kind(h, layer.power)).collect();
    let order = ops::head_order(&kinds);
    (kinds, order)
}

/// log2 of what powers of scores are divided by before they are summed: `(s / 2)^p`, or `(s / 4)^p` for p above 4.
fn power_shift(power: u32) -> u32 {
    if power > 4 { 2 } else { 1 }
}

/// How the attention of one layer is computed; refuses ranges the gates do not have.
fn block_kind(config: &ModelConfig, index: usize, layer: &LayerConfig) -> Result<BlockKind> {
    let at = |what: &str| format!("layer {index}: {what}");
    let widen = config.approximation.widen_top;
    let (kinds, order) = heads(layer);
    let unit = 2f64.powi((power_shift(layer.power) * layer.power) as i32) / config.tokens as f64;
    let mut score = 3;
    for (h, kind) in kinds.iter().enumerate() {
        let largest = layer.ranges.score_abs_max.get(h).copied().unwrap_or(0.0) * widen.sqrt();
        let needed = largest.max(1.0).log2().ceil() as u32;
        if needed > 6 {
            return Err(unsupported(
                &at(&format!("scores up to {largest:.0}")),
                "train with smaller scores",
            ));
        }
        if *kind == Attention::Scale {
            continue;
        }
        score = score.max(needed);
        let range = layer.ranges.denominator.get(h).map_or((1.0, 1.0), |r| (r.min, r.max));
        let (low, high) =
            (range.0 / unit / config.approximation.widen_bottom, range.1 / unit * widen);
        if low < ROW_SUM.0 || high >= ROW_SUM.1 {
            return Err(unsupported(
                &at(&format!("row sums between {low:.1e} and {high:.1e}")),
                "train with a larger eps or smaller scores",
            ));
        }
    }
    for (what, largest, log2) in [
        ("values", layer.ranges.value_abs_max, FEATURE),
        ("a stream", layer.ranges.residual_abs_max, STREAM),
    ] {
        if largest * widen >= log2.exp2() {
            let hint = format!("scale them below {:.0}", log2.exp2() / widen);
            return Err(unsupported(&at(&format!("{what} up to {largest:.0}")), &hint));
        }
    }
    if layer.activation != Activation::Quadratic {
        return Err(unsupported(
            &at("an activation of degree above 2"),
            "quadratics run on shares",
        ));
    }
    if layer.ranges.activation_abs_max * widen >= ACTIVATION_LIMIT {
        let largest = layer.ranges.activation_abs_max;
        return Err(unsupported(
            &at(&format!("pre-activations up to {largest:.0}")),
            "scale them below 16",
        ));
    }
    Ok(BlockKind {
        heads: order.iter().map(|&h| kinds[h]).collect(),
        activation: ops::Activation::Square,
        eps: layer.eps / unit,
        score,
        scores_first: true,
        norm_eps: config.norm_eps,
    })
}

/// A node's value while the circuit is written.
#[derive(Clone, Copy)]
enum Value {
    /// Computed by the client before the circuit begins.
    Client,
    /// The residual stream, or a normalised or joined value, in shares.
    Share(Share),
    /// Hidden features and, beside them, the linear part of their activation.
    Hidden { features: Share, linear: Share },
}

impl MpcPlan {
    /// Lowers the graph of `config`.
    ///
    /// # Errors
    /// `Unsupported` for structures other than the default, shifted or undivided powers, activations above degree 2 and ranges outside the gates'; `InvalidConfig`; `Mpc` when a range does not fit a ring.
    pub fn new(config: &ModelConfig, output: MpcOutput) -> Result<Self> {
        let undivided = |l: &LayerConfig| l.heads.contains(&HeadKind::Undivided);
        if config.structure != Structure::default() || config.input.is_variable() {
            let hint = "pre-norm encoders with mean pooling and inputs of one length run on shares";
            return Err(unsupported("this structure or an input of varying length", hint));
        }
        if config.layers.iter().any(|l| l.shifted || undivided(l)) {
            return Err(unsupported("shifted or undivided powers", "use power or scaled heads"));
        }
        let largest = config.logit_abs_max * config.approximation.widen_top;
        if largest >= LOGIT.exp2() {
            let hint = format!("at most {:.0} run on shares", LOGIT.exp2());
            return Err(unsupported(&format!("logits up to {largest:.0}"), &hint));
        }
        let graph = Graph::from_config(config)?;
        let mut lowering = Lowering { config, b: Builder::new(), qkv: None, input: None };
        let mut values: Vec<Value> = Vec::with_capacity(graph.nodes().len());
        for node in graph.nodes() {
            let (layer, name) = place(node);
            // Queries, keys and values are one product.
            let name = if matches!(name, "attention.query" | "attention.key" | "attention.value") {
                "attention.qkv"
            } else {
                name
            };
            lowering.b.operator(name, layer);
            let args: Vec<Value> =
                node.args.iter().filter_map(|a| values.get(a.0).copied()).collect();
            values.push(lowering.node(node, &args)?);
        }
        let Some(Value::Share(logits)) = values.last().copied() else {
            return Err(Error::InvalidGraph {
                node: "graph".into(),
                detail: "has no shared result".into(),
            });
        };
        let mut b = lowering.b;
        let out = match output {
            MpcOutput::Logits => logits,
            MpcOutput::Label => ops::argmax(&mut b, logits)?,
        };
        b.reveal(out, Role::Client);
        Ok(Self { config: config.clone(), output, circuit: b.build() })
    }

    /// The circuit: cost, plan hash, operators.
    #[must_use]
    pub fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// What the client learns.
    #[must_use]
    pub fn output(&self) -> MpcOutput {
        self.output
    }

    /// The client's inputs for one input `[T, input_size]`: the stream and its first norm.
    ///
    /// # Errors
    /// `ShapeMismatch`, `NotFinite`, `OutOfRange` for an input that would leave the calibrated range.
    pub fn encode(&self, client: &ClientWeights, input: &Matrix) -> Result<Vec<Vec<u64>>> {
        let embedded = client_embedding(&self.config, client, input)?;
        embedded.check_ranges(&self.config)?;
        Ok(vec![
            cipherform_mpc::encode_all(embedded.x.data(), ops::SCALE),
            cipherform_mpc::encode_all(embedded.u.data(), NORMED),
        ])
    }

    /// The label (one number) or the logits that the client received.
    #[must_use]
    pub fn decode(&self, words: &[u64]) -> Vec<f64> {
        let scale = match self.output {
            MpcOutput::Label => 0,
            MpcOutput::Logits => ops::SCALE + HEAD,
        };
        cipherform_mpc::decode_all(words, scale, 64)
    }

    /// The server's side of `model`, whose config must be this plan's.
    ///
    /// # Errors
    /// `InvalidConfig` for another model; `Mpc` when tensors do not fit.
    pub fn server(&self, model: &Model, mask: WeightMask) -> Result<ServerModel> {
        if model.config != self.config {
            let (expected, got) = (self.config.name.clone(), model.config.name.clone());
            return Err(Error::InvalidConfig { field: "model".into(), expected, got });
        }
        let mut tensors = Tensors::new();
        for (index, (layer, weights)) in
            model.config.layers.iter().zip(&model.weights.layers).enumerate()
        {
            layer_tensors(&mut tensors, &self.config, index, layer, weights)?;
        }
        let head = &model.weights.head;
        let share = 1.0 / self.config.tokens as f64;
        tensors.insert("head".into(), head.weight.data().iter().map(|w| w * share).collect());
        tensors.insert("head.bias".into(), head.bias.clone());
        Ok(ServerModel::new(&self.circuit, &tensors, mask)?)
    }
}

struct Lowering<'a> {
    config: &'a ModelConfig,
    b: Builder,
    /// Queries, keys and values of the current layer.
    qkv: Option<Share>,
    /// The first norm's result, an input of its own.
    input: Option<Share>,
}

impl Lowering<'_> {
    fn shape(&self, layer: &LayerConfig) -> BlockShape {
        let ModelConfig { tokens, width, ffn: hidden, .. } = *self.config;
        BlockShape { tokens, width, heads: layer.heads.len(), hidden }
    }

    fn node(&mut self, node: &Node, args: &[Value]) -> Result<Value> {
        let invalid = || Error::InvalidGraph {
            node: node.name.clone(),
            detail: "this executor does not know the order of operators".into(),
        };
        let (t, d, f) = (self.config.tokens, self.config.width, self.config.ffn);
        let b = &mut self.b;
        Ok(match (&node.op, args) {
            (Op::Input { .. } | Op::PatchEmbedding { .. }, _) => Value::Client,
            (Op::Center, [Value::Client]) => {
                let x = b.input(Role::Client, &[t, d], ops::SCALE, STREAM);
                self.input = Some(b.input(Role::Client, &[t, d], NORMED, STREAM));
                Value::Share(x)
            }
            // Centring is in the weights of the product before.
            (Op::Center, [value]) => *value,
            (Op::Norm { layer: 0, index: NormIndex::First, .. }, _) => {
                Value::Share(self.input.ok_or_else(invalid)?)
            }
            (Op::Norm { eps, .. }, [Value::Share(x)]) => {
                self.qkv = None;
                Value::Share(ops::normalise_centred(b, *x, *eps)?)
            }
            (Op::Linear { layer, role, .. }, [value]) => match (role, value) {
                (LinearRole::Query | LinearRole::Key | LinearRole::Value, Value::Share(u)) => {
                    if self.qkv.is_none() {
                        let w = b.weight(&format!("layer.{layer}.qkv"), d, 3 * d, QKV);
                        let y = b.linear(*u, w, FEATURE)?;
                        let y = b.add_server(y, &format!("layer.{layer}.qkv.bias"), FEATURE);
                        self.qkv = Some(b.calibrate(y, FEATURE));
                    }
                    Value::Share(self.qkv.ok_or_else(invalid)?)
                }
                (LinearRole::Output, Value::Share(o)) => {
                    let w = b.weight(&format!("layer.{layer}.out"), d, d, OUT);
                    let y = b.linear(*o, w, STREAM)?;
                    Value::Share(b.add_server(y, &format!("layer.{layer}.out.bias"), STREAM))
                }
                (LinearRole::FfnIn, Value::Share(z)) => {
                    let w = b.weight(&format!("layer.{layer}.in"), d, f + d, FFN_IN);
                    let y = b.linear(*z, w, FEATURE)?;
                    let whole = View::of(&[t, f + d]);
                    let features = b.view(y, whole.clone().slice(1, 0, f)?)?;
                    let features =
                        b.add_server(features, &format!("layer.{layer}.in.bias"), FEATURE);
                    let linear = b.view(y, whole.slice(1, f, f + d)?)?;
                    Value::Hidden {
                        features: b.calibrate(features, ACTIVATION_LIMIT.log2()),
                        linear,
                    }
                }
                (LinearRole::FfnOut, Value::Hidden { features, linear }) => {
                    let w = b.weight(&format!("layer.{layer}.ffn"), f, d, OUT);
                    let y = b.linear(*features, w, STREAM)?;
                    let y = b.add(y, *linear)?;
                    let y = b.calibrate(y, STREAM);
                    Value::Share(b.add_server(y, &format!("layer.{layer}.ffn.bias"), STREAM))
                }
                _ => return Err(invalid()),
            },
            (Op::Attention { layer, .. }, [Value::Share(qkv), ..]) => {
                let settings = self.config.layers.get(*layer).ok_or_else(invalid)?;
                let kind = block_kind(self.config, *layer, settings)?;
                let shape = self.shape(settings);
                Value::Share(ops::attention(
                    &mut self.b,
                    &format!("layer.{layer}"),
                    shape,
                    &kind,
                    *qkv,
                )?)
            }
            (Op::Activation { .. }, [Value::Hidden { features, linear }]) => {
                let m = b.open(*features)?;
                let features = ops::gate(b, m, ops::Activation::Square)?;
                Value::Hidden { features, linear: *linear }
            }
            (Op::Add, [Value::Share(x), Value::Share(y)]) => {
                let more = b.scale(*y).saturating_sub(b.scale(*x));
                let x = b.raise_scale(*x, more);
                let sum = b.add(x, *y)?;
                let sum = b.calibrate(sum, STREAM);
                Value::Share(lift_to(b, sum, ops::SCALE)?)
            }
            (Op::MeanPool, [Value::Share(x)]) => {
                // The division by T is in the classifier's weights.
                let columns = b.view(*x, View::of(&[t, d]).permute(&[1, 0])?)?;
                let sum = b.sum_last(columns);
                Value::Share(b.view(sum, View::of(&[1, d]))?)
            }
            (Op::Classifier { inputs, outputs }, [Value::Share(x)]) => {
                let w = b.weight("head", *inputs, *outputs, HEAD);
                let y = b.linear(*x, w, LOGIT)?;
                let y = b.add_server(y, "head.bias", LOGIT);
                Value::Share(b.calibrate(y, LOGIT))
            }
            _ => return Err(invalid()),
        })
    }
}

/// `v W`
fn times(v: &[f64], w: &Matrix) -> Vec<f64> {
    let mut out = vec![0.0; w.columns()];
    for (row, v) in v.iter().enumerate() {
        out.iter_mut().zip(w.row(row)).for_each(|(o, w)| *o += v * w);
    }
    out
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn centred(row: &[f64]) -> impl Iterator<Item = f64> + '_ {
    let mean = row.iter().sum::<f64>() / row.len().max(1) as f64;
    row.iter().map(move |w| w - mean)
}

fn rows(w: &Matrix) -> impl Iterator<Item = &[f64]> {
    (0..w.rows()).map(|r| w.row(r))
}

/// The tensors of one layer as the circuit names them.
fn layer_tensors(
    out: &mut Tensors,
    config: &ModelConfig,
    index: usize,
    layer: &LayerConfig,
    w: &LayerWeights,
) -> Result<()> {
    let (d, f) = (config.width, config.ffn);
    let (kinds, order) = heads(layer);
    let dh = d / kinds.len().max(1);
    let mut put =
        |part: &str, tensor: Vec<f64>| out.insert(format!("layer.{index}.{part}"), tensor);
    // The client applies gain and bias of the very first norm.
    let own = (index > 0).then_some(&w.norm1);
    let parts: [(&LinearWeights, f64, f64); 3] = [
        (&w.query, ops::query_factor(dh), ops::query_factor(dh)),
        (&w.key, 1.0, ops::key_factor(config.tokens)),
        (&w.value, 1.0, 1.0),
    ];
    // (part, column, factor) of every column of the circuit.
    let columns: Vec<(usize, usize, f64)> = (0..3)
        .flat_map(|part| order.iter().map(move |&h| (part, h)))
        .flat_map(|(part, h)| {
            let (_, normal, scaled) = parts[part];
            let factor = if kinds[h] == Attention::Scale { scaled } else { normal };
            (h * dh..(h + 1) * dh).map(move |c| (part, c, factor))
        })
        .collect();
    let mut qkv = Vec::with_capacity(3 * d * d);
    for row in 0..d {
        let gain = own.map_or(1.0, |n| n.gain[row]);
        qkv.extend(
            columns.iter().map(|(p, c, factor)| gain * factor * parts[*p].0.weight.row(row)[*c]),
        );
    }
    put("qkv", qkv);
    let biases = parts.map(|(linear, ..)| match own {
        Some(norm) => sum(&linear.bias, &times(&norm.bias, &linear.weight)),
        None => linear.bias.clone(),
    });
    put("qkv.bias", columns.iter().map(|(p, c, factor)| factor * biases[*p][*c]).collect());
    let kept = order.iter().flat_map(|h| h * dh..(h + 1) * dh);
    put("out", kept.flat_map(|r| centred(w.output.weight.row(r)).collect::<Vec<_>>()).collect());
    put("out.bias", centred(&w.output.bias).collect());

    let (a0, a1, a2) = (w.activation.row(0), w.activation.row(1), w.activation.row(2));
    let second: Vec<f64> =
        rows(&w.ffn_out.weight).flat_map(|r| centred(r).collect::<Vec<_>>()).collect();
    let second = Matrix::from_vec(f, d, second)?;
    let scaled = |v: &[f64], by: &[f64]| v.iter().zip(by).map(|(v, b)| v * b).collect::<Vec<_>>();
    let mut first = Vec::with_capacity(d * (f + d));
    for (row, gain) in rows(&w.ffn_in.weight).zip(&w.norm2.gain) {
        let row: Vec<f64> = row.iter().map(|w| w * gain).collect();
        first.extend_from_slice(&row);
        first.extend(times(&scaled(&row, a1), &second));
    }
    put("in", first);
    let bias = sum(&w.ffn_in.bias, &times(&w.norm2.bias, &w.ffn_in.weight));
    let constant = sum(&scaled(&bias, a1), a0);
    put("ffn", rows(&second).zip(a2).flat_map(|(r, a)| r.iter().map(move |w| w * a)).collect());
    put("ffn.bias", sum(&centred(&w.ffn_out.bias).collect::<Vec<_>>(), &times(&constant, &second)));
    put("in.bias", bias);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{ClearExecutor, Functions};
    use crate::random::{RandomModel, random_input};
    use cipherform_mpc::{Channel, Link, Model as Side, Prepared, deal, run, simulate};
    use rand_core::SeedableRng;
    use std::time::Duration;

    /// Both parties, the words the client received; predicted counters are compared on the way.
    fn between_two(plan: &MpcPlan, model: &Model, input: &Matrix, seed: u64) -> Vec<f64> {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
        let server = plan.server(model, WeightMask::random(&mut rng)).unwrap();
        let circuit = plan.circuit();
        let client = server.masked(circuit);
        let [s, c] = deal(circuit, server.mask(), &mut rng).unwrap();
        let inputs = plan.encode(&ClientWeights::from_model(model).unwrap(), input).unwrap();
        let [a, b] = Channel::pair();
        let party = |channel, side: Side<'_>, half, inputs: &[Vec<u64>], role| {
            let mut link = Link::new(channel, role, Duration::from_secs(20));
            let prepared = Prepared::new(circuit, &side, half)?;
            let out = run(circuit, &side, prepared, inputs, &mut link)?;
            assert_eq!(link.traffic().sent, circuit.cost().sent(role));
            Ok(out)
        };
        let (_, out) = simulate(
            || party(a, Side::Server(&server), s, &[], Role::Server),
            || party(b, Side::Client(&client), c, &inputs, Role::Client),
        )
        .unwrap();
        plan.decode(&out[0])
    }

    #[test]
    fn shipped_and_random_models_follow_the_clear_executor() {
        let shipped =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/fashion-mnist-vit");
        let shipped = Model::load(&shipped).unwrap();
        let samples = crate::data::samples().unwrap();
        let inputs: Vec<Matrix> = samples
            .iter()
            .map(|s| crate::data::patches(&shipped.config, &s.image).unwrap())
            .collect();
        let exact = ClearExecutor::new(&shipped, Functions::Exact).unwrap();
        let logits = MpcPlan::new(&shipped.config, MpcOutput::Logits).unwrap();
        let label = MpcPlan::new(&shipped.config, MpcOutput::Label).unwrap();
        for (i, input) in inputs.iter().enumerate() {
            let want = exact.run(input).unwrap();
            let got = between_two(&logits, &shipped, input, i as u64);
            let error = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
            println!("shipped {error:.1e}");
            assert!(error < 0.05, "{error}");
            let best = crate::argmax(&want) as f64;
            assert_eq!(between_two(&label, &shipped, input, i as u64), [best]);
        }
        let random = RandomModel {
            tokens: 12,
            width: 24,
            heads: 3,
            layers: 2,
            seed: 5,
            ..RandomModel::default()
        };
        let random = random.generate().unwrap();
        let plan = MpcPlan::new(&random.config, MpcOutput::Logits).unwrap();
        let input = random_input(&random.config, 0, 1).unwrap();
        let want = ClearExecutor::new(&random, Functions::Exact).unwrap().run(&input).unwrap();
        let got = between_two(&plan, &random, &input, 9);
        let error = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        println!("random {error:.1e}");
        assert!(error < 0.05, "{error}");
    }
}
