//! The report for a terminal, as Markdown and as CSV.

use crate::cost::{Cost, Counter};
use crate::format::{bytes, clean, count, deviation, levels, millis, number, percent};
use crate::grid::{Cell, Column, Grid, Paint, Style, left, right};
use crate::report::{OperatorRow, Report, Totals};
use std::fmt::Write as _;

/// Widest line of the terminal report.
pub const WIDTH: usize = 120;

/// Short column titles of the counters and how long they are kept when the table is too wide.
pub(crate) fn counter_column(counter: Counter) -> Column {
    match counter {
        Counter::Rotations => right("rot", 7),
        Counter::Relinearizations => right("relin", 4),
        Counter::KeySwitches => right("ks", 8),
        Counter::Hoisted => right("hoist", 3),
        Counter::Lazy => right("lazy", 3),
        Counter::CtCt => right("ct·ct", 6),
        Counter::CtPt => right("ct·pt", 6),
        Counter::Rescales => right("resc", 5),
        Counter::Bootstraps => right("boot", 6),
        Counter::LimbNtts => right("limb ntt", 2),
        Counter::LweSwitches => right("lwe ks", 6),
        Counter::ProgrammableBootstraps => right("pbs", 6),
        Counter::BytesSent => right("sent", 7),
        Counter::BytesReceived => right("received", 7),
        Counter::OfflineBytes => right("offline", 6),
        Counter::Rounds => right("rounds", 7),
    }
}

/// An observed counter, with the prediction beside it in red when the two differ.
fn counter_cell(report: &Report, row: &OperatorRow, counter: Counter) -> Cell {
    let observed = row.counters.get(counter);
    match row.predicted_counters.map(|p| p.get(counter)) {
        Some(predicted) if predicted != observed && report.compared.contains(&counter) => {
            Cell::new(format!("{observed}≠{predicted}")).paint(Paint::Red)
        }
        _ => Cell::new(count(observed)),
    }
}

fn counter_cells(cost: &Cost) -> impl Iterator<Item = Cell> + '_ {
    Counter::ALL.into_iter().map(|c| Cell::new(count(cost.get(c))))
}

/// A share as eight cells of eighths.
fn bar(share: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * 64.0).round() as usize;
    let mut out = "█".repeat(eighths / 8);
    out += EIGHTHS.get(eighths % 8).copied().unwrap_or_default();
    out
}

fn optional<T>(value: Option<T>, format: impl Fn(T) -> String) -> String {
    value.map(format).unwrap_or_default()
}

/// What the header says, as (label, value).
pub(crate) fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let h = &report.header;
    let mut facts = vec![(
        "model",
        format!("{}{}", h.model, if h.random_weights { " (RANDOM WEIGHTS)" } else { "" }),
    )];
    let mut add = |label, value: String| {
        if !value.is_empty() {
            facts.push((label, value));
        }
    };
    add("backend", h.backend.clone());
    add("input", format!("{} tokens, batch {}", h.tokens, h.batch));
    add("parameter set", h.parameter_set.clone());
    add("security", optional(h.security_bits, |b| format!("{b:.0} bits")));
    add(
        "device",
        format!("{}, {} thread{}", h.device, h.threads, if h.threads == 1 { "" } else { "s" }),
    );
    add("machine", h.machine.clone());
    add("keys", if h.key_bytes > 0 { bytes(h.key_bytes) } else { String::new() });
    add("up", if h.upload_bytes > 0 { bytes(h.upload_bytes) } else { String::new() });
    add("down", if h.download_bytes > 0 { bytes(h.download_bytes) } else { String::new() });
    add("peak RAM", optional(h.peak_rss_bytes, bytes));
    add("peak VRAM", optional(h.peak_vram_bytes, bytes));
    facts
}

/// Wall time, prediction and attribution, as (label, value).
pub(crate) fn figures(report: &Report) -> Vec<(&'static str, String)> {
    let w = report.wall_ms;
    let mut out = vec![(
        "WALL",
        match report.header.runs {
            1 => format!("{} ms", millis(w.median)),
            runs => format!(
                "{} ms, median of {runs} (p10 {}, p90 {})",
                millis(w.median),
                millis(w.p10),
                millis(w.p90)
            ),
        },
    )];
    if let Some(predicted) = report.predicted.as_ref().and_then(|p| p.ms) {
        out.push((
            "PREDICTED",
            format!("{} ms (seen {})", millis(predicted), deviation(w.median, predicted)),
        ));
    }
    out.push(("ATTRIBUTED", format!("{} %", percent(report.attributed_fraction))));
    if let Some(fraction) = report.profiler_fraction {
        out.push(("PROFILER", overhead(fraction)));
    }
    out
}

type Size = fn(&Totals) -> Option<u64>;

/// What recording cost, as a share of the wall time.
pub(crate) fn overhead(fraction: f64) -> String {
    if fraction < 1e-4 { "< 0.01 %".into() } else { format!("{:.2} %", fraction * 100.0) }
}

