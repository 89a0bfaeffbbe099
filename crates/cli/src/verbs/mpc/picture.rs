//! Scatter plots as SVG, without a script or a font of their own.

use std::fmt::Write as _;

/// One model in a panel.
pub(super) struct Point {
    pub(super) x: f64,
    pub(super) y: f64,
    pub(super) name: String,
    /// Decides the colour.
    pub(super) group: String,
    /// Filled, named, and joined with the others that are.
    pub(super) marked: bool,
}

/// One plot.
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) points: Vec<Point>,
}

const WIDTH: f64 = 520.0;
const HEIGHT: f64 = 380.0;
/// Space around the axes: left, top, right, bottom.
const MARGIN: [f64; 4] = [62.0, 40.0, 18.0, 52.0];
const COLOURS: [&str; 6] = ["#2f6fdb", "#e0822b", "#2a9d74", "#8a5bd1", "#d6517d", "#7a6a5c"];

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A range with some room and the round numbers in it.
fn axis(values: impl Iterator<Item = f64>) -> ([f64; 2], Vec<f64>) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(v), b.max(v)));
    let room = ((high - low) * 0.08).max(high.abs() * 0.01).max(1e-3);
    let range = [low - room, high + room];
    let raw = (range[1] - range[0]) / 5.0;
    let power = 10f64.powf(raw.log10().floor());
    let step =
        [1.0, 2.0, 5.0, 10.0].map(|k| k * power).into_iter().find(|s| *s >= raw).unwrap_or(raw);
    let (first, last) = ((range[0] / step).ceil() as i64, (range[1] / step).floor() as i64);
    let ticks = (first..=last).map(|k| k as f64 * step).collect();
    (range, ticks)
}

/// A number as short as its step allows.
fn label(x: f64) -> String {
    let text = format!("{x:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn panel(out: &mut String, at: (f64, f64), panel: &Panel, groups: &[&str]) {
    let [left, top, right, bottom] = MARGIN;
    let (x_range, x_ticks) = axis(panel.points.iter().map(|p| p.x));
    let (y_range, y_ticks) = axis(panel.points.iter().map(|p| p.y));
    let (wide, high) = (WIDTH - left - right, HEIGHT - top - bottom);
    let px = |x: f64| left + (x - x_range[0]) / (x_range[1] - x_range[0]) * wide;
    let py = |y: f64| top + high - (y - y_range[0]) / (y_range[1] - y_range[0]) * high;
    let (x0, y0) = at;
    let _ = write!(
        out,
        "<g transform=\"translate({x0} {y0})\"><text class=\"title\" x=\"{left}\" y=\"22\">{}</text>\
         <rect class=\"frame\" x=\"{left}\" y=\"{top}\" width=\"{wide}\" height=\"{high}\"/>",
        escape(&panel.title)
    );
    for tick in x_ticks {
        let (x, base) = (px(tick), top + high);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{x:.1} {top}V{base}\"/><text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            base + 16.0,
            label(tick)
        );
    }
    for tick in y_ticks {
        let y = py(tick);
        let _ = write!(
            out,
            "<path class=\"grid\" d=\"M{left} {y:.1}h{wide}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            y + 4.0,
            label(tick)
        );
    }
    let _ = write!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(16 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        left + wide / 2.0,
        HEIGHT - 14.0,
        escape(&panel.x),
        top + high / 2.0,
        escape(&panel.y)
    );
    let mut front: Vec<&Point> = panel.points.iter().filter(|p| p.marked).collect();
    front.sort_by(|a, b| a.x.total_cmp(&b.x));
    let steps = front
        .iter()
        .enumerate()
        .map(|(i, p)| format!("{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, px(p.x), py(p.y)));
    let _ = write!(out, "<path class=\"front\" d=\"{}\"/>", steps.collect::<String>());
    for p in &panel.points {
        let group = groups.iter().position(|g| *g == p.group).unwrap_or(0);
        let (x, y, colour) = (px(p.x), py(p.y), COLOURS[group % COLOURS.len()]);
        let fill = if p.marked { colour } else { "#fff" };
        let _ = write!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\" fill=\"{fill}\" stroke=\"{colour}\"><title>{}: {} s, {} %</title></circle>",
            escape(&p.name),
            label(p.x),
            label(p.y)
        );
        if p.marked {
            // Names stay inside the frame.
            let (dx, anchor) = if x > left + wide * 0.7 { (-8.0, "end") } else { (8.0, "start") };
            let _ = write!(
                out,
                "<text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
                x + dx,
                y + 14.0,
                escape(&p.name)
            );
        }
    }
    out.push_str("</g>");
}

/// Panels side by side, `columns` a row, with one legend.
pub(super) fn draw(panels: &[Panel], columns: usize) -> String {
    let columns = columns.max(1);
    let mut groups: Vec<&str> =
        panels.iter().flat_map(|p| p.points.iter().map(|p| p.group.as_str())).collect();
    groups.sort_unstable();
    groups.dedup();
    let rows = panels.len().div_ceil(columns);
    let (width, height) = (WIDTH * columns as f64, HEIGHT * rows as f64 + 34.0);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         font-family=\"system-ui,sans-serif\" font-size=\"12\" fill=\"#1d2329\"><style>.title{{font-size:14px;font-weight:600}}\
         .frame{{fill:#fff;stroke:#c3c9cf}}.grid{{stroke:#e8ebee}}.front{{fill:none;stroke:#9aa3ac;stroke-dasharray:4 3}}\
         .name{{font-size:10.5px;fill:#69727c}}</style><rect width=\"100%\" height=\"100%\" fill=\"#fbfbfa\"/>"
    );
    for (i, p) in panels.iter().enumerate() {
        let at = ((i % columns) as f64 * WIDTH, (i / columns) as f64 * HEIGHT);
        panel(&mut out, at, p, &groups);
    }
    let y = HEIGHT * rows as f64 + 12.0;
    let mut x = MARGIN[0];
    for (i, group) in groups.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let _ = write!(
            out,
            "<circle cx=\"{x}\" cy=\"{y}\" r=\"4.5\" fill=\"{colour}\"/><text x=\"{}\" y=\"{}\">{}</text>",
            x + 10.0,
            y + 4.0,
            escape(group)
        );
        x += 34.0 + 7.0 * group.chars().count() as f64;
    }
    out.push_str("</svg>\n");
    out
}

