//! What | Test
//! --- | ---
//! rows, unattributed time and shares add up to the wall time, nested spans included | `every_millisecond_has_one_owner`
//! medians and attribution over several runs | `medians_over_runs`
//! predictions that hold, and each way in which they can fail | `predictions_*`, `work_outside_operators_is_found`
//! terminal report, Markdown, CSV byte for byte | `golden_*` (written anew with `UPDATE_GOLDEN=1`)
//! 120 columns at most | `the_table_fits`
//! JSON round trip, foreign versions | `json_*`
//! HTML: escaped names, self-contained, small | `html_*`
//! trace: nested slices, level counter | `trace_*`
//! differences of two reports | `diff_*`

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod synthetic;

use cipherform_profile::{
    Annotation, Cost, Counter, Diff, Discrepancy, Error, Header, Phase, Recording, Report, SCHEMA,
    Style, chrome_trace, folded_stacks,
};
use synthetic::{Node, header, model_prediction, model_run, op, primitive, recording, root};

fn report(runs: &[Recording]) -> Report {
    Report::new(header(), runs).unwrap()
}

/// The full synthetic report: three runs, prediction, errors, phases.
fn full() -> Report {
    let runs = [model_run(1.0), model_run(1.02), model_run(0.99)];
    report(&runs)
        .with_prediction(&model_prediction())
        .with_annotations(&[Annotation {
            name: "softmax.reciprocal".into(),
            layer: "layer.0".into(),
            error_bits: Some(-21.4),
            ..Annotation::default()
        }])
        .with_phases(vec![
            Phase { name: "keygen".into(), ms: 6_900.0, bytes: Some(650_000_000) },
            Phase { name: "encrypt".into(), ms: 41.0, bytes: Some(15_700_000) },
            Phase { name: "decrypt".into(), ms: 6.0, bytes: None },
        ])
        .with_span_cost(100.0)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

#[test]
fn every_millisecond_has_one_owner() {
    // 100 ms: outer 60 (own 15, ntt 20 of which copy 5, inner operator 25 of which ntt 10), a stray ntt 10, 30 nothing.
    let run = recording(root(
        100.0,
        [
            op("outer", 60.0).with([
                primitive("ntt", 20.0).with([primitive("copy", 5.0)]),
                op("inner", 25.0).with([primitive("ntt", 10.0)]),
            ]),
            primitive("ntt", 10.0),
        ],
    ));
    let r = report(&[run]);
    let ms = |name: &str| r.operators.iter().find(|o| o.name == name).unwrap().ms;
    assert!(close(ms("outer"), 35.0) && close(ms("inner"), 25.0));
    assert!(close(r.attributed_fraction, 0.60));
    assert!(close(r.unattributed_ms, 40.0));
    let rows: f64 = r.operators.iter().map(|o| o.ms).sum();
    assert!(close(rows + r.unattributed_ms, 100.0));
    assert!(close(r.operators.iter().map(|o| o.share).sum::<f64>(), 0.60));

    let primitive = |name: &str| r.primitives.iter().find(|p| p.name == name).unwrap();
    assert!(close(primitive("ntt").ms, 15.0 + 10.0 + 10.0) && primitive("ntt").count == 3);
    assert!(close(primitive("copy").ms, 5.0));
    assert!(close(r.outside_primitives_ms, 15.0 + 15.0));
    let outer = &r.operators[0].primitives;
    assert_eq!(
        outer.iter().map(|p| (p.name.as_str(), p.count)).collect::<Vec<_>>(),
        [("ntt", 1), ("copy", 1)]
    );
    assert!(close(outer[0].ms, 15.0));
}

#[test]
fn calls_of_the_same_operator_are_merged() {
    let run = recording(root(
        30.0,
        [
            op("linear", 10.0).level(5, 4).count(Counter::Rotations, 2),
            op("linear", 10.0).level(7, 6).count(Counter::Rotations, 3),
            op("linear", 5.0).layer("layer.1"),
        ],
    ));
    let r = report(&[run]);
    assert_eq!(r.operators.len(), 2);
    let row = &r.operators[0];
    assert_eq!((row.count, row.level_in, row.level_out), (2, Some(7), Some(4)));
    assert_eq!(row.counters, Cost::of(Counter::Rotations, 5));
    assert_eq!(r.layers.iter().map(|l| l.layer.as_str()).collect::<Vec<_>>(), ["", "layer.1"]);
}

#[test]
fn memory_of_a_device_is_the_most_of_all_spans() {
    let run = |a: u64, b: u64| {
        let first = op("a", 10.0).memory(a).with([primitive("ntt", 5.0).memory(b)]);
        recording(root(20.0, [first, op("b", 10.0)]).memory(3 << 30))
    };
    let report = report(&[run(1 << 30, 2 << 30), run(5 << 30, 0)]);
    let peaks: Vec<_> = report.operators.iter().map(|op| op.peak_vram_bytes).collect();
    assert_eq!(peaks, [Some(5 << 30), None]);
    assert_eq!(report.observed.peak_vram_bytes, Some(5 << 30));
    for text in [report.to_text(Style::Plain), report.to_markdown(), report.to_html()] {
        assert!(text.to_lowercase().contains("vram"), "{text}");
    }
    // Columns of rows that have no such cell stay in line.
    let csv = report.to_csv();
    let columns: Vec<usize> = csv.lines().map(|line| line.split(',').count()).collect();
    assert!(columns.iter().all(|&n| n == columns[0]), "{csv}");
}

#[test]
fn medians_over_runs() {
    let run = |ms: f64| recording(root(ms + 1.0, [op("a", ms)]));
    let r = report(&[run(10.0), run(30.0), run(20.0)]);
    assert_eq!(r.header.runs, 3);
    assert!(
        close(r.wall_ms.median, 21.0) && close(r.wall_ms.p10, 13.0) && close(r.wall_ms.p90, 29.0)
    );
    assert!(close(r.operators[0].ms, 20.0));
    assert!(close(r.attributed_fraction, 20.0 / 21.0) && close(r.unattributed_ms, 1.0));
    assert!(matches!(Report::new(Header::default(), &[]), Err(Error::NoRecordings)));
}

#[test]
fn predictions_that_hold_leave_no_mismatch() {
    let r = full();
    assert_eq!(r.mismatches, []);
    let predicted = r.predicted.as_ref().unwrap();
    assert_eq!(
        predicted.counters.get(Counter::KeySwitches),
        r.observed.counters.get(Counter::KeySwitches)
    );
    // The planner of this test does not predict transforms, so they are not held against it.
    assert!(!r.compared.contains(&Counter::LimbNtts));
    assert!(r.observed.counters.get(Counter::LimbNtts) > 0);
}

#[test]
fn predictions_that_fail_are_listed() {
    let mut prediction = model_prediction();
    prediction.operators[0].cost.count(Counter::Rotations, 1);
    prediction.operators[1].name = "renamed".into();
    prediction.upload_bytes = Some(1);
    let r = report(&[model_run(1.0)]).with_prediction(&prediction);
    let text: Vec<String> = r.mismatches.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        [
            "layer.0/attention.qkv: rotations 29 predicted, 28 observed",
            "layer.0/renamed: predicted but never ran",
            "layer.0/attention.scores: ran but was not predicted",
            "upload_bytes: 1 predicted, 15700000 observed",
        ]
    );
    let table = r.to_text(Style::Plain);
    assert!(table.contains("28≠29") && table.contains("4 MISMATCHES"), "{table}");
    assert!(r.to_text(Style::Ansi).contains("\u{1b}[1;31m28≠29"));
    let html = r.to_html();
    assert!(html.contains("28 ≠ 29") && html.contains("predicted but never ran"));
}