/// (what, predicted, observed, exact) of every total that was predicted.
pub(crate) fn comparison(report: &Report) -> Vec<(String, String, String, Option<bool>)> {
    let Some(predicted) = &report.predicted else { return Vec::new() };
    let observed = &report.observed;
    let mut rows = Vec::new();
    for &counter in &report.compared {
        let (p, o) = (predicted.counters.get(counter), observed.counters.get(counter));
        if p > 0 || o > 0 {
            rows.push((counter.name().to_owned(), number(p), number(o), Some(p == o)));
        }
    }
    let sizes: [(&str, bool, Size); 5] = [
        ("key_bytes", true, |t| t.key_bytes),
        ("upload_bytes", true, |t| t.upload_bytes),
        ("download_bytes", true, |t| t.download_bytes),
        ("peak_rss_bytes", false, |t| t.peak_rss_bytes),
        ("peak_vram_bytes", false, |t| t.peak_vram_bytes),
    ];
    for (what, exact, of) in sizes {
        if let (Some(p), Some(o)) = (of(predicted), of(observed)) {
            let (text, verdict) = if exact {
                (number(o), Some(p == o))
            } else {
                (format!("{} ({})", number(o), deviation(o as f64, p as f64)), None)
            };
            rows.push((what.to_owned(), number(p), text, verdict));
        }
    }
    if let (Some(p), Some(o)) = (predicted.ms, observed.ms) {
        rows.push(("ms".into(), millis(p), format!("{} ({})", millis(o), deviation(o, p)), None));
    }
    rows
}

impl Report {
    /// The report for a terminal, at most [`WIDTH`] columns wide.
    #[must_use]
    pub fn to_text(&self, style: Style) -> String {
        let mut out = String::new();
        wrapped(&mut out, style, &facts(self));
        wrapped(&mut out, style, &figures(self));
        out.push('\n');
        out += &self.operator_grid().render(WIDTH, style);
        let mut section = |title: &str, grid: Grid| {
            let _ =
                write!(out, "\n{}\n{}", style.paint(Paint::Bold, title), grid.render(WIDTH, style));
        };
        if self.layers.len() > 1 {
            section("by layer", self.layer_grid());
        }
        if !self.primitives.is_empty() {
            section("by primitive (exclusive)", self.primitive_grid());
        }
        if !self.bootstraps.is_empty() {
            section("bootstraps", self.bootstrap_grid());
        }
        if !self.phases.is_empty() {
            section("around the run", self.phase_grid());
        }
        let comparison = comparison(self);
        if !comparison.is_empty() {
            let columns = [
                left("predicted beside observed", 9),
                right("predicted", 9),
                right("observed", 9),
                left("", 9),
            ];
            let mut grid = Grid::new(&columns);
            for (what, predicted, observed, verdict) in comparison {
                let mark = match verdict {
                    Some(true) => Cell::new("equal").paint(Paint::Green),
                    Some(false) => Cell::new("DIFFERS").paint(Paint::Red),
                    None => Cell::new(""),
                };
                grid.row(vec![Cell::new(what), Cell::new(predicted), Cell::new(observed), mark]);
            }
            let _ = write!(out, "\n{}", grid.render(WIDTH, style));
        }
        if !self.mismatches.is_empty() {
            let title = format!("{} MISMATCHES", self.mismatches.len());
            let _ = writeln!(out, "\n{}", style.paint(Paint::Red, &title));
            for mismatch in &self.mismatches {
                let line = format!("  {}", clean(&mismatch.to_string()));
                let _ = writeln!(out, "{}", style.paint(Paint::Red, &line));
            }
        }
        out
    }

