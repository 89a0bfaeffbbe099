//! A trained vision transformer classifies an image that its server never sees.
//!
//! The server owns the weights, the client owns the image and the secret key; they talk gRPC over loopback. At the end:
//! where the server's time went, operator by operator, beside what was predicted before any key existed.
//!
//! `cargo run --example 06_private_transformer`
#![expect(clippy::print_stdout, reason = "an example narrates")]

use anyhow::{Context as _, Result, ensure};
use cipherform_ckks::{Context, Device};
use cipherform_client::{Client, KeyBundle, KeyProgress, Options};
use cipherform_nn::calibrate::CostTable;
use cipherform_nn::data::{patches, samples};
use cipherform_nn::exec::ClearExecutor;
use cipherform_nn::{Functions, HeModel, Mode, Model, Plan};
use cipherform_profile::{Header, PredictedOperator, Prediction, Report, Style};
use cipherform_server::{Config, Registry, Server};
use std::path::Path;

/// The server's side: load, plan, encode, listen.
fn start_server(model: &Model) -> Result<cipherform_server::ServerHandle> {
    let params = Plan::choose_parameters(model, &CostTable::nominal(), Mode::Logits)?;
    println!(
        "server: {} fits {}, {} bits of security",
        model.config.name,
        params.name(),
        params.security_bits()
    );
    let context = Context::new(params, &Device::cpu())?;
    let mut registry = Registry::new();
    registry.add(HeModel::new(model, &context)?)?;
    let handle = Server::start(&Config::default(), registry)?;
    println!("server: listening on {}", handle.url());
    Ok(handle)
}

#[tokio::main]
async fn main() -> Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/fashion-mnist-vit");
    let model = Model::load(&dir)?;
    let server = start_server(&model)?;

    // The client knows a URL and a name. The server's answer holds the embedding, the calibrated ranges and the plan:
    // which keys to make, at which level, and how to pack the input. The other weights stay where they are.
    let client = Client::connect(&server.url(), Options::default()).await?;
    let described = client.describe(&model.config.name).await?;
    let context = client.context(&described)?;
    let bundle = KeyBundle::generate(&context)?;
    let mut session = client.session(described, context, bundle)?;
    println!("client: made a secret key; it never leaves this side");

    let mut sent = 0;
    let mut on_keys = |progress: KeyProgress| sent = progress.bytes;
    session.ensure_keys(&mut on_keys).await?;
    println!(
        "client: {} evaluation keys uploaded, {:.0} MB",
        session.description().plan().keys().len(),
        sent as f64 / 1e6
    );

    let sample = samples()?.into_iter().next().context("sample images are shipped")?;
    let input = patches(session.description().config(), &sample.image)?;
    let prediction = session.infer(&input, &mut |_| ()).await?;
    let class = |k: usize| &model.config.classes[k];
    println!(
        "client: sent {:.1} MB, received {:.1} MB, decrypted: {}",
        prediction.uploaded_bytes as f64 / 1e6,
        prediction.downloaded_bytes as f64 / 1e6,
        class(prediction.label())
    );
    println!("truth:  {}", class(usize::from(sample.label)));

    // The same model in the clear, polynomials and all: the difference is the noise of the encryption.
    let clear = ClearExecutor::new(&model, Functions::Polynomial)?.run(&input)?;
    let error =
        clear.iter().zip(prediction.logits()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("largest logit error 2^{:.1}", error.log2());
    ensure!(error < 0.01, "the encrypted logits are off by {error}");
    ensure!(prediction.label() == usize::from(sample.label), "this image is an easy one");

    let plan = session.description().plan();
    let predicted = Prediction {
        operators: plan
            .steps()
            .iter()
            .map(|s| PredictedOperator {
                name: s.operator.clone(),
                layer: s.layer.clone(),
                cost: s.cost,
                ms: None,
            })
            .collect(),
        ..Prediction::default()
    };
    let header = Header {
        model: model.config.name.clone(),
        backend: "he".into(),
        tokens: model.config.tokens,
        batch: 1,
        parameter_set: session.parameters().name().to_owned(),
        device: "cpu".into(),
        ..Header::default()
    };
    let report = Report::new(header, &[prediction.recording])?.with_prediction(&predicted);
    println!("\n{}", report.to_text(Style::Plain));
    ensure!(report.mismatches.is_empty(), "observed counts differ from the predicted ones");
    server.shutdown();
    Ok(())
}
