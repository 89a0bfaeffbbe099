//! An encrypted inference inside one process, without a network: what `eval --backend he`, `profile` and `bench nn` run.

use crate::output::bar;
use crate::verbs::priced;
use anyhow::{Context as _, Result};
use cipherform_ckks::{
    Ciphertext, Context, Decryptor, Encoder, Encryptor, EvaluationKeys, KeyGenerator, SecretKey,
};
use cipherform_client::entropy;
use cipherform_exact::{LabelKeys, LabelSecret};
use cipherform_nn::exec::Monitor;
use cipherform_nn::{HeModel, Matrix, Mode, Model, argmax};
use cipherform_profile::{Recording, record};
use rand_chacha::ChaCha20Rng;

/// Keys of both sides and the server's model.
pub(crate) struct Session {
    pub(crate) model: HeModel,
    pub(crate) keys: EvaluationKeys,
    /// Of a plan that answers with a label.
    label: Option<(LabelSecret, LabelKeys)>,
    secret: SecretKey,
    rng: ChaCha20Rng,
}

/// What comes out.
pub(crate) enum Answer {
    Logits(Vec<f64>),
    Label(usize),
}

impl Answer {
    pub(crate) fn label(&self) -> usize {
        match self {
            Self::Logits(logits) => argmax(logits),
            Self::Label(label) => *label,
        }
    }

    /// None where only the label came out.
    pub(crate) fn logits(&self) -> Option<&[f64]> {
        match self {
            Self::Logits(logits) => Some(logits),
            Self::Label(_) => None,
        }
    }
}

impl Session {
    /// Plans the model and makes every key of the plan.
    pub(crate) fn new(model: &Model, context: &Context, mode: Mode) -> Result<Self> {
        if mode == Mode::Label {
            cipherform_exact::check_built()?;
        }
        let model = priced(model, context, mode)?;
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
        let label = match model.description().plan().label_step(context.params()) {
            Some(step) => {
                let label = LabelSecret::new(&secret)?;
                let seeded = label.keys(&step, &mut rng)?;
                Some((label, seeded.expand()?))
            }
            None => None,
        };
        Ok(Self { model, keys, label, secret, rng })
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

    /// Runs one encrypted input and decrypts the answer.
    pub(crate) fn infer(
        &mut self,
        input: &Matrix,
        monitor: &mut dyn Monitor<Ciphertext>,
    ) -> Result<(Answer, Recording)> {
        let inputs = self.encrypt(input)?;
        let length = self.model.length(input.rows())?;
        let plan = self.model.description().plan();
        let step = plan.label_step(self.model.params());
        if let (Some((secret, keys)), Some(step)) = (&self.label, step) {
            let run = || self.model.run_label(&self.keys, keys, inputs, &length, monitor);
            let (result, recording) = record(run);
            return Ok((Answer::Label(result?.decrypt(&step, secret)?), recording));
        }
        let (result, recording) = record(|| self.model.run(&self.keys, inputs, &length, monitor));
        let result = result?;
        let first = result.first().context("the program has no output")?;
        let slots = self.decrypt(first)?;
        Ok((Answer::Logits(self.model.description().decode(&slots)?), recording))
    }

    /// Decrypts all slots: the key owner's view.
    pub(crate) fn decrypt(&self, ciphertext: &Ciphertext) -> Result<Vec<cipherform_nn::Complex64>> {
        let context = self.model.context();
        let plaintext = Decryptor::new(context, &self.secret)?.decrypt(ciphertext)?;
        Ok(Encoder::new(context).decode(&plaintext)?)
    }
}
