//! The server's tensors as the circuit names them.

use super::ranges::{heads, relu_shift};
use crate::config::{Activation, LayerConfig, ModelConfig};
use crate::error::Result;
use crate::matrix::Matrix;
use crate::weights::{LayerWeights, LinearWeights};
use cipherform_mpc::Tensors;
use cipherform_mpc::ops::{self, Attention};

/// `v W`
fn times(v: &[f64], w: &Matrix) -> Vec<f64> {
    let mut out = vec![0.0; w.columns()];
    for (row, v) in v.iter().enumerate() {
        out.iter_mut().zip(w.row(row)).for_each(|(o, w)| *o += v * w);
    }
    out
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn centred(row: &[f64]) -> impl Iterator<Item = f64> + '_ {
    let mean = row.iter().sum::<f64>() / row.len().max(1) as f64;
    row.iter().map(move |w| w - mean)
}

fn rows(w: &Matrix) -> impl Iterator<Item = &[f64]> {
    (0..w.rows()).map(|r| w.row(r))
}

/// The tensors of one layer as the circuit names them.
pub(super) fn layer_tensors(
    out: &mut Tensors,
    config: &ModelConfig,
    index: usize,
    layer: &LayerConfig,
    w: &LayerWeights,
) -> Result<()> {
    let (d, f) = (config.width, config.ffn);
    let (kinds, order) = heads(layer);
    let dh = d / kinds.len().max(1);
    let mut put =
        |part: &str, tensor: Vec<f64>| out.insert(format!("layer.{index}.{part}"), tensor);
    // The client applies gain and bias of the very first norm.
    let own = (index > 0).then_some(&w.norm1);
    let parts: [(&LinearWeights, f64, f64); 3] = [
        (&w.query, ops::query_factor(dh), ops::query_factor(dh)),
        (&w.key, 1.0, ops::key_factor(config.tokens)),
        (&w.value, 1.0, 1.0),
    ];
    let relu = f64::from(relu_shift(config, layer)).exp2();
    // (part, column, factor) of every column of the circuit.
    let columns: Vec<(usize, usize, f64)> = (0..3)
        .flat_map(|part| order.iter().map(move |&h| (part, h)))
        .flat_map(|(part, h)| {
            let (_, normal, scaled) = parts[part];
            let factor = match kinds[h] {
                Attention::Scale => scaled,
                Attention::ReluSoftmax if part == 0 => normal / relu,
                _ => normal,
            };
            (h * dh..(h + 1) * dh).map(move |c| (part, c, factor))
        })
        .collect();
    let mut qkv = Vec::with_capacity(3 * d * d);
    for row in 0..d {
        let gain = own.map_or(1.0, |n| n.gain[row]);
        qkv.extend(
            columns.iter().map(|(p, c, factor)| gain * factor * parts[*p].0.weight.row(row)[*c]),
        );
    }
    put("qkv", qkv);
    let biases = parts.map(|(linear, ..)| match own {
        Some(norm) => sum(&linear.bias, &times(&norm.bias, &linear.weight)),
        None => linear.bias.clone(),
    });
    put("qkv.bias", columns.iter().map(|(p, c, factor)| factor * biases[*p][*c]).collect());
    let kept = order.iter().flat_map(|h| h * dh..(h + 1) * dh);
    put("out", kept.flat_map(|r| centred(w.output.weight.row(r)).collect::<Vec<_>>()).collect());
    put("out.bias", centred(&w.output.bias).collect());

    let second: Vec<f64> =
        rows(&w.ffn_out.weight).flat_map(|r| centred(r).collect::<Vec<_>>()).collect();
    let second = Matrix::from_vec(f, d, second)?;
    let scaled = |v: &[f64], by: &[f64]| v.iter().zip(by).map(|(v, b)| v * b).collect::<Vec<_>>();
    let out_bias: Vec<f64> = centred(&w.ffn_out.bias).collect();
    let bias = sum(&w.ffn_in.bias, &times(&w.norm2.bias, &w.ffn_in.weight));
    if layer.activation.degree().is_none() {
        let rows = rows(&w.ffn_in.weight).zip(&w.norm2.gain);
        let first = rows.flat_map(|(row, gain)| row.iter().map(move |w| w * gain));
        let first = Matrix::from_vec(d, f, first.collect())?;
        if layer.activation == Activation::None {
            put("ffn", first.multiply(&second)?.into_data());
            put("ffn.bias", sum(&out_bias, &times(&bias, &second)));
        } else {
            put("in", first.into_data());
            put("in.bias", bias);
            put("ffn", second.into_data());
            put("ffn.bias", out_bias);
        }
        return Ok(());
    }
    let (a0, a1, a2) = (w.activation.row(0), w.activation.row(1), w.activation.row(2));
    let mut first = Vec::with_capacity(d * (f + d));
    for (row, gain) in rows(&w.ffn_in.weight).zip(&w.norm2.gain) {
        let row: Vec<f64> = row.iter().map(|w| w * gain).collect();
        first.extend_from_slice(&row);
        first.extend(times(&scaled(&row, a1), &second));
    }
    put("in", first);
    let constant = sum(&scaled(&bias, a1), a0);
    put("ffn", rows(&second).zip(a2).flat_map(|(r, a)| r.iter().map(move |w| w * a)).collect());
    put("ffn.bias", sum(&out_bias, &times(&constant, &second)));
    put("in.bias", bias);
    Ok(())
}
