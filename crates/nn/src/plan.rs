//! The contract between client and server: parameter set, packing, inputs, keys by level, operators with their costs.
//!
//! A plan says *how* a model is evaluated and holds no weight. The client derives from it which keys to make and how to
//! pack; the server's program was lowered together with it.

use crate::calibrate::{CostTable, MachineCosts};
use crate::config::ModelConfig;
use crate::cost::{bootstrap_estimate, instruction_cost, peak_register_limbs, required_keys};
use crate::error::{Error, Result};
use crate::label::{self, LogitRange, Mode};
use crate::layout::Layout;
use crate::lower::{Head, InputSpec, Lowered, NORMALIZED, RESIDUAL, lower, refuse};
use crate::planner::{CrossingPrice, Scheduled, schedules};
use crate::program::Program;
use crate::weights::Model;
use cipherform_ckks::{Ciphertext, KeyKind, KeySpec, Parameters, SeededKey, SwitchingKey, presets};
use cipherform_exact::LabelParameters;
use cipherform_profile::Cost;
use num_complex::Complex64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The format tag of a serialised plan.
pub const PLAN_FORMAT: &str = "cipherform.plan/4";

/// Sets that a model may be planned for when none is named.
const CANDIDATES: [&str; 6] = ["lev14", "lev15", "lev16_36", "boot16", "boot16_deep", "boot16_hp"];

/// More keys than any plan of this planner needs: a few hundred.
const MAX_KEYS: usize = 2048;

/// More operators than any plan of this planner has.
const MAX_STEPS: usize = 1 << 14;

/// One operator of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepInfo {
    /// Operator name, e.g. `attention.scores`.
    pub operator: String,
    /// Layer, e.g. `layer.0`; empty outside layers.
    pub layer: String,
    /// Highest level it reads.
    pub level_in: usize,
    /// Level of its result.
    pub level_out: usize,
    /// log2 of its result's scale.
    pub log2_scale: f64,
    /// Predicted counts.
    pub cost: Cost,
    /// Predicted time on the machine that made the plan, in ms; 0 until [`Plan::price`].
    pub predicted_ms: f64,
}

/// Sizes of a plan, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Keys expanded in the server's memory.
    pub key_bytes: u64,
    /// Keys and inputs on the wire, serialised, without framing.
    pub upload_bytes: u64,
    /// Inputs of one inference on the wire.
    pub input_bytes: u64,
    /// The result of one inference on the wire.
    pub download_bytes: u64,
}

/// What the exact step at the end of a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelEnd {
    classes: usize,
    range: LogitRange,
}

/// How a model is evaluated under encryption.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    format: String,
    parameter_set: String,
    parameter_fingerprint: [u8; 32],
    layout: Layout,
    inputs: Vec<InputSpec>,
    output_level: usize,
    keys: Vec<KeySpec>,
    steps: Vec<StepInfo>,
    peak_register_limbs: usize,
    /// The exact end of a plan that answers with a label; absent in one that answers with logits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    label: Option<LabelEnd>,
}

/// How a model's program ends in a mode: the range that a label needs, and the head.
fn ending(model: &Model, params: &Parameters, mode: Mode) -> Result<(Option<LogitRange>, Head)> {
    match mode {
        Mode::Logits => Ok((None, Head::Logits)),
        Mode::Label => {
            let range = label::logit_range(model)?;
            let (_, factor) = label::step(model.config.classes.len(), params, range)?;
            Ok((Some(range), Head::Label { factor }))
        }
    }
}

impl Plan {
    /// Plans `model` for a parameter set, with the least time that a nominal machine would take.
    ///
    /// # Errors
    /// As [`Plan::for_machine`].
    pub fn build(model: &Model, params: &Parameters) -> Result<(Plan, Program)> {
        Self::for_machine(model, params, &MachineCosts::nominal(params.log_n()), Mode::Logits)
    }

    /// Plans `model` for a parameter set and an answer: of all choices of what to refresh, the one with the least predicted time.
    ///
    /// # Errors
    /// `NotCalibrated`, and the exact step's refusal of too many classes, where a label is asked for;
    /// `DoesNotFit` when a layout bound is exceeded, `LevelsInsufficient` when the model is too deep for the set,
    /// `StretchTooLong` when it is in spite of bootstrapping; all say by how much.
    pub fn for_machine(
        model: &Model,
        params: &Parameters,
        costs: &MachineCosts,
        mode: Mode,
    ) -> Result<(Plan, Program)> {
        let searched = Self::searched(model, params, costs, mode, None)?;
        Ok((searched.0, searched.1))
    }

