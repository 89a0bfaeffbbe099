//! Two-party computation of transformer operators on secret shares.
//!
//! A [`Circuit`] says what is computed, in which rounds, and what it costs; a dealer ([`deal`]) generates correlations from it; two
//! parties [`run`] it over a [`Channel`]. Shares live in Z_2^64 as fixed-point numbers whose scales are tracked by the
//! [`Builder`]; non-linear functions are gates of function secret sharing that take one opening each.
//!
//! Without a dealer, [`run_without_dealer`] runs the same circuits by oblivious transfers and encrypted products.
//!
//! **Security.** Semi-honest parties; an honest dealer that colludes with neither, or none. See `SECURITY.md`.
//!
//! **Costs are contracts.** [`Circuit::cost`] is exact; tests hold it against the wire.

mod channel;
mod circuit;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod dealer;
mod encoded;
mod error;
mod fixed;
mod fss;
mod gates;
mod joint;
mod link;
mod live;
mod matmul;
pub mod model;
mod no_dealer;
pub mod ops;
mod party;
mod prg;
mod role;
mod session;
mod store;

pub use channel::{Channel, Identity, Incoming, Network, Outgoing, PublicKey};
pub use circuit::{
    Builder, Circuit, Cost, Knots, Masked, Offline, Operator, Share, Table, View, Weight,
};
pub use dealer::{Correlations, WeightMask, deal};
pub use error::{Error, Result};
pub use fixed::{decode, decode_all, encode, encode_all, low, signed};
pub use joint::Joint;
pub use link::{HEADER, Link, Traffic};
pub use live::{LiveDealer, serve};
pub use no_dealer::{NoDealerCost, NoDealerPlan, Pairing, run_without_dealer};
pub use party::{ClientModel, Model, Prepared, ServerModel, Tensors};
pub use prg::Seed;
pub use role::Role;
pub use session::{announce, announced, receive_model, run, send_model, simulate};
pub use store::Store;

#[cfg(test)]
mod tests;
