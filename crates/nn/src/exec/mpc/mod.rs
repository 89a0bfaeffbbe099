//! The same graph between two parties: lowered to a circuit over shares.
//!
//! The client embeds and normalises as it does for the encrypted run; everything after that happens on shares. What the encrypted plan folds into
//! weights is folded here too: centring, gains and biases of norms, constant factors of scores. A learned quadratic
//! `a2 h^2 + a1 h + a0` is the square gate and a linear part `z W1 diag(a1) W2` that rides on the message of `z W1`; without an activation
//! `W1 W2` is one matrix. Scores of ReLU-softmax are divided by a power of two, and their eps with them, where row sums would
//! be too large: the weights stay what they are.

mod ranges;
mod tensors;

use crate::config::{Activation, HeadKind, LayerConfig, ModelConfig, Structure};
use crate::embedding::{ClientWeights, client_embedding};
use crate::error::{Error, Result};
use crate::graph::{Graph, Node};
use crate::matrix::Matrix;
use crate::op::{LinearRole, NormIndex, Op};
use crate::weights::Model;
use cipherform_mpc::ops::{self, BlockShape, lift_to};
use cipherform_mpc::{Builder, Circuit, Role, ServerModel, Share, Tensors, View, WeightMask};
use ranges::{ACTIVATION_LIMIT, FEATURE, LOGIT, STREAM, block_kind, unsupported};
use tensors::layer_tensors;

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
/// A model's plan between two parties: public, the same at both.
#[derive(Clone, Debug)]
pub struct MpcPlan {
    config: ModelConfig,
    output: MpcOutput,
    circuit: Circuit,
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

/// A node's value while the circuit is written.
#[derive(Clone, Copy)]
enum Value {
    /// Computed by the client before the circuit begins.
    Client,
    /// The residual stream, or a normalised or joined value, in shares.
    Share(Share),
    /// Hidden features and, beside them, the linear part of their activation if it has one.
    Hidden { features: Share, linear: Option<Share> },
    /// The result of both products without an activation between them, without bias.
    Fused(Share),
}

impl MpcPlan {
    /// Lowers the graph of `config`.
    ///
    /// # Errors
    /// `Unsupported` for structures other than the default, shifted or undivided powers, layers whose heads divide in two ways, activations above
    /// degree 2 and ranges outside the gates'; `InvalidConfig`; `Mpc` when a range does not fit a ring.
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

    /// Into the feed-forward block.
    fn hidden(&mut self, layer: usize, activation: Activation, z: Share) -> Result<Value> {
        let (t, d, f) = (self.config.tokens, self.config.width, self.config.ffn);
        let b = &mut self.b;
        if activation == Activation::None {
            let w = b.weight(&format!("layer.{layer}.ffn"), d, d, OUT);
            return Ok(Value::Fused(b.linear(z, w, STREAM)?));
        }
        // The linear part of a polynomial rides along.
        let beside = if activation == Activation::Gelu { 0 } else { d };
        let w = b.weight(&format!("layer.{layer}.in"), d, f + beside, FFN_IN);
        let y = b.linear(z, w, FEATURE)?;
        let whole = View::of(&[t, f + beside]);
        let (features, linear) = if beside == 0 {
            (y, None)
        } else {
            let features = b.view(y, whole.clone().slice(1, 0, f)?)?;
            (features, Some(b.view(y, whole.slice(1, f, f + d)?)?))
        };
        let features = b.add_server(features, &format!("layer.{layer}.in.bias"), FEATURE);
        Ok(Value::Hidden { features: b.calibrate(features, ACTIVATION_LIMIT.log2()), linear })
    }

    /// Out of it.
    fn joined(&mut self, layer: usize, features: Share, linear: Option<Share>) -> Result<Share> {
        let b = &mut self.b;
        let w = b.weight(&format!("layer.{layer}.ffn"), self.config.ffn, self.config.width, OUT);
        let mut y = b.linear(features, w, STREAM)?;
        if let Some(linear) = linear {
            y = b.add(y, linear)?;
            y = b.calibrate(y, STREAM);
        }
        Ok(b.add_server(y, &format!("layer.{layer}.ffn.bias"), STREAM))
    }

