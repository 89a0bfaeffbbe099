//! The report as one HTML page: no script, no font, no picture from anywhere else, so it opens offline and can be
//! mailed. Charts are inline SVG; colours follow the reader's light or dark scheme.

use crate::cost::Counter;
use crate::format::{bytes, clean, count, deviation, levels, millis, number, percent};
use crate::report::{OperatorRow, PrimitiveRow, Report, full_name};
use crate::table::{comparison, counter_column, facts, overhead};
use std::fmt::Write as _;

/// Text as HTML content or attribute value.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

impl Report {
    /// The report as a self-contained HTML page.
    #[must_use]
    pub fn to_html(&self) -> String {
        let h = &self.header;
        let mut out = String::with_capacity(64 << 10);
        let _ = write!(
            out,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <title>Profile of {}</title><style>{}</style></head><body><main>",
            escape(&h.model),
            include_str!("report.css")
        );
        self.head(&mut out);
        self.verdict(&mut out);
        self.time_bars(&mut out);
        self.operator_bars(&mut out);
        self.level_line(&mut out);
        self.operator_table(&mut out);
        self.small_tables(&mut out);
        let _ = writeln!(
            out,
            "<footer>{} · {} span{} in a run · times are wall time; operators exclude operators nested in them, \
             primitives exclude primitives nested in them</footer></main></body></html>",
            escape(&self.schema),
            number(self.spans as u64),
            if self.spans == 1 { "" } else { "s" },
        );
        out
    }

    fn head(&self, out: &mut String) {
        let h = &self.header;
        let w = self.wall_ms;
        let _ = write!(out, "<header><h1>{}</h1>", escape(&h.model));
        if h.random_weights {
            out.push_str("<span class=\"badge\">random weights: outputs mean nothing</span>");
        }
        out.push_str("<p class=\"facts\">");
        for (i, (label, value)) in
            facts(self).into_iter().filter(|f| IN_LINE.contains(&f.0)).enumerate()
        {
            let dot = if i > 0 { " · " } else { "" };
            let text = if label == "security" { format!("≥ {value}") } else { value };
            let _ = write!(out, "{dot}<span title=\"{label}\">{}</span>", escape(&text));
        }
        out.push_str("</p></header><section class=\"tiles\">");
        let mut tile = |label: &str, value: String, note: String| {
            let _ = write!(
                out,
                "<div class=\"tile\"><div class=\"label\">{label}</div><div class=\"value\">{}</div>\
                 <div class=\"note\">{}</div></div>",
                escape(&value),
                escape(&note)
            );
        };
        let spread = if h.runs > 1 {
            format!("median of {}: p10 {}, p90 {}", h.runs, seconds(w.p10), seconds(w.p90))
        } else {
            "one run".into()
        };
        tile("wall time", seconds(w.median), spread);
        if let Some(predicted) = self.predicted.as_ref().and_then(|p| p.ms) {
            let note = format!("measured {}", deviation(w.median, predicted));
            tile("predicted", seconds(predicted), note);
        }
        tile(
            "attributed",
            format!("{} %", percent(self.attributed_fraction)),
            format!("{} ms outside operators", millis(self.unattributed_ms)),
        );
        if let Some(cost) = self.profiler_fraction {
            tile("profiler", overhead(cost), "of the wall time".into());
        }
        if h.key_bytes > 0 {
            tile("evaluation keys", bytes(h.key_bytes), "in memory".into());
        }
        if h.upload_bytes + h.download_bytes > 0 {
            tile("up", bytes(h.upload_bytes), format!("down {}", bytes(h.download_bytes)));
        }
        if let Some(peak) = h.peak_rss_bytes {
            let note = h.peak_vram_bytes.map(|v| format!("VRAM {}", bytes(v)));
            tile("peak memory", bytes(peak), note.unwrap_or_else(|| "resident".into()));
        }
        out.push_str("</section>");
    }

    fn verdict(&self, out: &mut String) {
        if !self.mismatches.is_empty() {
            let _ = write!(
                out,
                "<section class=\"alert\"><strong>{} mismatch{} between prediction and observation</strong><ul>",
                self.mismatches.len(),
                if self.mismatches.len() == 1 { "" } else { "es" }
            );
            for mismatch in &self.mismatches {
                let _ = write!(out, "<li>{}</li>", escape(&mismatch.to_string()));
            }
            out.push_str("</ul></section>");
        } else if self.predicted.is_some() {
            out.push_str(
                "<section class=\"good\">Every predicted count and size equals the observed one.</section>",
            );
        }
    }

