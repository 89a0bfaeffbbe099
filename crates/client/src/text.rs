//! Sentences to word pieces, on the client.
//!
//! The tokenizer comes with the model's description, so from a server. It is data to the `tokenizers` library, some of whose
//! parts take time or memory without bound (replacements that double a text, regular expressions with backtracking) or panic on
//! descriptions that make no sense. So [`checked`] lets pass only the parts named there, and panics of the library are caught.

use crate::error::{Error, Result};
use checked::checked;
use cipherform_nn::{InputKind, Matrix, ModelConfig, ModelDescription};
use cipherform_proto::wire;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};

mod checked;

/// Longest text that is looked at, in bytes: more than any model's tokens.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Longest piece of text that a message repeats, in characters.
const QUOTED: usize = 32;

/// Cuts text into the word pieces of a model.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// What stands for text outside the vocabulary.
    unknown: Option<String>,
    tokens: usize,
}

impl Tokenizer {
    /// The tokenizer of a described model.
    ///
    /// # Errors
    /// As [`Tokenizer::from_json`]; [`Error::NoTokenizer`] for a model that takes no text.
    pub fn new(description: &ModelDescription) -> Result<Self> {
        let config = description.config();
        let none = || Error::NoTokenizer { model: config.name.clone() };
        Self::from_json(config, description.tokenizer().ok_or_else(none)?)
    }

    /// A tokenizer for a model of this config.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`] for a model that takes no text; [`Error::Tokenizer`] when the library cannot read it, or it has
    /// parts that are not run for a server.
    pub fn from_json(config: &ModelConfig, json: &str) -> Result<Self> {
        if !matches!(config.input, InputKind::Text { .. }) {
            return Err(Error::NoTokenizer { model: config.name.clone() });
        }
        let refused = |detail: String| Error::Tokenizer { detail: wire::text(&detail) };
        let value: Value = serde_json::from_str(json).map_err(|e| refused(e.to_string()))?;
        // Written anew, so that the library reads what was checked: a name that stands twice would else be up to the reader.
        let value = checked(value).map_err(refused)?;
        let unknown = value.pointer("/model/unk_token").and_then(Value::as_str).map(str::to_owned);
        let inner = caught(|| value.to_string().parse())?;
        Ok(Self { inner, unknown, tokens: config.tokens })
    }

    /// The model's input for a text: one row a word piece, special ones included.
    ///
    /// # Errors
    /// [`Error::EmptyText`] where nothing but special pieces is left, [`Error::UnknownText`] for text that the vocabulary has no
    /// piece for, [`Error::TextTooLong`] beyond the model's tokens, [`Error::Tokenizer`] when the library fails.
    pub fn encode(&self, text: &str) -> Result<Matrix> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::TextTooLong { pieces: None, limit: self.tokens });
        }
        let encoding = caught(|| self.inner.encode(text, true))?;
        let pieces = encoding.get_ids().len();
        if encoding.get_special_tokens_mask().iter().all(|&special| special == 1) {
            return Err(Error::EmptyText);
        }
        if pieces > self.tokens {
            return Err(Error::TextTooLong { pieces: Some(pieces), limit: self.tokens });
        }
        for (piece, &(start, end)) in encoding.get_tokens().iter().zip(encoding.get_offsets()) {
            // A text may hold what stands for the unknown: a question mark, for instance.
            let written = text.get(start..end).unwrap_or_default();
            if Some(piece) == self.unknown.as_ref() && written != piece {
                let shown: String = written.chars().take(QUOTED).collect();
                return Err(Error::UnknownText { text: wire::text(&shown), at: start });
            }
        }
        let ids = encoding.get_ids().iter().map(|&id| f64::from(id)).collect();
        Ok(Matrix::from_vec(pieces, 1, ids)?)
    }
}