    fn operator_grid(&self) -> Grid {
        let mut columns = vec![
            right("#", 1),
            left("operator", 9),
            left("layer", 7),
            right("cnt", 7),
            right("ms", 9),
            right("%", 9),
            left("", 0),
            left("level", 8),
            right("scale", 2),
        ];
        columns.extend(Counter::ALL.map(counter_column));
        columns.extend([
            right("rounds", 6),
            right("bytes", 6),
            right("vram", 6),
            right("err", 6),
            right("pred. ms", 8),
        ]);
        let mut grid = Grid::new(&columns);
        for (i, op) in self.operators.iter().enumerate() {
            let mut cells = vec![
                Cell::new((i + 1).to_string()).paint(Paint::Dim),
                Cell::new(&op.name),
                Cell::new(&op.layer).paint(Paint::Dim),
                Cell::new(number(op.count)),
                Cell::new(millis(op.ms)),
                Cell::new(percent(op.share)),
                Cell::new(bar(op.share)).paint(Paint::Cyan),
                Cell::new(levels(op.level_in, op.level_out)),
                Cell::new(optional(op.log2_scale, |s| format!("{s:.2}"))),
            ];
            cells.extend(Counter::ALL.map(|c| counter_cell(self, op, c)));
            cells.extend([
                Cell::new(optional(op.rounds, number)),
                Cell::new(optional(op.bytes, bytes)),
                Cell::new(optional(op.peak_vram_bytes, bytes)),
                Cell::new(optional(op.error_bits, |b| format!("{b:.1}"))),
                Cell::new(optional(op.predicted_ms, millis)).paint(Paint::Dim),
            ]);
            grid.row(cells);
        }
        let mut line = |name, ms: f64, share: f64, cost: &Cost, predicted, paint| {
            let mut cells = vec![
                Cell::new(""),
                Cell::new(name),
                Cell::new(""),
                Cell::new(""),
                Cell::new(millis(ms)),
                Cell::new(percent(share)),
                Cell::new(""),
                Cell::new(""),
                Cell::new(""),
            ];
            cells.extend(counter_cells(cost));
            cells.resize_with(columns.len() - 1, || Cell::new(""));
            cells.push(Cell::new(optional(predicted, millis)));
            grid.row(cells.into_iter().map(|c| c.paint(paint)).collect());
        };
        let missing = 1.0 - self.attributed_fraction;
        line(
            "unattributed",
            self.unattributed_ms,
            missing,
            &self.unattributed_counters,
            None,
            Paint::Dim,
        );
        let predicted = self.predicted.as_ref().and_then(|p| p.ms);
        line("total", self.wall_ms.median, 1.0, &self.observed.counters, predicted, Paint::Bold);
        grid
    }

    fn layer_grid(&self) -> Grid {
        let mut columns =
            vec![left("layer", 9), right("operators", 5), right("ms", 9), right("%", 9)];
        columns.extend(Counter::ALL.map(counter_column));
        columns.push(right("pred. ms", 8));
        let mut grid = Grid::new(&columns);
        for row in &self.layers {
            let name = if row.layer.is_empty() { "(outside layers)" } else { &row.layer };
            let mut cells = vec![
                Cell::new(name),
                Cell::new(row.operators.to_string()),
                Cell::new(millis(row.ms)),
                Cell::new(percent(row.share)),
            ];
            cells.extend(counter_cells(&row.counters));
            cells.push(Cell::new(optional(row.predicted_ms, millis)).paint(Paint::Dim));
            grid.row(cells);
        }
        grid
    }

    fn primitive_grid(&self) -> Grid {
        let mut columns =
            vec![left("primitive", 9), right("cnt", 7), right("ms", 9), right("%", 9), left("", 0)];
        columns.extend(Counter::ALL.map(counter_column));
        let mut grid = Grid::new(&columns);
        for row in &self.primitives {
            let mut cells = vec![
                Cell::new(&row.name),
                Cell::new(number(row.count)),
                Cell::new(millis(row.ms)),
                Cell::new(percent(row.share)),
                Cell::new(bar(row.share)).paint(Paint::Cyan),
            ];
            cells.extend(counter_cells(&row.counters));
            grid.row(cells);
        }
        let wall = self.wall_ms.median;
        let share = if wall > 0.0 { self.outside_primitives_ms / wall } else { 0.0 };
        grid.row(
            ["operators' own code", "", &millis(self.outside_primitives_ms), &percent(share)]
                .map(|t| Cell::new(t).paint(Paint::Dim))
                .into(),
        );
        grid
    }

    fn bootstrap_grid(&self) -> Grid {
        let mut grid = Grid::new(&[
            right("#", 9),
            left("operator", 9),
            left("layer", 9),
            right("at ms", 9),
            right("ms", 9),
        ]);
        for (i, row) in self.bootstraps.iter().enumerate() {
            grid.row(vec![
                Cell::new((i + 1).to_string()),
                Cell::new(&row.operator),
                Cell::new(&row.layer),
                Cell::new(millis(row.start_ms)),
                Cell::new(millis(row.ms)),
            ]);
        }
        grid
    }

    fn phase_grid(&self) -> Grid {
        let mut grid = Grid::new(&[left("phase", 9), right("ms", 9), right("bytes", 9)]);
        for phase in &self.phases {
            grid.row(vec![
                Cell::new(&phase.name),
                Cell::new(millis(phase.ms)),
                Cell::new(optional(phase.bytes, bytes)),
            ]);
        }
        grid
    }
}

/// `LABEL value   LABEL value` over as many lines as the width needs.
fn wrapped(out: &mut String, style: Style, items: &[(&str, String)]) {
    let mut column = 0;
    for (label, value) in items {
        let value = clean(value);
        let width = label.chars().count() + 1 + value.chars().count();
        if column > 0 && column + 3 + width > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column > 0 {
            out.push_str("   ");
            column += 3;
        }
        let _ = write!(out, "{} {value}", style.paint(Paint::Dim, &label.to_uppercase()));
        column += width;
    }
    out.push('\n');
}
