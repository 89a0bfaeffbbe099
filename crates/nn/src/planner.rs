//! Which ciphertexts to refresh and where the results land: an exact search for the least predicted time.
//!
//! Between two sources (inputs and refreshed ciphertexts) and what they lead to, levels only fall, so once the *points* of
//! refreshing are chosen, the least level of every source follows from the results backwards ([`needs`]), and no lower
//! schedule exists; a lower level is not slower, but for the drop to it, a fraction of a rotation. Only the residual stream passes from one layer to the next, so the
//! choices of layers meet in one number, its level: a dynamic programme from the last layer to the first, whose states are
//! the levels that a layer may require of the stream, and whose steps try every subset of the layer's points. What a choice
//! costs is the price of the layer's own program, written as a sketch, so there is no second model of the lowering.

use crate::approx::LayerApproximations;
use crate::calibrate::MachineCosts;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::lower::{Head, LayerSchedule, RefreshPoint, Schedule, approximations, sketch_layer};
use crate::program::{Instruction, Ladder, Opcode, Program, Refreshing, Register, Step, needs};
use crate::weights::Model;
use cipherform_ckks::{BootstrapEstimate, BootstrapOptions, Parameters, Seam};
use std::collections::{BTreeMap, HashMap};

/// Levels that sketches on an endless ladder start from: more than any layer consumes.
const ENDLESS: usize = 1024;

/// A schedule with what it is expected to take.
#[derive(Clone, Debug)]
pub(crate) struct Scheduled {
    pub(crate) schedule: Schedule,
    pub(crate) ladder: Ladder,
    pub(crate) head: Head,
    /// Predicted milliseconds.
    pub(crate) ms: f64,
}

/// The layers from one on, if the stream enters at a level.
#[derive(Clone, Debug)]
struct Tail {
    ms: f64,
    layers: Vec<LayerSchedule>,
}

/// Milliseconds of one crossing of a program.
pub(crate) type CrossingPrice<'a> = &'a dyn Fn(&Program, &Instruction) -> Result<f64>;

/// log2 of a bound on what enters crossings, for the level below which none is planned.
const CROSSING_BOUND: f64 = 2.0;

/// All schedules worth having for a set, the fastest first: each has the least time for the level at which its input enters.
///
/// # Errors
/// [`Error::LevelsInsufficient`] or [`Error::StretchTooLong`] when no choice of refreshes makes the model fit.
pub(crate) fn schedules(
    model: &Model,
    layout: &Layout,
    params: &Parameters,
    costs: &MachineCosts,
    head: Head,
    crossing: Option<CrossingPrice<'_>>,
) -> Result<Vec<Scheduled>> {
    let options = BootstrapOptions::default();
    let bootstraps = params.bootstrapping().filter(|_| crossing.is_none());
    let bootstrap = bootstraps.map(|_| BootstrapEstimate::new(params, options)).transpose()?;
    let refreshing = if crossing.is_some() {
        let top = params.max_level();
        let level = Seam::level(params, params.scale_at(1), CROSSING_BOUND, top)?;
        Some(Refreshing::crossing(params, level))
    } else {
        bootstrap.as_ref().map(|b| Refreshing::new(options, b))
    };
    let ladder = Ladder::real(params, refreshing);
    let approximations = approximations(model)?;
    let approximations = &approximations;
    let mut search = Search {
        model,
        layout,
        params,
        costs,
        crossing,
        ladder,
        bootstrap,
        approximations,
        head,
        kinds: Vec::new(),
        known: HashMap::new(),
    };
    search.kinds = search.kinds()?;
    let mut tails = BTreeMap::from([(0, Tail { ms: 0.0, layers: Vec::new() })]);
    for index in (0..model.config.layers.len()).rev() {
        tails = search.layer(index, &tails)?;
        if tails.is_empty() {
            return Err(search.refusal());
        }
    }
    let mut found: Vec<Scheduled> = tails
        .into_iter()
        .map(|(input, Tail { ms, layers })| Scheduled {
            schedule: Schedule { input, layers },
            ladder: search.ladder.clone(),
            head,
            ms,
        })
        .collect();
    found.sort_by(|a, b| a.ms.total_cmp(&b.ms));
    Ok(found)
}

struct Search<'a> {
    model: &'a Model,
    layout: &'a Layout,
    params: &'a Parameters,
    costs: &'a MachineCosts,
    crossing: Option<CrossingPrice<'a>>,
    ladder: Ladder,
    bootstrap: Option<BootstrapEstimate>,
    approximations: &'a [LayerApproximations],
    head: Head,
    /// For each layer the first whose programs cost the same.
    kinds: Vec<usize>,
    /// What is known of a kind, a choice of points and a level of the result.
    known: HashMap<(usize, usize, usize), Option<Choice>>,
}

