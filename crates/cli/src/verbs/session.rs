//! An encrypted inference inside one process, without a network: what `eval --backend he`, `profile` and `bench nn` run.

use crate::output::bar;
use crate::verbs::priced;
use anyhow::{Context as _, Result};
use cipherform_ckks::{
    Ciphertext, Context, Decryptor, Encoder, Encryptor, EvaluationKeys, KeyGenerator, SecretKey,
};
use cipherform_client::entropy;
use cipherform_nn::exec::Monitor;
use cipherform_nn::{HeModel, Matrix, Model};
use cipherform_profile::{Recording, record};
use rand_chacha::ChaCha20Rng;

/// Keys of both sides and the server's model.
pub(crate) struct Session {
    pub(crate) model: HeModel,
    pub(crate) keys: EvaluationKeys,
    secret: SecretKey,
    rng: ChaCha20Rng,
}

impl Session {
    /// Plans the model and makes every key of the plan.
    pub(crate) fn new(model: &Model, context: &Context) -> Result<Self> {
        let model = priced(model, context)?;
        let mut rng = entropy()?;
        let generator = KeyGenerator::new(context);
        let secret = generator.secret_key(&mut rng)?;
        let specs = model.description().plan().keys();
        let progress = bar(specs.len() as u64, "evaluation keys");
        let mut keys = EvaluationKeys::new(context);
        for &spec in specs {
            keys.insert(generator.evaluation_key(&secret, spec, &mut rng)?.expand(context)?)?;
            progress.inc(1);
        }
        progress.finish_and_clear();
        Ok(Self { model, keys, secret, rng })
    }

    /// Encrypts, as the client does.
    pub(crate) fn encrypt(&mut self, input: &Matrix) -> Result<Vec<Ciphertext>> {
        let context = self.model.context();
        let description = self.model.description();
        let encryptor = Encryptor::with_secret_key(context, &self.secret)?;
        let encoder = Encoder::new(context);
        let mut inputs = Vec::new();
        for (slots, spec) in description.encode(input)?.iter().zip(description.plan().inputs()) {
            let scale = context.params().scale_at(spec.level);
            let plaintext = encoder.encode(slots, spec.level, scale)?;
            inputs.push(encryptor.encrypt(&plaintext, &mut self.rng)?);
        }
        Ok(inputs)
    }

    /// Runs one encrypted input and decrypts the logits.
    pub(crate) fn infer(
        &mut self,
        input: &Matrix,
        monitor: &mut dyn Monitor<Ciphertext>,
    ) -> Result<(Vec<f64>, Recording)> {
        let inputs = self.encrypt(input)?;
        let length = self.model.length(input.rows())?;
        let (result, recording) = record(|| self.model.run(&self.keys, inputs, &length, monitor));
        let result = result?;
        let first = result.first().context("the program has no output")?;
        let slots = self.decrypt(first)?;
        Ok((self.model.description().decode(&slots)?, recording))
    }

    /// Decrypts all slots: the key owner's view.
    pub(crate) fn decrypt(&self, ciphertext: &Ciphertext) -> Result<Vec<cipherform_nn::Complex64>> {
        let context = self.model.context();
        let plaintext = Decryptor::new(context, &self.secret)?.decrypt(ciphertext)?;
        Ok(Encoder::new(context).decode(&plaintext)?)
    }
}
