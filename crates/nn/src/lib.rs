//! Transformers as an operator graph, a planner, and executors in the clear and under CKKS.
//!
//! A model is a directory with `config.json` ([`ModelConfig`]) and `model.safetensors` ([`Weights`]). The config alone
//! determines a [`Graph`] with static shapes, the polynomials that replace division and square root
//! ([`approx::layer_approximations`]), and so everything a planner needs; the weights only fill it.
//!
//! ```
//! use cipherform_nn::{Functions, RandomModel, exec::ClearExecutor, random_input};
//! # fn main() -> cipherform_nn::Result<()> {
//! let model = RandomModel { tokens: 9, width: 8, heads: 2, ..RandomModel::default() }.generate()?;
//! let input = random_input(&model.config, 7, 0)?;
//! let exact = ClearExecutor::new(&model, Functions::Exact)?.run(&input)?;
//! let polynomial = ClearExecutor::new(&model, Functions::Polynomial)?.run(&input)?;
//! assert_eq!(exact.len(), model.config.classes.len());
//! assert!(exact.iter().zip(&polynomial).all(|(a, b)| (a - b).abs() < 0.1));
//! # Ok(())
//! # }
//! ```
//!
//! **Non-goals.** No training, no model zoo: one family of pre-norm encoders whose every operator has a
//! polynomial form.

pub mod approx;
pub mod calibrate;
pub mod config;
pub mod cost;
pub mod data;
pub mod embedding;
mod error;
pub mod estimate;
pub mod exec;
pub mod graph;
pub mod hybrid;
pub mod label;
mod layout;
mod lengths;
mod lower;
pub mod matrix;
pub mod op;
mod packing;
mod plan;
mod planner;
pub mod program;
pub mod random;
mod session;
pub mod shape;
pub mod weights;

pub use config::{Activation, HeadKind, InputKind, LayerConfig, Levels, ModelConfig, Range};
pub use embedding::{ClientWeights, Embedded, client_embedding};
pub use error::{Error, Result};
pub use exec::{Functions, Progress};
pub use graph::{Graph, Node, NodeId};
pub use label::{LogitRange, Mode};
pub use layout::Layout;
pub use lengths::Length;
pub use lower::InputSpec;
pub use matrix::Matrix;
pub use num_complex::Complex64;
pub use op::Op;
pub use packing::{Packing, PairPacking};
pub use plan::{PLAN_FORMAT, Plan, Sizes, StepInfo};
pub use random::{RandomModel, draw, random_input};
pub use session::{HeModel, ModelDescription, argmax};
pub use shape::Shape;
pub use weights::{Model, Weights};