    fn operator_table(&self, out: &mut String) {
        let counters = self.used_counters();
        let has = |f: fn(&OperatorRow) -> bool| self.operators.iter().any(f);
        let (predicted, errors, vram, traffic) = (
            has(|o| o.predicted_ms.is_some()),
            has(|o| o.error_bits.is_some()),
            has(|o| o.peak_vram_bytes.is_some()),
            has(|o| o.bytes.is_some() || o.rounds.is_some()),
        );
        out.push_str(
            "<section><h2>Operators</h2><div class=\"scroll\"><table><thead><tr><th class=\"l\">operator</th>\
             <th>calls</th><th>ms</th><th>%</th><th>level</th><th>scale</th>",
        );
        for &c in &counters {
            let _ = write!(out, "<th title=\"{}\">{}</th>", c.name(), counter_column(c).title);
        }
        for (shown, title) in [
            (traffic, "rounds</th><th>bytes"),
            (vram, "VRAM"),
            (errors, "log₂ err"),
            (predicted, "pred. ms"),
        ] {
            if shown {
                let _ = write!(out, "<th>{title}</th>");
            }
        }
        out.push_str("</tr></thead><tbody>");
        for op in &self.operators {
            let _ = write!(
                out,
                "<tr><td class=\"l\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>",
                named(op),
                number(op.count),
                millis(op.ms),
                percent(op.share),
                levels(op.level_in, op.level_out).replace('>', " → "),
                op.log2_scale.map(|s| format!("{s:.2}")).unwrap_or_default(),
            );
            for &c in &counters {
                let seen = op.counters.get(c);
                match op.predicted_counters.map(|p| p.get(c)) {
                    Some(p) if p != seen && self.compared.contains(&c) => {
                        let _ = write!(
                            out,
                            "<td class=\"bad\" title=\"{p} predicted\">{seen} ≠ {p}</td>"
                        );
                    }
                    _ => {
                        let _ = write!(out, "<td>{}</td>", count(seen));
                    }
                }
            }
            if traffic {
                let _ = write!(
                    out,
                    "<td>{}</td><td>{}</td>",
                    op.rounds.map(number).unwrap_or_default(),
                    op.bytes.map(bytes).unwrap_or_default()
                );
            }
            if vram {
                let _ =
                    write!(out, "<td>{}</td>", op.peak_vram_bytes.map(bytes).unwrap_or_default());
            }
            if errors {
                let _ = write!(
                    out,
                    "<td>{}</td>",
                    op.error_bits.map(|b| format!("{b:.1}")).unwrap_or_default()
                );
            }
            if predicted {
                let _ = write!(out, "<td>{}</td>", op.predicted_ms.map(millis).unwrap_or_default());
            }
            out.push_str("</tr>");
        }
        let after = 2 * usize::from(traffic) + usize::from(vram) + usize::from(errors);
        self.operator_totals(out, &counters, after, predicted);
        out.push_str("</tbody></table></div></section>");
    }

    /// The last two rows: `after` cells follow those of the counters, and the predicted time if there is one.
    fn operator_totals(
        &self,
        out: &mut String,
        counters: &[Counter],
        after: usize,
        predicted: bool,
    ) {
        let blanks = |n: usize| "<td></td>".repeat(n);
        let total = self.predicted.as_ref().and_then(|p| p.ms).map(millis).unwrap_or_default();
        for (class, name, ms, share, cost, last) in [
            (
                "dim",
                "unattributed",
                self.unattributed_ms,
                1.0 - self.attributed_fraction,
                &self.unattributed_counters,
                String::new(),
            ),
            ("sum", "total", self.wall_ms.median, 1.0, &self.observed.counters, total),
        ] {
            let _ = write!(
                out,
                "<tr class=\"{class}\"><td class=\"l\">{name}</td><td></td><td>{}</td><td>{}</td>{}",
                millis(ms),
                percent(share),
                blanks(2)
            );
            for &c in counters {
                let _ = write!(out, "<td>{}</td>", count(cost.get(c)));
            }
            out.push_str(&blanks(after));
            if predicted {
                let _ = write!(out, "<td>{last}</td>");
            }
            out.push_str("</tr>");
        }
    }