    fn node(&mut self, node: &Node, args: &[Value]) -> Result<Value> {
        let invalid = || Error::InvalidGraph {
            node: node.name.clone(),
            detail: "this executor does not know the order of operators".into(),
        };
        let (t, d) = (self.config.tokens, self.config.width);
        let config = self.config;
        let settings = |layer: usize| config.layers.get(layer).ok_or_else(invalid);
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
                    self.hidden(*layer, settings(*layer)?.activation, *z)?
                }
                (LinearRole::FfnOut, Value::Hidden { features, linear }) => {
                    Value::Share(self.joined(*layer, *features, *linear)?)
                }
                (LinearRole::FfnOut, Value::Fused(y)) => {
                    Value::Share(b.add_server(*y, &format!("layer.{layer}.ffn.bias"), STREAM))
                }
                _ => return Err(invalid()),
            },
            (Op::Attention { layer, .. }, [Value::Share(qkv), ..]) => {
                let settings = settings(*layer)?;
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
            (Op::Activation { .. }, [fused @ Value::Fused(_)]) => *fused,
            (Op::Activation { polynomial, .. }, [Value::Hidden { features, linear }]) => {
                let gelu = *polynomial == Activation::Gelu;
                let kind = if gelu { ops::Activation::Gelu } else { ops::Activation::Square };
                let m = b.open(*features)?;
                Value::Hidden { features: ops::gate(b, m, kind)?, linear: *linear }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::{ClearExecutor, Functions};
    use crate::random::{RandomModel, draw, random_input};
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
        let shape = RandomModel {
            tokens: 12,
            width: 24,
            heads: 3,
            layers: 2,
            seed: 5,
            ..RandomModel::default()
        };
        // Powers with a learned quadratic; then what a search finds: ReLU-softmax, scaled heads, GELU and none; softmax.
        let config = shape.generate().unwrap().config;
        let with = |heads: [[HeadKind; 3]; 2], activations: [Activation; 2]| {
            let mut config = config.clone();
            for ((layer, heads), act) in config.layers.iter_mut().zip(heads).zip(activations) {
                (layer.heads, layer.activation, layer.eps) = (heads.to_vec(), act, 0.02);
            }
            config
        };
        let (relu, scaled, softmax) = (HeadKind::Relu, HeadKind::Scaled, HeadKind::Softmax);
        let configs = [
            config.clone(),
            with([[relu; 3], [scaled, relu, scaled]], [Activation::Gelu, Activation::None]),
            with([[scaled; 3], [scaled; 3]], [Activation::None, Activation::Gelu]),
            with([[softmax; 3], [softmax; 3]], [Activation::Gelu, Activation::Gelu]),
        ];
        for (i, config) in configs.into_iter().enumerate() {
            let mut random = draw(config, 5).unwrap();
            for turn in 0..2 {
                let plan = MpcPlan::new(&random.config, MpcOutput::Logits).unwrap();
                let input = random_input(&random.config, 0, 1).unwrap();
                let exact = ClearExecutor::new(&random, Functions::Exact).unwrap();
                let want = exact.run(&input).unwrap();
                let got = between_two(&plan, &random, &input, 9);
                let error = got.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
                println!("random {i} {error:.1e}");
                assert!(error < 0.05, "{i} {error}");
                // Ranges that ask for ReLU-softmax to be scaled: the same function.
                let first = &random.config.layers[0];
                assert_eq!(ranges::relu_shift(&random.config, first) > 0, turn == 1 && i == 1);
                if i != 1 {
                    break;
                }
                for layer in &mut random.config.layers {
                    layer.ranges.score_abs_max = vec![40.0; 3];
                }
            }
        }
        let refused = |change: &dyn Fn(&mut LayerConfig)| {
            let mut config = config.clone();
            change(&mut config.layers[1]);
            let error = MpcPlan::new(&config, MpcOutput::Logits).err();
            matches!(error, Some(Error::Mpc(cipherform_mpc::Error::Unsupported { .. })))
        };
        assert!(refused(&|l| l.heads = vec![HeadKind::Power, HeadKind::Relu, HeadKind::Scaled]));
        assert!(refused(&|l| l.activation = Activation::Cubic));
        assert!(refused(&|l| l.ranges.residual_abs_max = 100.0));
        assert!(refused(&|l| {
            l.heads = vec![HeadKind::Softmax; 3];
            l.ranges.score_abs_max = vec![16.0; 3];
        }));
    }
}
