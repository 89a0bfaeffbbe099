//! Two reports compared.

use crate::cost::{Counter, Mismatch};
use crate::format::{clean, deviation, millis};
use crate::grid::{Cell, Grid, Paint, Style, left, right};
use crate::report::{OperatorRow, Report, full_name, tidy};
use crate::table::WIDTH;
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;

/// One operator in two reports, or the whole run (name `total`, empty layer).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiffRow {
    /// Operator name.
    pub name: String,
    /// Its layer.
    pub layer: String,
    /// Median time in the first report; `None` if the operator is not in it.
    pub before_ms: Option<f64>,
    /// Median time in the second report; `None` if the operator is not in it.
    pub after_ms: Option<f64>,
    /// Counters that changed: (counter, before, after).
    pub counters: Vec<(Counter, u64, u64)>,
    /// Two-sided Mann-Whitney p of "the times are the same"; `None` below four runs a side.
    pub p_value: Option<f64>,
}

/// What changed between two reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Diff {
    /// Header fields that differ: (field, before, after). Times of different machines are not comparable.
    pub header: Vec<(String, String, String)>,
    /// Operators in the order of the second report, those only in the first one last, then the total.
    pub rows: Vec<DiffRow>,
}

/// Below this p a change is called significant.
const SIGNIFICANT: f64 = 0.05;

impl Diff {
    /// What changed from `before` to `after`.
    #[must_use]
    pub fn new(before: &Report, after: &Report) -> Self {
        let find = |rows: &[OperatorRow], key: &OperatorRow| {
            rows.iter().find(|r| r.name == key.name && r.layer == key.layer).cloned()
        };
        let mut rows: Vec<DiffRow> = after
            .operators
            .iter()
            .map(|op| row(find(&before.operators, op).as_ref(), Some(op)))
            .collect();
        for op in &before.operators {
            if find(&after.operators, op).is_none() {
                rows.push(row(Some(op), None));
            }
        }
        let total = |report: &Report| OperatorRow {
            name: "total".into(),
            ms: report.wall_ms.median,
            runs_ms: report.runs_ms.clone(),
            counters: report.observed.counters,
            ..OperatorRow::default()
        };
        rows.push(row(Some(&total(before)), Some(&total(after))));
        Self { header: header(before, after), rows }
    }

    /// The comparison for a terminal.
    #[must_use]
    pub fn to_text(&self, style: Style) -> String {
        let mut out = String::new();
        for (field, before, after) in &self.header {
            let line = format!("{field}: {} → {}", clean(before), clean(after));
            let _ = writeln!(out, "{}", style.paint(Paint::Red, &line));
        }
        let mut grid = Grid::new(&[
            left("operator", 9),
            right("before ms", 9),
            right("after ms", 9),
            right("Δ ms", 9),
            right("Δ %", 8),
            right("p", 5),
            left("counters", 7),
        ]);
        for row in &self.rows {
            let (before, after) = (row.before_ms.unwrap_or(0.0), row.after_ms.unwrap_or(0.0));
            let significant = row.p_value.is_some_and(|p| p < SIGNIFICANT);
            let paint = match after.total_cmp(&before) {
                _ if !significant => Paint::None,
                std::cmp::Ordering::Less => Paint::Green,
                std::cmp::Ordering::Greater => Paint::Red,
                std::cmp::Ordering::Equal => Paint::None,
            };
            let change = match (row.before_ms, row.after_ms) {
                (Some(_), Some(_)) => deviation(after, before),
                (None, _) => "new".into(),
                (_, None) => "gone".into(),
            };
            let counters: Vec<String> =
                row.counters.iter().map(|(c, b, a)| format!("{} {b}→{a}", c.name())).collect();
            grid.row(vec![
                Cell::new(full_name(&row.layer, &row.name)),
                Cell::new(row.before_ms.map(millis).unwrap_or_default()),
                Cell::new(row.after_ms.map(millis).unwrap_or_default()),
                Cell::new(millis(after - before)).paint(paint),
                Cell::new(change).paint(paint),
                Cell::new(row.p_value.map(|p| format!("{p:.3}")).unwrap_or_default()),
                Cell::new(counters.join(", ")),
            ]);
        }
        out + &grid.render(WIDTH, style)
    }
}

