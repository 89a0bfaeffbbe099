//! Which tokenizers are run for a server: those of parts that take time and memory proportional to a text.

use serde_json::{Map, Value};

/// Normalizers. None lengthens a text by more than a constant factor, however often it is applied.
const NORMALIZERS: [&str; 8] =
    ["BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Strip", "StripAccents"];

/// Pre-tokenizers: none takes a pattern.
const PRE_TOKENIZERS: [&str; 5] =
    ["BertPreTokenizer", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits"];

/// Most parts of a sequence of normalizers or pre-tokenizers: each is a pass over the text.
const MAX_PARTS: usize = 8;

/// Most pieces that are put around a text.
const MAX_SPECIAL: usize = 8;

/// Longest word that `WordPiece` looks up, in characters (the library's default is 100): its time is quadratic in it.
const MAX_WORD: u64 = 200;

/// Longest mark of a piece within a word, in bytes: it is set before every piece that is looked up.
const MAX_PREFIX: usize = 16;

/// The fields that matter to the ids of a text. Padding and truncation do not: a sentence that is too long is refused, not cut.
const FIELDS: [&str; 6] =
    ["version", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model"];

/// A tokenizer without what does not matter to ids, if its parts are among those that are run; otherwise why not.
pub(super) fn checked(mut tokenizer: Value) -> Result<Value, String> {
    let fields = tokenizer.as_object_mut().ok_or("it is not an object")?;
    fields.retain(|name, _| FIELDS.contains(&name.as_str()));
    steps(fields.get("normalizer"), "normalizers", &NORMALIZERS)?;
    steps(fields.get("pre_tokenizer"), "pretokenizers", &PRE_TOKENIZERS)?;
    template(fields.get("post_processor"))?;
    model(fields.get("model"))?;
    Ok(tokenizer)
}

fn not_run(part: &str) -> String {
    format!("{part} is not run for a server")
}

fn type_of(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or("a part without a type")
}

/// Checks nothing, one part, or a sequence of parts, in the field `list` of it.
fn steps(part: Option<&Value>, list: &str, allowed: &[&str]) -> Result<(), String> {
    let Some(part) = part.filter(|part| !part.is_null()) else { return Ok(()) };
    let one = std::slice::from_ref(part);
    let parts = match type_of(part) {
        "Sequence" => part.get(list).and_then(Value::as_array).ok_or("a sequence has no parts")?,
        _ => one,
    };
    if parts.len() > MAX_PARTS {
        return Err(format!("a sequence has {} parts, more than {MAX_PARTS}", parts.len()));
    }
    // A sequence within a sequence is none of the allowed.
    let refused = parts.iter().map(type_of).find(|name| !allowed.contains(name));
    refused.map_or(Ok(()), |name| Err(not_run(name)))
}

/// Checks what is put around a text: the text once, and a few special pieces of one id each.
fn template(part: Option<&Value>) -> Result<(), String> {
    let Some(part) = part.filter(|part| !part.is_null()) else { return Ok(()) };
    // The library takes the fields for the type, whatever `type` says.
    let known = |name: &String| ["type", "single", "pair", "special_tokens"].contains(&&**name);
    let fields = part.as_object().filter(|fields| fields.keys().all(known));
    let Some(fields) = fields.filter(|_| type_of(part) == "TemplateProcessing") else {
        return Err(not_run(type_of(part)));
    };
    let single = fields.get("single").and_then(Value::as_array);
    let single = single.ok_or("its template has no pieces")?;
    let declared = fields.get("special_tokens").and_then(Value::as_object);
    let texts = single.iter().filter(|piece| piece.pointer("/Sequence/id") == Some(&"A".into()));
    let specials = single.iter().filter(|piece| is_special(piece, declared)).count();
    if texts.count() != 1 || specials + 1 != single.len() || specials > MAX_SPECIAL {
        return Err(format!(
            "its template is not the text once and at most {MAX_SPECIAL} declared pieces of one id each"
        ));
    }
    Ok(())
}

/// Whether it is a special piece with one id.
fn is_special(piece: &Value, declared: Option<&Map<String, Value>>) -> bool {
    let name = piece.pointer("/SpecialToken/id").and_then(Value::as_str);
    let special = name.and_then(|name| declared?.get(name));
    let has_one = |field| {
        let list = special.and_then(|special| special.get(field)?.as_array());
        list.is_some_and(|list| list.len() == 1)
    };
    has_one("ids") && has_one("tokens")
}

/// Checks the model: words and pieces of words from a list, or single characters.
fn model(part: Option<&Value>) -> Result<(), String> {
    let part = part.ok_or("it has no model")?;
    let unset = |name| part.get(name).is_none_or(Value::is_null);
    match type_of(part) {
        "WordLevel" => Ok(()),
        "WordPiece" => {
            let word = part.get("max_input_chars_per_word");
            let prefix = part.get("continuing_subword_prefix");
            let short = |prefix: &Value| prefix.as_str().is_some_and(|p| p.len() <= MAX_PREFIX);
            let bounded = |word: &Value| word.as_u64().is_some_and(|word| word <= MAX_WORD);
            if word.is_none_or(bounded) && prefix.is_none_or(short) {
                return Ok(());
            }
            Err(format!(
                "its words are longer than {MAX_WORD} characters, or their marks than {MAX_PREFIX} bytes"
            ))
        }
        // Without merges it is a list of characters.
        "BPE"
            if part.get("merges").and_then(Value::as_array).is_some_and(Vec::is_empty)
                && unset("continuing_subword_prefix")
                && unset("end_of_word_suffix") =>
        {
            Ok(())
        }
        "BPE" => Err(not_run("BPE with merges, prefix or suffix")),
        other => Err(not_run(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        let cls = json!({"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]});
        json!({
            "version": "1.0", "added_tokens": [], "padding": {}, "truncation": {},
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}]},
            "pre_tokenizer": {"type": "WhitespaceSplit"},
            "post_processor": {
                "type": "TemplateProcessing", "pair": [], "special_tokens": {"[CLS]": cls},
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            },
            "decoder": {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""},
            "model": {"type": "WordLevel", "vocab": {"[UNK]": 0, "[CLS]": 1}, "unk_token": "[UNK]"},
        })
    }

    #[test]
    fn what_is_checked_is_read() {
        let checked = checked(good()).unwrap();
        assert!(checked.get("decoder").is_none() && checked.get("padding").is_none());
        let read: tokenizers::Tokenizer = checked.to_string().parse().unwrap();
        assert_eq!(read.encode("Of", true).unwrap().get_ids(), [1, 0]);
    }

    #[test]
    fn parts_that_are_not_run_are_refused() {
        let cls = json!({"SpecialToken": {"id": "[CLS]", "type_id": 0}});
        let text = json!({"Sequence": {"id": "A", "type_id": 0}});
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let many = vec![json!({"type": "NFC"}); MAX_PARTS + 1];
        let nested = json!({"type": "Sequence", "normalizers": [{"type": "NFC"}]});
        let other = json!({"SpecialToken": {"id": "[X]", "type_id": 0}});
        let second = json!({"Sequence": {"id": "B", "type_id": 0}});
        let long = json!("#".repeat(MAX_PREFIX + 1));
        let mut crowd = vec![cls.clone(); MAX_SPECIAL + 1];
        crowd.push(text.clone());
        let bad = [
            ("/normalizer", double.clone()),
            ("/normalizer", json!({"type": "Sequence", "normalizers": [double]})),
            ("/normalizer", json!({"type": "Sequence", "normalizers": many})),
            ("/normalizer", json!({"type": "Sequence", "normalizers": [nested]})),
            ("/normalizer", json!({"type": "Prepend", "prepend": "a"})),
            ("/normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="})),
            ("/normalizer", json!({"lowercase": true})),
            ("/pre_tokenizer", json!({"type": "Split", "pattern": {"Regex": "(a+)+$"}})),
            ("/pre_tokenizer", json!({"type": "ByteLevel"})),
            (
                "/post_processor",
                json!({"type": "BertProcessing", "sep": ["a", 1], "cls": ["a", 1]}),
            ),
            ("/post_processor/sep", json!(["a", 1])),
            ("/post_processor/single", json!([cls])),
            ("/post_processor/single", json!([text, text])),
            ("/post_processor/single", json!([text, second])),
            ("/post_processor/single", json!([text, other])),
            ("/post_processor/single", json!(crowd)),
            ("/post_processor/special_tokens/[CLS]/ids", json!([1, 1])),
            ("/post_processor/special_tokens/[CLS]/tokens", json!([])),
            ("/model", json!({"type": "Unigram", "vocab": []})),
            ("/model", json!({"type": "BPE", "vocab": {}, "merges": ["a b"]})),
            (
                "/model",
                json!({"type": "BPE", "vocab": {}, "merges": [], "continuing_subword_prefix": "##"}),
            ),
            (
                "/model",
                json!({"type": "WordPiece", "vocab": {}, "max_input_chars_per_word": MAX_WORD + 1}),
            ),
            (
                "/model",
                json!({"type": "WordPiece", "vocab": {}, "continuing_subword_prefix": long}),
            ),
            ("/model", json!({"vocab": {}})),
        ];
        for (at, part) in bad {
            let mut tokenizer = good();
            let (parent, name) = at.rsplit_once('/').unwrap();
            tokenizer.pointer_mut(parent).unwrap()[name] = part.clone();
            assert!(checked(tokenizer).is_err(), "{at} {part}");
        }
    }
}
