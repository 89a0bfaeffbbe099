//! Operators, written once as circuits.
//!
//! Every operator takes and gives shares in the full ring. *Stand-alone* operators work at [`SCALE`] in and out; inside a block their
//! last truncation is fused with what follows. Ranges are contracts: an input outside makes the result wrong, and nothing tells.
//! Each has a cost formula in [`formula`]; tests hold it against circuit and wire, and the stated error against f64.

mod activation;
mod argmax;
mod block;
pub mod formula;
mod norm;
mod product;
mod softmax;

pub(crate) use activation::activation_f64;
pub use activation::{
    Activation, activation, exp, gate, gelu, gelu_table, quadratic, reciprocal, relu, rsqrt,
};
pub use argmax::argmax;
pub use block::{
    BlockKind, BlockShape, Stream, attention, block, head_order, key_factor, query_factor,
};
pub use norm::{layer_norm, normalise_centred, row_mean};
pub(crate) use norm::{normalise, rsqrt_knots};
pub use product::{linear, matmul, multiply};
pub use softmax::{Attention, row_max, softmax};
pub(crate) use softmax::{max_table, reciprocal_knots};

use crate::circuit::{Builder, Share, View};
use crate::error::Result;

/// Fraction bits of stand-alone operators and of the residual stream.
pub const SCALE: u32 = 16;

/// Opens and truncates to `scale`: one round. Error below one unit of the new scale.
///
/// # Errors
/// [`crate::Error::Range`].
pub fn lift_to(b: &mut Builder, x: Share, scale: u32) -> Result<Share> {
    let m = b.open(x)?;
    let drop = b.scale(m).saturating_sub(scale);
    b.lift(m, drop)
}

/// The same elements in another shape.
pub(crate) fn reshape(b: &mut Builder, x: Share, shape: &[usize]) -> Result<Share> {
    b.view(x, View::of(shape))
}
