//! Makes keys, encrypts, uploads, calls, decrypts.
//!
//! ```no_run
//! # async fn example(input: cipherform_nn::Matrix) -> Result<(), cipherform_client::Error> {
//! use cipherform_client::{Client, KeyBundle, Options};
//!
//! let client = Client::connect("http://127.0.0.1:7300", Options::default()).await?;
//! let described = client.describe("fashion-mnist-vit").await?; // checked: parameters known, secure, plan sound
//! let context = client.context(&described)?;
//! let bundle = KeyBundle::generate(&context)?;
//! let mut session = client.session(described, context, bundle)?;
//! session.ensure_keys(&mut |keys| eprintln!("{} of {} keys", keys.keys, keys.total_keys)).await?;
//! let prediction = session.infer(&input, &mut |event| eprintln!("{}", event.operator)).await?;
//! println!("class {}", prediction.label());
//! # Ok(())
//! # }
//! ```
//!
//! The secret key lives in a [`KeyBundle`] and leaves this process only into a file that its owner alone can read.
//!
//! # Security
//! CKKS gives no integrity: a malicious server can return anything. Do not let the server see what came out, nor act
//! observably on it.
//!
//! **Non-goals.** No TLS (use a tunnel), no passphrase on the key file, no automatic retry of jobs.
#![forbid(unsafe_code)]

mod connection;
mod error;
mod key_file;
mod peer;
mod prediction;
mod session;
mod text;
mod transfer;

pub use cipherform_proto::wire::{JobEvent, JobState, KeySetInfo, ModelSummary, ServerInfo};
pub use cipherform_proto::{Fault, Id};
pub use connection::{Client, Described, Options};
pub use error::{Error, Result};
pub use key_file::{KeyBundle, entropy};
pub use peer::connect_peer;
pub use prediction::{Answer, Label, Logits, Prediction, Timings};
pub use session::{EncryptedInput, KeyProgress, Session};
pub use text::Tokenizer;
