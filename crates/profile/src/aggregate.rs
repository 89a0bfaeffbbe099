//! From span trees to rows.
//!
//! Every nanosecond of a run has one owner. A span's *self time* is its wall time without its children's; an operator
//! owns its self time and that of the primitives under it up to the next operator; what no operator owns is
//! unattributed. So rows and the unattributed line add up to the wall time by construction, nested or not.

use crate::cost::Cost;
use crate::recorder::{Operator, Recording, Span, SpanKind};
use crate::report::{
    BootstrapRow, Discrepancy, Header, LayerRow, OperatorRow, PrimitiveRow, Report, SCHEMA, Spread,
    Totals, tidy,
};
use std::collections::HashMap;
use std::time::Duration;

/// The primitive span that stands for one bootstrap.
const BOOTSTRAP: &str = "bootstrap";

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Rows found by a key, kept in order of first sight.
pub(crate) struct Rows<K, R> {
    index: HashMap<K, usize>,
    pub(crate) rows: Vec<R>,
}

impl<K: std::hash::Hash + Eq, R> Rows<K, R> {
    pub(crate) fn new() -> Self {
        Self { index: HashMap::new(), rows: Vec::new() }
    }

    pub(crate) fn entry(&mut self, key: K, make: impl FnOnce() -> R) -> &mut R {
        let i = *self.index.entry(key).or_insert_with(|| {
            self.rows.push(make());
            self.rows.len() - 1
        });
        &mut self.rows[i]
    }
}

/// A primitive of one run or of all runs.
struct Primitive {
    name: String,
    count: u64,
    counters: Cost,
    runs: Vec<f64>,
}

impl Primitive {
    fn new(name: &str, runs: usize) -> Self {
        Self { name: name.into(), count: 0, counters: Cost::default(), runs: vec![0.0; runs] }
    }

    fn add(&mut self, run: usize, own_ms: f64, span: &Span) {
        self.runs[run] += own_ms;
        if run == 0 {
            self.count += 1;
            self.counters += span.own;
        }
    }

    fn row(self, wall: &[f64]) -> PrimitiveRow {
        PrimitiveRow {
            name: self.name,
            count: self.count,
            ms: Spread::of(&self.runs).median,
            share: share(&self.runs, wall),
            counters: self.counters,
        }
    }
}

struct OperatorSums {
    row: OperatorRow,
    counters: Vec<Cost>,
    primitives: Rows<String, Primitive>,
}

/// Median over the runs of part / whole.
fn share(part: &[f64], whole: &[f64]) -> f64 {
    let fractions: Vec<f64> =
        part.iter().zip(whole).map(|(p, w)| if *w > 0.0 { p / w } else { 0.0 }).collect();
    Spread::of(&fractions).median
}

/// Self time of every span and the operator that owns it, if any.
fn owners(spans: &[Span]) -> Vec<(f64, Option<usize>)> {
    let mut out: Vec<(f64, Option<usize>)> = Vec::with_capacity(spans.len());
    for (i, span) in spans.iter().enumerate() {
        let owner = match span.kind {
            SpanKind::Operator => Some(i),
            SpanKind::Root => None,
            SpanKind::Primitive => out.get(span.parent).and_then(|p| p.1),
        };
        out.push((ms(span.wall), owner));
    }
    for (i, span) in spans.iter().enumerate().skip(1) {
        if span.parent != i {
            out[span.parent].0 -= ms(span.wall);
        }
    }
    for (own, _) in &mut out {
        *own = own.max(0.0); // clock granularity
    }
    out
}

/// What all runs add up to.
struct Sums {
    wall: Vec<f64>,
    operators: Rows<(String, String), OperatorSums>,
    primitives: Rows<String, Primitive>,
    outside_primitives: Vec<f64>,
    attributed: Vec<f64>,
    unattributed_counters: Cost,
    bootstraps: Vec<BootstrapRow>,
    peak_bytes: Option<u64>,
}

impl Sums {
    fn new(recordings: &[Recording]) -> Self {
        let mut sums = Self {
            wall: recordings.iter().map(|r| tidy(ms(r.wall()))).collect(),
            operators: Rows::new(),
            primitives: Rows::new(),
            outside_primitives: vec![0.0; recordings.len()],
            attributed: vec![0.0; recordings.len()],
            unattributed_counters: Cost::default(),
            bootstraps: Vec::new(),
            peak_bytes: None,
        };
        for (run, recording) in recordings.iter().enumerate() {
            let spans = recording.spans();
            for (span, (own_ms, owner)) in spans.iter().zip(owners(spans)) {
                sums.add(run, span, own_ms, owner.map(|o| &spans[o].operator));
            }
        }
        sums
    }