#[test]
fn runs_that_differ_are_found() {
    let run = |n| recording(root(2.0, [op("a", 1.0).count(Counter::CtPt, n)]));
    let r = report(&[run(1), run(1), run(2)]);
    assert!(matches!(
        r.mismatches[..],
        [Discrepancy::RunsDiffer { first: 1, other: 2, run: 2, counter: Counter::CtPt, .. }]
    ));
}

#[test]
fn work_outside_operators_is_found() {
    let prediction = model_prediction();
    let mut node = root(10.0, [op("a", 1.0)]);
    node = node.count(Counter::Rescales, 3);
    let r = report(&[recording(node)]).with_prediction(&prediction);
    let stray = Discrepancy::OutsideOperators { counter: Counter::Rescales, observed: 3 };
    assert!(r.mismatches.contains(&stray));
    assert_eq!(r.unattributed_counters.get(Counter::Rescales), 3);
    assert_eq!(r.operators[0].counters, Cost::default());
}

#[test]
fn the_table_fits() {
    let mut runs = model_run(1.0);
    for style in [Style::Plain, Style::Ansi] {
        let text = full().to_text(style);
        for line in text.lines() {
            let visible = line.split('\u{1b}').enumerate().map(|(i, part)| {
                if i == 0 { part } else { part.split_once('m').map_or(part, |p| p.1) }
            });
            assert!(visible.map(|p| p.chars().count()).sum::<usize>() <= 120, "{line}");
        }
    }
    let mut spans = runs.spans().to_vec();
    spans[1].operator.name = "x".repeat(300);
    spans[1].operator.layer = "y".repeat(300);
    for counter in Counter::ALL {
        spans[1].own.count(counter, 123_456_789);
    }
    runs = Recording::from_spans(spans).unwrap();
    let text = report(&[runs]).to_text(Style::Plain);
    assert!(text.lines().all(|l| l.chars().count() <= 120), "{text}");
}

#[test]
fn golden_text() {
    synthetic::golden("report.txt", &full().to_text(Style::Plain));
}

/// With `WRITE_HTML=FILE`, leaves the page there for a look in a browser.
#[test]
fn html_page_to_look_at() {
    if let Some(path) = std::env::var_os("WRITE_HTML") {
        std::fs::write(path, full().to_html()).unwrap();
    }
}

#[test]
fn golden_markdown() {
    synthetic::golden("report.md", &full().to_markdown());
}

