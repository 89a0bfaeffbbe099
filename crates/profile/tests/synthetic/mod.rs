//! Recordings written by hand: times are exact, so reports of them can be compared byte for byte.

use cipherform_profile::{
    Cost, Counter, Header, Operator, PredictedOperator, Prediction, Recording, Span, SpanKind,
};
use std::time::Duration;

/// A span with children, laid out one after the other from its start.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    kind: SpanKind,
    operator: Operator,
    ms: f64,
    own: Cost,
    peak_bytes: u64,
    children: Vec<Node>,
}

fn node(kind: SpanKind, name: &str, ms: f64) -> Node {
    let (operator, own) = (Operator::new(name), Cost::default());
    Node { kind, operator, ms, own, peak_bytes: 0, children: Vec::new() }
}

pub(crate) fn root(ms: f64, children: impl IntoIterator<Item = Node>) -> Node {
    node(SpanKind::Root, "total", ms).with(children)
}

pub(crate) fn op(name: &str, ms: f64) -> Node {
    node(SpanKind::Operator, name, ms)
}

pub(crate) fn primitive(name: &str, ms: f64) -> Node {
    node(SpanKind::Primitive, name, ms)
}

impl Node {
    pub(crate) fn with(mut self, children: impl IntoIterator<Item = Node>) -> Self {
        self.children.extend(children);
        self
    }

    pub(crate) fn layer(mut self, layer: &str) -> Self {
        self.operator.layer = layer.into();
        self
    }

    pub(crate) fn level(mut self, level_in: usize, level_out: usize) -> Self {
        self.operator.level_in = Some(level_in);
        self.operator.level_out = Some(level_out);
        self.operator.log2_scale = Some(40.0);
        self
    }

    pub(crate) fn memory(mut self, bytes: u64) -> Self {
        self.peak_bytes = bytes;
        self
    }

    pub(crate) fn count(mut self, counter: Counter, n: u64) -> Self {
        self.own.count(counter, n);
        self
    }
}

/// Flattens a tree into a recording.
pub(crate) fn recording(root: Node) -> Recording {
    fn push(spans: &mut Vec<Span>, node: Node, parent: usize, mut start: f64) {
        let index = spans.len();
        let at = |ms: f64| Duration::from_nanos((ms * 1e6).round() as u64);
        let Node { kind, operator, own, peak_bytes, .. } = node;
        let wall = at(start + node.ms).saturating_sub(at(start));
        spans.push(Span { kind, operator, parent, start: at(start), wall, own, peak_bytes });
        for child in node.children {
            let ms = child.ms;
            push(spans, child, index, start);
            start += ms;
        }
    }
    let mut spans = Vec::new();
    push(&mut spans, root, 0, 0.0);
    Recording::from_spans(spans).unwrap()
}

pub(crate) fn header() -> Header {
    Header {
        model: "synthetic-vit".into(),
        random_weights: true,
        backend: "he".into(),
        tokens: 49,
        batch: 1,
        parameter_set: "lev16_36".into(),
        security_bits: Some(128.0),
        device: "cpu".into(),
        machine: "An Invented Processor @ 3.0 GHz".into(),
        threads: 2,
        key_bytes: 1_300_000_000,
        peak_rss_bytes: Some(2_400_000_000),
        upload_bytes: 15_700_000,
        download_bytes: 786_432,
        ..Header::default()
    }
}

/// (name, ms, level in, level out, rotations, relinearizations, ct_ct, ct_pt, rescales); invented figures.
type Row = (&'static str, f64, usize, usize, u64, u64, u64, u64, u64);
const LAYER: [Row; 9] = [
    ("attention.qkv", 1890.0, 20, 19, 28, 0, 0, 96, 3),
    ("attention.scores", 1310.0, 19, 16, 33, 4, 4, 4, 9),
    ("softmax.square", 88.0, 16, 15, 0, 1, 1, 0, 1),
    ("softmax.reciprocal", 2240.0, 15, 9, 19, 13, 13, 8, 13),
    ("attention.values", 1475.0, 9, 8, 17, 1, 4, 0, 4),
    ("attention.output", 640.0, 8, 8, 14, 0, 0, 64, 1),
    ("norm2", 930.0, 8, 3, 12, 5, 5, 3, 6),
    ("ffn", 720.0, 3, 1, 21, 2, 2, 96, 4),
    ("residual", 9.5, 1, 1, 0, 0, 0, 0, 0),
];

/// One layer of a transformer: operators with key switches and transforms in them.
pub(crate) fn layer(name: &str, scale: f64) -> Vec<Node> {
    let make =
        |&(op_name, ms, level_in, level_out, rotations, relins, ct_ct, ct_pt, rescales): &Row| {
            let ms = ms * scale;
            let switches = rotations + relins;
            let mut node = op(op_name, ms)
                .layer(name)
                .level(level_in, level_out)
                .count(Counter::Rotations, rotations)
                .count(Counter::Relinearizations, relins)
                .count(Counter::KeySwitches, switches)
                .count(Counter::CtCt, ct_ct)
                .count(Counter::CtPt, ct_pt)
                .count(Counter::Rescales, rescales);
            if switches > 0 {
                node = node.with([
                    primitive("key_switch", ms * 0.7).with([
                        primitive("ntt", ms * 0.32).count(Counter::LimbNtts, 40 * switches),
                        primitive("mod_down", ms * 0.08),
                    ]),
                    primitive("rescale", ms * 0.05).with([
                        primitive("ntt", ms * 0.03).count(Counter::LimbNtts, 20 * rescales)
                    ]),
                    primitive("encode", ms * 0.11),
                ]);
            }
            node
        };
    LAYER.iter().map(make).collect()
}

pub(crate) fn model_run(scale: f64) -> Recording {
    let mut nodes = layer("layer.0", scale);
    nodes.push(op("pool+head", 310.0 * scale).level(1, 0).count(Counter::Rescales, 1));
    let wall = nodes.iter().map(|n| n.ms).sum::<f64>() + 14.0;
    recording(root(wall, nodes))
}

/// What a perfect planner would have said of [`model_run`], with times that are a little off.
pub(crate) fn model_prediction() -> Prediction {
    let mut operators: Vec<PredictedOperator> = LAYER
        .iter()
        .enumerate()
        .map(|(i, &(name, ms, _, _, rotations, relins, ct_ct, ct_pt, rescales))| {
            PredictedOperator {
                name: name.into(),
                layer: "layer.0".into(),
                cost: Cost::of(Counter::Rotations, rotations)
                    + Cost::of(Counter::Relinearizations, relins)
                    + Cost::of(Counter::KeySwitches, rotations + relins)
                    + Cost::of(Counter::CtCt, ct_ct)
                    + Cost::of(Counter::CtPt, ct_pt)
                    + Cost::of(Counter::Rescales, rescales),
                ms: Some(ms * [0.94, 1.06, 1.0][i % 3]),
            }
        })
        .collect();
    operators.push(PredictedOperator {
        name: "pool+head".into(),
        layer: String::new(),
        cost: Cost::of(Counter::Rescales, 1),
        ms: Some(300.0),
    });
    Prediction {
        operators,
        key_bytes: Some(1_300_000_000),
        upload_bytes: Some(15_700_000),
        download_bytes: Some(786_432),
        peak_rss_bytes: Some(2_300_000_000),
        ..Prediction::default()
    }
}

/// Compares with a file beside the tests; `UPDATE_GOLDEN=1` writes it anew.
pub(crate) fn golden(name: &str, got: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(got == want, "{name} differs from its golden file; got:\n{got}");
}
