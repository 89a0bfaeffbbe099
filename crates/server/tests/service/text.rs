//! Sentences: cut into word pieces on the client, encrypted as vectors, of any length.
//!
//! | test | shows |
//! | --- | --- |
//! | `sentences_of_any_length` | logits as in the clear for every length, counts as planned; the tokenizer comes with the description |
//! | `lengths_that_no_input_has` | refused before the job waits |

use crate::devices::Blobs;
use crate::support::{config, context, open_session};
use cipherform_client::{Error, Fault, Tokenizer};
use cipherform_nn::exec::ClearExecutor;
use cipherform_nn::{Functions, HeModel, Model, RandomModel};
use cipherform_proto::wire::JobRequest;
use cipherform_server::{Registry, Server, ServerHandle};
use serde_json::json;

const WORDS: [&str; 8] = ["[UNK]", "[CLS]", "a", "good", "bad", "film", "not", "."];

fn model() -> Model {
    let shape = RandomModel {
        tokens: 6,
        width: 8,
        heads: 2,
        ffn: 16,
        classes: 2,
        undivided: true,
        shifted: true,
        vocabulary: Some(WORDS.len()),
        ..RandomModel::default()
    };
    let vocabulary: serde_json::Map<_, _> =
        WORDS.iter().zip(0..).map(|(&word, id)| (word.to_owned(), json!(id))).collect();
    let special = json!({"[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}});
    let tokenizer = json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": null, "added_tokens": [],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing", "pair": [], "special_tokens": special,
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        },
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    });
    Model { tokenizer: Some(tokenizer.to_string()), ..shape.generate().unwrap() }
}

fn serve(model: &Model) -> ServerHandle {
    let mut registry = Registry::new();
    registry.add(HeModel::new(model, &context()).unwrap()).unwrap();
    Server::start(&config(), registry).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sentences_of_any_length() {
    let model = model();
    let server = serve(&model);
    let clear = ClearExecutor::new(&model, Functions::Polynomial).unwrap();
    let mut session = open_session(&server.url(), &model.config.name).await;
    session.ensure_keys(&mut |_| {}).await.unwrap();
    // Everything that the client knows of the vocabulary came from the server; the file's truncation is not followed.
    let tokenizer = Tokenizer::new(session.description()).unwrap();
    let plan = session.description().plan().clone();
    let texts = ["film", "Good film .", "a bad film", "not a good film .", "not bad"];
    for (text, tokens) in texts.into_iter().zip([2, 4, 4, 6, 3]) {
        let input = tokenizer.encode(text).unwrap();
        assert_eq!(input.rows(), tokens, "{text}");
        let prediction = session.infer(&input, &mut |_| {}).await.unwrap();
        let tolerance = 2.0_f64.powi(-10) * model.config.logit_abs_max;
        for (got, want) in prediction.logits().iter().zip(clear.run(&input).unwrap()) {
            assert!(
                (got - want).abs() < tolerance,
                "{text}: {got} where the clear executor has {want}"
            );
        }
        plan.cost().check(&prediction.recording.total()).unwrap();
        // The same bytes whatever the length.
        assert_eq!(prediction.uploaded_bytes, plan.sizes(session.parameters()).input_bytes);
    }
    let refused = tokenizer.encode("a film not a good film").unwrap_err();
    assert!(matches!(refused, Error::TextTooLong { pieces: Some(7), limit: 6 }), "{refused}");
    let refused = tokenizer.encode("a great film").unwrap_err();
    assert!(matches!(refused, Error::UnknownText { at: 2, .. }), "{refused}");
    server.shutdown();
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_no_input_has() {
    let model = model();
    let server = serve(&model);
    let tokenizer = Tokenizer::from_json(&model.config, model.tokenizer.as_deref().unwrap());
    let input = tokenizer.unwrap().encode("film").unwrap();
    let blobs = Blobs::new(&model, context().params(), &input);
    let (mut raw, job) = blobs.send(&server.url()).await;
    assert_eq!(job.tokens, 2);
    for tokens in [0, 7, u32::MAX] {
        let refused = raw.submit(JobRequest { tokens, ..job.clone() }).await;
        let Err(Fault::Malformed { what, .. }) = &refused else { panic!("{tokens}: {refused:?}") };
        assert!(what.contains("tokens"), "{what}");
    }
    raw.submit(job).await.unwrap();
    server.shutdown();
}
