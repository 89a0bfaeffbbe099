//! The latency breakdown of a computation: what a report holds. How it is computed is in `aggregate`.
//!
//! A report is plain data with a versioned schema ([`SCHEMA`]): unknown fields are ignored when one is read, absent
//! optional ones are `None`. Times are milliseconds of wall time, sizes bytes, fractions lie in `[0, 1]`.

use crate::aggregate;
use crate::compare;
use crate::cost::{Cost, Counter};
use crate::error::{Error, Result};
use crate::recorder::Recording;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The schema this version writes and reads.
pub const SCHEMA: &str = "cipherform.profile/1";

/// What ran, and on what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    /// Model name.
    pub model: String,
    /// The weights are random: times are real, outputs mean nothing.
    pub random_weights: bool,
    /// Where the operators ran: `clear`, `he`, `mpc` or `hybrid`.
    pub backend: String,
    /// Tokens of one input.
    pub tokens: usize,
    /// Inputs that one run handled together.
    pub batch: usize,
    /// Parameter set; empty for a run in the clear.
    pub parameter_set: String,
    /// Security of the weakest key, in bits; `None` in the clear.
    pub security_bits: Option<f64>,
    /// Device, e.g. `cpu`.
    pub device: String,
    /// Processor or accelerator model, as the system names it.
    pub machine: String,
    /// Worker threads.
    pub threads: usize,
    /// Runs behind the medians; set from the recordings.
    pub runs: usize,
    /// Evaluation keys as held in memory.
    pub key_bytes: u64,
    /// Largest resident size of the process so far; see [`crate::peak_rss_bytes`].
    pub peak_rss_bytes: Option<u64>,
    /// Largest device memory in use, all of the process's; `None` without an accelerator. Set from the recordings.
    pub peak_vram_bytes: Option<u64>,
    /// Bytes the client sent: the input, and the keys where the run uploaded them.
    pub upload_bytes: u64,
    /// Bytes the client received for one inference.
    pub download_bytes: u64,
}

/// Median and spread over the runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// 50th percentile.
    pub median: f64,
    /// 10th percentile.
    pub p10: f64,
    /// 90th percentile.
    pub p90: f64,
}

/// Rounded to six decimals: nanoseconds in a figure of milliseconds. Short decimals also survive a JSON round trip.
pub(crate) fn tidy(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

impl Spread {
    /// Percentiles of `samples` by linear interpolation, rounded to six decimals; zeros when there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |fraction: f64| {
            let position = fraction * sorted.len().saturating_sub(1) as f64;
            let (low, high) = (position.floor() as usize, position.ceil() as usize);
            match (sorted.get(low), sorted.get(high)) {
                (Some(a), Some(b)) => a + (b - a) * position.fract(),
                _ => 0.0,
            }
        };
        Self { median: tidy(at(0.5)), p10: tidy(at(0.1)), p90: tidy(at(0.9)) }
    }
}

/// What a planner expects of one operator; calls of the same (name, layer) are summed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PredictedOperator {
    /// Operator name, as in its span.
    pub name: String,
    /// Layer, as in its span.
    pub layer: String,
    /// Predicted counters of all its calls.
    pub cost: Cost,
    /// Predicted wall time of all its calls.
    pub ms: Option<f64>,
}

/// What a planner expects of the whole run. What is `None` was not predicted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Prediction {
    /// One entry an operator.
    pub operators: Vec<PredictedOperator>,
    /// Wall time; the sum of the operators' when absent and all of them are known.
    pub ms: Option<f64>,
    /// Bytes of evaluation keys in memory.
    pub key_bytes: Option<u64>,
    /// Bytes sent by the client for one inference.
    pub upload_bytes: Option<u64>,
    /// Bytes received by the client for one inference.
    pub download_bytes: Option<u64>,
    /// Peak resident memory.
    pub peak_rss_bytes: Option<u64>,
    /// Peak device memory.
    pub peak_vram_bytes: Option<u64>,
}

/// What the spans of an operator cannot know: errors from a shadow run, traffic of a protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Annotation {
    /// Operator name, as in its span.
    pub name: String,
    /// Layer, as in its span.
    pub layer: String,
    /// log2 of the largest absolute error of the operator's result against the clear executor.
    pub error_bits: Option<f64>,
    /// Bytes both parties sent during the operator.
    pub bytes: Option<u64>,
    /// Message rounds of the operator.
    pub rounds: Option<u64>,
}

/// Time and work of one primitive, nested primitives excluded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrimitiveRow {
    /// Primitive name, e.g. `ntt`.
    pub name: String,
    /// Calls in one run.
    pub count: u64,
    /// Median wall time of one run, exclusive.
    pub ms: f64,
    /// Share of the wall time.
    pub share: f64,
    /// Work counted directly in the primitive.
    pub counters: Cost,
}

