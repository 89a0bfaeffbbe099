//! A planner's prediction beside what was observed.
//!
//! Counts and sizes are exact by construction, so every difference is listed as a [`Discrepancy`]; times and memory
//! are estimates and only shown.

use crate::aggregate::{Rows, layers};
use crate::cost::{Cost, Counter};
use crate::report::{
    Discrepancy, OperatorRow, PredictedOperator, Prediction, Report, Totals, tidy,
};

/// Predictions of the same (name, layer) summed, in order.
fn merged(prediction: &Prediction) -> Vec<PredictedOperator> {
    let mut rows: Rows<(String, String), PredictedOperator> = Rows::new();
    for op in &prediction.operators {
        let row = rows.entry((op.layer.clone(), op.name.clone()), || PredictedOperator {
            cost: Cost::default(),
            ms: Some(0.0),
            ..op.clone()
        });
        row.cost += op.cost;
        row.ms = row.ms.zip(op.ms).map(|(a, b)| tidy(a + b));
    }
    rows.rows
}

/// Writes `expected` into its row and lists what differs.
fn operator(
    row: Option<&mut OperatorRow>,
    expected: &PredictedOperator,
    compared: &[Counter],
    mismatches: &mut Vec<Discrepancy>,
) {
    let names = || (expected.name.clone(), expected.layer.clone());
    let Some(row) = row else {
        let (name, layer) = names();
        mismatches.push(Discrepancy::NotRun { name, layer });
        return;
    };
    row.predicted_counters = Some(expected.cost);
    row.predicted_ms = expected.ms;
    for &counter in compared {
        let (predicted, observed) = (expected.cost.get(counter), row.counters.get(counter));
        if predicted != observed {
            let (name, layer) = names();
            mismatches.push(Discrepancy::Counter { name, layer, counter, predicted, observed });
        }
    }
}

pub(crate) fn compare(report: &mut Report, prediction: &Prediction) {
    let expected = merged(prediction);
    let predicts_ntts = expected.iter().any(|op| op.cost.get(Counter::LimbNtts) > 0);
    report.compared =
        Counter::ALL.into_iter().filter(|&c| c != Counter::LimbNtts || predicts_ntts).collect();
    for op in &expected {
        let row = report.operators.iter_mut().find(|r| r.name == op.name && r.layer == op.layer);
        operator(row, op, &report.compared, &mut report.mismatches);
    }
    if !expected.is_empty() {
        for row in report.operators.iter().filter(|r| r.predicted_counters.is_none()) {
            let (name, layer) = (row.name.clone(), row.layer.clone());
            report.mismatches.push(Discrepancy::NotPredicted { name, layer });
        }
        for &counter in &report.compared {
            let observed = report.unattributed_counters.get(counter);
            if observed > 0 {
                report.mismatches.push(Discrepancy::OutsideOperators { counter, observed });
            }
        }
    }
    for (what, predicted, observed) in [
        ("key_bytes", prediction.key_bytes, report.observed.key_bytes),
        ("upload_bytes", prediction.upload_bytes, report.observed.upload_bytes),
        ("download_bytes", prediction.download_bytes, report.observed.download_bytes),
    ] {
        if let (Some(predicted), Some(observed)) = (predicted, observed)
            && predicted != observed
        {
            let what = what.to_owned();
            report.mismatches.push(Discrepancy::Bytes { what, predicted, observed });
        }
    }
    let sum = expected.iter().map(|op| op.ms).sum::<Option<f64>>().filter(|_| !expected.is_empty());
    report.predicted = Some(Totals {
        ms: prediction.ms.or(sum).map(tidy),
        counters: expected.iter().map(|op| op.cost).sum(),
        key_bytes: prediction.key_bytes,
        upload_bytes: prediction.upload_bytes,
        download_bytes: prediction.download_bytes,
        peak_rss_bytes: prediction.peak_rss_bytes,
        peak_vram_bytes: prediction.peak_vram_bytes,
    });
    report.layers = layers(&report.operators, &report.runs_ms);
}
