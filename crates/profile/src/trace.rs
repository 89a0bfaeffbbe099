//! Exports of the span tree itself: Chrome/Perfetto trace and folded stacks.

use crate::cost::Counter;
use crate::error::Result;
use crate::recorder::{Recording, Span, SpanKind};
use serde_json::{Map, Value, json};
use std::fmt::Write as _;

fn micros(duration: std::time::Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// The fields of a span, as the viewer shows them when it is selected.
fn arguments(span: &Span) -> Value {
    let op = &span.operator;
    let mut args = Map::new();
    let mut put = |key: &str, value: Value| {
        args.insert(key.to_owned(), value);
    };
    if !op.layer.is_empty() {
        put("layer", json!(op.layer));
    }
    if !op.shape.is_empty() {
        put("shape", json!(op.shape));
    }
    for (key, level) in [("level_in", op.level_in), ("level_out", op.level_out)] {
        if let Some(level) = level {
            put(key, json!(level));
        }
    }
    if let Some(scale) = op.log2_scale {
        put("log2_scale", json!(scale));
    }
    for counter in Counter::ALL {
        if span.own.get(counter) > 0 {
            put(counter.name(), json!(span.own.get(counter)));
        }
    }
    Value::Object(args)
}

/// A trace that `ui.perfetto.dev` and `chrome://tracing` open: one track a run with nested slices, one counter track
/// a run with the level. `title` names the process.
///
/// # Errors
/// [`crate::Error::Json`] if the text could not be produced.
pub fn chrome_trace(title: &str, runs: &[Recording]) -> Result<String> {
    let meta = |name: &str, tid: usize, value: &str| {
        let args = json!({"name": value});
        json!({"ph": "M", "name": name, "pid": 1, "tid": tid, "args": args})
    };
    let mut events = vec![meta("process_name", 0, title)];
    for (run, recording) in runs.iter().enumerate() {
        let tid = run + 1;
        events.push(meta("thread_name", tid, &format!("run {tid}")));
        let track = format!("level (run {tid})");
        for span in recording.spans() {
            let (start, wall) = (micros(span.start), micros(span.wall));
            let category = match span.kind {
                SpanKind::Root => "run",
                SpanKind::Operator => "operator",
                SpanKind::Primitive => "primitive",
            };
            events.push(json!({
                "ph": "X", "pid": 1, "tid": tid, "ts": start, "dur": wall,
                "name": span.operator.name, "cat": category, "args": arguments(span),
            }));
            for (at, level) in
                [(start, span.operator.level_in), (start + wall, span.operator.level_out)]
            {
                if let Some(level) = level {
                    events.push(json!({
                        "ph": "C", "pid": 1, "ts": at, "name": track, "args": {"level": level},
                    }));
                }
            }
        }
    }
    Ok(serde_json::to_string(&json!({"displayTimeUnit": "ms", "traceEvents": events}))?)
}

/// Folded stacks (`total;operator;primitive microseconds`, self time) for any flame graph program.
#[must_use]
pub fn folded_stacks(recording: &Recording) -> String {
    let spans = recording.spans();
    let mut own: Vec<f64> = spans.iter().map(|s| micros(s.wall)).collect();
    let mut paths: Vec<String> = Vec::with_capacity(spans.len());
    for (i, span) in spans.iter().enumerate() {
        let frame = span.operator.name.replace([';', '\n', ' '], "_");
        let path = match paths.get(span.parent) {
            Some(parent) if i > 0 => format!("{parent};{frame}"),
            _ => frame,
        };
        if i > 0 {
            own[span.parent] -= micros(span.wall);
        }
        paths.push(path);
    }
    let mut stacks = std::collections::BTreeMap::new();
    for (path, own) in paths.into_iter().zip(own) {
        *stacks.entry(path).or_insert(0.0) += own.max(0.0);
    }
    let mut out = String::new();
    for (path, us) in stacks {
        let _ = writeln!(out, "{path} {us:.0}");
    }
    out
}