#[test]
fn golden_csv() {
    let csv = full().to_csv();
    let columns = csv.lines().next().unwrap().split(',').count();
    assert!(csv.lines().all(|l| l.contains('"') || l.split(',').count() == columns));
    synthetic::golden("report.csv", &csv);
}

#[test]
fn json_round_trip() {
    let mut prediction = model_prediction();
    prediction.operators[0].name = "renamed".into();
    for r in [full(), report(&[model_run(1.0)]).with_prediction(&prediction)] {
        let json = r.to_json().unwrap();
        assert_eq!(Report::from_json(&json).unwrap(), r);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["schema"], SCHEMA);
        for key in
            ["header", "wall_ms", "attributed_fraction", "operators", "primitives", "bootstraps"]
        {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert!(value["operators"][0]["counters"]["key_switches"].is_u64());
    }
}

#[test]
fn json_of_another_version_says_so() {
    let got = Report::from_json(r#"{"schema":"cipherform.profile/2","wall_ms":"later"}"#);
    assert!(matches!(got, Err(Error::Schema { got, .. }) if got == "cipherform.profile/2"));
    assert!(matches!(Report::from_json("no json"), Err(Error::Json(_))));
}

#[test]
fn html_escapes_foreign_names() {
    let evil = "<script>alert(\"1\")</script>&'";
    let run = recording(root(
        2.0,
        [
            op(evil, 1.0).layer(evil).level(3, 2).with([primitive(evil, 0.5)]),
            op("b", 0.5).level(2, 1),
        ],
    ));
    let mut head = header();
    head.model = evil.into();
    let html = Report::new(head, &[run]).unwrap().to_html();
    assert!(!html.contains("<script") && !html.contains("\"1\""));
    assert!(html.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;"));
}

#[test]
fn html_is_self_contained_and_small() {
    let html = full().to_html();
    for outside in ["http:", "https:", "src=", "@import", "url(\"", "<script"] {
        assert!(!html.contains(outside), "{outside}");
    }
    // A deep model: 24 layers of the same operators.
    let layers = (0..24).flat_map(|l| synthetic::layer(&format!("layer.{l}"), 1.0));
    let run = recording(root(400_000.0, layers.collect::<Vec<_>>()));
    let html = report(&[run]).to_html();
    assert!(html.len() < 1_000_000, "{}", html.len());
}

#[test]
fn trace_nests_slices_and_counts_levels() {
    let run = model_run(1.0);
    let trace: serde_json::Value =
        serde_json::from_str(&chrome_trace("synthetic", std::slice::from_ref(&run)).unwrap())
            .unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let slices: Vec<_> = events.iter().filter(|e| e["ph"] == "X").collect();
    assert_eq!(slices.len(), run.spans().len());
    for (slice, span) in slices.iter().zip(run.spans()) {
        let parent = slices[span.parent];
        let end = |e: &serde_json::Value| e["ts"].as_f64().unwrap() + e["dur"].as_f64().unwrap();
        assert!(slice["ts"].as_f64() >= parent["ts"].as_f64() && end(slice) <= end(parent) + 1e-6);
    }
    assert!(events.iter().any(|e| e["ph"] == "C" && e["args"]["level"] == 20));
    assert!(folded_stacks(&run).contains("total;attention.qkv;key_switch;ntt "));
}

#[test]
fn diff_shows_times_counters_and_what_is_new() {
    let run = |scale: f64, name: &str| {
        recording(root(
            10.0 * scale,
            [
                op("a", 4.0 * scale).count(Counter::Rotations, if scale > 1.5 { 9 } else { 8 }),
                op(name, 2.0),
            ],
        ))
    };
    let runs = |scale: f64, name: &str| -> Vec<_> {
        (0..8).map(|i| run(scale + 0.01 * f64::from(i), name)).collect()
    };
    let before = report(&runs(1.0, "gone")).with_prediction(&model_prediction());
    let mut after = report(&runs(2.0, "new"));
    after.header.threads = 4;
    let diff = Diff::new(&before, &after);
    let names: Vec<_> = diff.rows.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["a", "new", "gone", "total"]);
    assert_eq!(diff.rows[0].counters, [(Counter::Rotations, 8, 9)]);
    assert!(diff.rows[0].p_value.unwrap() < 0.01);
    assert_eq!(diff.header, [("threads".to_owned(), "2".to_owned(), "4".to_owned())]);
    let text = diff.to_text(Style::Plain);
    assert!(text.contains("rotations 8→9") && text.contains("+96.6 %"), "{text}");
    let json = serde_json::to_string(&diff).unwrap();
    assert_eq!(serde_json::from_str::<Diff>(&json).unwrap(), diff);
}

#[test]
fn empty_and_instant_recordings_do_not_divide_by_zero() {
    let r = report(&[recording(root(0.0, Vec::<Node>::new()))]).with_span_cost(1.0);
    assert_eq!(Report::from_json(&r.to_json().unwrap()).unwrap(), r);
    let texts = r.to_text(Style::Plain) + &r.to_html() + &r.to_markdown() + &r.to_csv();
    assert!(!texts.contains("NaN") && !texts.contains("inf "), "{texts}");
}