    fn small_tables(&self, out: &mut String) {
        out.push_str("<div class=\"columns\">");
        let comparison = comparison(self);
        if !comparison.is_empty() {
            open(out, "Predicted beside observed", &["", "predicted", "observed", ""]);
            for (what, p, o, verdict) in comparison {
                let mark = match verdict {
                    Some(true) => "<td class=\"ok\">equal</td>",
                    Some(false) => "<td class=\"bad\">differs</td>",
                    None => "<td></td>",
                };
                let what = what.replace('_', " ");
                let _ = write!(
                    out,
                    "<tr><td class=\"l\">{what}</td><td>{p}</td><td>{o}</td>{mark}</tr>"
                );
            }
            out.push_str(CLOSE);
        }
        if !self.primitives.is_empty() {
            open(out, "Primitives", &["primitive", "calls", "ms", "%"]);
            for p in &self.primitives {
                primitive_row(out, p);
            }
            out.push_str(CLOSE);
        }
        if self.layers.len() > 1 {
            open(out, "Layers", &["layer", "operators", "ms", "%", "predicted ms"]);
            for l in &self.layers {
                let name = if l.layer.is_empty() { "outside layers" } else { &l.layer };
                let _ = write!(
                    out,
                    "<tr><td class=\"l\">{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                    escape(name),
                    l.operators,
                    millis(l.ms),
                    percent(l.share),
                    l.predicted_ms.map(millis).unwrap_or_default()
                );
            }
            out.push_str(CLOSE);
        }
        if !self.phases.is_empty() {
            open(out, "Around the run", &["phase", "ms", "bytes"]);
            for p in &self.phases {
                let _ = write!(
                    out,
                    "<tr><td class=\"l\">{}</td><td>{}</td><td>{}</td></tr>",
                    escape(&p.name),
                    millis(p.ms),
                    p.bytes.map(bytes).unwrap_or_default()
                );
            }
            out.push_str(CLOSE);
        }
        if !self.bootstraps.is_empty() {
            open(out, "Bootstraps", &["operator", "at ms", "ms"]);
            for b in &self.bootstraps {
                let name = escape(&full_name(&b.layer, &b.operator));
                let (at, ms) = (millis(b.start_ms), millis(b.ms));
                let _ =
                    write!(out, "<tr><td class=\"l\">{name}</td><td>{at}</td><td>{ms}</td></tr>");
            }
            out.push_str(CLOSE);
        }
        open(out, "Set-up", &["", ""]);
        for (label, value) in facts(self) {
            let _ = write!(out, "<tr><td class=\"l\">{label}</td><td>{}</td></tr>", escape(&value));
        }
        out.push_str(CLOSE);
        out.push_str("</div>");
    }
}

/// Facts that stand in the line under the title; the rest has tiles.
const IN_LINE: [&str; 6] = ["backend", "input", "parameter set", "security", "device", "machine"];

const CLOSE: &str = "</tbody></table></section>";

fn open(out: &mut String, title: &str, columns: &[&str]) {
    let _ = write!(out, "<section><h2>{title}</h2><table><thead><tr>");
    for (i, column) in columns.iter().enumerate() {
        let class = if i == 0 { " class=\"l\"" } else { "" };
        let _ = write!(out, "<th{class}>{column}</th>");
    }
    out.push_str("</tr></thead><tbody>");
}

fn primitive_row(out: &mut String, p: &PrimitiveRow) {
    let _ = write!(
        out,
        "<tr><td class=\"l\">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
        escape(&p.name),
        number(p.count),
        millis(p.ms),
        percent(p.share)
    );
}

pub(crate) fn named(op: &OperatorRow) -> String {
    let layer = if op.layer.is_empty() {
        String::new()
    } else {
        format!("<span class=\"dim\">{}/</span>", escape(&op.layer))
    };
    layer + &escape(&op.name)
}

fn seconds(ms: f64) -> String {
    if ms >= 1000.0 { format!("{:.3} s", ms / 1e3) } else { format!("{} ms", millis(ms)) }
}