fn row(before: Option<&OperatorRow>, after: Option<&OperatorRow>) -> DiffRow {
    let (empty, mut counters, mut p_value) = (OperatorRow::default(), Vec::new(), None);
    if let (Some(a), Some(b)) = (before, after) {
        counters = a.counters.check(&b.counters).err().unwrap_or(Mismatch(Vec::new())).0;
        p_value = mann_whitney(&a.runs_ms, &b.runs_ms);
    }
    let named = after.or(before).unwrap_or(&empty);
    DiffRow {
        name: named.name.clone(),
        layer: named.layer.clone(),
        before_ms: before.map(|r| r.ms),
        after_ms: after.map(|r| r.ms),
        counters,
        p_value,
    }
}

fn header(before: &Report, after: &Report) -> Vec<(String, String, String)> {
    let fields = |r: &Report| {
        let h = &r.header;
        [
            ("model", h.model.clone()),
            ("backend", h.backend.clone()),
            ("tokens", h.tokens.to_string()),
            ("batch", h.batch.to_string()),
            ("parameter set", h.parameter_set.clone()),
            ("device", h.device.clone()),
            ("machine", h.machine.clone()),
            ("threads", h.threads.to_string()),
        ]
    };
    fields(before)
        .into_iter()
        .zip(fields(after))
        .filter(|(a, b)| a != b)
        .map(|(a, b)| (a.0.to_owned(), a.1, b.1))
        .collect()
}

/// Two-sided p of the rank-sum test, normal approximation with tie and continuity corrections.
///
/// Mann and Whitney 1947. At four runs a side the smallest reachable p is 0.03, so fewer cannot say anything at 5 %.
fn mann_whitney(a: &[f64], b: &[f64]) -> Option<f64> {
    if a.len() < 4 || b.len() < 4 {
        return None;
    }
    let (n, m) = (a.len() as f64, b.len() as f64);
    let mut all: Vec<(f64, bool)> =
        a.iter().map(|&x| (x, true)).chain(b.iter().map(|&x| (x, false))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    // Tied values share the mean of their ranks.
    let (mut rank_sum, mut ties, mut start) = (0.0, 0.0, 0.0);
    for group in all.chunk_by(|x, y| x.0.total_cmp(&y.0).is_eq()) {
        let size = group.len() as f64;
        let rank = start + f64::midpoint(size, 1.0);
        rank_sum += rank * group.iter().filter(|x| x.1).count() as f64;
        ties += size.powi(3) - size;
        start += size;
    }
    let u = rank_sum - n * (n + 1.0) / 2.0;
    let total = n + m;
    let variance = n * m / 12.0 * (total + 1.0 - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return Some(1.0);
    }
    let z = ((u - n * m / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    Some(tidy(erfc(z / std::f64::consts::SQRT_2)))
}

/// Complementary error function for x >= 0, absolute error below 1.5e-7 (Abramowitz and Stegun 7.1.26).
fn erfc(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736
                + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    poly * (-x * x).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_tell_separated_samples_from_mixed_ones() {
        let low: Vec<f64> = (0..10).map(f64::from).collect();
        let high: Vec<f64> = (20..30).map(f64::from).collect();
        // U = 0, mean 50, sd sqrt(100 * 21 / 12) = 13.229, z = 49.5 / 13.229 = 3.742, p = 1.83e-4.
        let p = mann_whitney(&low, &high).unwrap();
        assert!((p - 1.83e-4).abs() < 2e-6, "{p}");
        assert!(mann_whitney(&low, &low).unwrap() > 0.9);
        assert_eq!(mann_whitney(&low[..3], &high), None);
        assert_eq!(mann_whitney(&[1.0; 5], &[1.0; 5]), Some(1.0));
    }
}
