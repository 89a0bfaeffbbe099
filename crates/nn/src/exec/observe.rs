//! Looking into a clear forward pass: the hook, and the calibration of ranges with it.

use crate::config::{ModelConfig, Range, Ranges};
use crate::graph::Node;
use crate::matrix::Matrix;
use crate::op::{LinearRole, NormIndex, Op};

/// Sees values of a clear forward pass as they appear. Every method does nothing unless implemented.
pub trait Observer {
    /// A node has been evaluated.
    fn value(&mut self, _node: &Node, _args: &[&Matrix], _value: &Matrix) {}
    /// Mean squares that a norm divides by, one per token, without eps.
    fn variances(&mut self, _layer: usize, _index: NormIndex, _variances: &[f64]) {}
    /// Scores of one query token in one head, one per key.
    fn scores(&mut self, _layer: usize, _head: usize, _scores: &[f64]) {}
    /// `eps + mean_j s^p` of one head, one per query token; of scaled heads too, which do not divide by it.
    fn denominators(&mut self, _layer: usize, _head: usize, _denominators: &[f64]) {}
}

/// Observes nothing.
impl Observer for () {}

/// Collects the calibrated ranges of a config from any number of forward passes with exact functions.
#[derive(Clone, Debug)]
pub struct RangeObserver {
    layers: Vec<Ranges>,
    logit_abs_max: f64,
    logit_difference_max: f64,
}

impl RangeObserver {
    /// Starts with empty ranges for a model of this config.
    #[must_use]
    pub fn new(config: &ModelConfig) -> Self {
        let empty = Range { min: f64::INFINITY, max: 0.0 };
        let layers = config.layers.iter().map(|layer| Ranges {
            score_abs_max: vec![0.0; layer.heads.len()],
            denominator: vec![empty; layer.heads.len()],
            norm1_variance: empty,
            norm2_variance: empty,
            activation_abs_max: 0.0,
            value_abs_max: 0.0,
            residual_abs_max: 0.0,
        });
        Self { layers: layers.collect(), logit_abs_max: 0.0, logit_difference_max: 0.0 }
    }

    /// Writes what was seen into `config`. Without a forward pass the config no longer validates.
    pub fn apply(&self, config: &mut ModelConfig) {
        for (layer, ranges) in config.layers.iter_mut().zip(&self.layers) {
            layer.ranges = ranges.clone();
        }
        config.logit_abs_max = self.logit_abs_max;
        self.apply_logit_difference(config);
    }

    /// Sees the logits of some inputs without a forward pass of its own.
    pub fn logits<'a>(&mut self, all: impl IntoIterator<Item = &'a [f64]>) {
        for row in all {
            let ends = row.iter().fold((f64::MAX, f64::MIN), |(l, h), &v| (l.min(v), h.max(v)));
            self.logit_difference_max = self.logit_difference_max.max(ends.1 - ends.0);
        }
    }

    /// Writes the largest difference of two logits of one input alone, for a model whose other ranges stand.
    pub fn apply_logit_difference(&self, config: &mut ModelConfig) {
        config.logit_difference_max =
            (self.logit_difference_max > 0.0).then_some(self.logit_difference_max);
    }

    fn residual(&mut self, layer: usize, x: &Matrix) {
        if let Some(ranges) = self.layers.get_mut(layer) {
            ranges.residual_abs_max = ranges.residual_abs_max.max(x.abs_max());
        }
    }
}

impl Range {
    fn include(&mut self, values: &[f64]) {
        for x in values {
            self.min = self.min.min(*x);
            self.max = self.max.max(*x);
        }
    }
}

impl Observer for RangeObserver {
    fn value(&mut self, node: &Node, args: &[&Matrix], value: &Matrix) {
        match (&node.op, args) {
            // The residual stream is what norms read; what enters a layer is also what the one before left.
            (Op::Norm { layer, index, .. }, [x]) => {
                self.residual(*layer, x);
                if let (NormIndex::First, Some(previous)) = (index, layer.checked_sub(1)) {
                    self.residual(previous, x);
                }
            }
            (Op::MeanPool | Op::FirstToken, [x]) => {
                self.residual(self.layers.len().wrapping_sub(1), x);
            }
            (Op::Linear { layer, role: LinearRole::Value, .. }, _) => {
                if let Some(ranges) = self.layers.get_mut(*layer) {
                    ranges.value_abs_max = ranges.value_abs_max.max(value.abs_max());
                }
            }
            (Op::Activation { layer, .. }, [h]) => {
                if let Some(ranges) = self.layers.get_mut(*layer) {
                    ranges.activation_abs_max = ranges.activation_abs_max.max(h.abs_max());
                }
            }
            (Op::Classifier { .. }, _) => {
                self.logit_abs_max = self.logit_abs_max.max(value.abs_max());
                self.logits((0..value.rows()).map(|r| value.row(r)));
            }
            _ => {}
        }
    }

    fn variances(&mut self, layer: usize, index: NormIndex, variances: &[f64]) {
        if let Some(ranges) = self.layers.get_mut(layer) {
            match index {
                NormIndex::First => ranges.norm1_variance.include(variances),
                NormIndex::Second => ranges.norm2_variance.include(variances),
            }
        }
    }

    fn scores(&mut self, layer: usize, head: usize, scores: &[f64]) {
        let head = self.layers.get_mut(layer).and_then(|l| l.score_abs_max.get_mut(head));
        if let Some(max) = head {
            *max = scores.iter().fold(*max, |m, s| m.max(s.abs()));
        }
    }

    fn denominators(&mut self, layer: usize, head: usize, denominators: &[f64]) {
        let head = self.layers.get_mut(layer).and_then(|l| l.denominator.get_mut(head));
        if let Some(range) = head {
            range.include(denominators);
        }
    }
}