/// One operator: all calls of one (name, layer).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OperatorRow {
    /// Operator name.
    pub name: String,
    /// Layer; empty outside layers.
    pub layer: String,
    /// Shape of the result, free text.
    pub shape: String,
    /// Calls in one run.
    pub count: u64,
    /// Median wall time of one run, all calls; time inside nested operators belongs to those.
    pub ms: f64,
    /// Share of the wall time.
    pub share: f64,
    /// The same time of every run, in run order.
    pub runs_ms: Vec<f64>,
    /// Highest level of the inputs.
    pub level_in: Option<usize>,
    /// Lowest level of the results.
    pub level_out: Option<usize>,
    /// log2 of the last result's scale.
    pub log2_scale: Option<f64>,
    /// Counters of one run.
    pub counters: Cost,
    /// The planner's counters; `None` when it did not predict this operator.
    pub predicted_counters: Option<Cost>,
    /// The planner's time.
    pub predicted_ms: Option<f64>,
    /// Most device memory in use when the operator took some, all of the process's; `None` without an accelerator.
    pub peak_vram_bytes: Option<u64>,
    /// log2 of the largest absolute error, when a shadow run measured it.
    pub error_bits: Option<f64>,
    /// Bytes exchanged, for two-party operators.
    pub bytes: Option<u64>,
    /// Rounds, for two-party operators.
    pub rounds: Option<u64>,
    /// Where its time went, in order of first use.
    pub primitives: Vec<PrimitiveRow>,
}

/// One layer: the sum of its operators.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LayerRow {
    /// Layer name; empty for what lies outside layers.
    pub layer: String,
    /// Operators in it.
    pub operators: usize,
    /// Wall time.
    pub ms: f64,
    /// Share of the wall time.
    pub share: f64,
    /// Counters.
    pub counters: Cost,
    /// Predicted time; `None` unless every operator of the layer has one.
    pub predicted_ms: Option<f64>,
}

/// One bootstrap of the first run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BootstrapRow {
    /// The operator it happened in; empty outside operators.
    pub operator: String,
    /// That operator's layer.
    pub layer: String,
    /// Start since the run began.
    pub start_ms: f64,
    /// Wall time.
    pub ms: f64,
}

/// A part of the work around the recorded runs, e.g. `keygen` or `upload`; not part of the wall time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// What.
    pub name: String,
    /// How long.
    pub ms: f64,
    /// Bytes made or moved, where that says something.
    pub bytes: Option<u64>,
}

/// Totals of a run, predicted or observed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Wall time.
    pub ms: Option<f64>,
    /// Counters.
    pub counters: Cost,
    /// Evaluation keys in memory.
    pub key_bytes: Option<u64>,
    /// Bytes sent by the client.
    pub upload_bytes: Option<u64>,
    /// Bytes received by the client.
    pub download_bytes: Option<u64>,
    /// Peak resident memory.
    pub peak_rss_bytes: Option<u64>,
    /// Peak device memory.
    pub peak_vram_bytes: Option<u64>,
}

/// A promise that did not hold: prediction and observation differ in something that is exact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Discrepancy {
    /// A counter of an operator.
    Counter {
        /// Operator name.
        name: String,
        /// Its layer.
        layer: String,
        /// Which counter.
        counter: Counter,
        /// What the planner said.
        predicted: u64,
        /// What happened.
        observed: u64,
    },
    /// The planner named an operator that never ran.
    NotRun {
        /// Operator name.
        name: String,
        /// Its layer.
        layer: String,
    },
    /// An operator ran that the planner did not name.
    NotPredicted {
        /// Operator name.
        name: String,
        /// Its layer.
        layer: String,
    },
    /// Work was counted outside every operator, where no prediction can meet it.
    OutsideOperators {
        /// Which counter.
        counter: Counter,
        /// How much.
        observed: u64,
    },
    /// A counter of an operator is not the same in every run.
    RunsDiffer {
        /// Operator name.
        name: String,
        /// Its layer.
        layer: String,
        /// Which counter.
        counter: Counter,
        /// Its value in the first run.
        first: u64,
        /// A different one.
        other: u64,
        /// The run (from 0) that had it.
        run: usize,
    },
    /// A size that is exact by construction: keys, upload or download.
    Bytes {
        /// `key_bytes`, `upload_bytes` or `download_bytes`.
        what: String,
        /// What the planner said.
        predicted: u64,
        /// What happened.
        observed: u64,
    },
}

/// `name`, or `layer/name` inside a layer.
pub(crate) fn full_name(layer: &str, name: &str) -> String {
    if layer.is_empty() { name.to_owned() } else { format!("{layer}/{name}") }
}