/// What the library gives, its panics as errors. What a panic leaves behind is not looked at again: at most a cache of words.
fn caught<T>(library: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let refused = |detail: &str| Error::Tokenizer { detail: wire::text(detail) };
    let result = catch_unwind(AssertUnwindSafe(library));
    result.map_err(|_| refused("it breaks the library"))?.map_err(|e| refused(&e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cipherform_nn::Model;
    use std::path::Path;

    fn shipped(name: &str) -> Tokenizer {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models");
        let model = Model::load(&models.join(name)).unwrap();
        Tokenizer::from_json(&model.config, &model.tokenizer.unwrap()).unwrap()
    }

    fn ids(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        tokenizer.encode(text).unwrap().data().iter().map(|&id| id as u32).collect()
    }

    /// The ids are those that the library's Python side gave when the model was trained (`reference.json`, row 0 and 1).
    #[test]
    fn word_pieces_are_those_of_training() {
        let tokenizer = shipped("bert-tiny-he");
        let first = "it 's a charming and often affecting journey . ";
        assert_eq!(ids(&tokenizer, first), [2, 86, 11, 61, 43, 6563, 75, 464, 6810, 2571, 18, 3]);
        let second = "Unflinchingly bleak and  desperate";
        let want = [2, 2502, 5765, 434, 4793, 210, 10028, 75, 4024, 3];
        assert_eq!(ids(&tokenizer, second), want, "case and spaces do not matter");
        // One token a character; `?` stands for itself there and for everything unknown.
        let characters = shipped("characters-he");
        assert_eq!(ids(&characters, "a?").len(), 2);
        assert!(matches!(characters.encode("aé"), Err(Error::UnknownText { at: 1, .. })));
    }

    #[test]
    fn what_is_no_sentence_of_the_model_is_refused() {
        let tokenizer = shipped("bert-tiny-he");
        for empty in ["", " \t\n", "\u{200b}\u{0}"] {
            assert!(matches!(tokenizer.encode(empty), Err(Error::EmptyText)), "{empty:?}");
        }
        let long = "good ".repeat(63);
        let refused = tokenizer.encode(&long).unwrap_err();
        assert!(matches!(refused, Error::TextTooLong { pieces: Some(65), limit: 64 }), "{refused}");
        assert_eq!(tokenizer.encode(&"good ".repeat(62)).unwrap().rows(), 64);
        let huge = "a".repeat(MAX_TEXT_BYTES + 1);
        assert!(matches!(tokenizer.encode(&huge), Err(Error::TextTooLong { pieces: None, .. })));
        let refused = tokenizer.encode("a good film 🎬 indeed").unwrap_err();
        assert!(matches!(refused, Error::UnknownText { at: 12, .. }), "{refused}");
        assert!(refused.to_string().contains('🎬'), "{refused}");
    }

    #[test]
    fn tokenizers_from_outside_are_checked() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bert-tiny-he");
        let Model { config, tokenizer, .. } = Model::load(&model).unwrap();
        let good: Value = serde_json::from_str(&tokenizer.unwrap()).unwrap();
        let mut unknown = good.clone();
        unknown["model"]["type"] = "Magic\u{1b}[2J".into();
        for bad in [unknown.to_string(), "{}".into(), "\u{1b}".into()] {
            let refused = Tokenizer::from_json(&config, &bad).unwrap_err();
            assert!(matches!(refused, Error::Tokenizer { .. }), "{refused}");
            assert!(!refused.to_string().chars().any(char::is_control), "{refused:?}");
        }
        let breaks = caught(|| -> tokenizers::Result<()> {
            assert!(good.is_null());
            Ok(())
        });
        assert!(matches!(breaks, Err(Error::Tokenizer { .. })), "a panic is an error");
        let image = cipherform_nn::RandomModel::default().generate().unwrap().config;
        let refused = Tokenizer::from_json(&image, &good.to_string()).unwrap_err();
        assert!(matches!(refused, Error::NoTokenizer { .. }), "{refused}");
    }
}
