//! The operator graph of a model: SSA, static shapes, architecture without weights.

use std::fmt;

use crate::config::{LayerConfig, ModelConfig};
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
    /// Node names: `input`, `embedding`, `embedding.center`, then per layer i `layer.i.norm1`,
    /// `layer.i.attention.query|key|value`, `layer.i.attention`, `layer.i.attention.output|center|add`,
    /// `layer.i.norm2`, `layer.i.ffn.in`, `layer.i.ffn.activation`, `layer.i.ffn.out|center|add`, then `pool` and
    /// `classifier`.
    ///
    /// # Errors
    /// `InvalidConfig`.
    pub fn from_config(config: &ModelConfig) -> Result<Self> {
        config.validate()?;
        let mut g = GraphBuilder::new();
        let (tokens, input_size, width) = (config.tokens, config.input_size(), config.width);
        let input = g.push("input", Op::Input { shape: Shape::new(tokens, input_size) }, &[])?;
        let embedding =
            g.push("embedding", Op::PatchEmbedding { tokens, input_size, width }, &[input])?;
        let mut x = g.push("embedding.center", Op::Center, &[embedding])?;
        for (i, layer) in config.layers.iter().enumerate() {
            x = push_layer(&mut g, config, i, layer, x)?;
        }
        let pooled = g.push("pool", Op::MeanPool, &[x])?;
        let outputs = config.classes.len();
        g.push("classifier", Op::Classifier { inputs: width, outputs }, &[pooled])?;
        g.finish()
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

fn push_layer(
    g: &mut GraphBuilder,
    config: &ModelConfig,
    layer: usize,
    settings: &LayerConfig,
    x: NodeId,
) -> Result<NodeId> {
    let at = |rest: &str| format!("layer.{layer}.{rest}");
    let (d, f, eps) = (config.width, config.ffn, config.norm_eps);
    let norm = |index| Op::Norm { layer, index, eps };
    let linear = |role, inputs, outputs| Op::Linear { layer, role, inputs, outputs };
    let u = g.push(at("norm1"), norm(NormIndex::First), &[x])?;
    let q = g.push(at("attention.query"), linear(LinearRole::Query, d, d), &[u])?;
    let k = g.push(at("attention.key"), linear(LinearRole::Key, d, d), &[u])?;
    let v = g.push(at("attention.value"), linear(LinearRole::Value, d, d), &[u])?;
    let heads = settings.heads.clone();
    let attention = Op::Attention { layer, heads, power: settings.power, eps: settings.eps };
    let attended = g.push(at("attention"), attention, &[q, k, v])?;
    let output = g.push(at("attention.output"), linear(LinearRole::Output, d, d), &[attended])?;
    let centred = g.push(at("attention.center"), Op::Center, &[output])?;
    let y = g.push(at("attention.add"), Op::Add, &[x, centred])?;
    let n = g.push(at("norm2"), norm(NormIndex::Second), &[y])?;
    let h = g.push(at("ffn.in"), linear(LinearRole::FfnIn, d, f), &[n])?;
    let activation = Op::Activation { layer, polynomial: settings.activation };
    let a = g.push(at("ffn.activation"), activation, &[h])?;
    let out = g.push(at("ffn.out"), linear(LinearRole::FfnOut, f, d), &[a])?;
    let centred = g.push(at("ffn.center"), Op::Center, &[out])?;
    g.push(at("ffn.add"), Op::Add, &[y, centred])
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
