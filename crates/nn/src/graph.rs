//! The operator graph of a model: SSA, static shapes, architecture without weights.

use std::fmt;

use crate::config::{InputKind, LayerConfig, ModelConfig, NormOrder, Pooling};
use crate::error::{Error, Result};
use crate::op::{LinearRole, NormIndex, Op};
use crate::shape::Shape;

/// Names one value of a graph: the index of the node that makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

/// One operator applied to earlier values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Its own name in the graph.
    pub id: NodeId,
    /// What it does.
    pub op: Op,
    /// The values it reads, all earlier.
    pub args: Vec<NodeId>,
    /// Shape of its value.
    pub shape: Shape,
    /// Readable name, such as `layer.0.attention`.
    pub name: String,
}

/// Nodes in the order of execution; the last one is the output. `Debug` prints a table.
#[derive(Clone, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
}

/// Appends nodes, checking each against the shape rule of its operator.
#[derive(Debug, Default)]
pub struct GraphBuilder {
    nodes: Vec<Node>,
}

impl GraphBuilder {
    /// An empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `op` applied to `args` and returns the name of its value.
    ///
    /// # Errors
    /// `InvalidGraph` when an argument does not exist yet or the name is taken; as [`Op::shape`].
    pub fn push(&mut self, name: impl Into<String>, op: Op, args: &[NodeId]) -> Result<NodeId> {
        let name = name.into();
        let invalid =
            |detail: &str| Error::InvalidGraph { node: name.clone(), detail: detail.to_owned() };
        if self.nodes.iter().any(|n| n.name == name) {
            return Err(invalid("another node has this name"));
        }
        let mut shapes = Vec::with_capacity(args.len());
        for arg in args {
            let node =
                self.nodes.get(arg.0).ok_or_else(|| invalid("reads a value not yet made"))?;
            shapes.push(node.shape);
        }
        let shape = op.shape(&shapes)?;
        let id = NodeId(self.nodes.len());
        self.nodes.push(Node { id, op, args: args.to_vec(), shape, name });
        Ok(id)
    }

    /// The finished graph, whose output is the last node.
    ///
    /// # Errors
    /// `InvalidGraph` when it is empty, has no or several inputs, or computes a value that nobody reads.
    pub fn finish(self) -> Result<Graph> {
        let invalid = |node: &str, detail: &str| Error::InvalidGraph {
            node: node.to_owned(),
            detail: detail.to_owned(),
        };
        let inputs = self.nodes.iter().filter(|n| matches!(n.op, Op::Input { .. })).count();
        if inputs != 1 {
            return Err(invalid("graph", "needs exactly one input"));
        }
        let mut read = vec![false; self.nodes.len()];
        for arg in self.nodes.iter().flat_map(|n| &n.args) {
            read[arg.0] = true;
        }
        if let Some((_, others)) = self.nodes.split_last()
            && let Some(idle) = others.iter().find(|n| !read[n.id.0])
        {
            return Err(invalid(&idle.name, "its value is never read"));
        }
        Ok(Graph { nodes: self.nodes })
    }
}

impl Graph {
    /// The graph that a config describes.
    ///
    /// Node names: `input`, `embedding`, `embedding.center` (with an embedding norm also `embedding.norm`, and
    /// `embedding.norm.center` where the stream stays without norm), then per layer i `layer.i.norm1`,
    /// `layer.i.attention.query|key|value`, `layer.i.attention`, `layer.i.attention.output|center|add`,
    /// `layer.i.norm2`, `layer.i.ffn.in`, `layer.i.ffn.activation`, `layer.i.ffn.out|center|add`, then `pool` unless every
    /// token is classified, and `classifier`.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub fn from_config(config: &ModelConfig) -> Result<Self> {
        Self::until_logits(config)?.0.finish()
    }

    /// As [`Graph::from_config`], with a last node `label` whose value is the class alone.
    ///
    /// # Errors
    /// `InvalidConfig`; `ShapeMismatch` where every token is classified.
    pub fn label_only(config: &ModelConfig) -> Result<Self> {
        let (mut g, logits) = Self::until_logits(config)?;
        g.push("label", Op::LabelOnly { classes: config.classes.len() }, &[logits])?;
        g.finish()
    }

    fn until_logits(config: &ModelConfig) -> Result<(GraphBuilder, NodeId)> {
        config.validate()?;
        let mut g = GraphBuilder::new();
        let (tokens, input_size, width) = (config.tokens, config.input_size(), config.width);
        let input = g.push("input", Op::Input { shape: Shape::new(tokens, input_size) }, &[])?;
        let op = match config.input {
            InputKind::Text { vocabulary } => Op::TokenEmbedding { tokens, vocabulary, width },
            _ => Op::PatchEmbedding { tokens, input_size, width },
        };
        let embedding = g.push("embedding", op, &[input])?;
        let mut x = g.push("embedding.center", Op::Center, &[embedding])?;
        let structure = config.structure;
        if structure.embedding_norm {
            x = g.push("embedding.norm", Op::EmbeddingNorm { eps: config.norm_eps }, &[x])?;
            if structure.norm == NormOrder::Pre {
                x = g.push("embedding.norm.center", Op::Center, &[x])?;
            }
        }
        for (index, settings) in config.layers.iter().enumerate() {
            let mut layer = LayerBuilder { g: &mut g, config, index, settings };
            x = match structure.norm {
                NormOrder::Pre => layer.pre_norm(x)?,
                NormOrder::Post => layer.post_norm(x)?,
            };
        }
        let pooled = match structure.pooling {
            Pooling::Mean => g.push("pool", Op::MeanPool, &[x])?,
            Pooling::First => g.push("pool", Op::FirstToken, &[x])?,
            Pooling::Tokens => x,
        };
        let outputs = config.classes.len();
        let logits = g.push("classifier", Op::Classifier { inputs: width, outputs }, &[pooled])?;
        Ok((g, logits))
    }

    /// The nodes in the order of execution.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }
}