impl fmt::Display for Discrepancy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counter { name, layer, counter, predicted, observed } => write!(
                f,
                "{}: {} {predicted} predicted, {observed} observed",
                full_name(layer, name),
                counter.name()
            ),
            Self::NotRun { name, layer } => {
                write!(f, "{}: predicted but never ran", full_name(layer, name))
            }
            Self::NotPredicted { name, layer } => {
                write!(f, "{}: ran but was not predicted", full_name(layer, name))
            }
            Self::OutsideOperators { counter, observed } => {
                write!(f, "outside operators: {} {observed} observed", counter.name())
            }
            Self::RunsDiffer { name, layer, counter, first, other, run } => write!(
                f,
                "{}: {} {first} in the first run, {other} in run {}",
                full_name(layer, name),
                counter.name(),
                run + 1
            ),
            Self::Bytes { what, predicted, observed } => {
                write!(f, "{what}: {predicted} predicted, {observed} observed")
            }
        }
    }
}

/// The latency breakdown of one computation, from one or more runs of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// What ran, and on what.
    pub header: Header,
    /// Wall time of a run.
    pub wall_ms: Spread,
    /// Wall time of every run, in run order.
    pub runs_ms: Vec<f64>,
    /// Share of the wall time inside operators: the operators' sum over the wall time, median over the runs.
    pub attributed_fraction: f64,
    /// Wall time outside every operator, median over the runs. Never part of a row.
    pub unattributed_ms: f64,
    /// Work counted outside every operator. Never part of a row.
    pub unattributed_counters: Cost,
    /// Spans of one run.
    pub spans: usize,
    /// What recording itself cost, as a share of the wall time, when it was measured.
    pub profiler_fraction: Option<f64>,
    /// Operators in order of first call.
    pub operators: Vec<OperatorRow>,
    /// Layers in order of first call.
    pub layers: Vec<LayerRow>,
    /// Primitives, inside and outside operators, in order of first call.
    pub primitives: Vec<PrimitiveRow>,
    /// Operator time outside every primitive: the operators' own code.
    pub outside_primitives_ms: f64,
    /// Bootstraps of the first run.
    pub bootstraps: Vec<BootstrapRow>,
    /// Work around the runs, such as key generation.
    pub phases: Vec<Phase>,
    /// What the planner expected; `None` when there was no prediction.
    pub predicted: Option<Totals>,
    /// What happened.
    pub observed: Totals,
    /// Counters that were compared; `limb_ntts` only when the planner predicts it.
    pub compared: Vec<Counter>,
    /// Every promise that did not hold; empty is the normal state.
    pub mismatches: Vec<Discrepancy>,
}

impl Report {
    /// A report on `recordings`, repeated runs of the same computation. `header.runs` is set from them.
    ///
    /// # Errors
    /// [`Error::NoRecordings`].
    pub fn new(header: Header, recordings: &[Recording]) -> Result<Self> {
        if recordings.is_empty() {
            return Err(Error::NoRecordings);
        }
        Ok(aggregate::report(header, recordings))
    }

    /// Puts the planner's figures beside the observed ones and lists what differs.
    #[must_use]
    pub fn with_prediction(mut self, prediction: &Prediction) -> Self {
        compare::compare(&mut self, prediction);
        self
    }

    /// The counters that occur in the report, predicted or observed.
    pub(crate) fn used_counters(&self) -> Vec<Counter> {
        let predicted = self.predicted.as_ref().map(|p| p.counters).unwrap_or_default();
        let used = |&c: &Counter| self.observed.counters.get(c) > 0 || predicted.get(c) > 0;
        Counter::ALL.into_iter().filter(used).collect()
    }

    /// Adds errors and traffic to the operators they name; entries without an operator are ignored.
    #[must_use]
    pub fn with_annotations(mut self, annotations: &[Annotation]) -> Self {
        for note in annotations {
            for row in &mut self.operators {
                if row.name == note.name && row.layer == note.layer {
                    row.error_bits = note.error_bits.or(row.error_bits);
                    row.bytes = note.bytes.or(row.bytes);
                    row.rounds = note.rounds.or(row.rounds);
                }
            }
        }
        self
    }

    /// Adds the work around the runs.
    #[must_use]
    pub fn with_phases(mut self, phases: Vec<Phase>) -> Self {
        self.phases = phases;
        self
    }

    /// States what recording cost, from the time one span takes (see [`crate::span_cost_ns`]).
    #[must_use]
    pub fn with_span_cost(mut self, nanoseconds: f64) -> Self {
        if self.wall_ms.median > 0.0 {
            self.profiler_fraction =
                Some(tidy(self.spans as f64 * nanoseconds / 1e6 / self.wall_ms.median));
        }
        self
    }

    /// The report as JSON, indented.
    ///
    /// # Errors
    /// [`Error::Json`] if the text could not be produced.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Reads a report.
    ///
    /// # Errors
    /// [`Error::Json`] for text that is not one, [`Error::Schema`] for another schema or version.
    pub fn from_json(text: &str) -> Result<Self> {
        // The schema first: a report of another version must say so rather than name a missing field.
        #[derive(Deserialize)]
        struct Probe {
            #[serde(default)]
            schema: String,
        }
        let probe: Probe = serde_json::from_str(text)?;
        if probe.schema != SCHEMA {
            return Err(Error::Schema { expected: SCHEMA, got: probe.schema });
        }
        Ok(serde_json::from_str(text)?)
    }
}
