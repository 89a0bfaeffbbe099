//! The charts of the HTML page, as inline SVG.

use crate::format::{deviation, levels, millis, percent};
use crate::html::{escape, named};
use crate::report::{OperatorRow, Report, full_name};
use std::fmt::Write as _;

/// Segments of a bar that get a colour of their own; the shorter ones are grey.
const COLOURS: usize = 8;

/// One part of a stacked bar.
struct Segment {
    name: String,
    ms: f64,
    share: f64,
    class: String,
}

/// Gives the longest segments colours `c0..`, in the order they appear, and leaves the others grey.
fn coloured(parts: impl Iterator<Item = (String, f64, f64)>) -> Vec<Segment> {
    let mut segments: Vec<Segment> =
        parts.map(|(name, ms, share)| Segment { name, ms, share, class: "rest".into() }).collect();
    let mut order: Vec<usize> = (0..segments.len()).collect();
    order.sort_by(|&a, &b| segments[b].ms.total_cmp(&segments[a].ms));
    order.truncate(COLOURS);
    order.sort_unstable();
    for (colour, i) in order.into_iter().enumerate() {
        segments[i].class = format!("c{colour}");
    }
    segments
}

impl Report {
    fn operator_segments(&self) -> Vec<Segment> {
        coloured(self.operators.iter().map(|o| (full_name(&o.layer, &o.name), o.ms, o.share)))
    }

    pub(crate) fn time_bars(&self, out: &mut String) {
        out.push_str("<section><h2>Where the time goes</h2>");
        let wall = self.wall_ms.median;
        stack(
            out,
            "by operator",
            self.operator_segments(),
            &[("unattributed", self.unattributed_ms)],
            wall,
        );
        if !self.primitives.is_empty() {
            let parts = self.primitives.iter().map(|p| (p.name.clone(), p.ms, p.share));
            let rest = [("operators' own code", self.outside_primitives_ms)];
            stack(out, "by primitive, exclusive", coloured(parts), &rest, wall);
        }
        if self.layers.len() > 1 {
            let name = |l: &str| if l.is_empty() { "outside layers".into() } else { l.to_owned() };
            let parts = self.layers.iter().map(|l| (name(&l.layer), l.ms, l.share));
            stack(
                out,
                "by layer",
                coloured(parts),
                &[("unattributed", self.unattributed_ms)],
                wall,
            );
        }
        out.push_str("</section>");
    }

    /// Observed time of every operator with the predicted one as a marker on the same scale.
    pub(crate) fn operator_bars(&self, out: &mut String) {
        let longest = self
            .operators
            .iter()
            .map(|o| o.ms.max(o.predicted_ms.unwrap_or(0.0)))
            .fold(0.0, f64::max);
        if longest <= 0.0 {
            return;
        }
        let predicted = self.operators.iter().any(|o| o.predicted_ms.is_some());
        let title = if predicted { "Operators: measured, and predicted" } else { "Operators" };
        let _ = write!(out, "<section><h2>{title}</h2>");
        if predicted {
            out.push_str(
                "<p class=\"hint\"><i class=\"swatch c0\"></i>measured <i class=\"tick\"></i>predicted</p>",
            );
        }
        out.push_str("<div class=\"bars\">");
        for (op, segment) in self.operators.iter().zip(self.operator_segments()) {
            let x = |ms: f64| ms / longest * 1000.0;
            let mut svg = format!(
                "<rect class=\"{}\" x=\"0\" y=\"3\" width=\"{:.1}\" height=\"12\"/>",
                segment.class,
                x(op.ms).max(1.0)
            );
            let mut note = String::new();
            if let Some(p) = op.predicted_ms {
                let at = x(p).clamp(2.0, 998.0);
                let _ = write!(
                    svg,
                    "<line class=\"mark\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"18\"/>"
                );
                note = deviation(op.ms, p);
            }
            let _ = write!(
                out,
                "<span class=\"name\">{}</span><svg viewBox=\"0 0 1000 18\" preserveAspectRatio=\"none\" \
                 role=\"img\"><title>{}</title>{svg}</svg><span class=\"num\">{}</span>\
                 <span class=\"num dim\">{note}</span>",
                named(op),
                escape(&hover(op)),
                millis(op.ms),
            );
        }
        out.push_str("</div></section>");
    }

