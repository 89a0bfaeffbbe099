//! The model in `models/fashion-mnist-vit` between two parties, one of which encrypts, at 128 bits: against logits that PyTorch computed.

use cipherform_ckks::{Context, Device, presets};
use cipherform_mpc::{Channel, Link, Pairing, Role, simulate};
use cipherform_nn::calibrate::MachineCosts;
use cipherform_nn::data::{patches, samples};
use cipherform_nn::hybrid::{HybridClient, HybridServer};
use cipherform_nn::{Error, Matrix, Model, argmax};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use std::path::Path;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_mins(5);

#[test]
fn the_three_samples_keep_their_labels() {
    let dir = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/fashion-mnist-vit"));
    let model = Model::load(dir).unwrap();
    let reference: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("reference.json")).unwrap()).unwrap();
    let samples = samples().unwrap();
    let inputs: Vec<Matrix> =
        samples.iter().map(|s| patches(&model.config, &s.image).unwrap()).collect();
    // Half the degree of the set that this model needs without crossings.
    let context = Context::new(presets::get("lev15").unwrap(), &Device::cpu()).unwrap();
    let server = HybridServer::new(&model, &context, &MachineCosts::nominal(15), None).unwrap();
    let cost = server.plan().cost(context.params()).unwrap();
    let serve = |channel| -> Result<u64, Error> {
        let mut link = Link::new(channel, Role::Server, DEADLINE);
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut pairing = Pairing::new(&mut link, &mut rng)?;
        let session = server.setup(&mut link, &mut pairing)?;
        for _ in &inputs {
            server.infer(&session, &mut link, &mut pairing, &mut rng)?;
        }
        Ok(link.traffic().sent)
    };
    let ask = |channel| -> Result<(Vec<Vec<f64>>, u64), Error> {
        let mut link = Link::new(channel, Role::Client, DEADLINE);
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let mut pairing = Pairing::new(&mut link, &mut rng)?;
        let client = HybridClient::setup(&context, &mut link, &mut pairing, &mut rng)?;
        let mut infer = |input| client.infer(input, &mut link, &mut pairing, &mut rng);
        let logits = inputs.iter().map(&mut infer).collect::<Result<_, _>>()?;
        Ok((logits, link.traffic().sent))
    };
    let [a, b] = Channel::pair();
    let (served, asked) = simulate(|| Ok(serve(a)), || Ok(ask(b))).unwrap();
    let (sent, (all, asked)) = (served.unwrap(), asked.unwrap());
    assert_eq!([sent, asked], cost.sent);
    // What the polynomials that a plan keeps may err by (tests/shipped.rs); functions on shares err by less.
    let tolerance = 2.8e-3 * model.config.logit_abs_max;
    for (sample, logits) in samples.iter().zip(&all) {
        let want: Vec<f64> =
            serde_json::from_value(reference["logits"][sample.index].clone()).unwrap();
        let error = logits.iter().zip(&want).map(|(g, w)| (g - w).abs()).fold(0.0, f64::max);
        println!("{}: {error:.2e} of {tolerance:.2e}", sample.index);
        assert!(error < tolerance, "{error} {logits:?} {want:?}");
        assert_eq!(argmax(logits), usize::from(sample.label));
    }
}
