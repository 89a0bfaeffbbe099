//! The f64 forward pass: the oracle of every other executor.

use rayon::prelude::*;

use crate::error::Result;
use crate::exec::{Functions, Observer, ScalarFunctions};
use crate::graph::Graph;
use crate::matrix::Matrix;
use crate::op::{Op, OpContext};
use crate::weights::Model;

/// Runs a model's graph in f64.
#[derive(Debug)]
pub struct ClearExecutor<'a> {
    model: &'a Model,
    graph: Graph,
    functions: ScalarFunctions,
    /// Per node, the values that nobody reads after it.
    finished: Vec<Vec<usize>>,
}

impl<'a> ClearExecutor<'a> {
    /// Builds the graph and fits the scalar functions.
    ///
    /// # Errors
    /// `InvalidConfig`; `Approximation` when a calibrated range is too wide for the tolerance.
    pub fn new(model: &'a Model, functions: Functions) -> Result<Self> {
        let graph = Graph::from_config(&model.config)?;
        let functions = ScalarFunctions::new(&model.config, functions)?;
        let mut last_reader: Vec<usize> = (0..graph.nodes().len()).collect();
        for node in graph.nodes() {
            for arg in &node.args {
                last_reader[arg.0] = node.id.0;
            }
        }
        let mut finished = vec![Vec::new(); graph.nodes().len()];
        for (value, reader) in last_reader.iter().enumerate() {
            finished[*reader].push(value);
        }
        Ok(Self { model, graph, functions, finished })
    }

    /// The graph that is run.
    #[must_use]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The logits of one input `[T, input_size]`, or of n rows where lengths vary; of a model that classifies every token
    /// one row a token.
    ///
    /// # Errors
    /// As [`ModelConfig::check_input`](crate::ModelConfig::check_input); `UnknownToken`; `ShapeMismatch` for weights that
    /// do not fit the config.
    pub fn run(&self, input: &Matrix) -> Result<Vec<f64>> {
        self.run_observed(input, &mut ())
    }

    /// The logits of many inputs, in order, on all cores.
    ///
    /// # Errors
    /// As [`run`](Self::run), for the first input that fails.
    pub fn run_batch(&self, inputs: &[Matrix]) -> Result<Vec<Vec<f64>>> {
        inputs.par_iter().map(|input| self.run(input)).collect()
    }

    /// As [`run`](Self::run), with a look at every value.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_observed(&self, input: &Matrix, observer: &mut dyn Observer) -> Result<Vec<f64>> {
        self.model.config.check_input(input)?;
        let context = OpContext { weights: &self.model.weights, functions: &self.functions };
        let mut values: Vec<Option<Matrix>> = vec![None; self.graph.nodes().len()];
        let mut output = None;
        for node in self.graph.nodes() {
            let value = if let Op::Input { .. } = node.op {
                input.clone()
            } else {
                let args: Vec<&Matrix> =
                    node.args.iter().filter_map(|a| values.get(a.0)?.as_ref()).collect();
                let value = node.op.reference(&args, context, observer)?;
                observer.value(node, &args, &value);
                value
            };
            output = Some(node.id.0);
            values[node.id.0] = Some(value);
            for read in &self.finished[node.id.0] {
                if *read != node.id.0 {
                    values[*read] = None;
                }
            }
        }
        let logits = output.and_then(|id| values.get_mut(id)?.take());
        Ok(logits.map(Matrix::into_data).unwrap_or_default())
    }
}