    /// Level of every operator's inputs and result, left to right; bootstraps lift the line.
    pub(crate) fn level_line(&self, out: &mut String) {
        let known: Vec<&OperatorRow> = self
            .operators
            .iter()
            .filter(|o| o.level_in.is_some() || o.level_out.is_some())
            .collect();
        let level = |l: Option<usize>, other: Option<usize>| l.or(other).unwrap_or(0);
        let top = known
            .iter()
            .map(|o| level(o.level_in, o.level_out).max(level(o.level_out, o.level_in)));
        let Some(top) = top.max().filter(|_| known.len() > 1) else { return };
        let (width, height, left, base) = (1040.0, 300.0, 36.0, 190.0);
        let step = (width - left - 70.0) / known.len() as f64;
        let y = |l: usize| base - l as f64 / top.max(1) as f64 * 165.0;
        let mut grid = String::new();
        let every = top.div_ceil(5).max(1);
        for l in (0..=top).step_by(every) {
            let _ = write!(
                grid,
                "<line class=\"grid\" x1=\"{left}\" x2=\"{:.0}\" y1=\"{1:.1}\" y2=\"{1:.1}\"/>\
                 <text x=\"{2}\" y=\"{3:.1}\" text-anchor=\"end\">{l}</text>",
                left + step * known.len() as f64,
                y(l),
                left - 8.0,
                y(l) + 4.0
            );
        }
        let (mut points, mut marks) = (String::new(), String::new());
        for (i, op) in known.iter().enumerate() {
            let (a, b) = (level(op.level_in, op.level_out), level(op.level_out, op.level_in));
            let (x0, x1) = (left + step * i as f64, left + step * (i + 1) as f64);
            let _ = write!(points, "{x0:.1},{:.1} {x1:.1},{:.1} ", y(a), y(b));
            let middle = f64::midpoint(x0, x1);
            let _ = write!(
                marks,
                "<circle cx=\"{x1:.1}\" cy=\"{:.1}\" r=\"3\"/>\
                 <text class=\"op\" transform=\"translate({:.1} {:.1}) rotate(40)\">{}</text>\
                 <rect class=\"hit\" x=\"{x0:.1}\" y=\"15\" width=\"{step:.1}\" height=\"{base}\"><title>{}</title></rect>",
                y(b),
                middle - 3.0,
                base + 16.0,
                escape(&shortened(&op.name)),
                escape(&hover(op)),
            );
        }
        let area =
            format!("{left:.1},{base} {points}{:.1},{base}", left + step * known.len() as f64);
        let _ = write!(
            out,
            "<section><h2>Level along the operators</h2><div class=\"scroll\"><svg class=\"levels\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"level of each operator\">{grid}\
             <polygon class=\"area\" points=\"{area}\"/><polyline points=\"{points}\"/>{marks}</svg></div></section>"
        );
    }
}

/// One stacked bar with its legend; `rest` are parts that belong to nothing named, drawn hatched.
fn stack(
    out: &mut String,
    title: &str,
    mut segments: Vec<Segment>,
    rest: &[(&str, f64)],
    wall: f64,
) {
    for &(name, ms) in rest {
        let share = if wall > 0.0 { ms / wall } else { 0.0 };
        segments.push(Segment { name: name.into(), ms, share, class: "hatch".into() });
    }
    let total: f64 = segments.iter().map(|s| s.ms).sum::<f64>().max(wall);
    let (mut x, mut svg, mut legend) = (0.0, String::new(), String::new());
    let mut grey = (0_usize, 0.0, 0.0);
    for s in &segments {
        let width = if total > 0.0 { s.ms / total * 1000.0 } else { 0.0 };
        let text = format!("{}: {} ms, {} %", s.name, millis(s.ms), percent(s.share));
        // A gap of one unit keeps neighbours apart where there is room for it.
        let shown = if width > 3.0 { width - 1.0 } else { width };
        let _ = write!(
            svg,
            "<rect class=\"{}\" x=\"{x:.2}\" y=\"0\" width=\"{shown:.2}\" height=\"30\"><title>{}</title></rect>",
            s.class,
            escape(&text)
        );
        x += width;
        if s.class == "rest" {
            grey = (grey.0 + 1, grey.1 + s.ms, grey.2 + s.share);
            continue;
        }
        entry(&mut legend, &s.class, &s.name, s.ms, s.share);
    }
    if grey.0 > 0 {
        entry(
            &mut legend,
            "rest",
            &format!("{} shorter ones, see the table", grey.0),
            grey.1,
            grey.2,
        );
    }
    let _ = write!(
        out,
        "<h3>{title}</h3><svg class=\"stack\" viewBox=\"0 0 1000 30\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{title}\"><defs><pattern id=\"h\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><rect class=\"hatch-line\" width=\"2\" height=\"6\"/></pattern></defs>{svg}</svg>\
         <ul class=\"legend\">{legend}</ul>"
    );
}

fn entry(legend: &mut String, class: &str, name: &str, ms: f64, share: f64) {
    let _ = write!(
        legend,
        "<li><i class=\"swatch {class}\"></i>{} <b>{} %</b> <span class=\"dim\">{} ms</span></li>",
        escape(name),
        percent(share),
        millis(ms)
    );
}

/// Everything about an operator in a line: what the pointer shows over its bar.
fn hover(op: &OperatorRow) -> String {
    let mut text = format!("{}: {} ms", full_name(&op.layer, &op.name), millis(op.ms));
    let level = levels(op.level_in, op.level_out);
    if !level.is_empty() {
        let _ = write!(text, ", level {}", level.replace('>', " → "));
    }
    if let Some(p) = op.predicted_ms {
        let _ = write!(text, ", predicted {} ms", millis(p));
    }
    for p in &op.primitives {
        let _ = write!(text, "; {} {} ms", p.name, millis(p.ms));
    }
    text
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= 22 {
        return name.to_owned();
    }
    name.chars().take(21).chain(['…']).collect()
}
