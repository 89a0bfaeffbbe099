//! The report as Markdown and CSV.

use crate::cost::{Cost, Counter};
use crate::format::{bytes, count, levels, millis, number, percent};
use crate::report::Report;
use crate::table::{comparison, facts, figures};
use std::fmt::Write as _;

/// A Markdown table cell: one line, no column separators.
fn md(text: &str) -> String {
    crate::format::clean(text).replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;")
}

fn cells(cost: &Cost, counters: &[Counter]) -> Vec<String> {
    counters.iter().map(|&c| count(cost.get(c))).collect()
}

fn line(out: &mut String, cells: impl IntoIterator<Item = impl AsRef<str>>) {
    out.push('|');
    for cell in cells {
        let _ = write!(out, " {} |", cell.as_ref());
    }
    out.push('\n');
}

/// A section with a table; nothing when it has no rows. The first `names` columns are left-aligned; `titles` are the
/// first columns' separated by commas, `more` the others'.
fn table(
    out: &mut String,
    title: &str,
    names: usize,
    titles: &str,
    more: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    let _ = writeln!(out, "\n## {title}\n");
    let titles: Vec<&str> = titles.split(',').chain(more.iter().copied()).collect();
    line(out, &titles);
    line(out, (0..titles.len()).map(|i| if i < names { "---" } else { "---:" }));
    rows.for_each(|cells| line(out, cells));
}

/// A CSV field, quoted where RFC 4180 asks for it.
fn csv(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn plain<T: ToString>(value: Option<T>) -> String {
    value.map(|v| v.to_string()).unwrap_or_default()
}

impl Report {
    /// The report as Markdown: header, operators, layers, primitives, predicted beside observed.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        let mut out = format!("# Profile of {}\n\n", md(&self.header.model));
        for (label, value) in facts(self).iter().skip(1).chain(&figures(self)) {
            let _ = writeln!(out, "- {}: {}", label.to_lowercase(), md(value));
        }
        self.markdown_operators(&mut out);
        let counters = self.used_counters();
        let titles: Vec<&str> = counters.iter().map(|c| c.name()).collect();
        let rows = self.layers.iter().map(|l| {
            let first = [md(&l.layer), l.operators.to_string(), millis(l.ms), percent(l.share)];
            first.into_iter().chain(cells(&l.counters, &counters)).collect()
        });
        table(&mut out, "Layers", 1, "layer,operators,ms,%", &titles, rows);
        let rows = self.primitives.iter().map(|p| {
            let first = [md(&p.name), number(p.count), millis(p.ms), percent(p.share)];
            first.into_iter().chain(cells(&p.counters, &counters)).collect()
        });
        table(&mut out, "Primitives (exclusive)", 1, "primitive,calls,ms,%", &titles, rows);
        let rows = comparison(self).into_iter().map(|(what, predicted, observed, verdict)| {
            let mark = match verdict {
                Some(true) => "equal",
                Some(false) => "**differs**",
                None => "",
            };
            vec![what, predicted, observed, mark.to_owned()]
        });
        table(&mut out, "Predicted beside observed", 1, ",predicted,observed,", &[], rows);
        let rows = self
            .phases
            .iter()
            .map(|p| vec![md(&p.name), millis(p.ms), p.bytes.map(bytes).unwrap_or_default()]);
        table(&mut out, "Around the run", 1, "phase,ms,bytes", &[], rows);
        if !self.mismatches.is_empty() {
            let _ = writeln!(out, "\n## Mismatches\n");
            for mismatch in &self.mismatches {
                let _ = writeln!(out, "- {}", md(&mismatch.to_string()));
            }
        }
        out
    }

    fn markdown_operators(&self, out: &mut String) {
        let counters = self.used_counters();
        let mut titles: Vec<&str> = counters.iter().map(|c| c.name()).collect();
        let vram = self.operators.iter().any(|op| op.peak_vram_bytes.is_some());
        titles.extend(vram.then_some("peak VRAM"));
        titles.push("predicted ms");
        let mut rows: Vec<Vec<String>> = Vec::new();
        for op in &self.operators {
            let mut row = vec![md(&op.name), md(&op.layer), number(op.count)];
            row.extend([millis(op.ms), percent(op.share), levels(op.level_in, op.level_out)]);
            row.extend(cells(&op.counters, &counters));
            row.extend(vram.then(|| op.peak_vram_bytes.map(bytes).unwrap_or_default()));
            row.push(op.predicted_ms.map(millis).unwrap_or_default());
            rows.push(row);
        }
        let mut line = |name: &str, ms: f64, share: f64, cost: &Cost, predicted: Option<f64>| {
            let mut row = vec![name.to_owned(), String::new(), String::new()];
            row.extend([millis(ms), percent(share), String::new()]);
            row.extend(cells(cost, &counters));
            row.extend(vram.then(String::new));
            row.push(predicted.map(millis).unwrap_or_default());
            rows.push(row);
        };
        let missing = 1.0 - self.attributed_fraction;
        line("*unattributed*", self.unattributed_ms, missing, &self.unattributed_counters, None);
        let predicted = self.predicted.as_ref().and_then(|p| p.ms);
        line("**total**", self.wall_ms.median, 1.0, &self.observed.counters, predicted);
        table(out, "Operators", 2, "operator,layer,calls,ms,%,level", &titles, rows.into_iter());
    }

    /// The operators as CSV: one line each, then `(unattributed)` and `(total)`. Column names are those of the JSON,
    /// predicted counters with the prefix `predicted_`; times in milliseconds.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut head: Vec<String> = [
            "name",
            "layer",
            "shape",
            "count",
            "ms",
            "share",
            "level_in",
            "level_out",
            "log2_scale",
        ]
        .map(String::from)
        .into();
        head.extend(Counter::ALL.map(|c| c.name().to_owned()));
        head.extend(
            ["rounds", "bytes", "peak_vram_bytes", "error_bits", "predicted_ms"].map(String::from),
        );
        head.extend(Counter::ALL.map(|c| format!("predicted_{}", c.name())));
        let columns = head.len();
        let mut out = head.join(",") + "\n";
        for op in &self.operators {
            let mut line = vec![csv(&op.name), csv(&op.layer), csv(&op.shape)];
            line.extend([op.count.to_string(), op.ms.to_string(), op.share.to_string()]);
            line.extend([plain(op.level_in), plain(op.level_out), plain(op.log2_scale)]);
            line.extend(Counter::ALL.map(|c| op.counters.get(c).to_string()));
            line.extend([
                plain(op.rounds),
                plain(op.bytes),
                plain(op.peak_vram_bytes),
                plain(op.error_bits),
                plain(op.predicted_ms),
            ]);
            line.extend(Counter::ALL.map(|c| plain(op.predicted_counters.map(|p| p.get(c)))));
            out += &(line.join(",") + "\n");
        }
        let mut extra = |name: &str, ms: f64, share: f64, cost: &Cost| {
            let mut line = vec![name.to_owned(), String::new(), String::new(), String::new()];
            line.extend([ms.to_string(), share.to_string()]);
            line.resize(9, String::new());
            line.extend(Counter::ALL.map(|c| cost.get(c).to_string()));
            line.resize(columns, String::new());
            out += &(line.join(",") + "\n");
        };
        extra(
            "(unattributed)",
            self.unattributed_ms,
            1.0 - self.attributed_fraction,
            &self.unattributed_counters,
        );
        extra("(total)", self.wall_ms.median, 1.0, &self.observed.counters);
        out
    }
}