/// The least levels of a layer's sources, and its price there.
#[derive(Clone, Debug)]
struct Choice {
    input: usize,
    schedule: LayerSchedule,
    ms: f64,
}

/// Whether two programs run the same operations on the same registers, whatever their constants and numbers are.
fn alike(a: &Program, b: &Program) -> bool {
    let operation = |i: &Instruction| (std::mem::discriminant(&i.op), i.args.clone());
    let same = a.instructions().iter().map(operation).eq(b.instructions().iter().map(operation));
    let degrees = |p: &Program| p.polynomials().iter().map(Vec::len).collect::<Vec<_>>();
    same && degrees(a) == degrees(b)
}

impl Search<'_> {
    /// Layers that differ in weights and ranges alone are priced once.
    fn kinds(&self) -> Result<Vec<usize>> {
        if self.crossing.is_some() {
            // What a crossing costs depends on its numbers, too.
            return Ok((0..self.model.config.layers.len()).collect());
        }
        let mut seen: Vec<(usize, Program)> = Vec::new();
        let mut kinds = Vec::new();
        for index in 0..self.model.config.layers.len() {
            let program = self.endless(index, &RefreshPoint::ALL)?;
            let known = seen.iter().find(|(_, other)| alike(other, &program));
            kinds.push(known.map_or(index, |&(kind, _)| kind));
            if known.is_none() {
                seen.push((index, program));
            }
        }
        Ok(kinds)
    }

    /// A layer with the `number`-th choice of its points and a result at level `out`.
    fn choice(
        &mut self,
        index: usize,
        number: usize,
        points: &[RefreshPoint],
        depths: &mut Option<Program>,
        out: usize,
    ) -> Result<Option<Choice>> {
        let key = (self.kinds[index], number, out);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let last = index + 1 == self.model.config.layers.len();
        let depths = match depths {
            Some(depths) => depths,
            None => depths.insert(self.endless(index, points)?),
        };
        let choice = match self.levels(depths, points, out) {
            None => None,
            Some((input, mut schedule)) => {
                schedule.out = (!last).then_some(out);
                let program = self.sketch(index, self.ladder.clone(), input, &schedule)?;
                let ms = self.price(&program)?;
                Some(Choice { input, schedule, ms })
            }
        };
        self.known.insert(key, choice.clone());
        Ok(choice)
    }

    /// From the tails behind a layer to those that begin with it.
    fn layer(
        &mut self,
        index: usize,
        behind: &BTreeMap<usize, Tail>,
    ) -> Result<BTreeMap<usize, Tail>> {
        let mut tails: BTreeMap<usize, Tail> = BTreeMap::new();
        for (number, points) in self.subsets(index)?.iter().enumerate() {
            let mut depths = None;
            for (&out, tail) in behind {
                let choice = self.choice(index, number, points, &mut depths, out)?;
                let Some(Choice { input, schedule, ms }) = choice else { continue };
                let ms = tail.ms + ms;
                if tails.get(&input).is_none_or(|known| ms < known.ms) {
                    let mut layers = vec![schedule];
                    layers.extend(tail.layers.iter().cloned());
                    tails.insert(input, Tail { ms, layers });
                }
            }
        }
        // What needs a higher stream and is not faster is of no use to any layer before.
        let mut best = f64::INFINITY;
        tails.retain(|_, tail| {
            let better = tail.ms < best;
            best = best.min(tail.ms);
            better
        });
        Ok(tails)
    }

    /// Every choice of points of a layer.
    fn subsets(&self, index: usize) -> Result<Vec<Vec<RefreshPoint>>> {
        if self.ladder.refreshing().is_none() {
            return Ok(vec![Vec::new()]);
        }
        let points = self.points(index)?;
        let subset = |mask: usize| {
            let chosen = points.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
            chosen.map(|(_, &point)| point).collect()
        };
        Ok((0..1usize << points.len()).map(subset).collect())
    }

    /// The points that a layer has: those at which its program refreshes if it is asked to everywhere.
    fn points(&self, index: usize) -> Result<Vec<RefreshPoint>> {
        let program = self.endless(index, &RefreshPoint::ALL)?;
        let exists = |point: &RefreshPoint| {
            program.steps().iter().any(|step| step.operator == point.operator())
        };
        Ok(RefreshPoint::ALL.into_iter().filter(exists).collect())
    }

    fn price(&self, program: &Program) -> Result<f64> {
        let price = |i: &Instruction| match (&i.op, self.crossing) {
            (Opcode::Cross(_), Some(price)) => price(program, i),
            _ => self.costs.instruction_ms(self.params, self.bootstrap.as_ref(), program, i),
        };
        program.instructions().iter().map(price).sum()
    }

    fn sketch(
        &self,
        index: usize,
        ladder: Ladder,
        level: usize,
        schedule: &LayerSchedule,
    ) -> Result<Program> {
        let (model, layout) = (self.model, self.layout);
        sketch_layer(model, self.approximations, layout, ladder, index, level, schedule, self.head)
    }

    /// The layer where levels do not end.
    fn endless(&self, index: usize, points: &[RefreshPoint]) -> Result<Program> {
        let mut schedule = LayerSchedule::default();
        for &point in points {
            schedule.refresh(point, ENDLESS);
        }
        let ladder =
            Ladder::Endless { log2_scale: 40.0, top: ENDLESS, crosses: self.crossing.is_some() };
        self.sketch(index, ladder, ENDLESS, &schedule)
    }

    /// Least levels of a layer's sources for a result at level `out`: of its input, and in the schedule; `None` if one of
    /// them is higher than the set has.
    fn levels(
        &self,
        depths: &Program,
        points: &[RefreshPoint],
        out: usize,
    ) -> Option<(usize, LayerSchedule)> {
        let (input, landings) = self.sources(depths, points, out);
        let top = self.params.application_level();
        let mut schedule = LayerSchedule::default();
        for (&point, &landing) in points.iter().zip(&landings) {
            schedule.refresh(point, landing);
        }
        (input <= top && landings.iter().all(|&l| l <= top)).then_some((input, schedule))
    }

    /// What inputs and the refreshes at each of these points need, which may be several ciphertexts each.
    fn sources(
        &self,
        depths: &Program,
        points: &[RefreshPoint],
        out: usize,
    ) -> (usize, Vec<usize>) {
        let floor = self.ladder.refreshing().map_or(0, |r| r.input_level);
        let results: Vec<(Register, usize)> = depths.outputs().iter().map(|&r| (r, out)).collect();
        let needs = needs(depths, &results, floor);
        let highest = |of: &[Instruction], is: fn(&Opcode) -> bool| {
            of.iter().filter(|i| is(&i.op)).map(|i| needs[i.out.0 as usize]).max().unwrap_or(0)
        };
        let all = depths.instructions();
        let landing = |point: &RefreshPoint| {
            let steps = depths.steps().iter().filter(|step| step.operator == point.operator());
            let of = |step: &Step| {
                highest(&all[step.instructions.clone()], |op| {
                    matches!(op, Opcode::Refresh(_) | Opcode::Cross(_))
                })
            };
            steps.map(of).max().unwrap_or(0)
        };
        let input = highest(all, |op| matches!(op, Opcode::Input(_)));
        (input, points.iter().map(landing).collect())
    }

    /// Why nothing fits: the deepest stretch that no refresh can shorten; without refreshes, all of it.
    fn refusal(&self) -> Error {
        let set = self.params.name().to_owned();
        let layers = 0..self.model.config.layers.len();
        let Some(refreshing) = self.ladder.refreshing() else {
            let mut needed = 0;
            for index in layers.rev() {
                needed =
                    self.endless(index, &[]).map_or(needed, |p| self.sources(&p, &[], needed).0);
            }
            return Error::LevelsInsufficient { set, available: self.params.max_level(), needed };
        };
        let floor = refreshing.input_level;
        let mut worst = (0, String::new(), "the stream");
        for index in layers {
            let Ok(points) = self.points(index) else { continue };
            let Ok(depths) = self.endless(index, &points) else { continue };
            let (input, landings) = self.sources(&depths, &points, floor);
            let names = std::iter::once("the layer's input")
                .chain(points.iter().map(|point| point.operator()));
            for (level, from) in std::iter::once(input).chain(landings).zip(names) {
                if level > worst.0 {
                    worst = (level, format!("layer.{index}"), from);
                }
            }
        }
        let available = refreshing.output_level - floor;
        let (level, layer, from) = worst;
        let needed = level.saturating_sub(floor);
        Error::StretchTooLong { set, layer, from: from.to_owned(), needed, available }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RandomModel;
    use crate::lower::lower;
    use cipherform_ckks::presets;

    fn model(layers: usize) -> Model {
        let shape = RandomModel {
            tokens: 8,
            width: 16,
            heads: 2,
            ffn: 32,
            layers,
            classes: 4,
            ..RandomModel::default()
        };
        shape.generate().unwrap()
    }

    fn tile(model: &Model, params: &Parameters) -> Layout {
        let [tile, _] = Layout::all(&model.config, params.slots());
        tile.unwrap()
    }

    fn pair(model: &Model, params: &Parameters) -> Layout {
        let [_, pair] = Layout::all(&model.config, params.slots());
        pair.unwrap()
    }

    fn found(model: &Model, set: &str) -> Result<Vec<Scheduled>> {
        found_in(model, set, tile)
    }

    fn found_in(
        model: &Model,
        set: &str,
        layout: fn(&Model, &Parameters) -> Layout,
    ) -> Result<Vec<Scheduled>> {
        let params = presets::get(set).unwrap();
        schedules(
            model,
            &layout(model, &params),
            &params,
            &MachineCosts::nominal(params.log_n()),
            Head::Logits,
            None,
        )
    }

    fn cost_of(
        model: &Model,
        set: &str,
        scheduled: &Scheduled,
        layout: fn(&Model, &Parameters) -> Layout,
    ) -> Result<f64> {
        let params = presets::get(set).unwrap();
        let layout = layout(model, &params);
        let lowered =
            lower(model, &layout, scheduled.ladder.clone(), &scheduled.schedule, Head::Logits)?;
        let costs = MachineCosts::nominal(params.log_n());
        Ok(costs.steps_ms(&params, &lowered.program)?.iter().sum())
    }

    #[test]
    fn the_price_is_that_of_the_whole_program() {
        let tile: fn(&Model, &Parameters) -> Layout = tile;
        for (layers, set, layout) in [
            (1, "toy11_deep", tile),
            (2, "toy11_boot", tile),
            (3, "toy11_boot", tile),
            (2, "toy11_boot", pair),
        ] {
            let model = model(layers);
            for scheduled in found_in(&model, set, layout).unwrap() {
                let whole = cost_of(&model, set, &scheduled, layout).unwrap();
                // The layers' sketches are the program, so only the order of additions differs.
                assert!((whole / scheduled.ms - 1.0).abs() < 1e-9, "{whole} {}", scheduled.ms);
            }
        }
    }

    #[test]
    fn no_level_can_be_spared() {
        let model = model(2);
        let tile: fn(&Model, &Parameters) -> Layout = tile;
        for layout in [tile, pair] {
            let best = found_in(&model, "toy11_boot", layout).unwrap().swap_remove(0);
            let lower_by_one = |change: &dyn Fn(&mut Schedule)| {
                let mut less = best.clone();
                change(&mut less.schedule);
                cost_of(&model, "toy11_boot", &less, layout).is_err()
            };
            assert!(lower_by_one(&|s| s.input -= 1), "the input");
            for layer in 0..2 {
                for point in RefreshPoint::ALL {
                    if let Some(landing) = best.schedule.layers[layer].landing(point) {
                        let spared = lower_by_one(&|s| s.layers[layer].refresh(point, landing - 1));
                        assert!(spared, "{layer} {point:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn no_choice_of_points_is_faster() {
        // Every choice of points for both layers.
        let model = model(2);
        let params = presets::get("toy11_boot").unwrap();
        let best = found(&model, "toy11_boot").unwrap().swap_remove(0);
        let layout = tile(&model, &params);
        let approximations = approximations(&model).unwrap();
        let costs = MachineCosts::nominal(params.log_n());
        let estimate = BootstrapEstimate::new(&params, BootstrapOptions::default()).unwrap();
        let search = Search {
            model: &model,
            layout: &layout,
            params: &params,
            costs: &costs,
            crossing: None,
            ladder: best.ladder.clone(),
            bootstrap: Some(estimate),
            approximations: &approximations,
            head: Head::Logits,
            kinds: vec![0, 1],
            known: HashMap::new(),
        };
        let mut fastest = f64::INFINITY;
        for second in search.subsets(1).unwrap() {
            let depths = search.endless(1, &second).unwrap();
            let Some((stream, tail)) = search.levels(&depths, &second, 0) else { continue };
            let tail_ms =
                search.price(&search.sketch(1, search.ladder.clone(), stream, &tail).unwrap());
            let tail_ms = tail_ms.unwrap();
            for first in search.subsets(0).unwrap() {
                let depths = search.endless(0, &first).unwrap();
                let Some((input, mut head)) = search.levels(&depths, &first, stream) else {
                    continue;
                };
                head.out = Some(stream);
                let program = search.sketch(0, search.ladder.clone(), input, &head).unwrap();
                fastest = fastest.min(search.price(&program).unwrap() + tail_ms);
            }
        }
        assert!((fastest / best.ms - 1.0).abs() < 1e-9, "{fastest} {}", best.ms);
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let error = found(&model(3), "toy11_deep").unwrap_err();
        assert!(
            matches!(error, Error::LevelsInsufficient { available: 24, needed, .. } if needed > 24)
        );
        let error = found(&model(2), "toy12_boot").unwrap_err();
        let Error::StretchTooLong { needed, available, .. } = error else { panic!("{error}") };
        assert!(available == 4 && needed > 4, "{needed}");
    }
}