    /// Accounts for one span of one run: `own_ms` is its self time, `operator` who owns it.
    fn add(&mut self, run: usize, span: &Span, own_ms: f64, operator: Option<&Operator>) {
        let runs = self.wall.len();
        let name = &span.operator.name;
        let peak = (span.peak_bytes > 0).then_some(span.peak_bytes);
        self.peak_bytes = self.peak_bytes.max(peak);
        if span.kind == SpanKind::Primitive {
            let row = self.primitives.entry(name.clone(), || Primitive::new(name, runs));
            row.add(run, own_ms, span);
            if run == 0 && name == BOOTSTRAP {
                self.bootstraps.push(BootstrapRow {
                    operator: operator.map(|o| o.name.clone()).unwrap_or_default(),
                    layer: operator.map(|o| o.layer.clone()).unwrap_or_default(),
                    start_ms: tidy(ms(span.start)),
                    ms: tidy(ms(span.wall)),
                });
            }
        }
        let Some(operator) = operator else {
            if run == 0 {
                self.unattributed_counters += span.own;
            }
            return;
        };
        self.attributed[run] += own_ms;
        let key = (operator.layer.clone(), operator.name.clone());
        let sums = self.operators.entry(key, || OperatorSums {
            row: OperatorRow {
                name: operator.name.clone(),
                layer: operator.layer.clone(),
                shape: operator.shape.clone(),
                runs_ms: vec![0.0; runs],
                ..OperatorRow::default()
            },
            counters: vec![Cost::default(); runs],
            primitives: Rows::new(),
        });
        sums.row.runs_ms[run] += own_ms;
        sums.row.peak_vram_bytes = sums.row.peak_vram_bytes.max(peak);
        sums.counters[run] += span.own;
        if span.kind == SpanKind::Operator {
            self.outside_primitives[run] += own_ms;
            let row = &mut sums.row;
            row.count += u64::from(run == 0);
            row.level_in = row.level_in.max(operator.level_in);
            row.level_out = match (row.level_out, operator.level_out) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            row.log2_scale = operator.log2_scale.or(row.log2_scale);
        } else {
            let row = sums.primitives.entry(name.clone(), || Primitive::new(name, runs));
            row.add(run, own_ms, span);
        }
    }
}

impl OperatorSums {
    /// The finished row; counters that are not the same in every run become `mismatches`.
    fn finish(self, wall: &[f64], mismatches: &mut Vec<Discrepancy>) -> OperatorRow {
        let mut row = self.row;
        row.counters = self.counters.first().copied().unwrap_or_default();
        for (run, other) in self.counters.iter().enumerate().skip(1) {
            let differing = row.counters.check(other).err().map(|m| m.0).unwrap_or_default();
            mismatches.extend(differing.into_iter().map(|(counter, first, other)| {
                let (name, layer) = (row.name.clone(), row.layer.clone());
                Discrepancy::RunsDiffer { name, layer, counter, first, other, run }
            }));
        }
        row.runs_ms.iter_mut().for_each(|ms| *ms = tidy(*ms));
        row.ms = Spread::of(&row.runs_ms).median;
        row.share = share(&row.runs_ms, wall);
        row.primitives = self.primitives.rows.into_iter().map(|p| p.row(wall)).collect();
        row
    }
}

pub(crate) fn report(mut header: Header, recordings: &[Recording]) -> Report {
    let sums = Sums::new(recordings);
    header.runs = recordings.len();
    header.peak_vram_bytes = header.peak_vram_bytes.max(sums.peak_bytes);
    let wall = sums.wall;
    let mut mismatches = Vec::new();
    let operators: Vec<OperatorRow> =
        sums.operators.rows.into_iter().map(|o| o.finish(&wall, &mut mismatches)).collect();
    let wall_ms = Spread::of(&wall);
    let unattributed: Vec<f64> =
        wall.iter().zip(&sums.attributed).map(|(w, a)| (w - a).max(0.0)).collect();
    let counters = operators.iter().map(|o| o.counters).sum::<Cost>();
    let observed = Totals {
        ms: Some(wall_ms.median),
        counters: counters + sums.unattributed_counters,
        key_bytes: Some(header.key_bytes),
        upload_bytes: Some(header.upload_bytes),
        download_bytes: Some(header.download_bytes),
        peak_rss_bytes: header.peak_rss_bytes,
        peak_vram_bytes: header.peak_vram_bytes,
    };
    Report {
        schema: SCHEMA.to_owned(),
        header,
        wall_ms,
        attributed_fraction: share(&sums.attributed, &wall),
        unattributed_ms: Spread::of(&unattributed).median,
        unattributed_counters: sums.unattributed_counters,
        spans: recordings.first().map_or(0, |r| r.spans().len()),
        layers: layers(&operators, &wall),
        operators,
        primitives: sums.primitives.rows.into_iter().map(|p| p.row(&wall)).collect(),
        outside_primitives_ms: Spread::of(&sums.outside_primitives).median,
        bootstraps: sums.bootstraps,
        observed,
        mismatches,
        runs_ms: wall,
        ..Report::default()
    }
}

pub(crate) fn layers(operators: &[OperatorRow], wall: &[f64]) -> Vec<LayerRow> {
    let mut rows: Rows<String, (LayerRow, Vec<f64>)> = Rows::new();
    for op in operators {
        let (row, runs) = rows.entry(op.layer.clone(), || {
            let row = LayerRow {
                layer: op.layer.clone(),
                predicted_ms: Some(0.0),
                ..LayerRow::default()
            };
            (row, vec![0.0; wall.len()])
        });
        row.operators += 1;
        row.counters += op.counters;
        row.predicted_ms = row.predicted_ms.zip(op.predicted_ms).map(|(a, b)| tidy(a + b));
        for (sum, ms) in runs.iter_mut().zip(&op.runs_ms) {
            *sum += ms;
        }
    }
    let finish = |(mut row, runs): (LayerRow, Vec<f64>)| {
        row.ms = Spread::of(&runs).median;
        row.share = share(&runs, wall);
        row
    };
    rows.rows.into_iter().map(finish).collect()
}