    /// As [`Plan::for_machine`], with what the program was made from; with a price of crossings, a plan that crosses to shares
    /// where it would bootstrap.
    pub(crate) fn searched(
        model: &Model,
        params: &Parameters,
        costs: &MachineCosts,
        mode: Mode,
        crossing: Option<CrossingPrice<'_>>,
    ) -> Result<(Plan, Program, Scheduled)> {
        let (label, head) = ending(model, params, mode)?;
        let label = label.map(|range| LabelEnd { classes: model.config.classes.len(), range });
        let (layout, scheduled) = Self::fastest(model, params, costs, head, crossing)?;
        let lowered = |layout: &Layout| {
            lower(model, layout, scheduled.ladder.clone(), &scheduled.schedule, head)
        };
        let Lowered { mut program, inputs } = lowered(&layout)?;
        if model.config.input.is_variable() {
            // The shortest input differs from the longest in every constant that depends on the length.
            program.mark_varying(&lowered(&layout.with_tokens(1)?)?.program)?;
        }
        let bootstrap = bootstrap_estimate(params, &program)?;
        let mut steps = Vec::with_capacity(program.steps().len());
        for step in program.steps() {
            let mut cost = Cost::default();
            for instruction in &program.instructions()[step.instructions.clone()] {
                cost += instruction_cost(params, bootstrap.as_ref(), &program, instruction)?;
            }
            steps.push(StepInfo {
                operator: step.operator.clone(),
                layer: step.layer.clone(),
                level_in: step.level_in,
                level_out: step.level_out,
                log2_scale: step.scale_out.log2(),
                cost,
                predicted_ms: 0.0,
            });
        }
        let output_level = program.outputs().first().map_or(0, |&r| program.meta(r).level);
        let mut keys = required_keys(&program, bootstrap.as_ref(), params.slots());
        if let Some(LabelEnd { classes, range }) = label {
            let (step, _) = label::step(classes, params, range)?;
            keys.push(KeySpec::hand_over());
            steps.extend(step.stages().into_iter().map(|stage| StepInfo {
                operator: stage.stage.name().to_owned(),
                layer: String::new(),
                level_in: 0,
                level_out: 0,
                log2_scale: params.scale_at(0).log2(),
                cost: stage.cost,
                predicted_ms: 0.0,
            }));
        }
        let plan = Plan {
            format: PLAN_FORMAT.to_owned(),
            parameter_set: params.name().to_owned(),
            parameter_fingerprint: params.fingerprint(),
            layout,
            inputs,
            output_level,
            keys,
            steps,
            peak_register_limbs: peak_register_limbs(params, &program),
            label,
        };
        Ok((plan, program, scheduled))
    }

    /// The schedule with the least predicted time in the first layout that has one: P-tile, whose keys are a tenth in
    /// number, wherever a model fits it.
    fn fastest(
        model: &Model,
        params: &Parameters,
        costs: &MachineCosts,
        head: Head,
        crossing: Option<CrossingPrice<'_>>,
    ) -> Result<(Layout, Scheduled)> {
        let mut refusal = Error::Planner { op: "build", detail: "no schedule".into() };
        for layout in Layout::all(&model.config, params.slots()) {
            let found = layout.and_then(|layout| {
                if let Layout::Pair(_) = layout {
                    let hint = "ask for logits of an encrypted run alone, or use a model that fits layout P-tile";
                    let refusals = [
                        (crossing.is_some(), "crossing to shares in layout P-pair"),
                        (head != Head::Logits, "answering with a label in layout P-pair"),
                    ];
                    refuse(&refusals, hint)?;
                }
                let found = schedules(model, &layout, params, costs, head, crossing)?;
                Ok((layout, found.into_iter().next()))
            });
            match found {
                Ok((layout, Some(scheduled))) => return Ok((layout, scheduled)),
                Ok((_, None)) => {}
                // Too few levels in a layout that fits say more than that another one does not fit.
                Err(e) => {
                    if !matches!(
                        refusal,
                        Error::LevelsInsufficient { .. } | Error::StretchTooLong { .. }
                    ) {
                        refusal = e;
                    }
                }
            }
        }
        Err(refusal)
    }