/// A page around a picture and a table; the first three columns are words.
pub(super) fn page(
    title: &str,
    note: &str,
    picture: &str,
    titles: &[String],
    rows: &[Vec<String>],
) -> String {
    let line = |tag: &str, cells: &[String]| {
        let cells = cells.iter().enumerate().map(|(i, cell)| {
            let class = if i < 3 { "" } else { " class=\"num\"" };
            format!("<{tag}{class}>{}</{tag}>", escape(cell))
        });
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let body: String = rows.iter().map(|row| line("td", row)).collect();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title><style>\
         body{{margin:32px auto;max-width:1120px;padding:0 22px;font:15px/1.5 system-ui,sans-serif;color:#1d2329;background:#fbfbfa}}\
         h1{{font-size:25px}}p{{color:#69727c}}table{{border-collapse:collapse;font-size:13.5px;width:100%}}\
         th,td{{text-align:left;padding:5px 10px;border-bottom:1px solid #e3e6e9}}.num{{text-align:right;font-variant-numeric:tabular-nums}}\
         </style></head><body><h1>{title}</h1><p>{note}</p>{picture}<table><thead>{}</thead><tbody>{body}</tbody></table>\
         <p>* no other model of its data set is as accurate and as fast.</p></body></html>\n",
        line("th", titles),
        title = escape(title),
        note = escape(note),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks_inside() {
        let (range, ticks) = axis([3.13, 3.9].into_iter());
        assert!(range[0] < 3.13 && range[1] > 3.9);
        assert_eq!(
            ticks.iter().map(|t| label(*t)).collect::<Vec<_>>(),
            ["3.2", "3.4", "3.6", "3.8"]
        );
        // One value is a range, too.
        assert!(!axis([90.0].into_iter()).1.is_empty());
    }
}