/// Appends the nodes of one layer.
struct LayerBuilder<'a> {
    g: &'a mut GraphBuilder,
    config: &'a ModelConfig,
    index: usize,
    settings: &'a LayerConfig,
}

impl LayerBuilder<'_> {
    fn push(&mut self, name: &str, op: Op, args: &[NodeId]) -> Result<NodeId> {
        self.g.push(format!("layer.{}.{name}", self.index), op, args)
    }

    fn linear(&mut self, name: &str, role: LinearRole, x: NodeId) -> Result<NodeId> {
        let (d, f) = (self.config.width, self.config.ffn);
        let (inputs, outputs) = match role {
            LinearRole::FfnIn => (d, f),
            LinearRole::FfnOut => (f, d),
            _ => (d, d),
        };
        self.push(name, Op::Linear { layer: self.index, role, inputs, outputs }, &[x])
    }

    fn norm(&mut self, name: &str, index: NormIndex, x: NodeId) -> Result<NodeId> {
        self.push(name, Op::Norm { layer: self.index, index, eps: self.config.norm_eps }, &[x])
    }

    /// Attention up to its output projection.
    fn attention(&mut self, u: NodeId) -> Result<NodeId> {
        let q = self.linear("attention.query", LinearRole::Query, u)?;
        let k = self.linear("attention.key", LinearRole::Key, u)?;
        let v = self.linear("attention.value", LinearRole::Value, u)?;
        let LayerConfig { ref heads, power, eps, shifted, .. } = *self.settings;
        let (heads, causal) = (heads.clone(), self.config.structure.causal);
        let op = Op::Attention { layer: self.index, heads, power, eps, shifted, causal };
        let attended = self.push("attention", op, &[q, k, v])?;
        self.linear("attention.output", LinearRole::Output, attended)
    }

    fn feed_forward(&mut self, n: NodeId) -> Result<NodeId> {
        let h = self.linear("ffn.in", LinearRole::FfnIn, n)?;
        let op = Op::Activation { layer: self.index, polynomial: self.settings.activation };
        let a = self.push("ffn.activation", op, &[h])?;
        self.linear("ffn.out", LinearRole::FfnOut, a)
    }

    /// Each branch reads a norm of the stream and is added to it, centred.
    fn pre_norm(&mut self, x: NodeId) -> Result<NodeId> {
        let u = self.norm("norm1", NormIndex::First, x)?;
        let output = self.attention(u)?;
        let centred = self.push("attention.center", Op::Center, &[output])?;
        let y = self.push("attention.add", Op::Add, &[x, centred])?;
        let read = if self.config.structure.parallel { x } else { y };
        let n = self.norm("norm2", NormIndex::Second, read)?;
        let out = self.feed_forward(n)?;
        let centred = self.push("ffn.center", Op::Center, &[out])?;
        self.push("ffn.add", Op::Add, &[y, centred])
    }

    /// Each branch reads the stream, and the sum is normalised.
    fn post_norm(&mut self, x: NodeId) -> Result<NodeId> {
        let output = self.attention(x)?;
        let sum = self.push("attention.add", Op::Add, &[x, output])?;
        let centred = self.push("attention.center", Op::Center, &[sum])?;
        let y = self.norm("norm1", NormIndex::First, centred)?;
        let out = self.feed_forward(y)?;
        let sum = self.push("ffn.add", Op::Add, &[y, out])?;
        let centred = self.push("ffn.center", Op::Center, &[sum])?;
        self.norm("norm2", NormIndex::Second, centred)
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.nodes.iter().map(|n| n.name.len()).max().unwrap_or(0).max(4);
        writeln!(f, "  id  {:width$}  {:<15}  {:<12}  args", "name", "op", "shape")?;
        for node in &self.nodes {
            let (id, name, op) = (node.id.0, &node.name, node.op.name());
            let shape = node.shape.to_string();
            let args: Vec<String> = node.args.iter().map(|a| format!("%{}", a.0)).collect();
            let args = args.join(" ");
            writeln!(f, "{:>4}  {name:width$}  {op:<15}  {shape:<12}  {args}", format!("%{id}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builder_refuses_what_does_not_fit() {
        let mut g = GraphBuilder::new();
        let x = g.push("x", Op::Input { shape: Shape::new(3, 4) }, &[]).unwrap();
        assert!(matches!(g.push("x", Op::Center, &[x]), Err(Error::InvalidGraph { .. })));
        assert!(matches!(g.push("y", Op::Center, &[NodeId(9)]), Err(Error::InvalidGraph { .. })));
        assert!(matches!(g.push("y", Op::Add, &[x]), Err(Error::InvalidGraph { .. })));
        let pooled = g.push("pooled", Op::MeanPool, &[x]).unwrap();
        assert!(matches!(g.push("y", Op::Add, &[x, pooled]), Err(Error::ShapeMismatch { .. })));
        let classifier = Op::Classifier { inputs: 5, outputs: 2 };
        assert!(matches!(g.push("y", classifier, &[pooled]), Err(Error::ShapeMismatch { .. })));
        g.push("idle", Op::Center, &[x]).unwrap();
        g.push("end", Op::Center, &[pooled]).unwrap();
        assert!(matches!(g.finish(), Err(Error::InvalidGraph { node, .. }) if node == "idle"));
    }
}