    /// The secure set for which `model` has the least predicted time.
    ///
    /// # Errors
    /// The last candidate's refusal when none fits.
    pub fn choose_parameters(model: &Model, costs: &CostTable, mode: Mode) -> Result<Parameters> {
        let mut best: Option<(f64, Parameters)> = None;
        let mut refusal =
            Error::Planner { op: "choose_parameters", detail: "no candidates".into() };
        for name in CANDIDATES {
            let params = presets::get(name)?;
            let fastest = ending(model, &params, mode).and_then(|(_, head)| {
                Self::fastest(model, &params, &costs.of(&params), head, None)
            });
            match fastest {
                Err(e) => refusal = e,
                Ok((_, Scheduled { ms, .. })) => {
                    if best.as_ref().is_none_or(|(least, _)| ms < *least) {
                        best = Some((ms, params));
                    }
                }
            }
        }
        best.map(|(_, params)| params).ok_or(refusal)
    }

    /// Name of the parameter set.
    #[must_use]
    pub fn parameter_set(&self) -> &str {
        &self.parameter_set
    }

    /// Fingerprint of the parameter set.
    #[must_use]
    pub fn parameter_fingerprint(&self) -> [u8; 32] {
        self.parameter_fingerprint
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What the client encrypts, in order.
    #[must_use]
    pub fn inputs(&self) -> &[InputSpec] {
        &self.inputs
    }

    /// Highest level of the plan: where the first input enters.
    #[must_use]
    pub fn top_level(&self) -> usize {
        self.inputs.iter().map(|i| i.level).max().unwrap_or(0)
    }

    /// Level of the result.
    #[must_use]
    pub fn output_level(&self) -> usize {
        self.output_level
    }

    /// What it answers with.
    #[must_use]
    pub fn mode(&self) -> Mode {
        if self.label.is_some() { Mode::Label } else { Mode::Logits }
    }

    /// How far apart logits may be, if it answers with a label.
    #[must_use]
    pub fn logit_range(&self) -> Option<LogitRange> {
        self.label.map(|end| end.range)
    }

    /// The exact step at its end, if it answers with a label: its keys are one more object beside [`Plan::keys`]. A plan of
    /// this planner and a validated one have a step that exists.
    #[must_use]
    pub fn label_step(&self, params: &Parameters) -> Option<LabelParameters> {
        self.label.and_then(|end| LabelParameters::new(params, end.classes).ok())
    }

    /// The evaluation keys to make, each at the highest level of its use.
    #[must_use]
    pub fn keys(&self) -> &[KeySpec] {
        &self.keys
    }

    /// Operators in order.
    #[must_use]
    pub fn steps(&self) -> &[StepInfo] {
        &self.steps
    }

    /// Predicted counts of one inference.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.steps.iter().map(|s| s.cost).sum()
    }

    /// Predicted time of one inference in ms; 0 until priced.
    #[must_use]
    pub fn predicted_ms(&self) -> f64 {
        self.steps.iter().map(|s| s.predicted_ms).sum()
    }

    /// Writes predicted times on a machine of these costs into the plan, of which `program` is the program.
    ///
    /// # Errors
    /// As [`MachineCosts::steps_ms`].
    pub fn price(
        &mut self,
        params: &Parameters,
        program: &Program,
        costs: &MachineCosts,
    ) -> Result<()> {
        let label = self.label_step(params).map_or_else(Vec::new, |step| costs.label_ms(&step));
        let all = costs.steps_ms(params, program)?.into_iter().chain(label);
        for (step, ms) in self.steps.iter_mut().zip(all) {
            step.predicted_ms = ms;
        }
        Ok(())
    }

    /// The logits in the slots of the program's results: one a row; or in a plan that answers with a label, where nobody sees them
    /// but a simulation, the means of the slots.
    pub(crate) fn logits_of_slots(
        &self,
        config: &ModelConfig,
        params: &Parameters,
        out: &[Vec<Complex64>],
    ) -> Vec<f64> {
        let Some(LabelEnd { classes, range }) = self.label else {
            let slots = out.first().map_or(&[][..], Vec::as_slice);
            return self.layout.logits(config, slots).into_iter().flatten().collect();
        };
        let factor = label::step(classes, params, range).map_or(1.0, |(_, factor)| factor);
        let mean =
            |slots: &Vec<Complex64>| slots.iter().map(|z| z.re).sum::<f64>() / slots.len() as f64;
        out.iter().map(|slots| mean(slots) / factor).collect()
    }

    /// Bytes that the registers hold at their peak.
    #[must_use]
    pub fn peak_register_bytes(&self) -> u64 {
        (self.peak_register_limbs * self.layout.slots() * 2 * size_of::<u64>()) as u64
    }

    /// Exact sizes on the wire and of the expanded keys.
    #[must_use]
    pub fn sizes(&self, params: &Parameters) -> Sizes {
        let wire_keys: u64 =
            self.keys.iter().map(|&k| SeededKey::serialized_len(params, k) as u64).sum();
        let key_bytes: u64 =
            self.keys.iter().map(|&k| SwitchingKey::expanded_bytes(params, k)).sum();
        let input_bytes = self
            .inputs
            .iter()
            .map(|i| Ciphertext::serialized_len(params, i.level, 1, true) as u64)
            .sum();
        let (wire_label, label, reply) = match self.label_step(params) {
            Some(s) => (s.seeded_key_bytes() as u64, s.key_bytes(), s.label_bytes()),
            None => (0, 0, Ciphertext::serialized_len(params, self.output_level, 1, false)),
        };
        Sizes {
            key_bytes: key_bytes + label,
            upload_bytes: wire_keys + wire_label + input_bytes,
            input_bytes,
            download_bytes: reply as u64,
        }
    }

    /// Checks what arrived from outside against the architecture and the parameter set it names.
    ///
    /// # Errors
    /// `Malformed` when format, layout, levels, sizes or counts cannot belong to them.
    pub fn validate(&self, config: &ModelConfig, params: &Parameters) -> Result<()> {
        let fail = |detail: String| Err(Error::Malformed { what: "plan", detail });
        if self.format != PLAN_FORMAT {
            return fail(format!("format {:?}, this version reads {PLAN_FORMAT}", self.format));
        }
        if self.parameter_fingerprint != params.fingerprint() {
            return fail(format!("set {} has another fingerprint here", self.parameter_set));
        }
        // Layouts follow from the architecture alone, so nothing of this one is taken on trust.
        if !Layout::all(config, params.slots()).into_iter().flatten().any(|l| l == self.layout) {
            return fail("its layout is not the one of this architecture".into());
        }
        let top = params.max_level();
        let names: BTreeSet<(&str, usize)> =
            self.inputs.iter().map(|i| (i.name.as_str(), i.part)).collect();
        let known = names.iter().all(|(n, _)| [NORMALIZED, RESIDUAL].contains(n));
        if !known || names.len() != self.inputs.len() {
            return fail("inputs that no plan of this version has".into());
        }
        let fits = |i: &InputSpec| {
            i.level <= top && self.layout.takes(i, config.width) && i.factor.is_finite()
        };
        if !self.inputs.iter().all(fits) || self.output_level > top {
            return fail("an input or the output does not fit the set".into());
        }
        let kinds: BTreeSet<KeyKind> = self.keys.iter().map(|k| k.kind).collect();
        let in_range = |k: &KeySpec| match k.kind {
            KeyKind::Rotation(by) => by > 0 && (by as usize) < params.slots(),
            KeyKind::Relinearization | KeyKind::Conjugation | KeyKind::HandOver => true,
            KeyKind::DenseToSparse | KeyKind::SparseToDense => params.bootstrapping().is_some(),
        };
        if kinds.len() != self.keys.len() || kinds.len() > MAX_KEYS {
            return fail(format!("{} keys, at most {MAX_KEYS} different ones", self.keys.len()));
        }
        if !self.keys.iter().all(|k| k.level <= top && in_range(k)) {
            return fail("a key that the set does not have".into());
        }
        if let Some(LabelEnd { classes, range }) = self.label {
            label::step(classes, params, range)?;
            if classes != config.classes.len() {
                return fail("a label of other classes than the model's".into());
            }
            if self.output_level != 0 || !self.keys.contains(&KeySpec::hand_over()) {
                return fail("a label without the hand-over to it".into());
            }
        }
        let printable = |s: &str| s.len() <= 64 && !s.chars().any(char::is_control);
        if self.steps.len() > MAX_STEPS
            || !self.steps.iter().all(|s| printable(&s.operator) && printable(&s.layer))
        {
            return fail("operators that cannot be shown".into());
        }
        Ok(())
    }
}
